//! From nothing to a lease.

use super::*;

/// What servers for UEFI's HTTP boot name.
const EFI: [u8; 31] = *b"http://10.0.2.9/EFI/BOOTX64.EFI";

#[test]
fn a_discover_says_who_we_are_and_what_we_want() {
    let now = Instant::now();
    let mut client = client(now);
    assert_eq!(client.due(), now);
    let message = sent(&ticked(&mut client, now));
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
    assert!(silent(&mut client, now), "once is enough");
}

#[test]
fn over_udp_answers_are_asked_for_as_broadcasts() {
    let now = Instant::now();
    let device = Device { broadcast: true, ..device() };
    let message = ticked(&mut Client::new(device, Wishes::default(), 1, now), now);
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
        ticked(&mut client, now);
        let wait = client.due() - now;
        assert!((expected..=expected + expected / 8).contains(&wait), "{wait:?}");
        let before = client.due() - millis(1);
        assert!(silent(&mut client, before));
        now = client.due();
        expected = (expected * 2).min(LONGEST_WAIT);
    }
    assert_eq!(
        client.story(now),
        format!("no answer to 10 DHCP discovers in {} s", (now - client.started).as_secs())
    );
}

#[test]
fn answers_for_others_change_nothing() {
    let now = Instant::now();
    let mut client = client(now);
    ticked(&mut client, now);
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
    let Reaction::Send(Outgoing { payload: discover, to: None }) = client.receive(now, SERVER, &nak) else {
        panic!("no discover")
    };
    assert_eq!(sent(&discover).opts().msg_type(), Some(MessageType::Discover));
    assert_ne!(sent(&discover).xid(), first);
    assert!(
        client
            .story(now)
            .starts_with("10.0.2.2 refused 10.0.2.15 (DHCP NAK) \"wrong\u{fffd}network\", after 2")
    );

    let mut last = Duration::ZERO;
    for again in [false, true, true, true] {
        let offer = reply(client.xid, OURS, &[OFFER, SERVER_ID, MASK]);
        let reaction = client.receive(now, SERVER, &offer);
        if again {
            // Another server may do better.
            assert!(matches!(reaction, Reaction::Nothing));
            now += WINDOW;
            ticked(&mut client, now);
        } else {
            assert!(matches!(reaction, Reaction::Send(_)));
        }
        let nak = reply(client.xid, Ipv4Addr::UNSPECIFIED, &[NAK, SERVER_ID]);
        assert!(matches!(client.receive(now, SERVER, &nak), Reaction::Nothing));
        let wait = client.due() - now;
        assert!(wait > last && wait >= FIRST_WAIT, "{wait:?}");
        last = wait;
        now = client.due();
        ticked(&mut client, now);
    }
}

#[test]
fn a_server_that_only_offers_is_given_up() {
    let mut now = Instant::now();
    let mut client = client(now);
    let xid = requesting(&mut client, now).xid();
    for _ in 1..MOST_REQUESTS {
        now = client.due();
        assert_eq!(sent(&ticked(&mut client, now)).opts().msg_type(), Some(MessageType::Request));
    }
    assert_eq!(client.story(now), "offer from 10.0.2.2, but no answer to 4 DHCP requests");
    now = client.due();
    let again = sent(&ticked(&mut client, now));
    assert_eq!(again.opts().msg_type(), Some(MessageType::Discover));
    assert_ne!(again.xid(), xid);
}

#[test]
fn a_link_whose_queues_start_late_sends_again() {
    let mut now = Instant::now();
    let mut client = client(now);
    ticked(&mut client, now);
    assert!(silent(&mut client, now + millis(10)));
    for _ in 0..5 {
        now = client.due();
        ticked(&mut client, now);
    }
    assert!(client.due() - now > 20 * FIRST_WAIT);
    client.hurry(now + millis(10));
    ticked(&mut client, now + millis(10));
    assert!(client.due() - now < 2 * FIRST_WAIT, "waits grow anew");
}

