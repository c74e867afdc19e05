//! Where to boot from, told by the real dnsmasq and the real avahi, in network namespaces of this
//! test's own.
//!
//! Each test runs twice: outside it builds the namespaces and starts the servers, then it runs itself
//! inside the client's (`ip netns exec`), with mounts of its own; its providers are threads that move
//! to the servers' namespace. Without root or one of the programs it says so and does nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic and print"
)]

#[path = "common/provider.rs"]
mod provider;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::boot;
use phaseboot::config::Config;
use phaseboot::error::{Error, Exit};
use phaseboot::manifest::Trust;
use phaseboot::net::Caller;
use phaseboot::paths::Paths;
use phaseboot::rollback::Purpose;
use phaseboot::sys::arch::NATIVE;
use phaseboot::time::Deadline;
use provider::{OURS, Server, good, trust_folder};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Names the folder that stands for `/` inside the client's namespace, and the servers' namespace.
const INSIDE: &str = "PHASEBOOT_TEST_DISCOVERY_ROOT";
const SERVERS: &str = "PHASEBOOT_TEST_DISCOVERY_SERVERS";

/// Where providers are, and the domain they are in.
const PROVIDER: &str = "10.98.0.1:8080";
const DOMAIN: &str = "lab.test";

/// The private system bus that avahi-publish wants.
const BUS: &str = r#"<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/><allow send_type="*"/>
<allow send_destination="*"/><allow receive_type="*"/></policy></busconfig>"#;

/// With a /run and an /etc/avahi of its own: nothing of the system is touched.
const AVAHI: &str = r#"set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/avahi-daemon
mount --bind "$FOLDER/avahi" /etc/avahi
dbus-daemon --config-file="$FOLDER/bus.conf" --nofork --nopidfile &
for n in $(seq 100); do test -S /run/dbus/system_bus_socket && break; sleep 0.05; done
avahi-daemon --no-drop-root --no-rlimits --no-chroot --file=/etc/avahi/avahi-daemon.conf &
for n in $(seq 100); do avahi-daemon --check && break; sleep 0.05; done
"#;

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split_whitespace()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let absent = |program: &&&str| {
        !Command::new("sh")
            .args(["-c", &format!("command -v {program} >/dev/null")])
            .status()
            .unwrap()
            .success()
    };
    if let Some(program) = programs.iter().find(absent) {
        return Some(format!("no {program}"));
    }
    // Once: the tests run at the same time, and the name is taken while another of them looks.
    static USABLE: OnceLock<bool> = OnceLock::new();
    let usable = *USABLE.get_or_init(|| {
        let probe = format!("pb-{}-disc-probe", std::process::id());
        let usable = ip(&format!("netns add {probe}")) && ip(&format!("netns exec {probe} true"));
        ip(&format!("netns del {probe}"));
        usable
    });
    (!usable).then(|| "no network namespaces here".to_owned())
}

