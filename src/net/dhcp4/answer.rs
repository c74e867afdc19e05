//! What the client makes of what servers say.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::MessageType;

use super::held::{Held, Phase};
use super::story::Tally;
use super::{Client, Offer, Reaction, State};
use crate::net::boot_url::is_usable;
use crate::net::lease::{Lease, Reply, is_host};

/// How long a usable offer waits for a better one.
pub(super) const WINDOW: Duration = Duration::from_millis(500);

/// The rank of an offer that is taken at once.
const BEST: u8 = 3;

impl Client {
    /// Takes a UDP payload that came for port 68 from `source`.
    pub(in crate::net) fn receive(&mut self, now: Instant, source: Ipv4Addr, packet: &[u8]) -> Reaction {
        let Some(mut reply) = Reply::parse(packet) else { return Reaction::Nothing };
        if reply.xid != self.xid || reply.mac != self.device.mac {
            return Reaction::Nothing;
        }
        let named = reply.server;
        // RFC 2131 wants the server's id in every answer; some leave it to the header.
        reply.server = named.or(is_host(source).then_some(source));
        match reply.kind {
            MessageType::Offer => self.offered(now, &reply),
            MessageType::Ack => self.granted(now, reply, named),
            MessageType::Nak => self.refused(now, &reply, named),
            _ => Reaction::Nothing,
        }
    }

    fn offered(&mut self, now: Instant, reply: &Reply) -> Reaction {
        if !matches!(self.state, State::Selecting | State::Choosing(_)) {
            return Reaction::Nothing;
        }
        if reply.address.is_unspecified()
            && let Some(text) = reply.boot_text()
        {
            if !self.has_proxy_url() {
                self.proxy_text = Some(text);
            }
        } else if let (Some(lease), Some(server)) = (self.checked(reply), reply.server) {
            let offer = Offer { lease: Box::new(lease), server };
            match &self.state {
                State::Choosing(best) if self.rank(best) >= self.rank(&offer) => {}
                State::Choosing(_) => self.state = State::Choosing(offer),
                _ => {
                    self.state = State::Choosing(offer);
                    self.due = now + WINDOW;
                }
            }
        }
        match &self.state {
            State::Choosing(best) if self.rank(best) == BEST => self.request(now),
            _ => Reaction::Nothing,
        }
    }

    /// How good an offer is, up to [`BEST`].
    fn rank(&self, offer: &Offer) -> u8 {
        let wished = !self.wants_boot_url || self.has_proxy_url() || self.has_wished(&offer.lease);
        u8::from(wished) + if self.distrusted.contains(&offer.server) { 0 } else { 2 }
    }

    pub(super) fn has_proxy_url(&self) -> bool {
        self.proxy_text.as_deref().is_some_and(|text| is_usable(text, self.https_only))
    }

    /// Whether it names a URL to boot from that counts.
    pub(super) fn has_wished(&self, lease: &Lease) -> bool {
        [&lease.boot_file, &lease.boot_server]
            .into_iter()
            .flatten()
            .any(|text| is_usable(text, self.https_only))
    }

    fn granted(&mut self, now: Instant, mut reply: Reply, named: Option<Ipv4Addr>) -> Reaction {
        match &self.state {
            State::Requesting(offer) => {
                if named.is_some_and(|named| named != offer.server) {
                    return Reaction::Nothing;
                }
                reply.server = Some(offer.server);
            }
            State::Selecting | State::Choosing(_) if !reply.is_rapid_commit() => return Reaction::Nothing,
            State::Held(held) if held.phase == Phase::Bound || held.lease.address != reply.address => {
                return Reaction::Nothing;
            }
            State::Selecting | State::Choosing(_) | State::Rebooting(_) | State::Held(_) => {}
        }
        let lease = self.checked(&reply).filter(|lease| lease.server.is_some());
        match (lease, &self.state) {
            (Some(lease), State::Held(_)) => Reaction::Renewed(self.hold(now, lease)),
            (Some(lease), _) => Reaction::Bound(self.hold(now, lease)),
            (None, State::Requesting(offer)) => {
                let server = offer.server;
                self.distrust(server);
                self.restart(now)
            }
            (None, State::Rebooting(_)) => self.restart(now),
            (None, _) => Reaction::Nothing,
        }
    }

    fn refused(&mut self, now: Instant, reply: &Reply, named: Option<Ipv4Addr>) -> Reaction {
        let other = |server: Ipv4Addr| named.is_some_and(|named| named != server);
        let (address, server) = match &self.state {
            State::Requesting(offer) if !other(offer.server) => (offer.lease.address, Some(offer.server)),
            State::Rebooting(address) => (*address, reply.server),
            State::Held(held) => match (held.phase, held.lease.server) {
                (Phase::Bound, _) => return Reaction::Nothing,
                (Phase::Renewing, Some(server)) if other(server) => return Reaction::Nothing,
                _ => (held.lease.address, reply.server),
            },
            State::Selecting | State::Choosing(_) | State::Requesting(_) => return Reaction::Nothing,
        };
        let who = server.map_or_else(|| "a server".to_owned(), |server| server.to_string());
        let why = reply.message.as_deref().map(crate::error::printable).unwrap_or_default();
        let trouble = format!("{who} refused {address} (DHCP NAK) {why:?}");
        self.hint = None;
        if matches!(self.state, State::Held(_)) {
            return self.lose(now, trouble);
        }
        self.tally.trouble = Some(trouble);
        // The first time may be a server that has just been restarted.
        if let (Some(server), 1..) = (server, self.tally.refusals) {
            self.distrust(server);
        }
        self.restart(now)
    }

    fn checked(&mut self, reply: &Reply) -> Option<Lease> {
        let lease = reply.lease(&self.device.name, self.device.largest_mtu);
        lease.map_err(|reason| self.tally.trouble = Some(format!("lease not usable: {reason}"))).ok()
    }

    /// The lease is ours.
    fn hold(&mut self, now: Instant, mut lease: Lease) -> Box<Lease> {
        // Some servers say in the OFFER alone what there is to boot, or only when first asked.
        let before = match &self.state {
            State::Requesting(offer) => Some(&offer.lease),
            State::Held(held) => Some(&held.lease),
            State::Selecting | State::Choosing(_) | State::Rebooting(_) => None,
        };
        if let Some(before) = before.filter(|_| !self.has_wished(&lease)) {
            lease.boot_file = lease.boot_file.or_else(|| before.boot_file.clone());
            lease.boot_server = lease.boot_server.or_else(|| before.boot_server.clone());
        }
        if !self.has_wished(&lease) && (self.has_proxy_url() || lease.boot_file.is_none()) {
            lease.boot_file = self.proxy_text.clone().or(lease.boot_file);
        }
        let lease = Box::new(lease);
        let held = Held::new(lease.clone(), self.asked, now, &mut self.random);
        self.due = held.due_after(now);
        self.state = State::Held(held);
        self.sent = 0;
        self.tally = Tally::default();
        self.distrusted.clear();
        lease
    }
}
