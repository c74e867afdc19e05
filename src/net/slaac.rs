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
