//! What is known of IPv6 on one link: gathered from the kernel's events and from DHCPv6. Pure.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::address::{DefaultRoute, LinkAddress};
use super::lease6::{FOR_EVER, Lease6, MOST_DOMAINS, MOST_SERVERS};
use super::ra::{RouterFlags, RouterNames};
use super::uplink::{Address6, Ipv6, Origin6};

/// The kernel forms at most 16 from advertisements (max_addresses in Documentation/networking/ip-sysctl.rst).
const MOST_ADDRESSES: usize = 32;
const MOST_ROUTERS: usize = 16;

/// The IPv6 side of a link, as it is now.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    /// Addresses that the command line gives.
    given: Vec<Ipv6Addr>,
    addresses: Vec<LinkAddress>,
    routers: Vec<DefaultRoute>,
    pub(super) flags: RouterFlags,
    dns: Vec<Told<Ipv6Addr>>,
    search: Vec<Told<String>>,
}

/// What a router has told.
#[derive(Clone, Debug)]
struct Told<T> {
    what: T,
    router: Option<Ipv6Addr>,
    /// None: for ever.
    until: Option<Instant>,
}

impl Gathered {
    /// Nothing yet. `given` are addresses that are set as they are.
    pub(super) fn new(given: Vec<Ipv6Addr>) -> Self {
        Self { given, ..Self::default() }
    }

    /// RTM_NEWADDR (`there`) or RTM_DELADDR on this link.
    pub(super) fn address(&mut self, address: LinkAddress, there: bool) {
        let place = self.addresses.iter().position(|known| known.address == address.address);
        update(&mut self.addresses, place, address, there, MOST_ADDRESSES);
    }

    /// RTM_NEWROUTE (`there`) or RTM_DELROUTE on this link.
    pub(super) fn route(&mut self, route: DefaultRoute, there: bool) {
        let same = |known: &DefaultRoute| {
            (known.gateway, known.metric, known.advertised) == (route.gateway, route.metric, route.advertised)
        };
        let place = self.routers.iter().position(same);
        update(&mut self.routers, place, route, there, MOST_ROUTERS);
    }

    /// RTM_NEWNDUSEROPT on this link.
    pub(super) fn names(&mut self, names: RouterNames, now: Instant) {
        let router = names.router;
        for (what, lifetime) in names.dns {
            tell(&mut self.dns, what, router, lifetime, now, MOST_SERVERS);
        }
        for (what, lifetime) in names.search {
            tell(&mut self.search, what, router, lifetime, now, MOST_DOMAINS);
        }
    }

    /// Whether packets can leave this link: an address beyond it, and a router.
    pub(super) fn is_usable(&self) -> bool {
        !self.routers.is_empty() && self.ready().next().is_some()
    }

    /// Whether packets reach others on this link at least: an address of a network that a router says is here. That
    /// it leads nowhere else says nothing of that: RFC 4861, section 4.2.
    pub(super) fn is_near(&self) -> bool {
        self.is_usable() || self.flags.received && self.ready().any(|known| known.prefix < 128)
    }

    /// Whether this address is ready, as one that DHCPv6 granted and the kernel was asked to set.
    pub(super) fn has(&self, address: Ipv6Addr) -> bool {
        self.ready().any(|known| known.address == address)
    }

    /// Addresses that somebody else turned out to have.
    pub(super) fn duplicates(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.addresses.iter().filter(|known| known.duplicate).map(|known| known.address)
    }

