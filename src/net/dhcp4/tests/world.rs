//! Against bytes of any kind, and against servers and a network of any kind.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    OffersOnly,
    Refuses,
    /// Answers for others, without addresses and with nonsense.
    Lies,
    /// Refuses every third request, extensions too.
    Fickle,
}

/// Messages under way, servers, and what these have granted.
struct World {
    chance: Random,
    loss: u32,
    duplication: u32,
    servers: Vec<Manner>,
    /// In seconds, of each lease.
    lease: u32,
    under_way: Vec<(Instant, Option<usize>, Vec<u8>)>,
    granted: Vec<(Ipv4Addr, Instant)>,
}

impl World {
    fn percent(&mut self, n: u32) -> bool {
        self.chance.next() % 100 < n
    }

    /// Sends to a server, or to the client: lost, late, twice.
    fn send(&mut self, now: Instant, to: Option<usize>, packet: &[u8]) {
        let copies = if self.percent(self.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.percent(self.loss) {
                let late = u64::from(self.chance.next() % 200);
                self.under_way.push((now + millis(late), to, packet.to_vec()));
            }
        }
    }

    fn broadcast_or_unicast(&mut self, now: Instant, message: &Outgoing) {
        for number in 0..self.servers.len() {
            if message.to.is_none_or(|to| to == id(number)) {
                self.send(now, Some(number), &message.payload);
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        self.under_way.iter().map(|(at, ..)| *at).min()
    }

    /// What a server makes of a message.
    fn serve(&mut self, now: Instant, number: usize, packet: &[u8]) {
        let message = sent(packet);
        let (own, own_id) = (address(number), id(number).octets());
        let kind = message.opts().msg_type().unwrap();
        let named = match message.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        };
        let wanted = match message.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => *address,
            _ => message.ciaddr(),
        };
        let for_me = named.map_or(wanted == own, |named| named == id(number));
        let third = self.chance.next().is_multiple_of(3);
        let (said, address): (u8, _) = match (self.servers[number], kind) {
            (Manner::Lies, _) => (2 + 3 * u8::from(third), Ipv4Addr::UNSPECIFIED),
            (_, MessageType::Discover) => (2, own),
            (_, MessageType::Request) if !for_me => return,
            (Manner::OffersOnly, _) => return,
            (Manner::Refuses, _) => (6, Ipv4Addr::UNSPECIFIED),
            (Manner::Fickle, _) if third => (6, Ipv4Addr::UNSPECIFIED),
            _ => (5, own),
        };
        let lease = self.lease.to_be_bytes();
        let mut options: Vec<(u8, &[u8])> = vec![MASK, (51, &lease), (54, &own_id)];
        let rapid = message.opts().contains(OptionCode::RapidCommit) && self.percent(20);
        let said = if rapid && said == 2 && self.servers[number] == Manner::Good { 5 } else { said };
        if rapid && said == 5 {
            options.push((80, &[]));
        }
        let kind = [said];
        options.push((53, &kind));
        if said == 5 {
            self.granted.push((address, now + Duration::from_secs(self.lease.into())));
        }
        let xid = message.xid() ^ u32::from(self.servers[number] == Manner::Lies && third);
        self.send(now, None, &reply(xid, address, &options));
    }
}

fn id(number: usize) -> Ipv4Addr {
    server(u8::try_from(number).unwrap() + 2)
}

fn address(number: usize) -> Ipv4Addr {
    server(u8::try_from(number).unwrap() + 100)
}

