//! The network room against the real dnsmasq, in network namespaces of this test's own.
//!
//! Each test runs twice: outside it builds the namespaces and starts the servers, then it runs
//! itself inside the client's namespace (`ip netns exec`), where the environment says so. Without
//! root, iproute2 or dnsmasq it says so and does nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic and print"
)]

use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::error::Exit;
use phaseboot::net::{self, Caller, Error, Lease, Transport};
use phaseboot::paths::Paths;
use phaseboot::time::Deadline;
use serde_json::Value;

/// Names the folder that stands for `/` inside the client's namespace.
const INSIDE: &str = "PHASEBOOT_TEST_NET_ROOT";

/// Set inside the server's namespace, for a server that this file plays itself.
const SERVER: &str = "PHASEBOOT_TEST_NET_SERVER";

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

/// What is missing for these tests. Looked for once: the tests run at the same time.
fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<&str>> = OnceLock::new();
    *MISSING.get_or_init(look_for_missing)
}

fn look_for_missing() -> Option<&'static str> {
    let present = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("no ip (package iproute2)");
    }
    if !present("dnsmasq") {
        return Some("no dnsmasq (package dnsmasq-base)");
    }
    let probe = format!("pb-{}-probe", std::process::id());
    let works = |arguments: &[&str]| {
        let status = Command::new("ip").arg("netns").args(arguments).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !works(&["add", &probe]) {
        return Some("network namespaces cannot be made here");
    }
    // In a chroot they can be made, but not entered.
    let entered = works(&["exec", &probe, "true"]);
    ip(&format!("netns del {probe}"));
    (!entered).then_some("network namespaces cannot be entered here")
}

/// A client's namespace and one for its servers, joined by `links` veth pairs: ethN and serverN.
/// serverN has the address 10.99.N.1/24 and is up.
struct Lab {
    client: String,
    server: String,
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Lab {
    fn new(links: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pb-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            client: format!("{unique}-client"),
            server: format!("{unique}-server"),
            folder: tempfile::tempdir().unwrap(),
            children: Vec::new(),
        };
        ip(&format!("netns add {}", lab.client));
        ip(&format!("netns add {}", lab.server));
        (0..links).for_each(|n| lab.link(n));
        lab
    }

    fn link(&self, n: u8) {
        let (client, server) = (&self.client, &self.server);
        ip(&format!("-n {server} link add server{n} type veth peer name eth{n} netns {client}"));
        ip(&format!("-n {server} addr add 10.99.{n}.1/24 dev server{n}"));
        ip(&format!("-n {server} link set server{n} up"));
    }

    fn cable(&self, n: u8, state: &str) {
        ip(&format!("-n {} link set server{n} {state}", self.server));
    }

    /// Serves 10.99.N.100 and up on serverN.
    fn serve(&mut self, n: u8, options: &[&str]) {
        let folder = self.folder.path().display();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.server, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"])
            .args("--port=0 --no-ping --user=root --bind-interfaces --log-facility=- --log-dhcp".split(' '))
            .arg(format!("--interface=server{n}"))
            .arg(format!("--dhcp-range=10.99.{n}.100,10.99.{n}.110,1h"))
            .arg(format!("--dhcp-leasefile={folder}/leases{n}"))
            .arg(format!("--pid-file={folder}/pid{n}"))
            .args(options)
            .stderr(std::fs::File::create(self.folder.path().join(format!("dnsmasq{n}.log"))).unwrap())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// Ends every server.
    fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs this very test inside the client's namespace, while `meanwhile` happens outside.
    fn run(&mut self, test: &str, meanwhile: impl FnOnce(&mut Self)) {
        let mut inside = Command::new("ip")
            .args(["netns", "exec", &self.client])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, self.folder.path())
            .spawn()
            .unwrap();
        meanwhile(self);
        let status = inside.wait().unwrap();
        assert!(status.success(), "inside the namespace: {status}\n{}", self.logs());
    }

