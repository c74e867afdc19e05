//! A provider of manifests for tests: what it serves, how well, and the keys behind it.

#![allow(dead_code, reason = "each test uses its part")]

#[path = "signed.rs"]
mod signing;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use phaseboot::manifest::keys::hex;
use phaseboot::sys::arch::NATIVE;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use signing::{key, signed};

/// The key that is trusted; others are strangers.
pub(crate) const OURS: u8 = 7;

/// Makes `folder` one that trusts [`OURS`].
pub(crate) fn trust_folder(folder: &Path) {
    std::fs::create_dir(folder.join("keys")).unwrap();
    std::fs::write(folder.join("keys/k.pub"), hex(key(OURS).verifying_key().as_bytes())).unwrap();
}

/// What a server does with every request.
#[derive(Clone)]
pub(crate) struct Manner {
    /// For the manifest and the key list; `None` is 404.
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) keys: Option<Vec<u8>>,
    /// Before each answer.
    pub(crate) delay: Duration,
    /// The first requests get status 503.
    pub(crate) failures: usize,
    /// The `Retry-After` that goes with it, in seconds.
    pub(crate) later: Option<u32>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Serves at most 200 connections, until the test process ends.
    pub(crate) fn start(listener: TcpListener, manner: Manner) -> Self {
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().take(200).flatten() {
                let (manner, count) = (manner.clone(), count.clone());
                thread::spawn(move || serve(stream, &manner, &count));
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, manner: &Manner, requests: &AtomicUsize) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let _ = lines.by_ref().take_while(|line| !line.is_empty()).count();
        let number = requests.fetch_add(1, Ordering::Relaxed);
        thread::sleep(manner.delay);
        let body = if first.contains(&format!("/stable/{NATIVE}/manifest.signed.json ")) {
            manner.manifest.as_ref()
        } else if first.contains(&format!("/stable/{NATIVE}/keys.json ")) {
            manner.keys.as_ref()
        } else {
            None
        };
        let (status, body) = match body {
            _ if number < manner.failures => ("503 Service Unavailable", &b""[..]),
            Some(body) => ("200 OK", body.as_slice()),
            None => ("404 Not Found", &b""[..]),
        };
        let later = manner.later.filter(|_| status.starts_with("503"));
        let later = later.map_or(String::new(), |seconds| format!("Retry-After: {seconds}\r\n"));
        let head = format!("HTTP/1.1 {status}\r\n{later}Content-Length: {}\r\n\r\n", body.len());
        if stream.write_all(&[head.as_bytes(), body].concat()).is_err() {
            return;
        }
    }
}

pub(crate) fn content(version: u64) -> Value {
    let spec = json!({"hash": format!("sha256:{}", hex(&Sha256::digest(b"x"))), "size": 1, "urls": ["x"]});
    json!({
        "version": "0.1", "manifest_version": version, "channel": "stable", "arch": NATIVE.name(),
        "artifacts": {"kernel": spec, "initramfs": spec},
    })
}

/// Serves a manifest of this version, signed by this key.
pub(crate) fn good(version: u64, seed: u8) -> Manner {
    let manifest = Some(signed(&content(version), seed));
    Manner { manifest, keys: None, delay: Duration::ZERO, failures: 0, later: None }
}

pub(crate) fn after(milliseconds: u64, manner: Manner) -> Manner {
    Manner { delay: Duration::from_millis(milliseconds), ..manner }
}

/// A key list that names one key.
pub(crate) fn key_list(version: u64, seed: u8) -> Vec<u8> {
    let named = BASE64_STANDARD.encode(key(seed).verifying_key().as_bytes());
    let content = json!({
        "kind": "keys", "version": "0.1", "keys_version": version, "threshold": 1, "keys": [{"key": named}],
        "revoked": [],
    });
    signed(&content, OURS)
}
