//! The DHCPv6 client: packets and the time in, packets and a lease out. RFC 8415 (now RFC 9915).
//!
//! Like [`super::dhcp4`] it waits for no randomness: every constructor of `dhcproto::v6::Message`
//! draws from the `rand` crate, so [`message`] encodes options behind a header of its own.

mod exchange;
mod holding;
mod message;
mod reply;

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use dhcproto::v6::{MessageType, Status};

use super::boot_url::is_usable;
use super::lease6::{FOR_EVER, Lease6};
use super::random::Random;
use crate::arch::Arch;
use holding::Held;
use reply::{Refusal, Reply, words};

/// RFC 8415, section 7.6, doubles from 1 s; a machine that boots has less patience.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// What SOL_MAX_RT and INF_MAX_RT may make of the longest wait, in seconds (RFC 8415, section 21.24
/// allows a day): a server that wants silence is left alone, and a boot still goes on.
const THROTTLED: std::ops::RangeInclusive<u32> = 60..=86400;
const MOST_THROTTLED: u32 = 120;

/// A server that advertises and then does not answer this many requests is given up (REQ_MAX_RC is 10).
const MOST_REQUESTS: u32 = 4;

/// A server that grants nothing but what others have is left alone after so many declined leases.
const MOST_DECLINES: u32 = 4;

/// How long a message with a boot URL is waited for, once there is a usable one without. The first
/// usable one is taken at once otherwise; RFC 8415, section 18.2.1, would wait for a second.
const WINDOW: Duration = Duration::from_millis(500);

/// The preference that ends the wait: RFC 8415, section 18.2.1.
const BEST: u8 = 255;

/// IRT_MINIMUM and IRT_DEFAULT in seconds: RFC 8415, section 7.6.
const LEAST_REFRESH: u32 = 600;
const REFRESH: u32 = 86400;

/// When there is nothing to do.
const LATER: Duration = Duration::from_secs(86400);

/// The device a client speaks for.
#[derive(Clone, Debug)]
pub(super) struct Device6 {
    pub(super) name: String,
    /// Its end numbers the IA_NA: the same at each boot, and different on each card of a machine.
    pub(super) mac: [u8; 6],
    pub(super) duid: Vec<u8>,
    pub(super) arch: Arch,
    pub(super) hostname: Option<String>,
}

/// What routers say (RFC 4861, section 4.2), or the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Flag O: no address, but what else servers have to tell.
    Stateless,
    /// Flag M.
    Stateful,
}

/// One client on one link.
#[derive(Debug)]
pub(super) struct Client6 {
    device: Device6,
    need: Need,
    wishes_boot_url: bool,
    /// Only one with https counts.
    pub(super) https_only: bool,
    random: Random,
    started: Instant,
    step: Step,
    /// Of the current exchange: 24 bits, its first message's time, and how many were sent.
    xid: u32,
    begun: Option<Instant>,
    sent: u32,
    due: Instant,
    /// Longest wait between messages while nothing is held.
    longest: Duration,
    held: Option<Held>,
    tally: Tally,
}

/// The exchange that is going on: RFC 8415, section 18.2.
#[derive(Debug)]
enum Step {
    /// Solicit or Information-Request; with a candidate, others are waited for until `due`.
    Discover(Option<Box<Candidate>>),
    Request {
        server: Vec<u8>,
        source: Ipv6Addr,
        addresses: Vec<Ipv6Addr>,
    },
    Rest,
    Renew,
    Rebind,
}

#[derive(Debug)]
struct Candidate {
    lease: Lease6,
    server: Vec<u8>,
    preference: u8,
    /// Nothing has to be requested any more: a Reply, not an Advertise.
    committed: bool,
}

/// What has happened so far, for the one line that says why there is no lease.
#[derive(Debug, Default)]
struct Tally {
    discovers: u32,
    refusals: u32,
    /// How often somebody else had what was granted, and the last such address.
    declines: u32,
    declined: Option<Ipv6Addr>,
    /// The last thing that a server said, if it was not what we needed.
    trouble: Option<String>,
}

/// What a packet or the time leads to.
#[derive(Debug)]
pub(super) enum Reaction6 {
    Nothing,
    /// To be sent to ff02::1:2, port 547, from the link-local address, port 546.
    Send(Vec<u8>),
    Bound(Box<Lease6>),
    /// In place of all that was granted before.
    Renewed(Box<Lease6>),
    /// The addresses must not be used any more, and why. The client starts over by itself.
    Lost(String),
}