    fn logs(&self) -> String {
        let read = |n| std::fs::read_to_string(self.folder.path().join(format!("dnsmasq{n}.log")));
        (0..4).filter_map(|n| read(n).ok()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop();
        ip(&format!("netns del {}", self.client));
        ip(&format!("netns del {}", self.server));
    }
}

/// Runs `inside` in the namespace that `outside` builds.
fn in_namespaces(test: &str, inside: impl FnOnce(&Paths), outside: impl FnOnce()) {
    if let Some(root) = std::env::var_os(INSIDE) {
        phaseboot::log::start();
        inside(&Paths::under(PathBuf::from(root)));
    } else if let Some(missing) = missing() {
        println!("{test} skipped: {missing}");
    } else {
        outside();
    }
}

fn up(paths: &Paths, transport: Transport, seconds: u64) -> Result<Lease, Error> {
    net::up_over(transport, paths, None, Deadline::after(Duration::from_secs(seconds)))
}

fn show(arguments: &str) -> Value {
    let output = Command::new("ip").arg("-j").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip -j {arguments}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

const OPTIONS: [&str; 5] = [
    "--dhcp-option=3,10.99.0.1",
    "--dhcp-option=6,10.99.0.53,10.99.0.54",
    "--dhcp-option=15,example.org",
    "--dhcp-option=119,example.org,lab.example.org",
    "--dhcp-option=26,1400",
];

/// What a lease with [`OPTIONS`] leaves behind.
fn check_applied(paths: &Paths, transport: Transport) {
    let lease = up(paths, transport, 10).unwrap();
    assert_eq!(lease.interface, "eth0");
    assert_eq!(lease.address.octets()[..3], [10, 99, 0]);
    assert_eq!((lease.prefix, lease.mtu, lease.lease_seconds), (24, Some(1400), Some(3600)));
    assert_eq!(lease.server.unwrap().to_string(), "10.99.0.1");

    // Once more, as a second `phaseboot net up` would.
    assert_eq!(up(paths, transport, 10).unwrap().address, lease.address);

    let link = show("addr show dev eth0");
    assert_eq!(link[0]["mtu"], 1400);
    let addresses: Vec<&Value> =
        link[0]["addr_info"].as_array().unwrap().iter().filter(|a| a["family"] == "inet").collect();
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    assert_eq!(addresses[0]["local"], lease.address.to_string());
    assert_eq!(addresses[0]["prefixlen"], 24);
    assert_eq!(addresses[0]["broadcast"], "10.99.0.255");
    let default = show("route show default");
    assert_eq!(default.as_array().unwrap().len(), 1, "{default}");
    assert_eq!(default[0]["gateway"], "10.99.0.1");
    assert_eq!(default[0]["prefsrc"], lease.address.to_string());
    let loopback = show("addr show dev lo up");
    assert_eq!(loopback[0]["addr_info"][0]["local"], "127.0.0.1");

    assert_eq!(
        read(&paths.resolv_conf()).unwrap(),
        "search example.org lab.example.org\nnameserver 10.99.0.53\nnameserver 10.99.0.54\n"
    );
    let kept: Value = serde_json::from_str(&read(&paths.lease()).unwrap()).unwrap();
    assert_eq!(kept["address"], lease.address.to_string());
    assert_eq!(kept["routes"][0]["gateway"], "10.99.0.1");
}

#[test]
fn lease_is_applied() {
    in_namespaces(
        "lease_is_applied",
        |paths| check_applied(paths, Transport::Auto),
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &OPTIONS);
            lab.run("lease_is_applied", |_| {});
        },
    );
}

#[test]
fn lease_over_udp_is_applied() {
    in_namespaces(
        "lease_over_udp_is_applied",
        |paths| check_applied(paths, Transport::Udp),
        || {
            let mut lab = Lab::new(1);
            lab.serve(0, &OPTIONS);
            lab.run("lease_over_udp_is_applied", |_| {});
        },
    );
}

#[test]
fn classless_routes_win_and_reach_a_router_outside_the_subnet() {
    let name = "classless_routes_win_and_reach_a_router_outside_the_subnet";
    in_namespaces(
        name,
        |paths| {
            let lease = up(paths, Transport::Auto, 10).unwrap();
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
    let name = "nothing_of_a_rogue_lease_outlives_it";
    in_namespaces(
        name,
        |paths| {
            let rogue = !paths.lease().exists();
            let lease = up(paths, Transport::Auto, 10).unwrap();
            assert_eq!(lease.address.to_string() == "10.99.0.66", rogue);
            let routes = show("route show");
            let routes: Vec<&str> =
                routes.as_array().unwrap().iter().map(|route| route["dst"].as_str().unwrap()).collect();
            let resolv_conf = read(&paths.resolv_conf()).unwrap();
            let link = show("addr show dev eth0");
            if rogue {
                assert_eq!(routes, ["0.0.0.0/1", "10.99.0.0/24", "128.0.0.0/1", "192.0.2.9"]);
                assert_eq!(
                    (&link[0]["mtu"], resolv_conf.as_str()),
                    (&Value::from(600), "nameserver 10.99.0.66\n")
                );
                // Not ours, and not to be touched.
                ip("route add 198.51.100.0/24 dev eth0");
                ip("addr add 10.98.0.1/24 dev eth0");
                return;
            }
            assert_eq!(routes, ["default", "10.98.0.0/24", "10.99.0.0/24", "198.51.100.0/24"]);
            assert_eq!(show("route show default")[0]["gateway"], "10.99.0.1");
            assert_eq!((&link[0]["mtu"], resolv_conf.as_str()), (&Value::from(1500), ""));
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
                    "--dhcp-option=26,600",
                ],
            );
            lab.run(name, |_| {});
            lab.stop();
            lab.serve(0, &["--dhcp-option=6"]);
            lab.run(name, |_| {});
        },
    );
}

