//! What a DHCPv4 lease leaves behind.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use phaseboot::net::Transport;
use phaseboot::paths::Paths;
use serde_json::Value;

use crate::lab::{self, Lab, SERVER, in_namespaces, ip, read, show};

const OPTIONS: [&str; 5] = [
    "--dhcp-option=3,10.99.0.1",
    "--dhcp-option=6,10.99.0.53,10.99.0.54",
    "--dhcp-option=15,example.org",
    "--dhcp-option=119,example.org,lab.example.org",
    "--dhcp-option=26,1400",
];

/// What a lease with [`OPTIONS`] leaves behind.
fn check_applied(paths: &Paths, transport: Transport) {
    let lease = lab::lease(paths, transport);
    assert_eq!(lease.interface, "eth0");
    assert_eq!(lease.address.octets()[..3], [10, 99, 0]);
    assert_eq!((lease.prefix, lease.mtu, lease.lease_seconds), (24, Some(1400), Some(3600)));
    assert_eq!(lease.server.unwrap().to_string(), "10.99.0.1");

    // Once more, as a second `phaseboot net up` would.
    assert_eq!(lab::lease(paths, transport).address, lease.address);

    let link = show("addr show dev eth0");
    assert_eq!(link[0]["mtu"], 1400);
    let addresses: Vec<&Value> =
        link[0]["addr_info"].as_array().unwrap().iter().filter(|a| a["family"] == "inet").collect();
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    assert_eq!(addresses[0]["local"], lease.address.to_string());
    assert_eq!(addresses[0]["prefixlen"], 24);
    assert_eq!(addresses[0]["broadcast"], "10.99.0.255");
    // Nobody renews it: the kernel ends it with the lease.
    let valid = addresses[0]["valid_life_time"].as_u64().unwrap();
    assert!((3590..=3600).contains(&valid), "{valid}");
    let default = show("route show default");
    assert_eq!(default.as_array().unwrap().len(), 1, "{default}");
    assert_eq!(default[0]["gateway"], "10.99.0.1");
    assert_eq!(default[0]["prefsrc"], lease.address.to_string());
    let loopback = show("addr show dev lo up");
    assert_eq!(loopback[0]["addr_info"][0]["local"], "127.0.0.1");

    let names = read(&paths.resolv_conf()).unwrap();
    let wanted = "search example.org lab.example.org\nnameserver 10.99.0.53\nnameserver 10.99.0.54\n";
    assert!(names.contains(wanted), "{names}");
    let kept: Value = serde_json::from_str(&read(&paths.lease()).unwrap()).unwrap();
    assert_eq!(kept["ipv4"]["address"], lease.address.to_string());
    assert_eq!(kept["ipv4"]["routes"][0]["gateway"], "10.99.0.1");
}

#[test]
fn lease_is_applied() {
    in_namespaces(
        "lease::lease_is_applied",
        |paths| check_applied(paths, Transport::Auto),
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &OPTIONS);
            lab.run("lease::lease_is_applied", |_| {});
        },
    );
}

#[test]
fn lease_over_udp_is_applied() {
    in_namespaces(
        "lease::lease_over_udp_is_applied",
        |paths| check_applied(paths, Transport::Udp),
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &OPTIONS);
            lab.run("lease::lease_over_udp_is_applied", |_| {});
        },
    );
}

#[test]
fn classless_routes_win_and_reach_a_router_outside_the_subnet() {
    let name = "lease::classless_routes_win_and_reach_a_router_outside_the_subnet";
    in_namespaces(
        name,
        |paths| {
            let lease = lab::lease(paths, Transport::Auto);
            assert_eq!(lease.routers.len(), 1);
            let routes = show("route show");
            let route = |destination: &str| {
                routes.as_array().unwrap().iter().find(|r| r["dst"] == destination).unwrap_or(&Value::Null)
            };
            assert_eq!(route("default")["gateway"], "203.0.113.1", "{routes}");
            assert_eq!(route("default")["flags"][0], "onlink", "{routes}");
            assert_eq!(route("192.0.2.0/24")["gateway"], "10.99.0.9", "{routes}");
            assert_eq!(route("198.51.100.7")["scope"], "link", "{routes}");
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(
                0,
                &[
                    "--dhcp-option=3,10.99.0.1",
                    "--dhcp-option=121,0.0.0.0/0,203.0.113.1,192.0.2.0/24,10.99.0.9,198.51.100.7/32,0.0.0.0",
                ],
            );
            lab.run(name, |_| {});
        },
    );
}

