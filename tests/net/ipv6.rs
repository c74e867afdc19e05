//! IPv6: router advertisements, SLAAC, DHCPv6, and networks without IPv4.

use std::process::Command;
use std::time::Duration;

use phaseboot::config::network::Given;
use phaseboot::net::{Caller, Event, Origin6, Settings, Uplink};

use crate::lab::{Lab, Watched, after, has, in_namespaces, ip, read, show};

const DNS: &str = "--dhcp-option=option6:dns-server,[fd99:0::53]";
const SEARCH: &str = "--dhcp-option=option6:domain-search,example.org";

fn addresses(uplink: &Uplink, origin: Origin6) -> Vec<String> {
    let side = uplink.ipv6.as_ref().unwrap();
    let ours = side.addresses.iter().filter(|known| known.origin == origin);
    ours.map(|known| known.address.to_string()).collect()
}

fn router(uplink: &Uplink) -> bool {
    uplink.ipv6.as_ref().is_some_and(|side| side.router.is_some_and(|router| router.is_unicast_link_local()))
}

fn dns(uplink: &Uplink) -> Vec<String> {
    uplink.dns.iter().map(ToString::to_string).collect()
}

#[test]
fn stateless_servers_tell_the_names() {
    let name = "ipv6::stateless_servers_tell_the_names";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let uplink = watched
                .until(|uplink| !uplink.dns.is_empty() && uplink.ipv6.as_ref().unwrap().server.is_some());
            assert!(router(&uplink) && uplink.ipv4.is_none() && uplink.bound);
            assert_eq!(addresses(&uplink, Origin6::Slaac).len(), 1, "{uplink:?}");
            assert_eq!(
                (dns(&uplink), uplink.search.as_slice()),
                (vec!["fd99::53".to_owned()], &["example.org".to_owned()][..])
            );
            assert_eq!(watched.told[0], "up eth0");
            // Nobody answers over IPv4: that is not waited for until the end.
            assert!(watched.until(|uplink| uplink.complete).ipv4.is_none());
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve6(0, &["--dhcp-range=fd99:0::,ra-stateless,64,1h", DNS, SEARCH]);
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn stateful_addresses_are_set_and_given_back() {
    let name = "ipv6::stateful_addresses_are_set_and_given_back";
    in_namespaces(
        name,
        |paths| {
            let settings = Settings { release: true, wants_boot_url: true, ..Settings::default() };
            let mut watched = Watched::start(paths, settings, Caller::Init, 30);
            let leased = |uplink: &Uplink| addresses(uplink, Origin6::Dhcp);
            let uplink = watched.until(|uplink| uplink.ipv6.is_some() && leased(uplink).len() == 1);
            assert!(leased(&uplink)[0].starts_with("fd99::1"), "{uplink:?}");
            let side = uplink.ipv6.clone().unwrap();
            assert_eq!(side.boot_url.as_deref(), Some("http://[fd99::1]/boot.json"));
            assert_eq!(dns(&uplink), ["fd99::53"]);
            assert!(router(&uplink));
            // The kernel makes no route of it: what is on the link routers say.
            assert_eq!(show(&format!("-6 route show {}", leased(&uplink)[0])).as_array().unwrap().len(), 0);
            watched.network.settle("eth0");
            watched.network.hand_over();
            assert!(!show("-6 addr show dev eth0").to_string().contains(&leased(&uplink)[0]));
        },
        || {
            let mut lab = Lab::new(1);
            let url = "--dhcp-option=option6:59,http://[fd99::1]/boot.json";
            lab.serve6(0, &["--dhcp-range=fd99:0::100,fd99:0::1ff,64,1h", DNS, url]);
            lab.run(name, |_| {});
            lab.wait_for_log("DHCPRELEASE(server0)", 1);
        },
    );
}

/// A neighbour of eth0, behind the same switch as server0, has the address fd99::101.
fn with_neighbour() -> Lab {
    let lab = Lab::new(0);
    lab.server_ip("link add switch type bridge forward_delay 0 mcast_snooping 0");
    lab.server_ip("link set switch up");
    lab.server_ip(&format!("link add port0 type veth peer name eth0 netns {}", lab.client));
    lab.server_ip("link add port1 type veth peer name server0");
    lab.server_ip("link add port2 type veth peer name neighbour");
    for link in ["port0 master switch", "port1 master switch", "port2 master switch"] {
        lab.server_ip(&format!("link set {link} up"));
    }
    lab.server_ip("link set server0 up");
    lab.server_ip("link set neighbour up");
    lab.server_ip("addr add fd99:0::101/128 dev neighbour nodad");
    lab
}

/// A command waits for duplicate address detection: what somebody else has is declined, and the server grants
/// another.
#[test]
fn an_address_that_somebody_else_has_is_declined() {
    let name = "ipv6::an_address_that_somebody_else_has_is_declined";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Command, 20);
            let leased = |uplink: &Uplink| addresses(uplink, Origin6::Dhcp);
            watched.until(|uplink| {
                let own = if uplink.ipv6.is_some() { leased(uplink) } else { Vec::new() };
                own.len() == 1 && own != ["fd99::101"]
            });
            assert!(!show("-6 addr show dev eth0").to_string().contains("fd99::101"));
        },
        || {
            let mut lab = with_neighbour();
            lab.serve6(0, &["--dhcp-range=fd99:0::100,fd99:0::1ff,64,1h", "--dhcp-sequential-ip"]);
            lab.run(name, |_| {});
            assert!(lab.logs().contains("DHCPDECLINE"), "{}", lab.logs());
        },
    );
}

