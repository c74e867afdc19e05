//! One request a connection: RFC 9112, as much of it as a client needs to be given a file, and what goes wrong.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Fault, Met, Site};

/// Of a request's head (bytes).
const LONGEST_HEAD: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection on which nothing comes any more is kept.
const STALL: Duration = Duration::from_secs(120);
/// What is sent at a time (bytes).
const PIECE: usize = 64 * 1024;
/// Somebody who reads that much of a head without an end reads all of it.
const ENDLESS: usize = 64 << 20;

/// What is asked for.
struct Request {
    method: String,
    path: String,
    /// The first byte, and the last if it is said.
    range: Option<(usize, Option<usize>)>,
    /// `If-Range`
    only_if: Option<String>,
}

impl Request {
    fn read(stream: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(stream.try_clone()?.take(LONGEST_HEAD));
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let mut request = Self { method: word(), path: word(), range: None, only_if: None };
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                return Ok(request);
            }
            let Some((name, value)) = header.split_once(':') else { continue };
            match name.to_ascii_lowercase().as_str() {
                "range" => request.range = range(value.trim()),
                "if-range" => request.only_if = Some(value.trim().to_owned()),
                _ => {}
            }
        }
    }
}

/// `bytes=FIRST-` or `bytes=FIRST-LAST`
fn range(value: &str) -> Option<(usize, Option<usize>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

pub(super) fn answer(mut stream: TcpStream, site: &Site) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = Request::read(&stream)?;
    let path = request.path.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    site.ledger.asked(name);
    let met = site.meet(name);
    if let Some(head) = met.and_then(|met| instead(met, path, &request)) {
        return stream.write_all(head.as_bytes());
    }
    match met.map(|met| met.fault) {
        Some(Fault::AwayFor(seconds)) if site.first() < Duration::from_secs(seconds) => return Ok(()),
        Some(Fault::EndlessHead) => return endless_head(&mut stream),
        Some(Fault::Garbage) => return stream.write_all(&b"\x7fELF\x02\x01\x01\r\n\r\n\0".repeat(100)),
        _ => {}
    }
    let Some(bytes) = site.read(path) else {
        return stream.write_all(empty("404 Not Found", "").as_bytes());
    };
    let bytes = spoil(bytes, met);
    let Some((first, end)) = wanted(&request, name, bytes.len(), met) else {
        let head = empty("416 Range Not Satisfiable", &format!("Content-Range: bytes */{}\r\n", bytes.len()));
        return stream.write_all(head.as_bytes());
    };
    let whole = request.range.is_none() || (first, end) == (0, bytes.len());
    let head = head(name, (first, end), bytes.len(), whole, met.map(|met| met.fault));
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return stream.shutdown(Shutdown::Both);
    }
    let ending = Ending::of(met, (first, end), bytes.len());
    let stop = ending.at().unwrap_or(end);
    let pace = met.and_then(|met| if let Fault::Slow(rate) = met.fault { Some(rate) } else { None });
    let mut sent = first;
    let outcome = bytes[first..stop].chunks(PIECE).try_for_each(|piece| {
        stream.write_all(piece)?;
        sent += piece.len();
        if let Some(rate) = pace {
            std::thread::sleep(
                Duration::from_secs(1) * u32::try_from(piece.len()).unwrap_or(1)
                    / u32::try_from(rate).unwrap_or(u32::MAX),
            );
        }
        Ok(())
    });
    site.ledger.sent(name, first..sent);
    outcome.and_then(|()| ending.follow(stream))
}

/// How an answer ends.
enum Ending {
    Whole,
    Close(usize),
    Reset(usize),
    Stall(usize),
}

impl Ending {
    /// Of an answer that has the bytes from `first` to `end` of `total`.
    fn of(met: Option<Met<'_>>, (first, end): (usize, usize), total: usize) -> Self {
        let Some(Met { fault, before, struck }) = met else { return Self::Whole };
        let place = |hundredths: usize| total / 100 * hundredths;
        // A place that is in this answer, and has not struck so often yet.
        let strikes = |hundredths: usize, most: usize| {
            let at = place(hundredths);
            let here = (first..end).contains(&at) && struck.load(Ordering::Relaxed) < most;
            here.then(|| struck.fetch_add(1, Ordering::Relaxed)).map(|_| at)
        };
        let halfway = first + (end - first) / 2;
        match fault {
            Fault::CloseHalfway => Self::Close(halfway),
            Fault::CutOnce | Fault::IgnoresRanges if before == 0 => Self::Close(halfway),
            Fault::ShortRanges(_) if before == 0 => Self::Close(first + (end - first) / 3),
            Fault::CutAt(places) => {
                let next = places.get(struck.load(Ordering::Relaxed)).copied();
                next.and_then(|next| strikes(next, places.len())).map_or(Self::Whole, Self::Close)
            }
            Fault::ResetAt(at) => strikes(at, 1).map_or(Self::Whole, Self::Reset),
            Fault::StallAt(at, times) => strikes(at, times).map_or(Self::Whole, Self::Stall),
            _ => Self::Whole,
        }
    }

