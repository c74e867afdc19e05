//! `phasectl serve` with TLS, as curl and clients that are slow or hostile see it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::pki::Pki;
use crate::{Server, phasectl, run, site};

/// Status, headers in lower case, and body, as curl sees them.
fn curl(at: &Path, url: &str, more: &str) -> (u16, String, Vec<u8>) {
    let line =
        format!("--silent --show-error --include --max-time 20 --noproxy * --cacert ca.pem {more} {url}");
    let output = run(at, "curl", &line);
    assert!(output.status.success(), "curl {line}: {}", String::from_utf8_lossy(&output.stderr));
    let end = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(output.stdout[..end].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, output.stdout[end + 4..].to_vec())
}

#[test]
fn curl_gets_files_and_parts_of_them() {
    let Some((_folder, pki)) = site() else { return };
    let at = pki.folder();
    let server = Server::start(&pki, "server.pem", "server", &[]);
    assert_eq!(server.line, format!("serving www on https://127.0.0.1:{}\n", server.port()));
    let url = server.url("/file");
    let (status, _, body) = curl(at, &url, "");
    assert_eq!((status, body.as_slice()), (200, &b"hello"[..]));
    for version in ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3"] {
        assert_eq!(curl(at, &url, version).0, 200, "{version}");
    }
    let (status, head, body) = curl(at, &url, "--range 1-3");
    assert_eq!((status, body.as_slice()), (206, &b"ell"[..]));
    assert!(head.contains("content-range: bytes 1-3/5"), "{head}");
    let (status, head, body) = curl(at, &url, "--head");
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 5"), "{head}");
    assert_eq!(curl(at, &server.url("/none"), "").0, 404);

    let plain =
        run(at, "curl", &format!("--silent --max-time 20 --noproxy * {}", url.replace("https", "http")));
    assert!(!plain.status.success(), "http on the port of https");
    let other = run(at, "curl", &format!("--silent --max-time 20 --noproxy * {url}"));
    assert_eq!(other.status.code(), Some(60), "curl does not know the authority");
    let log = server.stop();
    assert!(log.contains(" GET /file bytes=1-3 206 3 bytes in "), "{log}");
    assert!(log.contains(" HEAD /file 200 0 bytes in "), "{log}");
    assert_eq!(log.matches(" TLS handshake failed: ").count(), 2, "{log}");
}

#[test]
fn lines_are_json_if_asked_for() {
    let Some((_folder, pki)) = site() else { return };
    let server = Server::start(&pki, "server.pem", "server", &["--json"]);
    let start: Value = serde_json::from_str(&server.line).unwrap();
    assert_eq!(start["listening"], server.url(""));
    assert_eq!(start["folder"], "www");
    curl(pki.folder(), &server.url("/file"), "--range 1-3");
    curl(pki.folder(), &server.url("/n\"one"), "");
    TcpStream::connect(("127.0.0.1", server.port().parse().unwrap())).unwrap().write_all(b"GET / ").unwrap();
    thread::sleep(Duration::from_millis(500));
    let log = server.stop();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert_eq!(lines[0]["path"], "/file");
    assert_eq!(lines[0]["method"], "GET");
    assert_eq!(lines[0]["range"], "bytes=1-3");
    assert_eq!((&lines[0]["status"], &lines[0]["sent"]), (&Value::from(206), &Value::from(3)));
    assert!(lines[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!((&lines[1]["status"], &lines[1]["range"]), (&Value::from(404), &Value::Null));
    assert!(lines[2]["message"].as_str().unwrap().starts_with("TLS handshake failed: "), "{log}");
}

#[test]
fn handshakes_that_stall_hold_up_nobody() {
    let Some((_folder, pki)) = site() else { return };
    let server = Server::start(&pki, "server.pem", "server", &[]);
    let port: u16 = server.port().parse().unwrap();
    let since = Instant::now();
    let mut silent: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert_eq!(curl(pki.folder(), &server.url("/file"), "").0, 200);
    assert!(since.elapsed() < Duration::from_secs(5));
    // Each is closed when its time is over.
    silent[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent[0].read(&mut [0; 10]).unwrap(), 0);
    assert!((9..15).contains(&since.elapsed().as_secs()));
    // One that is under way does not delay the end.
    let _late = TcpStream::connect(("127.0.0.1", port)).unwrap();
    thread::sleep(Duration::from_millis(300));
    let since = Instant::now();
    let log = server.stop();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(log.contains("TLS handshake failed: it took too long"), "{log}");
    assert!(!log.contains("cut off"), "{log}");
}

#[test]
fn a_transfer_is_finished_before_the_end() {
    let Some((_folder, pki)) = site() else { return };
    let at = pki.folder();
    fs::File::create(at.join("www/large")).unwrap().set_len(32 << 20).unwrap();
    let server = Server::start(&pki, "server.pem", "server", &[]);
    let line = format!(
        "--silent --max-time 20 --noproxy * --cacert ca.pem --limit-rate 16M --output got {}",
        server.url("/large")
    );
    let mut transfer = Command::new("curl")
        .current_dir(at)
        .args(line.split_ascii_whitespace())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let got = || fs::metadata(at.join("got")).map_or(0, |got| got.len());
    let since = Instant::now();
    while got() == 0 && since.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(10));
    }
    assert_ne!(got(), 0);
    let log = server.stop();
    assert!(transfer.wait().unwrap().success(), "{log}");
    assert_eq!(got(), 32 << 20);
    assert!(log.contains(" GET /large 200 33554432 bytes in "), "{log}");
}

