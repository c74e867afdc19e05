//! Several links: which is taken, and what becomes of the others.

use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::error::Exit;
use phaseboot::net::{self, Caller, Error, Settings, Transport};
use phaseboot::time::Deadline;
use serde_json::Value;

use crate::lab::{Lab, Watched, after, in_namespaces, ip, read, show, up};

#[test]
fn a_lease_with_a_router_wins() {
    let name = "links::a_lease_with_a_router_wins";
    in_namespaces(
        name,
        |paths| {
            let lease = up(paths, Transport::Auto, 10).unwrap();
            assert_eq!(lease.interface, "eth1");
            assert!(!show("-4 addr show dev eth0").to_string().contains("10.99.0."));
            // Without a choice it is taken, and with a silent neighbour after a second.
            let lease = net::up(paths, Some("eth0"), Deadline::after(Duration::from_secs(5))).unwrap();
            assert_eq!((lease.interface.as_str(), lease.ipv4.unwrap().routes.len()), ("eth0", 0));
            ip("link del eth1");
            let started = Instant::now();
            let lease = up(paths, Transport::Auto, 10).unwrap();
            let took = started.elapsed();
            assert_eq!(lease.interface, "eth0");
            assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
        },
        || {
            let mut lab = Lab::new(3);
            lab.serve(0, &["--dhcp-option=3"]);
            lab.serve(1, &[]);
            lab.wait_for_servers(2);
            lab.run(name, |_| {});
        },
    );
}

