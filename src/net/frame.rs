//! IPv4 and UDP around a DHCP message, for sockets that carry whole packets: RFC 791, RFC 768.

use std::net::Ipv4Addr;

/// UDP ports of RFC 2131, section 4.1.
pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;

const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// What came for the client's port.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) source: Ipv4Addr,
    pub(super) payload: &'a [u8],
}

/// A broadcast from a client that has no address yet: 0.0.0.0 port 68 to 255.255.255.255 port 67.
/// None if the payload does not fit into one packet.
pub(super) fn broadcast(payload: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(payload.len().checked_add(UDP_HEADER)?).ok()?;
    let total = udp_length.checked_add(u16::try_from(IPV4_HEADER).ok()?)?;
    let (source, destination) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);

    let mut udp = Vec::with_capacity(usize::from(udp_length));
    for field in [CLIENT_PORT, SERVER_PORT, udp_length, 0] {
        udp.extend_from_slice(&field.to_be_bytes());
    }
    udp.extend_from_slice(payload);
    // A sum of zero is sent as all ones: zero says that there is none.
    let checksum = match !fold(sum(pseudo_header(source, destination, udp_length), &udp)) {
        0 => 0xffff,
        checksum => checksum,
    };
    udp.get_mut(6..8)?.copy_from_slice(&checksum.to_be_bytes());

    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, UDP, 0, 0]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let checksum = !fold(sum(0, &packet));
    packet.get_mut(10..12)?.copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(&udp);
    Some(packet)
}

/// The datagram in an IPv4 packet, if it is a whole one for UDP port 68 with right checksums.
///
/// A sender on the same machine (QEMU's host, a veth peer) leaves the UDP checksum to hardware that
/// is not there: the field then holds the sum of the pseudo header alone, and that is accepted.
pub(super) fn parse(packet: &[u8]) -> Option<Datagram<'_>> {
    let first = *packet.first()?;
    let header_length = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_length < IPV4_HEADER {
        return None;
    }
    let total = usize::from(field(packet, 2)?);
    // Short packets are padded by the link: what lies behind the total length is not the sender's.
    let packet = packet.get(..total)?;
    let (header, udp) = packet.split_at_checked(header_length)?;
    let fragmented = field(header, 6)? & 0x3fff != 0;
    if fragmented || *header.get(9)? != UDP || fold(sum(0, header)) != 0xffff {
        return None;
    }
    let source = address(header, 12)?;
    let destination = address(header, 16)?;

    let udp_length = field(udp, 4)?;
    let udp = udp.get(..usize::from(udp_length))?;
    let payload = udp.get(UDP_HEADER..)?;
    if field(udp, 2)? != CLIENT_PORT {
        return None;
    }
    let pseudo = pseudo_header(source, destination, udp_length);
    let checksum = field(udp, 6)?;
    let right = checksum == 0 || fold(sum(pseudo, udp)) == 0xffff || checksum == fold(pseudo);
    right.then_some(Datagram { source, payload })
}

fn field(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().copied().map(Ipv4Addr::from)
}

fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, udp_length: u16) -> u32 {
    let addresses = sum(sum(0, &source.octets()), &destination.octets());
    addresses + u32::from(UDP) + u32::from(udp_length)
}

/// Adds big-endian 16-bit words; at most 64 kB, so that 32 bits hold the sum.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum.wrapping_add(u32::from(u16::from_be_bytes([high, low])))
    })
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    (twice & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet from a server, as `broadcast` would make it in the other direction.
    fn from_server(payload: &[u8]) -> Vec<u8> {
        let mut packet = broadcast(payload).unwrap();
        // The ports trade places and so do the checksums' contributions: both sums stay right.
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet
    }

    #[test]
    fn a_packet_of_ours_seen_by_tcpdump() {
        // tcpdump -vv of this packet: "0.0.0.0.68 > 255.255.255.255.67: [udp sum ok]".
        let packet = broadcast(b"abc").unwrap();
        assert_eq!(
            packet,
            [
                0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0x7a, 0xcf, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67,
                0, 11, 0x3a, 0xef, b'a', b'b', b'c'
            ]
        );
    }

    #[test]
    fn finished_unfinished_and_absent_checksums_are_accepted_and_wrong_ones_are_not() {
        let good = from_server(b"payload");
        assert_eq!(parse(&good).unwrap().payload, b"payload");
        let with = |checksum: u16| {
            let mut packet = good.clone();
            packet[26..28].copy_from_slice(&checksum.to_be_bytes());
            packet
        };
        assert!(parse(&with(0)).is_some());
        let unfinished = fold(pseudo_header(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 15));
        assert!(parse(&with(unfinished)).is_some());
        assert!(parse(&with(0x1234)).is_none());
    }

    #[test]
    fn padding_is_cut_and_truncation_refused() {
        let mut packet = from_server(b"payload");
        let whole = packet.clone();
        packet.extend_from_slice(&[0; 30]);
        assert_eq!(parse(&packet), parse(&whole));
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn fragments_other_protocols_and_other_ports_are_not_ours() {
        let resummed = |at: usize, value: u8| {
            let mut packet = from_server(b"payload");
            packet[at] = value;
            packet[10..12].fill(0);
            let checksum = !fold(sum(0, &packet[..20]));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            packet
        };
        assert!(parse(&resummed(1, 0x10)).is_some());
        assert!(parse(&resummed(6, 0x40)).is_some(), "don't fragment");
        assert!(parse(&resummed(6, 0x20)).is_none(), "more fragments");
        assert!(parse(&resummed(7, 1)).is_none(), "fragment offset");
        assert!(parse(&resummed(9, 6)).is_none(), "TCP");
        assert!(parse(&resummed(0, 0x65)).is_none(), "version 6");
        assert!(parse(&broadcast(b"to a server").unwrap()).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_change_to_a_packet_panics(at in 0usize..60, value: u8, length in 0usize..60) {
            let mut packet = from_server(&[7; 32]);
            if let Some(byte) = packet.get_mut(at) { *byte = value; }
            packet.truncate(length);
            let _ = parse(&packet);
        }

        #[test]
        fn payloads_survive(payload in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let packet = from_server(&payload);
            prop_assert_eq!(parse(&packet).map(|d| d.payload.to_vec()), Some(payload));
        }
    }
}