/// Starting has to fail with one line that has `part` in it.
fn refused(pki: &Pki, chain: &str, key: &str, part: &str) {
    let line = format!("serve www --listen 127.0.0.1:0 --tls-cert {chain} --tls-key {key}");
    let output = phasectl(pki.folder(), &line);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}: {said}");
    assert!(said.contains(part) && said.lines().count() == 1, "{line}: {said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn unusable_certificates_and_keys_are_said_to_be() {
    let Some((_folder, pki)) = site() else { return };
    let at = pki.folder();
    let write = |name: &str, content: &str| {
        fs::write(at.join(name), content).unwrap();
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    refused(&pki, "none.pem", "server.key", "cannot open none.pem");
    refused(&pki, "server.pem", "none.key", "cannot open none.key");
    refused(&pki, "www", "server.key", "www is a directory");
    refused(
        &pki,
        "server.pem",
        "ca.key",
        "private key ca.key is not that of the first certificate in server.pem",
    );
    pki.chain("turned", &["ca", "server"]);
    refused(&pki, "turned.pem", "server.key", "is not that of the first certificate in turned.pem");
    refused(&pki, "server.key", "server.key", "certificate server.key: it holds no PEM certificate");
    refused(&pki, "server.pem", "server.pem", "private key server.pem is open to others");
    write("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    refused(&pki, "garbage", "server.key", "certificate garbage: ");
    refused(&pki, "server.pem", "garbage", "garbage holds no PEM private key");
    write("cut", &fs::read_to_string(at.join("server.key")).unwrap()[..100]);
    refused(&pki, "server.pem", "cut", "private key cut is damaged");
    write("junk", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    refused(&pki, "server.pem", "junk", "private key junk: ");
    refused(&pki, "/dev/zero", "server.key", "/dev/zero has more than 1048576 bytes");
    let encrypt = "pkcs8 -topk8 -in server.key -out locked.key -passout pass:x";
    assert!(run(at, "openssl", encrypt).status.success());
    fs::set_permissions(at.join("locked.key"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(&pki, "server.pem", "locked.key", "locked.key holds no PEM private key without a passphrase");
    for mode in [0o604, 0o640, 0o644] {
        fs::set_permissions(at.join("server.key"), fs::Permissions::from_mode(mode)).unwrap();
        let part =
            format!("private key server.key is open to others (mode {mode:04o}); chmod 600 server.key");
        refused(&pki, "server.pem", "server.key", &part);
    }
    for alone in ["--tls-cert server.pem", "--tls-key server.key"] {
        let output = phasectl(at, &format!("serve www --listen 127.0.0.1:0 {alone}"));
        assert_eq!(output.status.code(), Some(2), "{alone}");
    }
}

#[test]
fn every_kind_of_key_serves() {
    let Some((_folder, pki)) = site() else { return };
    let at = pki.folder();
    for (kind, make) in [
        ("sec1", "ec -in server.key -out KIND.key"),
        ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out KIND.key"),
        ("ed25519", "genpkey -algorithm ed25519 -out KIND.key"),
    ] {
        assert!(run(at, "openssl", &make.replace("KIND", kind)).status.success(), "{kind}");
        fs::set_permissions(at.join(format!("{kind}.key")), fs::Permissions::from_mode(0o600)).unwrap();
        let request = format!("req -new -key {kind}.key -subj /CN={kind} -out {kind}.csr");
        assert!(run(at, "openssl", &request).status.success(), "{kind}");
        pki.sign(kind, kind, &crate::pki::SERVER);
        let server = Server::start(&pki, &format!("{kind}.pem"), kind, &[]);
        assert_eq!(curl(at, &server.url("/file"), "").2, b"hello", "{kind}");
    }
}