/// Runs a client for `length`; how long it was without a lease at first, and how often it lost one.
fn live(world: &mut World, wishes: Wishes, length: Duration) -> (Option<Duration>, u32) {
    let start = Instant::now();
    let mut client = Client::new(device(), wishes, world.chance.next().into(), start);
    let (mut now, mut held, mut first, mut losses, mut sent_at) = (start, None::<Ipv4Addr>, None, 0, vec![]);
    for _ in 0..20_000 {
        now = world.next().map_or(client.due(), |next| next.min(client.due())).max(now);
        if now > start + length {
            return (first, losses);
        }
        let arrived = world.under_way.iter().position(|(at, ..)| *at <= now);
        // The link has gone and come, or its switch has begun to forward.
        match world.chance.next() % 200 {
            0 => client.confirm(now),
            1 => client.hurry(now),
            _ => {}
        }
        let reaction = match arrived.map(|place| world.under_way.swap_remove(place)) {
            Some((_, Some(number), packet)) => {
                world.serve(now, number, &packet);
                continue;
            }
            Some((_, None, packet)) => client.receive(now, Ipv4Addr::new(10, 9, 9, 9), &packet),
            None => client.tick(now),
        };
        match reaction {
            Reaction::Nothing => {}
            Reaction::Send(message) => {
                let ciaddr = sent(&message.payload).ciaddr();
                let own = held.unwrap_or(Ipv4Addr::UNSPECIFIED);
                assert!(ciaddr == own || (ciaddr.is_unspecified() && message.to.is_none()));
                sent_at.push(now);
                world.broadcast_or_unicast(now, &message);
            }
            Reaction::Bound(lease) => {
                assert_eq!(held, None, "bound twice");
                first.get_or_insert(now - start);
                held = Some(lease.address);
            }
            Reaction::Renewed(lease) => assert_eq!(held, Some(lease.address)),
            Reaction::Lost(_) => {
                assert!(held.take().is_some(), "lost nothing");
                losses += 1;
            }
        }
        // What is held has been granted, and that has not ended.
        if let Some(address) = held {
            let granted = world.granted.iter().any(|&(granted, end)| granted == address && now <= end);
            assert!(granted, "{address} is used without right");
        }
        // Never more than a few messages in any second.
        let burst = sent_at.iter().rev().take_while(|&&at| now - at < Duration::from_secs(1)).count();
        assert!(burst <= 12, "{burst} messages in a second");
        assert!(!client.story(now).is_empty());
    }
    panic!("a busy loop");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn one_good_server_is_enough(
        seed: u64,
        (loss, duplication) in (0u32..30, 0u32..40),
        mut servers in proptest::collection::vec(
            proptest::sample::select(vec![
                Manner::Good, Manner::OffersOnly, Manner::Refuses, Manner::Lies, Manner::Fickle,
            ]),
            0..4,
        ),
        place: usize,
        boot_url: bool,
        remembered in proptest::option::of(100u8..104),
    ) {
        servers.insert(place % (servers.len() + 1), Manner::Good);
        let mut world = World {
            chance: Random(seed), loss, duplication, servers, lease: 120, under_way: vec![], granted: vec![],
        };
        let wishes = Wishes { boot_url, remembered: remembered.map(server), had_boot_url: seed.is_multiple_of(2), https_only: seed.is_multiple_of(3) };
        let (first, _) = live(&mut world, wishes, Duration::from_secs(900));
        prop_assert!(first.is_some_and(|first| first < Duration::from_secs(120)), "{first:?}");
    }

    #[test]
    fn a_good_server_on_a_good_link_keeps_its_client(seed: u64) {
        let servers = vec![Manner::Good];
        let chance = Random(seed);
        let mut world =
            World { chance, loss: 0, duplication: 0, servers, lease: 120, under_way: vec![], granted: vec![] };
        let (first, losses) = live(&mut world, Wishes::default(), Duration::from_secs(3600));
        prop_assert!(first.is_some_and(|first| first < Duration::from_secs(2)) && losses == 0);
        prop_assert!((55..200).contains(&world.granted.len()), "{}", world.granted.len());
    }

    #[test]
    fn a_lease_of_a_few_seconds_is_kept_too(seed: u64, lease in 2u32..16) {
        let servers = vec![Manner::Good];
        let chance = Random(seed);
        let mut world =
            World { chance, loss: 0, duplication: 0, servers, lease, under_way: vec![], granted: vec![] };
        let (first, losses) = live(&mut world, Wishes::default(), Duration::from_secs(240));
        prop_assert!(first.is_some() && losses == 0);
        prop_assert!(world.granted.len() < 1000 / usize::try_from(lease).unwrap(), "{}", world.granted.len());
    }

    #[test]
    fn without_a_server_there_is_no_lease(seed: u64, manner in proptest::sample::select(vec![
        Manner::OffersOnly, Manner::Refuses, Manner::Lies,
    ])) {
        let servers = vec![manner, manner];
        let chance = Random(seed);
        let mut world =
            World { chance, loss: 0, duplication: 10, servers, lease: 120, under_way: vec![], granted: vec![] };
        prop_assert_eq!(live(&mut world, Wishes::default(), Duration::from_secs(300)), (None, 0));
    }
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
    fn no_options_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 0u8..9,
        state in 0u8..4,
        boot_url: bool,
    ) {
        let mut now = Instant::now();
        let wishes = Wishes { boot_url, remembered: (state == 3).then_some(OURS), had_boot_url: true, https_only: false };
        let mut client = Client::new(device(), wishes, 1, now);
        ticked(&mut client, now);
        if state == 1 || state == 2 {
            offer(&mut client, now, 2, &[MASK, URL]);
        }
        if state == 2 {
            ack(&mut client, now, 2, &[MASK, (51, &[0, 0, 1, 0])]);
            now = client.due();
            client.tick(now);
        }
        let mut packet = reply(client.xid, OURS, &[(53, &[kind])]);
        packet.pop();
        packet.extend(tail);
        if let Reaction::Bound(lease) | Reaction::Renewed(lease) = client.receive(now, SERVER, &packet) {
            prop_assert!((1..=32).contains(&lease.prefix));
            prop_assert!(lease.routes.len() <= 64 && lease.search.len() <= 16);
            prop_assert!(client.due() > now);
        }
        let _ = client.story(now);
        let _ = client.tick(client.due());
        let _ = client.release();
    }
}
