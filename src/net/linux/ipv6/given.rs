//! The IPv6 addresses that the command line gives.

use std::net::{IpAddr, Ipv6Addr};

use rustix::io::Errno;

use super::{ipv6, refused};
use crate::config::network::StaticAddress;
use crate::net::linux::apply::{Address, RouteTo, same_network};
use crate::net::linux::runner::{Context, routes_given};

fn given(context: &Context<'_>) -> Vec<StaticAddress> {
    context.plan.addresses.iter().filter(|given| given.address.is_ipv6()).copied().collect()
}

pub(super) fn addresses(context: &Context<'_>) -> Vec<Ipv6Addr> {
    given(context).into_iter().filter_map(|given| ipv6(given.address)).collect()
}

/// Sets them, and the routes that go with them.
pub(super) fn set(context: &mut Context<'_>, trouble: &mut Option<String>) -> Result<(), Errno> {
    for given in given(context) {
        log::info!("{}: address {}/{} is given", context.link.name(), given.address, given.prefix);
        let address = Address {
            address: given.address,
            prefix: given.prefix,
            peer: given.peer,
            broadcast: None,
            lifetimes: None,
            alone: false,
            metric: context.metric,
        };
        if let Err(errno) = context.kernel.add_address(context.link, &address) {
            refused(context, given.address, errno, trouble)?;
        }
        let to = |destination: IpAddr, prefix: u8, gateway: Option<IpAddr>| RouteTo {
            destination,
            prefix,
            gateway,
            onlink: gateway.is_some_and(|gateway| {
                !ipv6(gateway).is_some_and(|gateway| gateway.is_unicast_link_local())
                    && !same_network(gateway, given.address, given.prefix)
            }),
            source: None,
            metric: context.metric,
        };
        let default = given.gateway.map(|gateway| to(Ipv6Addr::UNSPECIFIED.into(), 0, Some(gateway)));
        let others = routes_given(context, given.address, given.prefix)
            .map(|route| to(route.destination, route.prefix, route.gateway));
        let routes: Vec<RouteTo> = default.into_iter().chain(others).collect();
        for route in routes {
            context.kernel.add_route(context.link, &route);
        }
    }
    Ok(())
}

pub(super) fn remove(context: &mut Context<'_>) {
    for given in given(context) {
        context.kernel.remove_address(context.link, given.address, given.prefix);
    }
}
