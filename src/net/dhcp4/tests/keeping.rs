//! A lease of before, and the life of a lease.

use super::*;

const HOUR: (u8, &[u8]) = (51, &[0, 0, 14, 16]);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A client with a lease from server 2.
fn bound(now: Instant, options: &[(u8, &[u8])]) -> Client {
    let mut client = client(now);
    requesting(&mut client, now);
    let options: Vec<_> = [MASK].iter().chain(options).copied().collect();
    assert!(matches!(ack(&mut client, now, 2, &options), Reaction::Bound(_)));
    client
}

fn remembering(now: Instant) -> Client {
    Client::new(device(), Wishes { remembered: Some(OURS), ..Wishes::default() }, 1, now)
}

fn requested(packet: &[u8]) -> Option<DhcpOption> {
    sent(packet).opts().get(OptionCode::RequestedIpAddress).cloned()
}

#[test]
fn an_address_of_before_is_asked_for_first() {
    let now = Instant::now();
    let mut client = remembering(now);
    let request = ticked(&mut client, now);
    assert_eq!(asked_of(&request), None);
    assert_eq!(requested(&request), Some(DhcpOption::RequestedIpAddress(OURS)));
    assert!(matches!(offer(&mut client, now, 2, &[MASK]), Reaction::Nothing), "nobody asked for offers");
    let Reaction::Bound(lease) = ack(&mut client, now, 2, &[MASK, HOUR]) else { panic!("no lease") };
    assert_eq!((lease.address, lease.server), (OURS, Some(SERVER)));
}

#[test]
fn an_address_of_before_without_a_boot_url_is_a_hint_where_one_is_wished_for() {
    let now = Instant::now();
    for had_boot_url in [false, true] {
        let wishes = Wishes { boot_url: true, remembered: Some(OURS), had_boot_url, ..Wishes::default() };
        let mut client = Client::new(device(), wishes, 1, now);
        let first = ticked(&mut client, now);
        let expected = if had_boot_url { MessageType::Request } else { MessageType::Discover };
        assert_eq!(sent(&first).opts().msg_type(), Some(expected));
        assert_eq!(requested(&first), Some(DhcpOption::RequestedIpAddress(OURS)));
        if !had_boot_url {
            let Reaction::Send(_) = offer(&mut client, now, 9, &[URL]) else { panic!("no request") };
        }
        let Reaction::Bound(lease) = ack(&mut client, now, 9, &[URL]) else { panic!("no lease") };
        assert!(lease.boot_url().is_some() && client.has_boot_url());
    }
}

#[test]
fn an_address_of_before_that_nobody_knows_is_given_up_soon() {
    let start = Instant::now();
    let mut client = remembering(start);
    let mut now = start;
    for _ in 0..MOST_REBOOTS {
        asked_of(&ticked(&mut client, now));
        now = client.due();
    }
    assert!(now - start < millis(1500), "{:?}", now - start);
    assert_eq!(client.story(now), "no answer to 2 DHCP requests for 10.0.2.15, which was held before");
    let discover = ticked(&mut client, now);
    assert_eq!(sent(&discover).opts().msg_type(), Some(MessageType::Discover));
    assert_eq!(requested(&discover), Some(DhcpOption::RequestedIpAddress(OURS)), "it may still be free");
}

#[test]
fn an_address_of_before_that_is_refused_is_forgotten_at_once() {
    let now = Instant::now();
    let mut client = remembering(now);
    ticked(&mut client, now);
    let nak = reply(client.xid, Ipv4Addr::UNSPECIFIED, &[NAK, SERVER_ID]);
    let Reaction::Send(discover) = client.receive(now, SERVER, &nak) else { panic!("no discover") };
    assert_eq!(sent(&discover.payload).opts().msg_type(), Some(MessageType::Discover));
    assert_eq!(requested(&discover.payload), None);
    assert!(client.story(now).starts_with("10.0.2.2 refused 10.0.2.15 (DHCP NAK)"));
    let broken = Wishes { remembered: Some(Ipv4Addr::BROADCAST), ..Wishes::default() };
    let discover = ticked(&mut Client::new(device(), broken, 1, now), now);
    assert_eq!(sent(&discover).opts().msg_type(), Some(MessageType::Discover), "no host's address");
}