#[test]
fn a_lease_with_a_router_wins() {
    let name = "a_lease_with_a_router_wins";
    in_namespaces(
        name,
        |paths| {
            let lease = up(paths, Transport::Auto, 10).unwrap();
            assert_eq!(lease.interface, "eth1");
            assert!(!show("-4 addr show dev eth0").to_string().contains("10.99.0."));
            // Without a choice it is taken, and with a silent neighbour after a second.
            let lease = net::up(paths, Some("eth0"), Deadline::after(Duration::from_secs(5))).unwrap();
            assert_eq!((lease.interface.as_str(), lease.routes.len()), ("eth0", 0));
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
            lab.run(name, |_| {});
        },
    );
}

/// Each run is another process, as each attempt of a machine is.
#[test]
fn an_attempt_that_led_nowhere_is_followed_by_one_over_another_link() {
    let name = "an_attempt_that_led_nowhere_is_followed_by_one_over_another_link";
    in_namespaces(
        name,
        |paths| {
            let before = read(&paths.lease()).map(|json| serde_json::from_str::<Value>(&json).unwrap());
            let started = Instant::now();
            let lease = net::up_elsewhere(paths, Deadline::after(Duration::from_secs(10))).unwrap();
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
    let name = "only_attempts_of_pid_1_distrust_their_own_lease";
    in_namespaces(
        name,
        |paths| {
            let within = || Deadline::after(Duration::from_secs(10));
            let root = paths.lease().ancestors().nth(3).unwrap().to_owned();
            symlink("/proc", root.join("proc")).unwrap();
            let lease = net::up(paths, Some("eth1"), within()).unwrap();
            let written = || std::fs::metadata(paths.lease()).unwrap().ino();
            let (set, before) = (show("-4 addr show"), written());
            net::up_unless_routed(paths, Caller::Command, within()).unwrap();
            assert_eq!(written(), before);
            assert_eq!(show("-4 addr show"), set);
            assert_eq!(show("route show default")[0]["prefsrc"], lease.address.to_string());

            net::up_unless_routed(paths, Caller::Init, within()).unwrap();
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
        "silent_link_delays_nothing",
        |paths| {
            let started = Instant::now();
            let lease = up(paths, Transport::Auto, 20).unwrap();
            assert_eq!(lease.interface, "eth1");
            assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        },
        || {
            let mut lab = Lab::new(2);
            lab.serve(1, &[]);
            lab.run("silent_link_delays_nothing", |_| {});
        },
    );
}

#[test]
fn only_the_named_link_is_used() {
    in_namespaces(
        "only_the_named_link_is_used",
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
            lab.run("only_the_named_link_is_used", |_| {});
        },
    );
}

#[test]
fn no_server_ends_at_the_deadline() {
    in_namespaces(
        "no_server_ends_at_the_deadline",
        |paths| {
            let started = Instant::now();
            let error = up(paths, Transport::Auto, 2).unwrap_err();
            let took = started.elapsed();
            assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&took), "{took:?}");
            assert_eq!(error.exit(), Exit::NoNetwork);
            let line = error.to_string();
            // Three, and one more if the kernel reports late that the queue runs.
            assert!(line.starts_with("eth0: no answer to "), "{line}");
            assert!(line.ends_with(" DHCP discovers in 2 s, eth1: no carrier"), "{line}");
            assert!(!paths.lease().exists());
        },
        || {
            let mut lab = Lab::new(2);
            lab.cable(1, "down");
            lab.run("no_server_ends_at_the_deadline", |_| {});
        },
    );
}

#[test]
fn no_carrier_and_no_link_say_so() {
    in_namespaces(
        "no_carrier_and_no_link_say_so",
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
            lab.run("no_carrier_and_no_link_say_so", |_| {});
        },
    );
}

#[test]
fn late_carrier_and_late_link_join() {
    in_namespaces(
        "late_carrier_and_late_link_join",
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
            lab.run("late_carrier_and_late_link_join", |lab| {
                thread::sleep(Duration::from_millis(700));
                lab.cable(0, "up");
                thread::sleep(Duration::from_millis(1500));
                lab.link(1);
                lab.serve(1, &[]);
            });
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
        "refused_request_starts_over",
        |paths| {
            let started = Instant::now();
            let lease = up(paths, Transport::Auto, 15).unwrap();
            assert_eq!((lease.address.to_string().as_str(), lease.lease_seconds), ("10.99.0.100", None));
            assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        },
        || {
            let mut lab = Lab::new(1);
            let mut server = Command::new("ip")
                .args(["netns", "exec", &lab.server])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "refused_request_starts_over"])
                .env(SERVER, "1")
                .spawn()
                .unwrap();
            lab.run("refused_request_starts_over", |_| {});
            assert!(server.wait().unwrap().success());
        },
    );
}
