//! The sockets of DHCP clients: for IPv4 whole packets or UDP bound to the device, for IPv6 UDP; and
//! the one that solicits routers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recv, recvfrom, sendto,
    socket_with, sockopt,
};

use crate::net::Transport;
use crate::net::frame::{self, CLIENT_PORT, SERVER_PORT};
use crate::sys::packet;

/// Larger than any DHCP message we announce to take, headers included.
const BUFFER: usize = 2048;

/// UDP ports of RFC 8415, section 7.2, and All_DHCP_Relay_Agents_and_Servers of section 7.1.
const CLIENT_PORT_6: u16 = 546;
const SERVER_PORT_6: u16 = 547;
const SERVERS_6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// RFC 4861, sections 4.1 and 6.1.1.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ROUTER_SOLICITATION: u8 = 133;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;

/// The socket of one DHCPv4 client.
#[derive(Debug)]
pub(super) enum Port {
    Packet { socket: packet::Socket, index: u32 },
    Udp { socket: OwnedFd },
}

impl Port {
    /// Opens the socket for a client without an address on the device with this number and name.
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
        Self::open_udp(name)
    }

    /// Opens the socket for a client with an address: while it is open, the kernel does not tell
    /// servers that nobody listens.
    pub(super) fn open_udp(name: &str) -> Result<Self, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        packet::bind_to_device(socket.as_fd(), name)?;
        // Another client of the system may hold the port on another device.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
        sockopt::set_socket_broadcast(&socket, true)?;
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

    /// Sends a DHCP message to one server, RENEWING (RFC 2131, section 4.3.2) or a DHCPRELEASE (section
    /// 4.4.4). The routes of the lease make the leased address its source. A socket of its own, bound to
    /// that address, would take the answer with it.
    pub(super) fn send_to(&self, server: Ipv4Addr, message: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Packet { .. } => Err(Errno::ADDRINUSE),
            Self::Udp { socket } => {
                sendto(socket, message, SendFlags::empty(), &SocketAddrV4::new(server, SERVER_PORT))
                    .map(|_| ())
            }
        }
    }

    /// Whether something still waits to leave.
    pub(super) fn is_sending(&self) -> bool {
        match self {
            Self::Packet { .. } => false,
            Self::Udp { socket } => packet::unsent(socket.as_fd()).is_ok_and(|bytes| bytes > 0),
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
            Self::Packet { socket, .. } => socket.as_fd(),
            Self::Udp { socket } => socket.as_fd(),
        }
    }
}

/// The socket of one DHCPv6 client.
#[derive(Debug)]
pub(super) struct Port6 {
    socket: OwnedFd,
    index: u32,
}

impl Port6 {
    pub(super) fn open(index: u32, name: &str) -> Result<Self, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        packet::bind_to_device(socket.as_fd(), name)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_ipv6_v6only(&socket, true)?;
        bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_PORT_6, 0, 0))?;
        Ok(Self { socket, index })
    }

    /// The kernel sends to a group of the link from its link-local address: RFC 6724, rule 2.
    pub(super) fn send(&self, message: &[u8]) -> Result<(), Errno> {
        let servers = SocketAddrV6::new(SERVERS_6, SERVER_PORT_6, 0, self.index);
        sendto(&self.socket, message, SendFlags::empty(), &servers).map(|_| ())
    }

    /// The next message, with its sender. EAGAIN: there is none.
    pub(super) fn receive(&self) -> Result<Option<(Ipv6Addr, Vec<u8>)>, Errno> {
        let mut buffer = vec![0; BUFFER];
        let (length, _, sender) = recvfrom(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        buffer.truncate(length);
        let sender = sender.and_then(|sender| SocketAddrV6::try_from(sender).ok());
        Ok(sender.map(|sender| (*sender.ip(), buffer)))
    }
}

impl AsFd for Port6 {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks the routers of a link to speak now: RFC 4861, section 6.3.7. The kernel does so by itself, but
/// not at the moment when a switch port begins to forward.
pub(super) fn solicit_routers(index: u32, name: &str, mac: [u8; 6]) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6))?;
    packet::bind_to_device(socket.as_fd(), name)?;
    sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    // The kernel fills in the checksum: RFC 3542, section 3.1.
    let mut message = vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0, SOURCE_LINK_LAYER_ADDRESS, 1];
    message.extend_from_slice(&mac);
    let routers = SocketAddrV6::new(ALL_ROUTERS, 0, 0, index);
    sendto(&socket, &message, SendFlags::empty(), &routers).map(|_| ())
}