/// A server has no other to grant. What else it told stays, and it is not asked for ever.
#[test]
fn the_only_address_there_is_is_declined_a_few_times() {
    let name = "ipv6::the_only_address_there_is_is_declined_a_few_times";
    in_namespaces(
        name,
        |paths| {
            let settings = Settings { wants_boot_url: true, ..Settings::default() };
            let mut watched = Watched::start(paths, settings, Caller::Command, 20);
            let url = |uplink: &Uplink| uplink.ipv6.as_ref().and_then(|side| side.boot_url.clone());
            watched.until(|uplink| url(uplink).is_some());
            let error = loop {
                match watched.next() {
                    Event::Up(uplink) | Event::Changed(uplink) => assert!(url(&uplink).is_some()),
                    Event::Down(name) => panic!("{name} is down"),
                    Event::Exhausted(error) => break error.to_string(),
                }
            };
            assert!(error.contains("somebody else has the address fd99::101, after "), "{error}");
            watched.quiet(3000);
            assert!(!show("-6 addr show dev eth0").to_string().contains("fd99::101"));
        },
        || {
            let mut lab = with_neighbour();
            let url = "--dhcp-option=option6:59,http://[fd99::1]/boot.json";
            lab.serve6(0, &["--dhcp-range=fd99:0::101,fd99:0::101,slaac,64,1h", url]);
            lab.run(name, |_| {});
            let declines = lab.logs().matches("DHCPDECLINE").count();
            assert!((2..=4).contains(&declines), "{declines}\n{}", lab.logs());
        },
    );
}

#[test]
fn names_come_from_the_router_alone() {
    let name = "ipv6::names_come_from_the_router_alone";
    in_namespaces(
        name,
        |paths| {
            let uplink = phaseboot::net::up(paths, None, after(20)).unwrap();
            assert!(router(&uplink), "{uplink:?}");
            assert_eq!(
                (dns(&uplink), uplink.search.as_slice()),
                (vec!["fd99:0:1::53".to_owned()], &["lab.example.org".to_owned()][..])
            );
            assert!(read(&paths.resolv_conf()).unwrap().contains("nameserver fd99:0:1::53\n"));
            // It lies beyond the link, and is reached over it whatever other links there are.
            let route = show("-6 route show fd99:0:1::53");
            assert_eq!(
                (&route[0]["dev"], &route[0]["protocol"]),
                (&"eth0".into(), &"dhcp".into()),
                "{route}"
            );
            // Once more: the router has spoken already, and is asked again.
            let again = phaseboot::net::up(paths, None, after(20)).unwrap();
            assert_eq!(dns(&again), dns(&uplink));
        },
        || {
            if has(name, "radvd", "radvd") {
                let mut lab = Lab::new(1);
                lab.radvd("RDNSS fd99:0:1::53 {}; DNSSL lab.example.org {};");
                lab.run(name, |_| {});
            }
        },
    );
}

#[test]
fn both_families_come_up_and_a_router_may_come_later() {
    let name = "ipv6::both_families_come_up_and_a_router_may_come_later";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let Event::Up(first) = watched.next() else { panic!("{:?}", watched.told) };
            assert!(first.ipv4.is_some() && first.ipv6.is_none() && !first.complete);
            let complete = watched.until(|uplink| uplink.complete);
            assert!(complete.ipv6.is_none());
            std::fs::write(paths.run().join("ready"), "").unwrap();
            let later = watched.until(|uplink| uplink.ipv6.is_some());
            assert!(later.ipv4.is_some() && router(&later));
            assert!(show("-6 route show default").to_string().contains("fe80::"));
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.serve6(0, &["--dhcp-range=fd99:0::,ra-only,64,1h"]);
            });
        },
    );
}

