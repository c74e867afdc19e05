//! Addresses and routes of both families, as rtnetlink(7) takes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressHeader, AddressScope};
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteProtocol, RouteScope, RouteType};
use rustix::io::Errno;

use super::netlink::{Incoming, Netlink, attribute};
use crate::net::address::LinkAddress;

/// IFA_RT_PRIORITY of linux/if_addr.h: the metric of the route to the address's own network.
const IFA_RT_PRIORITY: u16 = 9;

/// An address of this machine's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) address: IpAddr,
    /// In bits.
    pub(super) prefix: u8,
    /// The other end, where there is only one.
    pub(super) peer: Option<IpAddr>,
    pub(super) broadcast: Option<Ipv4Addr>,
    /// Seconds: preferred, valid. None is for ever.
    pub(super) lifetimes: Option<(u32, u32)>,
    /// Nothing else is on the link because of it: RFC 8415, section 18.2.10.1.
    pub(super) alone: bool,
    pub(super) metric: u32,
}

/// A route to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RouteTo {
    pub(super) destination: IpAddr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<IpAddr>,
    /// The gateway is on the link, whatever the prefixes say.
    pub(super) onlink: bool,
    pub(super) source: Option<IpAddr>,
    pub(super) metric: u32,
}

impl fmt::Display for RouteTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

/// Whether both lie in one network of `prefix` bits.
pub(super) fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(u32::from(one) ^ u32::from(other)) << 96,
        (IpAddr::V6(one), IpAddr::V6(other)) => u128::from(one) ^ u128::from(other),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    differing.leading_zeros() >= u32::from(prefix)
}