/// Each run is another process, as each attempt of a machine is.
#[test]
fn an_attempt_that_led_nowhere_is_followed_by_one_over_another_link() {
    let name = "links::an_attempt_that_led_nowhere_is_followed_by_one_over_another_link";
    in_namespaces(
        name,
        |paths| {
            let before = read(&paths.lease()).map(|json| serde_json::from_str::<Value>(&json).unwrap());
            let started = Instant::now();
            let lease = net::up_with(paths, Settings::default(), Caller::Init, after(10)).unwrap();
            let took = started.elapsed();
            let Ok(before) = before else { return assert_eq!(lease.interface, "eth0") };
            assert_eq!(show("route show default").as_array().unwrap().len(), 1);
            assert_eq!(lease.interface, "eth1");
            if before["interface"] == "eth0" {
                assert!(took < Duration::from_secs(3), "{took:?}");
                let left = show("-4 addr show dev eth0");
                assert!(!left.to_string().contains("10.99.0."), "{left}");
            } else {
                // By now eth0 is silent.
                assert!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&took), "{took:?}");
            }
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
            lab.serve(1, &[]);
            lab.run(name, |_| {});
            lab.stop();
            lab.serve(1, &[]);
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn only_attempts_of_pid_1_distrust_their_own_lease() {
    let name = "links::only_attempts_of_pid_1_distrust_their_own_lease";
    in_namespaces(
        name,
        |paths| {
            let within = || Deadline::after(Duration::from_secs(10));
            let lease = net::up(paths, Some("eth1"), within()).unwrap();
            let written = || std::fs::metadata(paths.lease()).unwrap().ino();
            // Not whether there is carrier: what is left of it the kernel tells up to a second later.
            let set = || {
                let links = show("-4 addr show");
                let links = links.as_array().unwrap().iter().filter(|link| link["ifname"].is_string());
                let of = |link: &Value| {
                    let is_up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
                    (link["ifname"].clone(), is_up, link["addr_info"].clone())
                };
                links.map(of).collect::<Vec<_>>()
            };
            let (was_set, before) = (set(), written());
            assert!(was_set.iter().any(|(name, ..)| name == "eth1"), "{was_set:?}");
            let mut watched = Watched::start(paths, Settings::default(), Caller::Command, 10);
            watched.exhausted();
            drop(watched);
            assert_eq!(written(), before);
            assert_eq!(set(), was_set);
            assert_eq!(show("route show default")[0]["prefsrc"], lease.ipv4.unwrap().address.to_string());

            net::up_with(paths, Settings::default(), Caller::Init, within()).unwrap();
            let kept: Value = serde_json::from_str(&read(&paths.lease()).unwrap()).unwrap();
            assert_eq!(kept["interface"], "eth0");
            assert_eq!(show("route show default")[0]["dev"], "eth0");
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.serve(1, &[]);
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn silent_link_delays_nothing() {
    in_namespaces(
        "links::silent_link_delays_nothing",
        |paths| {
            let started = Instant::now();
            let lease = up(paths, Transport::Auto, 20).unwrap();
            assert_eq!(lease.interface, "eth1");
            assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(1, &[]);
            lab.wait_for_servers(1);
            lab.run("links::silent_link_delays_nothing", |_| {});
        },
    );
}

#[test]
fn only_the_named_link_is_used() {
    in_namespaces(
        "links::only_the_named_link_is_used",
        |paths| {
            let within = |seconds| Deadline::after(Duration::from_secs(seconds));
            let lease = net::up(paths, Some("eth1"), within(10)).unwrap();
            assert_eq!(lease.interface, "eth1");
            assert_ne!(show("link show dev eth0")[0]["operstate"], "UP");
            let error = net::up(paths, Some("eth7"), within(1)).unwrap_err();
            assert!(
                error.to_string().starts_with("no network link \"eth7\" in 1 s, only lo, eth"),
                "{error}"
            );
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.serve(1, &[]);
            lab.run("links::only_the_named_link_is_used", |_| {});
        },
    );
}

#[test]
fn no_server_ends_at_the_deadline() {
    in_namespaces(
        "links::no_server_ends_at_the_deadline",
        |paths| {
            let started = Instant::now();
            let error = up(paths, Transport::Auto, 2).unwrap_err();
            let took = started.elapsed();
            assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&took), "{took:?}");
            assert_eq!(error.exit(), Exit::NoNetwork);
            let line = error.to_string();
            assert!(line.starts_with("eth0: no answer to "), "{line}");
            let end = " s, no IPv6 router advertised itself; eth1: no carrier";
            assert!(line.ends_with(end), "{line}");
            assert!(!paths.lease().exists());
        },
        || {
            let mut lab = Lab::new(2);
            lab.cable(1, "down");
            lab.run("links::no_server_ends_at_the_deadline", |_| {});
        },
    );
}

#[test]
fn no_carrier_and_no_link_say_so() {
    in_namespaces(
        "links::no_carrier_and_no_link_say_so",
        |paths| {
            let error = up(paths, Transport::Auto, 1).unwrap_err();
            assert_eq!(error.to_string(), "eth0: no carrier");
            assert!(matches!(error, Error::NoCarrier { .. }));
            ip("link del eth0");
            ip("link add bridge0 type bridge");
            let error = up(paths, Transport::Auto, 1).unwrap_err();
            assert_eq!(error.to_string(), "no network link found in 1 s, only lo, bridge0");
            assert!(error.hint().contains("driver"));
        },
        || {
            let mut lab = Lab::new(1);
            lab.cable(0, "down");
            lab.run("links::no_carrier_and_no_link_say_so", |_| {});
        },
    );
}

#[test]
fn late_carrier_and_late_link_join() {
    in_namespaces(
        "links::late_carrier_and_late_link_join",
        |paths| {
            let started = Instant::now();
            assert_eq!(up(paths, Transport::Auto, 20).unwrap().interface, "eth0");
            assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
            ip("link del eth0");
            assert_eq!(up(paths, Transport::Auto, 20).unwrap().interface, "eth1");
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.cable(0, "down");
            lab.run("links::late_carrier_and_late_link_join", |lab| {
                thread::sleep(Duration::from_millis(700));
                lab.cable(0, "up");
                thread::sleep(Duration::from_millis(1500));
                lab.link(1);
                lab.serve(1, &[]);
            });
        },
    );
}
