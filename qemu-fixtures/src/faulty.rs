//! An HTTP server on 127.0.0.1 that serves a folder, and spoils what it is told to spoil.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// Connections that are served at the same time; the next ones are closed.
const MOST_CONNECTIONS: usize = 16;
/// Of a request's head (bytes).
const LONGEST_HEAD: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The length is announced, half of it sent, the connection closed. Each time, also for a range.
    CloseHalfway,
    /// The last third is missing, and the announced length says so.
    Truncate,
    /// One bit in the middle is flipped.
    FlipBit,
    /// The first answer breaks off halfway. From then on only the rest is to be had: who asks for the whole
    /// again gets 404.
    CutOnce,
    /// So many requests are answered with 404, then all is well.
    MissingAtFirst(usize),
}

/// Files with this in their name have the fault.
pub(crate) type Faults = &'static [(&'static str, Fault)];

/// What is served, and how often each fault was met.
#[derive(Debug)]
struct Site {
    folder: PathBuf,
    faults: Faults,
    met: Vec<AtomicUsize>,
}

impl Site {
    /// The fault of this file, and how often it was met before.
    fn fault(&self, name: &str) -> Option<(Fault, usize)> {
        let mut all = self.faults.iter().zip(&self.met);
        let ((_, fault), met) = all.find(|((part, _), _)| name.contains(part))?;
        Some((*fault, met.fetch_add(1, Ordering::Relaxed)))
    }
}

/// The server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Faulty {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Faulty {
    /// Serves `folder` on a port of its own.
    pub(crate) fn start(folder: PathBuf, faults: Faults) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let met = faults.iter().map(|_| AtomicUsize::new(0)).collect();
        let site = Arc::new(Site { folder, faults, met });
        let thread = std::thread::spawn(move || accept(&listener, &site, &stopped));
        Ok(Self { address, stop, thread: Some(thread) })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, site: &Arc<Site>, stop: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (open, site) = (Arc::clone(&open), Arc::clone(site));
        std::thread::spawn(move || {
            // A peer that goes away is a peer's business.
            let _ = answer(stream, &site);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One request a connection: RFC 9112, as much of it as a client needs to be given a file.
fn answer(mut stream: TcpStream, site: &Site) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(LONGEST_HEAD));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut first = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let header = header.to_ascii_lowercase();
        if let Some(range) = header.strip_prefix("range: bytes=") {
            first = range.split('-').next().and_then(|from| from.trim().parse().ok()).unwrap_or(0);
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let name = path.rsplit('/').next().unwrap_or_default();
    let met = site.fault(name);
    let missing = match met {
        Some((Fault::MissingAtFirst(count), met)) => met < count,
        Some((Fault::CutOnce, met)) => met > 0 && first == 0,
        _ => false,
    };
    let Some(bytes) = read(&site.folder, path).filter(|_| !missing) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let bytes = spoil(bytes, met.map(|(fault, _)| fault));
    let total = bytes.len();
    let Some(body) = bytes.get(first..).filter(|body| first == 0 || !body.is_empty()) else {
        let head = format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n");
        return stream.write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
    };
    let mut head = match first {
        0 => "HTTP/1.1 200 OK\r\n".to_owned(),
        _ => {
            format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{total}\r\n", total - 1)
        }
    };
    // Clients continue only what has an entity tag: RFC 9110, 13.1.5.
    head.push_str(&format!(
        "Content-Length: {}\r\nETag: \"{name}\"\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n",
        body.len()
    ));
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        let cut = matches!(met, Some((Fault::CloseHalfway, _) | (Fault::CutOnce, 0)));
        let sent = if cut { body.len() / 2 } else { body.len() };
        stream.write_all(&body[..sent])?;
    }
    stream.shutdown(Shutdown::Both)
}

fn spoil(mut bytes: Vec<u8>, fault: Option<Fault>) -> Vec<u8> {
    match fault {
        Some(Fault::Truncate) => bytes.truncate(bytes.len() * 2 / 3),
        Some(Fault::FlipBit) => {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x10;
            }
        }
        Some(Fault::CloseHalfway | Fault::CutOnce | Fault::MissingAtFirst(_)) | None => {}
    }
    bytes
}

/// A file below `folder`.
fn read(folder: &Path, path: &str) -> Option<Vec<u8>> {
    let relative = Path::new(path.strip_prefix('/')?);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    std::fs::read(folder.join(relative)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn each_fault_is_what_its_name_says() {
        let folder = std::env::temp_dir().join(format!("phaseboot-faulty-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("stable")).unwrap();
        for name in ["fine", "1.kernel", "1.initramfs", "half", "cut", "late"] {
            std::fs::write(folder.join("stable").join(name), "abcdefghi").unwrap();
        }
        let faults: Faults = &[
            ("kernel", Fault::FlipBit),
            ("initramfs", Fault::Truncate),
            ("half", Fault::CloseHalfway),
            ("cut", Fault::CutOnce),
            ("late", Fault::MissingAtFirst(2)),
        ];
        let server = Faulty::start(folder.clone(), faults).unwrap();
        let body = |name: &str| {
            let answer = get(server.port(), &format!("GET /stable/{name} HTTP/1.1\r\n\r\n"));
            answer.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        assert_eq!(body("fine"), "abcdefghi");
        assert_eq!(body("1.kernel"), "abcdufghi");
        assert_eq!(body("1.initramfs"), "abcdef");
        assert_eq!(body("half"), "abcd");
        assert_eq!([body("cut"), body("cut")], ["abcd", ""]);
        let rest = get(server.port(), "GET /stable/cut HTTP/1.1\r\nRange: bytes=4-\r\n\r\n");
        assert!(rest.ends_with("\r\n\r\nefghi"), "{rest}");
        assert_eq!([body("late"), body("late"), body("late")], ["", "", "abcdefghi"]);
        let ranged = get(server.port(), "GET /stable/fine HTTP/1.1\r\nRange: bytes=7-\r\n\r\n");
        assert!(ranged.starts_with("HTTP/1.1 206") && ranged.ends_with("\r\n\r\nhi"), "{ranged}");
        for path in ["/../etc/passwd", "/stable/none", "//etc/passwd"] {
            assert!(get(server.port(), &format!("GET {path} HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 404"));
        }
        drop(server);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
