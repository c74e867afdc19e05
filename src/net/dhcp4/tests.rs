use super::*;
use crate::net::lease::Route;
use proptest::prelude::*;

const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

fn client(now: Instant) -> Client {
    let device = Device { name: "eth0".into(), mac: MAC, largest_mtu: 1500, broadcast: false };
    Client::new(device, 1, now)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A server's message: header, then options as (code, value), then 255.
fn reply(xid: u32, address: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut packet = BLANK.to_vec();
    packet[0] = 2;
    packet[4..8].copy_from_slice(&xid.to_be_bytes());
    packet[16..20].copy_from_slice(&address.octets());
    packet[28..34].copy_from_slice(&MAC);
    for (code, value) in options {
        packet.extend([*code, u8::try_from(value.len()).unwrap()]);
        packet.extend_from_slice(value);
    }
    packet.push(255);
    packet
}

const OFFER: (u8, &[u8]) = (53, &[2]);
const ACK: (u8, &[u8]) = (53, &[5]);
const NAK: (u8, &[u8]) = (53, &[6]);
const SERVER_ID: (u8, &[u8]) = (54, &[10, 0, 2, 2]);
const MASK: (u8, &[u8]) = (1, &[255, 255, 255, 0]);
const ROUTER: (u8, &[u8]) = (3, &[10, 0, 2, 2]);

fn sent(packet: &[u8]) -> Message {
    assert!(packet.len() >= LEAST_LENGTH);
    Message::from_bytes(packet).unwrap()
}

/// Has the client discover and take an offer; its request is returned.
fn requesting(client: &mut Client, now: Instant) -> Message {
    client.tick(now).unwrap();
    let offer = reply(client.xid, OURS, &[OFFER, SERVER_ID, MASK]);
    let Reaction::Send(request) = client.receive(now, SERVER, &offer) else { panic!("no request") };
    sent(&request)
}

/// The lease from an ACK with these options.
fn granted(address: Ipv4Addr, options: &[(u8, &[u8])]) -> Result<Lease, String> {
    let options: Vec<(u8, &[u8])> = [ACK, SERVER_ID].iter().chain(options).copied().collect();
    Reply::parse(&reply(7, address, &options)).unwrap().lease("eth0", 1500)
}

#[test]
fn a_discover_says_who_we_are_and_what_we_want() {
    let now = Instant::now();
    let mut client = client(now);
    assert_eq!(client.due(), now);
    let message = sent(&client.tick(now).unwrap());
    assert_eq!(message.opcode(), dhcproto::v4::Opcode::BootRequest);
    assert_eq!((message.xid(), message.chaddr()), (client.xid, &MAC[..]));
    assert_eq!(message.opts().msg_type(), Some(MessageType::Discover));
    assert!(!message.flags().broadcast());
    assert_eq!(
        message.opts().get(OptionCode::ClientIdentifier),
        Some(&DhcpOption::ClientIdentifier(vec![1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]))
    );
    let Some(DhcpOption::ParameterRequestList(list)) = message.opts().get(OptionCode::ParameterRequestList)
    else {
        panic!("no list")
    };
    let place = |code| list.iter().position(|c| *c == code).unwrap();
    assert!(place(OptionCode::ClasslessStaticRoute) < place(OptionCode::Router));
    assert!(client.tick(now).is_none(), "once is enough");
}

#[test]
fn over_udp_answers_are_asked_for_as_broadcasts() {
    let now = Instant::now();
    let device = Device { name: "eth0".into(), mac: MAC, largest_mtu: 1500, broadcast: true };
    let message = Client::new(device, 1, now).tick(now).unwrap();
    assert!(sent(&message).flags().broadcast());
}

#[test]
fn an_offer_is_requested_and_an_ack_binds() {
    let now = Instant::now();
    let mut client = client(now);
    let request = requesting(&mut client, now);
    assert_eq!(request.opts().msg_type(), Some(MessageType::Request));
    assert_eq!(
        request.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OURS))
    );
    assert_eq!(request.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER)));
    assert_eq!(request.xid(), client.xid);
    let ack = reply(client.xid, OURS, &[ACK, SERVER_ID, MASK, ROUTER, (51, &[0, 0, 14, 16])]);
    let Reaction::Bound(lease) = client.receive(now, SERVER, &ack) else { panic!("no lease") };
    assert_eq!((lease.address, lease.prefix, lease.server), (OURS, 24, Some(SERVER)));
    assert_eq!((lease.interface.as_str(), lease.mac, lease.lease_seconds), ("eth0", MAC, Some(3600)));
    assert_eq!(
        lease.routes,
        [Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(SERVER) }]
    );
}

