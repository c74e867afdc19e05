use super::*;
use crate::net::dhcp4::WANTED;
use crate::net::dhcp4::tests::{ACK, MASK, OURS, ROUTER, SERVER, SERVER_ID, reply};
use proptest::prelude::*;

/// The lease from an ACK with these options.
fn granted(address: Ipv4Addr, options: &[(u8, &[u8])]) -> Result<Lease, String> {
    let options: Vec<(u8, &[u8])> = [ACK, SERVER_ID].iter().chain(options).copied().collect();
    Reply::parse(&reply(7, address, &options)).unwrap().lease("eth0", 1500)
}

/// Its length, T1 and T2 in seconds.
fn times(options: &[(u8, &[u8])]) -> (Option<u32>, Option<u32>, Option<u32>) {
    let lease = granted(OURS, options).unwrap();
    (lease.lease_seconds, lease.t1, lease.t2)
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
    // What stands before something broken counts, and routers do not: a stray byte, a prefix or a gateway that is
    // cut off, one that is too long. Only if there is nothing before it they do.
    for broken in
        [&[0][..], &[24], &[32, 192, 0, 2], &[24, 192, 0, 2, 10, 0, 2], &[33, 1, 2, 3, 4, 5, 6, 7, 8]]
    {
        let routes = |value: &[u8]| granted(OURS, &[MASK, ROUTER, (121, value)]).unwrap().routes;
        let whole = [0, 10, 0, 2, 1, 24, 192, 0, 2, 10, 0, 2, 9];
        let (default, net) =
            (route([0, 0, 0, 0], 0, Some([10, 0, 2, 1])), route([192, 0, 2, 0], 24, Some([10, 0, 2, 9])));
        assert_eq!(routes(&[&whole, broken].concat()), [default, net], "{broken:?}");
        assert_eq!(routes(&[&whole[5..], broken].concat()), [net], "{broken:?}");
        assert_eq!(routes(broken), [route([0, 0, 0, 0], 0, Some([10, 0, 2, 2]))], "{broken:?}");
    }
}

#[test]
fn options_in_pieces_and_in_other_fields_are_whole() {
    // RFC 3396 and RFC 3397: the second name points into the first, across the pieces.
    let search: &[u8] = b"\x03lab\x07example\x03org\x00\x02eu\xc0\x04";
    let (one, two) = search.split_at(9);
    let lease = granted(OURS, &[(119, one), MASK, (119, two)]).unwrap();
    assert_eq!(lease.search, ["lab.example.org", "eu.example.org"]);

    // One option over all three areas, in the order of RFC 3396, section 5, and a mask cut in two.
    let (one, rest) = search.split_at(5);
    let (two, three) = rest.split_at(11);
    let mut packet = reply(7, OURS, &[ACK, (52, &[3]), (119, one), (1, &[255, 255])]);
    for (at, piece, mask) in [(108, two, &[1, 2, 255, 0, 255][..]), (44, three, &[255])] {
        let area = [&[119, u8::try_from(piece.len()).unwrap()], piece, mask].concat();
        packet[at..at + area.len()].copy_from_slice(&area);
    }
    let lease = Reply::parse(&packet).unwrap().lease("eth0", 1500).unwrap();
    assert_eq!((lease.prefix, lease.search), (24, vec!["lab.example.org".into(), "eu.example.org".into()]));

    // Option 52: file holds the mask, sname the servers for names.
    let mut packet = reply(7, OURS, &[ACK, (52, &[3])]);
    packet[108..115].copy_from_slice(&[1, 4, 255, 255, 255, 0, 255]);
    packet[44..51].copy_from_slice(&[6, 4, 10, 0, 2, 3, 255]);
    let lease = Reply::parse(&packet).unwrap().lease("eth0", 1500).unwrap();
    assert_eq!((lease.prefix, lease.dns), (24, vec![Ipv4Addr::new(10, 0, 2, 3)]));
}