#[test]
fn an_ipv6_network_of_somebody_else_is_used_as_it_is() {
    let name = "ipv6::an_ipv6_network_of_somebody_else_is_used_as_it_is";
    in_namespaces(
        name,
        |paths| {
            ip("link set eth0 up");
            ip("addr add fd99:0::2/64 dev eth0 nodad");
            ip("route add default via fd99:0::1");
            let mut watched = Watched::start(paths, Settings::default(), Caller::Command, 10);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert_eq!((uplink.interface.as_str(), uplink.complete, uplink.bound), ("eth0", true, false));
            watched.exhausted();
            assert!(!paths.links().exists());
        },
        || Lab::new(1).run(name, |_| {}),
    );
}

/// Flag O is set, and nobody is there to tell.
#[test]
fn a_router_that_promises_a_server_is_used_without_it() {
    let name = "ipv6::a_router_that_promises_a_server_is_used_without_it";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Command, 30);
            let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
            assert!(router(&uplink) && uplink.dns.is_empty() && !uplink.complete, "{uplink:?}");
            assert!(watched.until(|uplink| uplink.complete).dns.is_empty());
            let error = watched.exhausted().to_string();
            assert!(
                error.contains("DHCP discovers") && error.contains("DHCPv6 information requests"),
                "{error}"
            );
        },
        || {
            if has(name, "radvd", "radvd") {
                let mut lab = Lab::new(1);
                lab.radvd("AdvOtherConfigFlag on;");
                lab.run(name, |_| {});
            }
        },
    );
}

fn given(line: &str) -> Settings {
    Settings { given: Given::parse(line).unwrap(), ..Settings::default() }
}

/// DHCPv6 without a word of a router: no address of it says what is on the link.
#[test]
fn an_address_without_a_route_is_no_network() {
    let name = "ipv6::an_address_without_a_route_is_no_network";
    in_namespaces(
        name,
        |paths| {
            for mode in ["dhcp6", "either6"] {
                let mut watched =
                    Watched::start(paths, given(&format!("ip=eth0:{mode}")), Caller::Command, 6);
                let Event::Exhausted(error) = watched.next() else { panic!("{:?}", watched.told) };
                let expected =
                    "eth0: no IPv6 router advertised itself, and a DHCPv6 address alone reaches nothing";
                assert_eq!(error.to_string(), expected);
                assert!(error.hint().contains("router"), "{}", error.hint());
            }
            let line = "ip=eth0:dhcp6 rd.route=[fd99:0::/64]::eth0";
            let mut watched = Watched::start(paths, given(line), Caller::Command, 10);
            let uplink = watched.until(|_| true);
            assert_eq!(addresses(&uplink, Origin6::Dhcp).len(), 1, "{uplink:?}");
            let reached = Command::new("ping").args(["-6", "-c1", "-W2", "fd99::1"]).status();
            assert!(reached.is_err() || reached.is_ok_and(|status| status.success()));
            assert_eq!(show("-6 route get fd99::1")[0]["dev"], "eth0");
        },
        || {
            let mut lab = Lab::new(1);
            lab.server_ip("addr add fd99:0::1/64 dev server0 nodad");
            let folder = lab.folder.path().display().to_string();
            let fixed = format!(
                "--keep-in-foreground --conf-file=/dev/null --port=0 --user=root --bind-interfaces \
                 --log-dhcp --log-facility=- --interface=server0 --dhcp-leasefile={folder}/leases6 \
                 --pid-file={folder}/pid6 --dhcp-range=fd99:0::100,fd99:0::1ff,64,1h"
            );
            lab.spawn("dnsmasq6", "dnsmasq", &fixed.split(' ').collect::<Vec<_>>());
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn routes_that_are_given_go_by_the_networks_of_routers() {
    let name = "ipv6::routes_that_are_given_go_by_the_networks_of_routers";
    in_namespaces(
        name,
        |paths| {
            let line =
                "ip=eth0:auto6 rd.route=[2001:db8:3::/48]:[fd99:0::9] rd.route=[2001:db8:4::/48]:[fd98::9]";
            let mut watched = Watched::start(paths, given(line), Caller::Init, 20);
            watched.until(router);
            let routes = show("-6 route show 2001:db8:3::/48");
            assert_eq!((&routes[0]["gateway"], &routes[0]["dev"]), (&"fd99::9".into(), &"eth0".into()));
            assert!(show("-6 route show 2001:db8:4::/48").as_array().unwrap().is_empty());
            drop(watched);
            // The next attempt takes it away.
            let mut watched = Watched::start(paths, given("ip=eth0:auto6"), Caller::Init, 20);
            watched.until(router);
            assert!(show("-6 route show 2001:db8:3::/48").as_array().unwrap().is_empty());
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve6(0, &["--dhcp-range=fd99:0::,ra-only,64,1h"]);
            lab.run(name, |_| {});
        },
    );
}

/// Two machines behind one switch; the one that answers first names a boot loader for firmware.
#[test]
fn of_two_servers_the_one_that_names_a_provider_is_taken() {
    let name = "ipv6::of_two_servers_the_one_that_names_a_provider_is_taken";
    in_namespaces(
        name,
        |paths| {
            let settings = Settings { wants_boot_url: true, ..given("ip=eth0:dhcp6") };
            let mut watched = Watched::start(paths, settings, Caller::Init, 30);
            let leased = |uplink: &Uplink| !addresses(uplink, Origin6::Dhcp).is_empty();
            let uplink = watched.until(|uplink| uplink.ipv6.is_some() && leased(uplink));
            assert_eq!(uplink.ipv6.unwrap().boot_url.as_deref(), Some("http://[fd99:2::1]/"));
        },
        || {
            let mut lab = Lab::new(0);
            lab.server_ip("link add server9 type bridge forward_delay 0 mcast_snooping 0");
            lab.server_ip("link set server9 up");
            lab.server_ip(&format!("link add port0 type veth peer name eth0 netns {}", lab.client));
            lab.server_ip("link set port0 master server9");
            lab.server_ip("link set port0 up");
            for (n, url, more) in [
                (1, "http://[fd99:1::1]/EFI/BOOTX64.EFI", "--dhcp-option=option6:23,[fd99:1::53]"),
                (2, "http://[fd99:2::1]/", "--dhcp-reply-delay=1"),
            ] {
                lab.server_ip(&format!("link add server{n} type veth peer name other{n}"));
                lab.server_ip(&format!("link set other{n} master server9"));
                lab.server_ip(&format!("link set other{n} up"));
                lab.server_ip(&format!("link set server{n} up"));
                let range = format!("--dhcp-range=fd99:{n}::100,fd99:{n}::1ff,64,1h");
                lab.serve6(n, &[&range, &format!("--dhcp-option=option6:59,{url}"), more]);
            }
            lab.wait_for_servers(2);
            lab.run(name, |_| {});
        },
    );
}

/// Another init has raised the link long ago, and the kernel's solicitations went unheard.
#[test]
fn routers_of_a_link_that_is_up_are_asked_again() {
    let name = "ipv6::routers_of_a_link_that_is_up_are_asked_again";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, given("ip=eth0:auto6"), Caller::Command, 10);
            assert!(router(&watched.until(|_| true)), "{:?}", watched.told);
        },
        || {
            if !has(name, "radvd", "radvd") {
                return;
            }
            let mut lab = Lab::new(1);
            let none = "echo 0 > /proc/sys/net/ipv6/conf/eth0/router_solicitations";
            let asked = Command::new("ip").args(["netns", "exec", &lab.client, "sh", "-c", none]).status();
            assert!(asked.unwrap().success());
            ip(&format!("-n {} link set eth0 up", lab.client));
            // Until both ends have looked for duplicates.
            std::thread::sleep(Duration::from_millis(2500));
            // It only answers.
            lab.radvd("UnicastOnly on;");
            std::thread::sleep(Duration::from_millis(700));
            lab.run(name, |_| {});
        },
    );
}

