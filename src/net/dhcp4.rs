//! The DHCPv4 client: packets and the time in, packets and a lease out. RFC 2131, with Rapid Commit
//! (RFC 4039), and with timers for a machine that boots.
//!
//! It waits for no randomness: transaction ids and jitter come from a seed it is given.
//!
//! ```text
//!  remembered address                     nothing remembered, or the lease
//!        |                               lacked the boot URL that is wished for
//!        |                                        |
//!     Rebooting --no answer, NAK--> Selecting (<- Lost, NAK, no answer to requests)
//!        |                           |   |  \ offer: Choosing, if a better one may come
//!        |             Rapid Commit  |   |   \        |
//!        |                   |-------|  Requesting <--|
//!        '-> Held: bound, renewing, rebinding <-'
//! ```

mod answer;
mod held;
mod message;
mod story;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::lease::{Lease, is_host};
use super::random::Random;
use crate::arch::Arch;
use held::{Held, Phase};
use message::{Kind, compose};
use story::Tally;

pub(super) use message::WANTED;

/// RFC 2131, section 4.1, doubles from 4 s to 64 s; a machine that boots has less patience, and a
/// switch port that has just come up loses the first packet or two.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// A server that offers and then does not answer this many requests is given up.
const MOST_REQUESTS: u32 = 4;

/// An address of before that nobody confirms after this many requests is given up.
const MOST_REBOOTS: u32 = 2;

/// Servers that are trusted less.
const MOST_DISTRUSTED: usize = 8;

/// The device a client speaks for.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    /// In bytes; a larger MTU in a lease is not believed.
    pub(super) largest_mtu: u16,
    /// Whether answers can only be received as broadcasts.
    pub(super) broadcast: bool,
    /// Option 61, whole: see [`super::identity`].
    pub(super) client_id: Vec<u8>,
    /// The machine's UUID as [`super::identity::uuid`] reads it.
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) arch: Arch,
    pub(super) hostname: Option<String>,
}

/// What would be liked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// An offer with a URL to boot from is worth a short wait.
    pub(super) boot_url: bool,
    /// Only one with https counts.
    pub(super) https_only: bool,
    /// The address that was held before is asked for first.
    pub(super) remembered: Option<Ipv4Addr>,
    /// The server that granted it has named a URL to boot from.
    pub(super) had_boot_url: bool,
}

/// A message to be sent from port 68 to port 67.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) payload: Vec<u8>,
    /// None for a broadcast; else unicast, from the leased address.
    pub(super) to: Option<Ipv4Addr>,
}

/// What a packet or the time leads to.
#[derive(Debug)]
pub(super) enum Reaction {
    Nothing,
    Send(Outgoing),
    Bound(Box<Lease>),
    /// The same address for longer; what else the lease says may have changed.
    Renewed(Box<Lease>),
    /// The address must not be used any more; why. The client starts over by itself.
    Lost(String),
}

/// One client on one link.
#[derive(Debug)]
pub(super) struct Client {
    device: Device,
    wants_boot_url: bool,
    https_only: bool,
    random: Random,
    started: Instant,
    xid: u32,
    state: State,
    /// When the current message is sent (again), or a wait is over; and how often it has been sent.
    due: Instant,
    sent: u32,
    /// When it was sent the first time, as far as an answer may still come to that. A lease runs from
    /// here: RFC 2131, section 4.4.1.
    asked: Instant,
    /// Of the last DISCOVER: its REQUEST says the same (RFC 2131, section 3.1, step 3).
    secs: u16,
    /// An address to suggest in DISCOVER.
    hint: Option<Ipv4Addr>,
    /// What an offer without an address (ProxyDHCP) names to boot from, of use or not: whoever looks for
    /// providers says why not.
    proxy_text: Option<String>,
    /// Servers whose offers have led to nothing.
    distrusted: Vec<Ipv4Addr>,
    tally: Tally,
}

#[derive(Debug)]
enum State {
    Selecting,
    /// The best offer so far.
    Choosing(Offer),
    Requesting(Offer),
    /// An address of before is asked for.
    Rebooting(Ipv4Addr),
    Held(Held),
}

#[derive(Debug)]
struct Offer {
    lease: Box<Lease>,
    server: Ipv4Addr,
}