#[test]
fn numbers_and_addresses_that_are_said_twice_count_once() {
    let twice: [(u8, &[u8]); 7] = [
        MASK,
        (26, &[5, 120]),
        (28, &[10, 0, 2, 255]),
        (51, &[0, 0, 14, 16]),
        (54, &[10, 0, 2, 2]),
        (58, &[0, 0, 2, 88]),
        (59, &[0, 0, 4, 176]),
    ];
    let other: [(u8, &[u8]); 3] = [(1, &[255, 0, 0, 0]), (53, &[6]), (51, &[0, 0, 0, 60])];
    let options = [&twice[..], &[ACK], &twice, &other].concat();
    let reply = Reply::parse(&reply(7, OURS, &options)).unwrap();
    assert_eq!((reply.kind, reply.server), (dhcproto::v4::MessageType::Ack, Some(SERVER)));
    let lease = reply.lease("eth0", 1500).unwrap();
    assert_eq!((lease.prefix, lease.mtu, lease.server), (24, Some(1400), Some(SERVER)));
    assert_eq!(lease.broadcast, Some(Ipv4Addr::new(10, 0, 2, 255)));
    assert_eq!((lease.lease_seconds, lease.t1, lease.t2), (Some(3600), Some(600), Some(1200)));
    assert_eq!(granted(OURS, &[(1, &[255, 255, 255, 0, 0])]).unwrap().prefix, 8, "too long is none");
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
    assert_eq!(times(&[(51, &[255; 4]), (58, &[0, 0, 0, 9])]), (None, None, None));
}

#[test]
fn times_are_the_servers_if_they_can_be() {
    let all = |lease: u32, t1: Option<u32>, t2: Option<u32>| {
        let (lease, t1, t2) = (lease.to_be_bytes(), t1.map(u32::to_be_bytes), t2.map(u32::to_be_bytes));
        let mut options: Vec<(u8, &[u8])> = vec![(51, &lease)];
        options.extend(t1.as_ref().map(|t1| (58, t1.as_slice())));
        options.extend(t2.as_ref().map(|t2| (59, t2.as_slice())));
        let (lease, t1, t2) = times(&options);
        (lease.unwrap(), t1.unwrap(), t2.unwrap())
    };
    for (said, counts) in [
        ((3600, None, None), (3600, 1800, 3150)),
        ((3600, Some(600), Some(1200)), (3600, 600, 1200)),
        ((3600, Some(600), None), (3600, 600, 3150)),
        ((3600, None, Some(3000)), (3600, 1800, 3000)),
        ((3600, None, Some(1000)), (3600, 1800, 3150)),
        ((3600, Some(0), Some(1000)), (3600, 1800, 3150)),
        ((3600, Some(1000), Some(1000)), (3600, 1800, 3150)),
        ((3600, Some(1000), Some(3600)), (3600, 1800, 3150)),
        ((3600, Some(u32::MAX), Some(u32::MAX)), (3600, 1800, 3150)),
        ((30, None, None), (30, 15, 27)),
        ((16, Some(4), Some(15)), (16, 4, 15)),
        ((10, None, None), (10, 5, 9)),
        ((8, None, None), (8, 4, 7)),
        ((4, Some(1), Some(3)), (4, 1, 3)),
        ((4, None, None), (4, 2, 4)),
        ((1, None, None), (1, 0, 1)),
        ((0, Some(1), Some(2)), (1, 0, 1)),
        ((u32::MAX - 1, None, None), (u32::MAX - 1, 0x7fff_ffff, 0xe000_0000 - 1)),
    ] {
        assert_eq!(all(said.0, said.1, said.2), counts, "{said:?}");
    }
}

#[test]
fn all_that_is_asked_for_is_heard() {
    let lease = granted(
        OURS,
        &[
            MASK,
            (12, b"node-7"),
            (28, &[10, 0, 2, 255]),
            (42, &[10, 0, 2, 3, 0, 0, 0, 0, 10, 0, 2, 4]),
            (66, b"10.0.2.9\0\0"),
            (67, b"pxelinux.0\0"),
        ],
    )
    .unwrap();
    assert_eq!((lease.hostname.as_deref(), lease.origin), (Some("node-7"), Origin::Dhcp));
    assert_eq!(lease.broadcast, Some(Ipv4Addr::new(10, 0, 2, 255)));
    assert_eq!(lease.ntp, [Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(10, 0, 2, 4)]);
    assert_eq!(lease.boot_file.as_deref(), Some("pxelinux.0"));
    assert_eq!(lease.boot_server.as_deref(), Some("10.0.2.9"));
    assert_eq!(lease.boot_url(), None);
    for silly in [[10, 0, 3, 255], [10, 0, 2, 15], [0, 0, 0, 0]] {
        assert_eq!(granted(OURS, &[MASK, (28, &silly)]).unwrap().broadcast, None, "{silly:?}");
    }
    let json = serde_json::to_value(&lease).unwrap();
    assert_eq!((&json["origin"], &json["hostname"]), (&"dhcp".into(), &"node-7".into()));
}

