//! Through a proxy: a small one that counts, and tinyproxy.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::paths::Paths;
use phaseboot::provider::access::Access;

use crate::port::Port;
use crate::proxies::proxy_on;
use crate::{published, published_of};

fn access(proxy: String) -> Access {
    Access { proxy: Some(proxy), paths: Paths::under(crate::NOWHERE), ..Access::default() }
}

/// A proxy that serves at most 50 connections; the head of each request it got.
fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    proxy_on("127.0.0.1:0", true)
}

#[test]
fn http_asks_the_proxy_for_whole_urls() {
    let published = published(&["kernel"]);
    let (port, heads) = proxy();
    let access = access(format!("http://us%40er:secret@127.0.0.1:{port}"));
    published.fetch_over(&access, Duration::from_secs(20)).unwrap();
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 4, "loopback addresses go through the proxy too");
    let start = format!(
        "GET {} HTTP/1.1\r\nProxy-Authorization: Basic dXNAZXI6c2VjcmV0\r\n",
        published.server.url(crate::MANIFEST)
    );
    assert!(heads[0].starts_with(&start), "{}", heads[0]);
}

#[test]
fn a_proxy_may_have_an_ipv6_address() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6");
        return;
    }
    let nobody = Port::on(Ipv4Addr::LOCALHOST);
    let published = published(&[&format!("https://{}/kernel", nobody.address), "kernel"]);
    let (port, heads) = proxy_on("[::1]:0", true);
    let access = access(format!("http://user:p%40ss%3aword@[::1]:{port}/"));
    published.fetch_over(&access, Duration::from_secs(20)).unwrap();
    let heads = heads.lock().unwrap();
    assert!(heads[0].contains("Proxy-Authorization: Basic dXNlcjpwQHNzOndvcmQ=\r\n"), "{}", heads[0]);
    let tunnel = heads.iter().find(|head| head.starts_with("CONNECT ")).unwrap();
    assert!(tunnel.contains("dXNlcjpwQHNzOndvcmQ="), "{tunnel}");
}

#[test]
fn https_goes_through_a_tunnel() {
    // There is no TLS behind it: that the handshake is tried with the server itself is what is shown.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = plain.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in plain.incoming().take(10).flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let published = published(&[&format!("https://{server}/kernel")]);
    let (port, heads) = proxy();
    let access = access(format!("http://127.0.0.1:{port}"));
    let error = published.fetch_over(&access, Duration::from_secs(20)).unwrap_err();
    assert!(error.line().to_string().contains("the TLS handshake failed"), "{}", error.line());
    let heads = heads.lock().unwrap();
    assert!(
        heads.iter().any(|head| head.starts_with(&format!("CONNECT {server} HTTP/1.1\r\n"))),
        "{heads:?}"
    );
}

#[test]
fn a_proxy_that_makes_no_tunnel_is_not_waited_for() {
    type Case = (&'static str, &'static [u8], u64);
    // What it answers to CONNECT, and after how many milliseconds each byte comes.
    let drips = b"HTTP/1.1 200 OK\r\nX: xxxxxxxxxxxxxxxxxxx";
    let cases: [Case; 5] = [
        ("the proxy (phase.proxy) fails: it does not answer in time", drips, 300),
        ("the proxy (phase.proxy) fails: it does not answer in time", b"", 0),
        (
            "the proxy (phase.proxy) fails: proxy server responded 407",
            b"HTTP/1.1 407 Auth\r\nContent-Length: 1\r\n\r\nx",
            0,
        ),
        ("the proxy (phase.proxy) fails: proxy server responded 403", b"HTTP/1.1 403 Forbidden\r\n\r\n", 0),
        ("it took too long", b"HTTP/1.1 200 OK\r\n\r\n", 0),
    ];
    crate::each(cases, |(words, answer, pause)| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut client in listener.incoming().take(10).flatten() {
                thread::spawn(move || {
                    let _ = client.read(&mut [0; 4096]);
                    for byte in answer.chunks(1) {
                        thread::sleep(Duration::from_millis(pause));
                        let _ = client.write_all(byte);
                    }
                    thread::sleep(Duration::from_secs(10));
                });
            }
        });
        let published = published(&["kernel"]);
        let access = access(format!("http://127.0.0.1:{port}"));
        let started = Instant::now();
        let provider = "https://provider.example/";
        let error = published.fetch_of(provider, &access, Duration::from_secs(6)).unwrap_err();
        let line = error.line().to_string();
        // The last try of several may have had no time left for an answer.
        let has_words = line.contains(words) || (words.contains("in time") && line.contains("too long"));
        assert!(has_words && line.contains("provider.example"), "{words}: {line}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    });
}

#[test]
fn a_tunnel_stands_within_ten_seconds() {
    let published = published(&["https://provider.example/kernel"]);
    let (port, heads) = proxy_on("127.0.0.1:0", false);
    let error = published
        .fetch_over(&access(format!("http://127.0.0.1:{port}")), Duration::from_secs(14))
        .unwrap_err();
    let line = error.line().to_string();
    assert!(line.contains("the proxy (phase.proxy) fails: it does not answer in time"), "{line}");
    let heads = heads.lock().unwrap();
    assert_eq!(heads.iter().filter(|head| head.starts_with("CONNECT ")).count(), 2, "asked again after 10 s");
}

#[test]
fn a_proxy_that_is_not_there_is_not_passed_by() {
    let published = published(&["kernel"]);
    let nobody = Port::on(Ipv4Addr::LOCALHOST);
    let unused = nobody.address;
    for (proxy, words) in [
        (
            format!("http://{unused}"),
            format!(
                "the proxy (phase.proxy) fails: no connection to {unused}: connection refused; check phase.proxy"
            ),
        ),
        ("socks5://127.0.0.1:9".to_owned(), "phase.proxy is no http:// URL".to_owned()),
    ] {
        let error = published.fetch_over(&access(proxy), Duration::from_secs(3)).unwrap_err();
        assert!(error.line().to_string().contains(&words), "{}", error.line());
    }
    assert_eq!(published.server.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn tinyproxy_serves_us() {
    let folder = tempfile::tempdir().unwrap();
    let held = Port::on(Ipv4Addr::LOCALHOST);
    let port = held.address.port();
    let config = format!("Port {port}\nListen 127.0.0.1\nTimeout 30\nMaxClients 20\nBasicAuth user secret\n");
    std::fs::write(folder.path().join("conf"), config).unwrap();
    let started = Command::new("tinyproxy")
        .args(["-d", "-c"])
        .arg(folder.path().join("conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else {
        println!("skipped: no tinyproxy");
        return;
    };
    let ready = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let published = published_of(crate::file(3, 3_000_000), &["kernel"]);
    let right = published
        .fetch_over(&access(format!("http://user:secret@127.0.0.1:{port}")), Duration::from_secs(20));
    let wrong =
        published.fetch_over(&access(format!("http://user:guess@127.0.0.1:{port}")), Duration::from_secs(20));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ready);
    right.unwrap();
    let line = wrong.unwrap_err().line().to_string();
    assert!(line.contains("HTTP status 40"), "{line}");
}
