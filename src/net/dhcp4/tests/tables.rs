//! Each message against tables 4 and 5 of RFC 2131, and against what servers look for.

use std::collections::BTreeSet;

use super::*;

const XID: u32 = 0x1234_5678;

fn rich() -> Device {
    Device {
        broadcast: true,
        uuid: identity::uuid("33221100-5544-7766-8899-aabbccddeeff"),
        hostname: Some("node-7".into()),
        ..device()
    }
}

fn codes(message: &Message) -> BTreeSet<u8> {
    message.opts().iter().map(|(code, _)| u8::from(*code)).collect()
}

#[test]
fn each_message_has_what_the_tables_say() {
    let (address, unset, server) = (OURS, Ipv4Addr::UNSPECIFIED, Some(SERVER));
    // Kind, type, ciaddr, broadcast flag, and the options among 50, 54, 80.
    let rows = [
        ("INIT", Kind::Discover { hint: None, rapid: true }, MessageType::Discover, unset, true, vec![80]),
        (
            "hint",
            Kind::Discover { hint: Some(OURS), rapid: false },
            MessageType::Discover,
            unset,
            true,
            vec![50],
        ),
        ("SELECTING", Kind::Request { address, server }, MessageType::Request, unset, true, vec![50, 54]),
        ("INIT-REBOOT", Kind::Request { address, server: None }, MessageType::Request, unset, true, vec![50]),
        ("RENEWING", Kind::Extend { address }, MessageType::Request, OURS, false, vec![]),
        ("REBINDING", Kind::Extend { address }, MessageType::Request, OURS, false, vec![]),
        ("release", Kind::Release { address, server: SERVER }, MessageType::Release, OURS, false, vec![54]),
    ];
    for (state, kind, said, ciaddr, broadcast, options) in rows {
        let message = sent(&compose(&rich(), kind, XID, 9).unwrap());
        assert_eq!(message.opcode(), dhcproto::v4::Opcode::BootRequest, "{state}");
        assert_eq!((message.htype(), message.hlen(), message.hops()), (1.into(), 6, 0), "{state}");
        assert_eq!((message.xid(), message.secs(), message.chaddr()), (XID, 9, &MAC[..]), "{state}");
        assert_eq!(message.flags().broadcast(), broadcast, "{state}");
        let addresses = [message.ciaddr(), message.yiaddr(), message.siaddr(), message.giaddr()];
        assert_eq!(addresses, [ciaddr, unset, unset, unset], "{state}");
        assert_eq!((message.sname(), message.fname()), (None, None), "{state}");
        assert_eq!(message.opts().msg_type(), Some(said), "{state}");
        // A DHCPRELEASE must have no others: table 5.
        let others: &[u8] = match said {
            MessageType::Release => &[53, 61],
            _ => &[12, 53, 55, 57, 60, 61, 93, 94, 97],
        };
        assert_eq!(codes(&message), options.iter().chain(others).copied().collect(), "{state}");
    }
}

#[test]
fn options_have_the_bytes_that_servers_match() {
    let discover = Kind::Discover { hint: None, rapid: true };
    let has = |device: &Device, option: &[u8]| {
        let bytes = compose(device, discover, XID, 0).unwrap();
        bytes.windows(option.len()).any(|window| window == option)
    };
    let arm = Device { arch: Arch::Aarch64, ..rich() };
    for (device, number) in [(rich(), 16), (arm, 19)] {
        assert!(has(&device, &[93, 2, 0, number]));
        assert!(has(&device, format!("HTTPClient:Arch:000{number}:UNDI:003016").as_bytes()));
    }
    assert!(has(&rich(), &[94, 3, 1, 3, 16]));
    assert!(has(&rich(), &[97, 17, 0, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]));
    assert!(has(&rich(), &[61, 7, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    assert!(has(&rich(), &[57, 2, 5, 192]));
    assert!(has(&rich(), &[80, 0]));
    assert!(has(&rich(), b"\x0c\x06node-7"));
    assert!(!has(&device(), &[97, 17]) && !has(&device(), &[12, 6]));
    let shouting = Device { hostname: Some("x".repeat(65)), ..device() };
    assert!(!has(&shouting, b"xxx"));
}

#[test]
fn broadcasts_are_asked_for_only_when_they_are_needed() {
    for kind in [Kind::Discover { hint: None, rapid: true }, Kind::Request { address: OURS, server: None }] {
        assert!(!sent(&compose(&device(), kind, XID, 0).unwrap()).flags().broadcast());
        let deaf = Device { broadcast: true, ..device() };
        assert!(sent(&compose(&deaf, kind, XID, 0).unwrap()).flags().broadcast());
    }
}

#[test]
fn an_identifier_longer_than_an_option_is_sent_in_pieces() {
    let client_id: Vec<u8> = (0..=255).chain(0..=43).collect();
    let device = Device { client_id: client_id.clone(), ..rich() };
    let bytes = compose(&device, Kind::Discover { hint: None, rapid: true }, XID, 0).unwrap();
    let options = sent(&bytes);
    let expected = DhcpOption::ClientIdentifier(client_id);
    assert_eq!(options.opts().get(OptionCode::ClientIdentifier), Some(&expected));
}

#[test]
fn a_message_fits_what_every_server_takes() {
    let device = Device { hostname: Some("x".repeat(64)), ..rich() };
    let bytes = compose(&device, Kind::Request { address: OURS, server: Some(SERVER) }, XID, 0).unwrap();
    // 576 bytes with the headers of IPv4 and UDP: RFC 2131, section 2.
    assert!((300..=576 - 28).contains(&bytes.len()), "{}", bytes.len());
}

#[test]
fn a_request_says_the_seconds_and_the_transaction_of_its_discover() {
    let start = Instant::now();
    let mut client = client(start);
    ticked(&mut client, start);
    let discover = sent(&ticked(&mut client, start + Duration::from_secs(3)));
    assert_eq!(discover.secs(), 3);
    let now = start + Duration::from_secs(5);
    let Reaction::Send(request) = offer(&mut client, now, 2, &[]) else { panic!("no request") };
    let request = sent(&request.payload);
    assert_eq!((request.secs(), request.xid()), (3, discover.xid()));
    // Of a client that has been at it for a day.
    let late = sent(&ticked(&mut self::client(start), start + Duration::from_secs(86_400)));
    assert_eq!(late.secs(), u16::MAX);
}
