//! A switch port that spanning tree blocks at first: a Linux bridge.

use std::process::Command;
use std::time::{Duration, Instant};

use phaseboot::config::network::Given;
use phaseboot::net::{Caller, Event, Settings};

use crate::lab::{Lab, Watched, in_namespaces, ip};

fn given(line: &str) -> Settings {
    Settings { given: Given::parse(line).unwrap(), ..Settings::default() }
}

/// A bridge, server0, whose port to the client forwards four seconds after it has carrier.
fn bridge(lab: &mut Lab) {
    lab.server_ip(
        "link add server0 address 02:00:00:00:00:99 type bridge stp_state 1 forward_delay 200 hello_time 100",
    );
    lab.server_ip("addr add 10.99.0.1/24 dev server0");
    lab.server_ip(&format!("link add port0 type veth peer name eth0 netns {}", lab.client));
    lab.server_ip("link set port0 master server0");
    lab.server_ip("link set server0 up");
}

#[test]
fn a_port_that_spanning_tree_blocks_is_waited_for_and_hurried_when_it_forwards() {
    let name = "tree::a_port_that_spanning_tree_blocks_is_waited_for_and_hurried_when_it_forwards";
    in_namespaces(
        name,
        |paths| {
            let started = Instant::now();
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert_eq!(uplink.interface, "eth0");
            // Twice two seconds; then without the rest of a wait that has grown to eight.
            let took = started.elapsed().as_secs_f64();
            assert!((3.0..7.0).contains(&took), "{took}");
        },
        || {
            let mut lab = Lab::new(0);
            bridge(&mut lab);
            lab.serve(0, &[]);
            lab.server_ip("link set port0 up");
            // Discovery of duplicates and reports of multicast: the port's own, which no state holds back.
            lab.run(name, |lab| {
                for n in 1..=3 {
                    std::thread::sleep(Duration::from_millis(700));
                    lab.server_ip(&format!("addr add fd99:{n}::1/64 dev port0"));
                }
            });
        },
    );
}

/// Bridges speak without a tag. A device that hears nobody but the server stands for the VLAN, so that a kernel without
/// 8021q does, too.
#[test]
fn a_port_that_is_blocked_is_seen_below_a_vlan() {
    let name = "tree::a_port_that_is_blocked_is_seen_below_a_vlan";
    in_namespaces(
        name,
        |paths| {
            let vlan = "link add link eth0 name eth0.7 type macvlan mode source";
            if !Command::new("ip").args(vlan.split(' ')).status().unwrap().success() {
                return println!("{name} skipped: a kernel without macvlan");
            }
            ip("link set link dev eth0.7 type macvlan macaddr add 02:00:00:00:00:99");
            let started = Instant::now();
            let mut watched =
                Watched::start(paths, given("vlan=eth0.7:eth0 ip=eth0.7:dhcp"), Caller::Init, 30);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert_eq!(uplink.interface, "eth0.7");
            // As above: the wait that has grown ends after seven seconds.
            let took = started.elapsed().as_secs_f64();
            assert!((3.0..6.0).contains(&took), "{took}");
        },
        || {
            let mut lab = Lab::new(0);
            bridge(&mut lab);
            lab.serve(0, &[]);
            lab.server_ip("link set port0 up");
            lab.run(name, |_| {});
        },
    );
}

/// They have their time from when the port forwards: before, nobody could be heard.
#[test]
fn routers_behind_a_port_that_is_blocked_come_before_dhcpv6_without_them() {
    let name = "tree::routers_behind_a_port_that_is_blocked_come_before_dhcpv6_without_them";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, given("ip=eth0:either6"), Caller::Init, 30);
            let told = |uplink: &phaseboot::net::Uplink| uplink.ipv6.as_ref().unwrap().server.is_some();
            let uplink = watched.until(told);
            assert_eq!(uplink.search, ["example.org"]);
        },
        || {
            let mut lab = Lab::new(0);
            bridge(&mut lab);
            let search = "--dhcp-option=option6:domain-search,example.org";
            lab.serve6(0, &["--dhcp-range=fd99:0::,ra-stateless,64,1h", search]);
            lab.server_ip("link set port0 up");
            lab.run(name, |_| {});
        },
    );
}
