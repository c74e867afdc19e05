//! Finding, verifying and fetching over real HTTP on loopback, from servers that are well, cut the
//! connection, lie about sizes, corrupt bytes or are not there.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may fail in any way, and print"
)]

mod faults;
mod hostile;
mod nginx;
mod parallel;
mod peer;
#[path = "../common/port.rs"]
mod port;
#[path = "../common/proxy.rs"]
mod proxies;
mod proxy;
mod resume;
#[path = "../common/signed.rs"]
mod signing;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use phaseboot::arch::Arch;
use phaseboot::config::Config;
use phaseboot::error::Exit;
use phaseboot::fetch;
use phaseboot::manifest::keys::{hex, key_id};
use phaseboot::manifest::{Sightings, Trust, VerifiedManifest};
use phaseboot::net::{self, Event, Uplink};
use phaseboot::paths::Paths;
use phaseboot::provider::access::Access;
use phaseboot::provider::http::Client;
use phaseboot::provider::{Found, Search, Uplinks, race};
use phaseboot::time::Deadline;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use port::Port;
use signing::{key, signed};

/// A root that is not there and that nobody can make: nothing is kept between fetches.
const NOWHERE: &str = "/proc/nowhere";

/// What the server does with a request for one path.
#[derive(Clone)]
enum Answer {
    /// The whole file or the range that was asked for.
    File(Vec<u8>),
    /// The first `at` bytes of every connection, then a closed connection; ranges are honoured.
    CutAt {
        file: Vec<u8>,
        at: usize,
    },
    /// As `CutAt`, but a range is answered with the whole file.
    CutWithoutRanges {
        file: Vec<u8>,
        at: usize,
    },
    /// A wrong first answer, then the right one.
    WrongOnce {
        wrong: Vec<u8>,
        right: Vec<u8>,
    },
    /// No Content-Length; the end of the connection is the end of the file.
    Unframed(Vec<u8>),
    /// Content-Length says more than is sent.
    LengthLies {
        file: Vec<u8>,
        length: usize,
    },
    /// A byte now and then, for ever.
    Drip,
    Redirect(String),
    Status(u16),
}

struct Server {
    port: u16,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    requests: Arc<AtomicUsize>,
    bytes_sent: Arc<AtomicUsize>,
}

impl Server {
    /// Serves until the test process ends; at most 200 connections.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let (requests, bytes_sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (table, count, sent) = (answers.clone(), requests.clone(), bytes_sent.clone());
        thread::spawn(move || {
            for stream in listener.incoming().take(200).flatten() {
                let (table, count, sent) = (table.clone(), count.clone(), sent.clone());
                thread::spawn(move || serve(stream, &table, &count, &sent));
            }
        });
        Self { port, answers, requests, bytes_sent }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn on(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }
}

fn serve(
    mut stream: TcpStream,
    answers: &Mutex<HashMap<String, Answer>>,
    requests: &AtomicUsize,
    sent: &AtomicUsize,
) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    requests.fetch_add(1, Ordering::Relaxed);
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let from: usize = header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let answer = {
        let mut answers = answers.lock().unwrap();
        let answer = answers.get(&path).cloned().unwrap_or(Answer::Status(404));
        if let Answer::WrongOnce { right, .. } = &answer {
            answers.insert(path, Answer::File(right.clone()));
        }
        answer
    };
    let part = |file: &[u8], from: usize| {
        let (status, range) = match from {
            0 => ("200 OK", String::new()),
            _ => (
                "206 Partial Content",
                format!("Content-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len()),
            ),
        };
        let length = file.len() - from;
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"v1\"\r\n{range}Connection: close\r\n\r\n"
        )
    };
    if matches!(answer, Answer::Drip) {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\nETag: \"v1\"\r\n\r\n";
        let mut alive = stream.write_all(head).is_ok();
        // A minute at most; every test is over before.
        for _ in 0..300 {
            if !alive {
                break;
            }
            thread::sleep(Duration::from_millis(200));
            alive = stream.write_all(b"x").is_ok();
        }
        return;
    }
    let (head, body) = match answer {
        Answer::Drip => return,
        Answer::File(file) | Answer::WrongOnce { wrong: file, .. } => {
            (part(&file, from), file[from..].to_vec())
        }
        Answer::CutAt { file, at } => (part(&file, from), file[from..file.len().min(from + at)].to_vec()),
        Answer::CutWithoutRanges { file, at } => (part(&file, 0), file[..at].to_vec()),
        Answer::Unframed(file) => ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned(), file),
        Answer::LengthLies { file, length } => {
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"), file)
        }
        Answer::Redirect(to) => (
            format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            vec![],
        ),
        Answer::Status(code) => {
            (format!("HTTP/1.1 {code} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), vec![])
        }
    };
    sent.fetch_add(body.len(), Ordering::Relaxed);
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Reading to the end keeps the close from becoming a reset that would discard what was sent.
    let _ = reader.read_to_end(&mut Vec::new());
}

