//! What is given for one link: [`Given::for_link`].

use super::*;

const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// A link as short text: what is asked for and set on it.
fn on(line: &str, name: &str, mac: [u8; 6]) -> String {
    let plan = given(line).for_link(name, Some(mac));
    let mut words = Vec::new();
    if plan.used {
        words.push("used".to_owned());
    } else {
        let raised = plan.raised;
        assert_eq!(plan, LinkPlan { raised, ..LinkPlan::default() }, "{line}: {name}");
        return if raised { "raised" } else { "down" }.to_owned();
    }
    assert!(plan.raised, "{line}: {name}");
    if plan.dhcp4 {
        words.push("dhcp4".to_owned());
    }
    if plan.ipv6 != Ipv6Mode::Off {
        words.push(format!("{:?}", plan.ipv6).to_lowercase());
    }
    words.extend(plan.addresses.iter().map(|fixed| format!("{}/{}", fixed.address, fixed.prefix)));
    words.extend(plan.mtu.map(|mtu| format!("mtu={mtu}")));
    words.join(" ")
}

#[test]
fn which_links_are_used_and_how() {
    const ALL: &str = "used dhcp4 auto";
    const BOOTIF: &str = "BOOTIF=01-52-54-00-12-34-56";
    // eth0 has MAC, every other link OTHER.
    let table: &[(&str, &[(&str, &str)])] = &[
        ("", &[("eth0", ALL), ("eth1", ALL)]),
        ("ip=dhcp", &[("eth0", "used dhcp4"), ("eth1", "used dhcp4")]),
        ("ip=off", &[("eth0", "down"), ("eth1", "down")]),
        ("ip=off vlan=eth0.5:eth0", &[("eth0", "down"), ("eth0.5", "down")]),
        // Named links, and those that no ip= names.
        ("ip=eth0:dhcp", &[("eth0", "used dhcp4"), ("eth1", "down")]),
        ("ip=eth0:dhcp6 ip=any", &[("eth0", "used dhcp"), ("eth1", ALL)]),
        ("ip=eth0:dhcp ip=off", &[("eth0", "used dhcp4"), ("eth1", "down")]),
        ("ip=eth1:off ip=dhcp", &[("eth0", "used dhcp4"), ("eth1", "down")]),
        ("ip=eth1:off", &[("eth0", "down"), ("eth1", "down")]),
        ("ip=10.0.0.2:::24::eth0:off:1400", &[("eth0", "used 10.0.0.2/24 mtu=1400"), ("eth1", "down")]),
        ("ip=10.0.0.2:::24:::off", &[("eth0", "used 10.0.0.2/24"), ("eth1", "used 10.0.0.2/24")]),
        ("ip=10.0.0.2:::24::eth0:auto6", &[("eth0", "used auto 10.0.0.2/24")]),
        ("ip=52-54-00-12-34-56:either6", &[("eth0", "used either"), ("eth1", "down")]),
        // BOOTIF= takes the place of all; links that an ip= names are used beside it.
        (BOOTIF, &[("eth0", ALL), ("eth1", "down")]),
        ("BOOTIF=01-52-54-00-12-34-56 rd.bootif=0", &[("eth0", ALL), ("eth1", ALL)]),
        ("BOOTIF=01-52-54-00-12-34-56 ip=dhcp", &[("eth0", "used dhcp4"), ("eth1", "down")]),
        (
            "BOOTIF=01-52-54-00-12-34-56 ip=eth1:dhcp",
            &[("eth0", ALL), ("eth1", "used dhcp4"), ("eth2", "down")],
        ),
        ("BOOTIF=01-52-54-00-12-34-56 ip=off", &[("eth0", "down")]),
        ("BOOTIF=01-52-54-00-12-34-56 ip=eth0:dhcp", &[("eth0", "used dhcp4"), ("eth1", "down")]),
        // bootdev= is the only one.
        ("bootdev=eth1", &[("eth0", "down"), ("eth1", ALL)]),
        ("bootdev=eth1 ip=eth0:dhcp ip=eth1:auto6", &[("eth0", "down"), ("eth1", "used auto")]),
        ("bootdev=52-54-00-12-34-56 ip=dhcp", &[("eth0", "used dhcp4"), ("eth1", "down")]),
        ("bootdev=eth1 BOOTIF=01-52-54-00-12-34-56", &[("eth0", ALL), ("eth1", "down")]),
        // A VLAN's parent is only raised, unless an ip= names it.
        ("vlan=eth0.5:eth0", &[("eth0", "raised"), ("eth0.5", ALL), ("eth1", ALL)]),
        ("vlan=eth0.5:eth0 ip=dhcp", &[("eth0", "raised"), ("eth0.5", "used dhcp4"), ("eth1", "used dhcp4")]),
        (
            "vlan=eth0.5:eth0 ip=eth0.5:dhcp",
            &[("eth0", "raised"), ("eth0.5", "used dhcp4"), ("eth1", "down")],
        ),
        ("vlan=eth0.5:eth0 ip=eth0:dhcp", &[("eth0", "used dhcp4"), ("eth0.5", "down")]),
        ("vlan=eth0.5:eth0 bootdev=eth0.5", &[("eth0", "raised"), ("eth0.5", ALL), ("eth1", "down")]),
        // Nothing is made where nothing is used, but what is made has the address of BOOTIF's link.
        (
            "vlan=eth0.5:eth0 BOOTIF=01-52-54-00-12-34-56",
            &[("eth0", "raised"), ("eth0.5", ALL), ("eth1", "down")],
        ),
        ("vlan=eth0.5:eth0 ip=52-54-00-12-34-56:dhcp", &[("eth0", "used dhcp4"), ("eth0.5", "down")]),
        // A bond raises its members itself.
        ("bond=bond0:eth0,eth1:mode=1", &[("eth0", "down"), ("eth1", "down"), ("bond0", ALL), ("eth2", ALL)]),
        (
            "bond=bond0:eth0,eth1:mode=1 ip=bond0:dhcp",
            &[("eth0", "down"), ("bond0", "used dhcp4"), ("eth2", "down")],
        ),
        (
            "bond=bond0:eth0,eth1:mode=1 vlan=bond0.5:bond0 ip=bond0.5:dhcp",
            &[("eth0", "down"), ("bond0", "raised"), ("bond0.5", "used dhcp4")],
        ),
        ("bond=bond0:eth0,eth1:mode=1 BOOTIF=01-52-54-00-12-34-56", &[("bond0", ALL), ("eth2", "down")]),
        // ifname= goes by the hardware address.
        ("ifname=lan:52:54:00:12:34:56 ip=lan:dhcp", &[("eth0", "used dhcp4"), ("lan", "down")]),
        ("ifname=eth1:52:54:00:12:34:56 ip=eth1:dhcp", &[("eth0", "used dhcp4"), ("eth1", "down")]),
        ("ifname=lan:52:54:00:12:34:56 vlan=vlan5:lan", &[("eth0", "raised"), ("vlan5", ALL)]),
        ("ifname=lan:52:54:00:12:34:56 bond=b:lan:mode=1", &[("eth0", "down"), ("b", ALL)]),
    ];
    for (line, links) in table {
        for (name, expected) in *links {
            // What is made has the address of the link below.
            let has_mac = matches!(*name, "eth0" | "eth0.5" | "vlan5" | "bond0" | "bond0.5" | "b");
            assert_eq!(on(line, name, if has_mac { MAC } else { OTHER }), *expected, "{line}: {name}");
        }
    }
}

