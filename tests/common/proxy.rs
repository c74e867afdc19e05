//! An HTTP proxy that keeps what it is asked.

use std::io::{Read, Write, copy};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Serves at most 50 connections; the head of each request it got. Where it makes no tunnels, its answer to
/// who wants one does not end.
pub(crate) fn proxy_on(address: &str, tunnels: bool) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let kept = heads.clone();
    thread::spawn(move || {
        for mut client in listener.incoming().take(50).flatten() {
            let kept = kept.clone();
            thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if client.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                kept.lock().unwrap().push(head.clone());
                let target = head.split(' ').nth(1).unwrap();
                if head.starts_with("CONNECT ") && !tunnels {
                    let mut answer = b"HTTP/1.1 200 OK\r\nX: ".iter().chain([b'x'; 100].iter());
                    answer.all(|&byte| {
                        thread::sleep(Duration::from_millis(200));
                        client.write_all(&[byte]).is_ok()
                    });
                    return;
                }
                let (authority, path) = match target.strip_prefix("http://") {
                    Some(rest) => rest.split_at(rest.find('/').unwrap()),
                    None => (target, ""),
                };
                let mut server = TcpStream::connect(authority).unwrap();
                if head.starts_with("CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                } else {
                    let (_, rest) = head.split_once("\r\n").unwrap();
                    write!(server, "GET {path} HTTP/1.1\r\n{rest}").unwrap();
                }
                let (mut there, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || copy(&mut there, &mut server));
                let _ = copy(&mut back, &mut client);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (port, heads)
}