/// Checks every case at the same time: they mostly wait.
fn each<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            let check = &check;
            scope.spawn(move || check(case));
        }
    });
}

/// Bytes that do not repeat.
fn file(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(size / 8 + 1).flatten().collect();
    bytes.truncate(size);
    bytes
}

struct Published {
    server: Server,
    trust: Trust,
    kernel: Vec<u8>,
    manifest: Value,
    _folder: tempfile::TempDir,
}

const MANIFEST: &str = "/stable/x86_64/manifest.signed.json";

const KEYS: &str = "/stable/x86_64/keys.json";

/// A key list that names one key, signed by the packed one.
fn key_list(version: u64, seed: u8, revoked: &[String]) -> Vec<u8> {
    let named = BASE64_STANDARD.encode(key(seed).verifying_key().as_bytes());
    let content = json!({
        "kind": "keys", "version": "0.1", "keys_version": version, "threshold": 1,
        "keys": [{"key": named}], "revoked": revoked,
    });
    signed(&content, 7)
}

/// A server with a signed manifest and both artifacts; `kernel_urls` are put into the manifest.
fn published(kernel_urls: &[&str]) -> Published {
    published_of(file(1, 400_000), kernel_urls)
}

/// The same with another kernel.
fn published_of(kernel: Vec<u8>, kernel_urls: &[&str]) -> Published {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("keys")).unwrap();
    std::fs::write(folder.path().join("keys/k.pub"), hex(key(7).verifying_key().as_bytes())).unwrap();
    let trust = Trust::read(folder.path()).unwrap();
    let server = Server::start();
    let initramfs = file(2, 150_000);
    let spec = |bytes: &[u8], urls: &[&str]| json!({"hash": format!("sha256:{}", hex(&Sha256::digest(bytes))), "size": bytes.len(), "urls": urls});
    let manifest = json!({
        "version": "0.1", "manifest_version": 1, "channel": "stable", "arch": "x86_64",
        "artifacts": {"kernel": spec(&kernel, kernel_urls), "initramfs": spec(&initramfs, &["initramfs"])},
    });
    server.on(MANIFEST, Answer::File(signed(&manifest, 7)));
    server.on("/stable/x86_64/kernel", Answer::File(kernel.clone()));
    server.on("/stable/x86_64/initramfs", Answer::File(initramfs));
    Published { server, trust, kernel, manifest, _folder: folder }
}

impl Published {
    fn find(
        &self,
        providers: &[String],
        client: &Client,
    ) -> Result<VerifiedManifest, phaseboot::error::Error> {
        let found = self.race(providers, &Access::default(), client.deadline(), &mut Sightings::default())?;
        Ok(found.manifest)
    }

    /// Looks for a manifest over the one uplink that there is, the system's own way.
    fn race(
        &self,
        providers: &[String],
        access: &Access,
        deadline: Deadline,
        sightings: &mut Sightings,
    ) -> Result<Found, phaseboot::error::Error> {
        let uplinks = Uplinks::default();
        let tell = uplinks.sink();
        tell(Event::Up(Uplink { complete: true, ..Uplink::default() }));
        tell(Event::Exhausted(net::Error::NoLease { links: "no other link".to_owned() }));
        let (providers, proxy) = (providers.to_vec(), access.proxy.clone());
        let config = Config { providers, proxy, ..Config::default() };
        let (trust, paths) = (self.trust.clone(), access.paths.clone());
        let search = Search { config, trust, paths, arch: Arch::X86_64, now: None, deadline };
        race::run(search, uplinks, sightings)
    }

