//! No line panics, and what is parsed is within bounds.

use proptest::prelude::*;

use super::*;

/// Words that lines are made of, so that many of them can be followed.
fn word() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        4 => Just(String::new()),
        8 => prop::sample::select(vec![
            "dhcp", "any", "auto6", "dhcp6", "off", "none", "dhcp,dhcp6", "eth0", "eth1", "bond0", "lan", "10.0.0.2",
            "10.0.0.1", "24", "0", "[2001:db8::2]", "[2001:db8::2/64]", "[fe80::1]", "255.255.255.0", "1500", "67",
            "52-54-00-12-34-56", "52:54:00:12:34:56", "01-52-54-00-12-34-56", "eth0.5", "vlan0007", "eth0.4095",
            "eth0,eth1", "mode=1", "mode=4,lacp_rate=fast", "10.0.0.0/8", "[", "]", "/", "..",
        ]).prop_map(str::to_owned),
        1 => "[\\PC]{0,20}",
        1 => "[0-9]{1,6}",
        1 => "[0-9a-f:.\\[\\]/-]{0,24}",
    ];
    let name = prop::sample::select(vec![
        "ip",
        "ip",
        "ip",
        "nameserver",
        "vlan",
        "bond",
        "BOOTIF",
        "bootdev",
        "ifname",
        "rd.route",
        "rd.bootif",
        "rd.peerdns",
    ]);
    (name, prop::collection::vec(field, 0..9))
        .prop_map(|(name, fields)| format!("{name}={}", fields.join(":")))
}

fn is_kernels(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

fn fits(address: IpAddr, prefix: u8) -> bool {
    prefix <= if address.is_ipv4() { 32 } else { 128 }
}

fn check(given: &Given) {
    let lengths = [
        given.assignments.len(),
        given.names.len(),
        given.nameservers.len(),
        given.routes.len(),
        given.vlans.len(),
        given.bonds.len(),
    ];
    assert!(lengths.iter().all(|&length| length <= 16));
    for assignment in &given.assignments {
        assert!(!matches!(&assignment.device, Device::Name(name) if !is_kernels(name)));
        assert!(assignment.addresses.len() <= 16 && assignment.dns.len() <= 16 && assignment.ntp.len() <= 16);
        assert!(assignment.mtu.is_none_or(|mtu| mtu >= 68));
        assert!(assignment.hostname.as_ref().is_none_or(|name| (1..=253).contains(&name.len())));
        for fixed in &assignment.addresses {
            assert!(fixed.prefix > 0 && fits(fixed.address, fixed.prefix));
            assert!(fixed.gateway.is_none_or(|gateway| gateway.is_ipv4() == fixed.address.is_ipv4()));
            assert!(fixed.peer.is_none_or(|peer| peer.is_ipv4() == fixed.address.is_ipv4()));
        }
        assert!(!assignment.dhcp4 || !assignment.addresses.iter().any(|fixed| fixed.address.is_ipv4()));
        let has_ipv6 = assignment.addresses.iter().any(|fixed| fixed.address.is_ipv6());
        assert!(assignment.ipv6 == Ipv6Mode::Off || !has_ipv6);
    }
    for (at, assignment) in given.assignments.iter().enumerate() {
        assert!(!given.assignments.iter().skip(at + 1).any(|other| other.device == assignment.device));
    }
    assert!(given.routes.iter().all(|route| fits(route.destination, route.prefix)));
    assert!(given.routes.iter().all(|route| route.gateway.is_some() || route.device.is_some()));
    for vlan in &given.vlans {
        assert!((1..=4094).contains(&vlan.id) && is_kernels(&vlan.name) && is_kernels(&vlan.parent));
    }
    for bond in &given.bonds {
        assert!((1..=16).contains(&bond.members.len()) && bond.members.iter().all(|name| is_kernels(name)));
        assert!(is_kernels(&bond.name) && bond.miimon > 0 && bond.mtu.is_none_or(|mtu| mtu >= 68));
    }
    assert!(given.names.iter().all(|(name, _)| is_kernels(name)));
    for name in ["eth0", "eth1", "bond0", "eth0.5", "lan"] {
        for mac in [None, Some(MAC)] {
            let plan = given.for_link(name, mac);
            assert!(plan.raised || !plan.used);
            let asks = plan.dhcp4 || plan.ipv6 != Ipv6Mode::Off || !plan.addresses.is_empty();
            assert_eq!(asks, plan.used, "{given:?} {name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn what_is_parsed_is_within_bounds(words in prop::collection::vec(word(), 0..4)) {
        if let Ok(given) = Given::parse(&words.join(" ")) {
            check(&given);
        }
    }

    #[test]
    fn no_line_panics(line in "((ip|vlan|bond|BOOTIF|rd\\.route|nameserver|ifname)=[\\PC]{0,24} ?){0,4}") {
        if let Ok(given) = Given::parse(&line) {
            check(&given);
        }
    }
}
