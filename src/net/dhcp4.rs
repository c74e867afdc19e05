//! The DHCPv4 client: packets and the time in, packets and a lease out. RFC 2131.
//!
//! It waits for no randomness: transaction ids and jitter come from a seed it is given. For the
//! same reason messages are made from [`BLANK`]: every constructor of `dhcproto::v4::Message` draws
//! from the `rand` crate, `new_with_id` included, and that waits for the kernel's generator.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::{Decodable, DhcpOption, Encodable, Flags, Message, MessageType, OptionCode};

use super::lease::{Lease, Reply};

/// What servers are asked for. 121 comes before 3: RFC 3442.
pub(super) const WANTED: [OptionCode; 9] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::DomainName,
    OptionCode::DomainSearch,
    OptionCode::InterfaceMtu,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
];

/// RFC 2131, section 4.1, doubles from 4 s to 64 s; a machine that boots has less patience, and a
/// switch port that has just come up loses the first packet or two.
const FIRST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// A server that offers and then does not answer this many requests is given up.
const MOST_REQUESTS: u32 = 4;

/// The smallest BOOTP message that old servers and relays take: RFC 1542, section 2.1.
const LEAST_LENGTH: usize = 300;

/// The largest answer: a UDP payload in one Ethernet frame (option 57).
const MOST_LENGTH: u16 = 1472;

/// A BOOTREQUEST (1) for Ethernet (1) with addresses of 6 bytes, all else zero, and the magic cookie.
const BLANK: [u8; 240] = {
    let mut header = [0; 240];
    header[0] = 1;
    header[1] = 1;
    header[2] = 6;
    let (_, cookie) = header.split_at_mut(236);
    cookie.copy_from_slice(&dhcproto::v4::MAGIC);
    header
};

/// The device a client speaks for.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    /// In bytes; a larger MTU in a lease is not believed.
    pub(super) largest_mtu: u16,
    /// Whether answers can only be received as broadcasts.
    pub(super) broadcast: bool,
}

/// One client on one link.
#[derive(Debug)]
pub(super) struct Client {
    device: Device,
    random: Random,
    started: Instant,
    xid: u32,
    state: State,
    /// When the current message is sent (again), and how often it has been.
    due: Instant,
    sent: u32,
    tally: Tally,
}

#[derive(Debug)]
enum State {
    Selecting,
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
}

/// What has happened so far, for the one line that says why there is no lease.
#[derive(Debug, Default)]
struct Tally {
    discovers: u32,
    refusals: u32,
    /// The last thing that a server said, if it was not what we needed.
    trouble: Option<String>,
}

/// What a packet leads to.
#[derive(Debug)]
pub(super) enum Reaction {
    Nothing,
    Send(Vec<u8>),
    Bound(Box<Lease>),
}

