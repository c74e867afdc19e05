//! SRV and TXT records `_phase-image._tcp` of the uplink's domains, asked of the uplink's own servers
//! over the uplink: RFC 1035, section 4.2. All servers are asked at once, over UDP; who has more to say than
//! fits into 512 bytes is asked again over TCP.
//!
//! libc's resolver could not ask over one link while another is up.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use log::{debug, info};
use rustix::net::AddressFamily;

use super::super::connect::dial;
use super::message::{Asked, Kind, Name, Record, Verdict, query, records, verdict};
use super::{Answer, Machine, SERVICE, offers, sockets};
use crate::net::Uplink;
use crate::paths::Paths;
use crate::sys::random;

const PORT: u16 = 53;
/// When a question is sent, counted from the start, and when no answer is expected any more.
const SENDINGS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_millis(1500)];
const PATIENCE: Duration = Duration::from_secs(3);
/// What of that one server may take to answer over TCP, once: others may have the answer, too. The first SYN is
/// repeated after a second.
const STREAM: Duration = Duration::from_millis(1500);
const MOST_DOMAINS: usize = 3;
const MOST_SERVERS: usize = 4;
/// RCODE of RFC 1035, section 4.1.1.
const SERVER_FAILURE: u8 = 2;
/// What may come in answer to a question.
const MOST_MESSAGES: usize = 100;

pub(super) fn ask(machine: Machine<'_>, uplink: &Uplink, paths: &Paths) -> Answer {
    let system = fs::read_to_string(paths.resolv_conf()).unwrap_or_default();
    let mut domains = domains(uplink, &system);
    if domains.is_empty() {
        return Answer::NotAsked("no domain is known");
    }
    let servers = servers(uplink, &system);
    if servers.is_empty() {
        return Answer::NotAsked("no DNS server is known");
    }
    for domain in &mut domains {
        let Some(name) = Name::parse(&format!("{SERVICE}.{domain}")) else { continue };
        let answered = look_up(&servers, device(uplink), (&name, Kind::Srv)).and_then(|mut all| {
            // Without a TXT record, a provider is as it usually is; without an answer, nobody knows how it is.
            if !all.is_empty() {
                all.extend(look_up(&servers, device(uplink), (&name, Kind::Txt))?);
            }
            Ok(all)
        });
        let all = match answered {
            Ok(all) if all.is_empty() => continue,
            Ok(all) => all,
            Err(Some(code)) => {
                let _ = write!(domain, " (refused: RCODE {code})");
                continue;
            }
            // Nor for the next one, most likely.
            Err(None) => return Answer::None(format!("DNS does not answer for {domain}")),
        };
        let providers = offers::of_domain(&all, machine, up_to);
        if providers.is_empty() {
            let Machine { channel, arch } = machine;
            return Answer::None(format!("DNS names none for {channel} {arch} in {domain}"));
        }
        return Answer::Named { origin: format!("the DNS record SRV {SERVICE}.{domain}"), providers };
    }
    Answer::None(format!("DNS names none in {}", domains.join(", ")))
}

/// The records that answer `question`, which may be none. Otherwise the RCODE that a server refuses with; None if
/// no server answers.
fn look_up(servers: &[UdpSocket], device: &str, question: (&Name, Kind)) -> Result<Vec<Record>, Option<u8>> {
    let mut id = [0; 2];
    random::fill_insecure(&mut id);
    let id = u16::from_ne_bytes(id);
    let message = query(id, &[question], Asked::Server);
    let started = Instant::now();
    let mut sendings = SENDINGS.iter().map(|&after| started + after).peekable();
    // Who was asked over TCP, who refuses, and with which RCODE.
    let (mut streamed, mut refusing, mut refusal) = (Vec::new(), Vec::new(), None);
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
        let Some((mut answer, server)) = sockets::receive(servers.iter(), until) else { continue };
        let mut found = verdict(&answer, id, question);
        if found == Verdict::Truncated && !streamed.contains(&server) {
            streamed.push(server);
            match over_tcp(server, device, &message, STREAM.min(PATIENCE.saturating_sub(started.elapsed()))) {
                Ok(whole) => (found, answer) = (verdict(&whole, id, question), whole),
                Err(error) => info!("DNS: too long for UDP, and over TCP {server} does not answer: {error}"),
            }
        }
        if let Verdict::Refused(code) = found {
            refusal = Some(code);
            // A server that fails may have just started: it is asked once more.
            let is_final = code != SERVER_FAILURE || sendings.len() <= 1;
            if is_final && !refusing.contains(&server) {
                refusing.push(server);
                if refusing.len() == servers.len() {
                    break;
                }
            }
        }
        if found == Verdict::Settled {
            return Ok(records(&answer));
        }
    }
    Err(refusal)
}

