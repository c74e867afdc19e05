//! What is refused, and that the error names it.

use crate::error::Exit;

use super::*;

/// Each line with what its error has to say.
fn refuses(lines: &[(&str, &str)]) {
    for (line, wrong) in lines {
        let error = Given::parse(line).expect_err(line);
        let text = error.to_string();
        assert!(text.contains(wrong) && text.contains("; expected "), "{line}: {text}");
        let error = crate::config::Error::from(error);
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.hint().contains("docs/network.md"));
    }
}

#[test]
fn methods_that_are_not_supported() {
    refuses(&[
        ("ip=bootp", "ip=bootp: bootp is not supported; expected dhcp"),
        ("ip=rarp", "ip=rarp: rarp is not supported"),
        ("ip=::::HOST:eth0:rarp", "rarp is not supported"),
        ("ip=ibft", "ibft is not supported"),
        ("ip=eth0:ibft", "ibft is not supported"),
        ("ip=link6", "link6 is not supported"),
        ("ip=eth0:link6", "link6 is not supported"),
        ("ip=link-local", "link-local is not supported"),
        ("ip=dhcp,rarp", "rarp is not supported"),
        ("rd.iscsi.ibft=1", "rd.iscsi.ibft is not supported"),
    ]);
}

#[test]
fn a_client_identifier() {
    refuses(&[
        ("ip=dhcp,1,52:54:00:12:34:56", "phase.clientid"),
        ("ip=:::::eth0:dhcp,0,name", "phase.clientid"),
    ]);
}

#[test]
fn methods_that_nobody_knows() {
    refuses(&[
        ("ip=", "ip=: nothing is no way to get an address"),
        ("ip", "ip: nothing is no way to get an address"),
        ("ip=DHCP", "DHCP is no way to get an address"),
        ("ip=eth0", "eth0 is no way to get an address"),
        ("ip=eth0:", "nothing is no way to get an address"),
        ("ip=eth0:dchp", "dchp is no way to get an address"),
        ("ip=eth0:dhcp,", "nothing is no way to get an address"),
        ("ip=::::HOST:eth0:maybe", "maybe is no way to get an address"),
        ("ip=off,dhcp", "off,dhcp is a contradiction"),
    ]);
}

#[test]
fn addresses_that_are_none() {
    refuses(&[
        ("ip=300.1.1.1::::::off", "300.1.1.1 is no IP address"),
        ("ip=10.0.0.02", "10.0.0.02 is no IP address"),
        ("ip=[10.0.0.2]", "is no "),
        ("ip=[2001:db8::g]::::::none", "is no IP address"),
        ("ip=[2001:db8::2::::::none", "is no IP address"),
        ("ip=224.0.0.1::::::off", "224.0.0.1 is no address of a machine"),
        ("ip=255.255.255.255::::::off", "is no address of a machine"),
        ("ip=127.0.0.1::::::off", "is no address of a machine"),
        ("ip=[::]::::::off", "is no address of a machine"),
        ("ip=[::1]::::::off", "is no address of a machine"),
        ("ip=[ff02::1]::::::off", "is no address of a machine"),
        ("ip=240.0.0.1::::::off", "is an address without a netmask"),
        ("ip=10.0.0.2:nfs.example::24::eth0:off", "nfs.example is no IP address"),
        ("ip=10.0.0.2:224.0.0.1::24::eth0:off", "224.0.0.1 is no address of a machine"),
        ("ip=10.0.0.2::gw:24::eth0:off", "gw is no IP address"),
        ("nameserver=dns.example", "dns.example is no IP address"),
        ("nameserver=", "nothing is no IP address"),
        ("nameserver=0.0.0.0", "is no address of a machine"),
        ("nameserver=fe80::1%eth0", "is no IP address"),
    ]);
}

#[test]
fn netmasks_that_are_none() {
    refuses(&[
        ("ip=10.0.0.2:::255.0.255.0", "255.0.255.0 is no netmask"),
        ("ip=10.0.0.2:::33", "33 is no prefix length"),
        ("ip=10.0.0.2:::0", "0 is no netmask for an address"),
        ("ip=10.0.0.2:::+24", "+24 is no prefix length"),
        ("ip=10.0.0.2:::eth0", "eth0 is no prefix length"),
        ("ip=10.0.0.2/24:::24", "24 is a second netmask"),
        ("ip=[2001:db8::2]:::129", "129 is no prefix length"),
        ("ip=[2001:db8::2]:::255.255.255.0", "255.255.255.0 is no prefix length"),
    ]);
}

