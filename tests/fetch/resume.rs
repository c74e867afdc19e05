//! What breaks is taken up where it broke: with a validator, without, elsewhere.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use phaseboot::error::Exit;
use phaseboot::fetch;
use phaseboot::manifest::Sightings;
use phaseboot::paths::Paths;
use phaseboot::provider::access::Access;
use phaseboot::time::Deadline;

use crate::peer::{Peer, Request};
use crate::port::Port;
use crate::{Answer, each, file, published, published_of};

/// What may be fetched twice: what lay in a buffer when a connection broke.
const BUFFER: usize = 256 * 1024;

#[test]
fn cut_five_times_it_arrives_whole_and_no_byte_twice() {
    each(["ETag: \"v1\"\r\n", "ETag: W/\"weak\"\r\n", ""], |validator| {
        let kernel = file(3, 3_000_000);
        let content = kernel.clone();
        let peer = Peer::start(move |request| {
            let range = request.range(content.len());
            let all = range.clone().unwrap_or(0..content.len());
            if request.nth >= 5 {
                return request.part(&content, range, validator);
            }
            request.part_head(content.len(), range.as_ref(), validator);
            request.body(&content[all.start..all.start + 400_000]);
            request.reset()
        });
        published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
        assert_eq!(peer.requests(), 6);
        assert!(peer.sent() <= 3_000_000 + BUFFER, "{} bytes", peer.sent());
        let lines = peer.counts.lines.lock().unwrap().join("\n");
        assert_eq!(
            lines.to_lowercase().contains("if-range: \"v1\""),
            validator.contains("\"v1\""),
            "{lines}"
        );
        assert!(lines.contains("bytes=400000-") && !lines.contains("weak"), "{lines}");
    });
}

#[test]
fn another_mirror_goes_on() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let dies = Peer::start(move |request| {
        if request.nth > 0 {
            return request.reset();
        }
        request.part_head(content.len(), None, "ETag: \"a\"\r\n");
        request.body(&content[..600_000]);
        request.reset()
    });
    let other = Peer::of(kernel.clone());
    published_of(kernel, &[&dies.url("/kernel"), &other.url("/kernel")]).fetch(30).unwrap();
    assert_eq!((dies.requests(), other.requests()), (1, 1));
    assert!(other.sent() <= 400_000 + BUFFER);
    let lines = other.counts.lines.lock().unwrap().join("\n").to_lowercase();
    assert!(lines.contains("range: bytes=") && !lines.contains("if-range"), "{lines}");
}

/// Breaks once half-way, and then answers as `after` says.
fn breaks_once(kernel: &[u8], after: impl Fn(&mut Request) -> bool + Send + Sync + 'static) -> Peer {
    let content = kernel.to_vec();
    Peer::start(move |request| {
        if request.nth > 0 {
            return after(request);
        }
        request.part_head(content.len(), None, "ETag: \"v1\"\r\n");
        request.body(&content[..500_000]);
        request.reset()
    })
}

#[test]
fn a_server_without_ranges_is_read_up_to_the_place() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let peer = breaks_once(&kernel, move |request| request.part(&content, None, "ETag: \"v1\"\r\n"));
    published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
    assert_eq!((peer.requests(), peer.sent()), (2, 1_500_000));
}

#[test]
fn a_mirror_with_ranges_is_cheaper_than_one_without() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let without = breaks_once(&kernel, move |request| request.part(&content, None, ""));
    let content = kernel.clone();
    let fails_first = Peer::start(move |request| {
        let range = request.range(content.len());
        if request.nth == 0 { request.answer("500 No", b"") } else { request.part(&content, range, "") }
    });
    published_of(kernel, &[&without.url("/kernel"), &fails_first.url("/kernel")]).fetch(30).unwrap();
    assert_eq!(fails_first.requests(), 2);
    assert!((500_000..=500_000 + BUFFER).contains(&fails_first.sent()), "{}", fails_first.sent());
}

