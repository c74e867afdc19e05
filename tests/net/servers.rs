//! What DHCPv4 servers see and answer: a lease of before, one exchange less, renewal, release.

use phaseboot::net::{Caller, Event, Origin6, Settings, Transport};

use crate::lab::{self, Lab, Watched, after, has_kea, in_namespaces, show};

fn counted(log: &str, message: &str) -> usize {
    log.lines().filter(|line| line.contains(&format!(" {message}("))).count()
}

/// Each run is another process, as each attempt of a machine is.
#[test]
fn the_address_of_before_is_asked_for_at_once() {
    let name = "servers::the_address_of_before_is_asked_for_at_once";
    in_namespaces(
        name,
        |paths| {
            let lease = lab::lease(paths, Transport::Auto);
            let marker = paths.run().join("before");
            match std::fs::read_to_string(&marker) {
                Ok(before) => assert_eq!(before, lease.address.to_string()),
                Err(_) => std::fs::write(&marker, lease.address.to_string()).unwrap(),
            }
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
            let before = lab.logs();
            lab.run(name, |_| {});
            let after = lab.logs();
            let more = |message: &str| counted(&after, message) - counted(&before, message);
            assert_eq!((more("DHCPDISCOVER"), more("DHCPREQUEST"), more("DHCPACK")), (0, 1, 1), "{after}");
        },
    );
}

#[test]
fn an_address_that_the_server_refuses_is_followed_by_another() {
    let name = "servers::an_address_that_the_server_refuses_is_followed_by_another";
    in_namespaces(
        name,
        |paths| {
            let first = !paths.links().exists();
            let lease = lab::lease(paths, Transport::Auto);
            assert_eq!(lease.address.octets()[3] >= 150, !first, "{}", lease.address);
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
            lab.stop();
            std::fs::remove_file(lab.folder.path().join("leases0")).unwrap();
            lab.serve_range(0, "10.99.0.150,10.99.0.160,1h", &["--dhcp-authoritative"]);
            lab.run(name, |_| {});
            assert_eq!(counted(&lab.logs(), "DHCPNAK"), 1, "{}", lab.logs());
        },
    );
}

/// What nobody named before somebody else may name now; who has named it is asked for the address at once.
#[test]
fn a_lease_of_before_hides_no_boot_url() {
    let name = "servers::a_lease_of_before_hides_no_boot_url";
    in_namespaces(
        name,
        |paths| {
            let settings =
                Settings { wants_boot_url: true, only: Some("eth0".into()), ..Settings::default() };
            let uplink = phaseboot::net::up_with(paths, settings, Caller::Command, after(10)).unwrap();
            let lease = uplink.ipv4.unwrap();
            let told = format!("{} {:?}", lease.address, lease.boot_url().map(|(url, _)| url));
            std::fs::write(paths.run().join("told"), told).unwrap();
        },
        || {
            let mut lab = Lab::new(1);
            let runs = |lab: &mut Lab| {
                let before = lab.logs();
                lab.run(name, |_| {});
                let after = lab.logs();
                let more = |message: &str| counted(&after, message) - counted(&before, message);
                let told = std::fs::read_to_string(lab.folder.path().join("run/phaseboot/told")).unwrap();
                let (address, url) = told.split_once(' ').unwrap();
                (more("DHCPDISCOVER"), more("DHCPREQUEST"), address.to_owned(), url.to_owned())
            };
            lab.serve(0, &["--dhcp-option=67,pxelinux.0"]);
            let (_, _, address, url) = runs(&mut lab);
            assert_eq!(url, "None");
            assert_eq!(runs(&mut lab), (1, 1, address.clone(), url));
            lab.stop();
            lab.serve(0, &["--dhcp-option=67,http://10.99.0.1/"]);
            let url = "Some(\"http://10.99.0.1/\")".to_owned();
            assert_eq!(runs(&mut lab), (1, 1, address.clone(), url.clone()), "{}", lab.logs());
            assert_eq!(runs(&mut lab), (0, 1, address, url), "{}", lab.logs());
        },
    );
}

