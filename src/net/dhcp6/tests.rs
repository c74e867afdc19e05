use super::*;
use dhcproto::v6::{Decodable, DhcpOption, Message as Decoded, OptionCode};

mod renewal;

pub(super) const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
pub(super) const DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
pub(super) const IAID: [u8; 4] = [0x00, 0x12, 0x34, 0x56];
pub(super) const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const OTHER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub(super) const OURS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x15);
const SERVER: &[u8] = b"\0\x03\0\x01server";
const URL: &[u8] = b"http://[2001:db8::1]/boot";

pub(super) const ADVERTISE: u8 = 2;
pub(super) const REPLY: u8 = 7;

pub(super) fn client(need: Need, wish: bool, now: Instant) -> Client6 {
    let device = Device6 {
        name: "eth0".into(),
        mac: MAC,
        duid: DUID.to_vec(),
        arch: Arch::X86_64,
        hostname: Some("node7".into()),
    };
    Client6::new(device, need, wish, 1, now)
}

fn stateful() -> (Client6, Instant) {
    let now = Instant::now();
    (client(Need::Stateful, false, now), now)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes(), length.to_be_bytes().as_slice(), value].concat()
}

/// IA_NA with ours, T1, T2, and the options in it.
pub(super) fn association(t1: u32, t2: u32, options: &[Vec<u8>]) -> Vec<u8> {
    option(3, &[IAID.as_slice(), &t1.to_be_bytes(), &t2.to_be_bytes(), &options.concat()].concat())
}

pub(super) fn lease_of(address: Ipv6Addr, preferred: u32, valid: u32) -> Vec<u8> {
    option(5, &[address.octets().as_slice(), &preferred.to_be_bytes(), &valid.to_be_bytes()].concat())
}

pub(super) fn status(code: u16, text: &str) -> Vec<u8> {
    option(13, &[code.to_be_bytes().as_slice(), text.as_bytes()].concat())
}

/// The client's identifier, the server's, and these options.
pub(super) fn packet(kind: u8, client: &Client6, server: &[u8], options: &[Vec<u8>]) -> Vec<u8> {
    let [_, xid @ ..] = client.xid.to_be_bytes();
    [&[kind], xid.as_slice(), &option(1, &DUID), &option(2, server), &options.concat()].concat()
}

fn granted() -> Vec<u8> {
    association(0, 0, &[lease_of(OURS, 2000, 3000)])
}

fn refused(code: u16) -> Vec<u8> {
    association(0, 0, &[status(code, "no luck")])
}

#[track_caller]
pub(super) fn sent(reaction: Reaction6) -> Decoded {
    let Reaction6::Send(bytes) = reaction else { panic!("{reaction:?}") };
    let decoded = Decoded::from_bytes(&bytes).unwrap();
    assert_eq!(decoded.opts().get(OptionCode::ClientId), Some(&DhcpOption::ClientId(DUID.to_vec())));
    decoded
}

fn kind(reaction: Reaction6) -> MessageType {
    sent(reaction).msg_type()
}

fn named(message: &Decoded) -> Vec<Ipv6Addr> {
    let Some(DhcpOption::IANA(association)) = message.opts().get(OptionCode::IANA) else {
        panic!("no IA_NA")
    };
    assert_eq!(association.id.to_be_bytes(), IAID);
    let addresses = association.opts.iter().map(|option| match option {
        DhcpOption::IAAddr(address) => address.addr,
        other => panic!("{other:?}"),
    });
    addresses.collect()
}

fn bytes(message: &Decoded, code: OptionCode) -> Option<Vec<u8>> {
    match message.opts().get(code) {
        Some(DhcpOption::Unknown(option)) => Some(option.data().to_vec()),
        _ => None,
    }
}

/// Bound to a lease of 3000 s, preferred 2000 s.
fn bound() -> (Client6, Instant) {
    let (mut client, now) = stateful();
    client.tick(now);
    let reply = packet(REPLY, &client, SERVER, &[granted(), option(14, b"")]);
    let Reaction6::Bound(lease) = client.receive(now, ROUTER, &reply) else { panic!("not bound") };
    assert_eq!((lease.addresses, lease.t1, lease.t2), (vec![(OURS, 2000, 3000)], 1000, 1600));
    (client, now)
}