#[test]
fn a_lease_is_extended_by_its_server_at_t1() {
    let start = Instant::now();
    let mut client = bound(start, &[HOUR]);
    let t1 = client.due();
    assert!((1740..=1800).contains(&(t1 - start).as_secs()), "{:?}", t1 - start);
    assert!(silent(&mut client, t1 - millis(1)));
    let old = client.xid;
    let request = outgoing(&mut client, t1);
    assert_eq!(request.to, Some(SERVER));
    assert_eq!((sent(&request.payload).ciaddr(), asked_of(&request.payload)), (OURS, None));
    assert_ne!(client.xid, old);
    assert_eq!(
        client.story(t1),
        "lease 10.0.2.15 from 10.0.2.2, no answer to 1 requests for it to that server"
    );

    // Halves of what is left until T2, at least a minute.
    let mut waits = Vec::new();
    let mut now = t1;
    while client.due() < start + seconds(3150) {
        waits.push((client.due() - now).as_secs());
        now = client.due();
        assert_eq!(outgoing(&mut client, now).to, Some(SERVER));
    }
    assert!(waits.is_sorted_by(|a, b| a >= b) && waits.iter().all(|&wait| wait >= 60), "{waits:?}");
    assert!((5..12).contains(&waits.len()), "{waits:?}");

    let Reaction::Renewed(lease) = ack(&mut client, now, 2, &[MASK, HOUR]) else { panic!("not renewed") };
    assert_eq!(lease.address, OURS);
    // The lease runs from the request that was answered.
    assert!(client.due() >= now + seconds(1740) && client.due() <= now + seconds(1800));
    assert!(matches!(ack(&mut client, now, 2, &[MASK, HOUR]), Reaction::Nothing), "a duplicate");
}

