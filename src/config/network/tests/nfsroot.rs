//! Documentation/admin-guide/nfs/nfsroot.rst and net/ipv4/ipconfig.c, a test for each thing they say of `ip=`.

use super::*;

#[test]
fn missing_all_fields_are_empty_and_all_is_asked_for() {
    let given = given("root=/dev/nfs rw quiet");
    assert_eq!(given, Given::default());
    let plan = given.for_link("eth0", Some(MAC));
    assert!(plan.used && plan.dhcp4 && plan.ipv6 == Ipv6Mode::Auto);
}

#[test]
fn all_ten_fields() {
    let given = ip(
        "ip=192.168.1.5:192.168.1.1:192.168.1.254:255.255.255.0:node1.example:eth0:off:192.168.1.53:1.1.1.1:192.168.1.123",
    );
    let expected = Assignment {
        device: named("eth0"),
        addresses: vec![fixed("192.168.1.5", 24, Some("192.168.1.254"))],
        hostname: Some("node1.example".to_owned()),
        dns: vec![address("192.168.1.53"), address("1.1.1.1")],
        ntp: vec![address("192.168.1.123")],
        ..Assignment::default()
    };
    assert_eq!(given, expected);
}

#[test]
fn the_older_name_nfsaddrs() {
    assert_eq!(ip("nfsaddrs=dhcp"), dhcp());
}

#[test]
fn autoconf_alone_off_or_none_nothing_takes_place() {
    for line in ["ip=off", "ip=none", "ip=::::::off", "ip=::::::none"] {
        assert_eq!(ip(line), Assignment::default(), "{line}");
        assert!(given(line).leaves_all(), "{line}");
    }
}

#[test]
fn autoconf_alone_dhcp() {
    assert_eq!(ip("ip=dhcp"), dhcp());
}

#[test]
fn autoconf_on() {
    assert_eq!(ip("ip=on"), dhcp());
}

#[test]
fn autoconf_any_is_every_protocol_there_is() {
    assert_eq!(ip("ip=any"), Assignment { ipv6: Ipv6Mode::Auto, ..dhcp() });
}

#[test]
fn autoconf_both_is_dhcp() {
    assert_eq!(ip("ip=both"), dhcp());
}

#[test]
fn client_ip_alone() {
    assert_eq!(ip("ip=10.1.2.3").addresses, [fixed("10.1.2.3", 8, None)]);
}

#[test]
fn server_ip_is_for_nfs_alone() {
    assert_eq!(ip("ip=10.1.2.3:10.9.9.9::255.255.0.0::eth0:off").addresses, [fixed("10.1.2.3", 16, None)]);
    assert_eq!(ip("ip=:10.9.9.9::::eth0:dhcp"), Assignment { device: named("eth0"), ..dhcp() });
}

#[test]
fn gw_ip() {
    assert_eq!(ip("ip=10.1.2.3::10.1.0.1").addresses, [fixed("10.1.2.3", 8, Some("10.1.0.1"))]);
}

#[test]
fn netmask() {
    for (mask, prefix) in
        [("255.255.255.0", 24), ("255.255.255.248", 29), ("255.0.0.0", 8), ("255.255.254.0", 23)]
    {
        assert_eq!(ip(&format!("ip=10.1.2.3:::{mask}")).addresses, [fixed("10.1.2.3", prefix, None)]);
    }
}

#[test]
fn netmask_unspecified_is_that_of_the_class() {
    for (text, prefix) in [("10.1.2.3", 8), ("172.16.0.1", 16), ("192.0.2.1", 24), ("223.0.0.1", 24)] {
        assert_eq!(ip(&format!("ip={text}::::::off")).addresses, [fixed(text, prefix, None)]);
    }
}

#[test]
fn hostname_alone() {
    assert_eq!(ip("ip=::::HOST::dhcp"), Assignment { hostname: Some("HOST".to_owned()), ..dhcp() });
}

#[test]
fn hostname_with_a_domain() {
    assert_eq!(ip("ip=::::node1.nis.example::dhcp").hostname.as_deref(), Some("node1.nis.example"));
}

#[test]
fn device_alone() {
    let expected = Assignment { device: named("eth1"), ipv6: Ipv6Mode::Auto, ..dhcp() };
    assert_eq!(ip("ip=:::::eth1"), expected);
    assert_eq!(ip("ip=:::::eth1:"), expected);
    assert_eq!(ip("ip=:::::eth1:dhcp"), Assignment { device: named("eth1"), ..dhcp() });
}

#[test]
fn autoconf_default_is_any_where_no_address_is_given() {
    assert_eq!(ip("ip=::::HOST").ipv6, Ipv6Mode::Auto);
    let given = ip("ip=10.1.2.3:::255.255.255.0:HOST:eth0");
    assert!(!given.dhcp4 && given.ipv6 == Ipv6Mode::Off);
}

#[test]
fn dns0_and_dns1() {
    assert_eq!(ip("ip=::::::dhcp:192.0.2.53").dns, [address("192.0.2.53")]);
    assert_eq!(ip("ip=::::::dhcp::192.0.2.54").dns, [address("192.0.2.54")]);
    assert_eq!(ip("ip=::::::dhcp:192.0.2.53:192.0.2.54").dns, [address("192.0.2.53"), address("192.0.2.54")]);
}

#[test]
fn ntp0() {
    for line in ["ip=::::::dhcp:::192.0.2.123", "ip=::::::dhcp:192.0.2.53::192.0.2.123"] {
        assert_eq!(ip(line).ntp, [address("192.0.2.123")], "{line}");
    }
}

#[test]
fn fields_of_zeros_are_empty() {
    assert_eq!(
        ip("ip=0.0.0.0:0.0.0.0:0.0.0.0:0.0.0.0::eth0:dhcp:0.0.0.0"),
        Assignment { device: named("eth0"), ..dhcp() }
    );
}

#[test]
fn fields_at_the_end_can_be_missing_or_empty() {
    let short = ip("ip=10.1.2.3::10.1.0.1:255.255.0.0");
    for end in [":", "::", ":::", "::::", ":::::", "::::::"] {
        assert_eq!(ip(&format!("ip=10.1.2.3::10.1.0.1:255.255.0.0{end}")), short, "{end}");
    }
}
