//! What the kernel command line gives: addresses, names, routes.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// The kernel takes IPv6 off a link with less than 1280 bytes.
#[test]
fn an_mtu_of_a_lease_takes_no_ipv6_away() {
    let name = "given::an_mtu_of_a_lease_takes_no_ipv6_away";
    in_namespaces(
        name,
        |paths| {
            let mtu = || show("link show dev eth0")[0]["mtu"].as_u64();
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 15);
            let uplink = watched.until(|uplink| uplink.ipv4.is_some() && uplink.ipv6.is_some());
            assert_eq!((uplink.ipv4.unwrap().mtu, mtu()), (Some(1000), Some(1500)));
            let own = show("-6 addr show dev eth0 scope global").to_string();
            assert!(own.contains("fd99:"), "{own}");
            drop(watched);
            // Where there is none it counts.
            let mut watched = Watched::start(paths, given("ip=eth0:dhcp"), Caller::Init, 15);
            watched.until(|uplink| uplink.ipv4.is_some());
            assert_eq!(mtu(), Some(1000));
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &["--dhcp-option=26,1000"]);
            lab.serve6(0, &["--dhcp-range=fd99:0::,ra-only"]);
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn a_small_mtu_of_a_lease_counts_where_the_kernel_has_no_ipv6() {
    let name = "given::a_small_mtu_of_a_lease_counts_where_the_kernel_has_no_ipv6";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 15);
            watched.until(|uplink| uplink.ipv4.is_some());
            assert_eq!(show("link show dev eth0")[0]["mtu"], 1000);
        },
        || {
            let mut lab = Lab::new(1);
            let proc = lab.folder.path().join("proc");
            std::fs::create_dir_all(proc.join("sys/net")).unwrap();
            for shown in ["net", "sys/net/ipv4"] {
                symlink(format!("/proc/{shown}"), proc.join(shown)).unwrap();
            }
            lab.serve(0, &["--dhcp-option=26,1000"]);
            lab.run(name, |_| {});
        },
    );
}

