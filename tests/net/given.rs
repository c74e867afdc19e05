//! What the kernel command line gives: addresses, names, routes.

use phaseboot::config::network::Given;
use phaseboot::net::{Caller, Event, Origin, Origin6, Settings};

use crate::lab::{Lab, Watched, in_namespaces, ip, show};

fn given(line: &str) -> Settings {
    Settings { given: Given::parse(line).unwrap(), ..Settings::default() }
}

#[test]
fn an_address_that_is_given_is_set_at_once() {
    let name = "given::an_address_that_is_given_is_set_at_once";
    in_namespaces(
        name,
        |paths| {
            let settings = given(
                "ip=10.99.0.7::203.0.113.1:255.255.255.255::eth0:none:192.0.2.53 nameserver=192.0.2.54",
            );
            let mut watched = Watched::start(paths, settings, Caller::Init, 10);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            let lease = uplink.ipv4.unwrap();
            assert_eq!((lease.origin, lease.prefix, uplink.complete), (Origin::Static, 32, true));
            assert_eq!(uplink.dns.len(), 2);
            let default = show("route show default");
            assert_eq!(
                (&default[0]["gateway"], &default[0]["flags"][0]),
                (&"203.0.113.1".into(), &"onlink".into())
            );
            assert_ne!(show("link show dev eth1")[0]["operstate"], "UP");
            drop(watched);
            // The next attempt takes it away.
            let mut watched =
                Watched::start(paths, given("ip=10.99.0.8::10.99.0.1:24::eth0:none"), Caller::Init, 10);
            watched.until(|uplink| uplink.ipv4.is_some());
            let addresses = show("-4 addr show dev eth0");
            assert_eq!(addresses[0]["addr_info"].as_array().unwrap().len(), 1, "{addresses}");
            assert_eq!(addresses[0]["addr_info"][0]["local"], "10.99.0.8");
            assert_eq!(show("route show default").as_array().unwrap().len(), 1);
        },
        || Lab::new(2).run(name, |_| {}),
    );
}

#[test]
fn an_ipv6_address_that_is_given_is_set_at_once() {
    let name = "given::an_ipv6_address_that_is_given_is_set_at_once";
    in_namespaces(
        name,
        |paths| {
            let settings = given("ip=[fd99:0::7]::[fd99:0::1]:64::eth0:none nameserver=[fd99:0::53]");
            let mut watched = Watched::start(paths, settings, Caller::Init, 10);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert!(uplink.complete && uplink.ipv4.is_none(), "{uplink:?}");
            let side = uplink.ipv6.unwrap();
            assert_eq!((side.addresses.len(), side.addresses[0].origin), (1, Origin6::Static));
            assert_eq!(side.router.unwrap().to_string(), "fd99::1");
            let default = show("-6 route show default");
            assert_eq!(default[0]["gateway"], "fd99::1");
        },
        || Lab::new(1).run(name, |_| {}),
    );
}

#[test]
fn links_get_the_names_and_addresses_that_are_given() {
    let name = "given::links_get_the_names_and_addresses_that_are_given";
    in_namespaces(
        name,
        |paths| {
            ip("link set eth1 address 02:00:00:00:00:01");
            let line =
                "ifname=boot0:02:00:00:00:00:01 ip=boot0:dhcp:1400 rd.route=198.51.100.0/24:10.99.1.9:boot0";
            let mut watched = Watched::start(paths, given(line), Caller::Init, 15);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert_eq!(uplink.interface, "boot0");
            assert_eq!(show("link show dev boot0")[0]["mtu"], 1400);
            assert_eq!(show("route show 198.51.100.0/24")[0]["gateway"], "10.99.1.9");
            assert_ne!(show("link show dev eth0")[0]["operstate"], "UP");
            drop(watched);
            let line = "ip=eth0:dhcp:1500:02:00:00:00:00:07";
            let mut watched = Watched::start(paths, given(line), Caller::Init, 15);
            assert_eq!(watched.until(|_| true).ipv4.unwrap().mac, [2, 0, 0, 0, 0, 7]);
            // The other takes no part this time, and is as it was.
            let link = show("link show dev boot0");
            assert_eq!((&link[0]["mtu"], &link[0]["operstate"]), (&1500.into(), &"DOWN".into()));
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.serve(1, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// This kernel may have VLANs or not: either it is used, or its story says why not.
#[test]
fn a_vlan_is_made_or_its_story_told() {
    let name = "given::a_vlan_is_made_or_its_story_told";
    in_namespaces(
        name,
        |paths| {
            let mut watched =
                Watched::start(paths, given("vlan=eth0.7:eth0 ip=eth0.7:dhcp"), Caller::Command, 3);
            match watched.next() {
                Event::Up(uplink) => assert_eq!(uplink.interface, "eth0.7"),
                Event::Exhausted(error) => {
                    assert!(error.to_string().contains("eth0.7: kernel refused to make it"), "{error}");
                }
                other => panic!("{other:?}"),
            }
        },
        || Lab::new(1).run(name, |_| {}),
    );
}
