//! What a switch says of its port by spanning tree: BPDUs of IEEE 802.1D-2004, clause 9. Pure.
//!
//! A port that does not forward yet loses DHCP messages without a word; with this the wait is known.

use std::time::Duration;

/// Protocol identifier, version, type: the first fields of each BPDU (9.3.1 to 9.3.3).
const STP: u8 = 0;
const RSTP: u8 = 2;
const CONFIGURATION: u8 = 0x00;
const RAPID: u8 = 0x02;

/// Offsets of fields (9.3.1), and the length with the last of them.
const VERSION: usize = 2;
const TYPE: usize = 3;
const FLAGS: usize = 4;
const FORWARD_DELAY: usize = 33;
const LENGTH: usize = 35;

/// Flags of an RST BPDU (9.3.3): the port's role in two bits, and what it does.
const ROLE: u8 = 0b0000_1100;
const LEARNING: u8 = 0b0001_0000;
const FORWARDING: u8 = 0b0010_0000;

/// LLC of IEEE's bridges (9.2), and SNAP of Cisco's, which send one tree a VLAN (PVST+).
const LLC: &[u8] = &[0x42, 0x42, 0x03];
const SNAP: &[u8] = &[0xaa, 0xaa, 0x03, 0x00, 0x00, 0x0c, 0x01, 0x0b];

/// In seconds; wider than what bridges may be set to, 4 to 30 (17.14).
const FORWARD_DELAYS: std::ops::RangeInclusive<u64> = 2..=30;

/// What the port of the switch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    /// The old protocol does not say; it sends from ports that listen, learn and forward.
    Unknown,
    /// Frames are discarded.
    Discarding,
    /// Still discarded, forwarded after one more forward delay.
    Learning,
    Forwarding,
}

/// A configuration BPDU, or one of the rapid and multiple protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bpdu {
    pub(super) state: PortState,
    /// The time a port listens, and then the time it learns; 2 to 30 s.
    pub(super) forward_delay: Duration,
}

impl Bpdu {
    /// Reads what lies behind the length of an IEEE 802.3 frame. None if it is no such BPDU.
    pub(super) fn of_frame(payload: &[u8]) -> Option<Self> {
        Self::parse(payload.strip_prefix(LLC).or_else(|| payload.strip_prefix(SNAP))?)
    }

    /// Reads what lies behind LLC; padding at its end is passed over. None for anything else, topology
    /// change notifications among it: they say nothing of this port.
    pub(super) fn parse(bpdu: &[u8]) -> Option<Self> {
        let bpdu = bpdu.get(..LENGTH)?;
        let (version, flags) = (*bpdu.get(VERSION)?, *bpdu.get(FLAGS)?);
        let state = match (*bpdu.get(TYPE)?, version, flags & ROLE) {
            _ if !bpdu.starts_with(&[0, 0]) => return None,
            (CONFIGURATION, STP.., _) => PortState::Unknown,
            // Of an unknown role it is to be taken as a configuration BPDU (9.2.9).
            (RAPID, RSTP.., 0) => PortState::Unknown,
            (RAPID, RSTP.., _) if flags & FORWARDING != 0 => PortState::Forwarding,
            (RAPID, RSTP.., _) if flags & LEARNING != 0 => PortState::Learning,
            (RAPID, RSTP.., _) => PortState::Discarding,
            _ => return None,
        };
        // In 256ths of a second (9.2.8).
        let delay: [u8; 2] = *bpdu.get(FORWARD_DELAY..)?.first_chunk()?;
        let delay = Duration::from_millis(u64::from(u16::from_be_bytes(delay)) * 1000 / 256);
        let (least, most) = FORWARD_DELAYS.into_inner();
        let forward_delay = delay.clamp(Duration::from_secs(least), Duration::from_secs(most));
        Some(Self { state, forward_delay })
    }