impl Client {
    /// A client whose first message is due at once.
    pub(super) fn new(device: Device, wishes: Wishes, seed: u64, now: Instant) -> Self {
        let mut random = Random(seed);
        let xid = random.next();
        let remembered = wishes.remembered.filter(|&address| is_host(address));
        // Whoever is asked for that address alone does not say what others would.
        let confirmed = remembered.filter(|_| !wishes.boot_url || wishes.had_boot_url);
        Self {
            device,
            wants_boot_url: wishes.boot_url,
            https_only: wishes.https_only,
            random,
            started: now,
            xid,
            state: confirmed.map_or(State::Selecting, State::Rebooting),
            due: now,
            sent: 0,
            asked: now,
            secs: 0,
            hint: remembered,
            proxy_text: None,
            distrusted: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Whether the server of the lease has named a URL to boot from: it will do so again.
    pub(super) fn has_boot_url(&self) -> bool {
        // One that a server without addresses has named comes with its offer alone.
        matches!(&self.state, State::Held(held) if self.has_wished(&held.lease)) && !self.has_proxy_url()
    }

    /// Seconds that the lease has left, at least one; None if there is none, or it does not end.
    pub(super) fn left(&self, now: Instant) -> Option<u32> {
        let State::Held(held) = &self.state else { return None };
        let left = held.end()?.saturating_duration_since(now);
        Some(u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What has been sent so far may have been lost on our side: it is due again, and waits grow anew.
    pub(super) fn hurry(&mut self, now: Instant) {
        let waits = match &self.state {
            State::Choosing(_) => false,
            State::Held(held) => held.phase != Phase::Bound,
            State::Selecting | State::Requesting(_) | State::Rebooting(_) => true,
        };
        if waits {
            self.sent = 0;
            self.due = self.due.min(now);
        }
    }

    /// The link has been away for a while: a held address is asked for anew, as in INIT-REBOOT (RFC 2131,
    /// section 3.2). [`Reaction::Renewed`] or [`Reaction::Lost`] follows; or nothing, and it is kept.
    pub(super) fn confirm(&mut self, now: Instant) {
        if let State::Held(held) = &mut self.state {
            (held.phase, held.since) = (Phase::Confirming, now);
            self.xid = self.random.next();
            (self.sent, self.due) = (0, now);
        }
    }

    /// What is due at `now`.
    pub(super) fn tick(&mut self, now: Instant) -> Reaction {
        if now < self.due {
            return Reaction::Nothing;
        }
        match &mut self.state {
            State::Choosing(_) => return self.request(now),
            State::Requesting(offer) if self.sent >= MOST_REQUESTS => {
                let server = offer.server;
                let trouble = format!("offer from {server}, but no answer to {} DHCP requests", self.sent);
                self.tally.trouble = Some(trouble);
                self.distrust(server);
                self.discover();
            }
            State::Rebooting(_) if self.sent >= MOST_REBOOTS => self.discover(),
            State::Held(held) => match held.phase_at(now) {
                None => {
                    let address = held.lease.address;
                    self.hint = Some(address);
                    return self.lose(now, format!("nobody has extended the lease of {address}"));
                }
                Some(Phase::Bound) if held.phase != Phase::Confirming || self.sent >= MOST_REBOOTS => {
                    held.phase = Phase::Bound;
                    self.due = held.due_after(now);
                    return Reaction::Nothing;
                }
                Some(phase) if phase != Phase::Bound && phase != held.phase => {
                    (held.phase, held.since) = (phase, now);
                    self.sent = 0;
                    self.xid = self.random.next();
                }
                Some(_) => {}
            },
            State::Selecting | State::Requesting(_) | State::Rebooting(_) => {}
        }
        self.send(now)
    }

    /// Gives the lease back, if one is held: RFC 2131, section 4.4.6. The client is at its start again.
    pub(super) fn release(&mut self) -> Option<Outgoing> {
        let State::Held(held) = &self.state else { return None };
        let (address, server) = (held.lease.address, held.lease.server?);
        self.discover();
        let payload = compose(&self.device, Kind::Release { address, server }, self.xid, 0)?;
        Some(Outgoing { payload, to: Some(server) })
    }

    /// The lease is ours no more.
    fn lose(&mut self, now: Instant, why: String) -> Reaction {
        self.tally = Tally { trouble: Some(why.clone()), ..Tally::default() };
        self.started = now;
        self.proxy_text = None;
        self.discover();
        self.due = now;
        Reaction::Lost(why)
    }

    /// Starts over after a refusal: at once the first time, then ever more slowly.
    fn restart(&mut self, now: Instant) -> Reaction {
        let refusals = self.tally.refusals;
        self.tally.refusals = refusals.saturating_add(1);
        self.discover();
        if refusals == 0 {
            return self.send(now);
        }
        self.due = now + self.random.wait(FIRST_WAIT, LONGEST_WAIT, refusals);
        Reaction::Nothing
    }

    fn discover(&mut self) {
        self.state = State::Selecting;
        self.xid = self.random.next();
        self.sent = 0;
    }

    /// Asks for the offer that was chosen.
    fn request(&mut self, now: Instant) -> Reaction {
        match std::mem::replace(&mut self.state, State::Selecting) {
            State::Choosing(offer) => self.state = State::Requesting(offer),
            other => self.state = other,
        }
        self.sent = 0;
        self.send(now)
    }

    fn distrust(&mut self, server: Ipv4Addr) {
        if !self.distrusted.contains(&server) && self.distrusted.len() < MOST_DISTRUSTED {
            self.distrusted.push(server);
        }
    }

    /// The current message, and its next time.
    fn send(&mut self, now: Instant) -> Reaction {
        let secs = |since| u16::try_from(now.saturating_duration_since(since).as_secs()).unwrap_or(u16::MAX);
        self.sent = self.sent.saturating_add(1);
        let mut to = None;
        let kind = match &self.state {
            State::Held(held) => {
                self.secs = secs(held.since);
                to = held.lease.server.filter(|_| held.phase == Phase::Renewing);
                let address = held.lease.address;
                match held.phase {
                    Phase::Confirming => Kind::Request { address, server: None },
                    _ => Kind::Extend { address },
                }
            }
            State::Requesting(offer) => {
                Kind::Request { address: offer.lease.address, server: Some(offer.server) }
            }
            State::Rebooting(address) => {
                self.secs = secs(self.started);
                Kind::Request { address: *address, server: None }
            }
            State::Selecting | State::Choosing(_) => {
                self.secs = secs(self.started);
                self.tally.discovers = self.tally.discovers.saturating_add(1);
                // A server that commits at once leaves no choice between offers.
                Kind::Discover { hint: self.hint, rapid: !self.wants_boot_url }
            }
        };
        if self.sent == 1 || !matches!(self.state, State::Requesting(_) | State::Rebooting(_)) {
            self.asked = now;
        }
        self.due = match &self.state {
            State::Held(held) if held.phase != Phase::Confirming => held.due_after(now),
            _ => now + self.random.wait(FIRST_WAIT, LONGEST_WAIT, self.sent),
        };
        match compose(&self.device, kind, self.xid, self.secs) {
            Some(payload) => Reaction::Send(Outgoing { payload, to }),
            None => Reaction::Nothing,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
