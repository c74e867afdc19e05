//! Several links under one thread: which come up, in which order, and what is left when one carries.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use phaseboot::net::{Caller, Error, Event, Settings, names};
use serde_json::Value;

use crate::lab::{Lab, Watched, in_namespaces, read, show};

fn is_up(link: &Value) -> bool {
    link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP")
}

#[test]
fn one_of_four_is_alive_and_the_others_are_put_back_down() {
    let name = "many::one_of_four_is_alive_and_the_others_are_put_back_down";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert_eq!((uplink.interface.as_str(), uplink.bound), ("eth2", true));
            assert!((0..4).all(|n| is_up(&show(&format!("link show dev eth{n}"))[0])));
            let arp = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth2/arp_ignore").unwrap();
            assert_eq!(arp(), "1\n");
            watched.network.settle("eth2");
            watched.network.hand_over();
            let up: Vec<bool> = (0..4).map(|n| is_up(&show(&format!("link show dev eth{n}"))[0])).collect();
            assert_eq!(up, [false, false, true, false]);
            assert_eq!(arp(), "0\n");
            assert_eq!(show("route show default")[0]["dev"], "eth2");
            let kept: Value = serde_json::from_str(&read(&paths.lease()).unwrap()).unwrap();
            assert_eq!(kept["interface"], "eth2");
        },
        || {
            let mut lab = Lab::new(4);
            // One without carrier, one silent, one alive, one silent.
            lab.cable(0, "down");
            lab.serve(2, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// Fifteen dead links bring nothing before the one that lives: it is the first thing that is told.
#[test]
fn sixteen_links_cost_no_more_than_one() {
    let name = "many::sixteen_links_cost_no_more_than_one";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert_eq!(uplink.interface, "eth13");
            assert!(uplink.ipv4.is_some());
            watched.network.settle("eth13");
            watched.network.hand_over();
            let up = (0..16).filter(|n| is_up(&show(&format!("link show dev eth{n}"))[0])).count();
            assert_eq!(up, 1);
        },
        || {
            let mut lab = Lab::new(16);
            (0..8).for_each(|n| lab.cable(n, "down"));
            lab.serve(13, &[]);
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn two_links_are_up_at_once_each_with_routes_of_its_own() {
    let name = "many::two_links_are_up_at_once_each_with_routes_of_its_own";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let first = watched.until(|uplink| uplink.ipv4.is_some());
            let second = watched.until(|uplink| uplink.ipv4.is_some() && uplink.interface != first.interface);
            let default = show("route show default");
            let mut metrics: Vec<u64> =
                default.as_array().unwrap().iter().map(|r| r["metric"].as_u64().unwrap()).collect();
            metrics.sort_unstable();
            metrics.dedup();
            assert_eq!(metrics.len(), 2, "{default}");
            for n in [0, 1] {
                let route = show(&format!("route show 192.0.2.{n}"));
                assert_eq!(route[0]["gateway"], format!("10.99.{n}.1"), "{route}");
            }
            // One server that both name is asked over the link whose turn it is.
            for name in ["eth0", "eth1", "eth0", "eth1"] {
                let uplink = [&first, &second].into_iter().find(|uplink| uplink.interface == name).unwrap();
                let _turn = names::for_uplink(paths, uplink);
                assert_eq!(show("route get 192.0.2.9")[0]["dev"], name);
                let wanted = uplink.dns[0].to_string();
                assert!(read(&paths.resolv_conf()).unwrap().contains(&format!("nameserver {wanted}\n")));
            }
            watched.network.settle("eth1");
            watched.network.hand_over();
            assert_eq!(show("route show default").as_array().unwrap().len(), 1);
            assert!(!show("addr show dev eth0").to_string().contains("10.99.0."));
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &["--dhcp-option=6,192.0.2.0,192.0.2.9"]);
            lab.serve(1, &["--dhcp-option=6,192.0.2.1,192.0.2.9"]);
            lab.run(name, |_| {});
            // The loser's lease was given back, the winner's was kept.
            lab.wait_for_log("DHCPRELEASE(server0)", 1);
            let logs = lab.logs();
            assert!(
                logs.contains("DHCPRELEASE(server0)") && !logs.contains("DHCPRELEASE(server1)"),
                "{logs}"
            );
        },
    );
}

