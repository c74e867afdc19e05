//! Servers and a network that lose, repeat, delay and lie, in simulated time.

use super::tests::*;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// What becomes of one message of the client.
#[derive(Clone, Debug)]
enum Fate {
    Lost,
    /// Answered as it should be, so many times.
    Answered(u8),
    /// Answered for another exchange, client or server.
    Misdirected(usize),
    Refused(u16),
    /// Answered with this lifetime, and times that may make no sense.
    Leased(u32, u32, u32),
    /// Answered with one byte changed and the end cut off.
    Garbled(usize, u8, usize),
    Noise(Vec<u8>),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Lost),
        2 => (1..4u8).prop_map(Fate::Answered),
        1 => (4..30usize).prop_map(Fate::Misdirected),
        1 => prop_oneof![0..8u16, any::<u16>()].prop_map(Fate::Refused),
        2 => (any::<u32>(), 0..40u32, any::<u32>()).prop_map(|(t1, valid, t2)| Fate::Leased(t1, valid, t2)),
        2 => (any::<usize>(), any::<u8>(), any::<usize>()).prop_map(|(at, to, cut)| Fate::Garbled(at, to, cut)),
        1 => vec(any::<u8>(), 0..100).prop_map(Fate::Noise),
    ]
}

/// An honest answer to `message`, with this association.
fn answer(client: &Client6, message: &[u8], association: Vec<u8>) -> Vec<u8> {
    let kind = match message.first() {
        Some(1) => ADVERTISE,
        _ => REPLY,
    };
    packet(kind, client, b"\0\x03\0\x01server", &[association, option(23, &OURS.octets())])
}

fn good(client: &Client6, message: &[u8]) -> Vec<u8> {
    answer(client, message, association(0, 0, &[lease_of(OURS, 600, 900)]))
}

