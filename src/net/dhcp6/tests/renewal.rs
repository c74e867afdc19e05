//! Leases in simulated time, and what needs no lease.

use super::*;
use crate::net::lease6::MOST_ADDRESSES;

#[test]
fn a_lease_is_renewed_then_rebound_then_lost() {
    let (mut client, start) = bound();
    assert!(matches!(client.tick(start + seconds(999)), Reaction6::Nothing));
    let mut now = start + seconds(1000);
    let renew = sent(client.tick(now));
    assert_eq!((renew.msg_type(), named(&renew)), (MessageType::Renew, vec![OURS]));
    assert_eq!(renew.opts().get(OptionCode::ServerId), Some(&DhcpOption::ServerId(SERVER.to_vec())));
    assert!((10.0..=11.25).contains(&(client.due() - now).as_secs_f64()));
    let mut kinds = Vec::new();
    let lost = loop {
        assert!(client.due() > now && kinds.len() < 100);
        now = client.due();
        match client.tick(now) {
            Reaction6::Send(bytes) => {
                let message = Decoded::from_bytes(&bytes).unwrap();
                assert_eq!(named(&message), [OURS]);
                let to_all = message.opts().get(OptionCode::ServerId).is_none();
                assert_eq!(to_all, message.msg_type() == MessageType::Rebind);
                assert_eq!(to_all, now >= start + seconds(1600));
                kinds.push(message.msg_type());
            }
            Reaction6::Lost(why) => break why,
            other => panic!("{other:?}"),
        }
    };
    assert!(kinds.contains(&MessageType::Renew) && kinds.contains(&MessageType::Rebind));
    assert_eq!((now, lost.as_str()), (start + seconds(3000), "the DHCPv6 lease is over"));
    assert_eq!(kind(client.tick(client.due())), MessageType::Solicit);
}

#[test]
fn a_renewal_starts_the_lease_anew() {
    let (mut client, start) = bound();
    let now = start + seconds(1000);
    client.tick(now);
    let other = packet(REPLY, &client, b"\0\x03other", &[granted()]);
    assert!(matches!(client.receive(now, OTHER, &other), Reaction6::Nothing), "not the one that was asked");
    let refused = packet(REPLY, &client, SERVER, &[refused(2)]);
    assert!(matches!(client.receive(now, ROUTER, &refused), Reaction6::Nothing), "the lease still holds");
    let reply = packet(REPLY, &client, SERVER, &[association(50, 80, &[lease_of(OURS, 100, 100)])]);
    let Reaction6::Renewed(lease) = client.receive(now, ROUTER, &reply) else { panic!() };
    assert_eq!((lease.t1, lease.t2, client.due()), (50, 80, now + seconds(50)));
    // Rebound by another server, which is then the one that is asked.
    let now = now + seconds(81);
    assert_eq!(kind(client.tick(now)), MessageType::Rebind);
    let reply = packet(REPLY, &client, b"\0\x03other", &[granted()]);
    assert!(matches!(client.receive(now, OTHER, &reply), Reaction6::Renewed(_)));
    let renew = sent(client.tick(now + seconds(1000)));
    assert_eq!(renew.opts().get(OptionCode::ServerId), Some(&DhcpOption::ServerId(b"\0\x03other".to_vec())));
}

/// RFC 8415, section 18.2.10.1.
#[test]
fn addresses_that_an_extension_does_not_name_stay_until_they_end() {
    let [second, third] = [0x16, 0x17].map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let (mut client, now) = stateful();
    client.tick(now);
    let three =
        [lease_of(OURS, 2000, 3000), lease_of(second, 500, 3000), lease_of(third, FOR_EVER, FOR_EVER)];
    let reply = packet(REPLY, &client, SERVER, &[association(1000, 1600, &three), option(14, b"")]);
    assert!(matches!(client.receive(now, ROUTER, &reply), Reaction6::Bound(_)));
    let now = now + seconds(1000) + Duration::from_millis(1);
    assert_eq!(named(&sent(client.tick(now))), [OURS, second, third]);
    let one = association(1000, 1600, &[lease_of(OURS, 2000, 3000)]);
    let reply = packet(REPLY, &client, SERVER, &[one]);
    let Reaction6::Renewed(lease) = client.receive(now, ROUTER, &reply) else { panic!() };
    let left = [(OURS, 2000, 3000), (second, 0, 1999), (third, FOR_EVER, FOR_EVER)];
    assert_eq!((&*lease.addresses, lease.t1), (&left[..], 1000));
    // One is withdrawn, and one is over when the server names the first again.
    client.tick(now + seconds(1000));
    let now = now + seconds(2001);
    client.tick(now);
    let last = association(0, 0, &[lease_of(OURS, 2000, 3000), lease_of(third, 0, 0)]);
    let reply = packet(REPLY, &client, SERVER, &[last]);
    let Reaction6::Renewed(lease) = client.receive(now, ROUTER, &reply) else { panic!() };
    assert_eq!(lease.addresses, [(OURS, 2000, 3000)]);
    // No server makes the list longer than it may be.
    let now = now + seconds(1000);
    client.tick(now);
    let address = |n: u16| lease_of(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n), 2000, 3000);
    let many: Vec<Vec<u8>> = (0..64).map(address).collect();
    let reply = packet(REPLY, &client, SERVER, &[association(0, 0, &many)]);
    let Reaction6::Renewed(lease) = client.receive(now, ROUTER, &reply) else { panic!() };
    assert_eq!(lease.addresses.len(), MOST_ADDRESSES);
}

