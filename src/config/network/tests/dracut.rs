//! dracut.cmdline(7), section Network, a test for each line; and what its own scripts add to the text.

use super::*;

#[test]
fn ip_dhcp_on_any_on_all_interfaces() {
    assert_eq!(ip("ip=dhcp"), dhcp());
    assert_eq!(ip("ip=on"), dhcp());
    assert_eq!(ip("ip=any"), Assignment { ipv6: Ipv6Mode::Auto, ..dhcp() });
}

#[test]
fn ip_single_dhcp_is_dhcp_which_races_anyway() {
    assert_eq!(ip("ip=single-dhcp"), dhcp());
}

#[test]
fn ip_auto6() {
    assert_eq!(ip("ip=auto6"), Assignment { ipv6: Ipv6Mode::Auto, ..Assignment::default() });
}

#[test]
fn ip_dhcp6() {
    assert_eq!(ip("ip=dhcp6"), Assignment { ipv6: Ipv6Mode::Dhcp, ..Assignment::default() });
}

#[test]
fn ip_either6() {
    assert_eq!(ip("ip=either6"), Assignment { ipv6: Ipv6Mode::Either, ..Assignment::default() });
}

#[test]
fn ip_none_and_off_leave_everything_as_it_is() {
    assert!(given("ip=none").leaves_all() && given("ip=off").leaves_all());
}

#[test]
fn ip_several_methods() {
    assert_eq!(ip("ip=dhcp,dhcp6"), Assignment { ipv6: Ipv6Mode::Dhcp, ..dhcp() });
    assert_eq!(
        ip("ip=eth0:auto6,dhcp"),
        Assignment { device: named("eth0"), ipv6: Ipv6Mode::Auto, ..dhcp() }
    );
}

#[test]
fn ip_interface_and_method() {
    for (method, dhcp4, ipv6) in [
        ("dhcp", true, Ipv6Mode::Off),
        ("on", true, Ipv6Mode::Off),
        ("single-dhcp", true, Ipv6Mode::Off),
        ("any", true, Ipv6Mode::Auto),
        ("dhcp6", false, Ipv6Mode::Dhcp),
        ("auto6", false, Ipv6Mode::Auto),
        ("either6", false, Ipv6Mode::Either),
        ("off", false, Ipv6Mode::Off),
        ("none", false, Ipv6Mode::Off),
    ] {
        let expected = Assignment { device: named("ens3"), dhcp4, ipv6, ..Assignment::default() };
        assert_eq!(ip(&format!("ip=ens3:{method}")), expected, "{method}");
    }
}

#[test]
fn ip_interface_method_and_mtu() {
    assert_eq!(ip("ip=eth0:dhcp:9000"), Assignment { device: named("eth0"), mtu: Some(9000), ..dhcp() });
}

#[test]
fn ip_interface_method_mtu_and_macaddr() {
    let expected = Assignment { device: named("eth0"), mtu: Some(1400), mac: Some(MAC), ..dhcp() };
    assert_eq!(ip("ip=eth0:dhcp:1400:52:54:00:12:34:56"), expected);
    assert_eq!(ip("ip=eth0:dhcp:1400:52-54-00-12-34-56"), expected);
}

#[test]
fn ip_interface_method_and_macaddr_without_mtu() {
    let expected = Assignment { device: named("eth0"), mac: Some(MAC), ..dhcp() };
    assert_eq!(ip("ip=eth0:dhcp::52:54:00:12:34:56"), expected);
    assert_eq!(ip("ip=eth0:dhcp::52-54-00-12-34-56"), expected);
}

#[test]
fn what_is_said_twice_is_said_once() {
    for (twice, one) in [
        ("ip=dhcp ip=dhcp", "ip=dhcp"),
        ("ip=dhcp console=ttyS0 ip=::::::dhcp ip=dhcp", "ip=dhcp"),
        ("ip=off ip=off", "ip=off"),
        (
            "ip=10.0.0.2::10.0.0.1:24::eth0:none ip=10.0.0.2::10.0.0.1:24::eth0:none",
            "ip=10.0.0.2::10.0.0.1:24::eth0:none",
        ),
        ("ip=eth0:dhcp ip=[2001:db8::2]:::64::eth0 ip=eth0:dhcp", "ip=eth0:dhcp ip=[2001:db8::2]:::64::eth0"),
    ] {
        assert_eq!(given(twice), given(one), "{twice}");
    }
}

