//! One link of the race: carrier, spanning tree, and both address families.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::ipv4::Ipv4;
use super::ipv6::{Ipv6, Word};
use super::kernel::Kernel;
use super::setup::{Setup, is_forbidden};
use crate::config::network::{GivenRoute, LinkPlan};
use crate::net::compose;
use crate::net::link::Link;
use crate::net::state::{CARRIER_WAIT, Forwarding, Standing, View};
use crate::net::stp::Bpdu;
use crate::net::uplink::{Address6, Uplink};
use crate::sys::packet;

/// Frames read before others have their turn.
const BATCH: usize = 32;

pub(super) struct Runner {
    pub(super) link: Link,
    plan: LinkPlan,
    /// Of its routes: several links may be up at once.
    metric: u32,
    /// The device that bridges are heard on: they speak without a tag, below a VLAN.
    bottom: u32,
    idle_since: Instant,
    /// The kernel has still to be asked to.
    raising: bool,
    /// When carrier went, if it was ever there.
    lost: Instant,
    /// While there is carrier.
    forwarding: Option<Forwarding>,
    ipv4: Ipv4,
    ipv6: Ipv6,
    /// BPDUs arrive here.
    bridges: Option<packet::Socket>,
    /// Anything that only a forwarding port lets through arrives here, while it is blocked.
    traffic: Option<packet::Socket>,
    pub(super) had_carrier: bool,
    /// How long carrier was waited for, until that is told.
    pub(super) news: Option<Duration>,
    /// It was taken down since the kernel was told what to set: addresses and routes went with that.
    flushed: bool,
    trouble: Option<String>,
    /// It cannot be set up as it has to be, and takes no part.
    refused: bool,
    /// What was last told of it.
    pub(super) told: Option<Uplink>,
}

/// What a link needs to act.
pub(super) struct Context<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) setup: &'a mut Setup,
    pub(super) link: &'a Link,
    pub(super) plan: &'a LinkPlan,
    pub(super) metric: u32,
    pub(super) has_carrier: bool,
}

impl Context<'_> {
    /// Whom names are asked of: the given ones, then those of a lease.
    pub(super) fn name_servers(&self, leased: &[IpAddr]) -> Vec<IpAddr> {
        compose::name_servers(&self.setup.settings.given, self.plan, leased)
    }
}

/// The sockets of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    Dhcp4,
    Dhcp6,
    Bridges,
    Traffic,
}

/// Runs `$act` with the context of the runner.
macro_rules! context {
    ($runner:expr, $kernel:expr, $setup:expr) => {
        &mut Context {
            kernel: $kernel,
            setup: $setup,
            link: &$runner.link,
            plan: &$runner.plan,
            metric: $runner.metric,
            has_carrier: $runner.forwarding.is_some(),
        }
    };
}

impl Runner {
    /// Takes a link into the race, and has it raised.
    pub(super) fn new(
        link: Link,
        plan: LinkPlan,
        (metric, bottom): (u32, u32),
        kernel: &mut Kernel,
        setup: &mut Setup,
        now: Instant,
    ) -> Self {
        let mut runner = Self {
            link,
            plan,
            metric,
            bottom,
            idle_since: now,
            raising: false,
            lost: now,
            forwarding: None,
            ipv4: Ipv4::default(),
            ipv6: Ipv6::default(),
            bridges: None,
            traffic: None,
            had_carrier: false,
            news: None,
            flushed: false,
            trouble: None,
            refused: false,
            told: None,
        };
        if !runner.prepare(kernel) {
            runner.refused = true;
            runner.idle_since = now.checked_sub(CARRIER_WAIT).unwrap_or(now);
            return runner;
        }
        runner.ipv6.prepare(context!(runner, kernel, setup));
        runner.raising = kernel.raise_soon(&runner.link);
        if !runner.raising {
            runner.idle_since = kernel.raised_since(&runner.link, now);
        }
        runner
    }

    /// Whether it has still to be raised.
    pub(super) fn is_raising(&self) -> bool {
        self.raising
    }

    /// The kernel was asked to raise it.
    pub(super) fn raised(
        &mut self,
        result: Result<(), Errno>,
        kernel: &mut Kernel,
        now: Instant,
    ) -> Result<(), Errno> {
        self.raising = false;
        self.idle_since = kernel.raised_since(&self.link, now);
        match result {
            Ok(()) => log::debug!("{} is raised", self.link.name()),
            Err(errno) => fault(&self.link, "raise", errno, &mut self.trouble)?,
        }
        Ok(())
    }