    /// Fetches from this server, and holds the kernel against what was published.
    fn fetch(&self, seconds: u64) -> Result<(), phaseboot::error::Error> {
        self.fetch_under(Path::new(NOWHERE), Duration::from_secs(seconds))
    }

    /// The same on a machine whose files are below `root`.
    fn fetch_under(&self, root: &Path, limit: Duration) -> Result<(), phaseboot::error::Error> {
        self.fetch_over(&Access { paths: Paths::under(root), ..Access::default() }, limit)
    }

    fn fetch_over(&self, access: &Access, limit: Duration) -> Result<(), phaseboot::error::Error> {
        self.fetch_of(&self.server.url(""), access, limit)
    }

    /// The same from another provider that has what this one has.
    fn fetch_from(&self, provider: &str, limit: Duration) -> Result<(), phaseboot::error::Error> {
        self.fetch_of(provider, &Access { paths: Paths::under(NOWHERE), ..Access::default() }, limit)
    }

    fn fetch_of(
        &self,
        provider: &str,
        access: &Access,
        limit: Duration,
    ) -> Result<(), phaseboot::error::Error> {
        let providers = [provider.to_owned()];
        let found = self.race(&providers, access, Deadline::after(limit), &mut Sightings::default())?;
        let artifacts = fetch::artifacts(&found.manifest, &found.client, &access.paths)?;
        assert!(*artifacts.kernel.map().unwrap() == *self.kernel, "the kernel is another");
        assert_eq!(artifacts.initramfs.size(), 150_000);
        Ok(())
    }

    fn manifest_bytes(&self) -> Vec<u8> {
        signed(&self.manifest, 7)
    }

    fn fetch_exit(&self, seconds: u64) -> (Exit, String) {
        let error = self.fetch(seconds).unwrap_err();
        (error.exit(), error.line().to_string())
    }
}

#[test]
fn whole_files_arrive() {
    let published = published(&["kernel"]);
    published.fetch(20).unwrap();
    // The manifest, the key list that is not there, and two artifacts.
    assert_eq!(published.server.requests.load(Ordering::Relaxed), 4);
}

#[test]
fn a_cut_connection_is_continued_where_it_broke() {
    let published = published(&["kernel"]);
    let cut = Answer::CutAt { file: published.kernel.clone(), at: 90_000 };
    published.server.on("/stable/x86_64/kernel", cut);
    published.fetch(30).unwrap();
    let artifacts_and_manifest = 400_000 + 150_000 + 2_000;
    assert!(
        published.server.bytes_sent.load(Ordering::Relaxed) < artifacts_and_manifest,
        "bytes were sent twice"
    );
}

#[test]
fn a_server_that_always_closes_half_way_is_given_up() {
    let published = published(&["kernel"]);
    let cut = Answer::CutWithoutRanges { file: published.kernel.clone(), at: 200_000 };
    published.server.on("/stable/x86_64/kernel", cut);
    let (exit, line) = published.fetch_exit(30);
    assert_eq!(exit, Exit::NoProvider, "{line}");
    assert!(line.contains("kernel") && line.contains("of 400000 bytes"), "{line}");
}

#[test]
fn the_next_url_is_tried_when_one_fails() {
    for bad in [
        Answer::Status(404),
        Answer::Status(500),
        Answer::File(file(9, 400_000)),
        Answer::File(file(1, 399_999)),
        Answer::CutWithoutRanges { file: file(1, 400_000), at: 5 },
        Answer::Redirect("ftp://127.0.0.1/kernel".to_owned()),
    ] {
        let published = published(&["bad", "kernel"]);
        published.server.on("/stable/x86_64/bad", bad);
        published.fetch(30).unwrap();
    }
}

#[test]
fn bytes_corrupted_once_are_fetched_again() {
    let published = published(&["kernel"]);
    let mut wrong = published.kernel.clone();
    wrong[1234] ^= 1;
    published
        .server
        .on("/stable/x86_64/kernel", Answer::WrongOnce { wrong, right: published.kernel.clone() });
    published.fetch(30).unwrap();
}

