//! Requests to the kernel and events from it: netlink(7), rtnetlink(7).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::timespec;

/// The kernel never fills a larger buffer: NLMSG_GOODSIZE and the 32 kB of netlink_dump().
const BUFFER: usize = 32 * 1024;

/// The kernel answers within the request; this is for a kernel that does not.
const ANSWER: Duration = Duration::from_secs(5);

/// What is listened to: `enum rtnetlink_groups` of linux/rtnetlink.h.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_IFINFO,
    libc::RTNLGRP_IPV6_PREFIX,
    libc::RTNLGRP_ND_USEROPT,
];

/// A connection to the kernel's routing subsystem. Only the kernel can send to it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message from the kernel.
pub(super) struct Incoming {
    pub(super) kind: u16,
    pub(super) payload: Vec<u8>,
}

impl Netlink {
    /// A connection for requests.
    pub(super) fn connect() -> Result<Self, Errno> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(errno)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(errno)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(errno)?;
        socket.set_non_blocking(true).map_err(errno)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// A connection that hears of every change of a link, and of what IPv6 routers bring about.
    pub(super) fn listen() -> Result<Self, Errno> {
        let netlink = Self::connect()?;
        for group in GROUPS {
            netlink.socket.add_membership(group).map_err(errno)?;
        }
        Ok(netlink)
    }

    /// Asks for a change and waits for its acknowledgement. `flags` are NLM_F_* beyond the usual.
    pub(super) fn change(
        &mut self,
        kind: u16,
        flags: u16,
        header: &impl Emitable,
        attributes: &[DefaultNla],
    ) -> Result<(), Errno> {
        let sequence = self.send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, header, attributes)?;
        self.answers(sequence, &mut |_| {})
    }

    /// Asks for a list and hands over each of its messages.
    pub(super) fn list(
        &mut self,
        kind: u16,
        header: &impl Emitable,
        found: &mut dyn FnMut(Incoming),
    ) -> Result<(), Errno> {
        let sequence = self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, header, &[])?;
        self.answers(sequence, found)
    }

    /// Hands over what has arrived without waiting. ENOBUFS: events were lost.
    pub(super) fn arrived(&mut self, found: &mut dyn FnMut(Incoming)) -> Result<(), Errno> {
        loop {
            match self.receive() {
                Ok(datagram) => messages(datagram, &mut |_, incoming| found(incoming)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(other) => return Err(other),
            }
        }
    }

    fn send(
        &mut self,
        kind: u16,
        flags: u16,
        header: &impl Emitable,
        attributes: &[DefaultNla],
    ) -> Result<u32, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut outer = NetlinkHeader::default();
        let [first, second, third] = [outer.buffer_len(), header.buffer_len(), attributes.buffer_len()];
        let total = first + second + third;
        outer.length = u32::try_from(total).map_err(|_| Errno::MSGSIZE)?;
        outer.message_type = kind;
        outer.flags = flags;
        outer.sequence_number = self.sequence;
        let mut message = vec![0; total];
        let (start, rest) = message.split_at_mut(first);
        let (middle, end) = rest.split_at_mut(second);
        outer.emit(start);
        header.emit(middle);
        attributes.emit(end);
        self.socket.send(&message, 0).map_err(errno)?;
        Ok(self.sequence)
    }

    /// Reads until the request `sequence` is answered to its end.
    fn answers(&mut self, sequence: u32, found: &mut dyn FnMut(Incoming)) -> Result<(), Errno> {
        loop {
            let datagram = match self.receive() {
                Ok(datagram) => datagram,
                Err(Errno::AGAIN) => {
                    let mut wait = [PollFd::new(&self.socket, PollFlags::IN)];
                    match poll(&mut wait, Some(&timespec(ANSWER))) {
                        Ok(0) => return Err(Errno::TIMEDOUT),
                        Ok(_) | Err(Errno::INTR) => continue,
                        Err(other) => return Err(other),
                    }
                }
                Err(Errno::INTR) => continue,
                Err(other) => return Err(other),
            };
            let mut end = None;
            messages(datagram, &mut |answered, incoming| {
                if answered != sequence || end.is_some() {
                    return;
                }
                match incoming.kind {
                    NLMSG_ERROR | NLMSG_DONE => end = Some(result(&incoming.payload)),
                    _ => found(incoming),
                }
            });
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn receive(&mut self) -> Result<&[u8], Errno> {
        let length = self.socket.recv(&mut self.buffer.as_mut_slice(), 0).map_err(errno)?;
        Ok(self.buffer.get(..length).unwrap_or_default())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Splits a datagram into its messages, each with its sequence number.
fn messages(mut datagram: &[u8], found: &mut dyn FnMut(u32, Incoming)) {
    while let Ok(message) = NetlinkBuffer::new_checked(&datagram) {
        let incoming = Incoming { kind: message.message_type(), payload: message.payload().to_vec() };
        found(message.sequence_number(), incoming);
        // Messages start at multiples of four bytes: NLMSG_ALIGN.
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        datagram =
            length.checked_next_multiple_of(4).and_then(|next| datagram.get(next..)).unwrap_or_default();
    }
}

/// The first field of NLMSG_ERROR and NLMSG_DONE: zero or a negated errno.
fn result(payload: &[u8]) -> Result<(), Errno> {
    match payload.first_chunk().copied().map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => {
            Err(Errno::from_raw_os_error(code.checked_neg().filter(|&code| code > 0).unwrap_or(libc::EIO)))
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// One attribute of a request.
pub(super) fn attribute(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

/// An attribute that holds others.
pub(super) fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; inner.buffer_len()];
    inner.emit(&mut value);
    DefaultNla::new(kind, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::Link;
    use netlink_packet_route::link::LinkHeader;

    #[test]
    fn the_kernel_tells_settings_as_its_files_do() {
        let mut links = Vec::new();
        let add = &mut |incoming: Incoming| links.extend(Link::parse(&incoming.payload));
        Netlink::connect().unwrap().list(libc::RTM_GETLINK, &LinkHeader::default(), add).unwrap();
        assert!(!links.is_empty());
        let mut same = 0;
        for (link, room, name) in links
            .iter()
            .flat_map(|link| Link::settings().map(move |(room, name)| (link, ["ipv4", "ipv6"][room], name)))
        {
            let path = format!("/proc/sys/net/{room}/conf/{}/{name}", link.name());
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            if let Some(value) = link.setting(name) {
                assert_eq!(text.trim(), value.to_string(), "{path}");
                same += 1;
            }
        }
        assert!(same > 0);
    }
}