#[test]
fn a_solicit_says_who_we_are_and_what_we_want() {
    let (mut client, now) = stateful();
    let solicit = sent(client.tick(now));
    assert_eq!((solicit.msg_type(), solicit.xid_num()), (MessageType::Solicit, client.xid));
    assert_eq!(named(&solicit), Vec::<Ipv6Addr>::new());
    assert!(solicit.opts().get(OptionCode::RapidCommit).is_some());
    assert!(solicit.opts().get(OptionCode::ServerId).is_none());
    let Some(DhcpOption::ORO(wanted)) = solicit.opts().get(OptionCode::ORO) else { panic!() };
    let wanted: Vec<u16> = wanted.opts.iter().map(|&code| code.into()).collect();
    assert_eq!(wanted, [23, 24, 31, 56, 59, 60, 82]);
    assert_eq!(solicit.opts().get(OptionCode::ElapsedTime), Some(&DhcpOption::ElapsedTime(0)));
    let Some(DhcpOption::ClientArchType(arch)) = solicit.opts().get(OptionCode::ClientArchType) else {
        panic!()
    };
    assert_eq!(arch.iter().map(|arch| arch.0).collect::<Vec<_>>(), [16]);
    assert_eq!(bytes(&solicit, OptionCode::Nii).unwrap(), [1, 3, 16]);
    // dhcproto decodes what it cannot encode.
    let Some(DhcpOption::VendorClass(class)) = solicit.opts().get(OptionCode::VendorClass) else { panic!() };
    assert_eq!(
        (class.num, class.data.as_slice()),
        (343, &[b"HTTPClient:Arch:00016:UNDI:003016".to_vec()][..])
    );
    assert_eq!(bytes(&solicit, OptionCode::ClientFqdn).unwrap(), b"\x01\x05node7");
    // Nothing else, and nothing twice.
    assert_eq!(solicit.opts().iter().count(), 9);
}

#[test]
fn silence_is_met_with_patience() {
    let (mut client, start) = stateful();
    let mut now = start;
    let mut waits = Vec::new();
    let first = sent(client.tick(now)).xid();
    for _ in 0..8 {
        waits.push(client.due().duration_since(now).as_secs_f64());
        now = client.due();
        let again = sent(client.tick(now));
        assert_eq!(again.xid(), first, "RFC 8415, section 16.1: one id an exchange");
        let hundredths = now.duration_since(start).as_millis() / 10;
        let elapsed = u16::try_from(hundredths).unwrap();
        assert_eq!(again.opts().get(OptionCode::ElapsedTime), Some(&DhcpOption::ElapsedTime(elapsed)));
    }
    for (wait, least) in waits.iter().zip([0.4, 0.8, 1.6, 3.2, 6.4, 8.0, 8.0, 8.0]) {
        assert!((least..=least * 1.125).contains(wait), "{waits:?}");
    }
    assert!(matches!(client.tick(now), Reaction6::Nothing), "nothing is due");
    assert_eq!(
        client.story(now),
        format!("no answer to 9 DHCPv6 solicits in {:.0} s", (now - start).as_secs_f64())
    );
    client.hurry(now);
    assert_eq!(kind(client.tick(now)), MessageType::Solicit);
    assert!(client.due() - now < seconds(1), "the wait starts over");
}

#[test]
fn four_messages_make_a_lease() {
    let (mut client, now) = stateful();
    let solicit = sent(client.tick(now));
    let advertise = packet(ADVERTISE, &client, SERVER, &[granted(), option(7, &[0])]);
    let request = sent(client.receive(now, ROUTER, &advertise));
    assert_eq!((request.msg_type(), named(&request)), (MessageType::Request, vec![OURS]));
    assert_eq!(request.opts().get(OptionCode::ServerId), Some(&DhcpOption::ServerId(SERVER.to_vec())));
    assert!(request.opts().get(OptionCode::RapidCommit).is_none());
    assert_ne!(request.xid(), solicit.xid());
    // Another server's answer, and one to the Solicit, are not for this exchange.
    let reply = packet(REPLY, &client, b"\0\x03\0\x01other", &[granted()]);
    assert!(matches!(client.receive(now, OTHER, &reply), Reaction6::Nothing));
    assert!(matches!(client.receive(now, ROUTER, &advertise), Reaction6::Nothing));
    let told = [granted(), option(59, URL), option(23, &OURS.octets()), option(24, b"\x03lab\0")];
    let reply = packet(REPLY, &client, SERVER, &told);
    let Reaction6::Bound(lease) = client.receive(now, ROUTER, &reply) else { panic!() };
    assert_eq!(lease.boot_url.as_deref().map(str::as_bytes), Some(URL));
    assert_eq!((lease.server, &*lease.dns, &*lease.search), (ROUTER, &[OURS][..], &["lab".to_owned()][..]));
    assert_eq!(client.due(), now + seconds(1000));
    assert!(matches!(client.receive(now, ROUTER, &reply), Reaction6::Nothing), "a duplicate");
}