#[test]
fn gateways_that_cannot_be() {
    refuses(&[
        ("ip=10.0.0.2::192.0.2.1:24::eth0:off", "192.0.2.1 is no gateway on this link"),
        ("ip=10.0.0.2::10.0.0.2:24::eth0:off", "both the machine's own address and another's"),
        ("ip=10.0.0.2::[2001:db8::1]:24::eth0:off", "a mix of IPv4 and IPv6 is in one ip="),
        ("ip=::10.0.0.1:::eth0:dhcp", "given without an address"),
        ("ip=:::255.255.255.0::eth0:dhcp", "given without an address"),
    ]);
}

#[test]
fn an_address_beside_a_request_for_one() {
    refuses(&[
        ("ip=10.0.0.2::10.0.0.1:24::eth0:dhcp", "dhcp is a request for an address beside one that is given"),
        ("ip=10.0.0.2::10.0.0.1:24::eth0:any", "any is a request"),
        ("ip=[2001:db8::2]::::::dhcp6", "dhcp6 is a request"),
        ("ip=[2001:db8::2]::::::auto6", "auto6 is a request"),
    ]);
}

#[test]
fn fields_too_many_or_out_of_bounds() {
    refuses(&[
        ("ip=::::::dhcp:192.0.2.1:192.0.2.2:192.0.2.3:192.0.2.4", "192.0.2.4 is one field too many"),
        ("ip=eth0:dhcp:1500:52:54:00:12:34:56:78", "78 is one field too many"),
        ("ip=eth0:dhcp:67", "67 is no MTU"),
        ("ip=eth0:dhcp:65536", "65536 is no MTU"),
        ("ip=eth0:dhcp:1500:52:54:00:12:34", "52 is no hardware address"),
        ("ip=eth0:dhcp:1500:192.0.2.53", "192.0.2.53 is no hardware address"),
        ("ip=eth0:dhcp::01-00-5e-00-00-01", "01-00-5e-00-00-01 is no"),
        ("ip=eth0:any:1000", "the MTU is too small for IPv6"),
        ("ip=::::a_host!::dhcp", "a_host! is no host name"),
        ("ip=::::0123456789012345678901234567890123456789012345678901234567890123a::dhcp", "is no host name"),
        ("ip=:::::a/b:dhcp", "a/b is no name of a link"),
        ("ip=:::::..:dhcp", ".. is no name of a link"),
        ("ip=0123456789abcdef:dhcp", "0123456789abcdef is no name of a link"),
        ("ip=lo:dhcp", "lo is no name of an Ethernet link"),
        ("bootdev=lo", "lo is no name of an Ethernet link"),
        ("ifname=all:52:54:00:12:34:56", "all is no name of an Ethernet link"),
        ("bond=default:eth0:mode=1", "default is no name of an Ethernet link"),
        ("vlan=eth0.5:lo", "lo is no name of an Ethernet link"),
        ("ip=::::::dhcp::52:54:00:12:34:56", "for no certain link"),
    ]);
}

#[test]
fn two_for_one_device_that_contradict() {
    refuses(&[
        ("ip=dhcp ip=dhcp,dhcp6", "its IPv4 address is given twice for one device"),
        ("ip=eth0:dhcp ip=eth0:dhcp:1400", "its IPv4 address is given twice"),
        ("ip=eth0:dhcp ip=:::::eth0:any", "its IPv4 address is given twice"),
        ("ip=eth0:dhcp ip=10.0.0.2:::24::eth0:off", "its IPv4 address is given twice"),
        ("ip=eth0:auto6 ip=eth0:dhcp6", "its IPv6 address is given twice"),
        ("ip=[2001:db8::2]:::::eth0 ip=eth0:auto6", "its IPv6 address is given twice"),
        ("ip=10.0.0.2::10.0.0.1:24::eth0 ip=10.0.0.3::10.0.0.1:24::eth0", "its gateway is given twice"),
        ("ip=eth0:dhcp:1500 ip=eth0:auto6:1400", "its MTU or hardware address is given twice"),
        ("ip=::::a:eth0:dhcp ip=::::b:eth0:auto6", "its host name is given twice"),
        ("ip=eth0:off ip=eth0:dhcp", "off is given twice"),
        ("ip=off ip=dhcp", "off is given twice"),
        ("ip=a:dhcp ip=52-54-00-12-34-56:any ifname=a:52:54:00:12:34:56", "its IPv4 address is given twice"),
    ]);
}