#[test]
fn a_link_without_a_hardware_address() {
    assert!(given("").for_link("ppp0", None).used);
    assert!(!given("BOOTIF=01-52-54-00-12-34-56").for_link("ppp0", None).used);
    assert!(!given("ip=52-54-00-12-34-56:dhcp").for_link("ppp0", None).used);
}

#[test]
fn servers_names_and_hardware_addresses() {
    let plan = given(
        "nameserver=192.0.2.1 nameserver=192.0.2.2 rd.peerdns=0 \
         ip=10.0.0.2::10.0.0.1:24:node1:eth0:none:192.0.2.2:192.0.2.3:192.0.2.4",
    )
    .for_link("eth0", None);
    assert_eq!(plan.dns, ["192.0.2.2", "192.0.2.3", "192.0.2.1"].map(address));
    assert_eq!((plan.ntp, plan.hostname.as_deref()), (vec![address("192.0.2.4")], Some("node1")));
    assert!(plan.ignore_leased_names);
    let plan = given("ip=eth0:dhcp::52-54-00-00-00-02").for_link("eth0", Some(MAC));
    assert_eq!(plan.mac, Some([0x52, 0x54, 0, 0, 0, 2]));
}

#[test]
fn routes_go_to_their_link() {
    let given =
        given("rd.route=10.0.0.0/8:192.0.2.1:eth0 rd.route=10.1.0.0/16:192.0.2.2 rd.route=10.2.0.0/16::eth1");
    let gateways = |name| {
        let plan = given.for_link(name, None);
        plan.routes.iter().map(|route| route.destination.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(gateways("eth0"), ["10.0.0.0", "10.1.0.0"]);
    assert_eq!(gateways("eth1"), ["10.1.0.0", "10.2.0.0"]);
}

#[test]
fn what_a_link_is_called() {
    let given = given("ifname=lan:52:54:00:12:34:56 vlan=lan.5:lan");
    assert_eq!(given.called("eth0", Some(MAC)), Some("lan"));
    assert_eq!(given.called("lan", Some(OTHER)), None);
    assert_eq!(given.called("eth1", Some(OTHER)), Some("eth1"));
    assert_eq!(given.called("lan.5", Some(MAC)), Some("lan.5"));
}
