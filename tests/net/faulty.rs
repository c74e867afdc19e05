//! DHCPv4 servers as they should not be, played by these tests on server0: each ends in a lease or in one
//! clear line, never in anything that was not meant for this machine.

use std::cell::Cell;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use phaseboot::net::{Caller, Error, Event, Lease, Settings};
use phaseboot::paths::Paths;

use crate::lab::{Lab, SERVER, Watched, in_namespaces, show};

/// Sent for every message of the client: kind, transaction id, address, and options besides 53.
struct Reply {
    kind: u8,
    xid: [u8; 4],
    mac: [u8; 6],
    address: [u8; 4],
    options: Vec<u8>,
}

/// What a client has sent.
struct Asked<'a> {
    packet: &'a [u8],
    kind: u8,
    /// How many of this kind there were, with this one.
    count: usize,
    /// When the first message came.
    since: Duration,
}

const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Server 10.99.0.1, mask, 30 s.
const USUAL: [u8; 18] = [54, 4, 10, 99, 0, 1, 1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 0, 30];

impl Asked<'_> {
    fn reply(&self, kind: u8, last: u8, options: &[u8]) -> Reply {
        Reply {
            kind,
            xid: self.packet[4..8].try_into().unwrap(),
            mac: self.packet[28..34].try_into().unwrap(),
            address: [10, 99, 0, last],
            options: options.to_vec(),
        }
    }

    /// An offer for a discover, and an ACK for a request.
    fn usual(&self, options: &[u8]) -> Reply {
        self.reply(if self.kind == 1 { OFFER } else { ACK }, 100, options)
    }
}

impl Reply {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&self.xid);
        bytes[16..20].copy_from_slice(&self.address);
        bytes[28..34].copy_from_slice(&self.mac);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend([53, 1, self.kind]);
        bytes.extend(&self.options);
        bytes.push(255);
        bytes
    }
}

/// The options of a message, up to what is no option any more.
fn option(packet: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = &packet[240..];
    while let [code, length, tail @ ..] = rest {
        let (value, next) = tail.split_at_checked(usize::from(*length))?;
        if *code == wanted {
            return Some(value);
        }
        rest = next;
    }
    None
}

/// Answers as it is told, by broadcast, until the client has been silent for so long.
fn serve(silence: u64, answer: impl Fn(&Asked<'_>) -> Vec<Vec<u8>>) {
    let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut counts = [0; 256];
    let mut first = None;
    let mut buffer = [0; 1500];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        socket.set_read_timeout(Some(Duration::from_secs(silence))).unwrap();
        let packet = &buffer[..length];
        let Some(&[kind]) = option(packet, 53) else { continue };
        counts[usize::from(kind)] += 1;
        println!("server: message {kind}");
        let since = first.get_or_insert_with(Instant::now).elapsed();
        let asked = Asked { packet, kind, count: counts[usize::from(kind)], since };
        for reply in answer(&asked) {
            // Fails while the other end is down.
            let _ = socket.send_to(&reply, "10.99.0.255:68");
        }
    }
}