impl Client6 {
    /// A client whose first message is due at once.
    pub(super) fn new(device: Device6, need: Need, wishes_boot_url: bool, seed: u64, now: Instant) -> Self {
        let mut client = Self {
            device,
            need,
            wishes_boot_url,
            https_only: false,
            random: Random(seed),
            started: now,
            step: Step::Rest,
            xid: 0,
            begun: None,
            sent: 0,
            due: now,
            longest: LONGEST_WAIT,
            held: None,
            tally: Tally::default(),
        };
        client.begin(Step::Discover(None), now);
        client
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What has been sent so far may have been lost on our side: it is due again.
    pub(super) fn hurry(&mut self, now: Instant) {
        let waits = !matches!(self.step, Step::Rest | Step::Discover(Some(_)));
        if waits {
            self.sent = 0;
            self.due = self.due.min(now);
        }
    }

    /// What is due at `now`, if anything is.
    pub(super) fn tick(&mut self, now: Instant) -> Reaction6 {
        if now < self.due {
            return Reaction6::Nothing;
        }
        if self.end().is_some_and(|end| now >= end) {
            return self.lose(now, "the DHCPv6 lease is over".to_owned());
        }
        match &mut self.step {
            Step::Discover(best) => {
                if let Some(candidate) = best.take() {
                    return self.choose(now, *candidate);
                }
            }
            Step::Request { source, .. } if self.sent >= MOST_REQUESTS => {
                let trouble = format!("{source} advertised, but no answer to {} DHCPv6 requests", self.sent);
                self.tally.trouble = Some(trouble);
                let next = if self.held.is_some() { Step::Rebind } else { Step::Discover(None) };
                self.begin(next, now);
            }
            Step::Rest | Step::Renew => match self.times() {
                Some((_, t2)) if now >= t2 && self.need == Need::Stateful => self.begin(Step::Rebind, now),
                Some((t1, _)) if now >= t1 && matches!(self.step, Step::Rest) => {
                    let stateful = self.need == Need::Stateful;
                    self.begin(if stateful { Step::Renew } else { Step::Discover(None) }, now);
                }
                _ if matches!(self.step, Step::Rest) => {
                    self.rest(now);
                    return Reaction6::Nothing;
                }
                _ => {}
            },
            Step::Request { .. } | Step::Rebind => {}
        }
        self.send(now)
    }

    /// Takes a UDP payload that came for port 546 from `source`.
    pub(super) fn receive(&mut self, now: Instant, source: Ipv6Addr, packet: &[u8]) -> Reaction6 {
        let Some(mut reply) = Reply::parse(packet, self.iaid()) else { return Reaction6::Nothing };
        let [_, xid @ ..] = self.xid.to_be_bytes();
        if self.begun.is_none() || reply.xid != xid || reply.client.as_ref() != Some(&self.device.duid) {
            return Reaction6::Nothing;
        }
        let Some(server) = reply.server.take() else { return Reaction6::Nothing };
        // Even in a message that is of no other use: RFC 8415, section 18.2.9.
        let longest = match self.need {
            Need::Stateful => reply.longest_solicit_wait,
            Need::Stateless => reply.longest_inform_wait,
        };
        if let Some(seconds) = longest.filter(|seconds| THROTTLED.contains(seconds)) {
            self.longest = Duration::from_secs(seconds.min(MOST_THROTTLED).into());
        }
        match (&self.step, reply.kind) {
            (Step::Discover(_), kind) if self.answers(kind, reply.rapid_commit) => {
                self.gather(now, source, server, reply)
            }
            (Step::Request { server: asked, .. }, MessageType::Reply) if *asked == server => {
                self.granted(now, source, server, reply)
            }
            (Step::Renew, MessageType::Reply)
                if self.held.as_ref().is_some_and(|held| held.server == server) =>
            {
                self.extended(now, source, server, reply)
            }
            (Step::Rebind, MessageType::Reply) => self.extended(now, source, server, reply),
            _ => Reaction6::Nothing,
        }
    }

    /// The message that gives the addresses back, if there are any. Nothing follows it.
    pub(super) fn release(&mut self) -> Option<Vec<u8>> {
        let held = self.held.take()?;
        self.begin(Step::Rest, self.due + LATER);
        self.message(MessageType::Release, Some(&held.server), Some(addresses(&held.lease)?), 0)
    }

    /// The message that says that somebody else has an address: RFC 8415, section 18.2.8. All that was granted
    /// is forgotten, and asked for anew, ever more slowly and a few times; sent once: who is granted the same
    /// again says so again.
    pub(super) fn decline(&mut self, now: Instant, address: Ipv6Addr) -> Option<Vec<u8>> {
        let held = self.held.take()?;
        let message = self.message(MessageType::Decline, Some(&held.server), Some(vec![address]), 0);
        let declines = self.tally.declines + 1;
        (self.tally.declines, self.tally.declined) = (declines, Some(address));
        if declines < MOST_DECLINES {
            let wait = self.random.wait(FIRST_WAIT, self.longest, declines);
            self.begin(Step::Discover(None), now + wait);
        } else {
            self.begin(Step::Rest, now + LATER);
        }
        message
    }

    /// What has been tried until `now`, without the name of the link.
    pub(super) fn story(&self, now: Instant) -> String {
        let declined = self.tally.declined.filter(|_| self.held.is_none());
        let declined = declined.map(|address| format!("somebody else has the address {address}"));
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        let what = if self.need == Need::Stateful { "solicits" } else { "information requests" };
        let tried = format!("{} DHCPv6 {what} in {seconds:.0} s", self.tally.discovers);
        let troubles: Vec<String> = declined.into_iter().chain(self.tally.trouble.clone()).collect();
        match (troubles.join(", "), &self.step) {
            (troubles, _) if !troubles.is_empty() => format!("{troubles}, after {tried}"),
            (_, Step::Request { source, .. }) => {
                format!("{source} advertised, but no answer to {} DHCPv6 requests", self.sent)
            }
            _ if self.held.is_some() => format!("DHCPv6 answered, after {tried}"),
            _ => format!("no answer to {tried}"),
        }
    }

    /// Whether such a message may answer a Solicit or Information-Request.
    fn answers(&self, kind: MessageType, rapid_commit: bool) -> bool {
        match self.need {
            Need::Stateless => kind == MessageType::Reply,
            Need::Stateful if kind == MessageType::Reply => rapid_commit && !self.wishes_boot_url,
            Need::Stateful => true,
        }
    }

    /// An answer to Solicit or Information-Request.
    fn gather(&mut self, now: Instant, source: Ipv6Addr, server: Vec<u8>, reply: Reply) -> Reaction6 {
        let addressless = self.need == Need::Stateful && reply.association.addresses.is_empty();
        if addressless || reply.status.is_some() {
            self.refused(source, reply.refusal());
            return Reaction6::Nothing;
        }
        let refresh = reply.refresh.unwrap_or(REFRESH).clamp(LEAST_REFRESH, REFRESH);
        let (preference, committed) = (reply.preference, reply.kind == MessageType::Reply);
        let mut lease = reply.lease(source);
        if self.need == Need::Stateless {
            lease.addresses.clear();
            (lease.t1, lease.t2) = (refresh, FOR_EVER);
        }
        let has_url = lease.boot_url.as_deref().is_some_and(|url| is_usable(url, self.https_only));
        let waits = self.wishes_boot_url && self.held.is_none() && !has_url && preference != BEST;
        let candidate = Candidate { lease, server, preference, committed };
        if !waits {
            return self.choose(now, candidate);
        }
        if let Step::Discover(best) = &mut self.step {
            if best.is_none() {
                self.due = now + WINDOW;
            }
            if best.as_deref().is_none_or(|best| best.preference < preference) {
                *best = Some(Box::new(candidate));
            }
        }
        Reaction6::Nothing
    }

    fn choose(&mut self, now: Instant, candidate: Candidate) -> Reaction6 {
        let Candidate { lease, server, committed, .. } = candidate;
        if committed {
            return self.bind(now, lease, server);
        }
        let addresses = addresses(&lease).unwrap_or_default();
        self.begin(Step::Request { server, source: lease.server, addresses }, now);
        self.send(now)
    }

    /// An answer to Request.
    fn granted(&mut self, now: Instant, source: Ipv6Addr, server: Vec<u8>, reply: Reply) -> Reaction6 {
        let refusal = reply.refusal();
        // Everything of ours is multicast: whoever says so has not seen this message.
        if refusal.is_some_and(|refusal| refusal.status == Status::UseMulticast) {
            self.refused(source, refusal);
            return Reaction6::Nothing;
        }
        if reply.association.addresses.is_empty() || reply.status.is_some() {
            self.refused(source, refusal);
            return self.restart(now);
        }
        self.bind(now, reply.lease(source), server)
    }

    /// Starts over after a refusal.
    fn restart(&mut self, now: Instant) -> Reaction6 {
        if self.held.is_some() {
            let reason = self.tally.trouble.take().unwrap_or_default();
            return self.lose(now, reason);
        }
        self.again(now);
        Reaction6::Nothing
    }

    /// Discovers again: at once the first time, then ever more slowly.
    fn again(&mut self, now: Instant) {
        let refusals = self.tally.refusals;
        self.tally.refusals = refusals.saturating_add(1);
        let wait =
            if refusals == 0 { Duration::ZERO } else { self.random.wait(FIRST_WAIT, self.longest, refusals) };
        self.begin(Step::Discover(None), now + wait);
    }

    fn refused(&mut self, source: Ipv6Addr, refusal: Option<&Refusal>) {
        let trouble = words(source, refusal);
        log::debug!("{}: {trouble}", self.device.name);
        self.tally.trouble = Some(trouble);
    }
}

/// The addresses of a lease, if it has any.
fn addresses(lease: &Lease6) -> Option<Vec<Ipv6Addr>> {
    let addresses: Vec<_> = lease.addresses.iter().map(|&(address, ..)| address).collect();
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod real;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