#[test]
fn a_url_is_taken_from_67_then_from_66() {
    let url =
        |file: &[u8], server: &[u8]| granted(OURS, &[MASK, (67, file), (66, server)]).unwrap().boot_url();
    let (http, https): (&[u8], &[u8]) = (b"http://a.example/x?y=z", b"https://[fd00::1]:8443");
    assert_eq!(url(http, https), Some(("http://a.example/x?y=z".into(), "option 67")));
    assert_eq!(url(b"HTTPS://a/x", b"").unwrap().0, "HTTPS://a/x");
    assert_eq!(url(b"http://a/x.efi", https), url(b"pxelinux.0", https));
    assert_eq!(url(b"pxelinux.0", https), Some(("https://[fd00::1]:8443".into(), "option 66")));
    for none in [
        b"".as_slice(),
        b"http:",
        b"http://",
        b"http:///x",
        b"httpx://a/x",
        b"tftp://a/x",
        b"http://a/x y",
        b"http://a/\xff",
        b"http://a/\x1b[2J",
        b"\0http://a/x",
        b"http://a/EFI/BOOTX64.EFI",
        b"http://user:secret@a/x",
        b"http://127.0.0.1/x",
    ] {
        assert_eq!(url(none, none), None, "{}", none.escape_ascii());
    }
    let long = [b"http://a/".as_slice(), &[b'x'; 3000]].concat();
    let pieces: Vec<(u8, &[u8])> = long.chunks(255).map(|piece| (67, piece)).collect();
    assert_eq!(granted(OURS, &pieces).unwrap().boot_file, None, "longer than any URL");
    let pieces: Vec<(u8, &[u8])> = long[..1500].chunks(255).map(|piece| (67, piece)).collect();
    assert_eq!(granted(OURS, &pieces).unwrap().boot_url().unwrap().0.len(), 1500);
}

#[test]
fn fields_of_the_header_count_unless_they_hold_options() {
    let mut packet = reply(7, OURS, &[ACK, MASK]);
    packet[108..236].fill(b'f');
    packet[108..124].copy_from_slice(b"http://a.example");
    packet[44..49].copy_from_slice(b"b.lan");
    let lease = |packet: &[u8]| Reply::parse(packet).unwrap().lease("eth0", 1500).unwrap();
    let whole = lease(&packet);
    assert_eq!(whole.boot_url().unwrap().0.len(), 128, "no zero at the end is needed");
    assert_eq!(whole.boot_server.as_deref(), Some("b.lan"));

    packet.truncate(packet.len() - 1);
    packet.extend([67, 1, b'x', 255]);
    assert_eq!(lease(&packet).boot_file.as_deref(), Some("x"), "the option counts first");

    let mut packet = reply(7, OURS, &[ACK, MASK, (52, &[1])]);
    packet[108..112].copy_from_slice(&[67, 1, b'y', 255]);
    packet[44..49].copy_from_slice(b"b.lan");
    let overloaded = lease(&packet);
    assert_eq!(
        (overloaded.boot_file.as_deref(), overloaded.boot_server.as_deref()),
        (Some("y"), Some("b.lan"))
    );
}

proptest! {
    #[test]
    fn no_option_value_panics(
        code in proptest::sample::select([WANTED.as_slice(), &[80.into(), 52.into(), 53.into(), 56.into()]].concat()),
        value in proptest::collection::vec(any::<u8>(), 0..255),
    ) {
        if let Ok(lease) = granted(OURS, &[(code.into(), value.as_slice()), MASK, (51, &[0, 0, 1, 0])]) {
            let short = lease.lease_seconds < Some(8);
            prop_assert!(lease.t1 < lease.t2 && (lease.t2 < lease.lease_seconds || short));
            prop_assert!(lease.t1 > Some(0) || short);
            prop_assert!(lease.boot_file.iter().chain(&lease.boot_server).all(|text| text.len() <= 2048));
            prop_assert!(lease.ntp.len() <= 8 && lease.hostname.is_none_or(|name| name.len() <= 253));
        }
    }

    #[test]
    fn no_overloaded_field_panics(fields in proptest::collection::vec(any::<u8>(), 192), overload in 0u8..4) {
        let mut packet = reply(7, OURS, &[ACK, MASK, (52, &[overload])]);
        packet[44..236].copy_from_slice(&fields);
        let _ = Reply::parse(&packet).unwrap().lease("eth0", 1500);
        prop_assert!(Reply::parse(&packet).unwrap().boot_text().is_none_or(|url| url.len() <= 2048));
    }
}
