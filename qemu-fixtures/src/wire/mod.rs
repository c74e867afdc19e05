//! A network of the lab's own: virtual Ethernet in user space, because not every host's kernel has VLANs, bonds
//! and bridges. QEMU's network cards and the TAP device of a namespace, in which real servers run, are ports of a
//! switch, as are servers with bad manners that are played here.
//!
//!     QEMU nic --- UNIX socket ---+
//!     QEMU nic --- UNIX socket ---+-- Switch --- TAP lan0 --- Namespace: 10.77.0.1, fd77::1
//!     dhcp::Server (raw frames) --+                           dnsmasq, phasectl serve

mod dhcp;
mod frame;
mod lacp;
mod link;
mod namespace;
mod pcap;
mod stp;
mod switch;
mod tap;

use std::fs::File;
use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};

pub(crate) use self::dhcp::{Manners, Misdeed};
use self::namespace::DEVICE;
pub(crate) use self::namespace::{Namespace, Server, missing};
use self::pcap::Pcap;
pub(crate) use self::stp::{Protocol, SpanningTree};
use self::switch::{End, Switch};

/// The servers' address on the wire; 10.77.0.2 and on are DHCP servers with manners, 10.77.0.66 is nobody's.
pub(crate) const SERVERS: &str = "10.77.0.1";

/// What the switch has said, and who was on it.
pub(crate) const JOURNAL: &str = "wire.log";
/// What dnsmasq has said.
pub(crate) const DNSMASQ: &str = "dnsmasq.log";
/// The leases that dnsmasq keeps.
pub(crate) const LEASES: &str = "dnsmasq.leases";
/// Every frame.
pub(crate) const FRAMES: &str = "wire.pcap";

/// A port of the switch, as a network card has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) tagging: Tagging,
    pub(crate) spanning_tree: Option<SpanningTree>,
    /// A member of the switch's one aggregate: it passes data when LACP has agreed on that.
    pub(crate) aggregated: bool,
    /// Of IPv4 only DHCP passes, as on a port where somebody has yet to log in.
    pub(crate) only_dhcp: bool,
}

/// How a port has its VLANs outside: IEEE 802.1Q.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tagging {
    /// Untagged, and of this VLAN inside.
    Access(u16),
    /// Tagged, and only these.
    Trunk(&'static [u16]),
}

impl Port {
    /// Of the VLAN in which the servers are.
    pub(crate) const USUAL: Self = Self {
        tagging: Tagging::Access(SERVERS_VLAN),
        spanning_tree: None,
        aggregated: false,
        only_dhcp: false,
    };
}

/// The VLAN of the servers' port.
pub(crate) const SERVERS_VLAN: u16 = 100;

/// Who is on the wire besides the machine and its provider.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lan {
    /// dnsmasq with these arguments, if it runs; `{port}` is the provider's.
    pub(crate) dnsmasq: Option<&'static [&'static str]>,
    pub(crate) dhcp: Vec<Manners>,
}

/// A log that several write to.
#[derive(Clone, Debug)]
struct Journal {
    started: Instant,
    file: Arc<Mutex<File>>,
}

impl Journal {
    fn say(&self, line: &str) {
        let at = self.started.elapsed().as_secs_f64();
        if let Ok(mut file) = self.file.lock() {
            let _ = writeln!(file, "[{at:8.3}] {line}");
        }
    }
}

/// The network, until it is dropped; then everything that was made for it is gone.
#[derive(Debug)]
pub(crate) struct Wire {
    // Before its network goes.
    dnsmasq: Option<Server>,
    switch: Option<Switch>,
    /// Until the switch has it.
    tap: Option<File>,
    namespace: Namespace,
}

impl Wire {
    /// The namespace with its addresses: provider and dnsmasq can be started in it.
    pub(crate) fn new() -> Result<Self> {
        let namespace = Namespace::new()?;
        let tap = namespace.inside(|| tap::open(DEVICE))?;
        namespace.ip(&format!("addr add {SERVERS}/24 dev {DEVICE}"))?;
        namespace.ip(&format!("addr add fd77::1/64 dev {DEVICE} nodad"))?;
        namespace.ip(&format!("link set {DEVICE} up"))?;
        Ok(Self { switch: None, dnsmasq: None, tap: Some(tap), namespace })
    }

    /// Starts who else is on it, and the switch. Network card I connects to the socket [`socket`]`(name, I)`;
    /// the provider is at `port`.
    pub(crate) fn open(
        &mut self,
        lan: &Lan,
        nics: &[Option<Port>],
        name: &str,
        at: &Path,
        port: u16,
    ) -> Result<()> {
        if let Some(arguments) = lan.dnsmasq {
            self.dnsmasq = Some(self.dnsmasq(arguments, at, port)?);
        }
        let mut ends = Vec::new();
        for (index, nic) in nics.iter().enumerate() {
            let Some(nic) = nic else { continue };
            ends.push((*nic, End::Machine { listener: listen(&socket(name, index))?, link: None }));
        }
        let tap = self.tap.take().context("the wire is open already")?;
        ends.push((Port::USUAL, End::Tap(tap)));
        for (index, manners) in lan.dhcp.iter().enumerate() {
            let server = dhcp::Server::new(*manners, u8::try_from(index)?, port);
            ends.push((Port { tagging: Tagging::Access(manners.vlan), ..Port::USUAL }, End::Dhcp(server)));
        }
        let file = File::create(at.join(JOURNAL))?;
        let journal = Journal { started: Instant::now(), file: Arc::new(Mutex::new(file)) };
        self.switch = Some(Switch::start(ends, Pcap::create(&at.join(FRAMES))?, journal)?);
        Ok(())
    }

    fn dnsmasq(&self, arguments: &[&str], at: &Path, port: u16) -> Result<Server> {
        let usual = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--log-facility=-",
            "--log-dhcp",
            "--log-queries",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--no-ping",
            "--dhcp-authoritative",
            "--domain=lab.test",
            "--local=/lab.test/",
            "--bind-interfaces",
        ];
        let mut all: Vec<String> = usual.map(str::to_owned).into();
        all.push(format!("--interface={DEVICE}"));
        all.push(format!("--dhcp-leasefile={}", at.join(LEASES).display()));
        all.extend(arguments.iter().map(|argument| argument.replace("{port}", &port.to_string())));
        Server::start(&self.namespace, "dnsmasq", &all, &at.join(DNSMASQ))
    }

    /// Runs this where the servers are. What it opens stays there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespace.inside(work)
    }

    /// A program that will run where the servers are.
    pub(crate) fn command(&self, program: &Path) -> Command {
        self.namespace.command(program)
    }
}

/// The abstract UNIX socket of a network card: unix(7).
pub(crate) fn socket(name: &str, index: usize) -> String {
    format!("{name}-nic{index}")
}

/// Waits for connections to an abstract socket, which leaves no file behind.
pub(crate) fn listen(name: &str) -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixListener::bind_addr(&address).with_context(|| format!("cannot listen on the socket @{name}"))
}

#[cfg(test)]
mod tests;