#[test]
fn an_offer_without_server_id_is_from_its_sender() {
    let now = Instant::now();
    let mut client = client(now);
    ticked(&mut client, now);
    let offer = reply(client.xid, OURS, &[OFFER, MASK]);
    assert!(matches!(client.receive(now, Ipv4Addr::UNSPECIFIED, &offer), Reaction::Nothing));
    let Reaction::Send(request) = client.receive(now, SERVER, &offer) else { panic!("no request") };
    assert_eq!(
        sent(&request.payload).opts().get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(SERVER))
    );
}

#[test]
fn without_a_wish_the_first_usable_offer_is_taken_at_once() {
    let now = Instant::now();
    let mut client = client(now);
    ticked(&mut client, now);
    let Reaction::Send(request) = offer(&mut client, now, 7, &[]) else { panic!("no request") };
    assert_eq!(asked_of(&request.payload), Some(server(7)));
    assert!(matches!(offer(&mut client, now, 8, &[URL]), Reaction::Nothing), "too late");
}

#[test]
fn an_offer_with_a_boot_url_is_preferred_within_the_window() {
    let now = Instant::now();
    let wishful = || {
        let mut client = Client::new(device(), Wishes { boot_url: true, ..Wishes::default() }, 1, now);
        ticked(&mut client, now);
        client
    };
    let mut client = wishful();
    assert!(matches!(offer(&mut client, now, 7, &[(67, b"pxelinux.0")]), Reaction::Nothing));
    assert_eq!(client.due(), now + WINDOW);
    assert!(matches!(offer(&mut client, now, 8, &[]), Reaction::Nothing));
    assert_eq!(client.story(now), "offer of 10.0.2.15 from 10.0.2.7");
    client.hurry(now + millis(1));
    assert_eq!(client.due(), now + WINDOW, "a window is not hurried");
    let Reaction::Send(request) = offer(&mut client, now + millis(400), 9, &[URL]) else {
        panic!("no request")
    };
    assert_eq!(asked_of(&request.payload), Some(server(9)));

    let mut client = wishful();
    assert!(matches!(offer(&mut client, now, 7, &[URL]), Reaction::Send(_)), "nothing better can come");

    // Servers for firmware answer our vendor class, too: what they name is no provider.
    for useless in [&EFI[..], b"http://root:secret@10.0.2.2/", b"http://127.0.0.1/", b"tftp://10.0.2.2/"] {
        let mut client = wishful();
        assert!(matches!(offer(&mut client, now, 7, &[(67, useless)]), Reaction::Nothing));
        let Reaction::Send(request) = offer(&mut client, now + millis(150), 9, &[URL]) else {
            panic!("no request")
        };
        assert_eq!(asked_of(&request.payload), Some(server(9)), "{}", useless.escape_ascii());
    }
    // Where the policy names authorities or keys.
    let mut client = wishful();
    client.https_only = true;
    assert!(matches!(offer(&mut client, now, 7, &[URL]), Reaction::Nothing));
    let Reaction::Send(request) = offer(&mut client, now, 9, &[(67, b"https://10.0.2.9/")]) else {
        panic!("no request")
    };
    assert_eq!(asked_of(&request.payload), Some(server(9)));
    ack(&mut client, now, 9, &[URL]);
    assert!(!client.has_boot_url(), "the lease has none that counts");
    let mut client = wishful();
    offer(&mut client, now, 7, &[(67, &EFI)]);
    assert_eq!(asked_of(&ticked(&mut client, now + WINDOW)), Some(server(7)), "there is no other");
    let Reaction::Bound(lease) = ack(&mut client, now, 7, &[(67, &EFI)]) else { panic!("no lease") };
    assert_eq!(lease.boot_file.unwrap().as_bytes(), EFI, "it is told why that is passed over");

    let mut client = wishful();
    offer(&mut client, now, 7, &[]);
    offer(&mut client, now, 8, &[(67, b"ftp://boot.example/x")]);
    assert!(silent(&mut client, now + WINDOW - millis(1)));
    assert_eq!(asked_of(&ticked(&mut client, now + WINDOW)), Some(server(7)), "the first of equals");
}