/// The message that answers `message` over a connection, where each has its length before it: RFC 7766,
/// section 8.
fn over_tcp(server: SocketAddr, device: &str, message: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let until = Instant::now() + limit;
    let mut stream = dial(&[server], Some(device), limit)?;
    let length = u16::try_from(message.len()).unwrap_or(0);
    // In one piece: section 8 again.
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 2048]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if let Some((length, rest)) = answer.split_first_chunk()
            && let Some(whole) = rest.get(..usize::from(u16::from_be_bytes(*length)))
        {
            return Ok(whole.to_vec());
        }
    }
}

/// The one that sockets are bound to. Where another init has brought the network up, its routes count: servers need not
/// be on the link that the boot goes over.
fn device(uplink: &Uplink) -> &str {
    if uplink.bound { &uplink.interface } else { "" }
}

/// Sockets that hear from one server each.
fn servers(uplink: &Uplink, system: &str) -> Vec<UdpSocket> {
    let mut sockets = Vec::new();
    let mut add = |address: IpAddr, scope: &str| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let mut server = SocketAddr::new(address, PORT);
        if let SocketAddr::V6(server) = &mut server
            && server.ip().is_unicast_link_local()
        {
            let scope = if scope.is_empty() { &uplink.interface } else { scope };
            server.set_scope_id(scope.parse().unwrap_or_else(|_| sockets::index(scope)));
        }
        // The server's name for itself must do: a system's own is reached over loopback.
        let device = if address.is_loopback() { "" } else { device(uplink) };
        let opened = sockets::open(family, device).map_err(Into::into);
        match opened.and_then(|socket| socket.connect(server).map(|()| socket)) {
            Ok(socket) => {
                let is_known = sockets.iter().any(|known: &UdpSocket| known.peer_addr().ok() == Some(server));
                if !is_known && sockets.len() < MOST_SERVERS {
                    sockets.push(socket);
                }
            }
            Err(error) => debug!("DNS: {server}: {error}"),
        }
    };
    if uplink.dns.is_empty() {
        for (address, scope) in words(system, &["nameserver"]).filter_map(|mut words| scoped(words.next()?)) {
            add(address, scope);
        }
    }
    for &address in &uplink.dns {
        add(address, "");
    }
    sockets
}