#[test]
fn ip_can_be_specified_multiple_times() {
    let given = given("ip=eth0:dhcp ip=eth1:auto6 ip=10.0.0.2::10.0.0.1:24::eth2:none");
    let devices: Vec<&Device> = given.assignments.iter().map(|a| &a.device).collect();
    assert_eq!(devices, [&named("eth0"), &named("eth1"), &named("eth2")]);
}

#[test]
fn ip_explicit_with_mtu_and_macaddr() {
    let expected = Assignment {
        device: named("eth0"),
        addresses: vec![fixed("10.0.0.2", 24, Some("10.0.0.1"))],
        hostname: Some("node1".to_owned()),
        mtu: Some(1500),
        mac: Some(MAC),
        ..Assignment::default()
    };
    for method in ["none", "off"] {
        let line = format!("ip=10.0.0.2::10.0.0.1:255.255.255.0:node1:eth0:{method}:1500:52:54:00:12:34:56");
        assert_eq!(ip(&line), expected);
    }
    assert_eq!(ip("ip=10.0.0.2::10.0.0.1:24:node1:eth0:none:1500:52-54-00-12-34-56"), expected);
    let line = "ip=10.0.0.2::10.0.0.1:24:node1:eth0:none::52-54-00-12-34-56";
    assert_eq!(ip(line), Assignment { mtu: None, ..expected });
}

#[test]
fn ip_explicit_with_dns1_and_dns2() {
    let given = ip("ip=10.0.0.2::10.0.0.1:255.255.255.0:node1:eth0:none:10.0.0.53:[2001:db8::53]");
    assert_eq!(given.dns, [address("10.0.0.53"), address("2001:db8::53")]);
    assert_eq!((given.mtu, given.mac), (None, None));
    assert_eq!(ip("ip=eth0:dhcp:10.0.0.53").dns, [address("10.0.0.53")]);
}

#[test]
fn ip_explicit_with_dynamic_methods() {
    for (method, dhcp4, ipv6) in [
        ("dhcp", true, Ipv6Mode::Off),
        ("on", true, Ipv6Mode::Off),
        ("any", true, Ipv6Mode::Auto),
        ("dhcp6", false, Ipv6Mode::Dhcp),
        ("auto6", false, Ipv6Mode::Auto),
    ] {
        let given = ip(&format!("ip=::::node1:eth0:{method}:1400"));
        assert_eq!((given.dhcp4, given.ipv6, given.mtu), (dhcp4, ipv6, Some(1400)), "{method}");
    }
}

#[test]
fn ip_explicit_with_a_prefix_length() {
    assert_eq!(
        ip("ip=10.0.0.2::10.0.0.1:26::eth0:none").addresses,
        [fixed("10.0.0.2", 26, Some("10.0.0.1"))]
    );
    assert_eq!(
        ip("ip=10.0.0.2/26::10.0.0.1:::eth0:none").addresses,
        [fixed("10.0.0.2", 26, Some("10.0.0.1"))]
    );
}

#[test]
fn ip_explicit_in_a_network_of_two() {
    assert_eq!(
        ip("ip=10.0.0.2::10.0.0.3:31::eth0:none").addresses,
        [fixed("10.0.0.2", 31, Some("10.0.0.3"))]
    );
}

