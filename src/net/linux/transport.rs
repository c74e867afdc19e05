//! The socket of one DHCP client: whole packets, or UDP bound to the device.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, recvfrom, sendto, socket_with,
    sockopt,
};

use crate::net::Transport;
use crate::net::frame::{self, CLIENT_PORT, SERVER_PORT};
use crate::sys::packet;

/// Larger than any DHCP message we announce to take, headers included.
const BUFFER: usize = 2048;

#[derive(Debug)]
pub(super) enum Port {
    Packet { socket: OwnedFd, index: u32 },
    Udp { socket: OwnedFd },
}

impl Port {
    /// Opens the socket for the device with this number and name.
    pub(super) fn open(transport: Transport, index: u32, name: &str) -> Result<Self, Errno> {
        if transport != Transport::Udp {
            match packet::open(index) {
                Ok(socket) => return Ok(Self::Packet { socket, index }),
                Err(Errno::AFNOSUPPORT) if transport == Transport::Auto => {
                    log::debug!("{name}: no AF_PACKET in this kernel, using UDP");
                }
                Err(other) => return Err(other),
            }
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        packet::bind_to_device(socket.as_fd(), name)?;
        sockopt::set_socket_broadcast(&socket, true)?;
        // Another client of the system may hold the port on another device.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
        Ok(Self::Udp { socket })
    }

    /// Whether an answer to an address that is not set yet would be lost.
    pub(super) fn needs_broadcast(&self) -> bool {
        matches!(self, Self::Udp { .. })
    }

    /// Broadcasts a DHCP message.
    pub(super) fn send(&self, message: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Packet { socket, index } => {
                let packet = frame::broadcast(message).ok_or(Errno::MSGSIZE)?;
                packet::send_broadcast(socket.as_fd(), *index, &packet)
            }
            Self::Udp { socket } => {
                let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
                sendto(socket, message, SendFlags::empty(), &everybody).map(|_| ())
            }
        }
    }

    /// The next message that has arrived, with its sender; None for a packet that is not ours.
    /// EAGAIN: there is none.
    pub(super) fn receive(&self) -> Result<Option<(Ipv4Addr, Vec<u8>)>, Errno> {
        let mut buffer = vec![0; BUFFER];
        match self {
            Self::Packet { socket, .. } => {
                let (length, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
                let datagram = buffer.get(..length).and_then(frame::parse);
                Ok(datagram.map(|datagram| (datagram.source, datagram.payload.to_vec())))
            }
            Self::Udp { socket } => {
                let (length, _, sender) = recvfrom(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
                buffer.truncate(length);
                let sender = sender.and_then(|sender| SocketAddrV4::try_from(sender).ok());
                Ok(sender.map(|sender| (*sender.ip(), buffer)))
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Packet { socket, .. } | Self::Udp { socket } => socket.as_fd(),
        }
    }
}