    /// What has to be set before the link is raised. False if the link cannot be what it is to be: with
    /// another hardware address it would get the lease of another machine.
    fn prepare(&mut self, kernel: &mut Kernel) -> bool {
        if let Some(mac) = self.plan.mac.filter(|&mac| self.link.mac != Some(mac)) {
            match kernel.set_mac(&self.link, mac) {
                Ok(raised) => {
                    self.link.mac = Some(mac);
                    // What is still down is raised as others are, and told of if it cannot be.
                    self.link.flags.up &= raised != Some(false);
                    self.link.flags.carrier &= raised.is_none();
                    self.link.flags.running &= raised.is_none();
                }
                Err(errno) => {
                    // EPERM and EACCES are also what drivers of virtual functions say by themselves. Who is not
                    // root may not raise the link either, and that ends the race.
                    if is_forbidden(errno) && !rustix::process::geteuid().is_root() {
                        return true;
                    }
                    tell(&self.link, "set the hardware address of", errno, &mut self.trouble);
                    return false;
                }
            }
        }
        if let Some(mtu) = self.plan.mtu {
            kernel.set_mtu(&self.link, u32::from(mtu));
        }
        // Two cards in one network would answer for each other, and a socket that is bound to one would
        // miss its packets: Documentation/networking/ip-sysctl.rst.
        let mut settings = vec![("arp_ignore", "1"), ("arp_announce", "2")];
        // Strict, it wants answers where the best route of all links leads; the higher of both counts.
        let all = || std::fs::read_to_string(kernel.paths.sysctl("net/ipv4/conf/all/rp_filter"));
        if self.link.setting("rp_filter") == Some(1) || all().is_ok_and(|value| value.trim() == "1") {
            settings.push(("rp_filter", "2"));
        }
        kernel.sysctls("net/ipv4/conf", &self.link, &settings);
        true
    }

    /// A later message about the same device.
    pub(super) fn update(
        &mut self,
        link: Link,
        kernel: &mut Kernel,
        setup: &mut Setup,
        started: Instant,
        now: Instant,
    ) -> Result<(), Errno> {
        let started_running = link.flags.running && !self.link.flags.running;
        self.flushed |= self.link.flags.up && !link.flags.up;
        self.link.update(link);
        self.follow_carrier(kernel, setup, started, now)?;
        if started_running && self.forwarding.is_some_and(|forwarding| forwarding.carrier() < now) {
            self.hurry(kernel, setup, now);
        }
        Ok(())
    }

    /// Starts when carrier has come, stops when it has gone.
    pub(super) fn follow_carrier(
        &mut self,
        kernel: &mut Kernel,
        setup: &mut Setup,
        started: Instant,
        now: Instant,
    ) -> Result<(), Errno> {
        let name = self.link.name();
        match (self.link.flags.carrier && !self.refused, self.forwarding) {
            (true, None) => {
                self.news = Some(now.saturating_duration_since(started));
                (self.had_carrier, self.trouble) = (true, None);
                self.forwarding = Some(Forwarding::new(now));
                // Without AF_PACKET a link is taken to forward.
                self.bridges = packet::open_bridge_groups(self.bottom).ok();
                if std::mem::take(&mut self.flushed) {
                    self.ipv4.set_again(context!(self, kernel, setup))?;
                    self.ipv6.set_again(context!(self, kernel, setup))?;
                }
                self.ipv4.start(context!(self, kernel, setup), now)?;
                self.ipv4.tick(context!(self, kernel, setup), now)?;
                self.ipv6.start(context!(self, kernel, setup), now)
            }
            (false, Some(_)) => {
                log::info!("{name} has lost carrier");
                self.trouble = Some(format!("carrier lost, {}", self.story(now)));
                (self.forwarding, self.idle_since, self.lost) = (None, now, now);
                self.news = None;
                (self.bridges, self.traffic) = (None, None);
                self.ipv4.pause();
                self.ipv6.pause();
                Ok(())
            }
            (true, Some(_)) | (false, None) => Ok(()),
        }
    }

