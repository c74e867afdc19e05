//! What goes wrong while a network is up: links that go, come back or are called otherwise, processes that
//! are killed, servers and routers that disappear.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::config::network::Given;
use phaseboot::config::tls::TlsTrust;
use phaseboot::net::{self, Caller, Error, Event, Settings};
use phaseboot::paths::Paths;
use phaseboot::provider::access::Access;
use phaseboot::provider::http::{Client, Wanted, broken_body};
use serde_json::Value;

use crate::lab::{INSIDE, Lab, Watched, after, has, in_namespaces, ip, read, show};

fn list(arguments: &str) -> Vec<Value> {
    show(arguments).as_array().unwrap().clone()
}

fn told_down(watched: &mut Watched, name: &str) {
    while !matches!(watched.next(), Event::Down(down) if down == name) {}
}

/// All settings of one interface, and whether it is up.
fn state(interface: &str) -> Vec<(String, String)> {
    let mut found = sysctls(interface);
    found.push(("flags".to_owned(), show(&format!("link show dev {interface}"))[0]["flags"].to_string()));
    found
}

fn sysctls(interface: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let folder = format!("/proc/sys/net/{family}/conf/{interface}");
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            let value = std::fs::read_to_string(file.path()).unwrap_or_default();
            found.push((file.path().display().to_string(), value));
        }
    }
    found.sort();
    found
}

/// A slow link: the server's link-layer address has to be asked for, and then the message takes its time.
#[test]
fn a_lease_is_given_back_before_a_slow_link_is_put_down() {
    let name = "upset::a_lease_is_given_back_before_a_slow_link_is_put_down";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            while !["up eth0", "up eth1"].iter().all(|up| watched.told.iter().any(|told| told == up)) {
                watched.next();
            }
            // 5000 bytes a second, and what may go at once is used up by one packet.
            let slow = "qdisc add dev eth0 root tbf rate 40kbit burst 600 limit 10000";
            if !Command::new("tc").args(slow.split(' ')).status().is_ok_and(|status| status.success()) {
                println!("{name} skipped: no tc, or a kernel without sch_tbf");
                return;
            }
            ip("neigh flush all");
            let filler = UdpSocket::bind("0.0.0.0:0").unwrap();
            filler.set_broadcast(true).unwrap();
            phaseboot::sys::packet::bind_to_device(filler.as_fd(), "eth0").unwrap();
            filler.send_to(&[0; 540], "255.255.255.255:9").unwrap();
            watched.network.settle("eth1");
            watched.network.hand_over();
            assert_ne!(show("link show dev eth0")[0]["operstate"], "UP");
            std::fs::write(paths.run().join("slow"), "").unwrap();
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.serve(1, &[]);
            lab.run(name, |_| {});
            if lab.folder.path().join("run/phaseboot/slow").exists() {
                lab.wait_for_log("DHCPRELEASE(server0)", 1);
            }
        },
    );
}

#[test]
fn handing_over_waits_for_no_server_that_is_dead() {
    let name = "upset::handing_over_waits_for_no_server_that_is_dead";
    in_namespaces(
        name,
        |paths| {
            let settings = Settings { release: true, ..Settings::default() };
            let mut watched = Watched::start(paths, settings, Caller::Init, 30);
            watched.until(|uplink| uplink.ipv4.is_some());
            watched.network.settle("eth0");
            std::fs::write(paths.run().join("ready"), "").unwrap();
            thread::sleep(Duration::from_millis(500));
            ip("neigh flush all");
            let started = Instant::now();
            watched.network.hand_over();
            let took = started.elapsed();
            // Whoever waits for the dead server is left behind after one second and a half.
            assert!(took < Duration::from_millis(1500), "{took:?}");
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.stop();
                lab.server_ip("addr flush dev server0");
            });
        },
    );
}

#[test]
fn the_link_that_carries_the_boot_may_go_and_come_back() {
    let name = "upset::the_link_that_carries_the_boot_may_go_and_come_back";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            watched.until(|uplink| uplink.ipv4.is_some());
            watched.network.settle("eth0");
            std::fs::write(paths.run().join("ready"), "").unwrap();
            told_down(&mut watched, "eth0");
            // eth1 appears first, and is of no interest any more.
            let again = watched.until(|uplink| uplink.ipv4.is_some());
            assert_eq!(again.interface, "eth0");
            assert_eq!(list("route show default").len(), 1);
            assert_eq!(show("route show default")[0]["dev"], "eth0");
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.server_ip("link del server0");
                lab.stop();
                lab.link(1);
                lab.serve(1, &[]);
                lab.link(0);
                lab.serve(0, &[]);
            });
        },
    );
}

