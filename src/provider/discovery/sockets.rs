//! UDP sockets of one uplink.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::sys::packet;

/// The largest message that multicast DNS knows: RFC 6762, section 17.
const BUFFER: usize = 9000;

/// Opens a non-blocking one that is bound to `device`, unless that has no name.
pub(super) fn open(family: AddressFamily, device: &str) -> Result<UdpSocket, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    if !device.is_empty() {
        packet::bind_to_device(socket.as_fd(), device)?;
    }
    Ok(socket.into())
}

/// What arrives next on any of them, and from whom. None if nothing came in time, or what came was an
/// error.
pub(super) fn receive<'a>(
    sockets: impl Iterator<Item = &'a UdpSocket> + Clone,
    until: Instant,
) -> Option<(Vec<u8>, std::net::SocketAddr)> {
    let mut polled: Vec<PollFd<'_>> =
        sockets.clone().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)).collect();
    let wait = until.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    poll(&mut polled, Some(&timeout)).ok()?;
    let ready = polled.iter().position(|polled| !polled.revents().is_empty())?;
    let mut buffer = vec![0; BUFFER];
    let (length, source) = sockets.into_iter().nth(ready)?.recv_from(&mut buffer).ok()?;
    buffer.truncate(length);
    Some((buffer, source))
}

/// The number of a device, 0 if it has none.
pub(super) fn index(device: &str) -> u32 {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    socket.ok().and_then(|socket| netdevice::name_to_index(&socket, device).ok()).unwrap_or(0)
}