/// Setting it once more changes nothing.
pub(super) fn add_address(requests: &mut Netlink, index: u32, address: &Address) -> Result<(), Errno> {
    let (header, mut attributes) = named(index, address.address, address.prefix, address.peer);
    if let Some(broadcast) = address.broadcast {
        attributes.push(attribute(libc::IFA_BROADCAST, &broadcast.octets()));
    }
    if let Some((preferred, valid)) = address.lifetimes {
        // struct ifa_cacheinfo: preferred, valid, and two times that the kernel fills in.
        let mut info = Vec::with_capacity(16);
        for field in [preferred.min(valid), valid, 0, 0] {
            info.extend_from_slice(&field.to_ne_bytes());
        }
        attributes.push(attribute(libc::IFA_CACHEINFO, &info));
    }
    if address.alone {
        attributes.push(attribute(libc::IFA_FLAGS, &libc::IFA_F_NOPREFIXROUTE.to_ne_bytes()));
    }
    attributes.push(attribute(IFA_RT_PRIORITY, &address.metric.to_ne_bytes()));
    requests.change(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
}

pub(super) fn remove_address(
    requests: &mut Netlink,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<(), Errno> {
    let (header, mut attributes) = named(index, address, prefix, None);
    // Without the peer's address any peer matches.
    attributes.truncate(1);
    requests.change(libc::RTM_DELADDR, 0, &header, &attributes)
}

/// The address itself is the first attribute.
fn named(index: u32, address: IpAddr, prefix: u8, peer: Option<IpAddr>) -> (AddressHeader, Vec<DefaultNla>) {
    let header = AddressHeader {
        family: family(address),
        prefix_len: prefix,
        scope: AddressScope::Universe,
        index,
        ..AddressHeader::default()
    };
    let own = attribute(libc::IFA_LOCAL, &octets(address));
    (header, vec![own, attribute(libc::IFA_ADDRESS, &octets(peer.unwrap_or(address)))])
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn add_route(requests: &mut Netlink, index: u32, route: &RouteTo) -> Result<(), Errno> {
    let (header, attributes) = message(index, route);
    requests.change(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
}

pub(super) fn remove_route(requests: &mut Netlink, index: u32, route: &RouteTo) -> Result<(), Errno> {
    let (header, attributes) = message(index, route);
    requests.change(libc::RTM_DELROUTE, 0, &header, &attributes)
}

fn message(index: u32, route: &RouteTo) -> (RouteHeader, Vec<DefaultNla>) {
    let mut header = RouteHeader {
        address_family: family(route.destination),
        destination_prefix_length: route.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Dhcp,
        kind: RouteType::Unicast,
        scope: RouteScope::Link,
        ..RouteHeader::default()
    };
    let mut attributes = vec![
        attribute(libc::RTA_OIF, &index.to_ne_bytes()),
        attribute(libc::RTA_PRIORITY, &route.metric.to_ne_bytes()),
    ];
    if let Some(source) = route.source {
        attributes.push(attribute(libc::RTA_PREFSRC, &octets(source)));
    }
    if route.prefix > 0 {
        attributes.push(attribute(libc::RTA_DST, &octets(route.destination)));
    }
    if let Some(gateway) = route.gateway {
        header.scope = RouteScope::Universe;
        if route.onlink {
            header.flags = RouteFlags::Onlink;
        }
        attributes.push(attribute(libc::RTA_GATEWAY, &octets(gateway)));
    }
    (header, attributes)
}

/// Removes the routes on the device that a DHCP client has set, but not `kept`. All are tried; the
/// first failure is returned.
pub(super) fn remove_routes(
    requests: &mut Netlink,
    index: u32,
    ipv6: bool,
    kept: &[RouteTo],
) -> Result<(), Errno> {
    let address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let header = RouteHeader { address_family, ..RouteHeader::default() };
    let mut routes = Vec::new();
    let found = &mut |incoming: Incoming| routes.extend(ours(&incoming, index));
    requests.list(libc::RTM_GETROUTE, &header, found)?;
    routes
        .iter()
        .filter(|(header, attributes)| !kept.iter().any(|route| is(route, header, attributes)))
        .map(|(header, attributes)| requests.change(libc::RTM_DELROUTE, 0, header, attributes))
        .fold(Ok(()), Result::and)
}

/// Removes what the kernel has made of router advertisements on the device `index`: `table` is
/// /proc/net/ipv6_route, which tells them from what a program has set. All are tried; the first failure is
/// returned.
pub(super) fn remove_advertised(
    requests: &mut Netlink,
    index: u32,
    name: &str,
    table: &str,
) -> Result<(), Errno> {
    let header = AddressHeader { family: AddressFamily::Inet6, ..AddressHeader::default() };
    let mut addresses = Vec::new();
    let found = &mut |incoming: Incoming| addresses.extend(LinkAddress::parse(&incoming.payload));
    let mut result = requests.list(libc::RTM_GETADDR, &header, found);
    for own in addresses.iter().filter(|own| own.index == index && own.advertised) {
        result = result.and(remove_address(requests, index, own.address.into(), own.prefix));
    }
    for route in table.lines().filter_map(|line| advertised(line, name)) {
        let (mut header, attributes) = message(index, &route);
        header.protocol = RouteProtocol::Unspec;
        result = result.and(requests.change(libc::RTM_DELROUTE, 0, &header, &attributes));
    }
    result
}

/// The route of this line if the kernel has it on the device `name` from an advertisement: RTF_ADDRCONF of
/// linux/ipv6_route.h.
fn advertised(line: &str, name: &str) -> Option<RouteTo> {
    let mut words = line.split_ascii_whitespace();
    let mut fields = [0; 9];
    for field in &mut fields {
        *field = u128::from_str_radix(words.next()?, 16).ok()?;
    }
    let [destination, prefix, _, _, gateway, metric, _, _, flags] = fields;
    (flags & 0x0004_0000 != 0 && words.next() == Some(name)).then_some(RouteTo {
        destination: Ipv6Addr::from(destination).into(),
        prefix: u8::try_from(prefix).ok()?,
        gateway: (gateway != 0).then_some(Ipv6Addr::from(gateway).into()),
        onlink: false,
        source: None,
        metric: u32::try_from(metric).ok()?,
    })
}

/// A route of the main table on the device `index` with RTPROT_DHCP, as it came: given back to the
/// kernel, that names it, as `ip route flush` does.
fn ours(incoming: &Incoming, index: u32) -> Option<(RouteHeader, Vec<DefaultNla>)> {
    let header = RouteHeader::parse(&incoming.payload).ok()?;
    let leased = header.protocol == RouteProtocol::Dhcp && header.table == RouteHeader::RT_TABLE_MAIN;
    if incoming.kind != libc::RTM_NEWROUTE || !leased {
        return None;
    }
    let attributes: Vec<DefaultNla> = NlasIterator::new(incoming.payload.get(header.buffer_len()..)?)
        .map_while(Result::ok)
        .map(|found| attribute(found.kind(), found.value()))
        .collect();
    attributes.contains(&attribute(libc::RTA_OIF, &index.to_ne_bytes())).then_some((header, attributes))
}

fn is(route: &RouteTo, header: &RouteHeader, attributes: &[DefaultNla]) -> bool {
    let has = |kind, address: Option<IpAddr>| {
        address.is_none_or(|address| attributes.contains(&attribute(kind, &octets(address))))
    };
    let destination = (route.prefix > 0).then_some(route.destination);
    header.destination_prefix_length == route.prefix
        && has(libc::RTA_DST, destination)
        && has(libc::RTA_GATEWAY, route.gateway)
        && has(libc::RTA_PREFSRC, route.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_own_routes_are_told_from_others() {
        let told = |line: &str| advertised(line, "eth0").map(|route| (route.to_string(), route.metric));
        let zero = "00000000000000000000000000000000";
        let near = format!("fd990000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000");
        assert_eq!(told(&format!("{near} 004c0001     eth0")), Some(("fd99::/64".to_owned(), 256)));
        let gateway = "fe80000000000000b8d910fffe84c984";
        let default = format!("{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00450003");
        let said = ("::/0 via fe80::b8d9:10ff:fe84:c984".to_owned(), 1024);
        assert_eq!(told(&format!("{default}     eth0")), Some(said));
        // Of another device, set by a program, cut short.
        for other in [
            format!("{default} eth01"),
            format!("{near} 00400001 eth0"),
            format!("{near} 004c0001"),
            format!("{near} zz eth0"),
            String::new(),
        ] {
            assert_eq!(told(&other), None, "{other}");
        }
    }

    #[test]
    fn networks_are_told_apart() {
        for (one, other, prefix, same) in [
            ("10.0.2.15", "10.0.2.2", 24, true),
            ("10.0.2.15", "10.0.3.2", 24, false),
            ("10.0.2.15", "10.0.2.2", 32, false),
            ("10.0.2.15", "10.0.2.15", 32, true),
            ("10.0.2.15", "192.0.2.1", 0, true),
            ("2001:db8::1", "2001:db8::ffff", 64, true),
            ("2001:db8::1", "2001:db8:0:1::1", 64, false),
            ("2001:db8::1", "10.0.2.2", 0, false),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(same_network(one, other, prefix), same, "{one} {other} {prefix}");
        }
    }
}
