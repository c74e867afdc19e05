//! Large files over several connections, where it pays.

use std::thread;
use std::time::{Duration, Instant};

use crate::peer::{Peer, Request};
use crate::{each, file, published_of};

const SIZE: usize = 40 << 20;

/// Sends what is asked for with so many bytes a second.
fn slowly(request: &mut Request, file: &[u8], rate: usize) -> bool {
    let range = request.range(file.len());
    request.part_head(file.len(), range.as_ref(), "ETag: \"v1\"\r\n");
    let part = &file[range.unwrap_or(0..file.len())];
    let started = Instant::now();
    for (index, chunk) in part.chunks(rate / 20).enumerate() {
        if !request.body(chunk) {
            return false;
        }
        let due = Duration::from_millis(50) * u32::try_from(index + 1).unwrap();
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    true
}

/// These wait most of the time, so they do it together.
#[test]
fn connections_are_added_where_it_pays() {
    each(
        [
            connections_that_are_limited_each_are_joined as fn(),
            a_server_that_refuses_a_second_connection_loses_nothing,
            a_line_that_is_shared_is_not_slower_for_it,
        ],
        |test| test(),
    );
}

fn connections_that_are_limited_each_are_joined() {
    let kernel = file(3, SIZE);
    let content = kernel.clone();
    // 20 s over one connection.
    let peer = Peer::start(move |request| slowly(request, &content, SIZE / 20));
    let started = Instant::now();
    published_of(kernel, &[&peer.url("/kernel")]).fetch(60).unwrap();
    assert!(started.elapsed() < Duration::from_secs(14), "{:?}", started.elapsed());
    assert!((3..=6).contains(&peer.connections()), "{}", peer.connections());
    assert!(peer.sent() < SIZE + (8 << 20), "{} bytes", peer.sent());
}

fn a_server_that_refuses_a_second_connection_loses_nothing() {
    each(["503 Busy", "reset", "200 OK", "another file", "a part of another file", "416"], |refusal| {
        let kernel = file(3, SIZE);
        let content = kernel.clone();
        let peer = Peer::start(move |request| {
            if request.nth == 0 {
                return slowly(request, &content, SIZE / 7);
            }
            match refusal {
                "reset" => request.reset(),
                // All of it, whatever is asked for.
                "200 OK" => {
                    request.part_head(content.len(), None, "");
                    request.body(&content[..1000]);
                    thread::sleep(Duration::from_secs(1));
                    false
                }
                "another file" => request.answer("200 OK", b"not this one"),
                "a part of another file" => {
                    let range = request.range(content.len()).unwrap();
                    request.part_head(content.len() + 1, Some(&range), "") && request.body(&content[range])
                }
                "416" => request.answer("416 Range Not Satisfiable\r\nContent-Range: bytes */7", b""),
                status => request.answer(status, b""),
            }
        });
        let started = Instant::now();
        published_of(kernel, &[&peer.url("/kernel")]).fetch(60).unwrap();
        assert!(started.elapsed() < Duration::from_secs(11), "{refusal}: {:?}", started.elapsed());
        assert_eq!(peer.requests(), 2, "{refusal}");
    });
}

fn a_line_that_is_shared_is_not_slower_for_it() {
    let kernel = file(3, SIZE);
    let content = kernel.clone();
    // All connections together have SIZE / 8 a second.
    let line = std::sync::Mutex::new(());
    let peer = Peer::start(move |request| {
        let range = request.range(content.len());
        request.part_head(content.len(), range.as_ref(), "ETag: \"v1\"\r\n");
        let part = &content[range.unwrap_or(0..content.len())];
        part.chunks(SIZE / 8 / 40).all(|chunk| {
            let _turn = line.lock().unwrap();
            thread::sleep(Duration::from_millis(25));
            request.body(chunk)
        })
    });
    let started = Instant::now();
    published_of(kernel, &[&peer.url("/kernel")]).fetch(60).unwrap();
    assert!(started.elapsed() < Duration::from_secs(13), "{:?}", started.elapsed());
    assert!(peer.connections() <= 3);
}