#[test]
fn waits_double_up_to_the_ceiling() {
    let mut now = Instant::now();
    let mut client = client(now);
    let mut expected = FIRST_WAIT;
    for _ in 0..10 {
        assert!(client.tick(now).is_some());
        let wait = client.due() - now;
        assert!((expected..=expected + expected / 8).contains(&wait), "{wait:?}");
        assert!(client.tick(client.due() - millis(1)).is_none());
        now = client.due();
        expected = (expected * 2).min(LONGEST_WAIT);
    }
    assert_eq!(
        client.story(now),
        format!("no answer to 10 DHCP discovers in {:.0} s", (now - client.started).as_secs_f64())
    );
}

#[test]
fn answers_for_others_change_nothing() {
    let now = Instant::now();
    let mut client = client(now);
    client.tick(now);
    let good = reply(client.xid, OURS, &[OFFER, SERVER_ID, MASK]);
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    for (what, packet) in [
        ("a request", with(0, 1)),
        ("another hardware type", with(1, 6)),
        ("another address length", with(2, 16)),
        ("an impossible address length", with(2, 255)),
        ("another transaction", with(7, good[7] ^ 1)),
        ("another machine", with(33, 0)),
        ("no cookie", with(236, 0)),
        ("an ACK nobody asked for", with(242, 5)),
        ("a NAK nobody asked for", with(242, 6)),
        ("nothing", vec![]),
        ("half", good[..239].to_vec()),
        ("no message type", reply(client.xid, OURS, &[SERVER_ID])),
        ("no address", reply(client.xid, Ipv4Addr::UNSPECIFIED, &[OFFER, SERVER_ID])),
    ] {
        assert!(matches!(client.receive(now, SERVER, &packet), Reaction::Nothing), "{what}");
        assert!(matches!(client.state, State::Selecting), "{what}");
    }
    assert!(client.story(now).contains("0.0.0.0 is no host's address"), "{}", client.story(now));
    assert!(matches!(client.receive(now, SERVER, &good), Reaction::Send(_)));
}

#[test]
fn a_nak_starts_over_at_once_and_then_ever_more_slowly() {
    let mut now = Instant::now();
    let mut client = client(now);
    let first = requesting(&mut client, now).xid();
    let other = reply(client.xid, OURS, &[NAK, (54, &[10, 0, 2, 9])]);
    assert!(matches!(client.receive(now, SERVER, &other), Reaction::Nothing), "another server's NAK");

    let nak = reply(client.xid, Ipv4Addr::UNSPECIFIED, &[NAK, SERVER_ID, (56, b"wrong\nnetwork")]);
    let Reaction::Send(discover) = client.receive(now, SERVER, &nak) else { panic!("no discover") };
    assert_eq!(sent(&discover).opts().msg_type(), Some(MessageType::Discover));
    assert_ne!(sent(&discover).xid(), first);
    assert!(
        client
            .story(now)
            .starts_with("10.0.2.2 refused 10.0.2.15 (DHCP NAK) \"wrong\u{fffd}network\", after 2")
    );

    let mut last = Duration::ZERO;
    for _ in 0..4 {
        let offer = reply(client.xid, OURS, &[OFFER, SERVER_ID, MASK]);
        assert!(matches!(client.receive(now, SERVER, &offer), Reaction::Send(_)));
        let nak = reply(client.xid, Ipv4Addr::UNSPECIFIED, &[NAK, SERVER_ID]);
        assert!(matches!(client.receive(now, SERVER, &nak), Reaction::Nothing));
        let wait = client.due() - now;
        assert!(wait > last && wait >= FIRST_WAIT, "{wait:?}");
        last = wait;
        now = client.due();
        assert!(client.tick(now).is_some());
    }
}

