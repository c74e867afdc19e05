//! Answers that no honest server sends: none of them may hang, panic, or be believed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::error::Exit;

use crate::peer::Peer;
use crate::{each, file, published_of};

/// Sends bytes as they are in answer to every request, for so many connections, and closes.
fn raw(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/kernel", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().take(50).flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&answer);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    url
}

#[test]
fn what_is_malformed_ends_in_one_line() {
    let (kernel, ok) = (file(3, 300_000), "HTTP/1.1 200 OK\r\n");
    let chunked = format!("{ok}Transfer-Encoding: chunked\r\n\r\n");
    let with = |head: &str, body: &[u8]| [head.as_bytes(), body].concat();
    each(
        [
            b"\r\n\r\n".to_vec(),
            b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n".to_vec(),
            b"HTTP/1.1 1000 High\r\nContent-Length: 0\r\n\r\n".to_vec(),
            b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
            b"HTTP/1.1 204 None\r\n\r\n".to_vec(),
            b"HTTP/1.1 304 Same\r\n\r\n".to_vec(),
            b"HTTP/1.1 301 Moved\r\n\r\n".to_vec(),
            b"HTTP/1.1 301 Moved\r\nLocation: \xff\xfe\r\n\r\n".to_vec(),
            b"HTTP/1.1 301 Moved\r\nLocation: http://[::1\r\n\r\n".to_vec(),
            b"HTTP/1.1 301 Moved\r\nLocation: http://a b/\r\n\r\n".to_vec(),
            b"HTTP/1.1 301 Moved\r\nLocation: //\r\n\r\n".to_vec(),
            b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:99999/\r\n\r\n".to_vec(),
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(5000).into_bytes(),
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(5000).into_bytes(),
            with(&format!("{ok}Content-Length: -1\r\n\r\n"), &kernel),
            with(&format!("{ok}Content-Length: 99999999999999999999999\r\n\r\n"), &kernel),
            with(&format!("{ok}Content-Length: 300000\r\nContent-Length: 5\r\n\r\n"), &kernel),
            with("HTTP/1.1 206 Part\r\nContent-Range: bytes 0-18446744073709551615/*\r\n\r\n", &kernel),
            with(&chunked, b"-1\r\nxx\r\n0\r\n\r\n"),
            with(&chunked, b"ffffffffffffffff\r\nxx"),
            with(&chunked, b"fffffffffffffffff\r\nxx"),
            with(&chunked, b"\r\n\r\n\r\n"),
            with(&chunked, b"5;ext=\xff\r\nhello\r\n0\r\n\r\n"),
            with(&chunked, b"5\r\nhelloworld"),
            with(&chunked, &[b'1'; 400_000]),
            with(&chunked, &[b"0\r\n".to_vec(), vec![b't'; 400_000]].concat()),
        ],
        |answer| {
            let words = String::from_utf8_lossy(&answer[..answer.len().min(90)]).into_owned();
            let started = Instant::now();
            let published = published_of(kernel.clone(), &[&raw(answer)]);
            let (exit, line) = published.fetch_exit(12);
            assert!(matches!(exit, Exit::NoProvider | Exit::ArtifactMismatch), "{words}: {line}");
            assert!(line.contains("kernel") && line.lines().count() == 1, "{words}: {line}");
            assert!(started.elapsed() < Duration::from_secs(14), "{words}: {:?}", started.elapsed());
        },
    );
}

#[test]
fn a_transfer_coding_outweighs_a_length() {
    let kernel = file(3, 300_000);
    let content = kernel.clone();
    let peer = Peer::start(move |request| {
        request.head("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n");
        request.body(format!("{:x}\r\n", content.len()).as_bytes());
        request.body(&content);
        request.body(b"\r\n0\r\n\r\n");
        false
    });
    published_of(kernel, &[&peer.url("/kernel")]).fetch(20).unwrap();
}