#[test]
fn a_redirect_on_the_way_keeps_the_place() {
    each(["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"], |status| {
        let kernel = file(3, 1_000_000);
        let content = kernel.clone();
        let peer = breaks_once(&kernel, move |request| match request.path.as_str() {
            "/kernel" => request.answer(&format!("{status}\r\nLocation: /moved"), b""),
            _ => request.part(&content, request.range(content.len()), "ETag: \"v1\"\r\n"),
        });
        published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
        let lines = peer.counts.lines.lock().unwrap();
        let last = lines.last().unwrap().to_lowercase();
        assert!(last.starts_with("get /moved ") && last.contains("if-range: \"v1\""), "{last}");
        assert!(last.contains("range: bytes=") && peer.sent() <= 1_000_000 + BUFFER, "{last}");
    });
}

#[test]
fn a_part_may_come_in_chunks_but_not_as_several_parts() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let peer = breaks_once(&kernel, move |request| {
        let from = request.range(content.len()).unwrap().start;
        request.head(&format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-999999/1000000\r\nTransfer-Encoding: chunked\r\n"
        ));
        request.body(format!("{:x}\r\n", content.len() - from).as_bytes());
        request.body(&content[from..]) && request.body(b"\r\n0\r\n\r\n")
    });
    published_of(kernel.clone(), &[&peer.url("/kernel")]).fetch(30).unwrap();
    assert_eq!(peer.requests(), 2);
    assert!(peer.sent() <= 1_000_000 + BUFFER);

    let content = kernel.clone();
    let peer = breaks_once(&kernel, move |request| {
        let Some(range) = request.range(content.len()) else { return request.part(&content, None, "") };
        let head = format!("--x\r\nContent-Range: bytes {}-999999/1000000\r\n\r\n", range.start);
        let body = [head.as_bytes(), &content[range], b"\r\n--x--"].concat();
        request.answer("206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x", &body)
    });
    published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
    assert_eq!(peer.requests(), 3);
}

#[test]
fn ranges_that_lie_are_not_believed() {
    each(
        ["bytes 0-499999/1000000", "bytes 500000-999998/1000000", "bytes 500000-/1000000", "none", ""],
        |range| {
            let kernel = file(3, 1_000_000);
            let content = kernel.clone();
            let peer = breaks_once(&kernel, move |request| {
                if request.header("range").is_none() {
                    return request.part(&content, None, "");
                }
                let head = format!("206 Partial Content\r\nContent-Range: {range}");
                request.answer(&head, &content[500_000..])
            });
            published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
            assert_eq!(peer.requests(), 3, "{range}");
        },
    );
}

#[test]
fn a_range_with_other_bytes_than_it_says_costs_a_fresh_transfer() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let peer = breaks_once(&kernel, move |request| {
        let range = request.range(content.len());
        let wrong = vec![0; content.len()];
        let is_second = request.nth == 1;
        request.part(if is_second { &wrong } else { &content }, range, "ETag: \"v1\"\r\n")
    });
    published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
    assert_eq!(peer.requests(), 3);
}

#[test]
fn a_file_that_changes_in_between_is_fetched_afresh() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    // What came first was of another version.
    let old = file(8, 1_000_000);
    let peer = breaks_once(&old, move |request| {
        // If-Range names what is not there any more: all of it is sent.
        let range = request.range(content.len()).filter(|_| request.header("if-range") == Some("\"v2\""));
        request.part(&content, range, "ETag: \"v2\"\r\n")
    });
    published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
    assert_eq!(peer.requests(), 3);
}

#[test]
fn a_part_of_another_version_is_not_read() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let peer = breaks_once(&file(8, 1_000_000), move |request| {
        // If-Range is not looked at.
        let Some(range) = request.range(content.len()) else {
            return request.part(&content, None, "ETag: \"v2\"\r\n");
        };
        request.part_head(content.len(), Some(&range), "ETag: \"v2\"\r\n");
        content[range].chunks(10_000).all(|chunk| {
            thread::sleep(Duration::from_millis(10));
            request.body(chunk)
        })
    });
    published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
    assert_eq!(peer.requests(), 3);
    assert!(peer.sent() < 1_700_000, "{}", peer.sent());
}

#[test]
fn a_file_that_has_become_shorter_is_another() {
    let kernel = file(3, 1_000_000);
    let peer = breaks_once(&kernel, |request| {
        request.head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n");
        request.body(&[b"61a80\r\n".to_vec(), vec![b'x'; 400_000], b"\r\n0\r\n\r\n".to_vec()].concat())
    });
    let (exit, line) = published_of(kernel, &[&peer.url("/kernel")]).fetch_exit(30);
    assert_eq!(exit, Exit::ArtifactMismatch);
    assert!(line.contains("it has 400000 bytes, signed were 1000000"), "{line}");
}