#[test]
fn a_server_that_only_offers_is_given_up() {
    let mut now = Instant::now();
    let mut client = client(now);
    let xid = requesting(&mut client, now).xid();
    for _ in 1..MOST_REQUESTS {
        now = client.due();
        assert_eq!(sent(&client.tick(now).unwrap()).opts().msg_type(), Some(MessageType::Request));
    }
    assert_eq!(client.story(now), "offer from 10.0.2.2, but no answer to 4 DHCP requests");
    now = client.due();
    let again = sent(&client.tick(now).unwrap());
    assert_eq!(again.opts().msg_type(), Some(MessageType::Discover));
    assert_ne!(again.xid(), xid);
}

#[test]
fn a_link_whose_queues_start_late_sends_again() {
    let now = Instant::now();
    let mut client = client(now);
    client.tick(now);
    assert!(client.tick(now + millis(10)).is_none());
    client.hurry(now + millis(10));
    assert!(client.tick(now + millis(10)).is_some());
}

#[test]
fn an_offer_without_server_id_is_from_its_sender() {
    let now = Instant::now();
    let mut client = client(now);
    client.tick(now);
    let offer = reply(client.xid, OURS, &[OFFER, MASK]);
    assert!(matches!(client.receive(now, Ipv4Addr::UNSPECIFIED, &offer), Reaction::Nothing));
    let Reaction::Send(request) = client.receive(now, SERVER, &offer) else { panic!("no request") };
    assert_eq!(
        sent(&request).opts().get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(SERVER))
    );
}

#[test]
fn addresses_that_are_no_hosts_are_refused() {
    for (address, mask) in [
        ([0, 0, 0, 0], [255, 0, 0, 0]),
        ([127, 0, 0, 1], [255, 0, 0, 0]),
        ([224, 0, 0, 1], [255, 255, 255, 0]),
        ([255, 255, 255, 255], [255, 255, 255, 0]),
        ([10, 0, 2, 0], [255, 255, 255, 0]),
        ([10, 0, 2, 255], [255, 255, 255, 0]),
    ] {
        assert!(granted(address.into(), &[(1, &mask)]).is_err(), "{address:?}");
    }
    for mask in [[255, 255, 255, 254], [255, 255, 255, 255]] {
        assert!(granted(Ipv4Addr::new(10, 0, 2, 255), &[(1, &mask)]).is_ok(), "{mask:?}");
    }
}

#[test]
fn without_a_true_mask_the_class_decides() {
    for (address, prefix) in [([10, 1, 2, 3], 8), ([172, 16, 0, 3], 16), ([192, 168, 0, 3], 24)] {
        assert_eq!(granted(address.into(), &[]).unwrap().prefix, prefix);
        for mask in [[255, 0, 255, 0], [0, 0, 0, 0], [0, 255, 255, 255]] {
            assert_eq!(granted(address.into(), &[(1, &mask)]).unwrap().prefix, prefix, "{mask:?}");
        }
    }
    assert_eq!(granted(OURS, &[(1, &[255, 255])]).unwrap().prefix, 8, "half a mask");
}

#[test]
fn only_an_mtu_the_link_can_have_is_taken() {
    for (mtu, taken) in [(575u16, false), (576, true), (1500, true), (1501, false), (0, false)] {
        let lease = granted(OURS, &[MASK, (26, &mtu.to_be_bytes())]).unwrap();
        assert_eq!(lease.mtu, taken.then_some(mtu));
    }
}

#[test]
fn classless_routes_replace_routers() {
    let classless: &[u8] = &[0, 10, 0, 2, 1, 24, 192, 0, 2, 10, 0, 2, 9, 32, 198, 51, 100, 7, 0, 0, 0, 0];
    let lease = granted(OURS, &[MASK, ROUTER, (121, classless)]).unwrap();
    let route = |destination: [u8; 4], prefix, gateway: Option<[u8; 4]>| Route {
        destination: destination.into(),
        prefix,
        gateway: gateway.map(Ipv4Addr::from),
    };
    assert_eq!(
        lease.routes,
        [
            route([198, 51, 100, 7], 32, None),
            route([0, 0, 0, 0], 0, Some([10, 0, 2, 1])),
            route([192, 0, 2, 0], 24, Some([10, 0, 2, 9])),
        ]
    );
    assert_eq!(lease.routers, [SERVER]);
    // Host bits are cut, impossible gateways dropped, and then the router counts again.
    let lease = granted(OURS, &[MASK, ROUTER, (121, &[20, 172, 16, 255, 10, 0, 2, 1])]).unwrap();
    assert_eq!(lease.routes, [route([172, 16, 240, 0], 20, Some([10, 0, 2, 1]))]);
    let lease = granted(OURS, &[MASK, ROUTER, (121, &[0, 255, 255, 255, 255])]).unwrap();
    assert_eq!(lease.routes, [route([0, 0, 0, 0], 0, Some([10, 0, 2, 2]))]);
}