#[test]
fn a_link_is_followed_to_another_name() {
    let name = "upset::a_link_is_followed_to_another_name";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            watched.until(|uplink| uplink.ipv4.is_some());
            let renamed =
                Command::new("ip").args(["link", "set", "eth0", "name", "enp7s0"]).status().unwrap();
            if !renamed.success() {
                println!("{name} skipped: this kernel renames no link that is up");
                return;
            }
            told_down(&mut watched, "eth0");
            let uplink = watched.until(|uplink| uplink.ipv4.is_some());
            assert_eq!(uplink.interface, "enp7s0");
            assert_eq!(uplink.ipv4.unwrap().interface, "enp7s0");
            watched.network.settle("enp7s0");
            watched.network.hand_over();
            let arp = std::fs::read_to_string("/proc/sys/net/ipv4/conf/enp7s0/arp_ignore").unwrap();
            assert_eq!(arp, "0\n");
            // The next attempt knows of it.
            ip("link set enp7s0 down");
            ip("link set enp7s0 up");
            let given = Given::parse("ip=eth9:dhcp").unwrap();
            let mut watched =
                Watched::start(paths, Settings { given, ..Settings::default() }, Caller::Init, 1);
            watched.exhausted();
            assert!(!show("-4 addr show dev enp7s0").to_string().contains("10.99.0."));
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// The kernel forgets routes and leased IPv6 addresses with that.
#[test]
fn a_link_that_is_taken_down_and_up_is_set_up_again() {
    let name = "upset::a_link_that_is_taken_down_and_up_is_set_up_again";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let leased = |uplink: &net::Uplink| {
                uplink
                    .ipv6
                    .as_ref()
                    .is_some_and(|side| side.addresses.iter().any(|own| own.origin == net::Origin6::Dhcp))
            };
            watched.until(|uplink| uplink.ipv4.is_some() && leased(uplink));
            watched.network.settle("eth0");
            ip("link set eth0 down");
            thread::sleep(Duration::from_millis(300));
            assert!(list("route show default").is_empty());
            ip("link set eth0 up");
            for _ in 0..100 {
                thread::sleep(Duration::from_millis(50));
                let addresses = show("-6 addr show dev eth0").to_string();
                if !list("route show default").is_empty() && addresses.contains("fd99::1") {
                    return;
                }
            }
            panic!("{} {}", show("route show"), show("addr show dev eth0"));
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.serve6(0, &["--dhcp-range=fd99:0::100,fd99:0::1ff,64,1h"]);
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn a_command_that_comes_to_nothing_leaves_everything_as_it_was() {
    let name = "upset::a_command_that_comes_to_nothing_leaves_everything_as_it_was";
    in_namespaces(
        name,
        |paths| {
            // Somebody else's.
            ip("link set eth0 up");
            ip("addr add 192.0.2.7/24 dev eth0");
            thread::sleep(Duration::from_millis(2500));
            let before = [sysctls("eth0"), sysctls("eth1"), sysctls("all"), sysctls("default")];
            let addresses = show("addr show dev eth0");
            for only in [Some("eth1"), None] {
                let settings = Settings { only: only.map(str::to_owned), ..Settings::default() };
                let error = net::up_with(paths, settings, Caller::Command, after(2)).unwrap_err();
                assert!(matches!(error, Error::NoLease { .. }), "{error}");
                let now = [sysctls("eth0"), sysctls("eth1"), sysctls("all"), sysctls("default")];
                for (before, now) in before.iter().flatten().zip(now.iter().flatten()) {
                    assert_eq!(before, now);
                }
                assert_ne!(show("link show dev eth1")[0]["operstate"], "UP");
                let now = show("-4 addr show dev eth0");
                assert_eq!(now[0]["addr_info"][0]["local"], "192.0.2.7", "{addresses}");
            }
        },
        || Lab::new(2).run(name, |_| {}),
    );
}

/// Another process begins where one was killed, at whatever moment.
#[test]
fn nothing_stays_of_a_process_that_was_killed() {
    const VICTIM: &str = "PHASEBOOT_TEST_NET_VICTIM";
    let name = "upset::nothing_stays_of_a_process_that_was_killed";
    in_namespaces(
        name,
        |paths| {
            if std::env::var_os(VICTIM).is_some() {
                let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
                loop {
                    watched.next();
                }
            }
            let before = [state("eth0"), state("eth1")];
            for milliseconds in [0, 5, 20, 60, 150, 700] {
                let mut victim = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", name, "--nocapture"])
                    .env(VICTIM, "1")
                    .env(INSIDE, std::env::var_os(INSIDE).unwrap())
                    .spawn()
                    .unwrap();
                while !paths.links().exists() {
                    thread::sleep(Duration::from_millis(1));
                }
                thread::sleep(Duration::from_millis(milliseconds));
                victim.kill().unwrap();
                victim.wait().unwrap();
                // No link takes part now: all are put back.
                let given = Given::parse("ip=eth9:dhcp").unwrap();
                let settings = Settings { given, ..Settings::default() };
                Watched::start(paths, settings, Caller::Init, 1).exhausted();
                assert_eq!([state("eth0"), state("eth1")], before, "killed after {milliseconds} ms");
                for interface in ["eth0", "eth1"] {
                    let link = show(&format!("-4 addr show dev {interface}"));
                    assert!(link[0]["addr_info"].is_null() || link[0]["addr_info"][0].is_null(), "{link}");
                    assert_eq!(show(&format!("link show dev {interface}"))[0]["mtu"], 1500);
                }
                assert!(list("route show").is_empty());
                std::fs::remove_file(paths.links()).unwrap();
            }
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &["--dhcp-option=26,1400", "--dhcp-option=6,192.0.2.1"]);
            lab.serve(1, &["--dhcp-option=6,192.0.2.1"]);
            lab.run(name, |_| {});
        },
    );
}

/// radvd says so when it ends: router lifetime 0. What is on the link stays there (RFC 4861, section 4.2).
#[test]
fn a_router_that_resigns_takes_the_way_out_with_it() {
    let name = "upset::a_router_that_resigns_takes_the_way_out_with_it";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            watched.until(|uplink| uplink.ipv6.as_ref().is_some_and(|side| side.router.is_some()));
            let mtu = read(&paths.sysctl("net/ipv6/conf/eth0/mtu")).unwrap();
            assert_eq!(mtu, "1400\n", "advertised");
            std::fs::write(paths.run().join("ready"), "").unwrap();
            watched.until(|uplink| uplink.ipv6.as_ref().is_some_and(|side| side.router.is_none()));
            assert!(show("-6 addr show dev eth0").to_string().contains("fd99::"));
            assert!(!watched.told.iter().any(|told| told.starts_with("down")), "{:?}", watched.told);
            std::fs::write(paths.run().join("again"), "").unwrap();
            watched.until(|uplink| uplink.ipv6.as_ref().is_some_and(|side| side.router.is_some()));
        },
        || {
            if !has(name, "radvd", "radvd") {
                return;
            }
            let mut lab = Lab::new(1);
            lab.radvd("AdvLinkMTU 1400;");
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.end();
                lab.wait_for("run/phaseboot/again");
                lab.server_ip("addr del fd99:0::1/64 dev server0");
                lab.radvd("");
            });
        },
    );
}