impl Client {
    /// A client whose first DISCOVER is due at once.
    pub(super) fn new(device: Device, seed: u64, now: Instant) -> Self {
        let mut random = Random(seed);
        let xid = random.next();
        Self {
            device,
            random,
            started: now,
            xid,
            state: State::Selecting,
            due: now,
            sent: 0,
            tally: Tally::default(),
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What has been sent so far may have been lost on our side: it is due again.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// The message that is due at `now`, if one is.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        if let State::Requesting { server, .. } = self.state
            && self.sent >= MOST_REQUESTS
        {
            self.tally.trouble =
                Some(format!("offer from {server}, but no answer to {} DHCP requests", self.sent));
            self.discover();
        }
        self.send(now)
    }

    /// Takes a UDP payload that came for port 68 from `source`.
    pub(super) fn receive(&mut self, now: Instant, source: Ipv4Addr, packet: &[u8]) -> Reaction {
        let Some(mut reply) = Reply::parse(packet) else { return Reaction::Nothing };
        if reply.xid != self.xid || reply.mac != self.device.mac {
            return Reaction::Nothing;
        }
        match (&self.state, reply.kind) {
            (State::Selecting, MessageType::Offer) => {
                // RFC 2131 wants the server's id in every offer; some leave it to the header.
                let server = *reply.server.get_or_insert(source);
                match self.checked(&reply) {
                    Some(lease) if !server.is_unspecified() => {
                        self.state = State::Requesting { address: lease.address, server };
                        self.sent = 0;
                        self.send(now).map_or(Reaction::Nothing, Reaction::Send)
                    }
                    _ => Reaction::Nothing,
                }
            }
            (State::Requesting { server, .. }, MessageType::Ack | MessageType::Nak)
                if reply.server.is_some_and(|other| other != *server) =>
            {
                Reaction::Nothing
            }
            (State::Requesting { server, .. }, MessageType::Ack) => {
                reply.server = Some(*server);
                match self.checked(&reply) {
                    Some(lease) => Reaction::Bound(Box::new(lease)),
                    None => self.restart(now),
                }
            }
            (State::Requesting { address, server }, MessageType::Nak) => {
                let why = reply.message.as_deref().map(crate::error::printable).unwrap_or_default();
                self.tally.trouble = Some(format!("{server} refused {address} (DHCP NAK) {why:?}"));
                self.restart(now)
            }
            _ => Reaction::Nothing,
        }
    }

    /// What has been tried until `now`, without the name of the link.
    pub(super) fn story(&self, now: Instant) -> String {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        let tried = format!("{} DHCP discovers in {seconds:.0} s", self.tally.discovers);
        match (&self.tally.trouble, &self.state) {
            (Some(trouble), _) => format!("{trouble}, after {tried}"),
            (None, State::Requesting { server, .. }) => {
                format!("offer from {server}, but no answer to {} DHCP requests", self.sent)
            }
            (None, State::Selecting) => format!("no answer to {tried}"),
        }
    }

    fn checked(&mut self, reply: &Reply) -> Option<Lease> {
        let lease = reply.lease(&self.device.name, self.device.largest_mtu);
        lease.map_err(|reason| self.tally.trouble = Some(format!("lease not usable: {reason}"))).ok()
    }

    /// Starts over after a refusal: at once the first time, then ever more slowly.
    fn restart(&mut self, now: Instant) -> Reaction {
        let refusals = self.tally.refusals;
        self.tally.refusals = refusals.saturating_add(1);
        self.discover();
        if refusals == 0 {
            return self.send(now).map_or(Reaction::Nothing, Reaction::Send);
        }
        self.due = now + self.wait(refusals);
        Reaction::Nothing
    }

    fn discover(&mut self) {
        self.state = State::Selecting;
        self.xid = self.random.next();
        self.sent = 0;
    }

    /// The current message, and its next time.
    fn send(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.sent = self.sent.saturating_add(1);
        self.due = now + self.wait(self.sent);
        if matches!(self.state, State::Selecting) {
            self.tally.discovers = self.tally.discovers.saturating_add(1);
        }
        self.message(now)
    }

    /// The wait after the nth message, n from 1: doubled each time, and up to an eighth more, so
    /// that machines powered on together do not stay in step.
    fn wait(&mut self, n: u32) -> Duration {
        let doubled = FIRST_WAIT.saturating_mul(1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = doubled.min(LONGEST_WAIT);
        wait + wait / 8 * (self.random.next() % 256) / 256
    }

    fn message(&self, now: Instant) -> Option<Vec<u8>> {
        let mut message = Message::from_bytes(&BLANK).ok()?;
        let seconds = now.saturating_duration_since(self.started).as_secs();
        message.set_xid(self.xid).set_chaddr(&self.device.mac);
        message.set_secs(u16::try_from(seconds).unwrap_or(u16::MAX));
        if self.device.broadcast {
            message.set_flags(Flags::default().set_broadcast());
        }
        let mut client_id = vec![1];
        client_id.extend_from_slice(&self.device.mac);
        let options = message.opts_mut();
        match self.state {
            State::Selecting => {
                options.insert(DhcpOption::MessageType(MessageType::Discover));
            }
            State::Requesting { address, server } => {
                options.insert(DhcpOption::MessageType(MessageType::Request));
                options.insert(DhcpOption::RequestedIpAddress(address));
                options.insert(DhcpOption::ServerIdentifier(server));
            }
        }
        options.insert(DhcpOption::ClientIdentifier(client_id));
        options.insert(DhcpOption::MaxMessageSize(MOST_LENGTH));
        options.insert(DhcpOption::ClassIdentifier(b"phaseboot".to_vec()));
        options.insert(DhcpOption::ParameterRequestList(WANTED.to_vec()));
        let mut bytes = message.to_vec().ok()?;
        bytes.resize(bytes.len().max(LEAST_LENGTH), 0);
        Some(bytes)
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): spreads a seed, no more is needed of it.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests;