#[test]
fn a_reply_to_a_solicit_counts_only_with_rapid_commit() {
    let (mut client, now) = stateful();
    client.tick(now);
    let reply = packet(REPLY, &client, SERVER, &[granted()]);
    assert!(matches!(client.receive(now, ROUTER, &reply), Reaction6::Nothing));
    bound();
    let mut wishing = self::client(Need::Stateful, true, now);
    assert!(sent(wishing.tick(now)).opts().get(OptionCode::RapidCommit).is_none());
    let reply = packet(REPLY, &wishing, SERVER, &[granted(), option(14, b""), option(59, URL)]);
    assert!(matches!(wishing.receive(now, ROUTER, &reply), Reaction6::Nothing), "it was not asked for");
}

#[test]
fn a_boot_url_is_worth_a_short_wait() {
    let now = Instant::now();
    let with_url = |client: &Client6| packet(ADVERTISE, client, b"\0\x03url", &[granted(), option(59, URL)]);
    let plain = |client: &Client6, server: &[u8], preference| {
        packet(ADVERTISE, client, server, &[granted(), option(7, &[preference])])
    };
    let server = |request: &Decoded| match request.opts().get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(server)) => server.clone(),
        other => panic!("{other:?}"),
    };
    // The second has one.
    let mut client = self::client(Need::Stateful, true, now);
    client.tick(now);
    assert!(matches!(client.receive(now, ROUTER, &plain(&client, SERVER, 7)), Reaction6::Nothing));
    client.hurry(now);
    assert_eq!(client.due(), now + WINDOW);
    let request = sent(client.receive(now, OTHER, &with_url(&client)));
    assert_eq!(server(&request), b"\0\x03url");
    // None has one: the most preferred, of equals the first.
    let mut client = self::client(Need::Stateful, true, now);
    client.tick(now);
    let mut later = now;
    for (name, preference) in [(b"\0\x03\0a", 1), (b"\0\x03\0b", 9), (b"\0\x03\0c", 9), (b"\0\x03\0d", 2)] {
        assert!(matches!(
            client.receive(later, ROUTER, &plain(&client, name, preference)),
            Reaction6::Nothing
        ));
        later += Duration::from_millis(50);
    }
    assert_eq!(client.due(), now + WINDOW, "later ones do not prolong it");
    let request = sent(client.tick(now + WINDOW));
    assert_eq!(server(&request), b"\0\x03\0b");
    // Where the policy names authorities or keys.
    let mut client = self::client(Need::Stateful, true, now);
    client.https_only = true;
    client.tick(now);
    assert!(matches!(client.receive(now, ROUTER, &with_url(&client)), Reaction6::Nothing));
    // What is named is no provider: it is waited as if there were none.
    for useless in [&b"tftp://[2001:db8::1]/x"[..], b"http://[2001:db8::1]/EFI/BOOTX64.EFI"] {
        let mut client = self::client(Need::Stateful, true, now);
        client.tick(now);
        let advertise = packet(ADVERTISE, &client, SERVER, &[granted(), option(59, useless)]);
        assert!(matches!(client.receive(now, ROUTER, &advertise), Reaction6::Nothing));
        let request = sent(client.receive(now, OTHER, &with_url(&client)));
        assert_eq!(server(&request), b"\0\x03url");
    }
    // One that is to be taken at once, and a first one with a URL.
    let mut client = self::client(Need::Stateful, true, now);
    client.tick(now);
    assert_eq!(kind(client.receive(now, ROUTER, &plain(&client, SERVER, BEST))), MessageType::Request);
    let mut client = self::client(Need::Stateful, true, now);
    client.tick(now);
    assert_eq!(kind(client.receive(now, ROUTER, &with_url(&client))), MessageType::Request);
}

#[test]
fn what_is_not_for_us_is_not_heard() {
    let (mut client, now) = stateful();
    let early = packet(ADVERTISE, &client, SERVER, &[granted()]);
    assert!(matches!(client.receive(now, ROUTER, &early), Reaction6::Nothing), "nothing was asked yet");
    client.tick(now);
    let good = packet(ADVERTISE, &client, SERVER, &[granted()]);
    let mut other_xid = good.clone();
    other_xid[3] ^= 1;
    let mut other_client = good.clone();
    other_client[17] ^= 1;
    let no_client = [&good[..4], &good[18..]].concat();
    let no_server = packet(ADVERTISE, &client, b"", &[granted()]);
    let long_server = packet(ADVERTISE, &client, &[1; 131], &[granted()]);
    let foreign = option(3, &[[9; 12].as_slice(), &lease_of(OURS, 2000, 3000)].concat());
    let foreign_association = packet(ADVERTISE, &client, SERVER, &[foreign]);
    let mut kinds: Vec<Vec<u8>> = Vec::new();
    for kind in (0..=255).filter(|&kind| kind != ADVERTISE) {
        kinds.push([&[kind], &good[1..]].concat());
    }
    let bad = [other_xid, other_client, no_client, no_server, long_server, foreign_association];
    for packet in bad.iter().chain(&kinds).chain(&[Vec::new(), good[..3].to_vec(), good[..4].to_vec()]) {
        assert!(matches!(client.receive(now, ROUTER, packet), Reaction6::Nothing), "{packet:x?}");
    }
    assert_eq!(kind(client.receive(now, ROUTER, &good)), MessageType::Request);
}