/// An address, and the link that it holds on: RFC 4007, section 11.
fn scoped(text: &str) -> Option<(IpAddr, &str)> {
    let (address, scope) = text.split_once('%').unwrap_or((text, ""));
    Some((address.parse().ok()?, scope))
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
    use std::net::TcpListener;
    use std::thread;

    /// How a server deals with a connection.
    type Manners = fn(Vec<u8>) -> Option<Vec<u8>>;

    /// The answer to a question: three TXT records, as long as strings of `size` bytes.
    fn answer(query: &[u8], truncated: bool, size: usize) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= if truncated { 0x82 } else { 0x80 };
        if !truncated {
            answer[7] = 3;
            for letter in *b"abc" {
                answer.extend_from_slice(b"\xc0\x0c\0\x10\0\x01\0\0\0\0\0");
                answer.extend([u8::try_from(size + 1).unwrap(), u8::try_from(size).unwrap()]);
                answer.extend(vec![letter; size]);
            }
        }
        answer
    }

    /// A message as it comes over TCP.
    fn framed(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    /// Who asks this server, and nobody else; it waits for them long enough.
    fn client_of(server: &UdpSocket) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        server.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        client
    }

    /// A server that says over UDP that its answer is too long, and over TCP what `manners` makes of the question;
    /// None is nothing, ever. The client's end.
    fn server(manners: Manners) -> UdpSocket {
        let (datagrams, streams) = (0..50)
            .find_map(|_| {
                let streams = TcpListener::bind("127.0.0.1:0").unwrap();
                Some((UdpSocket::bind(streams.local_addr().unwrap()).ok()?, streams))
            })
            .unwrap();
        let client = client_of(&datagrams);
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = datagrams.recv_from(&mut buffer) {
                let _ = datagrams.send_to(&answer(&buffer[..length], true, 0), peer);
            }
        });
        thread::spawn(move || {
            let (mut stream, _) = streams.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let Some(answer) = manners(query) else { return thread::sleep(PATIENCE * 2) };
            // In two pieces, as TCP may have it.
            let (first, second) = answer.split_at(1);
            let _ = stream.write_all(first);
            thread::sleep(Duration::from_millis(10));
            let _ = stream.write_all(second);
        });
        client
    }

    /// A server that refuses with this RCODE; None says nothing. The client's end.
    fn refuser(code: Option<u8>) -> UdpSocket {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = client_of(&datagrams);
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = datagrams.recv_from(&mut buffer) {
                let Some(code) = code else { continue };
                buffer[2] |= 0x80;
                buffer[3] |= code;
                let _ = datagrams.send_to(&buffer[..length], peer);
            }
        });
        client
    }

    /// How many records these servers answer with, and after how long.
    fn asked(servers: &[UdpSocket]) -> (Result<usize, Option<u8>>, Duration) {
        let started = Instant::now();
        let name = Name::parse("_phase-image._tcp.lab.test").unwrap();
        let found = look_up(servers, "lo", (&name, Kind::Txt));
        (found.map(|records| records.len()), started.elapsed())
    }

    #[test]
    fn what_is_too_long_for_udp_comes_over_tcp() {
        let manners: [Manners; 2] = [
            |query| Some(framed(&answer(&query, false, 9))),
            |query| Some(framed(&answer(&query, false, 250))),
        ];
        for manners in manners {
            let (found, took) = asked(&[server(manners)]);
            assert_eq!(found, Ok(3));
            assert!(took < STREAM, "{took:?}");
        }
    }

    #[test]
    fn a_server_that_is_silent_over_tcp_keeps_nobody_from_the_next() {
        let (found, took) =
            asked(&[server(|_| None), server(|query| Some(framed(&answer(&query, false, 9))))]);
        assert_eq!(found, Ok(3));
        assert!(took < PATIENCE, "{took:?}");
    }

    #[test]
    fn servers_that_all_refuse_are_not_waited_for() {
        for (code, servers) in [(5, vec![refuser(Some(5))]), (2, vec![refuser(Some(2)), refuser(Some(2))])] {
            let (found, took) = asked(&servers);
            assert_eq!(found, Err(Some(code)));
            assert!(took < PATIENCE / 2, "{took:?}");
        }
    }

    #[test]
    fn a_server_that_fails_at_first_is_asked_again() {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = client_of(&datagrams);
        thread::spawn(move || {
            let mut buffer = [0; 512];
            for code in [SERVER_FAILURE, 0] {
                let (length, peer) = datagrams.recv_from(&mut buffer).unwrap();
                let mut answer = answer(&buffer[..length], false, 9);
                answer[3] |= code;
                datagrams.send_to(&answer, peer).unwrap();
            }
        });
        assert_eq!(asked(&[client]).0, Ok(3));
    }

    #[test]
    fn a_server_that_refuses_speaks_for_no_other() {
        let late: Manners = |query| {
            thread::sleep(Duration::from_millis(300));
            Some(framed(&answer(&query, false, 9)))
        };
        assert_eq!(asked(&[refuser(Some(5)), server(late)]).0, Ok(3));
        // It repeats itself: once for each question.
        let (found, took) = asked(&[refuser(Some(5)), refuser(None)]);
        assert_eq!(found, Err(Some(5)));
        assert!(took >= PATIENCE, "{took:?}");
        assert_eq!(asked(&[refuser(None)]).0, Err(None));
    }

    /// Within the patience with one question.
    #[test]
    fn servers_that_lie_over_tcp_end_in_time() {
        let manners: [(&str, Manners); 7] = [
            ("truncated for ever", |query| Some(framed(&answer(&query, true, 0)))),
            ("another id", |mut query| {
                query[0] ^= 1;
                Some(framed(&answer(&query, false, 9)))
            }),
            ("shorter than it says", |query| {
                let mut answer = framed(&answer(&query, false, 9));
                answer[..2].fill(0xff);
                Some(answer)
            }),
            ("longer than it says", |query| {
                let mut answer = framed(&answer(&query, false, 9));
                answer[..2].copy_from_slice(&[0, 20]);
                Some(answer)
            }),
            ("no length", |_| Some(vec![0])),
            ("nothing", |_| Some(vec![0, 0])),
            ("silent", |_| None),
        ];
        let threads = manners.map(|(name, manners)| (name, thread::spawn(move || asked(&[server(manners)]))));
        for (name, thread) in threads {
            let (found, took) = thread.join().unwrap();
            assert_eq!(found, Err(None), "{name}");
            assert!(took < PATIENCE + Duration::from_secs(1), "{name}: {took:?}");
        }
    }

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
        assert_eq!(
            peers(&Uplink { dns: [dns.clone(), dns].concat(), ..Uplink::default() }),
            ["127.0.0.53:53"]
        );
    }

    #[test]
    fn sockets_are_bound_where_several_links_are_up() {
        let opened = |bound: bool| {
            // An address of this machine that no name for itself is; there is no such link.
            let dns = vec![IpAddr::from([0; 4])];
            servers(&Uplink { interface: "absent0".to_owned(), bound, dns, ..Uplink::default() }, "").len()
        };
        assert_eq!((opened(false), opened(true)), (1, 0));
    }

    #[test]
    fn servers_have_scopes() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(scoped("fe80::1%eth0"), Some((address("fe80::1"), "eth0")));
        assert_eq!(scoped("10.0.2.3"), Some((address("10.0.2.3"), "")));
        for text in ["", "%", "%eth0", "x%eth0", "fe80::1/64"] {
            assert_eq!(scoped(text), None, "{text}");
        }
    }
}
