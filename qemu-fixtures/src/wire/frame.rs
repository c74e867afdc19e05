//! Frames as they are on a wire: Ethernet (IEEE 802.3), VLAN tags (802.1Q), and as much of IPv4, UDP and ARP
//! as a DHCP server of one's own needs. Pure.

use std::net::Ipv4Addr;

pub(super) type Mac = [u8; 6];

pub(super) const BROADCAST: Mac = [0xff; 6];
/// Without its check sequence: 1500 bytes after two addresses, a VLAN tag and a type.
pub(super) const LONGEST: usize = 1518;
/// Two addresses and a type.
const HEADER: usize = 14;

pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV4: u16 = 0x0800;
/// Slow protocols: IEEE 802.3, annex 57A.
pub(super) const SLOW: u16 = 0x8809;
const VLAN: u16 = 0x8100;
const UDP: u8 = 17;

pub(super) fn destination(frame: &[u8]) -> Option<Mac> {
    frame.get(..6)?.try_into().ok()
}

pub(super) fn source(frame: &[u8]) -> Option<Mac> {
    frame.get(6..12)?.try_into().ok()
}

/// What comes after the addresses: an EtherType, or a length if it is below 0x600.
pub(super) fn kind(frame: &[u8]) -> Option<u16> {
    word(frame, 12)
}

pub(super) fn payload(frame: &[u8]) -> &[u8] {
    frame.get(HEADER..).unwrap_or_default()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn frame(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    // Shorter ones are no Ethernet: 60 bytes without the check sequence.
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The VLAN of a tagged frame, and the frame without its tag.
pub(super) fn untagged(frame: &[u8]) -> Option<(u16, Vec<u8>)> {
    let tag = (kind(frame)? == VLAN).then(|| word(frame, 14))??;
    let rest = frame.get(16..)?;
    Some((tag & 0xfff, [frame.get(..12)?, rest].concat()))
}

pub(super) fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(frame.len().min(12));
    [addresses, &VLAN.to_be_bytes(), &vlan.to_be_bytes(), rest].concat()
}

/// A UDP datagram over IPv4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    pub(super) source: (Ipv4Addr, u16),
    pub(super) destination: (Ipv4Addr, u16),
    pub(super) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads what an untagged frame carries, if it is an unfragmented datagram; checksums are not looked at.
    pub(super) fn of(frame: &'a [u8]) -> Option<Self> {
        let packet = (kind(frame)? == IPV4).then(|| payload(frame))?;
        let header = usize::from(packet.first()? & 0xf) * 4;
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        // More fragments, or one that is not the first: RFC 791, 3.1.
        if *packet.get(9)? != UDP || word(packet, 6)? & 0x3fff != 0 {
            return None;
        }
        let udp = packet.get(header..)?;
        let payload = udp.get(8..usize::from(word(udp, 4)?))?;
        Some(Self {
            source: (address(12)?, word(udp, 0)?),
            destination: (address(16)?, word(udp, 2)?),
            payload,
        })
    }

    /// The IPv4 packet. Without a UDP checksum, as IPv4 allows: RFC 768.
    pub(super) fn packet(&self) -> Vec<u8> {
        let size = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        let mut packet = vec![0x45, 0];
        packet.extend(size(28 + self.payload.len()));
        packet.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
        packet.extend(self.source.0.octets());
        packet.extend(self.destination.0.octets());
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(self.source.1.to_be_bytes());
        packet.extend(self.destination.1.to_be_bytes());
        packet.extend(size(8 + self.payload.len()));
        packet.extend([0, 0]);
        packet.extend(self.payload);
        packet
    }
}

/// Whether a port on which only DHCP passes takes this frame, which has no tag: what is no IPv4, and DHCP.
pub(super) fn passes_as_dhcp(frame: &[u8]) -> bool {
    let dhcp = |datagram: Datagram<'_>| [67, 68].contains(&datagram.destination.1);
    kind(frame) != Some(IPV4) || Datagram::of(frame).is_some_and(dhcp)
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The answer to a frame that asks who has `address`: RFC 826.
pub(super) fn arp_answer(asked: &[u8], address: Ipv4Addr, mac: Mac) -> Option<Vec<u8>> {
    let request = (kind(asked)? == ARP).then(|| payload(asked))?;
    if word(request, 6)? != 1 || request.get(24..28)? != address.octets() {
        return None;
    }
    let (their_mac, their_address) = (request.get(8..14)?, request.get(14..18)?);
    let mut answer = vec![0, 1, 8, 0, 6, 4, 0, 2];
    answer.extend(mac);
    answer.extend(address.octets());
    answer.extend(their_mac);
    answer.extend(their_address);
    Some(frame(their_mac.try_into().ok()?, mac, ARP, &answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn tags_come_off_as_they_went_on() {
        let plain = frame(A, B, IPV4, b"abc");
        let with = tagged(&plain, 100);
        assert_eq!(with.len(), plain.len() + 4);
        assert_eq!(untagged(&with), Some((100, plain.clone())));
        assert_eq!(untagged(&plain), None);
        assert_eq!((destination(&plain), source(&plain)), (Some(A), Some(B)));
    }

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let source = (Ipv4Addr::new(10, 77, 0, 2), 67);
        let destination = (Ipv4Addr::BROADCAST, 68);
        let packet = Datagram { source, destination, payload: b"hello" }.packet();
        assert_eq!(checksum(&packet[..20]), 0);
        let frame = frame(BROADCAST, A, IPV4, &packet);
        let read = Datagram::of(&frame).unwrap();
        assert_eq!((read.source, read.destination, read.payload), (source, destination, &b"hello"[..]));
        assert!(passes_as_dhcp(&frame));
        let packet = Datagram { source, destination: (Ipv4Addr::BROADCAST, 53), payload: b"" }.packet();
        assert!(!passes_as_dhcp(&super::frame(BROADCAST, A, IPV4, &packet)));
        assert!((0..frame.len()).all(|end| Datagram::of(&frame[..end]).is_none() || end >= 47));
    }

    #[test]
    fn only_its_own_address_is_answered_for() {
        let mine = Ipv4Addr::new(10, 77, 0, 2);
        let request = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &A, &[10, 77, 0, 9], &[0; 6], &mine.octets()].concat();
        let asked = frame(BROADCAST, A, ARP, &request);
        let answer = arp_answer(&asked, mine, B).unwrap();
        assert_eq!((destination(&answer), source(&answer)), (Some(A), Some(B)));
        assert_eq!(arp_answer(&asked, Ipv4Addr::new(10, 77, 0, 3), B), None);
    }
}
