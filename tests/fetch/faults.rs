//! Every way in which a server can be wrong ends in success or in one clear line, in time.

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::error::Exit;

use crate::peer::{Peer, Request};
use crate::{each, file, published_of};

/// How it ends if the kernel comes from a server like this, and how long it took. Nobody gets longer
/// than `seconds`.
fn kernel_from(
    seconds: u64,
    handler: impl Fn(&mut Request, &[u8]) -> bool + Send + Sync + 'static,
) -> (Result<(), (Exit, String)>, Duration, Peer) {
    let kernel = file(3, 300_000);
    let content = kernel.clone();
    let peer = Peer::start(move |request| handler(request, &content));
    let published = published_of(kernel, &[&peer.url("/kernel")]);
    let started = Instant::now();
    let result = published.fetch(seconds).map_err(|error| (error.exit(), error.line().to_string()));
    let took = started.elapsed();
    assert!(took < Duration::from_millis(seconds * 1000 + 1500), "{took:?}");
    if let Err((_, line)) = &result {
        assert!(line.lines().count() == 1 && line.contains("kernel"), "{line}");
    }
    (result, took, peer)
}

fn fails(seconds: u64, words: &str, handler: impl Fn(&mut Request, &[u8]) -> bool + Send + Sync + 'static) {
    let (result, _, _) = kernel_from(seconds, handler);
    let (exit, line) = result.unwrap_err();
    assert_eq!(exit, Exit::NoProvider, "{line}");
    assert!(line.contains(words), "{words}: {line}");
}

/// These wait most of the time, so they do it together.
#[test]
fn whoever_is_slow_is_given_up_in_time() {
    each(
        [
            silence_ends_at_the_deadline as fn(),
            a_server_that_is_busy_is_asked_again,
            a_busy_server_does_not_hold_up_the_next,
            a_trickle_is_under_the_floor,
            a_server_too_slow_for_the_time_that_is_left_makes_way,
            a_slow_server_is_not_asked_first_the_next_time,
            crate::hostile::a_head_that_drips_is_given_up,
        ],
        |test| test(),
    );
}

fn silence_ends_at_the_deadline() {
    fails(2, "the time for this boot attempt is over", |_, _| {
        thread::sleep(Duration::from_secs(4));
        false
    });
    fails(2, "100000 of 300000 bytes", |request, file| {
        request.part_head(file.len(), None, "");
        request.body(&file[..100_000]);
        thread::sleep(Duration::from_secs(4));
        false
    });
}