#[test]
fn a_server_without_addresses_contributes_its_url_alone() {
    let now = Instant::now();
    let proxy = |client: &mut Client, options: &[(u8, &[u8])]| {
        let options: Vec<_> = [OFFER, SERVER_ID].iter().chain(options).copied().collect();
        let packet = reply(client.xid, Ipv4Addr::UNSPECIFIED, &options);
        client.receive(now, SERVER, &packet)
    };
    for proxy_first in [false, true] {
        let mut client = Client::new(device(), Wishes { boot_url: true, ..Wishes::default() }, 1, now);
        ticked(&mut client, now);
        assert!(matches!(proxy(&mut client, &[(60, b"PXEClient")]), Reaction::Nothing));
        let request = if proxy_first {
            assert!(matches!(proxy(&mut client, &[URL]), Reaction::Nothing));
            assert!(client.story(now).contains("only a boot server without addresses"));
            offer(&mut client, now, 7, &[])
        } else {
            assert!(matches!(offer(&mut client, now, 7, &[]), Reaction::Nothing));
            proxy(&mut client, &[URL])
        };
        let Reaction::Send(request) = request else { panic!("no request") };
        assert_eq!(asked_of(&request.payload), Some(server(7)), "{proxy_first}");
        let Reaction::Bound(lease) = ack(&mut client, now, 7, &[(67, b"pxelinux.0")]) else {
            panic!("no lease")
        };
        assert_eq!(lease.boot_url(), Some(("http://10.0.2.2/boot".into(), "option 67")));
    }
}

#[test]
fn a_boot_loader_from_a_server_without_addresses_ends_no_wait() {
    let now = Instant::now();
    for late in [false, true] {
        let mut client = Client::new(device(), Wishes { boot_url: true, ..Wishes::default() }, 1, now);
        ticked(&mut client, now);
        let proxy = |client: &mut Client, url: &[u8]| {
            let packet = reply(client.xid, Ipv4Addr::UNSPECIFIED, &[OFFER, SERVER_ID, (67, url)]);
            client.receive(now, SERVER, &packet)
        };
        assert!(matches!(proxy(&mut client, &EFI), Reaction::Nothing));
        assert!(matches!(offer(&mut client, now, 7, &[]), Reaction::Nothing));
        let lease = if late {
            // Nothing better has come: whoever looks for providers says what is wrong with it.
            assert_eq!(asked_of(&ticked(&mut client, now + WINDOW)), Some(server(7)));
            ack(&mut client, now, 7, &[])
        } else {
            let Reaction::Send(request) = offer(&mut client, now, 9, &[URL]) else { panic!("no request") };
            assert_eq!(asked_of(&request.payload), Some(server(9)));
            ack(&mut client, now, 9, &[URL])
        };
        let Reaction::Bound(lease) = lease else { panic!("no lease") };
        assert_eq!(lease.boot_file.unwrap().as_bytes(), if late { &EFI[..] } else { URL.1 });
        assert_eq!(client.has_boot_url(), !late);

        let mut client = Client::new(device(), Wishes { boot_url: true, ..Wishes::default() }, 1, now);
        ticked(&mut client, now);
        offer(&mut client, now, 7, &[]);
        assert!(matches!(proxy(&mut client, &EFI), Reaction::Nothing));
        assert!(matches!(proxy(&mut client, URL.1), Reaction::Send(_)), "one of use counts, though later");
        let Reaction::Bound(lease) = ack(&mut client, now, 7, &[(67, &EFI)]) else { panic!("no lease") };
        assert_eq!(lease.boot_file.unwrap().as_bytes(), URL.1);
        assert!(!client.has_boot_url(), "the server of the lease has named none");
    }
}