#[test]
fn what_was_not_signed_does_not_match() {
    let flipped = |kernel: &[u8]| {
        let mut file = kernel.to_vec();
        file[77] ^= 0x80;
        file
    };
    let longer = |kernel: &[u8]| [kernel, b"x"].concat();
    let kernel = published(&[]).kernel;
    each(
        [
            ("SHA-256", Answer::File(flipped(&kernel))),
            ("it has 399999 bytes", Answer::File(kernel[..399_999].to_vec())),
            ("it has 400001 bytes", Answer::File(longer(&kernel))),
            ("longer than the 400000", Answer::Unframed(longer(&kernel))),
            ("it has 999999 bytes", Answer::LengthLies { file: kernel.clone(), length: 999_999 }),
        ],
        |(words, answer)| {
            let published = published(&["kernel"]);
            published.server.on("/stable/x86_64/kernel", answer);
            let (exit, line) = published.fetch_exit(30);
            assert_eq!(exit, Exit::ArtifactMismatch, "{line}");
            assert!(line.contains(words), "{words}: {line}");
        },
    );
}

#[test]
fn redirects_are_followed_but_not_in_circles() {
    let published = published(&["moved"]);
    published.server.on("/stable/x86_64/moved", Answer::Redirect("/stable/x86_64/kernel".to_owned()));
    published.fetch(20).unwrap();
    published.server.on("/stable/x86_64/moved", Answer::Redirect("moved".to_owned()));
    assert_eq!(published.fetch_exit(20).0, Exit::NoProvider);
}

#[test]
fn no_manifest_anywhere_names_every_url() {
    let published = published(&["kernel"]);
    let client =
        Client::new(Deadline::after(Duration::from_secs(20)), published.trust.tls(), &Access::default());
    let error = published.find(&[published.server.url("/elsewhere")], &client).unwrap_err();
    assert_eq!(error.exit(), Exit::NoProvider);
    let line = error.line().to_string();
    assert!(line.contains("/elsewhere/stable/x86_64/manifest.signed.json") && line.contains("404"), "{line}");
}

