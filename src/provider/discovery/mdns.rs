//! Providers on the LAN that announce themselves by multicast DNS: RFC 6762, RFC 6763.
//!
//! A one-shot querier with an ear for everybody's answers: questions go out from a port of their own,
//! to which responders answer directly (RFC 6762, section 6.7), and what they send to the group is
//! heard as well where the port is free.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use log::debug;
use rustix::io::Errno;
use rustix::net::{AddressFamily, bind, sockopt};

use super::message::{self, Asked, Kind, Name, Record};
use super::{Answer, Machine, SERVICE, offers, sockets};
use crate::net::Uplink;
use crate::sys::random;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// RFC 6762, section 11
const TTL: u8 = 255;

/// When the question is sent, counted from the start.
const SENDINGS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1)];
/// How long it is listened for a first provider, and then for better ones.
const SILENCE: Duration = Duration::from_secs(3);
const GATHERING: Duration = Duration::from_millis(1500);
/// What a noisy LAN may make us read and keep.
const MOST_MESSAGES: usize = 2000;
const MOST_RECORDS: usize = 1000;
/// Questions in one message.
const MOST_QUESTIONS: usize = 16;

pub(super) fn ask(machine: Machine<'_>, uplink: &Uplink) -> Answer {
    let sockets = match Sockets::open(uplink) {
        Ok(sockets) => sockets,
        Err(errno) => return Answer::None(format!("mDNS cannot be asked: {errno}")),
    };
    match sockets.browse(machine, uplink) {
        providers if providers.is_empty() => Answer::None("mDNS names none".to_owned()),
        providers => Answer::Named { origin: format!("mDNS ({SERVICE}.local)"), providers },
    }
}

/// One family's way to its group.
struct Sockets {
    senders: Vec<(UdpSocket, SocketAddr)>,
    listeners: Vec<UdpSocket>,
}

