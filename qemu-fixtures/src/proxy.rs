//! An HTTP proxy that knows one server, under whatever name it is asked for: RFC 9110, 9.3.6 (CONNECT) and
//! RFC 9112, 3.2.2 (the absolute form).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::listener::Listener;

const PATIENCE: Duration = Duration::from_secs(20);
/// Of a request's head (bytes).
const LONGEST_HEAD: u64 = 16 * 1024;

/// A proxy on 127.0.0.1 in front of that port there, until it is dropped.
pub(crate) fn start(server: u16) -> Result<Listener> {
    Listener::start((Ipv4Addr::LOCALHOST, 0).into(), move |client| {
        // A peer that goes away is a peer's business.
        let _ = serve(client, server);
    })
}

fn serve(mut client: TcpStream, server: u16) -> std::io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = reader.by_ref().take(LONGEST_HEAD);
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut fields = String::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            fields.push_str(&line);
        }
    }
    let words: Vec<&str> = request.split_whitespace().collect();
    match words.as_slice() {
        ["CONNECT", ..] => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        [method, url, ..] if url.starts_with("http://") => {
            let path = url.splitn(4, '/').nth(3).unwrap_or_default();
            write!(&server, "{method} /{path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")?;
        }
        _ => {
            return client
                .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    }
    let (mut to_server, mut from_server) = (server.try_clone()?, server);
    let upwards = thread::spawn(move || {
        let _ = std::io::copy(&mut reader, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let downwards = std::io::copy(&mut from_server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = upwards.join();
    downwards.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::Faulty;

    #[test]
    fn both_ways_lead_to_the_server() {
        let folder = std::env::temp_dir().join(format!("phaseboot-proxy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("file"), "content").unwrap();
        let server = Faulty::start(folder.clone(), &[], (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let proxy = start(server.port()).unwrap();
        let ask = |request: &str| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let absolute = ask("GET http://name.test/file HTTP/1.1\r\nHost: name.test\r\n\r\n");
        assert!(absolute.starts_with("HTTP/1.1 200") && absolute.ends_with("content"), "{absolute}");
        let tunnel = ask("CONNECT name.test:80 HTTP/1.1\r\n\r\nGET /file HTTP/1.1\r\n\r\n");
        assert!(
            tunnel.contains("established\r\n\r\nHTTP/1.1 200") && tunnel.ends_with("content"),
            "{tunnel}"
        );
        assert!(ask("GET /file HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400"));
        drop(server);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
