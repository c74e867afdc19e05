//! SRV and TXT records `_phase-image._tcp` of the uplink's domains, asked of the uplink's own servers
//! over the uplink: RFC 1035, section 4.2.1. All servers are asked at once.
//!
//! libc's resolver could not ask over one link while another is up.

use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use log::debug;
use rustix::net::AddressFamily;

use super::message::{Asked, Kind, Name, Record, query, records, settles};
use super::{Answer, Machine, SERVICE, offers, sockets};
use crate::net::Uplink;
use crate::paths::Paths;
use crate::sys::random;

const PORT: u16 = 53;
/// When a question is sent, counted from the start, and when no answer is expected any more.
const SENDINGS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
const PATIENCE: Duration = Duration::from_secs(3);
const MOST_DOMAINS: usize = 3;
const MOST_SERVERS: usize = 4;
/// What may come in answer to a question.
const MOST_MESSAGES: usize = 100;

pub(super) fn ask(machine: Machine<'_>, uplink: &Uplink, paths: &Paths) -> Answer {
    let system = fs::read_to_string(paths.resolv_conf()).unwrap_or_default();
    let domains = domains(uplink, &system);
    if domains.is_empty() {
        return Answer::NotAsked("no domain is known");
    }
    let servers = servers(uplink, &system);
    if servers.is_empty() {
        return Answer::NotAsked("no DNS server is known");
    }
    for domain in &domains {
        let Some(name) = Name::parse(&format!("{SERVICE}.{domain}")) else { continue };
        let Some(mut all) = look_up(&servers, (&name, Kind::Srv)) else {
            return Answer::None(format!("DNS does not answer for {domain}"));
        };
        if all.is_empty() {
            continue;
        }
        // Without a TXT record, a provider is as it usually is; without an answer, nobody knows how it is.
        let Some(texts) = look_up(&servers, (&name, Kind::Txt)) else {
            return Answer::None(format!("DNS does not answer for {domain}"));
        };
        all.extend(texts);
        let providers = offers::of_domain(&all, machine, up_to);
        if providers.is_empty() {
            let Machine { channel, arch } = machine;
            return Answer::None(format!("DNS names none for {channel} {arch} in {domain}"));
        }
        return Answer::Named { origin: format!("the DNS record SRV {SERVICE}.{domain}"), providers };
    }
    Answer::None(format!("DNS names none in {}", domains.join(", ")))
}

/// The records that answer `question`, which may be none; None if no server answers.
fn look_up(servers: &[UdpSocket], question: (&Name, Kind)) -> Option<Vec<Record>> {
    let mut id = [0; 2];
    random::fill_insecure(&mut id);
    let id = u16::from_ne_bytes(id);
    let message = query(id, &[question], Asked::Server);
    let started = Instant::now();
    let mut sendings = SENDINGS.iter().map(|&after| started + after).peekable();
    for _ in 0..MOST_MESSAGES {
        let now = Instant::now();
        if now >= started + PATIENCE {
            break;
        }
        if sendings.next_if(|&due| due <= now).is_some() {
            for server in servers {
                if let Err(error) = server.send(&message) {
                    debug!("DNS: {error}");
                }
            }
        }
        let until = sendings.peek().copied().unwrap_or(started + PATIENCE);
        if let Some((answer, _)) = sockets::receive(servers.iter(), until)
            && settles(&answer, id, question)
        {
            return Some(records(&answer));
        }
    }
    None
}

/// Sockets that hear from one server each.
fn servers(uplink: &Uplink, system: &str) -> Vec<UdpSocket> {
    let mut addresses = uplink.dns.clone();
    if addresses.is_empty() {
        let named = words(system, &["nameserver"]).filter_map(|mut words| words.next()?.parse().ok());
        addresses = named.collect();
    }
    let open = |address: &IpAddr| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let server = match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                SocketAddrV6::new(*address, PORT, 0, sockets::index(&uplink.interface)).into()
            }
            address => SocketAddr::new(*address, PORT),
        };
        // The server's name for itself must do: a system's own is reached over loopback.
        let device = if address.is_loopback() { "" } else { &uplink.interface };
        let opened = sockets::open(family, device).map_err(Into::into);
        let socket = opened.and_then(|socket| socket.connect(server).map(|()| socket));
        socket.inspect_err(|error| debug!("DNS: {server}: {error}")).ok()
    };
    addresses.iter().filter_map(open).take(MOST_SERVERS).collect()
}

/// Those of the uplink, or if another init has brought it up, the system's.
fn domains(uplink: &Uplink, system: &str) -> Vec<String> {
    let mut domains = uplink.search.clone();
    domains.extend(uplink.ipv4.as_ref().and_then(|lease| lease.domain.clone()));
    if domains.is_empty() {
        let last = words(system, &["search", "domain"]).last();
        domains = last.map(|words| words.map(str::to_owned).collect()).unwrap_or_default();
    }
    let mut kept: Vec<String> = Vec::new();
    for domain in domains {
        let domain = domain.trim_end_matches('.');
        if !domain.is_empty() && !kept.iter().any(|known| known.eq_ignore_ascii_case(domain)) {
            kept.push(domain.to_owned());
        }
    }
    kept.truncate(MOST_DOMAINS);
    kept
}

/// What follows one of these keys in resolv.conf(5), a line each.
fn words<'a>(
    system: &'a str,
    keys: &'static [&'static str],
) -> impl Iterator<Item = std::str::SplitAsciiWhitespace<'a>> {
    system.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        keys.contains(&words.next()?).then_some(words)
    })
}

/// A number from 0 to `most`; 0 where the kernel has no random number at once.
fn up_to(most: u32) -> u32 {
    let mut bytes = [0; 8];
    random::fill_insecure(&mut bytes);
    let number = u64::from_ne_bytes(bytes) % (u64::from(most) + 1);
    u32::try_from(number).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_and_servers_are_the_uplinks_or_the_systems() {
        let system =
            "domain a\nsearch b.example c.example\nnameserver 127.0.0.1\nnameserver x\nnameserver ::1\n";
        let search = ["lab.example.org.", "LAB.example.org", "", ".", "1", "2", "3", "4"];
        let uplink = Uplink { search: search.map(str::to_owned).into(), ..Uplink::default() };
        assert_eq!(domains(&uplink, system), ["lab.example.org", "1", "2"]);
        assert_eq!(domains(&Uplink::default(), system), ["b.example", "c.example"]);
        assert_eq!(domains(&Uplink::default(), ""), [""; 0]);
        let peers = |uplink: &Uplink| {
            let servers = servers(uplink, system);
            servers.iter().map(|server| server.peer_addr().unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(peers(&Uplink::default())[0], "127.0.0.1:53");
        let dns = vec!["127.0.0.53".parse().unwrap()];
        assert_eq!(peers(&Uplink { dns, ..Uplink::default() }), ["127.0.0.53:53"]);
    }
}