#[test]
fn a_link_that_loses_carrier_goes_and_comes_back_with_its_address() {
    let name = "many::a_link_that_loses_carrier_goes_and_comes_back_with_its_address";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let first = watched.until(|uplink| uplink.complete);
            watched.exhausted();
            // What is over within three seconds nobody is told of.
            std::fs::write(paths.run().join("ready"), "").unwrap();
            watched.quiet(3500);
            std::fs::write(paths.run().join("longer"), "").unwrap();
            while !matches!(watched.next(), Event::Down(name) if name == "eth0") {}
            let again = watched.until(|_| true);
            assert_eq!(again.ipv4, first.ipv4);
            // Then it disappears, and another appears.
            std::fs::write(paths.run().join("again"), "").unwrap();
            while !matches!(watched.next(), Event::Down(name) if name == "eth0") {}
            assert_eq!(watched.until(|_| true).interface, "eth1");
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.cable(0, "down");
                // The kernel reports what lasts: linkwatch holds events back for up to a second.
                thread::sleep(Duration::from_millis(1800));
                lab.cable(0, "up");
                lab.wait_for("run/phaseboot/longer");
                lab.cable(0, "down");
                thread::sleep(Duration::from_millis(4500));
                lab.cable(0, "up");
                lab.wait_for("run/phaseboot/again");
                lab.server_ip("link del server0");
                lab.link(1);
                lab.serve(1, &[]);
            });
        },
    );
}

#[test]
fn hope_ends_with_the_last_link_and_each_tells_its_story() {
    let name = "many::hope_ends_with_the_last_link_and_each_tells_its_story";
    in_namespaces(
        name,
        |paths| {
            // A command need not wait for drivers: one link that is complete is all there is.
            let mut watched = Watched::start(paths, Settings::default(), Caller::Command, 30);
            let error = watched.exhausted();
            assert_eq!(watched.told.last().unwrap(), "exhausted");
            let Error::NoLease { links } = &error else { panic!("{error}") };
            assert!(
                links.starts_with("eth0: address 10.99.0.") && links.ends_with("; eth1: no carrier"),
                "{links}"
            );
            watched.quiet(300);
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.cable(1, "down");
            lab.run(name, |_| {});
        },
    );
}

/// Drivers of further cards are still being tried: what is there is not all there is.
#[test]
fn hope_does_not_end_before_the_last_driver_was_tried() {
    let name = "many::hope_does_not_end_before_the_last_driver_was_tried";
    in_namespaces(
        name,
        |paths| {
            let (watched_end, trying) = std::io::pipe().unwrap();
            let drivers = Some(Arc::new(OwnedFd::from(watched_end)));
            let settings = Settings { drivers, ..Settings::default() };
            let mut watched = Watched::start(paths, settings, Caller::Command, 30);
            assert_eq!(watched.until(|uplink| uplink.complete).interface, "eth0");
            watched.quiet(1000);
            drop(trying);
            watched.exhausted();
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// Both answer on a network of their own as far as they know: neither may answer for the other, and what
/// is sent over one comes back over it.
#[test]
fn two_links_in_one_network_are_both_of_use() {
    let name = "many::two_links_in_one_network_are_both_of_use";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            while !["up eth0", "up eth1"].iter().all(|up| watched.told.iter().any(|told| told == up)) {
                watched.next();
            }
            for device in ["eth0", "eth1", "eth0", "eth1"] {
                let socket = rustix::net::socket(
                    rustix::net::AddressFamily::INET,
                    rustix::net::SocketType::STREAM,
                    None,
                )
                .unwrap();
                phaseboot::sys::packet::bind_to_device(socket.as_fd(), device).unwrap();
                let server: SocketAddrV4 = "10.99.0.1:5300".parse().unwrap();
                rustix::net::connect(&socket, &server).unwrap();
                let own = rustix::net::getsockname(&socket).unwrap();
                let own = SocketAddrV4::try_from(own).unwrap();
                let addresses = show(&format!("-4 addr show dev {device}"));
                assert_eq!(addresses[0]["addr_info"][0]["local"], own.ip().to_string());
            }
        },
        || {
            let mut lab = Lab::new(0);
            lab.server_ip("link add server0 type bridge forward_delay 0");
            lab.server_ip("addr add 10.99.0.1/24 dev server0");
            for n in [0, 1] {
                lab.server_ip(&format!("link add port{n} type veth peer name eth{n} netns {}", lab.client));
                lab.server_ip(&format!("link set port{n} master server0"));
                lab.server_ip(&format!("link set port{n} up"));
            }
            lab.server_ip("link set server0 up");
            lab.serve(0, &[]);
            // Something to connect to.
            let names = "--keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --bind-interfaces \
                         --log-facility=- --port=5300 --no-resolv --listen-address=10.99.0.1";
            lab.spawn("names", "dnsmasq", &names.split(' ').collect::<Vec<_>>());
            // It says how many names it keeps when it listens; the one that serves DHCP keeps none.
            lab.wait_for_log(" cachesize ", 1);
            lab.run(name, |_| {});
        },
    );
}