/// Somebody else has the link up and wants no advertisements there. What the kernel makes of them goes again.
#[test]
fn a_link_that_was_up_keeps_nothing_of_a_router() {
    let name = "upset::a_link_that_was_up_keeps_nothing_of_a_router";
    in_namespaces(
        name,
        |paths| {
            for setting in ["accept_ra", "autoconf"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{setting}"), "0").unwrap();
            }
            ip("link set eth0 up");
            ip("addr add fd98::7/64 dev eth0 nodad");
            ip("route add fd97::/64 via fd98::1 proto ra metric 1024");
            let everything = || {
                let addresses = show("-6 addr show dev eth0 scope global");
                [list("-6 route show dev eth0"), addresses[0]["addr_info"].as_array().unwrap().clone()]
            };
            let before = everything().map(|list| list.len());
            let mut watched = Watched::start(paths, Settings::default(), Caller::Command, 30);
            let (mut routed, mut leased) = (false, false);
            while !routed || !leased {
                let uplink = watched.until(|_| true);
                routed |= uplink.ipv6.is_some_and(|side| side.router.is_some());
                leased |= uplink.interface == "eth1";
            }
            let shown = show("-6 addr show dev eth0").to_string();
            assert!(shown.contains("fd99::"), "{shown}");
            watched.network.settle("eth1");
            watched.network.hand_over();
            assert_eq!(everything().map(|list| list.len()), before, "{:?}", everything());
            assert_eq!(list("-6 route show default"), list("-6 route show default dev eth1"));
            assert_eq!(read(&paths.sysctl("net/ipv6/conf/eth0/accept_ra")).unwrap(), "0\n");
        },
        || {
            if !has(name, "radvd", "radvd") {
                return;
            }
            let mut lab = Lab::new(2);
            lab.serve(1, &[]);
            lab.radvd("");
            lab.run(name, |_| {});
        },
    );
}