    /// All of it, for the rest of the boot.
    pub(super) fn ipv6(&self, lease: Option<&Lease6>, now: Instant) -> Ipv6 {
        let leased = lease.map(|lease| lease.addresses.as_slice()).unwrap_or_default();
        let origin = |address: Ipv6Addr| {
            if leased.iter().any(|(leased, ..)| *leased == address) {
                Origin6::Dhcp
            } else if self.given.contains(&address) {
                Origin6::Static
            } else {
                Origin6::Slaac
            }
        };
        let mut ready: Vec<_> = self.ready().collect();
        ready.sort_by_key(|known| known.deprecated);
        let address = |known: &LinkAddress| Address6 {
            address: known.address,
            prefix: known.prefix,
            origin: origin(known.address),
        };
        let mut ipv6 = Ipv6 {
            addresses: ready.into_iter().map(address).collect(),
            router: self.routers.iter().min_by_key(|route| route.metric).map(|route| route.gateway),
            dns: current(&self.dns, now),
            search: current(&self.search, now),
            ..Ipv6::default()
        };
        if let Some(lease) = lease {
            append(&mut ipv6.dns, &lease.dns);
            append(&mut ipv6.search, &lease.search);
            ipv6.ntp.clone_from(&lease.ntp);
            ipv6.server = Some(lease.server);
            ipv6.boot_url.clone_from(&lease.boot_url);
        }
        ipv6
    }

    fn ready(&self) -> impl Iterator<Item = &LinkAddress> {
        self.addresses.iter().filter(|known| known.global && known.is_ready())
    }
}

fn update<T>(list: &mut Vec<T>, place: Option<usize>, new: T, there: bool, most: usize) {
    match place {
        Some(place) if !there => drop(list.remove(place)),
        Some(place) => {
            if let Some(known) = list.get_mut(place) {
                *known = new;
            }
        }
        None if there && list.len() < most => list.push(new),
        None => {}
    }
}

/// Each router speaks for itself: one that takes a name back does not take it from another.
fn tell<T: PartialEq>(
    list: &mut Vec<Told<T>>,
    what: T,
    router: Option<Ipv6Addr>,
    lifetime: u32,
    now: Instant,
    most: usize,
) {
    let until = (lifetime != FOR_EVER).then(|| now + Duration::from_secs(lifetime.into()));
    list.retain(|told| told.until.is_none_or(|until| until > now));
    let place = list.iter().position(|told| told.what == what && told.router == router);
    update(list, place, Told { what, router, until }, lifetime > 0, most);
}

fn current<T: Clone + PartialEq>(list: &[Told<T>], now: Instant) -> Vec<T> {
    let mut found = Vec::new();
    for told in list.iter().filter(|told| told.until.is_none_or(|until| until > now)) {
        append(&mut found, std::slice::from_ref(&told.what));
    }
    found
}