#[test]
fn an_installers_form() {
    refuses(&[
        ("ip=10.0.0.2 netmask=255.255.255.0 gateway=10.0.0.1", "gateway is not supported beside ip="),
        ("ksdevice=eth0 ip=10.0.0.2", "ksdevice is not supported beside ip="),
    ]);
}

#[test]
fn links_that_contradict() {
    refuses(&[
        ("BOOTIF=20-52-54-00-12-34-56", "is no hardware address"),
        ("BOOTIF=01-", "is no hardware address"),
        ("BOOTIF=", "nothing is no hardware address"),
        ("BOOTIF=52-54-00-12-34-56 BOOTIF=52-54-00-12-34-57", "is another than was given before"),
        ("BOOTIF=52-54-00-12-34-56 ip=52-54-00-12-34-56:off", "one link is used and not used"),
        ("BOOTIF=52-54-00-12-34-56 bootdev=52-54-00-12-34-57", "another link than BOOTIF= has"),
        ("BOOTIF=52-54-00-12-34-56 bootdev=a ifname=a:52-54-00-12-34-57", "another link than BOOTIF= has"),
        ("bootdev=", "nothing is no link"),
        ("bootdev=eth0 bootdev=eth1", "eth1 is another than was given before"),
        ("ifname=bootnet", "bootnet is no name and hardware address"),
        ("ifname=bootnet:00", "00 is no hardware address"),
        ("ifname=a:52:54:00:12:34:56 ifname=a:52:54:00:12:34:57", "a is the name of two links"),
        ("ifname=a:52:54:00:12:34:56 ifname=b:52:54:00:12:34:56", "a is one of two names for one link"),
        ("ifname=a:52:54:00:12:34:56 ip=a:dhcp::52:54:00:12:34:57", "the hardware address that is to change"),
        ("rd.bootif=maybe", "maybe is neither true nor false"),
        ("rd.peerdns=x", "x is neither true nor false"),
    ]);
}

#[test]
fn routes_that_are_none() {
    refuses(&[
        ("rd.route=", "nothing is no route"),
        ("rd.route=10.0.0.0/8", "is no route"),
        ("rd.route=10.0.0.0/8:", "is no route"),
        ("rd.route=10.0.0.0/8::", "is no route"),
        ("rd.route=10.0.0.0/8:10.0.0.1:eth0:1", "is no route"),
        ("rd.route=10.0.0.0/33:10.0.0.1", "33 is no prefix length"),
        ("rd.route=10.0.0.0/8:[2001:db8::1]", "is a mix of IPv4 and IPv6"),
        ("rd.route=[2001:db8::/32]:[fe80::1]", "a gateway on no certain link"),
        ("rd.route=2001:db8::/32:eth0", "is no route"),
    ]);
}

#[test]
fn vlans_that_cannot_be_made() {
    refuses(&[
        ("vlan=eth0.5", "eth0.5 is no VLAN and its link"),
        ("vlan=", "nothing is no VLAN and its link"),
        ("vlan=eth0.5:", "nothing is no name of a link"),
        ("vlan=eth0.0:eth0", "eth0.0 is no name of a VLAN"),
        ("vlan=eth0.4095:eth0", "eth0.4095 is no name of a VLAN"),
        ("vlan=office:eth0", "office is no name of a VLAN"),
        ("vlan=vlan:eth0", "vlan is no name of a VLAN"),
        ("vlan=eth0.5:eth0 vlan=eth0.5:eth1", "eth0.5 is the name of two links"),
        ("vlan=eth0.5:eth0 vlan=vlan5:eth0", "eth0.5 is there twice on its link"),
        ("vlan=eth0.5:eth0 vlan=eth0.5.7:eth0.5", "eth0.5 is a VLAN itself"),
        ("vlan=vlan5:vlan5", "vlan5 is a VLAN itself"),
        ("vlan=eth0.5:eth0 bond=bond0:eth0,eth1:mode=1", "eth0 is a member of a bond"),
        ("vlan=eth0.5:eth0 ifname=eth0.5:52:54:00:12:34:56", "eth0.5 is the name of two links"),
    ]);
}