#[test]
fn options_in_pieces_and_in_other_fields_are_whole() {
    // RFC 3396 and RFC 3397: the second name points into the first, across the pieces.
    let search: &[u8] = b"\x03lab\x07example\x03org\x00\x02eu\xc0\x04";
    let (one, two) = search.split_at(9);
    let lease = granted(OURS, &[(119, one), MASK, (119, two)]).unwrap();
    assert_eq!(lease.search, ["lab.example.org", "eu.example.org"]);

    // Option 52: file holds the mask, sname the servers for names.
    let mut packet = reply(7, OURS, &[ACK, (52, &[3])]);
    packet[108..115].copy_from_slice(&[1, 4, 255, 255, 255, 0, 255]);
    packet[44..51].copy_from_slice(&[6, 4, 10, 0, 2, 3, 255]);
    let lease = Reply::parse(&packet).unwrap().lease("eth0", 1500).unwrap();
    assert_eq!((lease.prefix, lease.dns), (24, vec![Ipv4Addr::new(10, 0, 2, 3)]));
}

#[test]
fn faulty_options_spoil_no_others_and_names_cannot_forge_lines() {
    let lease = granted(
        OURS,
        &[(12, b"\xff"), (6, &[10, 0, 2]), (26, &[1]), (15, b"x\nnameserver 6.6.6.6"), MASK, ROUTER],
    )
    .unwrap();
    assert_eq!((lease.prefix, lease.routers.as_slice(), lease.dns.len()), (24, &[SERVER][..], 0));
    assert_eq!((lease.domain, lease.mtu), (None, None));
    assert_eq!(granted(OURS, &[MASK, (15, b"example.org.\0")]).unwrap().domain.unwrap(), "example.org");
}

#[test]
fn lists_are_bounded() {
    let servers: Vec<u8> = (1..=60).flat_map(|n| [10, 0, 3, n]).collect();
    let routes: Vec<u8> = (1..=28).flat_map(|n| [32, 10, 9, 9, n, 10, 0, 2, 1]).collect();
    let pieces = [(121, routes.as_slice()); 4];
    let mut options = vec![MASK, (6, servers.as_slice()), (3, servers.as_slice())];
    options.extend(pieces);
    let lease = granted(OURS, &options).unwrap();
    assert_eq!((lease.dns.len(), lease.routers.len(), lease.routes.len()), (8, 8, 64));
}

#[test]
fn a_lease_without_end_has_none() {
    assert_eq!(granted(OURS, &[MASK, (51, &[255; 4])]).unwrap().lease_seconds, None);
    assert_eq!(granted(OURS, &[MASK]).unwrap().lease_seconds, None);
}

proptest! {
    #[test]
    fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let now = Instant::now();
        let mut client = client(now);
        client.tick(now);
        let _ = client.receive(now, SERVER, &bytes);
    }

    #[test]
    fn no_options_panic(tail in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..9, ours: bool) {
        let now = Instant::now();
        let mut client = client(now);
        if ours { requesting(&mut client, now); } else { client.tick(now); }
        let mut packet = reply(client.xid, OURS, &[(53, &[kind])]);
        packet.pop();
        packet.extend(tail);
        if let Reaction::Bound(lease) = client.receive(now, SERVER, &packet) {
            prop_assert!((1..=32).contains(&lease.prefix));
            prop_assert!(lease.routes.len() <= 64 && lease.search.len() <= 16);
        }
        let _ = client.story(now);
    }

    #[test]
    fn no_option_value_panics(code in proptest::sample::select(WANTED.to_vec()), value in proptest::collection::vec(any::<u8>(), 0..255)) {
        let _ = granted(OURS, &[(code.into(), value.as_slice()), MASK]);
    }
}
