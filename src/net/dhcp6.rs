//! The DHCPv6 client: packets and the time in, packets and a lease out. RFC 8415 (now RFC 9915).
//!
//! Like [`super::dhcp4`] it waits for no randomness: every constructor of `dhcproto::v6::Message`
//! draws from the `rand` crate, so [`message`] encodes options behind a header of its own.

mod message;
mod reply;

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use dhcproto::v6::{MessageType, Status};

use super::lease6::{FOR_EVER, Lease6};
use super::random::Random;
use crate::arch::Arch;
use crate::error::printable;
use message::Message;
use reply::{Refusal, Reply};

/// RFC 8415, section 7.6, doubles from 1 s; a machine that boots has less patience.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// What SOL_MAX_RT and INF_MAX_RT may make of the longest wait, in seconds (RFC 8415, section 21.24
/// allows a day): a server that wants silence is left alone, and a boot still goes on.
const THROTTLED: std::ops::RangeInclusive<u32> = 60..=86400;
const MOST_THROTTLED: u32 = 120;

/// REN_TIMEOUT, REB_TIMEOUT and REN_MAX_RT, REB_MAX_RT: RFC 8415, section 7.6.
const FIRST_RENEWAL: Duration = Duration::from_secs(10);
const LONGEST_RENEWAL: Duration = Duration::from_secs(600);

/// A server that advertises and then does not answer this many requests is given up (REQ_MAX_RC is 10).
const MOST_REQUESTS: u32 = 4;

/// How long further advertisements are waited for, once there is a usable one: all servers of a link
/// answer within it, and RFC 8415, section 18.2.1, would wait for a second.
const WINDOW: Duration = Duration::from_millis(100);
/// The same for one with a boot URL.
const BOOT_URL_WINDOW: Duration = Duration::from_millis(300);

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
    /// It was granted already: by rapid commit, or it needs no granting.
    committed: bool,
}

/// What has been granted, by whom and when.
#[derive(Debug)]
struct Held {
    lease: Lease6,
    server: Vec<u8>,
    since: Instant,
}