#[test]
fn what_follows_an_answer_is_not_the_next_answer() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let peer = Peer::start(move |request| {
        let range = request.range(content.len()).unwrap_or(0..content.len());
        let part = range.start..content.len().min(range.start + 300_000);
        request.part(&content, Some(part), "");
        // In one segment with the end of the body, or right after it.
        request.body(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nnot the kernel");
        true
    });
    let other = Peer::of(kernel.clone());
    published_of(kernel, &[&peer.url("/kernel"), &other.url("/kernel")]).fetch(20).unwrap();
}

#[test]
fn a_long_entity_tag_does_not_keep_a_transfer_from_going_on() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let tag = format!("ETag: \"{}\"\r\n", "a".repeat(10_000));
    let peer = Peer::start(move |request| {
        let range = request.range(content.len());
        if request.nth > 0 {
            return request.part(&content, range, &tag);
        }
        request.part_head(content.len(), None, &tag);
        request.body(&content[..500_000]);
        request.reset()
    });
    published_of(kernel, &[&peer.url("/kernel")]).fetch(20).unwrap();
    assert_eq!(peer.requests(), 2);
}

#[test]
fn a_page_that_drips_is_not_waited_for() {
    // The second one does not come at all.
    each([300, 20_000], |pause| {
        let kernel = file(3, 300_000);
        let content = kernel.clone();
        let peer = Peer::start(move |request| {
            if request.path == "/b" {
                return request.part(&content, None, "");
            }
            request.head("HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 100\r\n");
            (0..100).all(|_| {
                thread::sleep(Duration::from_millis(pause));
                request.body(b"x")
            })
        });
        let started = Instant::now();
        published_of(kernel, &[&peer.url("/a")]).fetch(20).unwrap();
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    });
}

#[test]
fn a_query_of_the_provider_goes_along() {
    let kernel = file(3, 300_000);
    let files = Peer::of(kernel.clone());
    let published = published_of(kernel, &[&files.url("/kernel")]);
    let (manifest, initramfs) = (published.manifest_bytes(), file(2, 150_000));
    let peer = Peer::start(move |request| match &*request.path {
        "/x/stable/x86_64/manifest.signed.json?t=1" => request.answer("200 OK", &manifest),
        "/x/stable/x86_64/keys.json?t=1" => request.answer("404 Not Found", b""),
        "/x/stable/x86_64/initramfs" => request.answer("200 OK", &initramfs),
        _ => request.answer("401 Unauthorized", b""),
    });
    published.fetch_from(&peer.url("/x/?t=1"), Duration::from_secs(20)).unwrap();
    assert_eq!(peer.requests(), 3);
}

#[test]
fn credentials_are_decoded_and_for_nobody_else() {
    let kernel = file(3, 300_000);
    let content = kernel.clone();
    let other = Peer::start(move |request| request.part(&content, None, ""));
    let url = other.url("/b");
    let peer = Peer::start(move |request| {
        // us@er:p/ss
        if request.header("authorization") != Some("Basic dXNAZXI6cC9zcw==") {
            return request.answer("401 Unauthorized", b"");
        }
        let there = match &*request.path {
            "/a" => format!("http://{}/here", request.header("host").unwrap()),
            _ => url.clone(),
        };
        request.answer(&format!("302 Found\r\nLocation: {there}"), b"")
    });
    let with = peer.url("/a").replace("://", "://us%40er:p%2Fss@");
    published_of(kernel, &[&with]).fetch(20).unwrap();
    let heads = other.counts.lines.lock().unwrap();
    assert!(!heads.is_empty() && heads.iter().all(|head| !head.to_lowercase().contains("authorization")));
}

pub(crate) fn a_head_that_drips_is_given_up() {
    let kernel = file(3, 300_000);
    let content = kernel.clone();
    let peer = Peer::start(move |request| {
        if request.nth > 0 {
            return request.part(&content, None, "");
        }
        // A minute at most.
        let head = b"HTTP/1.1 200 OK\r\nX-Filler: ".iter().copied().chain(std::iter::repeat(b'x'));
        head.take(120).all(|byte| {
            thread::sleep(Duration::from_millis(500));
            request.body(&[byte])
        })
    });
    let started = Instant::now();
    published_of(kernel, &[&peer.url("/kernel")]).fetch(60).unwrap();
    assert!((14..20).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(peer.requests(), 2);
}