#[test]
fn rapid_commit_binds_at_once_and_only_so() {
    let now = Instant::now();
    let mut client = client(now);
    ticked(&mut client, now);
    assert!(matches!(ack(&mut client, now, 2, &[MASK]), Reaction::Nothing), "no option 80");
    assert!(matches!(ack(&mut client, now, 2, &[MASK, (80, &[1])]), Reaction::Nothing), "not empty");
    let Reaction::Bound(lease) = ack(&mut client, now, 2, &[MASK, (80, &[])]) else { panic!("no lease") };
    assert_eq!((lease.address, lease.server), (OURS, Some(SERVER)));
}

#[test]
fn a_server_that_only_offers_does_not_hide_one_that_grants() {
    let mut now = Instant::now();
    let mut client = client(now);
    ticked(&mut client, now);
    assert!(matches!(offer(&mut client, now, 7, &[]), Reaction::Send(_)));
    for _ in 0..MOST_REQUESTS {
        now = client.due();
        ticked(&mut client, now);
    }
    assert!(matches!(offer(&mut client, now, 7, &[]), Reaction::Nothing), "it is not trusted any more");
    let Reaction::Send(request) = offer(&mut client, now + millis(300), 8, &[]) else { panic!("no request") };
    assert_eq!(asked_of(&request.payload), Some(server(8)));
    assert!(matches!(ack(&mut client, now, 8, &[MASK]), Reaction::Bound(_)));
}

#[test]
fn what_only_the_offer_says_of_booting_is_kept() {
    let now = Instant::now();
    let mut client = client(now);
    ticked(&mut client, now);
    offer(&mut client, now, 7, &[URL, (66, b"10.0.2.9")]);
    let Reaction::Bound(lease) = ack(&mut client, now, 7, &[MASK]) else { panic!("no lease") };
    assert_eq!(lease.boot_url().unwrap().0, "http://10.0.2.2/boot");
    assert_eq!(lease.boot_server.as_deref(), Some("10.0.2.9"));

    // Each of the two, and none of it where the ACK names a URL itself.
    const OTHER: &[u8] = b"http://10.0.2.4/";
    let tftp: (u8, &[u8]) = (66, b"tftp1");
    let lease = |offered: &[(u8, &[u8])], granted: &[(u8, &[u8])]| {
        let mut client = self::client(now);
        ticked(&mut client, now);
        offer(&mut client, now, 7, offered);
        let Reaction::Bound(lease) = ack(&mut client, now, 7, granted) else { panic!("no lease") };
        (lease.boot_url(), lease.boot_file, lease.boot_server)
    };
    let url = || Some("http://10.0.2.2/boot".to_owned());
    assert_eq!(
        lease(&[URL, tftp], &[MASK, tftp]),
        (url().map(|url| (url, "option 67")), url(), Some("tftp1".into()))
    );
    let (found, file, _) = lease(&[(66, URL.1)], &[MASK, (67, b"pxelinux.0")]);
    assert_eq!((found, file), (url().map(|url| (url, "option 66")), Some("pxelinux.0".into())));
    let (found, file, _) = lease(&[URL], &[MASK, (66, OTHER)]);
    assert_eq!((found, file), (Some(("http://10.0.2.4/".into(), "option 66")), None));
}

#[test]
fn a_short_lease_that_comes_late_is_whole() {
    let mut now = Instant::now();
    let mut client = client(now);
    for _ in 0..12 {
        now = client.due();
        ticked(&mut client, now);
    }
    let lease = [MASK, (51, &[0, 0, 0, 30]), (80, &[])];
    assert!(matches!(ack(&mut client, now + millis(5), 2, &lease), Reaction::Bound(_)));
    assert!(client.due() - now > Duration::from_secs(14), "{:?}", client.due() - now);
}