#[test]
fn a_server_that_forgot_is_asked_anew_and_one_that_takes_back_is_obeyed() {
    let renewing = || {
        let (mut client, start) = bound();
        let now = start + seconds(1000);
        client.tick(now);
        (client, now)
    };
    let (mut client, now) = renewing();
    let forgot = packet(REPLY, &client, SERVER, &[refused(3)]);
    let request = sent(client.receive(now, ROUTER, &forgot));
    assert_eq!((request.msg_type(), named(&request)), (MessageType::Request, vec![OURS]));
    let reply = packet(REPLY, &client, SERVER, &[granted()]);
    assert!(matches!(client.receive(now, ROUTER, &reply), Reaction6::Renewed(_)));

    let (mut client, now) = renewing();
    let forgot = packet(REPLY, &client, SERVER, &[refused(3)]);
    client.receive(now, ROUTER, &forgot);
    let forgot = packet(REPLY, &client, SERVER, &[refused(3)]);
    let Reaction6::Lost(why) = client.receive(now, ROUTER, &forgot) else { panic!() };
    assert_eq!(why, "DHCPv6 server fe80::1 does not know our addresses any more \"no luck\"");
    assert_eq!(kind(client.tick(now)), MessageType::Solicit);

    let (mut client, now) = renewing();
    let taken = packet(REPLY, &client, SERVER, &[association(0, 0, &[lease_of(OURS, 0, 0)])]);
    let Reaction6::Lost(why) = client.receive(now, ROUTER, &taken) else { panic!() };
    assert_eq!(why, "fe80::1 has withdrawn the addresses");

    let (mut client, now) = renewing();
    let moved = packet(REPLY, &client, SERVER, &[refused(4)]);
    assert!(matches!(client.receive(now, ROUTER, &moved), Reaction6::Lost(_)));
}

#[test]
fn a_lease_ends_the_patience_with_refusals() {
    let (mut client, mut now) = stateful();
    for code in [Some(2), Some(2), None] {
        client.tick(now);
        let advertise = packet(ADVERTISE, &client, SERVER, &[granted()]);
        assert_eq!(kind(client.receive(now, ROUTER, &advertise)), MessageType::Request);
        let answer = code.map_or_else(granted, refused);
        let reply = packet(REPLY, &client, SERVER, &[answer]);
        let bound = matches!(client.receive(now, ROUTER, &reply), Reaction6::Bound(_));
        assert_eq!(bound, code.is_none());
        now = client.due();
    }
    client.tick(now);
    let moved = packet(REPLY, &client, SERVER, &[refused(4)]);
    assert!(matches!(client.receive(now, ROUTER, &moved), Reaction6::Lost(_)));
    assert_eq!(kind(client.tick(now)), MessageType::Solicit, "at once, as after a first refusal");
}

#[test]
fn what_was_granted_is_given_back() {
    let (mut client, now) = bound();
    let Some(release) = client.release() else { panic!() };
    let release = sent(Reaction6::Send(release));
    assert_eq!((release.msg_type(), named(&release)), (MessageType::Release, vec![OURS]));
    assert_eq!(release.opts().get(OptionCode::ServerId), Some(&DhcpOption::ServerId(SERVER.to_vec())));
    assert!(release.opts().get(OptionCode::ORO).is_none(), "RFC 8415, appendix B");
    assert!(client.release().is_none());
    for after in [1, 5000, 500_000] {
        assert!(matches!(client.tick(now + seconds(after)), Reaction6::Nothing));
    }
}