/// What has happened so far, for the one line that says why there is no lease.
#[derive(Debug, Default)]
struct Tally {
    discovers: u32,
    refusals: u32,
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
        if let Some(seconds) = reply.longest_wait.filter(|seconds| THROTTLED.contains(seconds)) {
            self.longest = Duration::from_secs(seconds.min(MOST_THROTTLED).into());
        }
        match (&self.step, reply.kind) {
            (Step::Discover(_), MessageType::Advertise) if self.need == Need::Stateful => {
                self.gather(now, source, server, reply, false)
            }
            (Step::Discover(_), MessageType::Reply) if reply.rapid_commit || self.need == Need::Stateless => {
                self.gather(now, source, server, reply, true)
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

    /// What has been tried until `now`, without the name of the link.
    pub(super) fn story(&self, now: Instant) -> String {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        let what = if self.need == Need::Stateful { "solicits" } else { "information requests" };
        let tried = format!("{} DHCPv6 {what} in {seconds:.0} s", self.tally.discovers);
        match (&self.tally.trouble, &self.step) {
            (Some(trouble), _) => format!("{trouble}, after {tried}"),
            (None, Step::Request { source, .. }) => {
                format!("{source} advertised, but no answer to {} DHCPv6 requests", self.sent)
            }
            (None, _) if self.held.is_some() => format!("DHCPv6 answered, after {tried}"),
            (None, _) => format!("no answer to {tried}"),
        }
    }

    /// An answer to Solicit or Information-Request.
    fn gather(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        server: Vec<u8>,
        reply: Reply,
        committed: bool,
    ) -> Reaction6 {
        let addressless = self.need == Need::Stateful && reply.association.addresses.is_empty();
        if addressless || reply.status.is_some() {
            self.refused(source, reply.refusal());
            return Reaction6::Nothing;
        }
        let refresh = reply.refresh.unwrap_or(REFRESH).clamp(LEAST_REFRESH, REFRESH);
        let preference = reply.preference;
        let mut lease = reply.lease(source);
        if self.need == Need::Stateless {
            lease.addresses.clear();
            (lease.t1, lease.t2) = (refresh, FOR_EVER);
        }
        let wishes = self.wishes_boot_url && self.held.is_none();
        let late = self.sent > 1;
        let Step::Discover(best) = &mut self.step else { return Reaction6::Nothing };
        let rank = |candidate: &Candidate| {
            let wished = wishes && candidate.lease.boot_url.is_some();
            (wished, candidate.preference, candidate.committed)
        };
        let candidate = Candidate { lease, server, preference, committed };
        let at_once = match (wishes, candidate.lease.boot_url.is_some()) {
            (true, has_boot_url) => has_boot_url || preference == BEST,
            (false, _) => committed || late || preference == BEST,
        };
        if at_once {
            return self.choose(now, candidate);
        }
        let first = best.is_none();
        if best.as_deref().is_none_or(|best| rank(&candidate) > rank(best)) {
            *best = Some(Box::new(candidate));
        }
        if first {
            self.due = now + if wishes { BOOT_URL_WINDOW } else { WINDOW };
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

    /// An answer to Renew or Rebind: RFC 8415, section 18.2.10.1.
    fn extended(&mut self, now: Instant, source: Ipv6Addr, server: Vec<u8>, reply: Reply) -> Reaction6 {
        let Some(held) = &self.held else { return Reaction6::Nothing };
        if !reply.association.addresses.is_empty() && reply.status.is_none() {
            return self.bind(now, reply.lease(source), server);
        }
        let withdrawn = &reply.association.withdrawn;
        let refusal = reply.refusal();
        match refusal.map(|refusal| refusal.status) {
            None if held.lease.addresses.iter().all(|(address, ..)| withdrawn.contains(address)) => {
                self.lose(now, format!("{source} has withdrawn the addresses"))
            }
            Some(Status::NotOnLink) => {
                let reason = words(source, refusal);
                self.lose(now, reason)
            }
            Some(Status::NoBinding) => {
                let addresses = addresses(&held.lease).unwrap_or_default();
                self.refused(source, refusal);
                self.begin(Step::Request { server, source, addresses }, now);
                self.send(now)
            }
            _ => {
                self.refused(source, refusal);
                Reaction6::Nothing
            }
        }
    }

    fn bind(&mut self, now: Instant, lease: Lease6, server: Vec<u8>) -> Reaction6 {
        let told = Box::new(lease.clone());
        let before = self.held.replace(Held { lease, server, since: now });
        self.tally.refusals = 0;
        self.tally.trouble = None;
        self.begin(Step::Rest, now);
        self.rest(now);
        if before.is_some() { Reaction6::Renewed(told) } else { Reaction6::Bound(told) }
    }

    fn lose(&mut self, now: Instant, reason: String) -> Reaction6 {
        self.held = None;
        self.tally.trouble = Some(reason.clone());
        self.again(now);
        Reaction6::Lost(reason)
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
        let wait = if refusals == 0 { Duration::ZERO } else { self.wait(FIRST_WAIT, self.longest, refusals) };
        self.begin(Step::Discover(None), now + wait);
    }

    fn refused(&mut self, source: Ipv6Addr, refusal: Option<&Refusal>) {
        self.tally.trouble = Some(words(source, refusal));
    }

    fn begin(&mut self, step: Step, due: Instant) {
        self.step = step;
        self.xid = self.random.next() & 0xff_ffff;
        self.begun = None;
        self.sent = 0;
        self.due = due;
    }

    fn rest(&mut self, now: Instant) {
        let next = [self.times().map(|(t1, _)| t1), self.end()].into_iter().flatten().min();
        self.due = next.unwrap_or(now + LATER).max(now);
    }

    /// T1 and T2 of what is held.
    fn times(&self) -> Option<(Instant, Instant)> {
        let held = self.held.as_ref()?;
        Some((after(held.since, held.lease.t1), after(held.since, held.lease.t2)))
    }

    /// The end of the last address, if there is one and it has an end.
    fn end(&self) -> Option<Instant> {
        let held = self.held.as_ref()?;
        let valid = held.lease.valid();
        (valid != FOR_EVER).then(|| after(held.since, valid))
    }

    /// The current message, and its next time.
    fn send(&mut self, now: Instant) -> Reaction6 {
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
            self.wait(first, LONGEST_RENEWAL, self.sent)
        } else {
            self.wait(FIRST_WAIT, self.longest, self.sent)
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

    fn message(
        &self,
        kind: MessageType,
        server: Option<&[u8]>,
        addresses: Option<Vec<Ipv6Addr>>,
        elapsed: u16,
    ) -> Option<Vec<u8>> {
        let association = addresses.map(|addresses| (self.iaid(), addresses));
        Message { kind, xid: self.xid, server, association, elapsed }.encode(&self.device)
    }

    fn iaid(&self) -> u32 {
        let [_, _, end @ ..] = self.device.mac;
        u32::from_be_bytes(end)
    }

    /// The wait after the nth message, n from 1: doubled each time, and up to an eighth more, so
    /// that machines powered on together do not stay in step.
    fn wait(&mut self, first: Duration, longest: Duration, n: u32) -> Duration {
        let doubled = first.saturating_mul(1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = doubled.min(longest);
        wait + self.random.part_of(wait / 8)
    }
}

/// The addresses of a lease, if it has any.
fn addresses(lease: &Lease6) -> Option<Vec<Ipv6Addr>> {
    let addresses: Vec<_> = lease.addresses.iter().map(|&(address, ..)| address).collect();
    (!addresses.is_empty()).then_some(addresses)
}

fn after(since: Instant, seconds: u32) -> Instant {
    since + Duration::from_secs(seconds.into())
}

/// What a server refuses with.
fn words(source: Ipv6Addr, refusal: Option<&Refusal>) -> String {
    let Some(Refusal { status, message }) = refusal else {
        return format!("DHCPv6 answer from {source} without a usable address");
    };
    let said = if message.is_empty() { String::new() } else { format!(" {:?}", printable(message)) };
    let what = match status {
        Status::NoAddrsAvail => "has no address left",
        Status::NotOnLink => "says that these addresses are not for this link",
        Status::NoBinding => "does not know our addresses any more",
        Status::UseMulticast => "wants multicast, which it was sent",
        Status::NotConfigured => "has no configuration for this link",
        Status::NotAllowed => "does not serve this machine",
        _ => return format!("DHCPv6 server {source} refused (status {}){said}", u16::from(*status)),
    };
    format!("DHCPv6 server {source} {what}{said}")
}
