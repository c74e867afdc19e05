//! A DHCP server with bad manners, on a port of its own: it speaks raw frames, so that anything can be said.
//! After as many messages as it is told it is a good server. Source: RFC 2131, RFC 2132. Pure.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::SERVERS_VLAN;
use super::frame::{self, Datagram, Mac};
use crate::faulty::LONG_FOLDER;

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where options begin, behind the cookie.
const OPTIONS: usize = 240;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;

/// How a server behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// In which it is.
    pub(crate) vlan: u16,
    pub(crate) misdeed: Misdeed,
    /// So many DISCOVERs are answered (or, for [`Misdeed::Naks`], REQUESTs) that way; then it is a good server.
    pub(crate) times: u32,
    /// In seconds.
    pub(crate) lease: u32,
    /// It takes this long for an offer, in milliseconds.
    pub(crate) delay: u64,
    /// Option 67; `{port}` is the provider's, `{long}` is [`LONG_FOLDER`].
    pub(crate) boot_url: Option<&'static str>,
}

/// What is wrong with its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misdeed {
    None,
    Silent,
    Naks,
    /// There is no option 3.
    NoRouter,
    /// Each answer comes three times.
    Duplicates,
    /// Option 67 is split over two options, the mask is in the `file` field: RFC 3396, RFC 2132 9.3.
    Overlong,
    /// Each in another way: cut off, without cookie, with options that end nowhere.
    Malformed,
    /// The answers are somebody else's.
    ForeignXid,
    /// The address that it offers is none that a machine can have.
    UselessAddress,
}

impl Manners {
    pub(crate) const GOOD: Self =
        Self { vlan: SERVERS_VLAN, misdeed: Misdeed::None, times: 0, lease: 3600, delay: 0, boot_url: None };

    pub(crate) const fn always(misdeed: Misdeed) -> Self {
        Self::at_first(u32::MAX, misdeed)
    }

    pub(crate) const fn at_first(times: u32, misdeed: Misdeed) -> Self {
        Self { misdeed, times, ..Self::GOOD }
    }
}

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    manners: Manners,
    boot_url: Option<String>,
    mac: Mac,
    address: Ipv4Addr,
    /// What it offers.
    offered: Ipv4Addr,
    discovers: u32,
    requests: u32,
    /// When the lease that it has granted is over: from then on nobody extends it.
    end: Option<Instant>,
    /// Offers that wait for their time.
    waiting: Vec<(Instant, Vec<u8>)>,
    /// What it has to tell, a line each.
    pub(super) said: Vec<String>,
}

/// What a client's message says.
struct Message<'a> {
    head: &'a [u8],
    kind: u8,
    /// Options 50 and 54.
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl<'a> Message<'a> {
    fn read(payload: &'a [u8]) -> Option<Self> {
        let head = payload.get(..OPTIONS).filter(|head| head[0] == 1 && head[236..] == COOKIE)?;
        let mut message = Self { head, kind: 0, requested: None, server: None };
        let mut rest = payload.get(OPTIONS..)?;
        while let [code, after @ ..] = rest {
            if *code == 0 || *code == 255 {
                rest = if *code == 0 { after } else { &[] };
                continue;
            }
            let length = usize::from(*after.first()?);
            let value = after.get(1..=length)?;
            let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
            match code {
                50 => message.requested = address(),
                53 => message.kind = *value.first()?,
                54 => message.server = address(),
                _ => {}
            }
            rest = after.get(1 + length..)?;
        }
        Some(message)
    }

    fn client_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.head[12], self.head[13], self.head[14], self.head[15])
    }
}

