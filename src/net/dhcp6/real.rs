//! The client against the real dnsmasq and Kea, in network namespaces of this test's own. Without
//! root, iproute2 or the server it says so and does nothing.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::tests::MAC;
use super::*;

const URL: &str = "http://[2001:db8:9::1]/phase";

fn works(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let program =
        Command::new(words.next().unwrap()).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    program.is_ok_and(|status| status.success())
}

fn ip(arguments: &str) {
    assert!(works(&format!("ip {arguments}")), "ip {arguments}");
}

fn missing(server: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    [("ip", "-V"), server.split_once(' ').unwrap()]
        .iter()
        .find(|(program, version)| !works(&format!("{program} {version}")))
        .map(|(program, _)| format!("no {program}"))
}

/// A namespace with a server and one for the client, joined by a pair: server0 and eth0.
struct Lab {
    client: String,
    server: String,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Lab {
    /// None, with a printed reason, where it cannot be made. `server` is a command that ends well.
    fn new(test: &str, server: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pb6-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (client, server_side) = (format!("{unique}-client"), format!("{unique}-server"));
        let reason = missing(server).or_else(|| {
            if !works(&format!("ip netns add {client}")) {
                return Some("network namespaces cannot be made here".to_owned());
            }
            // In a chroot they can be made, but not entered.
            let entered = works(&format!("ip netns exec {client} true"));
            (!entered).then(|| {
                ip(&format!("netns del {client}"));
                "network namespaces cannot be entered here".to_owned()
            })
        });
        if let Some(reason) = reason {
            println!("{test} skipped: {reason}");
            return None;
        }
        ip(&format!("netns add {server_side}"));
        let folder = tempfile::tempdir().unwrap();
        let lab = Self { client, server: server_side, folder, child: None };
        let (client, server) = (&lab.client, &lab.server);
        for namespace in [client, server] {
            // Addresses can be used at once.
            ip(&format!("netns exec {namespace} sysctl -q net.ipv6.conf.default.accept_dad=0"));
        }
        ip(&format!("-n {server} link add server0 type veth peer name eth0 netns {client}"));
        ip(&format!("-n {server} addr add 2001:db8:9::1/64 dev server0"));
        ip(&format!("-n {server} link set server0 up"));
        ip(&format!("-n {client} link set eth0 up"));
        Some(lab)
    }

    fn serve(&mut self, program: &str, arguments: &str) {
        let folder = self.folder.path();
        let log = File::create(folder.join("log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.server, program])
            .args(arguments.replace("FOLDER", &folder.display().to_string()).split_whitespace())
            .envs(["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR"].map(|name| (name, folder)))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Runs `inside` in the client's namespace, with a socket for a DHCPv6 client.
    fn inside(&self, inside: impl FnOnce(&Wire) + Send) {
        let namespace = File::open(format!("/run/netns/{}", self.client)).unwrap();
        let log = self.folder.path().join("log");
        let body = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let scope =
                rustix::net::netdevice::name_to_index(UdpSocket::bind("[::]:0").unwrap(), "eth0").unwrap();
            let socket = client_port();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            inside(&Wire { socket, scope });
        };
        let done = thread::scope(|threads| threads.spawn(body).join());
        assert!(done.is_ok(), "{}", std::fs::read_to_string(log).unwrap_or_default());
    }

    #[track_caller]
    fn assert_logged(&self, words: &str) {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        assert!(log.contains(words), "{log}");
    }
}

/// Port 546. The socket of a client before this one may live on for a moment in a process that another test
/// starts: from its fork to its exec.
fn client_port() -> UdpSocket {
    let given_up = Instant::now() + Duration::from_secs(5);
    loop {
        match UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 546, 0, 0)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < given_up => {
                thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ip(&format!("netns del {}", self.client));
        ip(&format!("netns del {}", self.server));
    }
}

struct Wire {
    socket: UdpSocket,
    scope: u32,
}

impl Wire {
    fn send(&self, message: &[u8]) {
        let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
        let _ = self.socket.send_to(message, SocketAddrV6::new(everybody, 547, 0, self.scope));
    }

    /// Lets the client go on for 15 s at most, in a time that is `ahead` of ours, until something
    /// comes of it. The types of the messages that were sent are added to `sent`.
    fn run(&self, client: &mut Client6, ahead: Duration, sent: &mut Vec<u8>) -> Reaction6 {
        let until = Instant::now() + Duration::from_secs(15);
        let mut buffer = [0; 1500];
        while Instant::now() < until {
            let now = Instant::now() + ahead;
            let mut reaction = client.tick(now);
            if let Ok((length, std::net::SocketAddr::V6(source))) = self.socket.recv_from(&mut buffer) {
                assert!(matches!(reaction, Reaction6::Nothing | Reaction6::Send(_)));
                if let Reaction6::Send(message) = &reaction {
                    sent.push(message[0]);
                    self.send(message);
                }
                reaction = client.receive(Instant::now() + ahead, *source.ip(), &buffer[..length]);
            }
            match reaction {
                Reaction6::Nothing => {}
                Reaction6::Send(message) => {
                    sent.push(message[0]);
                    self.send(&message);
                }
                other => return other,
            }
        }
        panic!("{}", client.story(Instant::now()));
    }
}

fn client(need: Need, wish: bool) -> Client6 {
    let uuid = b"\0\x04phaseboot-phasebo".to_vec();
    let hostname = Some("node7".to_owned());
    let device = Device6 { name: "eth0".into(), mac: MAC, duid: uuid, arch: Arch::X86_64, hostname };
    Client6::new(device, need, wish, 7, Instant::now())
}

/// Takes a lease, renews it before its time, gives it back and takes it again.
fn all_of_a_lease(wire: &Wire, wish: bool, exchange: &[u8]) {
    let (mut client, mut sent) = (client(Need::Stateful, wish), Vec::new());
    let Reaction6::Bound(lease) = wire.run(&mut client, Duration::ZERO, &mut sent) else { panic!() };
    // The first ones may come before the server has started.
    sent.dedup();
    assert_eq!(sent, exchange);
    let [(address, preferred, valid)] = lease.addresses[..] else { panic!("{lease:?}") };
    assert!(
        address.to_string().starts_with("2001:db8:9::1") && preferred > 0 && valid >= preferred,
        "{lease:?}"
    );
    assert_eq!(lease.boot_url.as_deref(), Some(URL));
    assert_eq!(lease.dns, ["2001:db8:9::53".parse::<Ipv6Addr>().unwrap()]);
    assert_eq!(lease.search, ["lab.example", "phase.example"]);
    assert_eq!(lease.ntp, ["2001:db8:9::123".parse::<Ipv6Addr>().unwrap()]);
    assert!(lease.server.is_unicast_link_local() && lease.t1 > 0 && lease.t1 < lease.t2, "{lease:?}");
    for (seconds, kind) in [(lease.t1, 5), (lease.t1 + lease.t2 + 1, 6)] {
        sent.clear();
        let ahead = Duration::from_secs(seconds.into());
        let Reaction6::Renewed(again) = wire.run(&mut client, ahead, &mut sent) else { panic!() };
        assert_eq!((&*sent, again.addresses[0].0), (&[kind][..], address));
    }
    wire.send(&client.release().unwrap());
    let (mut next, mut sent) = (self::client(Need::Stateful, wish), Vec::new());
    let Reaction6::Bound(lease) = wire.run(&mut next, Duration::ZERO, &mut sent) else { panic!() };
    // A server that is slow to write down the release hears the same again.
    sent.dedup();
    assert_eq!((lease.addresses.len(), &*sent), (1, exchange));
}

const DNSMASQ: &str = "--keep-in-foreground --conf-file=/dev/null --port=0 --user=root --bind-interfaces \
    --log-facility=- --log-dhcp --interface=server0 --dhcp-leasefile=FOLDER/leases --pid-file=FOLDER/pid \
    --dhcp-option=option6:dns-server,[2001:db8:9::53] --dhcp-option=option6:domain-search,lab.example,phase.example \
    --dhcp-option=option6:ntp-server,[2001:db8:9::123] \
    --dhcp-option=option6:bootfile-url,http://[2001:db8:9::1]/phase";

#[test]
fn dnsmasq_grants_at_once_and_to_who_wishes_for_a_url_in_four_messages() {
    let Some(mut lab) = Lab::new("dnsmasq, stateful", "dnsmasq --version") else { return };
    lab.serve("dnsmasq", &format!("{DNSMASQ} --dhcp-range=2001:db8:9::100,2001:db8:9::1ff,64,1h"));
    lab.inside(|wire| all_of_a_lease(wire, false, &[1]));
    lab.inside(|wire| all_of_a_lease(wire, true, &[1, 3]));
    lab.assert_logged("release received");
}

#[test]
fn dnsmasq_tells_what_it_knows_without_an_address() {
    let Some(mut lab) = Lab::new("dnsmasq, stateless", "dnsmasq --version") else { return };
    lab.serve("dnsmasq", &format!("{DNSMASQ} --dhcp-range=2001:db8:9::,ra-stateless --dhcp-option=option6:information-refresh-time,700"));
    lab.inside(|wire| {
        let (mut client, mut sent) = (client(Need::Stateless, true), Vec::new());
        let Reaction6::Bound(lease) = wire.run(&mut client, Duration::ZERO, &mut sent) else { panic!() };
        assert_eq!((lease.boot_url.as_deref(), lease.t1), (Some(URL), 700));
        assert_eq!(
            (lease.addresses.len(), lease.dns.len(), lease.search.len(), lease.ntp.len()),
            (0, 1, 2, 1)
        );
        sent.clear();
        let again = wire.run(&mut client, Duration::from_secs(701), &mut sent);
        assert!(matches!(again, Reaction6::Renewed(_)) && sent == [11]);
    });
}

#[test]
fn kea_grants_and_renews() {
    let Some(mut lab) = Lab::new("Kea, stateful", "kea-dhcp6 -v") else { return };

    let configuration = r#"{ "Dhcp6": {
        "interfaces-config": { "interfaces": [ "server0" ], "service-sockets-max-retries": 20 },
        "lease-database": { "type": "memfile", "persist": false }, "server-id": { "type": "LL", "persist": false },
        "preferred-lifetime": 600, "valid-lifetime": 900, "renew-timer": 300, "rebind-timer": 450,
        "subnet6": [ { "subnet": "2001:db8:9::/64", "interface": "server0", "rapid-commit": RAPID,
            "pools": [ { "pool": "2001:db8:9::100-2001:db8:9::1ff" } ] } ],
        "option-data": [
            { "name": "dns-servers", "data": "2001:db8:9::53" },
            { "name": "domain-search", "data": "lab.example, phase.example" },
            { "name": "sntp-servers", "data": "2001:db8:9::123" },
            { "name": "bootfile-url", "data": "http://[2001:db8:9::1]/phase" } ],
        "loggers": [ { "name": "kea-dhcp6", "severity": "INFO", "output_options": [ { "output": "stdout" } ] } ]
    } }"#;
    for (rapid, exchange) in [("false", &[1, 3][..]), ("true", &[1])] {
        let file = lab.folder.path().join("kea.json");
        std::fs::write(&file, configuration.replace("RAPID", rapid)).unwrap();
        if !works(&format!("ip netns exec {} kea-dhcp6 -t {}", lab.server, file.display())) {
            println!("Kea skipped: it reads no configuration in {} (AppArmor?)", lab.folder.path().display());
            return;
        }
        lab.serve("kea-dhcp6", "-c FOLDER/kea.json");
        lab.inside(|wire| all_of_a_lease(wire, false, exchange));
        lab.assert_logged("was released properly");
        let mut child = lab.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
