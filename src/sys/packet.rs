//! Sockets for one network device: AF_PACKET for DHCP, for spanning tree and for any traffic, and
//! the device binding of other sockets. packet(7), socket(7).

use std::mem::{ManuallyDrop, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sys::memfd::last_errno;
use crate::threads;

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

/// ARP, IPv4 and IPv6 that neither this machine nor the port itself, with the address `port`, sends: what
/// a switch port lets through only when it forwards. Ends with how much is kept: one byte, or nothing.
const fn traffic(port: [u8; 6]) -> [libc::sock_filter; 12] {
    let [a, b, c, d, e, f] = port;
    [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, ANCILLARY + 4), // packet type
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 9, 0, 4),            // PACKET_OUTGOING
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, LINK_LAYER + 6), // source
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 2, u32::from_be_bytes([a, b, c, d])),
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, LINK_LAYER + 10),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 5, 0, u32::from_be_bytes([0, 0, e, f])),
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, ANCILLARY), // protocol
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, 0, 0x0800),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, 0x0806),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0x86dd),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// `SKF_AD_OFF` and `SKF_LL_OFF` of linux/filter.h: -0x1000 and -0x200000.
const ANCILLARY: u32 = 0xffff_f000;
const LINK_LAYER: u32 = 0xffe0_0000;

/// An AF_PACKET socket.
///
/// To close one takes until every CPU is done with the packets that it has in hand: 4 to 24 ms
/// (synchronize_net() of packet_release(), net/packet/af_packet.c). Whoever drops one does not wait for that: a
/// thread does, and those of several sockets wait at the same time.
#[derive(Debug)]
pub struct Socket(ManuallyDrop<OwnedFd>);

/// Of a thread that only closes a socket, in bytes.
const STACK: usize = 64 * 1024;

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: the field is not used after this.
        let socket = unsafe { ManuallyDrop::take(&mut self.0) };
        // Where there can be no thread, it is closed here.
        let _ = threads::spawn("closer", STACK, Box::new(move || drop(socket)));
    }
}

/// Opens a non-blocking AF_PACKET socket that receives, from the IPv4 header on, what reaches UDP
/// port 68 of the device with number `index`. EAFNOSUPPORT: the kernel has no CONFIG_PACKET.
pub fn open(index: u32) -> Result<Socket, Errno> {
    open_for(index, IPV4, &mut { DHCP_REPLIES })
}

/// Opens one that has something to read once traffic passes the switch's port with the address `port` to the
/// device with number `index`.
pub fn open_traffic(index: u32, port: [u8; 6]) -> Result<Socket, Errno> {
    open_for(index, ALL, &mut traffic(port))
}

/// The groups of bridges: of IEEE 802.1D, table 7-10, and of Cisco's trees of single VLANs.
const BRIDGES: [[u8; 8]; 2] = [[0x01, 0x80, 0xc2, 0, 0, 0, 0, 0], [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd, 0, 0]];

/// Opens one that receives, from the LLC header on, what bridges say to each other on the device with
/// number `index`.
pub fn open_bridge_groups(index: u32) -> Result<Socket, Errno> {
    let socket = open_for(index, LLC, &mut [])?;
    BRIDGES.iter().try_for_each(|group| join(socket.as_fd(), index, *group))?;
    Ok(socket)
}

fn join(socket: BorrowedFd<'_>, index: u32, mr_address: [u8; 8]) -> Result<(), Errno> {
    let mr_ifindex = i32::try_from(index).map_err(|_| Errno::NODEV)?;
    let group = libc::packet_mreq { mr_ifindex, mr_type: MULTICAST, mr_alen: 6, mr_address };
    // SAFETY: `group` is a packet_mreq of the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const group).cast(),
            length_of::<libc::packet_mreq>(),
        )
    };
    check(result)
}

fn open_for(index: u32, protocol: u16, filter: &mut [libc::sock_filter]) -> Result<Socket, Errno> {
    // Without a protocol it receives nothing until it is bound, so nothing slips past the filter.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket =
        Socket(ManuallyDrop::new(socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?));
    if !filter.is_empty() {
        attach(socket.as_fd(), filter)?;
    }
    let address = broadcast_address(index, protocol)?;
    // SAFETY: `address` is a sockaddr_ll of the length that is given.
    let result = unsafe {
        libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_ll>())
    };
    check(result)?;
    Ok(socket)
}

fn attach(socket: BorrowedFd<'_>, filter: &mut [libc::sock_filter]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
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
    check(result)
}

/// Sends one IPv4 packet as a link-layer broadcast from the device with number `index`.
pub fn send_broadcast(socket: BorrowedFd<'_>, index: u32, packet: &[u8]) -> Result<(), Errno> {
    let address = broadcast_address(index, IPV4)?;
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

/// Receives a frame, as far as `buffer` holds it: its length there, and who sent it.
pub fn receive_from(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, [u8; 6]), Errno> {
    let mut address = broadcast_address(0, 0)?;
    let mut length = length_of::<libc::sockaddr_ll>();
    // SAFETY: `buffer` and `address` are writable for the lengths that are given.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    let received = usize::try_from(received).map_err(|_| last_errno())?;
    let [a, b, c, d, e, f, ..] = address.sll_addr;
    Ok((received, [a, b, c, d, e, f]))
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

/// The bytes that a UDP socket has sent and that have not left this machine: while the link-layer address
/// of their destination is looked for, say. Of a TCP socket: that were not acknowledged yet. SIOCOUTQ of udp(7)
/// and tcp(7).
pub fn unsent(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ, writes one int.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// AF_PACKET, and protocols of linux/if_ether.h, as `sockaddr_ll` has them: packet(7).
const FAMILY: libc::c_ushort = 17;
const IPV4: u16 = 0x0800;
const ALL: u16 = 0x0003;
const LLC: u16 = 0x0004;

/// PACKET_MR_MULTICAST of linux/if_packet.h.
const MULTICAST: libc::c_ushort = 0;

fn broadcast_address(index: u32, protocol: u16) -> Result<libc::sockaddr_ll, Errno> {
    Ok(libc::sockaddr_ll {
        sll_family: FAMILY,
        sll_protocol: protocol.to_be(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn what_is_dropped_is_closed_soon() {
        let socket = match open(1) {
            Ok(socket) => socket,
            Err(errno) => return println!("skipped: no packet socket: {errno}"),
        };
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino.to_string();
        let is_open = || {
            let sockets = std::fs::read_to_string("/proc/net/packet").unwrap();
            sockets.lines().any(|line| line.split_ascii_whitespace().last() == Some(&inode))
        };
        assert!(is_open());
        drop(socket);
        let closed = |_| {
            thread::sleep(Duration::from_millis(10));
            !is_open()
        };
        assert!((0..500).any(closed));
    }
}