/// The server of the lease is gone; from T2 on any other may extend it: here one that knows of it.
#[test]
fn another_server_extends_a_lease_from_t2_on() {
    let name = "servers::another_server_extends_a_lease_from_t2_on";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let first = watched.until(|uplink| uplink.ipv4.is_some()).ipv4.unwrap();
            assert_eq!((first.t1, first.t2), (Some(3), Some(6)));
            watched.network.settle("eth0");
            std::fs::write(paths.run().join("ready"), "").unwrap();
            let extended = watched.until(|uplink| uplink.ipv4.as_ref().unwrap().server != first.server);
            let extended = extended.ipv4.unwrap();
            assert_eq!(extended.server.unwrap().to_string(), "10.99.0.2");
            assert_eq!(extended.address, first.address);
            assert!(!watched.told.iter().any(|told| told.starts_with("down")), "{:?}", watched.told);
        },
        || {
            let options = ["--dhcp-option=option:T1,3", "--dhcp-option=option:T2,6"];
            let mut lab = Lab::new(1);
            lab.serve(0, &options);
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.stop();
                lab.server_ip("addr flush dev server0");
                lab.server_ip("addr add 10.99.0.2/24 dev server0");
                lab.serve(0, &options);
            });
        },
    );
}

#[test]
fn rapid_commit_saves_an_exchange() {
    let name = "servers::rapid_commit_saves_an_exchange";
    in_namespaces(
        name,
        |paths| drop(lab::lease(paths, Transport::Auto)),
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &["--dhcp-rapid-commit"]);
            lab.run(name, |_| {});
            let log = lab.logs();
            assert_eq!((counted(&log, "DHCPREQUEST"), counted(&log, "DHCPACK")), (0, 1), "{log}");
        },
    );
}

#[test]
fn a_lease_is_renewed_while_it_is_used_and_what_changes_is_told() {
    let name = "servers::a_lease_is_renewed_while_it_is_used_and_what_changes_is_told";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Init, 30);
            let first = watched.until(|uplink| uplink.ipv4.is_some());
            watched.network.settle("eth0");
            std::fs::write(paths.run().join("ready"), "").unwrap();
            let renewed = watched.until(|uplink| uplink.dns != first.dns);
            assert_eq!(renewed.dns[0].to_string(), "10.99.0.77");
            assert_eq!(renewed.ipv4.unwrap().address, first.ipv4.unwrap().address);
            assert!(!watched.told.iter().any(|told| told.starts_with("down")), "{:?}", watched.told);
        },
        || {
            if !has_kea(name) {
                return;
            }
            let mut lab = Lab::new(1);
            lab.kea(2, "10.99.0.53");
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.kea(2, "10.99.0.77");
            });
        },
    );
}

#[test]
fn leases_are_released_or_kept_as_it_is_said() {
    let name = "servers::leases_are_released_or_kept_as_it_is_said";
    in_namespaces(
        name,
        |paths| {
            let release = paths.links().exists();
            let settings = Settings { release, ..Settings::default() };
            let mut watched = Watched::start(paths, settings, Caller::Init, 30);
            watched.until(|uplink| uplink.ipv4.is_some());
            watched.network.settle("eth0");
            watched.network.hand_over();
            assert_eq!(show("-4 addr show dev eth0").to_string().contains("10.99.0."), !release);
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &[]);
            lab.run(name, |_| {});
            assert_eq!(counted(&lab.logs(), "DHCPRELEASE"), 0, "{}", lab.logs());
            lab.run(name, |_| {});
            assert_eq!(counted(&lab.logs(), "DHCPRELEASE"), 1, "{}", lab.logs());
        },
    );
}