/// An ifb takes no other hardware address. With its own it would ask for the lease of another machine.
#[test]
fn a_link_that_cannot_have_its_hardware_address_takes_no_part() {
    let name = "given::a_link_that_cannot_have_its_hardware_address_takes_no_part";
    in_namespaces(
        name,
        |paths| {
            let line = "ip=ifb7:dhcp:1500:02:00:00:00:00:07 ip=eth0:dhcp";
            let started = Instant::now();
            let mut watched = Watched::start(paths, given(line), Caller::Command, 25);
            let error = watched.exhausted().to_string();
            let story = "ifb7: kernel refused to set the hardware address of it: ";
            assert!(error.contains(story), "{error}");
            // Not waited for.
            let took = started.elapsed();
            assert!((Duration::from_secs(14)..Duration::from_secs(20)).contains(&took), "{took:?}");
            assert!(show("link show dev ifb7")[0]["flags"].to_string().contains("UP"), "left as it was");
        },
        || {
            let lab = &mut Lab::new(1);
            lab.cable(0, "down");
            let made = Command::new("ip")
                .args(["-n", &lab.client, "link", "add", "ifb7", "type", "ifb"])
                .stderr(Stdio::null())
                .status();
            if !made.unwrap().success() {
                return println!("{name} skipped: no ifb in this kernel");
            }
            ip(&format!("-n {} link set ifb7 up", lab.client));
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

/// What `ip -4 addr` shows of eth0: address, prefix and, of a point-to-point link, the other end.
fn set_on_eth0() -> Vec<(String, u64, Option<String>)> {
    let shown = show("-4 addr show dev eth0");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let address = |set: &serde_json::Value| {
        (text(&set["local"]).unwrap(), set["prefixlen"].as_u64().unwrap(), text(&set["address"]))
    };
    shown[0]["addr_info"].as_array().into_iter().flatten().map(address).collect()
}

#[test]
fn the_kernel_takes_every_form_of_an_address() {
    let name = "given::the_kernel_takes_every_form_of_an_address";
    in_namespaces(
        name,
        |paths| {
            for (line, addresses, gateway, reached) in [
                (
                    "ip=10.99.0.7:10.99.0.1/32:10.99.0.1:::eth0:off",
                    vec![("10.99.0.7", 32, Some("10.99.0.1"))],
                    Some("10.99.0.1"),
                    "10.99.0.1",
                ),
                ("ip=10.99.0.0:::31::eth0:none", vec![("10.99.0.0", 31, None)], None, "10.99.0.1"),
                (
                    "ip=10.99.0.7::10.99.0.1:32::eth0:off",
                    vec![("10.99.0.7", 32, None)],
                    Some("10.99.0.1"),
                    "10.99.0.1",
                ),
                (
                    "ip=10.99.0.7::10.99.0.1:24::eth0:none ip=10.98.0.7:::24::eth0:none",
                    vec![("10.98.0.7", 24, None), ("10.99.0.7", 24, None)],
                    Some("10.99.0.1"),
                    "10.98.0.1",
                ),
            ] {
                let mut watched = Watched::start(paths, given(line), Caller::Init, 10);
                assert!(watched.until(|_| true).complete, "{line}");
                let mut set = set_on_eth0();
                set.sort();
                let expected: Vec<_> = addresses
                    .into_iter()
                    .map(|(own, prefix, peer)| (own.to_owned(), prefix, peer.map(str::to_owned)))
                    .collect();
                assert_eq!(set, expected, "{line}");
                let default = show("route show default");
                assert_eq!(default[0]["gateway"].as_str(), gateway, "{line}: {default}");
                let reply = std::process::Command::new("ping").args(["-c1", "-W2", reached]).status();
                assert!(reply.is_err() || reply.is_ok_and(|status| status.success()), "{line}");
            }
        },
        || {
            let mut lab = Lab::new(1);
            lab.server_ip("addr add 10.98.0.1/24 dev server0");
            lab.run(name, |_| {});
        },
    );
}

/// The address is for any link, and the firmware has booted from the second.
#[test]
fn the_card_of_the_firmware_gets_the_address() {
    let name = "given::the_card_of_the_firmware_gets_the_address";
    in_namespaces(
        name,
        |paths| {
            ip("link set eth1 address 02:00:00:00:00:01");
            let line = "ip=10.99.1.7::10.99.1.1:24:::none BOOTIF=01-02-00-00-00-00-01";
            let mut watched = Watched::start(paths, given(line), Caller::Init, 10);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert_eq!((uplink.interface.as_str(), uplink.complete), ("eth1", true));
            assert_eq!(show("-4 addr show dev eth1")[0]["addr_info"][0]["local"], "10.99.1.7");
            assert_eq!(show("route show default")[0]["dev"], "eth1");
            assert_ne!(show("link show dev eth0")[0]["operstate"], "UP");
            assert!(set_on_eth0().is_empty());
        },
        || Lab::new(2).run(name, |_| {}),
    );
}

#[test]
fn a_route_that_leads_nowhere_is_told_of_once() {
    let name = "given::a_route_that_leads_nowhere_is_told_of_once";
    in_namespaces(
        name,
        |paths| {
            phaseboot::log::keep_records(paths);
            let line = "ip=10.99.0.7:::24::eth0:none rd.route=192.0.2.0/24:10.99.0.9 \
                        rd.route=198.51.100.0/24:10.98.0.9 rd.route=203.0.113.0/24:10.99.0.9:eth7 \
                        rd.route=[2001:db8:3::/48]:[fd99:0::9]";
            let mut watched = Watched::start(paths, given(line), Caller::Init, 10);
            watched.until(|uplink| uplink.complete);
            watched.network.settle("eth0");
            watched.network.hand_over();
            phaseboot::log::drain();
            assert_eq!(show("route show 192.0.2.0/24")[0]["gateway"], "10.99.0.9");
            let log = std::fs::read_to_string(paths.log_jsonl()).unwrap();
            let told = |route: &str| {
                let line = format!("eth0: the route to {route} of rd.route= does not apply here");
                log.lines().filter(|record| record.contains(&line) && record.contains("warn")).count()
            };
            let routes = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8:3::/48"];
            assert_eq!(routes.map(told), [0, 1, 1, 1], "{log}");
        },
        || Lab::new(1).run(name, |_| {}),
    );
}

/// A link that will not be raised, as one whose driver lacks its firmware: a device that has the hardware address of
/// the one below it. macvlan_open() of drivers/net/macvlan.c.
fn broken(name: &str, below: &str) -> bool {
    let mac = show(&format!("link show dev {below}"))[0]["address"].as_str().unwrap().to_owned();
    let run = |arguments: &str| Command::new("ip").args(arguments.split(' ')).status().unwrap().success();
    run(&format!("link add link {below} name {name} address {mac} type macvlan"))
        && !run(&format!("link set {name} up"))
}

#[test]
fn a_link_that_is_not_raised_ends_no_race_of_others() {
    let name = "given::a_link_that_is_not_raised_ends_no_race_of_others";
    in_namespaces(
        name,
        |paths| {
            if !broken("dead0", "eth0") {
                return println!("{name} skipped: a kernel without macvlan");
            }
            let settings = given("vlan=dead0.7:dead0 ip=dead0.7:dhcp ip=eth1:dhcp");
            let mut watched = Watched::start(paths, settings, Caller::Init, 20);
            assert_eq!(watched.until(|_| true).interface, "eth1");
            drop(watched);
            let settings = given("vlan=dead0.7:dead0 ip=dead0.7:dhcp");
            let error = Watched::start(paths, settings, Caller::Init, 3).exhausted().to_string();
            assert!(error.contains("dead0: kernel refused to raise it: "), "{error}");
            // A late one.
            ip("link del dead0");
            let settings = given("vlan=dead0.7:dead0 ip=dead0.7:dhcp ip=eth1:dhcp");
            let mut watched = Watched::start(paths, settings, Caller::Init, 20);
            watched.until(|_| true);
            assert!(broken("dead0", "eth0"));
            ip("link del eth1");
            while !matches!(watched.next(), Event::Down(name) if name == "eth1") {}
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(1, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// A bridge is taken for a bond of the right mode: it keeps its members in the same way, but raises none.
#[test]
fn the_members_of_a_bond_stay_for_the_next_attempt_and_leave_when_nothing_comes_of_it() {
    let name = "given::the_members_of_a_bond_stay_for_the_next_attempt_and_leave_when_nothing_comes_of_it";
    in_namespaces(
        name,
        |paths| {
            let make =
                || Command::new("ip").args(["link", "add", "bond0", "type", "bridge"]).status().unwrap();
            if !make().success() {
                return println!("{name} skipped: a kernel without bridge");
            }
            let mode = paths.interface("bond0").join("bonding/mode");
            std::fs::create_dir_all(mode.parent().unwrap()).unwrap();
            std::fs::write(mode, "active-backup 1\n").unwrap();
            let members = || {
                ["eth0", "eth1"].map(|name| {
                    let link = &show(&format!("link show dev {name}"))[0];
                    (link["master"] == "bond0", link["flags"].as_array().unwrap().contains(&"UP".into()))
                })
            };
            ip("link set bond0 up");
            ip("link set eth1 up");
            let wait = |wanted| {
                let end = Instant::now() + Duration::from_secs(10);
                while members() != wanted && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(20));
                }
                assert_eq!(members(), wanted);
            };
            let attempt = |caller| {
                let settings = given("bond=bond0:eth0,eth1:mode=active-backup ip=bond0:dhcp");
                Watched::start(paths, settings, caller, 20)
            };
            for caller in [Caller::Command, Caller::Init] {
                let mut watched = attempt(caller);
                wait([(true, false); 2]);
                ip("link set eth0 up");
                assert_eq!(watched.until(|_| true).interface, "bond0");
                drop(watched);
                if caller == Caller::Command {
                    // Each is as it was found.
                    assert_eq!(members(), [(false, false), (false, true)]);
                }
            }
            assert_eq!(members(), [(true, true), (true, false)]);
            let mut next = attempt(Caller::Init);
            assert_eq!(next.until(|_| true).interface, "bond0");
            // One that is down is raised.
            wait([(true, true); 2]);
            drop(next);
            // They leave a bond that is not asked for any more.
            let mut other = Watched::start(paths, given("ip=eth0:dhcp"), Caller::Init, 20);
            assert_eq!(other.until(|_| true).interface, "eth0");
            assert_eq!(members().map(|(is_member, _)| is_member), [false; 2]);
            assert_eq!(show("link show dev bond0")[0]["ifname"], "bond0");
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// The mode of a bond that is there cannot be set: neither is it used, nor do its members join.
#[test]
fn a_bond_that_is_not_as_it_is_given_is_refused() {
    let name = "given::a_bond_that_is_not_as_it_is_given_is_refused";
    in_namespaces(
        name,
        |paths| {
            let make = || Command::new("ip").args(["link", "add", "bond0", "type", "ifb"]).status().unwrap();
            let line = "bond=bond0:eth0,eth1:mode=active-backup ip=bond0:dhcp";
            if !make().success() {
                return println!("{name} skipped: a kernel without ifb");
            }
            let error = Watched::start(paths, given(line), Caller::Command, 3).exhausted().to_string();
            assert!(error.starts_with("bond0: kernel refused to make it: "), "{error}");
            assert!(!error.contains("eth"), "{error}");
            // Nor is it taken away as if it were ours.
            let mut watched = Watched::start(paths, given("ip=eth0:dhcp"), Caller::Init, 10);
            assert_eq!(watched.until(|_| true).interface, "eth0");
            assert_eq!(show("link show dev bond0")[0]["ifname"], "bond0");
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
        },
    );
}