    fn at(&self) -> Option<usize> {
        match self {
            Self::Whole => None,
            Self::Close(at) | Self::Reset(at) | Self::Stall(at) => Some(*at),
        }
    }

    fn follow(&self, mut stream: TcpStream) -> std::io::Result<()> {
        match self {
            Self::Whole | Self::Close(_) => stream.shutdown(Shutdown::Both),
            // Closed with nothing of the time that is left for what was not taken: a reset (socket(7)).
            Self::Reset(_) => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                Ok(())
            }
            // Until the client has had enough.
            Self::Stall(_) => {
                stream.set_read_timeout(Some(STALL))?;
                stream.read(&mut [0]).map(drop)
            }
        }
    }
}

/// The answer that comes instead of the file.
fn instead(met: Met<'_>, path: &str, request: &Request) -> Option<String> {
    match met.fault {
        Fault::MissingAtFirst(count) if met.before < count => Some(empty("404 Not Found", "")),
        Fault::CutOnce if met.before > 0 && request.range.is_none_or(|(first, _)| first == 0) => {
            Some(empty("404 Not Found", ""))
        }
        Fault::Unavailable(count) if met.before < count => {
            Some(empty("503 Service Unavailable", "Retry-After: 1\r\n"))
        }
        Fault::Circles => Some(empty("302 Found", &format!("Location: {path}?{}\r\n", met.before + 1))),
        _ => None,
    }
}

fn empty(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

/// The bytes of `total` that are sent: from the first to before the end.
fn wanted(request: &Request, name: &str, total: usize, met: Option<Met<'_>>) -> Option<(usize, usize)> {
    let fault = met.map(|met| met.fault);
    let same = request.only_if.as_ref().is_none_or(|tag| *tag == entity_tag(name));
    let Some((first, last)) = request.range.filter(|_| same && fault != Some(Fault::IgnoresRanges)) else {
        return Some((0, total));
    };
    let end = last.map_or(total, |last| last.saturating_add(1)).min(total);
    let end = match fault {
        Some(Fault::ShortRanges(most)) => end.min(first.saturating_add(most)),
        _ => end,
    };
    (first < end).then_some((first, end))
}

fn entity_tag(name: &str) -> String {
    format!("\"{name}\"")
}

fn head(name: &str, (first, end): (usize, usize), total: usize, whole: bool, fault: Option<Fault>) -> String {
    let status = match whole {
        true => "HTTP/1.1 200 OK\r\n".to_owned(),
        false => {
            format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{total}\r\n", end - 1)
        }
    };
    let length = match fault {
        Some(Fault::AnnouncesMore) => end - first + 1000,
        Some(Fault::AnnouncesLess) => (end - first) / 2,
        _ => end - first,
    };
    // Clients continue only what has an entity tag: RFC 9110, 13.1.5.
    let tag = entity_tag(name);
    format!(
        "{status}Content-Length: {length}\r\nETag: {tag}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n"
    )
}

fn endless_head(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
    let line = format!("X-Endless: {}\r\n", "a".repeat(1000));
    (0..ENDLESS / line.len()).try_for_each(|_| stream.write_all(line.as_bytes()))
}

fn spoil(mut bytes: Vec<u8>, met: Option<Met<'_>>) -> Vec<u8> {
    let flips = |met: Met<'_>| match met.fault {
        Fault::FlipBit => true,
        Fault::FlipBitOnce => met.before == 0,
        _ => false,
    };
    if met.is_some_and(|met| met.fault == Fault::Truncate) {
        bytes.truncate(bytes.len() * 2 / 3);
    }
    let middle = bytes.len() / 2;
    if let (true, Some(byte)) = (met.is_some_and(flips), bytes.get_mut(middle)) {
        *byte ^= 0x10;
    }
    bytes
}
