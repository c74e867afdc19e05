//! `ifname=`, `vlan=` and `bond=`: dracut.cmdline(7), Documentation/networking/bonding.rst.

use super::*;

fn vlan(line: &str) -> Vlan {
    given(line).vlans.remove(0)
}

fn bond(line: &str) -> Bond {
    given(line).bonds.remove(0)
}

#[test]
fn ifname() {
    let expected = [("bootnet".to_owned(), MAC)];
    assert_eq!(given("ifname=bootnet:52:54:00:12:34:56").names, expected);
    assert_eq!(given("ifname=bootnet:52-54-00-12-34-56 ifname=bootnet:52:54:00:12:34:56").names, expected);
}

#[test]
fn ifname_and_the_hardware_address_mean_one_link() {
    let given = given("ip=52-54-00-12-34-56:dhcp ip=bootnet:auto6 ifname=bootnet:52:54:00:12:34:56");
    assert_eq!(given.assignments, [Assignment { device: named("bootnet"), ipv6: Ipv6Mode::Auto, ..dhcp() }]);
}

#[test]
fn vlan_plus_vid() {
    assert_eq!(
        vlan("vlan=vlan0005:eth0"),
        Vlan { name: "vlan0005".to_owned(), id: 5, parent: "eth0".to_owned() }
    );
    // Decimal, not octal.
    assert_eq!(vlan("vlan=vlan0010:eth0").id, 10);
}

#[test]
fn vlan_plus_vid_no_pad() {
    assert_eq!(vlan("vlan=vlan5:eth0"), Vlan { name: "vlan5".to_owned(), id: 5, parent: "eth0".to_owned() });
}

#[test]
fn vlan_dev_plus_vid() {
    assert_eq!(
        vlan("vlan=eth0.0005:eth0"),
        Vlan { name: "eth0.0005".to_owned(), id: 5, parent: "eth0".to_owned() }
    );
}

#[test]
fn vlan_dev_plus_vid_no_pad() {
    assert_eq!(
        vlan("vlan=eth0.100:eth0"),
        Vlan { name: "eth0.100".to_owned(), id: 100, parent: "eth0".to_owned() }
    );
    assert_eq!(vlan("vlan=lan.4094:eth1").id, 4094);
}

#[test]
fn vlan_on_a_bond() {
    let given = given("vlan=bond0.7:bond0 bond=bond0:eth0,eth1:mode=1 ip=bond0.7:dhcp");
    assert_eq!((given.vlans[0].parent.as_str(), given.bonds[0].name.as_str()), ("bond0", "bond0"));
}

#[test]
fn bond_active_backup() {
    let expected = Bond {
        name: "bond0".to_owned(),
        members: vec!["eth0".to_owned(), "eth1".to_owned()],
        mode: BondMode::ActiveBackup,
        miimon: 100,
        fast_lacp: false,
        primary: None,
        updelay: 0,
        downdelay: 0,
        xmit_hash_policy: None,
        mtu: None,
    };
    assert_eq!(bond("bond=bond0:eth0,eth1:mode=active-backup"), expected);
    assert_eq!(bond("bond=bond0:eth0,eth1:mode=1"), expected);
    assert_eq!(bond("bond=bond0:eth0,eth1:mode=1:9000"), Bond { mtu: Some(9000), ..expected.clone() });
    let line = "bond=bond0:eth0,eth1:mode=active-backup,miimon=50,primary=eth1,updelay=200,downdelay=100";
    assert_eq!(
        bond(line),
        Bond { miimon: 50, primary: Some("eth1".to_owned()), updelay: 200, downdelay: 100, ..expected }
    );
}

#[test]
fn bond_802_3ad() {
    let lacp =
        bond("bond=lag:eth0,eth1,eth2:mode=802.3ad,miimon=100,lacp_rate=fast,xmit_hash_policy=layer3+4");
    assert_eq!((lacp.mode, lacp.fast_lacp, lacp.xmit_hash_policy), (BondMode::Ieee8023ad, true, Some(1)));
    assert_eq!(lacp.members, ["eth0", "eth1", "eth2"]);
    let numbers = bond("bond=lag:eth0,eth1,eth2:mode=4,miimon=100,lacp_rate=1,xmit_hash_policy=1");
    assert_eq!(numbers, lacp);
    assert!(!bond("bond=lag:eth0:mode=4,lacp_rate=slow").fast_lacp);
}

#[test]
fn bond_hash_policies_have_the_numbers_of_linux_if_bonding() {
    let names = ["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"];
    for (number, name) in (0..).zip(names) {
        let line = format!("bond=b:eth0:mode=4,xmit_hash_policy={name}");
        assert_eq!(bond(&line).xmit_hash_policy, Some(number), "{name}");
    }
}