impl Sockets {
    /// An error if neither family can be used.
    fn open(uplink: &Uplink) -> Result<Self, Errno> {
        let mut sockets = Self { senders: Vec::new(), listeners: Vec::new() };
        let (mut trouble, device) = (Errno::NODEV, &uplink.interface);
        let address = uplink.ipv4.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |lease| lease.address);
        let opened = open_v4(device, 0).and_then(|socket| {
            sockopt::set_ip_multicast_if(&socket, &address)?;
            Ok((socket, SocketAddr::from((GROUP_V4, PORT))))
        });
        let joined = open_v4(device, PORT).and_then(|socket| {
            sockopt::set_ip_add_membership(&socket, &GROUP_V4, &address)?;
            Ok(socket)
        });
        sockets.add(opened, joined, &mut trouble);
        // Without the number of the device there is no address to send to.
        let index = sockets::index(device);
        if index != 0 {
            let group = SocketAddr::from(SocketAddrV6::new(GROUP_V6, PORT, 0, index));
            let opened = open_v6(device, 0).map(|socket| (socket, group));
            let joined = open_v6(device, PORT).and_then(|socket| {
                sockopt::set_ipv6_add_membership(&socket, &GROUP_V6, index)?;
                Ok(socket)
            });
            sockets.add(opened, joined, &mut trouble);
        }
        if sockets.senders.is_empty() { Err(trouble) } else { Ok(sockets) }
    }

    fn add(
        &mut self,
        opened: Result<(UdpSocket, SocketAddr), Errno>,
        joined: Result<UdpSocket, Errno>,
        trouble: &mut Errno,
    ) {
        match opened {
            Ok(sender) => self.senders.push(sender),
            Err(errno) => *trouble = errno,
        }
        match joined {
            Ok(listener) => self.listeners.push(listener),
            // Most answers come to the sender.
            Err(errno) => debug!("mDNS: port {PORT} cannot be listened on: {errno}"),
        }
    }

    /// Provider URLs, the best first.
    fn browse(&self, machine: Machine<'_>, uplink: &Uplink) -> Vec<String> {
        let all = || self.senders.iter().map(|(socket, _)| socket).chain(&self.listeners);
        let Some(service) = Name::parse(&format!("{SERVICE}.local")) else { return Vec::new() };
        let started = Instant::now();
        let mut end = started + SILENCE;
        let mut sendings = SENDINGS.iter().map(|&after| started + after).peekable();
        let (mut records, mut asked): (Vec<Record>, Vec<(Name, Kind)>) = (Vec::new(), Vec::new());
        let mut announced = offers::Announced::default();
        for _ in 0..MOST_MESSAGES {
            let now = Instant::now();
            if now >= end {
                break;
            }
            if sendings.next_if(|&due| due <= now).is_some() {
                // What was asked for in vain is asked for once more.
                asked.clear();
                self.send(&[(&service, Kind::Ptr)]);
            }
            let new: Vec<_> = announced
                .missing
                .iter()
                .filter(|question| !asked.contains(question))
                .take(MOST_QUESTIONS)
                .collect();
            if !new.is_empty() {
                self.send(&new.iter().map(|(name, kind)| (name, *kind)).collect::<Vec<_>>());
                let new: Vec<_> = new.into_iter().cloned().collect();
                asked.extend(new);
            }
            let until = sendings.peek().map_or(end, |&due| due.min(end));
            let Some((message, source)) = sockets::receive(all(), until) else { continue };
            if !is_near(uplink, source.ip().to_canonical()) {
                debug!("mDNS: {source} is not on this link");
                continue;
            }
            let before = records.len();
            for record in message::records(&message) {
                if records.len() < MOST_RECORDS && !records.contains(&record) {
                    records.push(record);
                }
            }
            if records.len() > before {
                announced = offers::of_lan(&service, &records, machine);
                if !announced.urls.is_empty() {
                    end = end.min(Instant::now() + GATHERING);
                }
            }
        }
        announced.urls
    }

    fn send(&self, questions: &[(&Name, Kind)]) {
        let mut id = [0; 2];
        random::fill_insecure(&mut id);
        let query = message::query(u16::from_ne_bytes(id), questions, Asked::Everybody);
        for (socket, group) in &self.senders {
            if let Err(error) = socket.send_to(&query, group) {
                debug!("mDNS: sending to {group}: {error}");
            }
        }
    }
}

/// Whether an answer comes from this link: RFC 6762, section 11.
fn is_near(uplink: &Uplink, source: IpAddr) -> bool {
    match (source, &uplink.ipv4) {
        (IpAddr::V6(source), _) => {
            let mut prefixes = uplink.ipv6.iter().flat_map(|ipv6| &ipv6.addresses);
            let bits = |address: Ipv6Addr, prefix: u8| address.to_bits().checked_shr(128 - u32::from(prefix));
            source.is_unicast_link_local()
                || prefixes.any(|own| {
                    own.prefix > 0
                        && bits(own.address, own.prefix.min(128)) == bits(source, own.prefix.min(128))
                })
        }
        (IpAddr::V4(source), Some(lease)) => {
            let bits =
                |address: Ipv4Addr| address.to_bits().checked_shr(32 - u32::from(lease.prefix.min(32)));
            source.is_link_local() || (lease.prefix > 0 && bits(source) == bits(lease.address))
        }
        // Another init's network: nobody has said what is near.
        (IpAddr::V4(_), None) => true,
    }
}

fn open_v4(device: &str, port: u16) -> Result<UdpSocket, Errno> {
    let socket = sockets::open(AddressFamily::INET, device)?;
    // A responder of this machine may hold the port already.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_ip_multicast_ttl(&socket, TTL.into())?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    Ok(socket)
}

fn open_v6(device: &str, port: u16) -> Result<UdpSocket, Errno> {
    let socket = sockets::open(AddressFamily::INET6, device)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_ipv6_v6only(&socket, true)?;
    sockopt::set_ipv6_multicast_hops(&socket, TTL.into())?;
    bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    Ok(socket)
}
