//! A TCP connection to one of several addresses, tried fast: RFC 8305.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use log::debug;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use crate::sys::packet;
use crate::time::Deadline;

/// The next address is tried when the last has not answered for this long: RFC 8305, section 5.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Sent bytes that nobody acknowledges for this long break the connection: tcp(7), TCP_USER_TIMEOUT.
const UNACKNOWLEDGED_MS: u32 = 20_000;
/// An idle connection is probed after this, so that a dead one is known before it is used again.
const PROBE: Duration = Duration::from_secs(5);

/// A connection to the first of `addresses` that takes one, each begun soon after the one before.
pub(in crate::provider) fn dial(
    addresses: &[SocketAddr],
    device: Option<&str>,
    limit: Duration,
) -> io::Result<TcpStream> {
    let until = Deadline::after(limit).instant();
    let mut waiting: Vec<(SocketAddr, OwnedFd)> = Vec::new();
    let mut failures: Vec<(SocketAddr, io::Error)> = Vec::new();
    let mut addresses = addresses.iter();
    let mut next_start = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next_start || waiting.is_empty() {
            match addresses.next() {
                Some(&address) => match begin(address, device) {
                    Ok(socket) => {
                        waiting.push((address, socket));
                        next_start = now + NEXT_ADDRESS;
                    }
                    Err(errno) => failures.push((address, errno.into())),
                },
                None if waiting.is_empty() => break,
                None => next_start = until,
            }
            if waiting.is_empty() {
                continue;
            }
        }
        if now >= until {
            let silent = |(address, _)| (address, io::Error::from(io::ErrorKind::TimedOut));
            failures.extend(waiting.drain(..).map(silent));
            break;
        }
        let pause = next_start.min(until).saturating_duration_since(now);
        let timeout = Timespec::try_from(pause).map_err(io::Error::other)?;
        let mut polled: Vec<PollFd<'_>> =
            waiting.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::OUT)).collect();
        match poll(&mut polled, Some(&timeout)) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        for index in (0..ready.len()).rev().filter(|&index| ready.get(index) == Some(&true)) {
            let (address, socket) = waiting.swap_remove(index);
            match sockopt::socket_error(&socket)? {
                Ok(()) => return ready_stream(socket),
                Err(errno) => {
                    failures.push((address, errno.into()));
                    // What failed makes way for the next at once.
                    next_start = now;
                }
            }
        }
    }
    Err(no_connection(&failures))
}

fn no_connection(failures: &[(SocketAddr, io::Error)]) -> io::Error {
    let reason = |error: &io::Error| match error.kind() {
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => Errno::from_io_error(error).map_or_else(|| error.to_string(), words),
    };
    let each: Vec<String> =
        failures.iter().map(|(address, error)| format!("{address}: {}", reason(error))).collect();
    let kind = failures.last().map_or(io::ErrorKind::NotConnected, |(_, error)| error.kind());
    io::Error::new(kind, format!("no connection to {}", each.join(", ")))
}

/// The system's words for an error, without the number that std adds.
fn words(errno: Errno) -> String {
    let text = errno.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Begins to connect, without waiting.
pub(super) fn begin(address: SocketAddr, device: Option<&str>) -> Result<OwnedFd, Errno> {
    let socket = socket(SocketType::STREAM, address, device)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// Whether a socket of `device` could have `address`.
pub(super) fn is_ours(mut address: SocketAddr, device: Option<&str>) -> bool {
    address.set_port(0);
    let bound = socket(SocketType::DGRAM, address, device).and_then(|socket| bind(&socket, &address));
    !matches!(bound, Err(Errno::ADDRNOTAVAIL | Errno::NODEV))
}

/// One for `address` that is bound to `device`, if it is allowed to. A loopback address has none.
fn socket(kind: SocketType, address: SocketAddr, device: Option<&str>) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    if let Some(device) = device.filter(|_| !address.ip().to_canonical().is_loopback()) {
        match packet::bind_to_device(socket.as_fd(), device) {
            Err(errno @ (Errno::PERM | Errno::NOPROTOOPT)) => {
                debug!("a socket cannot be bound to {device}: {errno}; it takes the routes as they are");
            }
            other => other?,
        }
    }
    Ok(socket)
}

/// A connected socket, made ready for use.
fn ready_stream(socket: OwnedFd) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    // Without these it works too, only a dead peer is noticed later.
    let _ = sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS);
    let _ = sockopt::set_tcp_keepidle(&stream, PROBE);
    let _ = sockopt::set_tcp_keepintvl(&stream, PROBE);
    let _ = sockopt::set_socket_keepalive(&stream, true);
    Ok(stream)
}