#[test]
fn ip_explicit_ipv6_in_brackets() {
    let expected = [fixed("2001:db8::2", 48, Some("2001:db8::1"))];
    assert_eq!(ip("ip=[2001:DB8::2]::[2001:DB8::1]:48::eth0:none").addresses, expected);
    assert_eq!(ip("ip=[2001:db8::2/48]::[2001:db8::1]:::eth0:none").addresses, expected);
    assert_eq!(ip("ip=[2001:db8::2]/48::[2001:db8::1]:::eth0:none").addresses, expected);
    assert_eq!(ip("ip=[2001:db8::2]").addresses, [fixed("2001:db8::2", 64, None)]);
}

#[test]
fn ip_explicit_ipv6_with_a_link_local_gateway() {
    let expected = [fixed("2001:db8::2", 64, Some("fe80::1"))];
    assert_eq!(ip("ip=[2001:db8::2]::[fe80::1]:64::eth0:none").addresses, expected);
}

#[test]
fn ip_explicit_peer_with_a_prefix_length() {
    let peer = |text, prefix, gateway, peer| StaticAddress {
        peer: Some(address(peer)),
        ..fixed(text, prefix, gateway)
    };
    assert_eq!(
        ip("ip=10.0.0.2:10.9.0.1/32:10.9.0.1:::eth0:none").addresses,
        [peer("10.0.0.2", 32, Some("10.9.0.1"), "10.9.0.1")]
    );
    assert_eq!(
        ip("ip=10.0.0.2:10.9.0.1::255.255.255.255::eth0:none").addresses,
        [peer("10.0.0.2", 32, None, "10.9.0.1")]
    );
    assert_eq!(
        ip("ip=[2001:db8::2]:[2001:db8:1::1]/128::::eth0:none").addresses,
        [peer("2001:db8::2", 128, None, "2001:db8:1::1")]
    );
}

#[test]
fn ip_explicit_a_gateway_off_the_network_of_a_host_address() {
    assert_eq!(
        ip("ip=203.0.113.7::198.51.100.1:32::eth0:none").addresses,
        [fixed("203.0.113.7", 32, Some("198.51.100.1"))]
    );
}

#[test]
fn ip_an_address_of_each_family_for_one_device() {
    let given = ip("ip=10.0.0.2::10.0.0.1:24::eth0:none ip=[2001:db8::2]::[2001:db8::1]:64::eth0:none:1400");
    let expected = [fixed("10.0.0.2", 24, Some("10.0.0.1")), fixed("2001:db8::2", 64, Some("2001:db8::1"))];
    assert_eq!((given.addresses.as_slice(), given.mtu), (expected.as_slice(), Some(1400)));
    let given = ip("ip=eth0:dhcp ip=eth0:auto6");
    assert_eq!((given.dhcp4, given.ipv6), (true, Ipv6Mode::Auto));
}

#[test]
fn device_as_a_hardware_address() {
    let expected = Assignment { device: Device::Mac(MAC), ..dhcp() };
    for line in [
        "ip=52-54-00-12-34-56:dhcp",
        "ip=52:54:00:12:34:56:dhcp",
        "ip=:::::52-54-00-12-34-56:dhcp",
        "ip=:::::52:54:00:12:34:56:dhcp",
        "ip=enx525400123456:dhcp",
    ] {
        assert_eq!(ip(line), expected, "{line}");
    }
    let line = "ip=10.0.0.2::10.0.0.1:24:node1:52:54:00:12:34:56:none:10.0.0.53";
    assert_eq!((ip(line).device, ip(line).dns), (Device::Mac(MAC), vec![address("10.0.0.53")]));
}

