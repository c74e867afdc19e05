//! The server, as curl and clients that are slow or hostile see it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{refused, run};

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_phasectl"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, url) = line.trim().split_once(" on ").unwrap();
        Self { url: url.to_owned(), child }
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Status, headers in lower case, and body, as curl sees them.
    fn get(&self, path: &str, more: &[&str]) -> (u16, String, Vec<u8>) {
        let output = Command::new("curl")
            .args(["--silent", "--include", "--path-as-is", "--max-time", "20"])
            .args(more)
            .arg(format!("{}{path}", self.url))
            .output()
            .unwrap();
        let at = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(output.stdout[..at].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, output.stdout[at + 4..].to_vec())
    }

    /// Ends the server as a service manager does, and returns its access log.
    fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("tree/sub/.git")).unwrap();
    fs::write(at("secret"), "secret").unwrap();
    fs::write(at("tree/sub/.git/config"), "secret").unwrap();
    fs::write(at("tree/.hidden"), "secret").unwrap();
    fs::write(at("tree/file"), (0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    fs::write(at("tree/sub/a b"), "blank").unwrap();
    symlink("../secret", at("tree/out")).unwrap();
    symlink("/etc", at("tree/etc")).unwrap();
    symlink("file", at("tree/in")).unwrap();
    folder
}

#[test]
fn files_are_served_and_nothing_else() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let content = fs::read(folder.path().join("tree/file")).unwrap();
    let (status, head, body) = server.get("/file", &[]);
    assert_eq!(status, 200);
    assert_eq!(body, content);
    assert!(head.contains("content-length: 400000") && head.contains("accept-ranges: bytes"), "{head}");
    assert_eq!(server.get("/in", &[]).2, content);
    assert_eq!(server.get("/sub/a%20b?x=/../../secret", &[]).2, b"blank");
    for path in [
        "/",
        "/none",
        "/sub",
        "/sub/",
        "/out",
        "/etc/passwd",
        "/.hidden",
        "/%2ehidden",
        "/sub/.git/config",
        "/../secret",
        "/sub/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret",
        "/sub/..%2f..%2fsecret",
        "/..%5csecret",
        "/%252e%252e/secret",
        "//etc/passwd",
        "/file%00",
        "/%",
        "/%zz",
        "/sub/%c0%ae%c0%ae/secret",
    ] {
        let (status, _, body) = server.get(path, &[]);
        assert_eq!(status, 404, "{path}");
        assert_eq!(body, b"no such file\n", "{path}");
    }
    let (status, head, _) = server.get("/file", &["--request", "DELETE"]);
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let log = server.stop();
    assert!(log.contains(" GET /file 200 400000 bytes in "), "{log}");
    assert!(log.contains(" GET /%2e%2e/secret 404 "), "{log}");
}

#[test]
fn parts_are_served() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let content = fs::read(folder.path().join("tree/file")).unwrap();
    for (range, start, end) in [
        ("0-0", 0, 1),
        ("0-399999", 0, 400_000),
        ("399999-", 399_999, 400_000),
        ("1000-", 1000, 400_000),
        ("300000-900000", 300_000, 400_000),
        ("-1", 399_999, 400_000),
        ("-900000", 0, 400_000),
        ("0-18446744073709551615", 0, 400_000),
    ] {
        let (status, head, body) = server.get("/file", &["--header", &format!("Range: bytes={range}")]);
        assert_eq!(status, 206, "{range}");
        assert!(
            head.contains(&format!("content-range: bytes {start}-{}/400000", end - 1)),
            "{range}: {head}"
        );
        assert!(head.contains(&format!("content-length: {}\r\n", end - start)), "{range}: {head}");
        assert!(body == content[start..end], "{range}");
    }
    for range in ["400000-", "400000-400001", "-0", "99999999999999999999-"] {
        let (status, head, _) = server.get("/file", &["--header", &format!("Range: bytes={range}")]);
        assert_eq!(status, 416, "{range}");
        assert!(head.contains("content-range: bytes */400000"), "{range}: {head}");
    }
    for range in ["lines=0-1", "bytes=5-1", "bytes=x", "bytes=0-1,5-6"] {
        let (status, _, body) = server.get("/file", &["--header", &format!("Range: {range}")]);
        assert_eq!((status, body.len()), (200, 400_000), "{range}");
    }
    // curl's own way to go on after a break.
    fs::write(folder.path().join("part"), &content[..123_456]).unwrap();
    let url = format!("{}/file", server.url);
    assert!(run(folder.path(), "curl", &["-s", "-C", "-", "-o", "part", &url]).status.success());
    assert!(fs::read(folder.path().join("part")).unwrap() == content);
}