    /// How long at most the port goes on discarding, if it has come up just now.
    pub(super) fn longest_wait(&self) -> Duration {
        match self.state {
            PortState::Forwarding => Duration::ZERO,
            PortState::Learning => self.forward_delay,
            PortState::Unknown | PortState::Discarding => self.forward_delay * 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the Linux bridge sends it (br_send_config_bpdu in net/bridge/br_stp_bpdu.c): root and bridge
    /// 8000.525400123456, port 8002, age 0, max age 20 s, hello 2 s, forward delay 15 s.
    const LINUX: [u8; 38] = [
        0x42, 0x42, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x00,
        0x00, 0x00, 0x00, 0x80, 0x00, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x80, 0x02, 0x00, 0x00, 0x14, 0x00,
        0x02, 0x00, 0x0f, 0x00,
    ];

    /// A rapid BPDU with these flags, as hardware switches send it: one more byte, then padding to the
    /// 46 bytes of Ethernet.
    fn rapid(version: u8, flags: u8) -> Vec<u8> {
        let mut frame = LINUX.to_vec();
        (frame[5], frame[6], frame[7]) = (version, RAPID, flags);
        frame.resize(46, 0);
        frame
    }

    fn state(frame: &[u8]) -> Option<PortState> {
        Bpdu::of_frame(frame).map(|bpdu| bpdu.state)
    }

    #[test]
    fn a_bridge_of_linux_says_how_long_it_will_take() {
        let bpdu = Bpdu::of_frame(&LINUX).unwrap();
        assert_eq!((bpdu.state, bpdu.forward_delay), (PortState::Unknown, Duration::from_secs(15)));
        assert_eq!(bpdu.longest_wait(), Duration::from_secs(30));
        // Behind SNAP, as Cisco's tree of a VLAN.
        let cisco = [SNAP, &LINUX[3..], &[0, 0, 0, 2, 0, 1]].concat();
        assert_eq!(Bpdu::of_frame(&cisco), Some(bpdu));
    }

    #[test]
    fn a_rapid_bridge_says_what_its_port_does() {
        // Flags of a designated port: with a proposal, while it learns, while it forwards.
        for version in [2, 3, 4] {
            assert_eq!(state(&rapid(version, 0x0e)), Some(PortState::Discarding));
            assert_eq!(state(&rapid(version, 0x1c)), Some(PortState::Learning));
            assert_eq!(state(&rapid(version, 0x3c)), Some(PortState::Forwarding));
            assert_eq!(state(&rapid(version, 0x7d)), Some(PortState::Forwarding));
            assert_eq!(state(&rapid(version, 0x30)), Some(PortState::Unknown), "no role");
        }
        let waits = [0x0e, 0x1c, 0x3c].map(|flags| Bpdu::of_frame(&rapid(2, flags)).unwrap().longest_wait());
        assert_eq!(waits.map(|wait| wait.as_secs()), [30, 15, 0]);
    }

    #[test]
    fn what_says_nothing_of_the_port_is_none() {
        let with = |at: usize, value: u8| {
            let mut frame = rapid(2, 0x3c);
            frame[at] = value;
            frame
        };
        assert_eq!(state(&with(0, 0x43)), None, "another LLC");
        assert_eq!(state(&with(3, 1)), None, "another protocol (GARP)");
        assert_eq!(state(&with(5, 0)), None, "rapid, of the old version");
        assert_eq!(state(&with(6, 0x80)), None, "topology change notification");
        assert_eq!(state(&with(6, 7)), None, "another type");
        for length in 0..38 {
            assert_eq!(state(&rapid(2, 0x3c)[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_silly_delay_is_bounded() {
        for (high, low, millis) in
            [(0, 0, 2000), (1, 255, 2000), (4, 128, 4500), (30, 0, 30_000), (255, 255, 30_000)]
        {
            let mut frame = LINUX;
            (frame[36], frame[37]) = (high, low);
            let delay = Bpdu::of_frame(&frame).unwrap().forward_delay;
            assert_eq!(delay, Duration::from_millis(millis));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), prefix in 0usize..3) {
            let frame = [[&[], LLC, SNAP][prefix], &bytes].concat();
            if let Some(bpdu) = Bpdu::of_frame(&frame) {
                prop_assert!(bpdu.longest_wait() <= Duration::from_secs(60));
            }
            let _ = Bpdu::parse(&bytes);
        }
    }
}
