//! Sockets for one network device: AF_PACKET with a filter for DHCP, and the device binding that a
//! UDP socket needs where the kernel has no AF_PACKET. packet(7), socket(7).

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sys::memfd::last_errno;

/// IPv4 packets (without fragments) that carry UDP to port 68. Classic BPF, offsets from the IPv4
/// header: Documentation/networking/filter.rst.
const DHCP_REPLIES: [libc::sock_filter; 9] = [
    instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 9), // protocol
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 6, 17), // UDP
    instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 6), // fragment offset
    instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 4, 0, 0x1fff),
    instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0), // x = header length
    instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),  // destination port
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 68),
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0xffff),
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
];

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    #[expect(clippy::cast_possible_truncation, reason = "BPF codes are 16 bits: linux/filter.h")]
    let code = code as u16;
    libc::sock_filter { code, jt, jf, k }
}

/// Opens a non-blocking AF_PACKET socket that receives, from the IPv4 header on, what reaches UDP
/// port 68 of the device with number `index`. EAFNOSUPPORT: the kernel has no CONFIG_PACKET.
pub fn open(index: u32) -> Result<OwnedFd, Errno> {
    // Without a protocol it receives nothing until it is bound, so nothing slips past the filter.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
    let mut filter = DHCP_REPLIES;
    #[expect(clippy::cast_possible_truncation, reason = "nine instructions")]
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` describes `filter`, which outlives the call; the kernel copies it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length_of::<libc::sock_fprog>(),
        )
    };
    check(result)?;
    let address = broadcast_address(index)?;
    // SAFETY: `address` is a sockaddr_ll of the length that is given.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_ll>())
    };
    check(result)?;
    Ok(socket)
}

/// Sends one IPv4 packet as a link-layer broadcast from the device with number `index`.
pub fn send_broadcast(socket: BorrowedFd<'_>, index: u32, packet: &[u8]) -> Result<(), Errno> {
    let address = broadcast_address(index)?;
    // SAFETY: `packet` and `address` are readable for the lengths that are given.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Ties a socket to the device `name`: SO_BINDTODEVICE of socket(7).
pub fn bind_to_device(socket: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(name.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `name` is readable for `length` bytes; the kernel ends it itself.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            length,
        )
    };
    check(result)
}

/// AF_PACKET and ETH_P_IP as `sockaddr_ll` has them: packet(7).
const FAMILY: libc::c_ushort = 17;
const IPV4: u16 = 0x0800;

fn broadcast_address(index: u32) -> Result<libc::sockaddr_ll, Errno> {
    Ok(libc::sockaddr_ll {
        sll_family: FAMILY,
        sll_protocol: IPV4.to_be(),
        sll_ifindex: i32::try_from(index).map_err(|_| Errno::NODEV)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    })
}

#[expect(clippy::cast_possible_truncation, reason = "structures of a few bytes")]
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