    /// The sockets that are open.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (Socket, BorrowedFd<'_>)> {
        [
            (Socket::Dhcp4, self.ipv4.socket()),
            (Socket::Dhcp6, self.ipv6.socket()),
            (Socket::Bridges, self.bridges.as_ref().map(packet::Socket::as_fd)),
            (Socket::Traffic, self.traffic.as_ref().map(packet::Socket::as_fd)),
        ]
        .into_iter()
        .filter_map(|(socket, open)| Some((socket, open?)))
    }

    pub(super) fn due(&self, now: Instant, flap: Duration) -> Option<Instant> {
        let forwarding = match self.forwarding {
            Some(forwarding) => forwarding.due(),
            None => self.told.as_ref().map(|_| self.lost + flap).filter(|&end| now < end),
        };
        [self.ipv4.due(), self.ipv6.due(), forwarding, self.standing(now).until].into_iter().flatten().min()
    }

    pub(super) fn tick(&mut self, kernel: &mut Kernel, setup: &mut Setup, now: Instant) -> Result<(), Errno> {
        if self.forwarding.as_mut().is_some_and(|forwarding| forwarding.tick(now)) {
            self.forwards(kernel, setup, now);
        }
        self.ipv4.tick(context!(self, kernel, setup), now)?;
        self.ipv6.tick(context!(self, kernel, setup), now)
    }

    /// Reads what has arrived.
    pub(super) fn receive(
        &mut self,
        socket: Socket,
        kernel: &mut Kernel,
        setup: &mut Setup,
        now: Instant,
    ) -> Result<(), Errno> {
        match socket {
            Socket::Dhcp4 => {
                if self.ipv4.receive(context!(self, kernel, setup), now)? {
                    self.heard(kernel, setup, now);
                }
            }
            Socket::Dhcp6 => self.ipv6.receive(context!(self, kernel, setup), now)?,
            Socket::Bridges => self.hear_bridges(kernel, setup, now),
            Socket::Traffic => {
                let mut frame = [0; 1];
                let read = |socket| recv(socket, frame.as_mut_slice(), RecvFlags::empty()).is_ok();
                if self.traffic.as_ref().is_some_and(read) {
                    log::debug!("{}: traffic passes", self.link.name());
                    self.heard(kernel, setup, now);
                    self.traffic = None;
                }
            }
        }
        Ok(())
    }

    fn hear_bridges(&mut self, kernel: &mut Kernel, setup: &mut Setup, now: Instant) {
        let (Some(socket), Some(forwarding)) = (&self.bridges, &mut self.forwarding) else { return };
        let was_blocked = forwarding.is_blocked();
        let (mut opened, mut port) = (false, None);
        for _ in 0..BATCH {
            let mut frame = [0; 128];
            let Ok((length, sender)) = packet::receive_from(socket.as_fd(), &mut frame) else { break };
            if let Some(bpdu) = frame.get(..length).and_then(Bpdu::of_frame) {
                opened |= forwarding.bpdu(bpdu, now);
                port = Some(sender);
            }
        }
        if let Some(port) = port.filter(|_| forwarding.is_blocked() && !was_blocked) {
            log::info!("{}: spanning tree blocks the port", self.link.name());
            // What the port itself sends, a Linux bridge's its multicast reports, passes in every state.
            self.traffic = packet::open_traffic(self.bottom, port).ok();
        }
        if opened {
            self.forwards(kernel, setup, now);
        }
    }

    /// Something came that a blocked port would have kept: what bridges say changes nothing any more.
    fn heard(&mut self, kernel: &mut Kernel, setup: &mut Setup, now: Instant) {
        self.bridges = None;
        if self.forwarding.as_mut().is_some_and(|forwarding| forwarding.heard(now)) {
            self.forwards(kernel, setup, now);
        }
    }

    fn forwards(&mut self, kernel: &mut Kernel, setup: &mut Setup, now: Instant) {
        log::info!("{}: the port forwards", self.link.name());
        self.hurry(kernel, setup, now);
    }

    fn hurry(&mut self, kernel: &mut Kernel, setup: &mut Setup, now: Instant) {
        self.ipv4.hurry(now);
        self.ipv6.hurry(context!(self, kernel, setup), now);
    }

    /// Takes what the kernel says of IPv6.
    pub(super) fn learn(
        &mut self,
        word: Word,
        kernel: &mut Kernel,
        setup: &mut Setup,
        now: Instant,
    ) -> Result<(), Errno> {
        self.ipv6.learn(context!(self, kernel, setup), word, now)?;
        Ok(())
    }

    /// The kernel's lists were read.
    pub(super) fn listed(&mut self, kernel: &mut Kernel, setup: &mut Setup, now: Instant) {
        if self.forwarding.is_some() {
            self.ipv6.listed(context!(self, kernel, setup), now);
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let view = View {
            idle_since: if self.raising { now } else { self.idle_since },
            carrier: self.forwarding.map(|forwarding| forwarding.carrier()),
            forwarding: self.forwarding.and_then(|forwarding| forwarding.since()),
            ipv4: self.ipv4.family(),
            ipv6: self.ipv6.family(),
        };
        view.standing(now)
    }

    /// What it offers, if servers can be reached.
    pub(super) fn uplink(&self, setup: &Setup, now: Instant, flap: Duration) -> Option<Uplink> {
        if self.forwarding.is_none() && now < self.lost + flap {
            return self.told.clone();
        }
        let standing = self.standing(now);
        let given = &setup.settings.given;
        standing.usable.then(|| {
            let sides = (self.ipv4.lease().cloned(), self.ipv6.side(now));
            let uplink = compose::uplink(self.link.name(), given, &self.plan, sides);
            // What was complete before carrier went is so when it comes back.
            let complete = standing.complete || self.told.as_ref().is_some_and(|told| told.complete);
            Uplink { complete, bound: true, ..uplink }
        })
    }

    /// Tells of routes that the command line gives and that are not set here.
    pub(super) fn tell_unused(&self, given: &[GivenRoute]) {
        let Some(told) = &self.told else { return };
        for route in given {
            let (there, applied) = match (route.destination, &told.ipv4, &told.ipv6) {
                (IpAddr::V4(_), Some(lease), _) => (true, applies(route, lease.address.into(), lease.prefix)),
                (IpAddr::V6(_), _, Some(side)) => {
                    let set = |own: &Address6| applies(route, own.address.into(), own.prefix);
                    (true, side.addresses.iter().any(set))
                }
                _ => (false, false),
            };
            let is_set = applied && self.plan.routes.contains(route);
            if !is_set && (there || told.complete) {
                let (name, to, prefix) = (self.link.name(), route.destination, route.prefix);
                log::warn!("{name}: the route to {to}/{prefix} of rd.route= does not apply here");
            }
        }
    }

    /// Gives leases back.
    pub(super) fn release(&mut self, kernel: &mut Kernel, setup: &mut Setup) {
        self.ipv4.release(context!(self, kernel, setup));
        self.ipv6.release(context!(self, kernel, setup));
    }

    /// Whether that is still on its way.
    pub(super) fn is_sending(&self) -> bool {
        self.ipv4.is_sending()
    }

    /// Takes away what was set.
    pub(super) fn stop(&mut self, kernel: &mut Kernel, setup: &mut Setup) {
        self.ipv4.stop(context!(self, kernel, setup));
        self.ipv6.stop(context!(self, kernel, setup));
    }

    /// What became of it, without its name.
    pub(super) fn story(&self, now: Instant) -> String {
        if let Some(trouble) = &self.trouble {
            return trouble.clone();
        }
        let Some(forwarding) = self.forwarding else { return "no carrier".to_owned() };
        let sides: Vec<String> = [self.ipv4.story(now), self.ipv6.story(now)].into_iter().flatten().collect();
        let blocked = if forwarding.is_blocked() { "spanning tree blocks the port, " } else { "" };
        let sides = if sides.is_empty() { "nothing is asked for".to_owned() } else { sides.join(", ") };
        format!("{blocked}{sides}")
    }
}

/// The routes that the command line gives and this address reaches.
pub(super) fn routes_given<'a>(
    context: &'a Context<'_>,
    own: IpAddr,
    prefix: u8,
) -> impl Iterator<Item = &'a GivenRoute> {
    context.plan.routes.iter().filter(move |route| applies(route, own, prefix))
}

/// Whether a route for the link of this address is one of its family and leads over its network.
fn applies(route: &GivenRoute, own: IpAddr, prefix: u8) -> bool {
    let near = |gateway| super::apply::same_network(gateway, own, prefix);
    route.destination.is_ipv4() == own.is_ipv4() && (route.device.is_some() || route.gateway.is_none_or(near))
}

/// What the kernel refuses for a link is part of its story; a missing permission ends the race.
pub(super) fn fault(
    link: &Link,
    what: &str,
    errno: Errno,
    trouble: &mut Option<String>,
) -> Result<(), Errno> {
    if is_forbidden(errno) {
        return Err(errno);
    }
    tell(link, what, errno, trouble);
    Ok(())
}

fn tell(link: &Link, what: &str, errno: Errno, trouble: &mut Option<String>) {
    log::warn!("cannot {what} {}: {errno}", link.name());
    *trouble = Some(format!("kernel refused to {what} it: {errno}"));
}