#[test]
fn an_address_that_somebody_else_has_is_declined_and_another_asked_for() {
    let (mut client, now) = bound();
    let decline = sent(Reaction6::Send(client.decline(now, OURS).unwrap()));
    assert_eq!((decline.msg_type(), named(&decline)), (MessageType::Decline, vec![OURS]));
    assert_eq!(decline.opts().get(OptionCode::ServerId), Some(&DhcpOption::ServerId(SERVER.to_vec())));
    assert!(decline.opts().get(OptionCode::ORO).is_none(), "RFC 8415, appendix B");
    assert!(client.decline(now, OURS).is_none() && client.release().is_none(), "nothing is held");
    let later = client.due();
    assert!(later > now && later < now + seconds(2));
    assert_eq!(kind(client.tick(later)), MessageType::Solicit);
}

/// What is granted after it clears no count, and a server that then has none left hides no address.
#[test]
fn nobody_is_asked_for_ever_for_what_somebody_else_has() {
    let (mut client, mut now) = bound();
    let mut waits = Vec::new();
    for _ in 1..MOST_DECLINES {
        assert!(client.decline(now, OURS).is_some());
        waits.push(client.due() - now);
        now = client.due();
        assert_eq!(kind(client.tick(now)), MessageType::Solicit);
        let none = packet(ADVERTISE, &client, SERVER, &[refused(2)]);
        assert!(matches!(client.receive(now, ROUTER, &none), Reaction6::Nothing));
        let story = client.story(now);
        assert!(story.starts_with("somebody else has the address 2001:db8::15, "), "{story}");
        assert!(story.contains("fe80::1"), "{story}");
        let reply = packet(REPLY, &client, SERVER, &[granted(), option(14, b"")]);
        assert!(matches!(client.receive(now, ROUTER, &reply), Reaction6::Bound(_)));
        assert!(client.story(now).starts_with("DHCPv6 answered, "));
    }
    assert!(waits.is_sorted_by(|one, next| *next > *one * 3 / 2), "{waits:?}");
    assert!(client.decline(now, OURS).is_some());
    for after in [0, 1, 5000, 500_000] {
        client.hurry(now + seconds(after));
        assert!(matches!(client.tick(now + seconds(after)), Reaction6::Nothing));
    }
    assert_eq!(
        client.story(now),
        "somebody else has the address 2001:db8::15, after 4 DHCPv6 solicits in 3 s"
    );
}

#[test]
fn what_routers_do_not_tell_is_asked_for_without_an_address() {
    let now = Instant::now();
    let mut client = client(Need::Stateless, false, now);
    let request = sent(client.tick(now));
    assert_eq!(request.msg_type(), MessageType::InformationRequest);
    assert!(request.opts().get(OptionCode::IANA).is_none());
    let Some(DhcpOption::ORO(wanted)) = request.opts().get(OptionCode::ORO) else { panic!() };
    assert!(
        wanted.opts.contains(&OptionCode::InformationRefreshTime)
            && wanted.opts.contains(&OptionCode::InfMaxRt)
    );
    let no = packet(REPLY, &client, SERVER, &[status(1, "")]);
    assert!(matches!(client.receive(now, ROUTER, &no), Reaction6::Nothing));
    let advertise = packet(ADVERTISE, &client, SERVER, &[option(59, URL)]);
    assert!(matches!(client.receive(now, ROUTER, &advertise), Reaction6::Nothing));
    let reply = packet(REPLY, &client, SERVER, &[option(59, URL), option(32, &[0, 0, 0, 1]), granted()]);
    let Reaction6::Bound(lease) = client.receive(now, ROUTER, &reply) else { panic!() };
    assert_eq!((lease.boot_url.as_deref().map(str::as_bytes), lease.addresses), (Some(URL), vec![]));
    assert_eq!(client.due(), now + seconds(u64::from(LEAST_REFRESH)));
    assert!(client.release().is_none(), "there is nothing to give back");
}

#[test]
fn what_was_told_is_asked_for_again() {
    let mut now = Instant::now();
    let mut client = client(Need::Stateless, true, now);
    client.tick(now);
    let reply = packet(REPLY, &client, SERVER, &[option(32, &[255; 4])]);
    assert!(matches!(client.receive(now, ROUTER, &reply), Reaction6::Nothing), "a URL is still wished for");
    now += WINDOW;
    assert!(matches!(client.tick(now), Reaction6::Bound(_)));
    assert_eq!(client.due(), now + seconds(u64::from(REFRESH)));
    for _ in 0..3 {
        now = client.due();
        assert_eq!(kind(client.tick(now)), MessageType::InformationRequest);
        assert!(client.due() - now >= seconds(10), "no hurry: what was told still holds");
    }
    let reply = packet(REPLY, &client, SERVER, &[option(59, URL)]);
    assert!(
        matches!(client.receive(now, ROUTER, &reply), Reaction6::Renewed(lease) if lease.boot_url.is_some())
    );
}