#[test]
fn conditions_are_kept() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let (status, head, body) = server.get("/file", &["--head"]);
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 400000"), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");

    let status = |headers: &[&str]| {
        let mut arguments = Vec::new();
        for header in headers {
            arguments.extend(["--header", header]);
        }
        server.get("/file", &arguments).0
    };
    let (same, listed) = (format!("If-None-Match: {tag}"), format!("If-None-Match: \"x\", W/{tag}"));
    assert_eq!(status(&[&same]), 304);
    assert_eq!(status(&[&listed]), 304);
    assert_eq!(status(&["If-None-Match: *"]), 304);
    assert_eq!(status(&["If-None-Match: \"x\""]), 200);
    assert_eq!(status(&[&same, "Range: bytes=0-1"]), 304);
    let matching = format!("If-Range: {tag}");
    assert_eq!(status(&[&matching, "Range: bytes=0-1"]), 206);
    assert_eq!(status(&["If-Range: \"x\"", "Range: bytes=0-1"]), 200);
    assert_eq!(status(&["If-Range: Sat, 01 Jan 2000 00:00:00 GMT", "Range: bytes=0-1"]), 200);

    fs::write(folder.path().join("tree/new"), "other").unwrap();
    fs::rename(folder.path().join("tree/new"), folder.path().join("tree/file")).unwrap();
    assert_eq!(status(&[&same]), 200);
    assert_eq!(status(&[&matching, "Range: bytes=0-1"]), 200);
}

#[test]
fn slow_clients_do_not_stop_others() {
    let folder = site();
    fs::File::create(folder.path().join("tree/large")).unwrap().set_len(64 << 20).unwrap();
    let server = Server::start(&folder.path().join("tree"));
    let mut slow = Vec::new();
    for request in ["GET /large HTTP/1.1\r\nHost: x\r\n\r\n", "GET /fi"] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            slow.push(stream);
        }
    }
    let since = Instant::now();
    assert_eq!(server.get("/file", &[]).2.len(), 400_000);
    assert!(since.elapsed() < Duration::from_secs(10));

    // What one of them takes later is still right.
    let mut first = BufReader::new(slow.swap_remove(0));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        first.read_line(&mut line).unwrap();
    }
    let got = std::io::copy(&mut first.by_ref().take(64 << 20), &mut std::io::sink()).unwrap();
    assert_eq!(got, 64 << 20);
    let since = Instant::now();
    let log = server.stop();
    assert!(since.elapsed() < Duration::from_secs(30), "the end does not wait for slow clients");
    assert!(log.contains(" GET /large 200 67108864 bytes in "), "{log}");
    assert!(log.contains(" of 67108864, cut off in "), "{log}");
}

#[test]
fn one_address_does_not_shut_out_others() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let slow: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    // Loopback has more addresses than one.
    let (status, _, body) = server.get("/file", &["--interface", "127.0.0.2"]);
    assert_eq!((status, body.len()), (200, 400_000));
    drop(slow);
    // What an address gives back it can have again.
    let since = Instant::now();
    let get = || run(folder.path(), "curl", &["-sf", "-o", "got", &format!("{}/file", server.url)]);
    while !get().status.success() {
        assert!(since.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(server.stop().contains(" it has 128 connections already"));
}

#[test]
fn one_connection_serves_many_requests() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let requests = "GET /sub/a%20b HTTP/1.1\r\nHost: x\r\n\r\nHEAD /file HTTP/1.1\r\nHost: x\r\n\r\n\
                    GET /sub/a%20b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(answers.matches("\r\n\r\nblank").count(), 2, "{answers}");
}

#[test]
fn what_cannot_be_served_is_said() {
    let folder = site();
    let at = folder.path();
    refused(at, "serve none", 1, "cannot serve none");
    refused(at, "serve secret", 1, "cannot serve secret");
    refused(at, "serve tree --listen nowhere", 2, "--listen");
    let server = Server::start(&at.join("tree"));
    refused(at, &format!("serve tree --listen {}", server.address()), 1, "cannot listen on");
}