#[test]
fn bonds_that_cannot_be_made() {
    refuses(&[
        ("bond", "bond: nothing is no bond that is supported"),
        ("bond=bond0", "bond0 is no bond that is supported"),
        ("bond=bond0:eth0,eth1", "is no bond that is supported"),
        ("bond=bond0:eth0,eth1:miimon=100", "balance-rr, the mode of a bond without one is not supported"),
        ("bond=bond0:eth0,eth1:mode=balance-rr", "mode=balance-rr is not supported"),
        ("bond=bond0:eth0,eth1:mode=6", "mode=6 is not supported"),
        ("bond=bond0::mode=1", "nothing is no name of a link"),
        ("bond=bond0:eth0,eth0:mode=1", "eth0 is named twice"),
        ("bond=bond0:eth0,bond0:mode=1", "bond0 is named twice"),
        ("bond=bond0:eth0:mode=1:20", "20 is no MTU"),
        ("bond=bond0:eth0:mode=1:1500:x", "is no bond that is supported"),
        ("bond=bond0:eth0:mode=1,mode=1", "mode is given twice"),
        ("bond=bond0:eth0:mode=1,miimon=0", "miimon=0 is not supported"),
        ("bond=bond0:eth0:mode=1,updelay=150", "updelay or downdelay is no multiple of miimon"),
        ("bond=bond0:eth0:mode=1,primary=eth7", "primary=eth7 is no member of the bond"),
        ("bond=bond0:eth0:mode=4,primary=eth0", "primary is without effect"),
        ("bond=bond0:eth0:mode=1,lacp_rate=1", "lacp_rate or xmit_hash_policy is without effect"),
        ("bond=bond0:eth0:mode=4,lacp_rate=2", "lacp_rate=2 is not supported"),
        ("bond=bond0:eth0:mode=4,xmit_hash_policy=9", "xmit_hash_policy=9 is not supported"),
        ("bond=bond0:eth0:mode=1,arp_interval=100", "arp_interval=100 is not supported"),
        ("bond=a:eth0:mode=1 bond=b:eth0:mode=1", "eth0 is a member of two bonds"),
        ("bond=a:eth0:mode=1 bond=a:eth1:mode=1", "a is the name of two links"),
        ("bond=a:eth0:mode=1 bond=b:a:mode=1", "a is no Ethernet link of its own"),
        ("bond=a:eth0:mode=1 ip=eth0:dhcp", "eth0 is a member of a bond"),
        ("bond=a:eth0:mode=1 bootdev=eth0", "eth0 is a member of a bond"),
    ]);
}

#[test]
fn devices_of_other_kinds() {
    refuses(&[
        ("bridge=br0:eth0", "bridge is not supported"),
        ("team=team0:eth0,eth1", "team is not supported"),
    ]);
}

#[test]
fn more_than_sixteen() {
    let line = |each: fn(usize) -> String, count| (0..count).map(each).collect::<String>();
    let kinds: [fn(usize) -> String; 6] = [
        |n| format!("nameserver=192.0.2.{} ", n + 1),
        |n| format!("ip=eth{n}:dhcp "),
        |n| format!("vlan=eth0.{}:eth0 ", n + 1),
        |n| format!("bond=bond{n}:eth{n}:mode=1 "),
        |n| format!("rd.route=10.{n}.0.0/16:192.0.2.1 "),
        |n| format!("ifname=net{n}:52:54:00:12:34:{n:02x} "),
    ];
    for each in kinds {
        assert!(Given::parse(&line(each, 16)).is_ok(), "{}", each(0));
        refuses(&[(&line(each, 17), "is one too many")]);
    }
}

#[test]
fn foreign_text_cannot_forge_a_line() {
    let text = Given::parse("ip=eth0:\u{1b}[2J").unwrap_err().to_string();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let text = Given::parse(&format!("ip=eth0:{}", "x".repeat(4000))).unwrap_err().to_string();
    assert!(text.len() < 700, "{}", text.len());
}