impl Server {
    /// The `index`th server of a network: 10.77.0.2 and on, which offers 10.77.0.100, 10.77.0.120 and on.
    pub(super) fn new(manners: Manners, index: u8, port: u16) -> Self {
        Self {
            manners,
            boot_url: manners
                .boot_url
                .map(|url| url.replace("{port}", &port.to_string()).replace("{long}", LONG_FOLDER)),
            mac: [0x02, 0xdc, 0, 0, 0, 2 + index],
            address: Ipv4Addr::new(10, 77, 0, 2 + index),
            offered: Ipv4Addr::new(10, 77, 0, 100 + 20 * index),
            discovers: 0,
            requests: 0,
            end: None,
            waiting: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Frames whose time has come, and when the next one's will.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let (due, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(at, _)| *at <= now);
        self.waiting = waiting;
        due.into_iter().map(|(_, frame): (Instant, Vec<u8>)| frame).collect()
    }

    pub(super) fn receive(&mut self, now: Instant, frame: &[u8]) {
        if let Some(answer) = frame::arp_answer(frame, self.address, self.mac) {
            self.waiting.push((now, answer));
            return;
        }
        let Some(datagram) = Datagram::of(frame).filter(|datagram| datagram.destination.1 == SERVER_PORT)
        else {
            return;
        };
        let Some(message) = Message::read(datagram.payload) else {
            self.said.push("a message that is none".to_owned());
            return;
        };
        let foreign = message.server.is_some_and(|server| server != self.address);
        match message.kind {
            DISCOVER => {
                self.discovers += 1;
                self.said.push(format!("DISCOVER {}", self.discovers));
                self.offer(now, &message);
            }
            REQUEST if foreign => self.said.push("REQUEST for another server".to_owned()),
            REQUEST => {
                self.requests += 1;
                let bound = message.client_address();
                let how = match (bound.is_unspecified(), datagram.destination.0.is_broadcast()) {
                    (true, _) => "REQUEST",
                    (false, false) => "renewing REQUEST",
                    (false, true) => "rebinding REQUEST",
                };
                self.said.push(format!("{how} {}", self.requests));
                self.acknowledge(now, &message);
            }
            RELEASE => self.said.push(format!("RELEASE of {}", message.client_address())),
            other => self.said.push(format!("message of type {other}")),
        }
    }

    fn offer(&mut self, now: Instant, message: &Message<'_>) {
        let misdeed = if self.discovers <= self.manners.times && self.manners.misdeed != Misdeed::Naks {
            self.manners.misdeed
        } else {
            Misdeed::None
        };
        if misdeed == Misdeed::Silent {
            return;
        }
        let mut reply = self.reply(OFFER, message, misdeed);
        match misdeed {
            Misdeed::ForeignXid => reply[4..8].iter_mut().for_each(|byte| *byte = !*byte),
            Misdeed::UselessAddress => reply[16..20].copy_from_slice(&[127, 0, 0, 1]),
            Misdeed::Malformed => spoil(&mut reply, self.discovers),
            _ => {}
        }
        let copies = if misdeed == Misdeed::Duplicates { 3 } else { 1 };
        let at = now + Duration::from_millis(self.manners.delay);
        for _ in 0..copies {
            self.send(at, message, &reply);
        }
    }

    fn acknowledge(&mut self, now: Instant, message: &Message<'_>) {
        let wanted = message.requested.unwrap_or_else(|| message.client_address());
        let naks = self.manners.misdeed == Misdeed::Naks && self.requests <= self.manners.times;
        let extends = !message.client_address().is_unspecified();
        if naks || wanted != self.offered || (extends && self.end.is_none_or(|end| end < now)) {
            self.said.push(format!("NAK for {wanted}"));
            let mut nak = self.reply(NAK, message, Misdeed::None);
            nak[16..20].fill(0);
            return self.send(now, message, &nak);
        }
        // Who was offered something bad and took it gets what was offered.
        let misdeed = match self.manners.misdeed {
            kept @ (Misdeed::NoRouter | Misdeed::Duplicates | Misdeed::Overlong)
                if self.discovers <= self.manners.times =>
            {
                kept
            }
            _ => Misdeed::None,
        };
        self.said.push(format!("ACK of {wanted} for {} s", self.manners.lease));
        self.end = Some(now + Duration::from_secs(self.manners.lease.into()));
        let ack = self.reply(ACK, message, misdeed);
        for _ in 0..if misdeed == Misdeed::Duplicates { 3 } else { 1 } {
            self.send(now, message, &ack);
        }
    }

    fn reply(&self, kind: u8, message: &Message<'_>, misdeed: Misdeed) -> Vec<u8> {
        let mut reply = message.head.to_vec();
        reply[0] = 2;
        // The client's address stays in an answer to who has one; `yiaddr`, `sname` and `file` are the server's.
        reply[16..20].copy_from_slice(&self.offered.octets());
        reply[44..236].fill(0);
        let router = [10, 77, 0, 1];
        let mask = [255, 255, 255, 0];
        let mut option = |code: u8, value: &[u8]| {
            for part in value.chunks(150) {
                reply.extend([code, u8::try_from(part.len()).unwrap_or_default()]);
                reply.extend(part);
            }
        };
        option(53, &[kind]);
        option(54, &self.address.octets());
        if kind != NAK {
            option(51, &self.manners.lease.to_be_bytes());
            if misdeed != Misdeed::NoRouter {
                option(3, &router);
            }
            option(6, &router);
            if let Some(url) = &self.boot_url {
                option(67, url.as_bytes());
            }
            if misdeed == Misdeed::Overlong {
                // The `file` field has options, too.
                option(52, &[1]);
                reply[108..115].copy_from_slice(&[1, 4, mask[0], mask[1], mask[2], mask[3], 255]);
            } else {
                option(1, &mask);
            }
        }
        reply.push(255);
        reply
    }

    /// To everybody if the client asks for that, else to the address that it is going to have: RFC 2131, 4.1.
    fn send(&mut self, at: Instant, message: &Message<'_>, reply: &[u8]) {
        let client: Mac = message.head[28..34].try_into().unwrap_or(frame::BROADCAST);
        let nak = reply.get(OPTIONS + 2) == Some(&NAK);
        let bound = message.client_address();
        let (mac, to) = match message.head[10] & 0x80 != 0 || nak {
            true => (frame::BROADCAST, Ipv4Addr::BROADCAST),
            false if bound.is_unspecified() => (client, self.offered),
            false => (client, bound),
        };
        let datagram =
            Datagram { source: (self.address, SERVER_PORT), destination: (to, CLIENT_PORT), payload: reply };
        self.waiting.push((at, frame::frame(mac, self.mac, frame::IPV4, &datagram.packet())));
    }

    /// As it is named in the log.
    pub(super) fn name(&self) -> String {
        format!("dhcp {}", self.address)
    }
}

/// Each time in another way.
fn spoil(reply: &mut Vec<u8>, count: u32) {
    match count % 4 {
        1 => reply.truncate(200),
        2 => reply[236..240].fill(0),
        // An address of 250 bytes for the hardware, and options that end in the middle of one.
        3 => {
            reply[2] = 250;
            reply.truncate(OPTIONS + 4);
        }
        // Options that promise more than there is.
        _ => {
            reply.pop();
            reply.extend([6, 250, 10, 77]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn message(kind: u8, options: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; OPTIONS];
        payload[..8].copy_from_slice(&[1, 1, 6, 0, 1, 2, 3, 4]);
        payload[28..34].copy_from_slice(&CLIENT);
        payload[236..].copy_from_slice(&COOKIE);
        payload.extend([53, 1, kind]);
        payload.extend(options);
        payload.push(255);
        let (source, destination) = ((Ipv4Addr::UNSPECIFIED, 68), (Ipv4Addr::BROADCAST, 67));
        let packet = Datagram { source, destination, payload: &payload }.packet();
        frame::frame(frame::BROADCAST, CLIENT, frame::IPV4, &packet)
    }

    fn answers(server: &mut Server, frame: &[u8]) -> Vec<Vec<u8>> {
        let now = Instant::now();
        server.receive(now, frame);
        let frames = server.due(now);
        frames.iter().map(|frame| Datagram::of(frame).unwrap().payload.to_vec()).collect()
    }

    #[test]
    fn a_server_becomes_good_after_its_misdeeds() {
        let mut silent = Server::new(Manners::at_first(2, Misdeed::Silent), 0, 80);
        let counts: Vec<usize> =
            (0..3).map(|_| answers(&mut silent, &message(DISCOVER, &[])).len()).collect();
        assert_eq!(counts, [0, 0, 1]);
        let mut naks = Server::new(Manners::at_first(1, Misdeed::Naks), 0, 80);
        let request = message(REQUEST, &[50, 4, 10, 77, 0, 100, 54, 4, 10, 77, 0, 2]);
        let kinds: Vec<u8> = (0..2).map(|_| answers(&mut naks, &request)[0][OPTIONS + 2]).collect();
        assert_eq!(kinds, [NAK, ACK]);
        let others = message(REQUEST, &[50, 4, 10, 77, 0, 120, 54, 4, 10, 77, 0, 3]);
        assert!(answers(&mut naks, &others).is_empty());
    }

    #[test]
    fn what_is_over_is_not_extended() {
        let mut server = Server::new(Manners { lease: 6, ..Manners::GOOD }, 0, 80);
        let request = message(REQUEST, &[50, 4, 10, 77, 0, 100, 54, 4, 10, 77, 0, 2]);
        let mut extension = message(REQUEST, &[]);
        // Behind the headers of Ethernet, IPv4 and UDP.
        extension[42 + 12..42 + 16].copy_from_slice(&[10, 77, 0, 100]);
        let start = Instant::now();
        let kinds = [(&extension, 0), (&request, 0), (&extension, 5), (&extension, 10), (&extension, 17)]
            .map(|(frame, seconds)| {
                let now = start + Duration::from_secs(seconds);
                server.receive(now, frame);
                Datagram::of(&server.due(now)[0]).unwrap().payload[OPTIONS + 2]
            });
        assert_eq!(kinds, [NAK, ACK, ACK, ACK, NAK]);
    }

    #[test]
    fn misdeeds_are_what_their_names_say() {
        let offer = |misdeed| {
            let manners =
                Manners { boot_url: Some("http://10.77.0.1:{port}/{long}"), ..Manners::always(misdeed) };
            answers(&mut Server::new(manners, 0, 80), &message(DISCOVER, &[]))
        };
        assert_eq!(offer(Misdeed::Duplicates).len(), 3);
        assert_eq!(offer(Misdeed::ForeignXid)[0][4..8], [0xfe, 0xfd, 0xfc, 0xfb]);
        let overlong = offer(Misdeed::Overlong).remove(0);
        assert_eq!(overlong[108], 1);
        assert_eq!(overlong[OPTIONS..].windows(2).filter(|pair| *pair == [67, 150]).count(), 1);
        assert_eq!(offer(Misdeed::UselessAddress)[0][16], 127);
    }
}
