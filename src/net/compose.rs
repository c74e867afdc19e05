//! An uplink from what the command line gives and what servers and routers tell. Pure.

use std::net::IpAddr;

use super::lease::Lease;
use super::uplink::{Ipv6, Uplink};
use crate::config::network::{Given, LinkPlan};

/// Whom names are asked of on a link: `nameserver=`, then `ip=`, then what was leased.
pub(super) fn name_servers(given: &Given, plan: &LinkPlan, leased: &[IpAddr]) -> Vec<IpAddr> {
    let leased = if given.ignore_leased_names { &[] } else { leased };
    unique(given.nameservers.iter().chain(&plan.dns).chain(leased).copied())
}

/// The uplink over `interface`, not complete and not bound.
pub(super) fn uplink(
    interface: &str,
    given: &Given,
    plan: &LinkPlan,
    (ipv4, ipv6): (Option<Lease>, Option<Ipv6>),
) -> Uplink {
    let (mut dns, mut ntp, mut search) = (Vec::new(), plan.ntp.clone(), Vec::new());
    if let Some(lease) = &ipv4 {
        dns.extend(lease.dns.iter().copied().map(IpAddr::from));
        ntp.extend(lease.ntp.iter().copied().map(IpAddr::from));
        search.extend(lease.domain.iter().chain(&lease.search).cloned());
    }
    if let Some(side) = &ipv6 {
        dns.extend(side.dns.iter().copied().map(IpAddr::from));
        ntp.extend(side.ntp.iter().copied().map(IpAddr::from));
        search.extend(side.search.iter().cloned());
    }
    if given.ignore_leased_names {
        search.clear();
    }
    Uplink {
        interface: interface.to_owned(),
        dns: name_servers(given, plan, &dns),
        search: unique(search.into_iter()),
        ntp: unique(ntp.into_iter()),
        // The link may have another name than when the lease was granted.
        ipv4: ipv4.map(|lease| Lease { interface: interface.to_owned(), ..lease }),
        ipv6,
        ..Uplink::default()
    }
}

fn unique<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::lease::Origin;

    #[test]
    fn what_is_given_comes_first_and_nothing_twice() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut given = Given { nameservers: vec![address("192.0.2.53")], ..Given::default() };
        let plan = LinkPlan { dns: vec![address("10.0.2.3")], ..LinkPlan::default() };
        let mut lease = Lease::bare("eth0", [2; 6], Origin::Dhcp, [10, 0, 2, 15].into(), 24);
        lease.dns = vec![[10, 0, 2, 3].into(), [10, 0, 2, 4].into()];
        lease.domain = Some("example.org".into());
        lease.search = vec!["lab.example.org".into(), "example.org".into()];
        let ipv6 = Ipv6 {
            dns: vec!["fe80::1".parse().unwrap()],
            search: vec!["example.net".into(), "example.org".into()],
            ..Ipv6::default()
        };
        let sides = (Some(lease), Some(ipv6));
        let found = uplink("eth0", &given, &plan, sides.clone());
        assert_eq!(found.dns, ["192.0.2.53", "10.0.2.3", "10.0.2.4", "fe80::1"].map(address));
        assert_eq!(found.search, ["example.org", "lab.example.org", "example.net"]);
        given.ignore_leased_names = true;
        let found = uplink("eth0", &given, &plan, sides);
        assert_eq!((found.dns, found.search.len()), (["192.0.2.53", "10.0.2.3"].map(address).to_vec(), 0));
    }
}