/// The second run is another process, as each attempt of a machine is.
#[test]
fn nothing_of_a_rogue_lease_outlives_it() {
    let name = "lease::nothing_of_a_rogue_lease_outlives_it";
    in_namespaces(
        name,
        |paths| {
            let rogue = !paths.lease().exists();
            let lease = lab::lease(paths, Transport::Auto);
            assert_eq!(lease.address.to_string() == "10.99.0.66", rogue);
            let routes = show("route show");
            let routes: Vec<&str> =
                routes.as_array().unwrap().iter().map(|route| route["dst"].as_str().unwrap()).collect();
            let resolv_conf = read(&paths.resolv_conf()).unwrap();
            let link = show("addr show dev eth0");
            if rogue {
                assert_eq!(routes, ["0.0.0.0/1", "10.99.0.0/24", "128.0.0.0/1", "192.0.2.9"]);
                assert_eq!(link[0]["mtu"], 1300);
                assert!(resolv_conf.contains("nameserver 10.99.0.66\n"), "{resolv_conf}");
                // Not ours, and not to be touched.
                ip("route add 198.51.100.0/24 dev eth0");
                ip("addr add 10.98.0.1/24 dev eth0");
                return;
            }
            assert_eq!(routes, ["default", "10.98.0.0/24", "10.99.0.0/24", "198.51.100.0/24"]);
            assert_eq!(show("route show default")[0]["gateway"], "10.99.0.1");
            assert_eq!(link[0]["mtu"], 1500);
            assert!(!resolv_conf.contains("nameserver"), "{resolv_conf}");
            let left = show("-4 addr show dev eth0");
            let addresses = left[0]["addr_info"].as_array().unwrap();
            let addresses: Vec<&Value> = addresses.iter().map(|address| &address["local"]).collect();
            assert_eq!(addresses, ["10.98.0.1", &lease.address.to_string()]);
        },
        || {
            let mut lab = Lab::new(1);
            lab.serve(
                0,
                &[
                    "--dhcp-host=*:*:*:*:*:*,10.99.0.66",
                    "--dhcp-option=121,0.0.0.0/1,10.99.0.67,128.0.0.0/1,203.0.113.9,192.0.2.9/32,0.0.0.0",
                    "--dhcp-option=6,10.99.0.66",
                    "--dhcp-option=26,1300",
                ],
            );
            lab.run(name, |_| {});
            lab.stop();
            lab.serve(0, &["--dhcp-option=6"]);
            lab.run(name, |_| {});
        },
    );
}

/// A DHCP server that offers 10.99.0.100, refuses the first request for it and grants the second.
/// Everything it says goes to the broadcast address of its network.
fn serve_with_one_refusal() {
    const ADDRESS: [u8; 4] = [10, 99, 0, 100];
    let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut requests = 0;
    let mut packet = [0; 1500];
    while requests < 2 {
        let Ok((length, _)) = socket.recv_from(&mut packet) else { return };
        let request = &packet[..length];
        // The message type is the first option that any client of ours sends with code 53.
        let discover = request[240..].windows(3).any(|option| option == [53, 1, 1]);
        requests += u32::from(!discover);
        let kind = match (discover, requests) {
            (true, _) => 2,
            (false, 1) => 6,
            (false, _) => 5,
        };
        let mut reply = request[..240].to_vec();
        reply[0] = 2;
        if kind != 6 {
            reply[16..20].copy_from_slice(&ADDRESS);
        }
        reply.extend([53, 1, kind, 54, 4, 10, 99, 0, 1, 1, 4, 255, 255, 255, 0, 255]);
        socket.send_to(&reply, "10.99.0.255:68").unwrap();
    }
}

#[test]
fn refused_request_starts_over() {
    if std::env::var_os(SERVER).is_some() {
        return serve_with_one_refusal();
    }
    in_namespaces(
        "lease::refused_request_starts_over",
        |paths| {
            let started = Instant::now();
            let lease = lab::lease(paths, Transport::Auto);
            assert_eq!((lease.address.to_string().as_str(), lease.lease_seconds), ("10.99.0.100", None));
            assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        },
        || {
            let mut lab = Lab::new(1);
            let mut server = Command::new("ip")
                .args(["netns", "exec", &lab.server])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "lease::refused_request_starts_over"])
                .env(SERVER, "1")
                .spawn()
                .unwrap();
            lab.run("lease::refused_request_starts_over", |_| {});
            assert!(server.wait().unwrap().success());
        },
    );
}