#[test]
fn what_is_not_http_is_said_to_be_none() {
    type Case = (&'static str, fn(&mut Request) -> bool);
    let cases: [Case; 4] = [
        ("the server closed the connection", |_| false),
        ("connection reset by peer", Request::reset),
        ("the server does not speak HTTP", |request| {
            request.body(b"220 mail.example ESMTP\r\n");
            false
        }),
        ("the server's headers have more than 16 kB", |request| {
            request.head("HTTP/1.1 200 OK");
            // A megabyte at most.
            (0..1000).any(|n| !request.body(format!("X-{n}: {}\r\n", "x".repeat(1000)).as_bytes()))
        }),
    ];
    each(cases, |(words, answer)| fails(20, words, move |request, _| answer(request)));
}

#[test]
fn what_nobody_asked_for_is_refused() {
    fails(20, "it is encoded as gzip, which nobody asked for", |request, file| {
        request.answer("200 OK\r\nContent-Encoding: gzip", file)
    });
    fails(20, "it redirects more than 5 times", |request, _| {
        let to = if request.path == "/a" { "/b" } else { "/a" };
        request.answer(&format!("302 Found\r\nLocation: {to}"), b"")
    });
    for status in ["403 Forbidden", "404 Not Found", "410 Gone"] {
        let (result, took, peer) = kernel_from(20, move |request, _| request.answer(status, b""));
        assert!(result.unwrap_err().1.contains(&format!("HTTP status {}", &status[..3])));
        assert_eq!(peer.requests(), 1, "asked again for what lasts");
        assert!(took < Duration::from_secs(5));
    }
}

fn a_server_that_is_busy_is_asked_again() {
    each(
        [
            ("503 Busy\r\nRetry-After: 2", 2000),
            (
                "429 Slow\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:39 GMT",
                2000,
            ),
            ("503 Busy", 100),
            ("500 Oops", 100),
            ("408 Timeout", 100),
        ],
        |(status, pause)| {
            let (result, took, peer) = kernel_from(20, move |request, file| match request.nth {
                0 => request.answer(status, b""),
                _ => request.part(file, None, ""),
            });
            result.unwrap();
            assert_eq!(peer.requests(), 2);
            assert!(
                took >= Duration::from_millis(pause) && took < Duration::from_secs(10),
                "{status}: {took:?}"
            );
        },
    );
    // An hour is not waited for.
    fails(2, "HTTP status 503, to be asked again in 30 s", |request, _| {
        request.answer("503 Busy\r\nRetry-After: 3600", b"")
    });
}

fn a_busy_server_does_not_hold_up_the_next() {
    let kernel = file(3, 300_000);
    let busy = Peer::start(|request| request.answer("503 Busy\r\nRetry-After: 20", b""));
    let good = Peer::of(kernel.clone());
    let started = Instant::now();
    published_of(kernel, &[&busy.url("/kernel"), &good.url("/kernel")]).fetch(30).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn where_a_redirect_leads_is_read_as_people_write_it() {
    each(["HTTP://{}/b", "/b", "/a b", "http://{}/a b?c d"], |to| {
        let (result, _, peer) = kernel_from(20, move |request, file| match request.nth {
            0 => {
                let to = to.replace("{}", request.header("host").unwrap());
                request.answer(&format!("302 Found\r\nLocation: {to}"), b"")
            }
            _ => request.part(file, None, ""),
        });
        result.unwrap();
        let line = peer.counts.lines.lock().unwrap()[1].clone();
        let path = match to.rsplit_once("/a") {
            Some((_, " b")) => "/a%20b",
            Some(_) => "/a%20b?c%20d",
            None => "/b",
        };
        assert!(line.starts_with(&format!("GET {path} HTTP/1.1\n")), "{line}");
    });
    // What is no URL stays none.
    for to in ["ftp://a/b", "/a<b", "http:///b"] {
        let (result, _, peer) =
            kernel_from(20, move |request, _| request.answer(&format!("302 Found\r\nLocation: {to}"), b""));
        let (_, line) = result.unwrap_err();
        assert!(line.contains("which is not followed") || line.contains("invalid uri character"), "{line}");
        assert_eq!(peer.requests(), 1, "{line}");
    }
}

#[test]
fn answers_that_are_right_in_an_unusual_way_are_taken() {
    type Case = (&'static str, fn(&mut Request, &[u8]) -> bool);
    let cases: [Case; 3] = [
        ("a range that is all of it", |request, file| request.part(file, Some(0..file.len()), "")),
        ("the encoding in capitals", |request, file| {
            request.part(file, None, "Content-Encoding: Identity\r\n")
        }),
        ("a date as asctime has it", |request, file| match request.nth {
            0 => request.answer(
                "503 Busy\r\nDate: Sun Nov  6 08:49:37 1994\r\nRetry-After: Sunday, 06-Nov-94 08:49:39 GMT",
                b"",
            ),
            _ => request.part(file, None, ""),
        }),
    ];
    each(cases.into_iter().enumerate(), |(index, (what, answer))| {
        let (result, took, peer) = kernel_from(20, answer);
        result.unwrap_or_else(|(_, line)| panic!("{what}: {line}"));
        assert_eq!((peer.requests(), took >= Duration::from_secs(2)), (1 + index / 2, index == 2), "{what}");
    });
    // Less than all of it was not asked for.
    fails(
        20,
        "the server's range is not the one that was asked for: bytes 0-299998/300000",
        |request, file| {
            let head = "206 Partial Content\r\nContent-Range: bytes 0-299998/300000";
            request.answer(head, &file[..299_999])
        },
    );
}

#[test]
fn every_framing_of_http_is_read() {
    let (result, ..) = kernel_from(20, |request, file| {
        request.head("HTTP/1.0 200 OK\r\n");
        request.body(file);
        false
    });
    result.unwrap();
    let chunked = |request: &mut Request, file: &[u8], end: &[u8]| {
        request.head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n");
        for chunk in file.chunks(10_000) {
            request.body(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.body(chunk);
            request.body(b"\r\n");
        }
        request.body(end)
    };
    let (result, ..) = kernel_from(20, move |request, file| chunked(request, file, b"0\r\n\r\n"));
    result.unwrap();
    // All of it is there; that the end is missing changes nothing.
    let (result, took, _) = kernel_from(20, move |request, file| {
        chunked(request, file, b"");
        thread::sleep(Duration::from_secs(5));
        false
    });
    result.unwrap();
    assert!(took < Duration::from_secs(4), "{took:?}");
    // What ends as it should is another file; what breaks off is not.
    for (end, exit, words) in [
        (&b"0\r\n\r\n"[..], Exit::ArtifactMismatch, "it has 299999 bytes, signed were 300000"),
        (b"", Exit::NoProvider, "the connection broke: peer disconnected"),
    ] {
        let (result, ..) = kernel_from(20, move |request, file| {
            chunked(request, &file[..299_999], end);
            false
        });
        let (ended, line) = result.unwrap_err();
        assert!(ended == exit && line.contains(words), "{line}");
    }
}

#[test]
fn an_endless_body_is_cut_off() {
    for head in ["", "Transfer-Encoding: chunked\r\n"] {
        let (result, _, peer) = kernel_from(20, move |request, _| {
            request.head(&format!("HTTP/1.1 200 OK\r\n{head}"));
            let chunk = [b"2710\r\n".to_vec(), vec![b'x'; 10_000], b"\r\n".to_vec()].concat();
            // 100 MB at most.
            (0..10_000).any(|_| !request.body(&chunk))
        });
        let (exit, line) = result.unwrap_err();
        assert_eq!(exit, Exit::ArtifactMismatch, "{line}");
        assert!(line.contains("it is longer than the 300000 bytes that were signed"), "{line}");
        assert!(peer.sent() < 30_000_000, "{}", peer.sent());
    }
}

#[test]
fn a_length_that_lies_is_caught() {
    // Less comes than was promised, each time: what comes is kept, and it ends.
    let (result, ..) = kernel_from(20, |request, file| {
        let range = request.range(file.len());
        request.part_head(file.len(), range.as_ref(), "");
        let from = range.map_or(0, |range| range.start);
        request.body(&file[from..file.len().min(from + 100_000)]);
        false
    });
    result.unwrap();
    // More comes than was promised: it is not read.
    let (result, ..) = kernel_from(20, |request, file| {
        request.part(file, None, "");
        request.body(&[b'x'; 5000]);
        true
    });
    result.unwrap();
}

fn a_trickle_is_under_the_floor() {
    let kernel = file(3, 300_000);
    let content = kernel.clone();
    let slow = Peer::start(move |request| {
        request.part_head(content.len(), None, "");
        // A minute at most.
        content.chunks(200).take(300).all(|part| {
            thread::sleep(Duration::from_millis(200));
            request.body(part)
        })
    });
    let good = Peer::of(kernel.clone());
    let started = Instant::now();
    // Long enough for all of it to come like this.
    published_of(kernel, &[&slow.url("/kernel"), &good.url("/kernel")]).fetch(600).unwrap();
    assert!((14..25).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(good.requests(), 1);
}

/// 100 kB a second.
fn slow(kernel: &[u8]) -> Peer {
    let content = kernel.to_vec();
    Peer::start(move |request| {
        let range = request.range(content.len());
        request.part_head(content.len(), range.as_ref(), "");
        // Half a minute at most.
        content[range.map_or(0, |range| range.start)..].chunks(20_000).take(150).all(|part| {
            thread::sleep(Duration::from_millis(200));
            request.body(part)
        })
    })
}

fn a_server_too_slow_for_the_time_that_is_left_makes_way() {
    let kernel = file(3, 2_000_000);
    let (slow, good) = (slow(&kernel), Peer::of(kernel.clone()));
    let started = Instant::now();
    published_of(kernel, &[&slow.url("/kernel"), &good.url("/kernel")]).fetch(16).unwrap();
    assert!((4..9).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!((slow.requests(), good.requests()), (1, 1));
    assert!(good.sent() < 1_700_000, "what was there was kept: {}", good.sent());
    // Where nobody else is left it goes on, and where there is time for all of it.
    for urls in [1, 2] {
        let kernel = file(3, 900_000);
        let (slow, good) = (self::slow(&kernel), Peer::of(kernel.clone()));
        let urls = &[slow.url("/kernel"), good.url("/kernel")][..urls];
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        published_of(kernel, &urls).fetch(if urls.len() == 1 { 13 } else { 60 }).unwrap();
        assert_eq!((slow.requests(), good.requests()), (1, 0));
    }
}

fn a_slow_server_is_not_asked_first_the_next_time() {
    let root = tempfile::tempdir().unwrap();
    let kernel = file(3, 1_000_000);
    let (slow, good) = (slow(&kernel), Peer::of(kernel.clone()));
    let published = published_of(kernel, &[&slow.url("/kernel"), &good.url("/kernel")]);
    let error = published.fetch_under(root.path(), Duration::from_secs(3)).unwrap_err();
    assert!(error.line().to_string().contains("the time for this boot attempt is over"), "{}", error.line());
    assert_eq!(good.requests(), 0);
    published.fetch_under(root.path(), Duration::from_secs(10)).unwrap();
    assert_eq!((slow.requests(), good.requests()), (1, 1));
}

#[test]
fn files_of_one_host_come_over_the_connections_that_are_there() {
    let kernel = file(3, 300_000);
    let published = published_of(kernel.clone(), &["kernel"]);
    // What is published is served again by a peer that keeps connections.
    let behind = published.server.url("");
    let (artifacts, another) = (Mutex::new(0), Condvar::new());
    let peer = Peer::start(move |request| {
        if ["/kernel", "/initramfs"].iter().any(|name| request.path.ends_with(name)) {
            // The first one is answered when the second one was asked for, however busy the machine is.
            let mut asked = artifacts.lock().unwrap();
            *asked += 1;
            another.notify_all();
            drop(another.wait_timeout_while(asked, Duration::from_secs(10), |asked| *asked < 2).unwrap());
        }
        let mut answer = Vec::new();
        let mut response = ureq::get(format!("{behind}{}", request.path))
            .config()
            .http_status_as_error(false)
            .build()
            .call()
            .unwrap();
        std::io::Read::read_to_end(&mut response.body_mut().as_reader(), &mut answer).unwrap();
        request.answer(&format!("{} x", response.status().as_u16()), &answer)
    });
    published.fetch_from(&peer.url(""), Duration::from_secs(20)).unwrap();
    // Manifest, key list, kernel and initramfs; the last two at the same time.
    assert_eq!((peer.requests(), peer.connections()), (4, 2));
}
