//! How far a link is, from what it holds.

use super::*;
use crate::arch::Arch;
use crate::net::address::tests::{default_route, global};
use crate::net::dhcp6::Device6;

#[test]
fn of_several_leased_addresses_one_may_end_before_the_others() {
    let kept = global();
    let ended = LinkAddress { address: "2001:db8:7::b".parse().unwrap(), ..global() };
    let device = Device6 {
        name: "eth0".to_owned(),
        mac: [2; 6],
        duid: vec![0, 3, 0, 1],
        arch: Arch::X86_64,
        hostname: None,
    };
    let client = Client6::new(device, Need::Stateful, false, 1, Instant::now());
    let lease = Lease6 {
        addresses: vec![(kept.address, 60, 120), (ended.address, 10, 20)],
        dns: Vec::new(),
        search: Vec::new(),
        ntp: Vec::new(),
        boot_url: None,
        boot_params: Vec::new(),
        server: default_route().gateway,
        t1: 30,
        t2: 60,
    };
    let mut side = Ipv6 {
        mode: Mode::Dhcp,
        client: Some((client, Need::Stateful)),
        lease: Some(lease),
        ..Ipv6::default()
    };
    side.gathered.route(default_route(), true);
    assert_ne!(side.family(), Family::Settled);
    side.gathered.address(kept, true);
    side.gathered.address(ended, true);
    assert_eq!(side.family(), Family::Settled);
    side.gathered.address(ended, false);
    assert_eq!(side.family(), Family::Settled);
    side.gathered.address(kept, false);
    assert_ne!(side.family(), Family::Settled);
}