/// As a card and its clone in a virtual machine have: each gets what its own server grants.
#[test]
fn two_links_with_one_hardware_address_are_two() {
    let name = "upset::two_links_with_one_hardware_address_are_two";
    in_namespaces(
        name,
        |paths| {
            for link in ["eth0", "eth1"] {
                ip(&format!("link set {link} address 02:00:00:00:00:01"));
            }
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            while !["up eth0", "up eth1"].iter().all(|up| watched.told.iter().any(|told| told == up)) {
                watched.next();
            }
            for n in [0, 1] {
                let addresses = show(&format!("-4 addr show dev eth{n}")).to_string();
                assert!(addresses.contains(&format!("10.99.{n}.1")), "{addresses}");
            }
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(0, &[]);
            lab.serve(1, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// Where settings cannot be changed, as in a container, and IPv6 is switched off: IPv4 goes on.
#[test]
fn ipv6_that_is_switched_off_stops_no_other_link() {
    let name = "upset::ipv6_that_is_switched_off_stops_no_other_link";
    in_namespaces(
        name,
        |_| {
            for interface in ["all", "default", "eth0"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1").unwrap();
            }
            let folder = tempfile::tempdir().unwrap();
            let paths = Paths::under(folder.path());
            let given = Given::parse("ip=[fd99:0::7]::[fd99:0::1]:64::eth0:none ip=eth1:dhcp").unwrap();
            let mut watched =
                Watched::start(&paths, Settings { given, ..Settings::default() }, Caller::Init, 10);
            assert_eq!(watched.until(|uplink| uplink.ipv4.is_some()).interface, "eth1");
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(1, &[]);
            lab.run(name, |_| {});
        },
    );
}

/// What a lost lease does to a download: no byte can come any more, and the server's silence tells nobody.
#[test]
fn a_download_to_an_address_that_is_gone_ends_soon() {
    let name = "upset::a_download_to_an_address_that_is_gone_ends_soon";
    in_namespaces(
        name,
        |_| {
            ip("link set lo up");
            ip("addr add 192.0.2.7/32 dev lo");
            let listener = TcpListener::bind("192.0.2.7:0").unwrap();
            let url = format!("http://{}/kernel", listener.local_addr().unwrap());
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe first bytes").unwrap();
                // Gone for a moment, as when a lease is lost and had again.
                ip("addr del 192.0.2.7/32 dev lo");
                thread::sleep(Duration::from_millis(3200));
                ip("addr add 192.0.2.7/32 dev lo");
                stream.write_all(b", and more").unwrap();
                thread::sleep(Duration::from_millis(500));
                ip("addr del 192.0.2.7/32 dev lo");
                stream
            });
            let client = Client::new(after(60), &TlsTrust::default(), &Access::default());
            let mut download = client.download(&url, Wanted::WHOLE).unwrap();
            let mut reader = download.reader();
            let mut bytes = vec![0; 25];
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, b"the first bytes, and more");
            let started = Instant::now();
            let error = broken_body(&reader.read(&mut bytes).unwrap_err());
            assert_eq!(error, "192.0.2.7 is no address of this machine any more");
            assert!(started.elapsed() > Duration::from_secs(4), "{:?}", started.elapsed());
            assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
            drop(server.join().unwrap());
        },
        || Lab::new(0).run(name, |_| {}),
    );
}
