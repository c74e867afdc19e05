//! Which servers phaseboot believes, and what it says about the others.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::config::Policy;
use phaseboot::config::tls::{Pin, TlsTrust, certificates};
use phaseboot::provider::access::Access;
use phaseboot::provider::http::{self, Client, HttpError};
use phaseboot::provider::tls::TlsError;
use phaseboot::sys::arch::NATIVE;
use phaseboot::time::{Deadline, UnixTime};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use serde_json::json;

use crate::pki::{AUTHORITY, Pki, SERVER, Wanted};
use crate::proxies::proxy_on;
use crate::{Server, phasectl, run, site};

fn trust(pki: &Pki, roots: &[&str], pins: &[String]) -> TlsTrust {
    let policy = Policy::parse(&json!({"tls_roots": roots, "tls_pins": pins}).to_string()).unwrap();
    TlsTrust::read(pki.folder(), &policy, None).unwrap()
}

fn ask(url: &str, trust: &TlsTrust) -> Result<Vec<u8>, HttpError> {
    let client = Client::new(Deadline::after(Duration::from_secs(20)), trust, &Access::default());
    client.get_small(url, 1000).map(|(body, _)| body)
}

fn refused(url: &str, trust: &TlsTrust) -> TlsError {
    match ask(url, trust) {
        Err(HttpError::Tls(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_authority_counts_if_the_policy_names_it() {
    let Some((_folder, pki)) = site() else { return };
    pki.authority("other");
    let server = Server::start(&pki, "server.pem", "server", &[]);
    let url = server.url("/file");
    assert_eq!(ask(&url, &trust(&pki, &["ca.pem"], &[])).unwrap(), b"hello");
    assert_eq!(ask(&url, &trust(&pki, &["other.pem", "ca.pem"], &[])).unwrap(), b"hello");
    let by_name = format!("https://localhost:{}/file", server.port());
    assert_eq!(ask(&by_name, &trust(&pki, &["ca.pem"], &[])).unwrap(), b"hello");

    let error = refused(&url, &trust(&pki, &["other.pem"], &[]));
    assert!(matches!(error, TlsError::UnknownIssuer), "{error}");
    // Nor do the authorities of the public web know it.
    for public in [TlsTrust::default(), trust(&pki, &[], &[])] {
        let error = refused(&url, &public);
        assert!(matches!(error, TlsError::UnknownIssuer), "{error}");
        assert!(error.hint().contains("tls_roots"));
    }
    let log = server.stop();
    assert!(log.contains("TLS handshake failed: received fatal alert: Unknown"), "{log}");
}

#[test]
fn an_authority_of_the_same_name_is_another() {
    let Some((_folder, pki)) = site() else { return };
    let server = Server::start(&pki, "server.pem", "server", &[]);
    pki.authority("ca");
    let error = refused(&server.url("/file"), &trust(&pki, &["ca.pem"], &[]));
    assert!(matches!(error, TlsError::Certificate(_)), "{error}");
    assert!(error.to_string().contains("BadSignature"), "{error}");
}

#[test]
fn the_name_has_to_be_in_the_certificate() {
    let Some((_folder, pki)) = site() else { return };
    let extensions = "subjectAltName=DNS:boot.example,DNS:*.boot.example,IP:192.0.2.1";
    pki.issue("elsewhere", &Wanted { extensions, ..SERVER });
    let server = Server::start(&pki, "elsewhere.pem", "elsewhere", &[]);
    let ca = trust(&pki, &["ca.pem"], &[]);
    for (host, url) in [
        ("127.0.0.1", server.url("/file")),
        ("localhost", format!("https://localhost:{}/file", server.port())),
    ] {
        let line = refused(&url, &ca).to_string();
        let wanted = format!(
            "the server's certificate is not for {host}, but for boot.example, *.boot.example, 192.0.2.1"
        );
        assert_eq!(line, wanted);
    }
    pki.issue("nameless", &Wanted { extensions: "extendedKeyUsage=serverAuth", ..SERVER });
    let server = Server::start(&pki, "nameless.pem", "nameless", &[]);
    let line = refused(&server.url("/file"), &ca).to_string();
    assert!(line.ends_with("is not for 127.0.0.1, but for no name"), "{line}");
}

#[test]
fn the_clock_is_named_with_both_times() {
    let Some((_folder, pki)) = site() else { return };
    pki.issue("old", &Wanted { to: "20210203040506Z", ..SERVER });
    pki.issue("early", &Wanted { from: "20980101000000Z", ..SERVER });
    let ca = trust(&pki, &["ca.pem"], &[]);
    let before = UnixTime::now();
    match refused(&Server::start(&pki, "old.pem", "old", &[]).url("/file"), &ca) {
        TlsError::Expired { not_after, now } => {
            assert_eq!(not_after.to_string(), "2021-02-03T04:05:06Z");
            assert!(before <= now && now <= UnixTime::now());
        }
        other => panic!("{other}"),
    }
    match refused(&Server::start(&pki, "early.pem", "early", &[]).url("/file"), &ca) {
        TlsError::NotYetValid { not_before, now } => {
            assert_eq!(not_before.to_string(), "2098-01-01T00:00:00Z");
            assert!(before <= now && now <= UnixTime::now());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_clock_behind_the_build_time_counts_as_that() {
    let Some((_folder, pki)) = site() else { return };
    pki.issue("early", &Wanted { from: "20900101000000Z", to: "20910101000000Z", ..SERVER });
    let server = Server::start(&pki, "early.pem", "early", &[]);
    let policy = Policy::parse(r#"{"tls_roots":["ca.pem"]}"#).unwrap();
    let built = |time: &str| TlsTrust::read(pki.folder(), &policy, UnixTime::parse_rfc3339(time)).unwrap();
    let error = refused(&server.url("/file"), &built("2000-01-01T00:00:00Z"));
    assert!(matches!(error, TlsError::NotYetValid { .. }), "{error}");
    assert_eq!(ask(&server.url("/file"), &built("2090-06-01T00:00:00Z")).unwrap(), b"hello");
    let line = refused(&server.url("/file"), &built("2092-01-01T00:00:00Z")).to_string();
    assert!(line.contains("expired at 2091-01-01T00:00:00Z; the clock says 2092-01-01T00:00:00Z"), "{line}");
}

#[test]
fn a_certificate_for_something_else_is_refused() {
    let Some((_folder, pki)) = site() else { return };
    let extensions = "extendedKeyUsage=clientAuth\nsubjectAltName=IP:127.0.0.1";
    pki.issue("person", &Wanted { extensions, ..SERVER });
    let server = Server::start(&pki, "person.pem", "person", &[]);
    let error = refused(&server.url("/file"), &trust(&pki, &["ca.pem"], &[]));
    assert!(matches!(error, TlsError::Certificate(_)), "{error}");
}

/// `ca` issued `intermediate`, and that issued `leaf`.
fn with_intermediate(pki: &Pki) {
    pki.issue("intermediate", &AUTHORITY);
    pki.server("leaf", "intermediate");
    pki.chain("chain", &["leaf", "intermediate"]);
}

#[test]
fn the_server_sends_what_lies_between() {
    let Some((_folder, pki)) = site() else { return };
    with_intermediate(&pki);
    let ca = trust(&pki, &["ca.pem"], &[]);
    let server = Server::start(&pki, "chain.pem", "leaf", &[]);
    assert_eq!(ask(&server.url("/file"), &ca).unwrap(), b"hello");
    let server = Server::start(&pki, "leaf.pem", "leaf", &[]);
    let error = refused(&server.url("/file"), &ca);
    assert!(matches!(error, TlsError::UnknownIssuer), "{error}");

    pki.sign("intermediate", "intermediate-old", &Wanted { to: "20210101000000Z", ..AUTHORITY });
    pki.chain("chain-old", &["leaf", "intermediate-old"]);
    let server = Server::start(&pki, "chain-old.pem", "leaf", &[]);
    let error = refused(&server.url("/file"), &ca);
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
}

#[test]
fn a_pin_is_any_key_of_the_verified_path() {
    let Some((_folder, pki)) = site() else { return };
    with_intermediate(&pki);
    let server = Server::start(&pki, "chain.pem", "leaf", &[]);
    let url = server.url("/file");
    for name in ["leaf", "intermediate", "ca"] {
        let pinned = trust(&pki, &["ca.pem"], &[pki.pin("server"), pki.pin(name)]);
        assert_eq!(ask(&url, &pinned).unwrap(), b"hello", "{name}");
    }
    let error = refused(&url, &trust(&pki, &["ca.pem"], &[pki.pin("server")]));
    assert!(error.to_string().contains(&pki.pin("leaf")), "{error}");
    assert!(error.hint().contains("tls_pins"));
    match error {
        TlsError::NotPinned { server } => assert_eq!(server.to_string(), pki.pin("leaf")),
        other => panic!("{other}"),
    }
    // A pin is no substitute for a valid chain.
    pki.authority("other");
    let error = refused(&url, &trust(&pki, &["other.pem"], &[pki.pin("leaf")]));
    assert!(matches!(error, TlsError::UnknownIssuer), "{error}");
}

/// What a manifest names is held against its hash: a mirror needs a valid chain and no pinned key.
#[test]
fn artifacts_may_come_from_servers_that_are_not_pinned() {
    let Some((_folder, pki)) = site() else { return };
    let server = Server::start(&pki, "server.pem", "server", &[]);
    let download = |roots: &[&str]| {
        let trust = trust(&pki, roots, &[Pin::of(b"another key").to_string()]);
        let client = Client::new(Deadline::after(Duration::from_secs(20)), &trust, &Access::default());
        assert!(matches!(client.get_small(&server.url("/file"), 1000), Err(HttpError::Tls(_))));
        client.download(&server.url("/file"), http::Wanted::WHOLE).map(drop)
    };
    download(&["ca.pem"]).unwrap();
    pki.authority("other");
    assert!(matches!(download(&["other.pem"]), Err(HttpError::Tls(TlsError::UnknownIssuer))));
}

#[test]
fn a_pinned_certificate_that_is_only_presented_does_not_count() {
    let Some((_folder, pki)) = site() else { return };
    pki.authority("pinned");
    pki.issue("below-pinned", &Wanted { issuer: "pinned", ..AUTHORITY });
    pki.chain("foreign", &["server", "ca", "pinned", "below-pinned"]);
    let server = Server::start(&pki, "foreign.pem", "server", &[]);
    let pins = [pki.pin("pinned"), pki.pin("below-pinned")];
    for roots in [&["ca.pem"][..], &["ca.pem", "pinned.pem"], &["pinned.pem", "ca.pem"]] {
        let error = refused(&server.url("/file"), &trust(&pki, roots, &pins));
        assert!(matches!(error, TlsError::NotPinned { .. }), "{roots:?}: {error}");
    }
    let error = refused(&server.url("/file"), &trust(&pki, &["pinned.pem"], &pins));
    assert!(matches!(error, TlsError::UnknownIssuer), "{error}");
}

#[test]
fn the_pin_may_be_on_any_of_two_paths() {
    let Some((_folder, pki)) = site() else { return };
    with_intermediate(&pki);
    pki.authority("second");
    pki.sign("intermediate", "crossed", &Wanted { issuer: "second", ..AUTHORITY });
    pki.chain("both", &["leaf", "intermediate", "crossed"]);
    let server = Server::start(&pki, "both.pem", "leaf", &[]);
    let roots = ["ca.pem", "second.pem"];
    for name in ["ca", "second"] {
        assert_eq!(ask(&server.url("/file"), &trust(&pki, &roots, &[pki.pin(name)])).unwrap(), b"hello");
    }
    // Nobody issued below an authority that is not trusted.
    let error = refused(&server.url("/file"), &trust(&pki, &["ca.pem"], &[pki.pin("second")]));
    assert!(matches!(error, TlsError::NotPinned { .. }), "{error}");
}

/// A TLS server that answers every request with `answer`, whose records have NUL between them; at most 10
/// connections.
fn answering(pki: &Pki, versions: &[&'static SupportedProtocolVersion], answer: String) -> String {
    serving(pki, rustls::crypto::ring::default_provider(), versions, answer).0
}

fn serving(
    pki: &Pki,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    answer: String,
) -> (String, Arc<AtomicUsize>) {
    let read = |name: &str| fs::read(pki.folder().join(name)).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            certificates(&read("server.pem")).unwrap(),
            PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    thread::spawn(move || {
        for stream in listener.incoming().take(10).flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                for record in answer.split('\0') {
                    stream.conn.writer().write_all(record.as_bytes()).unwrap();
                }
                if stream.flush().is_err() {
                    break;
                }
            }
        }
    });
    (format!("https://127.0.0.1:{port}/"), connections)
}

#[test]
fn connections_are_kept() {
    let Some((_folder, pki)) = site() else { return };
    let ca = trust(&pki, &["ca.pem"], &[]);
    for version in rustls::ALL_VERSIONS {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned();
        let (url, connections) = serving(&pki, rustls::crypto::ring::default_provider(), &[version], answer);
        let client = Client::new(Deadline::after(Duration::from_secs(20)), &ca, &Access::default());
        for _ in 0..3 {
            assert_eq!(client.get_small(&url, 1000).unwrap().0, b"hello");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{version:?}");
    }
}

#[test]
fn tls_1_2_is_verified_as_well() {
    let Some((_folder, pki)) = site() else { return };
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let url = answering(&pki, &[&rustls::version::TLS12], answer.to_owned());
    assert_eq!(ask(&url, &trust(&pki, &["ca.pem"], &[pki.pin("ca")])).unwrap(), b"hello");
    let error = refused(&url, &trust(&pki, &["ca.pem"], &[Pin::of(b"").to_string()]));
    assert!(matches!(error, TlsError::NotPinned { .. }), "{error}");
    let error = refused(&url, &TlsTrust::default());
    assert!(matches!(error, TlsError::UnknownIssuer), "{error}");
}

#[test]
fn what_follows_an_answer_is_not_the_next_answer() {
    let Some((_folder, pki)) = site() else { return };
    // More than rustls takes at once of what has come.
    let page = "x".repeat(15_000);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\0HTTP/1.1 200 OK\r\nContent-Length: 15000\r\n\r\n{page}"
    );
    let url = answering(&pki, rustls::ALL_VERSIONS, answer);
    let ca = trust(&pki, &["ca.pem"], &[]);
    let client = Client::new(Deadline::after(Duration::from_secs(20)), &ca, &Access::default());
    for _ in 0..3 {
        assert_eq!(client.get_small(&url, 1000).unwrap().0, b"hello");
    }
}

#[test]
fn every_suite_that_is_offered_works_and_no_other_is() {
    let Some((_folder, pki)) = site() else { return };
    let ca = trust(&pki, &["ca.pem"], &[]);
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    for suite in rustls::crypto::ring::ALL_CIPHER_SUITES {
        let name = format!("{:?}", suite.suite());
        // The server's key is one of an elliptic curve.
        if name.contains("ECDHE_RSA") {
            continue;
        }
        let default = rustls::crypto::ring::default_provider();
        let only = CryptoProvider { cipher_suites: vec![*suite], ..default };
        let (url, _) = serving(&pki, only, &[suite.version()], answer.to_owned());
        let found = ask(&url, &ca);
        if name.contains("CHACHA20") && cfg!(target_arch = "x86_64") {
            let line = found.unwrap_err().to_string();
            assert!(line.contains("HandshakeFailure"), "{name}: {line}");
        } else {
            assert_eq!(found.unwrap(), b"hello", "{name}");
        }
    }
}

#[test]
fn https_comes_through_a_proxy() {
    let Some((_folder, pki)) = site() else { return };
    let server = Server::start(&pki, "server.pem", "server", &[]);
    let (port, heads) = proxy_on("127.0.0.1:0", true);
    let access = Access { proxy: Some(format!("http://127.0.0.1:{port}")), ..Access::default() };
    let ca = trust(&pki, &["ca.pem"], &[]);
    let client = Client::new(Deadline::after(Duration::from_secs(20)), &ca, &access);
    assert_eq!(client.get_small(&server.url("/file"), 1000).unwrap().0, b"hello");
    let heads = heads.lock().unwrap();
    let wanted = format!("CONNECT 127.0.0.1:{} ", server.port());
    assert!(heads.len() == 1 && heads[0].starts_with(&wanted), "{heads:?}");
}

#[test]
fn https_never_becomes_http() {
    let Some((_folder, pki)) = site() else { return };
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let url = answering(&pki, rustls::ALL_VERSIONS, answer);
    let error = ask(&url, &trust(&pki, &["ca.pem"], &[])).unwrap_err();
    assert!(matches!(error, HttpError::RedirectTarget(_)), "{error}");
    plain.set_nonblocking(true).unwrap();
    assert!(plain.accept().is_err(), "it was asked without TLS");
}

#[test]
fn a_manifest_needs_tls_if_the_policy_names_servers() {
    let Some((_folder, pki)) = site() else { return };
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}/", plain.local_addr().unwrap().port());
    for named in [trust(&pki, &["ca.pem"], &[]), trust(&pki, &[], &[pki.pin("ca")])] {
        let error = ask(&url, &named).unwrap_err();
        assert!(matches!(error, HttpError::WithoutTls), "{error}");
    }
    plain.set_nonblocking(true).unwrap();
    assert!(plain.accept().is_err(), "it was asked all the same");
    plain.set_nonblocking(false).unwrap();
    // An artifact is held against its hash, wherever it comes from.
    thread::spawn(move || {
        for mut stream in plain.incoming().take(2).flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
        }
    });
    assert_eq!(ask(&url, &TlsTrust::default()).unwrap(), b"x");
    let client = Client::new(
        Deadline::after(Duration::from_secs(20)),
        &trust(&pki, &["ca.pem"], &[]),
        &Access::default(),
    );
    assert_eq!(client.download(&url, http::Wanted::WHOLE).unwrap().total, Some(1));
}

#[test]
fn a_server_without_tls_is_said_to_be_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().take(2).flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let error = refused(&format!("https://127.0.0.1:{port}/"), &TlsTrust::default());
    assert!(matches!(error, TlsError::Handshake(_)), "{error}");
    assert!(error.hint().contains("TLS 1.2 or 1.3"));
}

#[test]
fn a_handshake_that_stalls_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let since = Instant::now();
    let client =
        Client::new(Deadline::after(Duration::from_secs(2)), &TlsTrust::default(), &Access::default());
    let error = client.get_small(&url, 1000).unwrap_err();
    assert!(matches!(error, HttpError::Transport(ureq::Error::Timeout(_))), "{error:?}");
    assert!(since.elapsed() < Duration::from_secs(5));
}

/// A trust folder, and a signed manifest of kernel and initramfs in `www`.
#[test]
fn a_handshake_that_drips_ends_in_time() {
    let Some((_folder, pki)) = site() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/file", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().take(1).flatten() {
            // A handshake record of 16 kB, of which a byte comes now and then, for 15 s at most.
            let mut alive = stream.write_all(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xf0").is_ok();
            for _ in 0..50 {
                thread::sleep(Duration::from_millis(300));
                alive = alive && stream.write_all(b"\0").is_ok();
            }
        }
    });
    let started = Instant::now();
    let client = Client::new(
        Deadline::after(Duration::from_secs(3)),
        &trust(&pki, &["ca.pem"], &[]),
        &Access::default(),
    );
    let error = client.get_small(&url, 1000).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{error} after {:?}", started.elapsed());
}

fn publish(pki: &Pki, policy: &serde_json::Value) {
    let at = pki.folder();
    fs::create_dir_all(at.join("trust/keys")).unwrap();
    fs::create_dir_all(at.join("trust/tls")).unwrap();
    for name in ["ca", "server"] {
        fs::copy(at.join(format!("{name}.pem")), at.join(format!("trust/tls/{name}.pem"))).unwrap();
    }
    fs::write(at.join("trust/policy.json"), policy.to_string()).unwrap();
    fs::write(at.join("initrd"), vec![9; 10_000]).unwrap();
    let mut kernel = match NATIVE {
        phaseboot::arch::Arch::X86_64 => {
            include_bytes!("../../src/image/testdata/debian-6.1-amd64.head").to_vec()
        }
        phaseboot::arch::Arch::Aarch64 => {
            include_bytes!("../../src/image/testdata/debian-6.1-arm64.head").to_vec()
        }
    };
    kernel.resize(70_000, 0);
    match NATIVE {
        phaseboot::arch::Arch::X86_64 => {
            let setup = (u32::from(kernel[0x1f1]) + 1) * 512;
            kernel[0x1f4..0x1f8].copy_from_slice(&((70_000 - setup) / 16).to_le_bytes());
        }
        phaseboot::arch::Arch::Aarch64 => {
            kernel[0x108..0x10c].copy_from_slice(&(70_000 - 0x1_0000_u32).to_le_bytes());
            kernel[0x130..0x134].fill(0);
        }
    }
    fs::write(at.join("kernel"), kernel).unwrap();
    let publish = format!(
        "publish --key mine.key --into www --channel stable --arch {NATIVE} --kernel kernel --initramfs initrd"
    );
    for line in ["keygen --out mine", &publish] {
        let output = phasectl(at, line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::rename(at.join("mine.pub"), at.join("trust/keys/mine.pub")).unwrap();
}

/// The last line of a `phaseboot fetch` that has to fail for want of a provider.
fn fetch_fails(at: &Path, url: &str) -> String {
    let line = format!("fetch --out none --provider {url} --trust trust");
    let since = Instant::now();
    let output = run(at, env!("CARGO_BIN_EXE_phaseboot"), &line);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(since.elapsed() < Duration::from_secs(3), "a certificate does not mend itself in seconds");
    assert!(!at.join("none").exists());
    said.lines().last().unwrap().to_owned()
}

#[test]
fn the_whole_command_fetches_over_https() {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    if routes.lines().count() < 2 {
        println!("skipped: without a route, phaseboot would ask this network for a lease");
        return;
    }
    let Some((_folder, pki)) = site() else { return };
    let at = pki.folder();
    publish(&pki, &json!({"tls_roots": ["ca.pem"], "tls_pins": [pki.pin("server")]}));
    let server = Server::start(&pki, "server.pem", "server", &[]);
    let line = format!("fetch --out got --provider {} --trust trust", server.url(""));
    // The kernel hands `https_proxy=` on its command line to PID 1 as environment.
    let output = Command::new(env!("CARGO_BIN_EXE_phaseboot"))
        .current_dir(at)
        .env("https_proxy", "http://127.0.0.1:9")
        .args(line.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(at.join("got/kernel")).unwrap(), fs::read(at.join("kernel")).unwrap());
    assert_eq!(fs::read(at.join("got/initramfs")).unwrap(), vec![9; 10_000]);

    let policy = |policy: serde_json::Value| {
        fs::write(at.join("trust/policy.json"), policy.to_string()).unwrap();
    };
    let url = server.url("");
    policy(json!({"tls_roots": ["ca.pem"], "tls_pins": [Pin::of(b"").to_string()]}));
    let line = fetch_fails(at, &url);
    assert!(
        line.contains(&pki.pin("server")) && line.contains("tls_pins; if this is the right server"),
        "{line}"
    );
    policy(json!({}));
    let line = fetch_fails(at, &url);
    assert!(line.contains("no trusted authority issued") && line.contains("tls_roots"), "{line}");
    policy(json!({"tls_roots": ["ca.pem"]}));
    pki.issue("old", &Wanted { to: "20210203040506Z", ..SERVER });
    let old = Server::start(&pki, "old.pem", "old", &[]);
    let line = fetch_fails(at, &old.url(""));
    assert!(line.contains("expired at 2021-02-03T04:05:06Z; the clock says 20"), "{line}");
    pki.issue("elsewhere", &Wanted { extensions: "subjectAltName=DNS:boot.example", ..SERVER });
    let elsewhere = Server::start(&pki, "elsewhere.pem", "elsewhere", &[]);
    let line = fetch_fails(at, &elsewhere.url(""));
    assert!(line.contains("not for 127.0.0.1, but for boot.example; use a name in the URL"), "{line}");

    let line = fetch_fails(at, &url.replace("https:", "http:"));
    assert!(line.contains("only taken over https; give the provider as an https:// URL"), "{line}");

    policy(json!({"tls_roots": ["absent.pem"]}));
    let output =
        run(at, env!("CARGO_BIN_EXE_phaseboot"), &format!("fetch --out none --provider {url} --trust trust"));
    assert_eq!(output.status.code(), Some(13));
    assert!(String::from_utf8(output.stderr).unwrap().contains("trust/tls/absent.pem"));
}