#[test]
fn rd_route_examples() {
    let route = |destination, prefix, gateway: Option<&str>, device: Option<&str>| GivenRoute {
        destination: address(destination),
        prefix,
        gateway: gateway.map(address),
        device: device.map(str::to_owned),
    };
    for (line, expected) in [
        (
            "rd.route=192.168.200.0/24:192.168.100.222:ens10",
            route("192.168.200.0", 24, Some("192.168.100.222"), Some("ens10")),
        ),
        (
            "rd.route=192.168.200.0/24:192.168.100.222",
            route("192.168.200.0", 24, Some("192.168.100.222"), None),
        ),
        ("rd.route=192.168.200.0/24::ens10", route("192.168.200.0", 24, None, Some("ens10"))),
        (
            "rd.route=[2001:DB8:3::/8]:[2001:DB8:2::1]:ens10",
            route("2000::", 8, Some("2001:db8:2::1"), Some("ens10")),
        ),
        ("rd.route=10.0.0.0/255.0.0.0:192.0.2.1", route("10.0.0.0", 8, Some("192.0.2.1"), None)),
        ("rd.route=10.0.0.5:192.0.2.1", route("10.0.0.5", 32, Some("192.0.2.1"), None)),
        ("rd.route=0.0.0.0/0:192.0.2.1", route("0.0.0.0", 0, Some("192.0.2.1"), None)),
        ("rd.route=[::/0]:[fe80::1]:eth0", route("::", 0, Some("fe80::1"), Some("eth0"))),
    ] {
        assert_eq!(given(line).routes, [expected], "{line}");
    }
}

#[test]
fn bootdev() {
    assert_eq!(given("bootdev=eth1 ip=eth0:dhcp ip=eth1:dhcp").bootdev, Some(named("eth1")));
    assert_eq!(given("bootdev=52:54:00:12:34:56").bootdev, Some(Device::Mac(MAC)));
}

#[test]
fn bootif() {
    for value in [
        "01-52-54-00-12-34-56",
        "52-54-00-12-34-56",
        "52:54:00:12:34:56",
        "01:52:54:00:12:34:56",
        "01-52:54:00:12:34:56",
    ] {
        assert_eq!(given(&format!("BOOTIF={value}")).bootif, Some(MAC), "{value}");
    }
    let upper = given("BOOTIF=01-AA-BB-CC-DD-EE-0F BOOTIF=aa:bb:cc:dd:ee:0f");
    assert_eq!(upper.bootif, Some([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f]));
}

#[test]
fn what_pxelinux_appends() {
    let given = given("ip=192.0.2.5:192.0.2.9:192.0.2.1:255.255.255.0 BOOTIF=01-52-54-00-12-34-56");
    let plan = given.for_link("eth0", Some(MAC));
    assert_eq!(plan.addresses, [fixed("192.0.2.5", 24, Some("192.0.2.1"))]);
    assert!(!plan.dhcp4 && !given.for_link("eth1", Some([2, 0, 0, 0, 0, 1])).used);
}

#[test]
fn rd_bootif_0() {
    assert_eq!(given("BOOTIF=01-52-54-00-12-34-56 rd.bootif=0").bootif, None);
    assert_eq!(given("BOOTIF=20-00-00-00-00 BOOTIF=x rd.bootif=0").bootif, None);
    assert_eq!(given("rd.bootif=1 BOOTIF=01-52-54-00-12-34-56").bootif, Some(MAC));
}

#[test]
fn nameserver() {
    let given = given(
        "nameserver=192.0.2.53 nameserver=2001:db8::53 nameserver=[2001:db8::54] nameserver=192.0.2.53",
    );
    assert_eq!(given.nameservers, ["192.0.2.53", "2001:db8::53", "2001:db8::54"].map(address));
}

#[test]
fn rd_peerdns_0() {
    assert!(given("rd.peerdns=0").ignore_leased_names);
    assert!(!given("rd.peerdns=1").ignore_leased_names && !given("rd.peerdns").ignore_leased_names);
}

#[test]
fn rd_neednet_and_biosdevname_change_nothing() {
    assert_eq!(given("rd.neednet=1 biosdevname=0 net.ifnames=0"), Given::default());
}

#[test]
fn what_concerns_other_things_is_passed_over() {
    let line = "root=dhcp netroot=iscsi:@10.0.0.1::::iqn.2009-06.x:y rd.iscsi.ibft=0 rd.nfs.domain=x fcoe=edd:dcb \
                rd.net.timeout.dhcp=5 rd.net.dhcp.retry=3 ipv6.disable=0 ip6=x gateway=10.0.0.1 -- ip=rarp";
    assert_eq!(given(line), Given::default());
}