#[test]
fn of_two_servers_one_is_taken_and_one_with_a_boot_url_rather() {
    let name = "servers::of_two_servers_one_is_taken_and_one_with_a_boot_url_rather";
    in_namespaces(
        name,
        |paths| {
            let lease = lab::lease(paths, Transport::Auto);
            assert_eq!(lease.address.octets()[..3], [10, 99, 0]);
            let settings = Settings {
                wants_boot_url: true,
                release: true,
                only: Some("eth0".into()),
                ..Settings::default()
            };
            std::fs::remove_file(paths.links()).unwrap();
            let uplink = phaseboot::net::up_with(paths, settings, Caller::Command, after(10)).unwrap();
            let (url, place) = uplink.ipv4.unwrap().boot_url().unwrap();
            assert_eq!((url.as_str(), place), ("http://10.99.0.2/boot.json", "option 67"));
        },
        || {
            let mut lab = Lab::new(0);
            // Two machines behind one switch.
            lab.server_ip("link add server9 type bridge forward_delay 0");
            lab.server_ip("link set server9 up");
            lab.server_ip(&format!("link add port0 type veth peer name eth0 netns {}", lab.client));
            lab.server_ip("link set port0 master server9");
            lab.server_ip("link set port0 up");
            for (n, address) in [(1, "10.99.0.1"), (2, "10.99.0.2")] {
                lab.server_ip(&format!("link add server{n} type veth peer name other{n}"));
                lab.server_ip(&format!("link set other{n} master server9"));
                lab.server_ip(&format!("link set other{n} up"));
                lab.server_ip(&format!("addr add {address}/24 dev server{n}"));
                lab.server_ip(&format!("link set server{n} up"));
            }
            lab.serve_range(1, "10.99.0.100,10.99.0.110,1h", &[]);
            lab.serve_range(
                2,
                "10.99.0.120,10.99.0.130,1h",
                &["--dhcp-option=67,http://10.99.0.2/boot.json"],
            );
            lab.wait_for_servers(2);
            lab.run(name, |_| {});
        },
    );
}

/// Another server than dnsmasq, for both families.
#[test]
fn kea_serves_both_families() {
    let name = "servers::kea_serves_both_families";
    in_namespaces(
        name,
        |paths| {
            let mut watched =
                Watched::start(paths, Settings { release: true, ..Settings::default() }, Caller::Init, 30);
            let leased = |uplink: &phaseboot::net::Uplink| {
                let side = uplink.ipv6.as_ref()?;
                side.addresses
                    .iter()
                    .filter(|own| own.origin == Origin6::Dhcp)
                    .map(|own| own.address.to_string())
                    .find(|own| own.starts_with("fd99::1"))
            };
            let uplink = watched.until(|uplink| uplink.ipv4.is_some() && leased(uplink).is_some());
            assert_eq!(uplink.dns[0].to_string(), "10.99.0.53");
            assert!(uplink.dns.iter().any(|server| server.to_string() == "fd99::53"), "{uplink:?}");
            watched.network.hand_over();
        },
        || {
            if !has_kea(name) {
                return;
            }
            let mut lab = Lab::new(1);
            lab.radvd("AdvManagedFlag on;");
            lab.kea(1000, "10.99.0.53");
            lab.run(name, |_| {});
            let logs = lab.logs();
            assert!(logs.contains("DHCP4_RELEASE ") && logs.contains("DHCP6_RELEASE"), "{logs}");
        },
    );
}

#[test]
fn a_server_that_keeps_silent_is_told_of() {
    let name = "servers::a_server_that_keeps_silent_is_told_of";
    in_namespaces(
        name,
        |paths| {
            let mut watched = Watched::start(paths, Settings::default(), Caller::Command, 2);
            let Event::Exhausted(error) = watched.next() else { panic!("{:?}", watched.told) };
            assert!(error.to_string().starts_with("eth0: no answer to "), "{error}");
            // What comes later is told all the same.
            std::fs::write(paths.run().join("ready"), "").unwrap();
            assert!(watched.until(|_| true).ipv4.is_some());
        },
        || {
            let mut lab = Lab::new(1);
            lab.run(name, |lab| {
                lab.wait_for("run/phaseboot/ready");
                lab.serve(0, &[]);
            });
        },
    );
}
