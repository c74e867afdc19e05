//! The way of lookups while several links are up: libc's resolver is bound to none of them, so host routes
//! lead to the servers of the link whose turn it is.

use std::net::IpAddr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::apply::{RouteTo, add_route, remove_route, same_network};
use super::netlink::Netlink;
use crate::net::uplink::Uplink;

/// Routes that were set for the lookups of one link.
#[derive(Debug)]
pub(in crate::net) struct Ways {
    index: u32,
    routes: Vec<RouteTo>,
}

impl Ways {
    /// Leads to the first `most` servers of the link, over it. A failure is no fault: with one link up the
    /// way is right without.
    pub(in crate::net) fn set(uplink: &Uplink, most: usize) -> Result<Self, Errno> {
        let index = index(&uplink.interface)?;
        let routes = routes(uplink, most);
        let mut requests = Netlink::connect()?;
        for route in &routes {
            if let Err(errno) = add_route(&mut requests, index, route) {
                log::debug!("{}: no way to {route}: {errno}", uplink.interface);
            }
        }
        Ok(Self { index, routes })
    }

    pub(in crate::net) fn remove(self) {
        let Ok(mut requests) = Netlink::connect() else { return };
        for route in &self.routes {
            if let Err(errno) = remove_route(&mut requests, self.index, route) {
                log::debug!("the way to {route} stays: {errno}");
            }
        }
    }
}

/// What the device of this number is called.
pub(super) fn name(index: u32) -> Result<String, Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    netdevice::index_to_name(&socket, index)
}

fn index(interface: &str) -> Result<u32, Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    netdevice::name_to_index(&socket, interface)
}

fn routes(uplink: &Uplink, most: usize) -> Vec<RouteTo> {
    uplink.dns.iter().take(most).filter_map(|&server| route(uplink, server)).collect()
}

/// None where the server's address names the link, or no address of its family is known.
fn route(uplink: &Uplink, server: IpAddr) -> Option<RouteTo> {
    let to = |prefix, gateway, onlink, source| {
        // Before those that the links have set.
        Some(RouteTo { destination: server, prefix, gateway, onlink, source, metric: 1 })
    };
    match server {
        IpAddr::V4(_) => {
            let lease = uplink.ipv4.as_ref()?;
            let own = IpAddr::from(lease.address);
            let near = |address| same_network(address, own, lease.prefix);
            let covering = lease
                .routes
                .iter()
                .filter(|route| same_network(server, route.destination.into(), route.prefix));
            let gateway = covering.max_by_key(|route| route.prefix).and_then(|route| route.gateway);
            match gateway.map(IpAddr::from) {
                Some(gateway) if !near(server) => to(32, Some(gateway), !near(gateway), Some(own)),
                _ => to(32, None, false, Some(own)),
            }
        }
        IpAddr::V6(address) => {
            let side = uplink.ipv6.as_ref()?;
            let near = side
                .addresses
                .iter()
                .any(|own| own.prefix < 128 && same_network(server, own.address.into(), own.prefix));
            if address.is_unicast_link_local() {
                return None;
            }
            if near { to(128, None, false, None) } else { to(128, Some(side.router?.into()), false, None) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::lease::{Lease, Origin, Route};
    use crate::net::uplink::{Address6, Ipv6, Origin6};

    #[test]
    fn a_way_leads_over_the_link_whose_turn_it_is() {
        let mut lease = Lease::bare("eth0", [2; 6], Origin::Dhcp, [10, 0, 2, 15].into(), 24);
        let net = |destination: [u8; 4], prefix, gateway: [u8; 4]| Route {
            destination: destination.into(),
            prefix,
            gateway: Some(gateway.into()),
        };
        lease.routes = vec![net([0; 4], 0, [10, 0, 2, 2]), net([192, 0, 2, 0], 24, [203, 0, 113, 1])];
        let own = Address6 { address: "2001:db8::5".parse().unwrap(), prefix: 64, origin: Origin6::Slaac };
        let ipv6 = Ipv6 { addresses: vec![own], router: "fe80::1".parse().ok(), ..Ipv6::default() };
        let uplink = Uplink { ipv4: Some(lease), ipv6: Some(ipv6), ..Uplink::default() };
        for (server, way) in [
            ("10.0.2.3", Some("10.0.2.3/32")),
            ("198.51.100.1", Some("198.51.100.1/32 via 10.0.2.2")),
            ("192.0.2.53", Some("192.0.2.53/32 via 203.0.113.1")),
            ("2001:db8::53", Some("2001:db8::53/128")),
            ("2001:db8:1::53", Some("2001:db8:1::53/128 via fe80::1")),
            ("fe80::53", None),
        ] {
            let found = route(&uplink, server.parse().unwrap());
            assert_eq!(found.map(|route| route.to_string()).as_deref(), way, "{server}");
        }
        assert!(route(&uplink, "192.0.2.53".parse().unwrap()).unwrap().onlink);
        assert!(route(&Uplink::default(), "192.0.2.53".parse().unwrap()).is_none());
    }
}
