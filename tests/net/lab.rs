//! Namespaces, cables and servers.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use phaseboot::net::{self, Caller, Error, Event, Lease, Network, Settings, Transport, Uplink};
use phaseboot::paths::Paths;
use phaseboot::time::Deadline;
use serde_json::Value;

/// Names the folder that stands for `/` inside the client's namespace.
pub(crate) const INSIDE: &str = "PHASEBOOT_TEST_NET_ROOT";

/// Set inside the server's namespace, for a server that this file plays itself.
pub(crate) const SERVER: &str = "PHASEBOOT_TEST_NET_SERVER";

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

/// What is missing for these tests. Looked for once: the tests run at the same time.
pub(crate) fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<&str>> = OnceLock::new();
    *MISSING.get_or_init(look_for_missing)
}

pub(crate) fn look_for_missing() -> Option<&'static str> {
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
pub(crate) struct Lab {
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) folder: tempfile::TempDir,
    children: Vec<Child>,
    /// Processes of kea.
    kea: Vec<u32>,
}

impl Lab {
    pub(crate) fn new(links: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pb-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            client: format!("{unique}-client"),
            server: format!("{unique}-server"),
            folder: tempfile::tempdir().unwrap(),
            children: Vec::new(),
            kea: Vec::new(),
        };
        ip(&format!("netns add {}", lab.client));
        ip(&format!("netns add {}", lab.server));
        (0..links).for_each(|n| lab.link(n));
        lab
    }

    pub(crate) fn link(&self, n: u8) {
        let (client, server) = (&self.client, &self.server);
        ip(&format!("-n {server} link add server{n} type veth peer name eth{n} netns {client}"));
        ip(&format!("-n {server} addr add 10.99.{n}.1/24 dev server{n}"));
        ip(&format!("-n {server} link set server{n} up"));
    }

    pub(crate) fn cable(&self, n: u8, state: &str) {
        ip(&format!("-n {} link set server{n} {state}", self.server));
    }

    /// Serves 10.99.N.100 and up on serverN.
    pub(crate) fn serve(&mut self, n: u8, options: &[&str]) {
        self.serve_range(n, &format!("10.99.{n}.100,10.99.{n}.110,1h"), options);
    }

    /// Serves these addresses on serverN.
    pub(crate) fn serve_range(&mut self, n: u8, range: &str, options: &[&str]) {
        let folder = self.folder.path().display();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.server, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"])
            .args("--port=0 --no-ping --user=root --bind-interfaces --log-facility=- --log-dhcp".split(' '))
            .arg(format!("--interface=server{n}"))
            .arg(format!("--dhcp-range={range}"))
            .arg(format!("--dhcp-leasefile={folder}/leases{n}"))
            .arg(format!("--pid-file={folder}/pid{n}"))
            .args(options)
            .stderr(self.log(&format!("dnsmasq{n}")))
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// Serves IPv6 on serverN, which gets the address fd99:N::1/64: router advertisements, and the range
    /// and the options that are given.
    pub(crate) fn serve6(&mut self, n: u8, options: &[&str]) {
        self.server_ip(&format!("addr add fd99:{n}::1/64 dev server{n} nodad"));
        let folder = self.folder.path().display();
        let fixed = format!(
            "--keep-in-foreground --conf-file=/dev/null --port=0 --user=root --bind-interfaces --log-dhcp \
             --log-facility=- --enable-ra --interface=server{n} --dhcp-leasefile={folder}/leases6-{n} \
             --pid-file={folder}/pid6-{n}"
        );
        let arguments: Vec<&str> = fixed.split(' ').chain(options.iter().copied()).collect();
        self.spawn(&format!("dnsmasq6-{n}"), "dnsmasq", &arguments);
    }

    /// Starts a program in the servers' namespace, its output in `NAME.log`.
    pub(crate) fn spawn(&mut self, name: &str, program: &str, arguments: &[&str]) {
        let log = self.log(name);
        let child = Command::new("ip")
            .args(["netns", "exec", &self.server, program])
            .args(arguments)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn log(&self, name: &str) -> std::fs::File {
        let path = self.folder.path().join(format!("{name}.log"));
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
    }

    /// radvd on server0, with these statements for fd99::/64.
    pub(crate) fn radvd(&mut self, statements: &str) {
        self.server_ip("addr add fd99:0::1/64 dev server0 nodad");
        let forward = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        let status = Command::new("ip").args(["netns", "exec", &self.server, "sh", "-c", forward]).status();
        assert!(status.unwrap().success());
        let config = self.write(
            "radvd.conf",
            &format!(
                "interface server0 {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; \
                 prefix fd99:0::/64 {{}}; {statements} }};\n"
            ),
        );
        let pid = self.folder.path().join("radvd.pid").display().to_string();
        let arguments = ["--nodaemon", "--logmethod", "stderr", "--config", &config, "--pidfile", &pid];
        self.spawn("radvd", "radvd", &arguments);
    }

    /// Kea for both families on server0; it reads its configuration again when this is called again.
    /// `renew` is T1 in seconds.
    pub(crate) fn kea(&mut self, renew: u32, dns: &str) {
        let folder = self.folder.path().display().to_string();
        let logger = |name: &str| {
            serde_json::json!([{ "name": name, "severity": "INFO", "debuglevel": 0,
                "output_options": [{ "output": "stdout", "flush": true }] }])
        };
        let memory = |name: &str| serde_json::json!({ "type": "memfile", "persist": true, "lfc-interval": 0, "name": format!("{folder}/{name}") });
        // Its sockets need a link-local address, and that the client's end is up.
        let sockets = serde_json::json!({ "interfaces": ["server0"], "service-sockets-max-retries": 300,
            "service-sockets-retry-wait-time": 100 });
        let ipv4 = serde_json::json!({ "Dhcp4": {
            "interfaces-config": sockets, "lease-database": memory("kea4.csv"), "loggers": logger("kea-dhcp4"),
            "valid-lifetime": 3600, "renew-timer": renew,
            "option-data": [{ "name": "domain-name-servers", "data": dns }],
            "subnet4": [{ "id": 1, "subnet": "10.99.0.0/24", "pools": [{ "pool": "10.99.0.100-10.99.0.110" }],
                "option-data": [{ "name": "routers", "data": "10.99.0.1" }] }] } });
        let ipv6 = serde_json::json!({ "Dhcp6": {
            "interfaces-config": sockets, "lease-database": memory("kea6.csv"), "loggers": logger("kea-dhcp6"),
            "valid-lifetime": 3600, "preferred-lifetime": 1800, "renew-timer": renew,
            "server-id": { "type": "LL", "persist": false },
            "option-data": [{ "name": "dns-servers", "data": "fd99::53" }],
            "subnet6": [{ "id": 1, "subnet": "fd99::/64", "interface": "server0",
                "pools": [{ "pool": "fd99::100-fd99::1ff" }] }] } });
        let running = !self.kea.is_empty();
        for (program, config) in [("kea-dhcp4", ipv4), ("kea-dhcp6", ipv6)] {
            let path = self.write(&format!("{program}.json"), &config.to_string());
            let environment = [format!("KEA_PIDFILE_DIR={folder}"), format!("KEA_LOCKFILE_DIR={folder}")];
            if !running {
                self.spawn(program, "env", &[&environment[0], &environment[1], program, "-c", &path]);
                self.kea.extend(self.children.last().map(Child::id));
            }
        }
        if running {
            for &process in &self.kea {
                let process = rustix::process::Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
                rustix::process::kill_process(process, rustix::process::Signal::HUP).unwrap();
            }
        }
    }

    /// Runs this very test in the servers' namespace, where it plays a server.
    pub(crate) fn play(&mut self, test: &str) {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.server])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(SERVER, "1")
            .stdout(self.log("played"))
            .stderr(self.log("played"))
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// Waits until the client has written this file.
    pub(crate) fn wait_for(&self, name: &str) {
        let path = self.folder.path().join(name);
        for _ in 0..1500 {
            if path.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{name} was not written");
    }

    /// `ip` in the servers' namespace.
    pub(crate) fn server_ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.server));
    }

    /// Writes a file of the test's folder.
    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Ends every server.
    pub(crate) fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends every server as an administrator does, with SIGTERM.
    pub(crate) fn end(&mut self) {
        for child in &mut self.children {
            let process = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
            child.wait().unwrap();
        }
        self.children.clear();
    }

    /// Runs this very test inside the client's namespace, while `meanwhile` happens outside.
    pub(crate) fn run(&mut self, test: &str, meanwhile: impl FnOnce(&mut Self)) {
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

    /// Waits until so many dnsmasq hear clients: one that is still starting takes no part in a race.
    pub(crate) fn wait_for_servers(&self, count: usize) {
        self.wait_for_log("sockets bound exclusively", count);
    }

    /// Waits until servers have said this so many times: who sends them the last word does not wait for them.
    pub(crate) fn wait_for_log(&self, words: &str, count: usize) {
        let given_up = Instant::now() + Duration::from_secs(20);
        while self.logs().matches(words).count() < count {
            assert!(Instant::now() < given_up, "no {words:?}:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop();
        ip(&format!("netns del {}", self.client));
        ip(&format!("netns del {}", self.server));
    }
}

/// Whether there is a program of this name; if not, the test says that it is skipped.
pub(crate) fn has(test: &str, program: &str, package: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("{test} skipped: no {program} (package {package})");
    }
    found
}

/// Whether kea and radvd are there, and kea may read what the tests write.
pub(crate) fn has_kea(test: &str) -> bool {
    let programs = [("kea-dhcp4", "kea-dhcp4-server"), ("kea-dhcp6", "kea-dhcp6-server"), ("radvd", "radvd")];
    if !programs.iter().all(|(program, package)| has(test, program, package)) {
        return false;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe.json");
    std::fs::write(&path, "{\"Dhcp4\": {\"lease-database\": {\"type\": \"memfile\", \"persist\": false}}}")
        .unwrap();
    let read =
        Command::new("kea-dhcp4").arg("-t").arg(&path).output().is_ok_and(|output| output.status.success());
    if !read {
        println!("{test} skipped: kea reads no configuration in {} (AppArmor?)", folder.path().display());
    }
    read
}

/// Runs `inside` in the namespace that `outside` builds.
pub(crate) fn in_namespaces(test: &str, inside: impl FnOnce(&Paths), outside: impl FnOnce()) {
    if let Some(root) = std::env::var_os(INSIDE) {
        phaseboot::log::start();
        let proc = PathBuf::from(&root).join("proc");
        if !proc.exists() {
            symlink("/proc", proc).unwrap();
        }
        inside(&Paths::under(PathBuf::from(root)));
    } else if let Some(missing) = missing() {
        println!("{test} skipped: {missing}");
    } else {
        outside();
    }
}

pub(crate) fn up(paths: &Paths, transport: Transport, seconds: u64) -> Result<Uplink, Error> {
    net::up_over(transport, paths, None, Deadline::after(Duration::from_secs(seconds)))
}

/// The IPv4 side of what [`up`] brings.
pub(crate) fn lease(paths: &Paths, transport: Transport) -> Lease {
    up(paths, transport, 10).unwrap().ipv4.unwrap()
}

pub(crate) fn after(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

/// A network, and what it tells.
pub(crate) struct Watched {
    pub(crate) network: Network,
    events: Receiver<Event>,
    /// Everything so far: `up eth0`.
    pub(crate) told: Vec<String>,
}

impl Watched {
    pub(crate) fn start(paths: &Paths, settings: Settings, caller: Caller, seconds: u64) -> Self {
        let (sender, events) = mpsc::channel();
        let sink = move |event| drop(sender.send(event));
        let network = Network::start(paths, settings, caller, after(seconds), sink).unwrap();
        Self { network, events, told: Vec::new() }
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Event {
        let event = self.events.recv_timeout(Duration::from_secs(40)).unwrap();
        println!("{event:?}");
        self.told.push(match &event {
            Event::Up(uplink) => format!("up {}", uplink.interface),
            Event::Changed(uplink) => format!("changed {}", uplink.interface),
            Event::Down(name) => format!("down {name}"),
            Event::Exhausted(_) => "exhausted".to_owned(),
        });
        event
    }

    /// The next link that is up or has changed, and is as wanted.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Uplink) -> bool) -> Uplink {
        loop {
            if let Event::Up(uplink) | Event::Changed(uplink) = self.next()
                && wanted(&uplink)
            {
                return uplink;
            }
        }
    }

    pub(crate) fn exhausted(&mut self) -> Error {
        loop {
            if let Event::Exhausted(error) = self.next() {
                return error;
            }
        }
    }

    /// Nothing is told for so long.
    pub(crate) fn quiet(&self, milliseconds: u64) {
        let event = self.events.recv_timeout(Duration::from_millis(milliseconds));
        assert!(event.is_err(), "{event:?}");
    }
}

pub(crate) fn show(arguments: &str) -> Value {
    let output = Command::new("ip").arg("-j").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip -j {arguments}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}