fn answers(client: &Client6, message: &[u8], fate: Fate) -> Vec<Vec<u8>> {
    match fate {
        Fate::Lost => Vec::new(),
        Fate::Answered(times) => vec![good(client, message); times.into()],
        Fate::Misdirected(at) => {
            let mut wrong = good(client, message);
            wrong[at % 18] ^= 0x40;
            vec![wrong]
        }
        Fate::Refused(code) => vec![answer(client, message, association(0, 0, &[status(code, "no")]))],
        Fate::Leased(t1, valid, t2) => {
            vec![answer(client, message, association(t1, t2, &[lease_of(OURS, valid, valid)]))]
        }
        Fate::Garbled(at, to, cut) => {
            let mut packet = good(client, message);
            let length = packet.len();
            packet[at % length] = to;
            packet.truncate(cut % (2 * length));
            vec![packet]
        }
        Fate::Noise(bytes) => {
            let [_, xid @ ..] = client.xid.to_be_bytes();
            vec![bytes.clone(), [&[REPLY], xid.as_slice(), &option(1, &DUID), &bytes].concat()]
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, the client goes on, never spins, never holds what nobody granted, and has its
    /// lease as soon as the network is honest again, and then keeps it.
    #[test]
    fn no_network_stops_it(fates in vec(fate(), 0..60), stateless in any::<bool>(), wish in any::<bool>()) {
        let need = if stateless { Need::Stateless } else { Need::Stateful };
        let start = Instant::now();
        let (mut client, mut now) = (client(need, wish, start), start);
        let mut fates = fates.into_iter();
        let (mut bound, mut idle, mut honest, mut calm) = (false, 0, None, 0);
        for _ in 0..1000 {
            now = now.max(client.due());
            let mut reactions = std::collections::VecDeque::from([client.tick(now)]);
            let mut sent = 0;
            while let Some(reaction) = reactions.pop_front() {
                match reaction {
                    Reaction6::Nothing => {}
                    Reaction6::Send(message) => {
                        sent += 1;
                        prop_assert!(sent <= 8, "answers breed messages");
                        prop_assert!(message.len() < 400);
                        let fate = fates.next().unwrap_or_else(|| {
                            honest.get_or_insert(now);
                            Fate::Answered(1)
                        });
                        for answer in answers(&client, &message, fate) {
                            reactions.push_back(client.receive(now, ROUTER, &answer));
                        }
                    }
                    Reaction6::Bound(lease) => {
                        prop_assert!(!bound, "bound twice");
                        bound = true;
                        prop_assert!(lease.addresses.is_empty() == stateless);
                        calm += u32::from(honest.is_some());
                    }
                    Reaction6::Renewed(_) => {
                        prop_assert!(bound);
                        calm += u32::from(honest.is_some());
                    }
                    Reaction6::Lost(why) => {
                        prop_assert!(bound && !why.is_empty() && !stateless && calm == 0, "{why}");
                        bound = false;
                    }
                }
            }
            prop_assert_eq!(client.held.is_some(), bound);
            prop_assert!(client.story(now).len() < 500);
            idle = if client.due() <= now { idle + 1 } else { 0 };
            prop_assert!(idle < 3, "it spins");
            if let Some(since) = honest && calm == 1 {
                prop_assert!(stateless || now - since <= Duration::from_secs(1000), "{:?}", now - since);
            }
            if calm == 8 {
                return Ok(());
            }
        }
        prop_assert!(false, "not held and kept");
    }

    #[test]
    fn no_packet_panics(bytes in vec(any::<u8>(), 0..300), code in 0..90u16, nested in any::<bool>()) {
        let value = if nested { option(code, &bytes) } else { bytes.clone() };
        for packet in [bytes.clone(), [&[REPLY, 0, 0, 1], option(code, &value).as_slice()].concat(),
            [&[ADVERTISE, 0, 0, 1], association(1, 2, &[option(code, &bytes), bytes]).as_slice()].concat()]
        {
            if let Some(reply) = Reply::parse(&packet, u32::from_be_bytes(IAID)) {
                let lease = reply.lease(ROUTER);
                prop_assert!(lease.t1 >= 1 && lease.t1 <= lease.t2.max(1));
                prop_assert!(lease.addresses.iter().all(|&(_, preferred, valid)| preferred <= valid && valid > 0));
            }
        }
    }
}

#[test]
fn a_largest_packet_full_of_options_is_bounded() {
    let every = |code: u16, value: &[u8]| option(code, value).repeat(60_000 / (value.len() + 4));
    let numbered: Vec<_> =
        (0..2000u32).map(|n| lease_of(Ipv6Addr::from(u128::from(OURS) + u128::from(n)), 9, 9)).collect();
    let servers: Vec<u8> =
        (0..2000u32).flat_map(|n| (u128::from(OURS) + u128::from(n)).to_be_bytes()).collect();
    let bodies = [
        association(1, 1, &numbered),
        every(3, &IAID),
        option(23, &servers),
        option(31, &servers),
        every(24, b"\x01a\0\x01b\0"),
        every(60, b"\0\x01a\0\x01b"),
        every(59, b"http://a/"),
        option(60, &b"\0\x01a".repeat(20_000)),
        option(56, &option(1, &OURS.octets()).repeat(3000)),
        every(2, &[7; 130]),
    ];
    for body in bodies {
        let packet = [&[REPLY, 0, 0, 1], body.as_slice()].concat();
        let lease = Reply::parse(&packet, u32::from_be_bytes(IAID)).unwrap().lease(ROUTER);
        let lengths = [lease.addresses.len(), lease.dns.len(), lease.ntp.len()];
        assert!(lengths.iter().all(|&length| length <= 8), "{lengths:?}");
        assert!(lease.search.len() <= 16 && lease.boot_params.len() <= 16);
    }
    // An IA_NA within an IA_NA, as deep as a packet can hold it.
    let mut nested = Vec::new();
    while nested.len() < 60_000 {
        nested = association(1, 1, &[nested]);
    }
    let packet = [&[REPLY, 0, 0, 1], nested.as_slice()].concat();
    assert!(Reply::parse(&packet, u32::from_be_bytes(IAID)).unwrap().lease(ROUTER).addresses.is_empty());
}

#[test]
fn a_malformed_option_spoils_no_other() {
    let good = [
        option(59, b"http://a/"),
        option(24, b"\x03lab\0"),
        option(56, &option(1, &OURS.octets())),
        option(60, b"\0\x04quie\0\x03a=b"),
        option(7, &[9]),
        option(14, b""),
    ];
    let malformed = [
        option(1, b""),
        option(2, &[1; 200]),
        option(3, b"\0"),
        option(5, b"\0"),
        option(7, b""),
        option(13, b""),
        option(13, b"\0"),
        option(23, &[1; 15]),
        option(24, b"\x3fx"),
        option(31, &[1; 17]),
        option(32, b"\0"),
        option(56, b"\0\x01\0\x10"),
        option(56, &option(3, b"\xff")),
        option(59, b"\0\n"),
        option(59, b""),
        option(60, b"\xff\xffx"),
        option(82, b"\0"),
        option(16, b"\0"),
        option(17, b"\0"),
        option(11, b""),
        option(9, &[0; 40]),
        option(65535, b""),
        option(0, b""),
    ];
    let associations = [
        association(
            0,
            0,
            &[
                option(5, b"\0"),
                option(13, b"\0"),
                option(13, b"\0\x02\xff\xfe"),
                lease_of(OURS, 9, 9),
                vec![0, 5, 0, 99],
            ],
        ),
        association(9, 3, &[lease_of(ROUTER, 9, 9)]),
        option(3, &IAID),
    ];
    let short = option(56, &[option(1, &[1; 15]), option(1, &OURS.octets())].concat());
    let packet = [&[REPLY, 0, 0, 1], short.as_slice()].concat();
    assert_eq!(Reply::parse(&packet, 0).unwrap().lease(ROUTER).ntp, [OURS]);
    for bad in &malformed {
        let options = [
            bad.clone(),
            associations.concat(),
            bad.clone(),
            good.concat(),
            bad.clone(),
            vec![0, 23, 0, 16, 1],
        ]
        .concat();
        let packet = [&[REPLY, 0, 0, 1], options.as_slice()].concat();
        let reply = Reply::parse(&packet, u32::from_be_bytes(IAID)).unwrap();
        assert!(reply.rapid_commit && reply.preference == 9, "{bad:x?}");
        assert_eq!(
            reply.association.status.as_ref().map(|refusal| refusal.status),
            Some(Status::NoAddrsAvail)
        );
        let lease = reply.lease(ROUTER);
        assert_eq!(lease.addresses, [(OURS, 9, 9)]);
        assert_eq!(
            (lease.boot_url.as_deref(), &*lease.search, &*lease.ntp),
            (Some("http://a/"), &["lab".to_owned()][..], &[OURS][..])
        );
        assert!(
            lease.boot_params.ends_with(&["quie".to_owned(), "a=b".to_owned()]),
            "{:?}",
            lease.boot_params
        );
    }
}

#[test]
fn addresses_that_are_none_or_out_of_time_are_left_out() {
    let refused = option(5, &[&OURS.octets(), [0, 0, 0, 9, 0, 0, 0, 9].as_slice(), &status(4, "")].concat());
    let mut bad = vec![refused, lease_of(OURS, 10, 9)];
    bad.extend(
        ["::1", "ff02::1", "fe80::1", "::", "::ffff:10.0.0.1"]
            .map(|text| lease_of(text.parse().unwrap(), 9, 9)),
    );
    let packet = [&[REPLY, 0, 0, 1], association(1, 2, &bad).as_slice()].concat();
    assert!(Reply::parse(&packet, u32::from_be_bytes(IAID)).unwrap().lease(ROUTER).addresses.is_empty());
    for (t1, t2, granted) in [(9, 3, 0), (9, 9, 1), (9, 0, 1)] {
        let twice = [lease_of(OURS, 9, 9), lease_of(OURS, 5, 5)];
        let packet = [&[REPLY, 0, 0, 1], association(t1, t2, &twice).as_slice()].concat();
        let lease = Reply::parse(&packet, u32::from_be_bytes(IAID)).unwrap().lease(ROUTER);
        assert_eq!(lease.addresses.len(), granted, "{t1} {t2}");
    }
    let foreign = option(3, &[[9; 12].as_slice(), &lease_of(OURS, 9, 9)].concat());
    let packet = [&[REPLY, 0, 0, 1], foreign.as_slice()].concat();
    assert!(Reply::parse(&packet, u32::from_be_bytes(IAID)).unwrap().association.addresses.is_empty());
}
