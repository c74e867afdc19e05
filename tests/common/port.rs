//! Ports of a test's own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A port that the kernel gives to nobody else while this is kept, neither to who listens nor to who
/// connects. It refuses connections until somebody who names it listens there.
pub(crate) struct Port {
    pub(crate) address: SocketAddrV4,
    _socket: OwnedFd,
}

impl Port {
    pub(crate) fn on(ip: Ipv4Addr) -> Self {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        // Servers set it as well: so both may have the port as long as this one does not listen.
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddrV4::new(ip, 0)).unwrap();
        let address = getsockname(&socket).unwrap().try_into().unwrap();
        Self { address, _socket: socket }
    }
}
