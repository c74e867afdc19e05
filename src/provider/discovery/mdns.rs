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
/// What a noisy LAN may make us read.
const MOST_MESSAGES: usize = 2000;
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
        let index = sockets::index(device);
        // What is sent goes out of the device that the socket is bound to; a group is joined by the routes, unless its
        // device is named.
        let opened = open_v4(device, 0).map(|socket| (socket, SocketAddr::from((GROUP_V4, PORT))));
        let joined = open_v4(device, PORT).and_then(|socket| {
            sockopt::set_ip_add_membership_with_ifindex(&socket, &GROUP_V4, &Ipv4Addr::UNSPECIFIED, index)?;
            Ok(socket)
        });
        sockets.add(opened, joined, &mut trouble);
        // Without the number of the device there is no address to send to.
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
            // Whoever may answer has the port: RFC 6762, section 6.
            if source.port() != PORT || !is_near(uplink, source.ip().to_canonical()) {
                continue;
            }
            offers::hear(&mut records, message::records(&message));
            announced = offers::of_lan(&service, &records, machine);
            // Who has said goodbye may come back.
            end = if announced.urls.is_empty() {
                started + SILENCE
            } else {
                end.min(Instant::now() + GATHERING)
            };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::net::{Address6, Ipv6, Lease, Origin6};
    use std::thread;

    /// The header of a good response with one record.
    const GOOD: [u8; 12] = [0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0];

    /// Instance `name` of the service at 10.0.0.1, for so many seconds.
    fn announcement(name: u8, port: u16, ttl: u8) -> Vec<u8> {
        let mut message = GOOD.to_vec();
        let mut record = |name: &[u8], kind: u8, flag: u8, data: &[u8]| {
            message.extend_from_slice(name);
            message.extend_from_slice(&[
                0,
                kind,
                flag,
                1,
                0,
                0,
                0,
                ttl,
                0,
                u8::try_from(data.len()).unwrap(),
            ]);
            message.extend_from_slice(data);
        };
        let service = b"\x0c_phase-image\x04_tcp\x05local\0";
        // The instance is named there, at 12 + 25 + 10.
        record(service, 12, 0, &[1, name, 0xc0, 12]);
        record(b"\xc0\x2f", 33, 0x80, &[&[0; 4][..], &port.to_be_bytes(), b"\x01h\0"].concat());
        record(b"\xc0\x2f", 16, 0x80, b"\0");
        record(b"\x01h\0", 1, 0x80, &[10, 0, 0, 1]);
        message
    }

    /// What is found where somebody who is asked sends these messages, each from its port, 100 ms apart; and after
    /// how long. `address` is theirs alone.
    fn browsed(address: [u8; 4], messages: Vec<(u16, Vec<u8>)>) -> (Vec<String>, Duration) {
        let open = |port| {
            let socket = sockets::open(AddressFamily::INET, "").unwrap();
            sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            bind(&socket, &SocketAddr::from((address, port))).unwrap();
            socket.set_nonblocking(false).unwrap();
            socket
        };
        let (responder, other, client) = (open(PORT), open(0), open(0));
        client.set_nonblocking(true).unwrap();
        responder.set_read_timeout(Some(SILENCE)).unwrap();
        let group = responder.local_addr().unwrap();
        let sockets = Sockets { senders: vec![(client, group)], listeners: Vec::new() };
        let answers = thread::spawn(move || {
            let (_, client) = responder.recv_from(&mut [0; 512]).unwrap();
            for (port, message) in messages {
                let socket = if port == PORT { &responder } else { &other };
                socket.send_to(&message, client).unwrap();
                thread::sleep(Duration::from_millis(100));
            }
        });
        let started = Instant::now();
        let machine = Machine { channel: "stable", arch: Arch::X86_64 };
        let found = sockets.browse(machine, &Uplink::default());
        answers.join().unwrap();
        (found, started.elapsed())
    }

    #[test]
    fn who_restarts_on_another_port_is_asked_there() {
        let messages = [announcement(b'a', 80, 10), announcement(b'a', 80, 0), announcement(b'a', 81, 10)];
        let (found, took) = browsed([127, 67, 62, 1], messages.map(|message| (PORT, message)).into());
        assert_eq!(found, ["http://10.0.0.1:81/"]);
        assert!(took < SILENCE, "{took:?}");
    }

    #[test]
    fn a_goodbye_announces_nobody_and_ends_nothing() {
        let messages = [announcement(b'a', 80, 10), announcement(b'a', 80, 0)];
        let (found, took) = browsed([127, 67, 62, 2], messages.map(|message| (PORT, message)).into());
        assert_eq!(found, [""; 0]);
        assert!(took >= SILENCE, "{took:?}");
    }

    #[test]
    fn what_is_no_response_of_a_responder_is_not_heard() {
        let with = |at: usize, bits: u8| {
            let mut message = announcement(b'a', 80, 10);
            message[at] ^= bits;
            (PORT, message)
        };
        let mut messages = vec![(0, announcement(b'a', 80, 10)), with(2, 0x80), with(2, 0x28), with(3, 3)];
        assert_eq!(browsed([127, 67, 62, 3], messages.clone()).0, [""; 0]);
        messages.push((PORT, announcement(b'b', 81, 10)));
        assert_eq!(browsed([127, 67, 62, 4], messages).0, ["http://10.0.0.1:81/"]);
    }

    #[test]
    fn what_is_near_has_a_prefix_of_the_link() {
        let near = |uplink: &Uplink, source: &str| is_near(uplink, source.parse().unwrap());
        let unknown = Uplink::default();
        assert!(near(&unknown, "192.0.2.1") && near(&unknown, "fe80::1") && !near(&unknown, "2001:db8::1"));
        for (prefix, sources) in [
            (24, [true, false, false]),
            (8, [true, true, false]),
            (32, [false, false, false]),
            (0, [false, false, false]),
            (255, [false, false, false]),
        ] {
            let lease = serde_json::json!({
                "interface": "eth0", "mac": "02:00:00:00:00:01", "origin": "dhcp", "address": "10.0.2.15",
                "prefix": prefix, "routers": [], "routes": [], "dns": [], "search": [], "ntp": []
            });
            let lease: Lease = serde_json::from_value(lease).unwrap();
            let uplink = Uplink { ipv4: Some(lease), ..Uplink::default() };
            assert_eq!(["10.0.2.1", "10.0.3.1", "11.0.2.1"].map(|source| near(&uplink, source)), sources);
            assert!(near(&uplink, "169.254.3.4") && near(&uplink, "10.0.2.15") == (prefix > 0));
        }
        for (prefix, sources) in [
            (64, [true, false]),
            (48, [true, true]),
            (128, [false, false]),
            (0, [false, false]),
            (255, [false, false]),
        ] {
            let address =
                Address6 { address: "2001:db8::5".parse().unwrap(), prefix, origin: Origin6::Slaac };
            let ipv6 = Ipv6 { addresses: vec![address], ..Ipv6::default() };
            let uplink = Uplink { ipv6: Some(ipv6), ..Uplink::default() };
            assert_eq!(["2001:db8::1", "2001:db8:0:1::1"].map(|source| near(&uplink, source)), sources);
            assert!(near(&uplink, "fe80::1") && !near(&uplink, "2001:db9::1"));
        }
    }
}
