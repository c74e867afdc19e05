//! What a bridge says on a port that spanning tree blocks at first: configuration BPDUs of 802.1D, or those of
//! RSTP, which say whether the port forwards. Source: IEEE 802.1D-2004, 9.3 and 14.2.5. Pure.

use std::time::Duration;

use super::frame::{self, Mac};

/// How often a bridge says hello.
pub(super) const HELLO: Duration = Duration::from_secs(2);
/// All bridges.
const GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];

/// A port that does not forward at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanningTree {
    pub(crate) protocol: Protocol,
    /// From the first frame of the machine until the port forwards, in seconds.
    pub(crate) blocks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// 802.1D of 1998: nothing tells that the port forwards. It has listened and learnt for a forward delay each.
    Stp,
    /// Its flags tell.
    Rstp,
}

impl SpanningTree {
    /// A BPDU of the bridge `mac`, from a designated port.
    pub(super) fn bpdu(self, mac: Mac, forwards: bool) -> Vec<u8> {
        let (version, kind, flags) = match (self.protocol, forwards) {
            (Protocol::Stp, _) => (0, 0, 0),
            // Designated port; learning and forwarding.
            (Protocol::Rstp, false) => (2, 2, 0b0000_1100),
            (Protocol::Rstp, true) => (2, 2, 0b0011_1100),
        };
        let bridge = [&[0x80, 0], &mac[..]].concat();
        let mut bpdu = vec![0, 0, version, kind, flags];
        bpdu.extend(&bridge);
        bpdu.extend([0; 4]);
        bpdu.extend(&bridge);
        bpdu.extend([0x80, 1]);
        // Message age, maximum age, hello time, forward delay, in 1/256 s.
        let forward_delay = u16::try_from(self.blocks * 256 / 2).unwrap_or(u16::MAX);
        for time in [0, 20 * 256, 2 * 256, forward_delay] {
            bpdu.extend(u16::to_be_bytes(time));
        }
        if self.protocol == Protocol::Rstp {
            bpdu.push(0);
        }
        // IEEE 802.2: the spanning tree's service access point, unnumbered information.
        let payload = [&[0x42, 0x42, 0x03], &bpdu[..]].concat();
        let length = u16::try_from(payload.len()).unwrap_or_default();
        frame::frame(GROUP, mac, length, &payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_delay_are_where_the_standard_has_them() {
        let mac = [2, 0, 0, 0, 0, 1];
        let rstp = SpanningTree { protocol: Protocol::Rstp, blocks: 10 };
        let frame = rstp.bpdu(mac, false);
        assert_eq!(frame::kind(&frame), Some(39));
        let bpdu = &frame::payload(&frame)[3..];
        assert_eq!((bpdu[2], bpdu[3], bpdu[4]), (2, 2, 0x0c));
        assert_eq!(bpdu[33..35], [5, 0]);
        assert_eq!(frame::payload(&rstp.bpdu(mac, true))[7], 0x3c);
        let stp = SpanningTree { protocol: Protocol::Stp, blocks: 10 };
        assert_eq!(frame::kind(&stp.bpdu(mac, false)), Some(38));
    }
}