/// A client with `eth0` and a server with `server0`, 10.98.0.1/24, joined by a cable.
struct Lab {
    client: String,
    server: String,
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Lab {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pb-{}-disc{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (client, server) = (format!("{unique}-client"), format!("{unique}-server"));
        for arguments in [
            format!("netns add {client}"),
            format!("netns add {server}"),
            format!("-n {server} link set lo up"),
            format!("-n {server} link add server0 type veth peer name eth0 netns {client}"),
            format!("-n {server} addr add 10.98.0.1/24 dev server0"),
            format!("-n {server} link set server0 up"),
        ] {
            assert!(ip(&arguments), "ip {arguments}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        symlink("/proc", folder.path().join("proc")).unwrap();
        symlink("/sys", folder.path().join("sys")).unwrap();
        trust_folder(folder.path());
        Self { client, server, folder, children: Vec::new() }
    }

    fn spawn(&mut self, name: &str, command: &[&str]) {
        let log = File::create(self.folder.path().join(format!("{name}.log"))).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.server])
            .args(command)
            .env("FOLDER", self.folder.path())
            .process_group(0)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// A second cable: `eth1`, and `server1` with 10.98.1.1/24.
    fn second_link(&self) {
        let Self { client, server, .. } = self;
        for arguments in [
            format!("-n {server} link add server1 type veth peer name eth1 netns {client}"),
            format!("-n {server} addr add 10.98.1.1/24 dev server1"),
            format!("-n {server} link set server1 up"),
        ] {
            assert!(ip(&arguments), "ip {arguments}");
        }
    }

    /// DHCP, with DNS for [`DOMAIN`].
    fn dnsmasq(&mut self, options: &[&str]) {
        self.dnsmasq_on(0, options);
    }

    fn dnsmasq_on(&mut self, link: u8, options: &[&str]) {
        let fixed = format!(
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-ping --user=root --no-resolv --no-hosts \
             --bind-interfaces --except-interface=lo --interface=server{link} --log-facility=- --log-dhcp \
             --log-queries --pid-file= --dhcp-range=10.98.{link}.100,10.98.{link}.110,1h --domain=lab.test \
             --local=/lab.test/ --host-record=boot.lab.test,10.98.{link}.1 --dhcp-leasefile={}/leases{link}",
            self.folder.path().display()
        );
        let command: Vec<&str> = fixed.split_whitespace().chain(options.iter().copied()).collect();
        self.spawn(&format!("dnsmasq{link}"), &command);
    }

    /// Routers' advertisements alone, of fd98::/64, and no IPv4.
    fn only_ipv6(&mut self) {
        let server = &self.server;
        assert!(ip(&format!("-n {server} addr flush dev server0")));
        assert!(ip(&format!("-n {server} addr add fd98::1/64 dev server0 nodad")));
        let fixed = "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --bind-interfaces \
             --except-interface=lo --interface=server0 --log-facility=- --log-dhcp --pid-file= --enable-ra \
             --dhcp-range=fd98::,ra-only";
        self.spawn("dnsmasq0", &fixed.split_whitespace().collect::<Vec<_>>());
    }

    /// Multicast DNS over this family alone: what these lines of shell, run beside an avahi-daemon, announce.
    fn avahi(&mut self, ipv6: bool, announcements: &[String]) {
        let folder = self.folder.path();
        fs::write(folder.join("bus.conf"), BUS).unwrap();
        fs::create_dir_all(folder.join("avahi/services")).unwrap();
        let [four, six] = if ipv6 { ["no", "yes"] } else { ["yes", "no"] };
        let conf = format!(
            "[server]\nhost-name=server\nallow-interfaces=server0\nuse-ipv4={four}\nuse-ipv6={six}\n\
             [publish]\npublish-workstation=no\n"
        );
        fs::write(folder.join("avahi/avahi-daemon.conf"), conf).unwrap();
        self.spawn("avahi", &["sh", "-c", &format!("{AVAHI}{}\nwait", announcements.concat())]);
        // Names are announced once nobody has objected to them: RFC 6762, section 8.
        let log = self.folder.path().join("avahi.log");
        let established = || fs::read_to_string(&log).unwrap().matches("Established under").count();
        let in_time = (0..200).any(|_| {
            thread::sleep(Duration::from_millis(50));
            established() == announcements.len()
        });
        assert!(in_time, "{}", fs::read_to_string(&log).unwrap());
    }

    /// Runs this very test inside the client's namespace.
    fn run(&mut self, test: &str) {
        let status = Command::new("ip")
            .args(["netns", "exec", &self.client])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, self.folder.path())
            .env(SERVERS, &self.server)
            .status()
            .unwrap();
        let logs: String = ["dnsmasq0.log", "dnsmasq1.log", "avahi.log"]
            .iter()
            .filter_map(|name| fs::read_to_string(self.folder.path().join(name)).ok())
            .collect();
        assert!(status.success(), "inside the namespace: {status}\n{logs}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
        ip(&format!("netns del {}", self.client));
        ip(&format!("netns del {}", self.server));
    }
}

/// The client, inside its namespace.
struct Client {
    root: PathBuf,
}

impl Client {
    /// A provider in the servers' namespace.
    fn serve(&self, address: &str, version: u64) -> Server {
        let address = address.to_owned();
        let enter = move || {
            let name = Path::new("/run/netns").join(std::env::var_os(SERVERS).unwrap());
            let namespace = File::open(name).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            Server::start(TcpListener::bind(address).unwrap(), good(version, OURS))
        };
        thread::spawn(enter).join().unwrap()
    }

    /// Brings the network up and looks for a manifest. The version that is found, and where.
    fn find(&self, configure: impl FnOnce(&mut Config)) -> Result<(u64, String), Error> {
        let (paths, trust) = (Paths::under(&self.root), Trust::read(&self.root).unwrap());
        let mut config = Config::default();
        configure(&mut config);
        let deadline = Deadline::after(Duration::from_secs(30));
        let (_, found, _network) =
            boot::find(&config, &trust, &paths, Caller::Command, Purpose::Look, deadline, None)?;
        Ok((found.manifest.manifest().manifest_version, found.manifest.url()))
    }
}

fn in_namespaces(
    test: &str,
    programs: &[&str],
    inside: impl FnOnce(&Client),
    outside: impl FnOnce(&mut Lab),
) {
    if let Some(root) = std::env::var_os(INSIDE) {
        phaseboot::log::start();
        let root = PathBuf::from(root);
        // libc's resolver reads the real one; `ip netns exec` has made mounts private.
        let status = Command::new("mount").arg("--bind").arg(root.join("etc")).arg("/etc").status().unwrap();
        assert!(status.success());
        inside(&Client { root });
    } else if let Some(missing) = missing(programs) {
        println!("{test} skipped: {missing}");
    } else {
        let mut lab = Lab::new();
        outside(&mut lab);
        lab.run(test);
    }
}

fn manifest(address: &str) -> String {
    format!("http://{address}/stable/{NATIVE}/manifest.signed.json")
}

#[test]
fn dhcp_names_the_provider_in_option_67() {
    in_namespaces(
        "dhcp_names_the_provider_in_option_67",
        &["dnsmasq"],
        |client| {
            let _server = client.serve(PROVIDER, 3);
            assert_eq!(client.find(|_| ()).unwrap(), (3, manifest(PROVIDER)));
        },
        |lab| {
            lab.dnsmasq(&["--dhcp-option=67,http://10.98.0.1:8080/", "--dhcp-option=66,http://10.98.0.1:1/"])
        },
    );
}

#[test]
fn what_the_lease_names_is_known_to_the_next_command() {
    in_namespaces(
        "what_the_lease_names_is_known_to_the_next_command",
        &["dnsmasq"],
        |client| {
            let _server = client.serve(PROVIDER, 3);
            let paths = Paths::under(&client.root);
            phaseboot::net::up(&paths, None, Deadline::after(Duration::from_secs(30))).unwrap();
            // The server is not asked again.
            assert_eq!(client.find(|_| ()).unwrap(), (3, manifest(PROVIDER)));
        },
        |lab| lab.dnsmasq(&["--dhcp-option=67,http://10.98.0.1:8080/"]),
    );
}

#[test]
fn a_boot_loader_in_option_67_is_passed_over_for_option_66() {
    in_namespaces(
        "a_boot_loader_in_option_67_is_passed_over_for_option_66",
        &["dnsmasq"],
        |client| {
            let _server = client.serve(PROVIDER, 3);
            assert_eq!(client.find(|_| ()).unwrap(), (3, manifest(PROVIDER)));
        },
        |lab| {
            lab.dnsmasq(&[
                "--dhcp-option=67,http://10.98.0.1/shim.efi",
                "--dhcp-option=66,http://10.98.0.1:8080/",
            ]);
        },
    );
}

#[test]
fn a_domain_names_providers_by_srv_and_txt() {
    in_namespaces(
        "a_domain_names_providers_by_srv_and_txt",
        &["dnsmasq"],
        |client| {
            let started = Instant::now();
            let _server = client.serve(PROVIDER, 4);
            let (version, url) = client.find(|_| ()).unwrap();
            // The first by priority is dead.
            assert_eq!((version, url), (4, manifest("boot.lab.test:8080/tree")));
            assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
            let error = client.find(|config| config.channel = "beta".to_owned()).unwrap_err();
            assert_eq!(error.exit(), Exit::NoProvider);
            assert!(error.line().to_string().contains("DNS names none for beta"), "{}", error.line());
        },
        |lab| {
            let arch =
                format!("--txt-record=_phase-image._tcp.{DOMAIN},path=/tree,channel=stable,arch={NATIVE}");
            lab.dnsmasq(&[
                "--srv-host=_phase-image._tcp.lab.test,boot.lab.test,81,1,0",
                "--srv-host=_phase-image._tcp.lab.test,boot.lab.test,8080,2,0",
                &arch,
                "--txt-record=_phase-image._tcp.lab.test,path=/other,channel=other",
            ]);
        },
    );
}

/// dnsmasq has them in its answer over TCP alone: `texts` records of a good 200 bytes, of which the last is meant
/// for this machine.
fn a_long_answer(name: &str, texts: usize) {
    in_namespaces(
        name,
        &["dnsmasq"],
        |client| {
            let started = Instant::now();
            let _server = client.serve(PROVIDER, 4);
            assert_eq!(client.find(|_| ()).unwrap(), (4, manifest("boot.lab.test:8080/tree")));
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        },
        |lab| {
            let record = |path: &str, channel: &str| {
                let padding = "x".repeat(180);
                format!(
                    "--txt-record=_phase-image._tcp.lab.test,path={path},channel={channel},note={padding}"
                )
            };
            let mut options = vec!["--srv-host=_phase-image._tcp.lab.test,boot.lab.test,8080".to_owned()];
            options.extend((1..texts).map(|n| record(&format!("/{n}"), &format!("other{n}"))));
            // It answers with the latest first.
            options.insert(1, record("/tree", "stable"));
            lab.dnsmasq(&options.iter().map(String::as_str).collect::<Vec<_>>());
        },
    );
}

#[test]
fn an_answer_that_is_too_long_for_a_datagram_is_taken() {
    a_long_answer("an_answer_that_is_too_long_for_a_datagram_is_taken", 4);
}

#[test]
fn an_answer_that_is_too_long_for_a_packet_is_taken() {
    a_long_answer("an_answer_that_is_too_long_for_a_packet_is_taken", 12);
}

#[test]
fn nobody_names_a_provider() {
    in_namespaces(
        "nobody_names_a_provider",
        &["dnsmasq"],
        |client| {
            let error = client.find(|config| config.local = true).unwrap_err();
            let line = error.line().to_string();
            assert_eq!(error.exit(), Exit::NoProvider, "{line}");
            for who in ["option 67", "option 66", "DNS names none in lab.test", "mDNS names none"] {
                assert!(line.contains(who), "{who}: {line}");
            }
        },
        |lab| lab.dnsmasq(&[]),
    );
}

/// dnsmasq refuses what nobody above it could answer.
#[test]
fn a_domain_that_is_refused_gives_way_to_the_next() {
    in_namespaces(
        "a_domain_that_is_refused_gives_way_to_the_next",
        &["dnsmasq"],
        |client| {
            let started = Instant::now();
            let _server = client.serve(PROVIDER, 4);
            assert_eq!(client.find(|_| ()).unwrap(), (4, manifest("boot.lab.test:8080")));
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        },
        |lab| {
            lab.dnsmasq(&[
                "--dhcp-option=option:domain-name,corp.example",
                "--dhcp-option=option:domain-search,lab.test",
                "--srv-host=_phase-image._tcp.lab.test,boot.lab.test,8080",
            ]);
        },
    );
}

#[test]
fn a_line_says_which_domains_are_refused() {
    in_namespaces(
        "a_line_says_which_domains_are_refused",
        &["dnsmasq"],
        |client| {
            let line = client.find(|_| ()).unwrap_err().line().to_string();
            let words = "DNS names none in corp.example (refused: RCODE 5), lab.test";
            assert!(line.contains(words), "{line}");
        },
        |lab| {
            lab.dnsmasq(&[
                "--dhcp-option=option:domain-name,corp.example",
                "--dhcp-option=option:domain-search,lab.test",
            ]);
        },
    );
}

#[test]
fn the_leases_domains_are_known_to_the_next_command() {
    in_namespaces(
        "the_leases_domains_are_known_to_the_next_command",
        &["dnsmasq"],
        |client| {
            let _server = client.serve(PROVIDER, 4);
            let paths = Paths::under(&client.root);
            phaseboot::net::up(&paths, None, Deadline::after(Duration::from_secs(30))).unwrap();
            let resolver = || fs::read_to_string(client.root.join("etc/resolv.conf")).unwrap();
            let before = resolver();
            assert_eq!(client.find(|_| ()).unwrap(), (4, manifest("boot.lab.test:8080")));
            assert_eq!(resolver(), before);
        },
        |lab| {
            // The domain of option 15 is lab.test.
            lab.dnsmasq(&[
                "--dhcp-option=option:domain-search,other.test",
                "--local=/other.test/",
                "--srv-host=_phase-image._tcp.other.test,boot.lab.test,8080",
            ]);
        },
    );
}

/// Its resolv.conf and its routes count, also where the server for names is not on the link of the default route.
#[test]
fn another_inits_servers_for_names_are_asked() {
    in_namespaces(
        "another_inits_servers_for_names_are_asked",
        &["dnsmasq"],
        |client| {
            let _server = client.serve("10.98.1.1:8080", 4);
            for arguments in [
                "link set lo up",
                "addr add 10.98.0.2/24 dev eth0",
                "link set eth0 up",
                // Nobody is there.
                "route add default via 10.98.0.9",
                "addr add 10.98.1.2/24 dev eth1",
                "addr add fe80::2/64 dev eth1 nodad",
                "link set eth1 up",
            ] {
                assert!(ip(arguments), "ip {arguments}");
            }
            for server in ["10.98.1.1", "fe80::1%eth1"] {
                let text = format!("search lab.test\nnameserver {server}\n");
                fs::write(client.root.join("etc/resolv.conf"), &text).unwrap();
                assert_eq!(
                    client.find(|_| ()).unwrap(),
                    (4, manifest("boot.lab.test:8080/tree")),
                    "{server}"
                );
                assert_eq!(fs::read_to_string(client.root.join("etc/resolv.conf")).unwrap(), text);
            }
        },
        |lab| {
            lab.second_link();
            assert!(ip(&format!("-n {} addr add fe80::1/64 dev server1 nodad", lab.server)));
            // Too long for a datagram: TCP goes the same way.
            let padding = "x".repeat(200);
            let text = |note: u8| {
                format!("--txt-record=_phase-image._tcp.lab.test,path=/tree,note={note}{padding},{padding}")
            };
            let (first, second) = (text(1), text(2));
            lab.dnsmasq_on(1, &["--srv-host=_phase-image._tcp.lab.test,boot.lab.test,8080", &first, &second]);
        },
    );
}

/// A line of shell that announces a provider, as soon as the daemon is on the bus.
fn publish(name: &str, port: u16, version: &str, channel: &str, arch: &str) -> String {
    format!(
        "avahi-publish -f -s '{name}' _phase-image._tcp 80 channel={channel} arch={arch} version={version} \
         http_port={port} &\n"
    )
}

#[test]
fn avahi_names_the_highest_version_first() {
    in_namespaces(
        "avahi_names_the_highest_version_first",
        &["dnsmasq", "dbus-daemon", "avahi-daemon", "avahi-publish"],
        |client| {
            let _servers = [("10.98.0.1:8081", 1), ("10.98.0.1:8082", 2), ("10.98.0.1:8083", 3)]
                .map(|(address, version)| client.serve(address, version));
            let (version, url) = client.find(|config| config.local = true).unwrap();
            assert_eq!((version, url), (2, manifest("10.98.0.1:8082")));
            let error = client.find(|_| ()).unwrap_err();
            assert!(error.line().to_string().contains("phase.mode=local is not set"), "{}", error.line());
        },
        |lab| {
            lab.dnsmasq(&[]);
            let alias = if NATIVE.name() == "arm64" { "aarch64" } else { "x86_64" };
            lab.avahi(
                false,
                &[
                    publish("plasmd-one", 8081, "0.9.0", "stable", NATIVE.name()),
                    publish("plasmd. two", 8082, "0.10.0", "stable", alias),
                    publish("plasmd-three", 8083, "9.0.0", "beta", NATIVE.name()),
                    publish("plasmd-four", 8083, "9.0.0", "stable", "riscv64"),
                ],
            );
        },
    );
}

#[test]
fn avahi_names_providers_where_there_is_ipv6_alone() {
    in_namespaces(
        "avahi_names_providers_where_there_is_ipv6_alone",
        &["dnsmasq", "dbus-daemon", "avahi-daemon", "avahi-publish"],
        |client| {
            let _servers = [("[fd98::1]:8081", 1), ("[fd98::1]:8082", 2)]
                .map(|(address, version)| client.serve(address, version));
            let (version, url) = client.find(|config| config.local = true).unwrap();
            assert_eq!((version, url), (2, manifest("[fd98::1]:8082")));
        },
        |lab| {
            lab.only_ipv6();
            lab.avahi(
                true,
                &[
                    publish("plasmd-one", 8081, "0.9.0", "stable", NATIVE.name()),
                    publish("plasmd-two", 8082, "0.10.0", "stable", NATIVE.name()),
                    publish("plasmd-three", 8081, "9.0.0", "beta", NATIVE.name()),
                ],
            );
        },
    );
}

#[test]
fn the_link_whose_provider_answers_carries_the_boot() {
    in_namespaces(
        "the_link_whose_provider_answers_carries_the_boot",
        &["dnsmasq"],
        |client| {
            let _server = client.serve("10.98.1.1:8080", 6);
            let started = Instant::now();
            assert_eq!(client.find(|_| ()).unwrap(), (6, manifest("10.98.1.1:8080")));
            assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
            // The other link is put back down.
            let is_up = |name: &str| {
                let link = Command::new("ip").args(["link", "show", name]).output().unwrap();
                String::from_utf8_lossy(&link.stdout).contains(",UP")
            };
            assert!(is_up("eth1"));
            for _ in 0..40 {
                thread::sleep(Duration::from_millis(if is_up("eth0") { 100 } else { 0 }));
            }
            assert!(!is_up("eth0"));
        },
        |lab| {
            lab.second_link();
            lab.dnsmasq(&["--dhcp-option=67,http://10.98.0.1:1/"]);
            lab.dnsmasq_on(1, &["--dhcp-option=67,http://10.98.1.1:8080/"]);
        },
    );
}