#[test]
fn a_lease_is_extended_by_anybody_at_t2_and_over_in_the_end() {
    let start = Instant::now();
    let mut client = bound(start, &[HOUR]);
    client.tick(start + seconds(1800));
    let t2 = start + seconds(3150);
    let xid = client.xid;
    assert_eq!(outgoing(&mut client, t2).to, None);
    assert_ne!(client.xid, xid);
    assert!(client.story(t2).ends_with("no answer to 1 requests for it to any server"));
    let Reaction::Renewed(lease) = ack(&mut client, t2, 9, &[MASK, HOUR]) else { panic!("not renewed") };
    assert_eq!(lease.server, Some(server(9)));

    let (now, lost) = loop {
        let now = client.due();
        match client.tick(now) {
            Reaction::Lost(why) => break (now, why),
            Reaction::Send(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(now, t2 + seconds(3600));
    assert_eq!(lost, "nobody has extended the lease of 10.0.2.15");
    let discover = ticked(&mut client, now);
    assert_eq!(sent(&discover).opts().msg_type(), Some(MessageType::Discover));
    assert_eq!(sent(&discover).secs(), 0);
    assert_eq!(requested(&discover), Some(DhcpOption::RequestedIpAddress(OURS)));
    assert!(client.story(now).contains("lease of 10.0.2.15, after 1 DHCP discovers"));
    requesting_again(&mut client, now);
}

fn requesting_again(client: &mut Client, now: Instant) {
    assert!(matches!(offer(client, now, 2, &[MASK]), Reaction::Send(_)));
    assert!(matches!(ack(client, now, 2, &[MASK, HOUR]), Reaction::Bound(_)));
}

#[test]
fn a_machine_that_slept_through_it_all_has_lost_its_lease() {
    let start = Instant::now();
    let mut client = bound(start, &[HOUR]);
    assert!(matches!(client.tick(start + seconds(4000)), Reaction::Lost(_)));
}

#[test]
fn a_short_lease_is_extended_in_time() {
    let start = Instant::now();
    for length in [1, 2, 4, 8, 10, 16, 30, 60, 120, 600] {
        let mut client = bound(start, &[(51, &u32::to_be_bytes(length))]);
        let end = start + seconds(u64::from(length));
        let (mut to_server, mut to_all) = (0, 0);
        loop {
            let now = client.due();
            match client.tick(now) {
                Reaction::Send(message) if message.to.is_some() => to_server += 1,
                Reaction::Send(_) => to_all += 1,
                Reaction::Lost(_) => break assert_eq!(now, end),
                other => panic!("{other:?}"),
            }
            assert!(to_server > 1 || to_all > 0 || now - start <= (end - start) / 2, "{length}: first then");
        }
        let least = if length < 8 { 1 } else { 3 };
        assert!(
            (least..=8).contains(&to_server) && (1..=4).contains(&to_all),
            "{length}: {to_server}, {to_all}"
        );
    }
}

/// Seven eighths of 4 s are no whole seconds, and what a server says counts.
#[test]
fn a_lease_of_a_few_seconds_has_its_times() {
    let start = Instant::now();
    let four = (51, [0, 0, 0, 4]);
    let mut client = bound(start, &[(four.0, &four.1)]);
    assert!((1900..=2000).contains(&(client.due() - start).as_millis()));
    assert_eq!(outgoing(&mut client, start + millis(3499)).to, Some(SERVER));
    assert_eq!(client.due(), start + millis(3500));
    assert_eq!(outgoing(&mut client, start + millis(3500)).to, None, "any server is asked");
    assert!(matches!(client.tick(start + seconds(4)), Reaction::Lost(_)));

    let mut client = bound(start, &[(four.0, &four.1), (58, &[0, 0, 0, 1]), (59, &[0, 0, 0, 2])]);
    assert!((960..=1000).contains(&(client.due() - start).as_millis()));
    assert_eq!(outgoing(&mut client, start + seconds(2)).to, None);
}

/// What the kernel is told: never less than the lease has left, and never nothing.
#[test]
fn what_is_left_of_a_lease_is_told_in_seconds() {
    let start = Instant::now();
    assert_eq!(client(start).left(start), None);
    assert_eq!(bound(start, &[]).left(start), None, "for ever");
    let client = bound(start, &[HOUR]);
    for (after, left) in
        [(3, 3600), (999, 3600), (1001, 3599), (3_599_500, 1), (3_600_000, 1), (9_000_000, 1)]
    {
        assert_eq!(client.left(start + millis(after)), Some(left), "{after}");
    }
}

#[test]
fn a_lease_without_end_is_never_extended() {
    let start = Instant::now();
    for options in [vec![], vec![(51, [255; 4].as_slice())]] {
        let mut client = bound(start, &options);
        for _ in 0..3 {
            let now = client.due();
            assert!(now > start + seconds(86_400));
            assert!(silent(&mut client, now));
        }
    }
}

#[test]
fn a_refusal_takes_the_lease_away() {
    let start = Instant::now();
    let nak =
        |client: &Client, n: u8| reply(client.xid, Ipv4Addr::UNSPECIFIED, &[NAK, (54, &server(n).octets())]);
    let mut client = bound(start, &[HOUR]);
    let packet = nak(&client, 2);
    assert!(matches!(client.receive(start, SERVER, &packet), Reaction::Nothing), "nothing was asked");
    let t1 = client.due();
    client.tick(t1);
    let packet = nak(&client, 9);
    assert!(matches!(client.receive(t1, SERVER, &packet), Reaction::Nothing), "it was not asked");
    let packet = nak(&client, 2);
    let Reaction::Lost(why) = client.receive(t1, SERVER, &packet) else { panic!("not lost") };
    assert!(why.starts_with("10.0.2.2 refused 10.0.2.15 (DHCP NAK)"), "{why}");
    assert_eq!(client.due(), t1);
    assert_eq!(requested(&ticked(&mut client, t1)), None);
}

#[test]
fn another_address_is_no_extension() {
    let start = Instant::now();
    let mut client = bound(start, &[HOUR]);
    let t1 = client.due();
    client.tick(t1);
    for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 2, 16)] {
        let packet = reply(client.xid, address, &[ACK, SERVER_ID, MASK, HOUR]);
        assert!(matches!(client.receive(t1, SERVER, &packet), Reaction::Nothing));
    }
}

#[test]
fn a_link_that_was_away_has_its_address_confirmed() {
    let start = Instant::now();
    let now = start + seconds(100);
    let away = || {
        let mut client = bound(start, &[HOUR]);
        client.confirm(now);
        let request = ticked(&mut client, now);
        assert_eq!((asked_of(&request), sent(&request).ciaddr()), (None, Ipv4Addr::UNSPECIFIED));
        assert_eq!(requested(&request), Some(DhcpOption::RequestedIpAddress(OURS)));
        client
    };
    let mut client = away();
    assert!(matches!(ack(&mut client, now, 2, &[MASK, HOUR]), Reaction::Renewed(_)));
    assert!(client.due() > now + seconds(1700));

    let mut client = away();
    let nak = reply(client.xid, Ipv4Addr::UNSPECIFIED, &[NAK, SERVER_ID]);
    assert!(matches!(client.receive(now, SERVER, &nak), Reaction::Lost(_)), "another network");

    let mut client = away();
    let again = client.due();
    ticked(&mut client, again);
    let given_up = client.due();
    assert!(given_up < now + seconds(2));
    assert!(silent(&mut client, given_up));
    assert!((1740..=1800).contains(&(client.due() - start).as_secs()), "kept as it was");
    assert_eq!(outgoing(&mut client, start + seconds(1800)).to, Some(SERVER));
}

#[test]
fn a_lease_is_given_back_to_its_server() {
    let start = Instant::now();
    let mut idle = client(start);
    assert_eq!(idle.release(), None);
    let mut client = bound(start, &[HOUR]);
    let release = client.release().unwrap();
    assert_eq!(release.to, Some(SERVER));
    let message = sent(&release.payload);
    assert_eq!((message.opts().msg_type(), message.ciaddr()), (Some(MessageType::Release), OURS));
    assert_eq!(client.release(), None, "once");
}

#[test]
fn years_of_renewals_keep_the_address() {
    let start = Instant::now();
    let mut client = bound(start, &[HOUR]);
    let mut renewals = 0;
    while client.due() < start + seconds(2 * 365 * 86_400) {
        let now = client.due();
        assert_eq!(outgoing(&mut client, now).to, Some(SERVER));
        let later = now + millis(3);
        assert!(matches!(ack(&mut client, later, 2, &[MASK, HOUR]), Reaction::Renewed(_)));
        renewals += 1;
    }
    assert!((35_000..=36_500).contains(&renewals), "{renewals}");
}