#[test]
fn each_refusal_has_its_story() {
    for (code, story) in [
        (2, "DHCPv6 server fe80::1 has no address left \"no luck\""),
        (9, "DHCPv6 server fe80::1 has no configuration for this link \"no luck\""),
        (1, "DHCPv6 server fe80::1 refused (status 1) \"no luck\""),
        (999, "DHCPv6 server fe80::1 refused (status 999) \"no luck\""),
    ] {
        let (mut client, now) = stateful();
        client.tick(now);
        let advertise = packet(ADVERTISE, &client, SERVER, &[refused(code)]);
        assert!(matches!(client.receive(now, ROUTER, &advertise), Reaction6::Nothing));
        assert_eq!(client.story(now), format!("{story}, after 1 DHCPv6 solicits in 0 s"));
        let whole = packet(ADVERTISE, &client, SERVER, &[granted(), status(code, "no luck")]);
        assert!(matches!(client.receive(now, ROUTER, &whole), Reaction6::Nothing));
    }
    let (mut client, now) = stateful();
    client.tick(now);
    let forged = status(2, "x\n\x1b[2Jphaseboot: booted");
    let advertise = packet(ADVERTISE, &client, SERVER, &[association(0, 0, &[forged])]);
    client.receive(now, ROUTER, &advertise);
    assert!(!client.story(now).contains(['\n', '\x1b']));
    let empty = packet(ADVERTISE, &client, SERVER, &[association(0, 0, &[lease_of(ROUTER, 9, 9)])]);
    client.receive(now, ROUTER, &empty);
    assert!(client.story(now).starts_with("DHCPv6 answer from fe80::1 without a usable address, after"));
}

#[test]
fn a_refused_request_starts_over_ever_more_slowly() {
    let (mut client, mut now) = stateful();
    let mut pauses = Vec::new();
    for code in [4, 2, 1, 4] {
        assert_eq!(kind(client.tick(now)), MessageType::Solicit);
        let advertise = packet(ADVERTISE, &client, SERVER, &[granted()]);
        assert_eq!(kind(client.receive(now, ROUTER, &advertise)), MessageType::Request);
        let reply = packet(REPLY, &client, SERVER, &[refused(code)]);
        assert!(matches!(client.receive(now, ROUTER, &reply), Reaction6::Nothing));
        pauses.push((client.due() - now).as_millis());
        now = client.due();
    }
    assert!(pauses[0] == 0 && pauses[1] >= 400 && pauses[2] >= 800 && pauses[3] >= 1600, "{pauses:?}");
    assert!(
        client
            .story(now)
            .starts_with("DHCPv6 server fe80::1 says that these addresses are not for this link")
    );
}

#[test]
fn a_server_that_advertises_and_falls_silent_is_given_up() {
    let (mut client, mut now) = stateful();
    client.tick(now);
    let advertise = packet(ADVERTISE, &client, SERVER, &[granted()]);
    assert_eq!(kind(client.receive(now, ROUTER, &advertise)), MessageType::Request);
    let multicast = packet(REPLY, &client, SERVER, &[status(5, "")]);
    assert!(matches!(client.receive(now, ROUTER, &multicast), Reaction6::Nothing), "it is asked again");
    for _ in 1..MOST_REQUESTS {
        now = client.due();
        assert_eq!(kind(client.tick(now)), MessageType::Request);
    }
    now = client.due();
    assert_eq!(kind(client.tick(now)), MessageType::Solicit);
    assert!(
        client.story(now).starts_with("fe80::1 advertised, but no answer to 4 DHCPv6 requests, after 2 ")
    );
}

#[test]
fn a_server_may_ask_for_silence_within_bounds() {
    for (asked, most) in [(60, 60), (86400, 120), (59, 8), (86401, 8), (0, 8), (u32::MAX, 8)] {
        let (mut client, mut now) = stateful();
        client.tick(now);
        let refused = [refused(2), option(82, &u32::to_be_bytes(asked))];
        client.receive(now, ROUTER, &packet(ADVERTISE, &client, SERVER, &refused));
        let mut longest = Duration::ZERO;
        for _ in 0..12 {
            longest = longest.max(client.due() - now);
            now = client.due();
            client.tick(now);
        }
        let most = seconds(most);
        assert!(longest >= most && longest <= most + most / 8, "{asked}: {longest:?}");
    }
}