/// A router that leads nowhere else: RFC 7084, G-4. Servers on its network can be reached.
#[test]
fn a_network_without_a_way_out_is_one() {
    let name = "ipv6::a_network_without_a_way_out_is_one";
    in_namespaces(
        name,
        |paths| {
            for line in ["ip=eth0:auto6", "ip=eth0:either6", ""] {
                let mut watched = Watched::start(paths, given(line), Caller::Command, 30);
                let Event::Up(uplink) = watched.next() else { panic!("{:?}", watched.told) };
                assert!(!router(&uplink) && uplink.ipv4.is_none() && !uplink.complete, "{uplink:?}");
                assert_eq!(addresses(&uplink, Origin6::Slaac).len(), 1, "{uplink:?}");
                let reached = Command::new("ping").args(["-6", "-c1", "-W2", "fd99::1"]).status();
                assert!(reached.is_err() || reached.is_ok_and(|status| status.success()));
                if line == "ip=eth0:auto6" {
                    watched.until(|uplink| uplink.complete);
                } else if line.is_empty() {
                    // IPv4 is waited for as long as without.
                    watched.quiet(9000);
                }
            }
            std::fs::write(paths.run().join("ready"), "").unwrap();
            let uplink = phaseboot::net::up(paths, None, after(25)).unwrap();
            assert!(uplink.ipv4.is_some(), "{uplink:?}");
        },
        || {
            if !has(name, "radvd", "radvd") {
                return;
            }
            let mut lab = Lab::new(1);
            lab.radvd("AdvDefaultLifetime 0; RDNSS fd99:0::53 {};");
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                // Longer than one is waited for that has no default route.
                std::thread::sleep(Duration::from_secs(3));
                lab.serve(0, &[]);
            });
        },
    );
}