#[test]
fn short_ranges_are_put_together() {
    let kernel = file(3, 1_000_000);
    let content = kernel.clone();
    let peer = breaks_once(&kernel, move |request| {
        let range = request.range(content.len()).unwrap();
        let end = content.len().min(range.start + 150_000);
        request.part(&content, Some(range.start..end), "")
    });
    published_of(kernel, &[&peer.url("/kernel")]).fetch(30).unwrap();
    assert_eq!((peer.requests(), peer.connections()), (5, 2));
}

#[test]
fn no_such_range_says_how_large_the_file_is() {
    for (total, exit, words) in [
        ("bytes */500000", Exit::ArtifactMismatch, "it has 500000 bytes, signed were 1000000"),
        ("bytes */1000000", Exit::NoProvider, "HTTP status 416"),
    ] {
        let kernel = file(3, 1_000_000);
        let peer = breaks_once(&kernel, move |request| {
            request.answer(&format!("416 No\r\nContent-Range: {total}"), b"")
        });
        let (got, line) = published_of(kernel, &[&peer.url("/kernel")]).fetch_exit(30);
        assert_eq!(got, exit, "{line}");
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn bytes_of_two_mirrors_that_do_not_match_are_fetched_from_one() {
    let kernel = file(3, 1_000_000);
    let wrong = breaks_once(&file(9, 1_000_000), |request| request.reset());
    let right = Peer::of(kernel.clone());
    let published = published_of(kernel, &[&wrong.url("/kernel"), &right.url("/kernel")]);
    published.fetch(30).unwrap();
    assert!(right.requests() <= 3, "{}", right.requests());
}

#[test]
fn a_provider_whose_files_are_not_to_be_had_comes_last_the_next_time() {
    // Its files are missing, or wrong, or elsewhere and not to be had.
    let nobody = Port::on(Ipv4Addr::LOCALHOST);
    let elsewhere = format!("http://{}/kernel", nobody.address);
    each(
        [
            ("kernel", Answer::Status(404)),
            ("kernel", Answer::File(vec![0; 400_000])),
            (&elsewhere, Answer::Drip),
        ],
        |(url, answer)| {
            let (broken, whole) = (published(&[url]), published(&["kernel"]));
            broken.server.on("/stable/x86_64/kernel", answer);
            let root = tempfile::tempdir().unwrap();
            let access = Access { paths: Paths::under(root.path()), ..Access::default() };
            let fetch = |providers: &[String]| {
                let deadline = Deadline::after(Duration::from_secs(20));
                let found = whole.race(providers, &access, deadline, &mut Sightings::default()).unwrap();
                fetch::artifacts(&found.manifest, &found.client, &access.paths).map(drop)
            };
            let providers = [broken.server.url("/"), whole.server.url("/")];
            // Whoever is named alone is the one that is meant.
            fetch(&providers[..1]).unwrap_err();
            // A busy machine may need longer than the head start of the one that is asked first.
            assert!((0..3).any(|_| fetch(&providers).is_ok()));
            fetch(&providers[..1]).unwrap_err();
        },
    );
}

#[test]
fn mirrors_that_failed_come_last_the_next_time() {
    let root = tempfile::tempdir().unwrap();
    let kernel = file(3, 200_000);
    let bad = Peer::start(|request| request.answer("500 No", b""));
    let good = Peer::of(kernel.clone());
    let published = published_of(kernel, &[&bad.url("/kernel"), &good.url("/kernel")]);
    for _ in 0..3 {
        published.fetch_under(root.path(), Duration::from_secs(30)).unwrap();
    }
    assert_eq!((bad.requests(), good.requests()), (1, 3));
    assert_eq!(good.counts.sent.load(Ordering::SeqCst), 600_000);
    let kept = std::fs::read_to_string(root.path().join("run/phaseboot/mirrors.json")).unwrap();
    assert!(kept.contains(&format!("\"127.0.0.1:{}\"", bad.port)), "{kept}");
}
