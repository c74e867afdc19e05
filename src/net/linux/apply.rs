//! A lease on its link, set and taken away: MTU, address and routes through rtnetlink(7).

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressHeader, AddressScope};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteProtocol, RouteScope, RouteType};
use rustix::io::Errno;

use super::netlink::{Incoming, Netlink};
use super::{Error, set_link};
use crate::net::files::Last;
use crate::net::lease::{Lease, Route};
use crate::net::link::Link;

/// Sets what the lease says. Setting it once more changes nothing. Only an address that cannot be
/// set is an error: with it alone, a server in the same network is reached.
pub(super) fn lease(requests: &mut Netlink, link: &Link, lease: &Lease) -> Result<(), Error> {
    if let Some(mtu) = lease.mtu
        && link.mtu != Some(u32::from(mtu))
        && let Err(errno) = set_mtu(requests, link, u32::from(mtu))
    {
        log::warn!("{}: cannot set MTU {mtu}: {errno}", lease.interface);
    }
    add_address(requests, link, lease).map_err(|errno| Error::Kernel {
        what: format!("set address {}/{} on {}", lease.address, lease.prefix, lease.interface),
        errno,
    })?;
    for route in &lease.routes {
        if let Err(errno) = add_route(requests, link, lease, *route) {
            log::warn!("{}: cannot set route {}: {errno}", lease.interface, describe(route));
        }
    }
    log::info!("{}", summary(lease));
    Ok(())
}

/// Takes away what the lease `last` has set on its link. What is gone already is no fault; what
/// cannot be taken away is a warning, since the next lease may do all the same.
pub(super) fn withdraw(requests: &mut Netlink, link: &Link, last: &Last) {
    log::debug!("{}: the lease {}/{} is given up", last.interface, last.address, last.prefix);
    let report = |what: &str, result: Result<(), Errno>| match result {
        Ok(()) | Err(Errno::ADDRNOTAVAIL | Errno::SRCH | Errno::NODEV) => {}
        Err(errno) => log::warn!("{}: cannot remove {what} of the last lease: {errno}", last.interface),
    };
    report("the routes", remove_routes(requests, link));
    let (header, attributes) = address(link, last.address, last.prefix);
    report("the address", requests.change(libc::RTM_DELADDR, 0, &header, &attributes));
    if let (Some(before), Some(set)) = (last.mtu_before, last.mtu)
        && link.mtu == Some(u32::from(set))
        && before != u32::from(set)
    {
        report("the MTU", set_mtu(requests, link, before));
    }
}

fn set_mtu(requests: &mut Netlink, link: &Link, mtu: u32) -> Result<(), Errno> {
    set_link(requests, link, LinkFlags::empty(), &[attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())])
}

fn add_address(requests: &mut Netlink, link: &Link, lease: &Lease) -> Result<(), Errno> {
    let (header, mut attributes) = address(link, lease.address, lease.prefix);
    if lease.prefix < 31 {
        let broadcast = Ipv4Addr::from(u32::from(lease.address) | host_bits(lease.prefix));
        attributes.push(attribute(libc::IFA_BROADCAST, &broadcast.octets()));
    }
    requests.change(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
}

fn address(link: &Link, address: Ipv4Addr, prefix: u8) -> (AddressHeader, Vec<DefaultNla>) {
    let header = AddressHeader {
        family: AddressFamily::Inet,
        prefix_len: prefix,
        scope: AddressScope::Universe,
        index: link.index,
        ..AddressHeader::default()
    };
    let own = address.octets();
    (header, vec![attribute(libc::IFA_LOCAL, &own), attribute(libc::IFA_ADDRESS, &own)])
}

/// Removes every route on the link that a DHCP client has set. All are tried; the first failure is
/// returned.
fn remove_routes(requests: &mut Netlink, link: &Link) -> Result<(), Errno> {
    let header = RouteHeader { address_family: AddressFamily::Inet, ..RouteHeader::default() };
    let mut routes = Vec::new();
    let found = &mut |incoming: Incoming| routes.extend(leased_route(&incoming, link.index));
    requests.list(libc::RTM_GETROUTE, &header, found)?;
    routes
        .iter()
        .map(|(header, attributes)| requests.change(libc::RTM_DELROUTE, 0, header, attributes))
        .fold(Ok(()), Result::and)
}

/// A route of the main table on the device `index` with RTPROT_DHCP, as it came: given back to the
/// kernel, that names it, as `ip route flush` does.
fn leased_route(incoming: &Incoming, index: u32) -> Option<(RouteHeader, Vec<DefaultNla>)> {
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

fn add_route(requests: &mut Netlink, link: &Link, lease: &Lease, route: Route) -> Result<(), Errno> {
    let mut header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Dhcp,
        kind: RouteType::Unicast,
        scope: RouteScope::Link,
        ..RouteHeader::default()
    };
    let mut attributes = vec![
        attribute(libc::RTA_OIF, &link.index.to_ne_bytes()),
        attribute(libc::RTA_PREFSRC, &lease.address.octets()),
    ];
    if route.prefix > 0 {
        attributes.push(attribute(libc::RTA_DST, &route.destination.octets()));
    }
    if let Some(gateway) = route.gateway {
        header.scope = RouteScope::Universe;
        // Clouds give /32 leases: the router is on the link all the same.
        let differing = u32::from(gateway) ^ u32::from(lease.address);
        if differing & !host_bits(lease.prefix) != 0 {
            header.flags = RouteFlags::Onlink;
        }
        attributes.push(attribute(libc::RTA_GATEWAY, &gateway.octets()));
    }
    requests.change(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
}

fn host_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

fn attribute(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

/// `eth0: lease 10.0.2.15/24 from 10.0.2.2, gateway 10.0.2.2, dns 10.0.2.3, 86400 s`
fn summary(lease: &Lease) -> String {
    let mut line = format!("{}: lease {}/{}", lease.interface, lease.address, lease.prefix);
    if let Some(server) = lease.server {
        let _ = write!(line, " from {server}");
    }
    for route in &lease.routes {
        let _ = match route {
            Route { prefix: 0, gateway: Some(gateway), .. } => write!(line, ", gateway {gateway}"),
            other => write!(line, ", route {}", describe(other)),
        };
    }
    for server in &lease.dns {
        let _ = write!(line, ", dns {server}");
    }
    if let Some(mtu) = lease.mtu {
        let _ = write!(line, ", mtu {mtu}");
    }
    let _ = match lease.lease_seconds {
        Some(seconds) => write!(line, ", {seconds} s"),
        None => write!(line, ", without end"),
    };
    line
}

fn describe(route: &Route) -> String {
    let to = format!("{}/{}", route.destination, route.prefix);
    match route.gateway {
        Some(gateway) => format!("{to} via {gateway}"),
        None => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::lease::Origin;

    fn lease() -> Lease {
        let (address, server) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2));
        Lease {
            server: Some(server),
            routes: vec![Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(server) }],
            lease_seconds: Some(86_400),
            ..Lease::bare("eth0", [0x52, 0x54, 0, 0x12, 0x34, 0x56], Origin::Dhcp, address, 24)
        }
    }

    #[test]
    fn a_summary_is_one_line() {
        let lease = Lease { dns: vec![Ipv4Addr::new(10, 0, 2, 3)], ..lease() };
        assert_eq!(
            summary(&lease),
            "eth0: lease 10.0.2.15/24 from 10.0.2.2, gateway 10.0.2.2, dns 10.0.2.3, 86400 s"
        );
    }
}