#[test]
fn a_provider_that_is_not_there_ends_within_the_deadline() {
    let published = published(&["kernel"]);
    let nobody = Port::on(Ipv4Addr::LOCALHOST);
    let client =
        Client::new(Deadline::after(Duration::from_secs(2)), published.trust.tls(), &Access::default());
    let started = std::time::Instant::now();
    let error = published.find(&[format!("http://{}/", nobody.address)], &client).unwrap_err();
    assert_eq!(error.exit(), Exit::NoProvider, "{}", error.line());
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_bad_manifest_elsewhere_does_not_block_a_good_one() {
    let published = published(&["kernel"]);
    published.server.on("/other/stable/x86_64/manifest.signed.json", Answer::File(b"<html>".to_vec()));
    let client =
        Client::new(Deadline::after(Duration::from_secs(20)), published.trust.tls(), &Access::default());
    let providers = [published.server.url("/other"), published.server.url("/")];
    assert_eq!(published.find(&providers, &client).unwrap().url(), published.server.url(MANIFEST));
    let error = published.find(&providers[..1], &client).unwrap_err();
    assert_eq!(error.exit(), Exit::ManifestMalformed, "{}", error.line());
}

#[test]
fn a_provider_that_drips_leaves_time_for_the_next() {
    let published = published(&["kernel"]);
    published.server.on("/slow.json", Answer::Drip);
    let client =
        Client::new(Deadline::after(Duration::from_secs(4)), published.trust.tls(), &Access::default());
    let providers = [published.server.url("/slow.json"), published.server.url("/")];
    assert_eq!(published.find(&providers, &client).unwrap().url(), published.server.url(MANIFEST));
}

#[test]
fn a_kernel_that_drips_ends_at_the_deadline() {
    let published = published(&["kernel"]);
    published.server.on("/stable/x86_64/kernel", Answer::Drip);
    let started = std::time::Instant::now();
    let (exit, line) = published.fetch_exit(3);
    assert_eq!(exit, Exit::NoProvider, "{line}");
    assert!(line.contains("kernel"), "{line}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn one_byte_a_connection_is_no_progress() {
    let published = published(&["kernel"]);
    published.server.on("/stable/x86_64/kernel", Answer::CutAt { file: published.kernel.clone(), at: 1 });
    let (exit, line) = published.fetch_exit(30);
    assert_eq!(exit, Exit::NoProvider, "{line}");
    assert!(published.server.requests.load(Ordering::Relaxed) < 20);
}

#[test]
fn a_manifest_larger_than_its_limit_is_refused() {
    let published = published(&["kernel"]);
    published.server.on(MANIFEST, Answer::Unframed(vec![b' '; (1 << 20) + 1]));
    let error = published.fetch(20).unwrap_err();
    assert_eq!(error.exit(), Exit::ManifestMalformed, "{}", error.line());
}

#[test]
fn a_key_list_says_who_signs() {
    let published = published(&["kernel"]);
    let server = &published.server;
    server.on(KEYS, Answer::File(key_list(1, 8, &[])));
    let (exit, line) = published.fetch_exit(20);
    assert_eq!(exit, Exit::NotTrusted, "{line}");
    assert!(line.contains("signed, but is not in the key list"), "{line}");

    server.on(MANIFEST, Answer::File(signed(&published.manifest, 8)));
    published.fetch(20).unwrap();
    server.on(KEYS, Answer::Status(404));
    assert_eq!(published.fetch_exit(20).0, Exit::NotTrusted);
}

#[test]
fn a_key_list_that_is_wrong_does_not_count_as_none() {
    let published = published(&["kernel"]);
    let stranger = signed(&json!({"kind": "keys", "version": "0.1"}), 9);
    let revokes_itself = key_list(1, 8, &[key_id(key(7).verifying_key().as_bytes())]);
    for (answer, expected) in [
        (Answer::File(b"<html>".to_vec()), Exit::ManifestMalformed),
        (Answer::File(signed(&published.manifest, 7)), Exit::ManifestMalformed),
        (Answer::Unframed(vec![b' '; (1 << 20) + 1]), Exit::ManifestMalformed),
        (Answer::File(stranger), Exit::NotTrusted),
        (Answer::File(revokes_itself), Exit::NotTrusted),
        (Answer::Status(500), Exit::NoProvider),
        (Answer::Status(401), Exit::NoProvider),
    ] {
        published.server.on(KEYS, answer);
        let (exit, line) = published.fetch_exit(20);
        assert_eq!(exit, expected, "{line}");
        assert!(line.contains("keys.json"), "{line}");
    }
    published.server.on(KEYS, Answer::Status(403));
    published.fetch(20).unwrap();
}

#[test]
fn what_was_seen_of_key_lists_is_kept_when_the_manifest_is_refused() {
    let published = published(&["kernel"]);
    let server = &published.server;
    let mut sightings = Sightings::default();
    let mut find = || {
        let deadline = Deadline::after(Duration::from_secs(20));
        let result = published.race(&[server.url("")], &Access::default(), deadline, &mut sightings);
        (result.map(drop).map_err(|error| error.exit()), sightings.all().keys_version)
    };
    server.on(KEYS, Answer::File(key_list(3, 8, &[])));
    assert_eq!(find(), (Err(Exit::NotTrusted), 3));
    server.on(KEYS, Answer::File(key_list(2, 7, &[])));
    assert_eq!(find(), (Err(Exit::NotForUs), 3));
    server.on(KEYS, Answer::Status(404));
    assert_eq!(find(), (Err(Exit::NotForUs), 3));
    server.on(KEYS, Answer::File(key_list(4, 7, &[])));
    assert_eq!(find(), (Ok(()), 4));
}

#[test]
fn an_artifact_over_https_says_why_tls_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().take(10).flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let published = published(&[&format!("https://127.0.0.1:{port}/kernel")]);
    let (exit, line) = published.fetch_exit(20);
    assert_eq!(exit, Exit::NoProvider, "{line}");
    assert!(
        line.contains("the TLS handshake failed: ") && line.contains("; check that the server speaks TLS"),
        "{line}"
    );
}
