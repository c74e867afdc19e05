//! The other end of an aggregated link: answers LACPDUs as a switch does. Source: IEEE 802.1AX-2014, 6.4.2.3. Pure.

use std::time::{Duration, Instant};

use super::frame::{self, Mac};

/// The slow protocols' group address.
const GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 2];
/// LACPDUs go out this often: what a short timeout asks for.
const PERIOD: Duration = Duration::from_secs(1);

const ACTIVITY: u8 = 0x01;
const SHORT_TIMEOUT: u8 = 0x02;
const AGGREGATION: u8 = 0x04;
const SYNCHRONIZATION: u8 = 0x08;
const COLLECTING: u8 = 0x10;
const DISTRIBUTING: u8 = 0x20;

/// One end as LACPDUs describe it: system priority, system, key, port priority, port, state.
type End = [u8; 15];

/// The port's half of the protocol.
#[derive(Debug)]
pub(super) struct Partner {
    system: Mac,
    port: u8,
    /// What the machine has said of itself.
    machine: Option<End>,
    /// The machine agrees with what it has heard of this end.
    agrees: bool,
    sent: Option<(Instant, Vec<u8>)>,
}

impl Partner {
    pub(super) fn new(system: Mac, port: usize) -> Self {
        let port = u8::try_from(port + 1).unwrap_or(u8::MAX);
        Self { system, port, machine: None, agrees: false, sent: None }
    }

    /// Whether data may pass: both ends are in sync.
    pub(super) fn passes(&self) -> bool {
        self.agrees && self.machine.is_some_and(|machine| machine[14] & SYNCHRONIZATION != 0)
    }

    /// Takes what the machine has sent.
    pub(super) fn receive(&mut self, frame: &[u8]) {
        let pdu = frame::payload(frame);
        // LACP is the first of the slow protocols; the actor's and the partner's part have 20 bytes each.
        let (Some([1, 1, 1, 20]), Some(actor), Some(partner)) =
            (pdu.get(..4), pdu.get(4..19), pdu.get(24..39))
        else {
            return;
        };
        self.machine = actor.try_into().ok();
        // All but the state has to be what this end is.
        self.agrees = partner.get(..14) == self.actor().get(..14);
    }

    /// What has to be sent now: whatever is new, and everything anew after a period.
    pub(super) fn due(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.machine?;
        let pdu = self.pdu();
        if self.sent.as_ref().is_some_and(|(at, sent)| *sent == pdu && now < *at + PERIOD) {
            return None;
        }
        self.sent = Some((now, pdu.clone()));
        Some(frame::frame(GROUP, self.system, frame::SLOW, &pdu))
    }

    fn actor(&self) -> End {
        let mut end = [0; 15];
        end[0] = 0x80;
        end[2..8].copy_from_slice(&self.system);
        // One key: ports that have it can be aggregated.
        end[9] = 7;
        end[10] = 0x80;
        end[13] = self.port;
        let open = if self.passes() { COLLECTING | DISTRIBUTING } else { 0 };
        end[14] = ACTIVITY | SHORT_TIMEOUT | AGGREGATION | SYNCHRONIZATION | open;
        end
    }

    fn pdu(&self) -> Vec<u8> {
        let part = |kind, end: End| [&[kind, 20][..], &end, &[0; 3]].concat();
        let mut pdu = vec![1, 1];
        pdu.extend(part(1, self.actor()));
        pdu.extend(part(2, self.machine.unwrap_or_default()));
        pdu.extend([3, 16]);
        pdu.resize(110, 0);
        pdu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_come_to_agree() {
        let now = Instant::now();
        let (mut one, mut other) = (Partner::new([2; 6], 0), Partner::new([4; 6], 0));
        assert_eq!(one.due(now), None);
        // Somebody has to begin.
        other.machine = Some([0; 15]);
        for _ in 0..3 {
            other.due(now).iter().for_each(|frame| one.receive(frame));
            one.due(now).iter().for_each(|frame| other.receive(frame));
        }
        assert!(one.passes() && other.passes());
        assert_eq!(one.due(now), None);
        assert_eq!(one.due(now + PERIOD).map(|frame| frame.len()), Some(124));
    }
}
