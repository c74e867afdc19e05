//! A server that answers as a test tells it to, and counts.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::sys::packet::unsent;

/// A request, and where the answer goes.
pub(crate) struct Request {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    /// How many there were before, of any path.
    pub(crate) nth: usize,
    stream: TcpStream,
    counts: Arc<Counts>,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// Bytes of bodies that were sent.
    pub(crate) sent: AtomicUsize,
    pub(crate) lines: Mutex<Vec<String>>,
}

pub(crate) struct Peer {
    pub(crate) port: u16,
    pub(crate) counts: Arc<Counts>,
}

impl Peer {
    /// Serves until the test process ends, at most 300 connections. A handler answers whether the
    /// connection stays open.
    pub(crate) fn start(handler: impl Fn(&mut Request) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (counts, handler) = (Arc::<Counts>::default(), Arc::new(handler));
        let shared = counts.clone();
        thread::spawn(move || {
            for stream in listener.incoming().take(300).flatten() {
                let (counts, handler) = (shared.clone(), handler.clone());
                counts.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || connection(&stream, &counts, &*handler));
            }
        });
        Self { port, counts }
    }

    /// Serves one file well, with an entity tag.
    pub(crate) fn of(file: Vec<u8>) -> Self {
        Self::start(move |request| {
            let range = request.range(file.len());
            request.part(&file, range, "ETag: \"v1\"\r\n")
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn sent(&self) -> usize {
        self.counts.sent.load(Ordering::SeqCst)
    }
}

fn connection(stream: &TcpStream, counts: &Arc<Counts>, handler: &dyn Fn(&mut Request) -> bool) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    // A hundred requests at most.
    for _ in 0..100 {
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
        let nth = counts.requests.fetch_add(1, Ordering::SeqCst);
        counts.lines.lock().unwrap().push(head.join("\n"));
        let headers = head[1..].iter().filter_map(|line| line.split_once(':'));
        let mut request = Request {
            path: head[0].split(' ').nth(1).unwrap().to_owned(),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
            nth,
            stream: stream.try_clone().unwrap(),
            counts: counts.clone(),
        };
        if !handler(&mut request) {
            return;
        }
    }
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What is asked for, of a file of this length.
    pub(crate) fn range(&self, length: usize) -> Option<Range<usize>> {
        let (from, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some(from.parse().ok()?..last.parse::<usize>().map_or(length, |last| (last + 1).min(length)))
    }

    /// Sends a head, with the empty line after it.
    pub(crate) fn head(&mut self, head: &str) -> bool {
        self.stream.write_all(head.as_bytes()).and_then(|()| self.stream.write_all(b"\r\n")).is_ok()
    }

    /// Sends a part of a body.
    pub(crate) fn body(&mut self, bytes: &[u8]) -> bool {
        // In small parts, so that what is counted was taken.
        bytes.chunks(16 * 1024).all(|part| {
            let sent = self.stream.write_all(part).is_ok();
            if sent {
                self.counts.sent.fetch_add(part.len(), Ordering::SeqCst);
            }
            sent
        })
    }

    /// A whole answer.
    pub(crate) fn answer(&mut self, head: &str, body: &[u8]) -> bool {
        self.head(&format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n", body.len())) && self.body(body)
    }

    /// The head of an answer with a file, or with a range of it, as it should be.
    pub(crate) fn part_head(&mut self, length: usize, range: Option<&Range<usize>>, more: &str) -> bool {
        let head = match range {
            None => format!("200 OK\r\nContent-Length: {length}\r\n"),
            Some(Range { start, end }) => format!(
                "206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{length}\r\n",
                end - start,
                end - 1
            ),
        };
        self.head(&format!("HTTP/1.1 {head}{more}"))
    }

    /// An answer with a file, or with a range of it, as it should be.
    pub(crate) fn part(&mut self, file: &[u8], range: Option<Range<usize>>, more: &str) -> bool {
        self.part_head(file.len(), range.as_ref(), more) && self.body(&file[range.unwrap_or(0..file.len())])
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(&mut self) -> bool {
        // What is still on its way to the other side must arrive before; it would be counted and lost.
        let given_up = Instant::now() + Duration::from_secs(5);
        while unsent(self.stream.as_fd()).is_ok_and(|bytes| bytes > 0) && Instant::now() < given_up {
            thread::sleep(Duration::from_millis(5));
        }
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
        false
    }
}
