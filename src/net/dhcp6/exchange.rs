//! The client's side of an exchange: what is sent, and when it is sent again. RFC 8415, section 15.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use dhcproto::v6::MessageType;

use super::message::Message;
use super::{Client6, FIRST_WAIT, Need, Reaction6, Step, addresses};
use crate::net::identity;

/// REN_TIMEOUT, REB_TIMEOUT and REN_MAX_RT, REB_MAX_RT: RFC 8415, section 7.6.
const FIRST_RENEWAL: Duration = Duration::from_secs(10);
const LONGEST_RENEWAL: Duration = Duration::from_secs(600);

impl Client6 {
    /// Turns to another exchange, whose first message goes out at `due`.
    pub(super) fn begin(&mut self, step: Step, due: Instant) {
        self.step = step;
        self.xid = self.random.next() & 0xff_ffff;
        self.begun = None;
        self.sent = 0;
        self.due = due;
    }

    /// The current message, and its next time.
    pub(super) fn send(&mut self, now: Instant) -> Reaction6 {
        self.sent = self.sent.saturating_add(1);
        let begun = *self.begun.get_or_insert(now);
        let stateful = self.need == Need::Stateful;
        let kind = match self.step {
            Step::Discover(_) if stateful => MessageType::Solicit,
            Step::Discover(_) => MessageType::InformationRequest,
            Step::Request { .. } => MessageType::Request,
            Step::Renew => MessageType::Renew,
            Step::Rebind => MessageType::Rebind,
            Step::Rest => return Reaction6::Nothing,
        };
        // The next event that ends the exchange: T2, or the end of the lease.
        let ends = match self.step {
            Step::Renew => self.times().map(|(_, t2)| t2),
            _ => self.end(),
        };
        let left = ends.map(|end| end.saturating_duration_since(now));
        let wait = if self.held.is_some() && !matches!(self.step, Step::Request { .. }) {
            // A short lease is not renewed by one packet alone.
            let first = left.map_or(FIRST_RENEWAL, |left| (left / 4).clamp(FIRST_WAIT, FIRST_RENEWAL));
            self.random.wait(first, LONGEST_RENEWAL, self.sent)
        } else {
            self.random.wait(FIRST_WAIT, self.longest, self.sent)
        };
        self.due = now + left.map_or(wait, |left| wait.min(left));
        if matches!(self.step, Step::Discover(_)) {
            self.tally.discovers = self.tally.discovers.saturating_add(1);
        }
        let hundredths = now.saturating_duration_since(begun).as_millis() / 10;
        let elapsed = u16::try_from(hundredths).unwrap_or(u16::MAX);
        let held = self.held.as_ref();
        let (server, named) = match &self.step {
            Step::Request { server, addresses, .. } => (Some(server.as_slice()), addresses.clone()),
            Step::Renew | Step::Rebind => {
                let server = held.filter(|_| kind == MessageType::Renew).map(|held| held.server.as_slice());
                (server, held.and_then(|held| addresses(&held.lease)).unwrap_or_default())
            }
            Step::Discover(_) | Step::Rest => (None, Vec::new()),
        };
        let message = self.message(kind, server, stateful.then_some(named), elapsed);
        message.map_or(Reaction6::Nothing, Reaction6::Send)
    }

    pub(super) fn message(
        &self,
        kind: MessageType,
        server: Option<&[u8]>,
        addresses: Option<Vec<Ipv6Addr>>,
        elapsed: u16,
    ) -> Option<Vec<u8>> {
        let association = addresses.map(|addresses| (self.iaid(), addresses));
        // A server that commits at once would keep others from answering with a boot URL.
        let rapid_commit = kind == MessageType::Solicit && !self.wishes_boot_url;
        Message { kind, xid: self.xid, server, association, rapid_commit, elapsed }.encode(&self.device)
    }

    pub(super) fn iaid(&self) -> u32 {
        u32::from_be_bytes(identity::iaid(self.device.mac))
    }
}