fn append<T: Clone + PartialEq>(list: &mut Vec<T>, more: &[T]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address::tests::{default_route, global};
    use proptest::prelude::*;

    const LEASED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x100);
    const GIVEN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x200);
    const SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x53);

    fn lease() -> Lease6 {
        Lease6 {
            addresses: vec![(LEASED, 60, 120)],
            dns: vec![SERVER, LEASED],
            search: vec!["lab".into(), "lease".into()],
            ntp: vec![SERVER],
            boot_url: Some("http://[2001:db8:7::1]/".into()),
            boot_params: Vec::new(),
            server: default_route().gateway,
            t1: 30,
            t2: 48,
        }
    }

    fn names(router: u16, dns: &[(Ipv6Addr, u32)], search: &[(&str, u32)]) -> RouterNames {
        let search = search.iter().map(|&(name, lifetime)| (name.to_owned(), lifetime)).collect();
        let router = Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, router));
        RouterNames { index: 2, router, dns: dns.to_vec(), search }
    }

    #[test]
    fn an_address_and_a_router_make_a_link_usable() {
        let mut link = Gathered::new(Vec::new());
        link.route(default_route(), true);
        assert!(!link.is_usable() && !link.flags.received, "nothing was heard yet");
        let local = LinkAddress { global: false, ..global() };
        link.address(local, true);
        assert!(!link.is_usable(), "link-local");
        link.address(LinkAddress { tentative: true, ..global() }, true);
        assert!(!link.is_usable(), "tentative");
        link.address(LinkAddress { tentative: true, optimistic: true, ..global() }, true);
        assert!(link.is_usable());
        link.address(LinkAddress { duplicate: true, ..global() }, true);
        assert!(!link.is_usable());
        assert_eq!(link.duplicates().collect::<Vec<_>>(), [global().address]);
        link.address(global(), true);
        assert!(link.is_usable() && link.has(global().address));
        link.route(default_route(), false);
        assert!(
            !link.is_usable() && !link.is_near(),
            "the router has gone, and nobody says what is on the link"
        );
        link.flags.received = true;
        assert!(!link.is_usable() && link.is_near(), "one that leads nowhere else");
        link.address(LinkAddress { prefix: 128, ..global() }, true);
        assert!(!link.is_near(), "what DHCPv6 grants says nothing of others");
        link.address(LinkAddress { duplicate: true, ..global() }, true);
        assert!(!link.is_near());
        link.address(global(), true);
        link.route(default_route(), true);
        link.address(global(), false);
        assert!(!link.is_usable(), "the address has gone");
    }

    #[test]
    fn all_that_is_known_is_told() {
        let now = Instant::now();
        let mut link = Gathered::new(vec![GIVEN]);
        link.address(LinkAddress { deprecated: true, ..global() }, true);
        link.address(LinkAddress { address: LEASED, prefix: 128, ..global() }, true);
        link.address(LinkAddress { address: GIVEN, ..global() }, true);
        let gateway = LEASED;
        link.route(DefaultRoute { gateway, metric: 2000, ..default_route() }, true);
        link.route(default_route(), true);
        link.names(names(1, &[(SERVER, 600)], &[("ra", 600), ("lab", 600)]), now);
        let ipv6 = link.ipv6(Some(&lease()), now);
        let origins: Vec<_> = ipv6.addresses.iter().map(|known| (known.address, known.origin)).collect();
        let expected =
            [(LEASED, Origin6::Dhcp), (GIVEN, Origin6::Static), (global().address, Origin6::Slaac)];
        assert_eq!(origins, expected, "what is deprecated comes last");
        assert_eq!(ipv6.router, Some(default_route().gateway), "the smallest metric");
        assert_eq!(
            (&*ipv6.dns, &*ipv6.search),
            (&[SERVER, LEASED][..], &["ra", "lab", "lease"].map(String::from)[..])
        );
        assert_eq!(
            (ipv6.ntp, ipv6.server, ipv6.boot_url),
            (vec![SERVER], Some(default_route().gateway), lease().boot_url)
        );
        assert_eq!(link.ipv6(None, now).boot_url, None);
    }

    #[test]
    fn names_end_with_their_lifetime_and_each_router_speaks_for_itself() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut link = Gathered::default();
        link.names(names(1, &[(SERVER, 10), (LEASED, FOR_EVER)], &[("lab", 10)]), now);
        assert_eq!(link.ipv6(None, after(9)).dns, [SERVER, LEASED]);
        assert_eq!(link.ipv6(None, after(10)).dns, [LEASED]);
        assert_eq!(link.ipv6(None, after(10)).search, Vec::<String>::new());
        link.names(names(2, &[(SERVER, 100)], &[]), now);
        link.names(names(1, &[(SERVER, 0), (LEASED, 0)], &[]), after(5));
        assert_eq!(link.ipv6(None, after(6)).dns, [SERVER], "the second router still has it");
        link.names(names(2, &[(SERVER, 200)], &[]), after(7));
        assert_eq!(link.ipv6(None, after(150)).dns, [SERVER], "told again");
    }

    proptest! {
        #[test]
        fn it_is_bounded(numbers in proptest::collection::vec(any::<u16>(), 0..200)) {
            let now = Instant::now();
            let mut link = Gathered::default();
            for number in numbers {
                let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number);
                link.address(LinkAddress { address, ..global() }, number % 3 > 0);
                link.route(DefaultRoute { gateway: address, ..default_route() }, number % 3 > 0);
                link.names(names(number, &[(address, number.into())], &[("lab", number.into())]), now);
            }
            let ipv6 = link.ipv6(None, now);
            prop_assert!(ipv6.addresses.len() <= 32 && ipv6.dns.len() <= 8 && ipv6.search.len() <= 1);
        }
    }
}