/// A server that answers so, and what the client makes of it.
fn against(
    name: &str,
    silence: u64,
    answer: impl Fn(&Asked<'_>) -> Vec<Vec<u8>>,
    inside: impl FnOnce(&mut Watched),
) {
    against_with(name, silence, Settings::default(), answer, |_, mut watched| inside(&mut watched));
}

/// The same, with settings, and for one that looks at what is left behind.
fn against_with(
    name: &str,
    silence: u64,
    settings: Settings,
    answer: impl Fn(&Asked<'_>) -> Vec<Vec<u8>>,
    inside: impl FnOnce(&Paths, Watched),
) {
    if std::env::var_os(SERVER).is_some() {
        return serve(silence, answer);
    }
    in_namespaces(
        name,
        |paths| inside(paths, Watched::start(paths, settings, Caller::Command, 12)),
        || {
            let mut lab = Lab::new(1);
            lab.play(name);
            lab.run(name, |_| {});
            let logs = lab.logs();
            assert!(!logs.contains("panicked"), "{logs}");
        },
    );
}

fn leased(watched: &mut Watched) -> Lease {
    watched.until(|uplink| uplink.ipv4.is_some()).ipv4.unwrap()
}

#[test]
fn answers_for_others_are_passed_over() {
    against(
        "faulty::answers_for_others_are_passed_over",
        3,
        |asked| {
            let mut other_xid = asked.usual(&USUAL);
            other_xid.xid[0] ^= 1;
            other_xid.address[3] = 66;
            let mut other_mac = asked.usual(&USUAL);
            other_mac.mac[5] ^= 1;
            other_mac.address[3] = 67;
            let mut request = asked.usual(&USUAL).bytes();
            request[0] = 1;
            request[19] = 68;
            let mut cookieless = asked.usual(&USUAL).bytes();
            cookieless[236] = 0;
            cookieless[19] = 69;
            // An answer to the other kind of message.
            let early = asked.reply(if asked.kind == 1 { ACK } else { OFFER }, 70, &USUAL).bytes();
            vec![
                other_xid.bytes(),
                other_mac.bytes(),
                request,
                cookieless,
                early,
                asked.usual(&USUAL).bytes(),
            ]
        },
        |watched| {
            let lease = leased(watched);
            assert_eq!(lease.address.octets(), [10, 99, 0, 100]);
            watched.quiet(300);
        },
    );
}

#[test]
fn offers_that_come_again_and_again_lead_to_one_lease() {
    against(
        "faulty::offers_that_come_again_and_again_lead_to_one_lease",
        3,
        |asked| {
            let usual = asked.usual(&USUAL).bytes();
            let other = asked.reply(OFFER, 101, &USUAL).bytes();
            vec![usual.clone(), usual.clone(), other, usual.clone(), usual]
        },
        |watched| {
            assert_eq!(leased(watched).address.octets(), [10, 99, 0, 100]);
            let addresses = show("-4 addr show dev eth0");
            assert_eq!(addresses[0]["addr_info"].as_array().unwrap().len(), 1, "{addresses}");
        },
    );
}

#[test]
fn malformed_and_overlong_options_spoil_no_other() {
    against(
        "faulty::malformed_and_overlong_options_spoil_no_other",
        3,
        |asked| {
            // Lengths that are none: router of 3, MTU of 1, servers of 5, routes cut off, a mask with holes.
            let mut options = vec![3, 3, 10, 99, 0, 26, 1, 9, 6, 5, 10, 99, 0, 53, 1, 121, 2, 33, 10];
            options
                .extend([1, 4, 255, 0, 255, 0, 28, 4, 1, 2, 3, 4, 80, 3, 1, 2, 3, 58, 4, 255, 255, 255, 255]);
            options.extend([54, 4, 10, 99, 0, 1, 51, 4, 0, 0, 0, 30]);
            // A domain in two pieces of 255 and 40 bytes: too long for a name.
            for length in [255, 40] {
                options.extend([15, length]);
                options.extend(std::iter::repeat_n(b'a', usize::from(length)));
            }
            // A search list that points at itself, then an option longer than what is left.
            options.extend([119, 2, 0xc0, 0, 12, 3, b'a', b'\n', b'b', 66, 200, b'x']);
            vec![asked.usual(&options).bytes()]
        },
        |watched| {
            let lease = leased(watched);
            assert_eq!((lease.address.octets(), lease.prefix), ([10, 99, 0, 100], 8));
            assert!(lease.routers.is_empty() && lease.dns.is_empty() && lease.routes.is_empty(), "{lease:?}");
            assert_eq!((lease.mtu, lease.domain, lease.hostname, lease.broadcast), (None, None, None, None));
            assert!(lease.search.is_empty() && lease.lease_seconds == Some(30));
        },
    );
}

#[test]
fn addresses_that_are_none_are_not_set() {
    against(
        "faulty::addresses_that_are_none_are_not_set",
        3,
        |asked| {
            let last = [0, 255, 1][asked.count % 3];
            let mut reply = asked.reply(OFFER, last, &USUAL);
            if last == 1 {
                reply.address = [127, 0, 0, 1];
            }
            vec![reply.bytes()]
        },
        |watched| {
            let Event::Exhausted(error) = watched.next() else { panic!("{:?}", watched.told) };
            assert!(matches!(error, Error::NoLease { .. }), "{error}");
            assert!(error.to_string().starts_with("eth0: lease not usable: "), "{error}");
            assert!(!show("-4 addr show dev eth0").to_string().contains("10.99.0."));
        },
    );
}

#[test]
fn a_server_that_refuses_for_ever_is_told_of_and_not_flooded() {
    against(
        "faulty::a_server_that_refuses_for_ever_is_told_of_and_not_flooded",
        5,
        |asked| {
            // Four in the first second and a half, eight in twelve: doubled each time.
            assert!(asked.count < 12, "{} messages in {:?}", asked.count, asked.since);
            let kind = if asked.kind == 1 { OFFER } else { NAK };
            let mut options = USUAL.to_vec();
            options.extend([56, 7]);
            options.extend(b"go away");
            vec![asked.reply(kind, 100, &options).bytes()]
        },
        |watched| {
            let Event::Exhausted(error) = watched.next() else { panic!("{:?}", watched.told) };
            let line = error.to_string();
            assert!(
                line.starts_with("eth0: 10.99.0.1 refused 10.99.0.100 (DHCP NAK) \"go away\", after "),
                "{line}"
            );
        },
    );
}

#[test]
fn an_offer_that_is_not_kept_is_told_of() {
    against(
        "faulty::an_offer_that_is_not_kept_is_told_of",
        5,
        |asked| if asked.kind == 1 { vec![asked.usual(&USUAL).bytes()] } else { Vec::new() },
        |watched| {
            let Event::Exhausted(error) = watched.next() else { panic!("{:?}", watched.told) };
            assert!(error.to_string().contains("offer from 10.99.0.1, but no answer to "), "{error}");
        },
    );
}

/// 30 s are asked for again after 15 s, unicast to the server that granted them.
#[test]
fn a_short_lease_is_renewed_and_one_that_nobody_extends_is_lost() {
    against_with(
        "faulty::a_short_lease_is_renewed_and_one_that_nobody_extends_is_lost",
        17,
        Settings::default(),
        |asked| {
            if asked.since > Duration::from_secs(12) {
                return Vec::new();
            }
            // 16 s, T1 after 4, T2 after 8.
            let options =
                [&USUAL[..12], &[51, 4, 0, 0, 0, 16, 58, 4, 0, 0, 0, 4, 59, 4, 0, 0, 0, 8]].concat();
            vec![asked.usual(&options).bytes()]
        },
        |paths, mut watched| {
            let started = Instant::now();
            let first = leased(&mut watched);
            watched.exhausted();
            assert!(paths.lease().exists());
            watched.network.settle("eth0");
            while !matches!(watched.next(), Event::Down(name) if name == "eth0") {}
            assert!(!paths.lease().exists(), "it would tell of an address that is not ours any more");
            let took = started.elapsed().as_secs();
            // Renewed once or twice within the first 12 s, and then kept to its end.
            assert!((20..30).contains(&took), "{took} s, {:?}", first.t1);
            assert!(!show("-4 addr show dev eth0").to_string().contains("10.99.0."));
            assert_eq!(show("route show").as_array().unwrap().len(), 0);
        },
    );
}

/// A server that takes its times for what they are: what comes after the end of a lease is refused.
#[test]
fn a_lease_of_a_few_seconds_is_renewed_before_it_ends() {
    const SECONDS: u64 = 4;
    let (started, granted) = (Instant::now(), Cell::new(0));
    against_with(
        "faulty::a_lease_of_a_few_seconds_is_renewed_before_it_ends",
        10,
        Settings::default(),
        |asked| {
            let options = [&USUAL[..12], &[51, 4, 0, 0, 0, u8::try_from(SECONDS).unwrap()]].concat();
            let now = u64::try_from(started.elapsed().as_millis()).unwrap();
            let over = asked.kind == 3 && asked.count > 1 && now > granted.get() + 1000 * SECONDS;
            if asked.kind == 3 {
                granted.set(now);
            }
            if over {
                return vec![asked.reply(NAK, 0, &options).bytes()];
            }
            vec![asked.usual(&options).bytes()]
        },
        |_, mut watched| {
            let lease = leased(&mut watched);
            assert_eq!((lease.lease_seconds, lease.t1), (Some(4), Some(2)));
            watched.exhausted();
            // Nothing changes for more than two leases.
            watched.quiet(9500);
            let address = &show("-4 addr show dev eth0")[0]["addr_info"][0];
            assert_eq!(address["local"], "10.99.0.100");
            // Nobody renews it from now on.
            watched.network.settle("eth0");
            watched.network.hand_over();
            let is_set = || show("-4 addr show dev eth0").to_string().contains("10.99.0.100");
            assert!(is_set());
            let since = Instant::now();
            while is_set() && since.elapsed() < Duration::from_secs(8) {
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(since.elapsed() < Duration::from_secs(6), "it is used past its end");
        },
    );
}

/// Servers for UEFI's HTTP boot answer the same vendor class: one without addresses, and one with them.
#[test]
fn boot_loaders_for_firmware_hide_no_provider() {
    let boot = |server: u8, url: &str| {
        let mut options = USUAL.to_vec();
        options[5] = server;
        options.extend([67, u8::try_from(url.len()).unwrap()]);
        options.extend(url.bytes());
        options
    };
    against_with(
        "faulty::boot_loaders_for_firmware_hide_no_provider",
        3,
        Settings { wants_boot_url: true, ..Settings::default() },
        |asked| {
            let efi = boot(1, "http://10.99.0.1/EFI/BOOTX64.EFI");
            let good = boot(2, "http://10.99.0.2/");
            if asked.kind == 1 {
                let mut proxy = asked.reply(OFFER, 0, &boot(3, "http://10.99.0.3/EFI/BOOTX64.EFI"));
                proxy.address = [0; 4];
                return vec![
                    proxy.bytes(),
                    asked.reply(OFFER, 100, &efi).bytes(),
                    asked.reply(OFFER, 120, &good).bytes(),
                ];
            }
            match option(asked.packet, 54) {
                Some([.., 1]) => vec![asked.reply(ACK, 100, &efi).bytes()],
                _ => vec![asked.reply(ACK, 120, &good).bytes()],
            }
        },
        |_, mut watched| {
            let lease = leased(&mut watched);
            assert_eq!(lease.address.octets(), [10, 99, 0, 120]);
            assert_eq!(lease.boot_url().unwrap().0, "http://10.99.0.2/");
        },
    );
}

/// The mask and the server twice, as some relays do.
#[test]
fn a_mask_that_is_sent_twice_counts_once() {
    against(
        "faulty::a_mask_that_is_sent_twice_counts_once",
        3,
        |asked| vec![asked.usual(&[USUAL, USUAL].concat()).bytes()],
        |watched| {
            let lease = leased(watched);
            assert_eq!((lease.prefix, lease.lease_seconds), (24, Some(30)));
            assert_eq!(lease.server.unwrap().octets(), [10, 99, 0, 1]);
        },
    );
}
