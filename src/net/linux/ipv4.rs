//! IPv4 on one link: a lease and its renewal, or the address that is given.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use rustix::io::Errno;

use super::apply::{Address, RouteTo, same_network};
use super::runner::{Context, routes_given};
use super::setup::seed;
use super::transport::Port;
use crate::config::network::{Ipv6Mode, LEAST_MTU_IPV6, StaticAddress};
use crate::net::dhcp4::{Client, Outgoing, Reaction, Wishes};
use crate::net::lease::{Lease, Origin, Route};
use crate::net::state::Family;

/// Packets read from one socket before the others have their turn.
const BATCH: usize = 32;

#[derive(Default)]
pub(super) struct Ipv4 {
    port: Option<Port>,
    client: Option<Client>,
    lease: Option<Lease>,
    /// What went wrong at the system.
    trouble: Option<String>,
}

impl Ipv4 {
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Where messages arrive.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.port.as_ref().map(Port::as_fd)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.client.as_ref().map(Client::due)
    }

    pub(super) fn family(&self) -> Family {
        match (&self.lease, &self.client) {
            (Some(_), _) => Family::Settled,
            (None, Some(_)) => Family::Asking,
            (None, None) => Family::Off,
        }
    }

    /// Carrier is there. What is held from before it went is asked for anew, and used until somebody
    /// says otherwise.
    pub(super) fn start(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), Errno> {
        self.trouble = None;
        if self.lease.is_some() {
            if let Some(client) = &mut self.client {
                client.confirm(now);
            }
            return Ok(());
        }
        let given: Vec<StaticAddress> =
            context.plan.addresses.iter().filter(|given| given.address.is_ipv4()).copied().collect();
        if !given.is_empty() {
            return self.set_given(context, &given);
        }
        if !context.plan.dhcp4 {
            return Ok(());
        }
        let port = match Port::open(context.setup.settings.transport, context.link.index, context.link.name())
        {
            Ok(port) => port,
            Err(errno) => return self.fault(context, "open a DHCP socket on", errno),
        };
        let broadcast = port.needs_broadcast();
        let Some(device) = context.setup.device4(context.link, context.plan, broadcast) else {
            return Ok(());
        };
        let record = context.kernel.journal.find(context.link.name());
        let wishes = Wishes {
            boot_url: context.setup.settings.wants_boot_url,
            https_only: context.setup.settings.https_only,
            remembered: record.and_then(|record| record.lease),
            had_boot_url: record.is_some_and(|record| record.boot_url),
        };
        let seed = seed(device.mac);
        self.client = Some(Client::new(device, wishes, seed, now));
        self.port = Some(port);
        Ok(())
    }

    /// Carrier has gone, and may come back.
    pub(super) fn pause(&mut self) {
        if self.lease.is_none() {
            (self.port, self.client) = (None, None);
        }
    }

    /// Takes away what was set.
    pub(super) fn stop(&mut self, context: &mut Context<'_>) {
        (self.port, self.client) = (None, None);
        if let Some(lease) = self.lease.take() {
            remove(context, &lease);
        }
        let given = context.plan.addresses.iter().filter(|given| given.address.is_ipv4());
        for other in given.skip(1) {
            context.kernel.remove_address(context.link, other.address, other.prefix);
        }
    }

    /// What has been sent may have been lost on the way.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Some(client) = &mut self.client {
            client.hurry(now);
        }
    }

    pub(super) fn tick(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), Errno> {
        match &mut self.client {
            Some(client) if client.due() <= now => {
                let reaction = client.tick(now);
                self.react(context, reaction)
            }
            _ => Ok(()),
        }
    }

    /// Reads what has arrived. True if anything has.
    pub(super) fn receive(&mut self, context: &mut Context<'_>, now: Instant) -> Result<bool, Errno> {
        let mut heard = false;
        for _ in 0..BATCH {
            let (Some(port), Some(client)) = (&self.port, &mut self.client) else { break };
            let (source, message) = match port.receive() {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(Errno::AGAIN) => break,
                // ENETDOWN and the like: the carrier's event follows, and retransmission goes on.
                Err(errno) => {
                    log::debug!("{}: receiving: {errno}", context.link.name());
                    break;
                }
            };
            heard = true;
            let reaction = client.receive(now, source, &message);
            self.react(context, reaction)?;
        }
        Ok(heard)
    }

    fn react(&mut self, context: &mut Context<'_>, reaction: Reaction) -> Result<(), Errno> {
        match reaction {
            Reaction::Nothing => Ok(()),
            Reaction::Send(message) => {
                self.send(context, &message);
                Ok(())
            }
            Reaction::Bound(lease) => {
                // While it is open, unicast answers arrive, and nobody is told that the port is closed.
                match Port::open_udp(context.link.name()) {
                    Ok(port) => self.port = Some(port),
                    Err(errno) => log::debug!("{}: no UDP socket: {errno}", context.link.name()),
                }
                let boot_url = self.client.as_ref().is_some_and(Client::has_boot_url);
                context.kernel.journal.change(context.link.name(), |record| {
                    (record.lease, record.boot_url) = (Some(lease.address), boot_url);
                });
                log::info!("{}", summary(&lease));
                self.set(context, *lease, None)
            }
            Reaction::Renewed(lease) => {
                log::debug!("{}: {} is renewed", lease.interface, lease.address);
                self.set(context, *lease, None)
            }
            Reaction::Lost(why) => {
                log::warn!("{}: lease lost: {why}", context.link.name());
                if let Some(lease) = self.lease.take() {
                    remove(context, &lease);
                }
                context.kernel.journal.change(context.link.name(), |record| record.lease = None);
                let transport = context.setup.settings.transport;
                match Port::open(transport, context.link.index, context.link.name()) {
                    Ok(port) => self.port = Some(port),
                    Err(errno) => return self.fault(context, "open a DHCP socket on", errno),
                }
                Ok(())
            }
        }
    }

    /// A failed transmission is as good as a lost packet: it is repeated. What remains is a message.
    fn send(&mut self, context: &Context<'_>, message: &Outgoing) {
        let sent = match (message.to, &self.port) {
            (Some(server), Some(port)) => port.send_to(server, &message.payload),
            (None, Some(port)) => port.send(&message.payload),
            (_, None) => Ok(()),
        };
        self.trouble = sent.err().map(|errno| {
            log::debug!("{}: sending: {errno}", context.link.name());
            format!("cannot send: {errno}")
        });
    }

    /// Sets what the lease says, in place of an earlier one. The kernel forgets the address when the lease
    /// ends: whoever has renewed it until then may be gone.
    fn set(&mut self, context: &mut Context<'_>, lease: Lease, peer: Option<IpAddr>) -> Result<(), Errno> {
        let before = self.lease.take();
        let changes = before.as_ref() != Some(&lease);
        if let Some(before) =
            before.filter(|before| (before.address, before.prefix) != (lease.address, lease.prefix))
        {
            remove(context, &before);
        }
        if changes && let Some(mtu) = context.plan.mtu.or_else(|| leased_mtu(context, &lease)) {
            context.kernel.set_mtu(context.link, u32::from(mtu));
        }
        let mut address = address(&lease, peer, context.metric);
        let left = self.client.as_ref().and_then(|client| client.left(Instant::now()));
        address.lifetimes = left.map(|left| (left, left));
        if let Err(errno) = context.kernel.add_address(context.link, &address) {
            return self.fault(context, &format!("set address {}/{} on", lease.address, lease.prefix), errno);
        }
        if changes {
            let routes = routes(context, &lease);
            context.kernel.remove_routes(context.link, false, &routes);
            for route in &routes {
                context.kernel.add_route(context.link, route);
            }
        }
        self.lease = Some(lease);
        Ok(())
    }

    fn set_given(&mut self, context: &mut Context<'_>, given: &[StaticAddress]) -> Result<(), Errno> {
        let (Some(first), Some(mac)) = (given.first(), context.link.mac) else { return Ok(()) };
        let Some(lease) = lease_of(context.link.name(), mac, first) else { return Ok(()) };
        log::info!("{}: address {}/{} is given", lease.interface, lease.address, lease.prefix);
        self.set(context, lease, first.peer)?;
        for other in given.iter().skip(1) {
            let address = Address {
                address: other.address,
                prefix: other.prefix,
                peer: other.peer,
                broadcast: None,
                lifetimes: None,
                alone: false,
                metric: context.metric,
            };
            if let Err(errno) = context.kernel.add_address(context.link, &address) {
                log::warn!("{}: cannot set address {}: {errno}", context.link.name(), other.address);
            }
        }
        Ok(())
    }

    /// The kernel has forgotten what was set: it is set again.
    pub(super) fn set_again(&mut self, context: &mut Context<'_>) -> Result<(), Errno> {
        match self.lease.take() {
            Some(lease) if lease.origin == Origin::Dhcp => self.set(context, lease, None),
            _ => Ok(()),
        }
    }

    /// Whether a message waits for the link-layer address of its destination.
    pub(super) fn is_sending(&self) -> bool {
        self.port.as_ref().is_some_and(Port::is_sending)
    }

    /// Gives the lease back. The address is needed until the message has left.
    pub(super) fn release(&mut self, context: &mut Context<'_>) {
        let message = self.client.as_mut().and_then(Client::release);
        if let Some(message) = message {
            log::debug!("{}: the lease is released", context.link.name());
            self.send(context, &message);
            context.kernel.journal.change(context.link.name(), |record| record.lease = None);
        }
    }

    /// What the kernel refuses is part of the link's story; a missing permission is an error.
    fn fault(&mut self, context: &Context<'_>, what: &str, errno: Errno) -> Result<(), Errno> {
        super::runner::fault(context.link, what, errno, &mut self.trouble)
    }

    /// None where nothing is asked for.
    pub(super) fn story(&self, now: Instant) -> Option<String> {
        match (&self.trouble, &self.lease, &self.client) {
            (Some(trouble), _, _) => Some(trouble.clone()),
            (None, Some(lease), _) => Some(format!("address {}", lease.address)),
            (None, None, client) => client.as_ref().map(|client| client.story(now)),
        }
    }
}

/// Takes the address and the routes away.
fn remove(context: &mut Context<'_>, lease: &Lease) {
    context.kernel.remove_routes(context.link, false, &[]);
    context.kernel.remove_address(context.link, lease.address.into(), lease.prefix);
}

/// The kernel takes IPv6 off a link whose MTU is less than that: RFC 8200, section 5.
fn leased_mtu(context: &Context<'_>, lease: &Lease) -> Option<u16> {
    let (mtu, plan) = (lease.mtu?, context.plan);
    let uses_ipv6 = plan.ipv6 != Ipv6Mode::Off || plan.addresses.iter().any(|given| given.address.is_ipv6());
    if mtu < LEAST_MTU_IPV6 && uses_ipv6 && context.kernel.paths.sysctl("net/ipv6").exists() {
        log::warn!("{}: an MTU of {mtu} is too small for IPv6, and not set", lease.interface);
        return None;
    }
    Some(mtu)
}

fn address(lease: &Lease, peer: Option<IpAddr>, metric: u32) -> Address {
    let computed = || Ipv4Addr::from(u32::from(lease.address) | host_bits(lease.prefix));
    let broadcast = (lease.prefix < 31 && peer.is_none()).then(|| lease.broadcast.unwrap_or_else(computed));
    let address = lease.address.into();
    Address { address, prefix: lease.prefix, peer, broadcast, lifetimes: None, alone: false, metric }
}

/// What the lease says; what the command line says; and for servers of names beyond the network the
/// way through this link, so that lookups for it go over it.
fn routes(context: &Context<'_>, lease: &Lease) -> Vec<RouteTo> {
    let own = IpAddr::V4(lease.address);
    let to = |destination: IpAddr, prefix: u8, gateway: Option<IpAddr>| RouteTo {
        destination,
        prefix,
        gateway,
        // Clouds give /32 leases: the router is on the link all the same.
        onlink: gateway.is_some_and(|gateway| !same_network(gateway, own, lease.prefix)),
        source: Some(own),
        metric: context.metric,
    };
    let leased = |route: &Route| to(route.destination.into(), route.prefix, route.gateway.map(IpAddr::from));
    let mut routes: Vec<RouteTo> = lease.routes.iter().map(leased).collect();
    routes.extend(
        routes_given(context, own, lease.prefix)
            .map(|route| to(route.destination, route.prefix, route.gateway)),
    );
    let gateway = lease.routes.iter().find(|route| route.prefix == 0).and_then(|route| route.gateway);
    if let Some(gateway) = gateway {
        let covered = |server: IpAddr| {
            same_network(server, own, lease.prefix)
                || routes
                    .iter()
                    .any(|route| route.prefix > 0 && same_network(server, route.destination, route.prefix))
        };
        let servers = context.name_servers(&lease.dns.iter().copied().map(IpAddr::from).collect::<Vec<_>>());
        let distant: Vec<IpAddr> =
            servers.into_iter().filter(|server| server.is_ipv4() && !covered(*server)).collect();
        routes.extend(distant.into_iter().map(|server| to(server, 32, Some(gateway.into()))));
    }
    routes
}

/// The address as if it were leased.
fn lease_of(interface: &str, mac: [u8; 6], given: &StaticAddress) -> Option<Lease> {
    let IpAddr::V4(address) = given.address else { return None };
    let mut lease = Lease::bare(interface, mac, Origin::Static, address, given.prefix);
    if let Some(IpAddr::V4(gateway)) = given.gateway {
        lease.routers.push(gateway);
        lease.routes.push(Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(gateway) });
    }
    Some(lease)
}

fn host_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

/// `eth0: lease 10.0.2.15/24 from 10.0.2.2, gateway 10.0.2.2, dns 10.0.2.3, 86400 s`
fn summary(lease: &Lease) -> String {
    let mut line = format!("{}: lease {}/{}", lease.interface, lease.address, lease.prefix);
    if let Some(server) = lease.server {
        let _ = write!(line, " from {server}");
    }
    for route in &lease.routes {
        let _ = match route {
            Route { prefix: 0, gateway: Some(gateway), .. } => write!(line, ", gateway {gateway}"),
            Route { destination, prefix, gateway: Some(gateway) } => {
                write!(line, ", route {destination}/{prefix} via {gateway}")
            }
            Route { destination, prefix, gateway: None } => write!(line, ", route {destination}/{prefix}"),
        };
    }
    for server in &lease.dns {
        let _ = write!(line, ", dns {server}");
    }
    if let Some(mtu) = lease.mtu {
        let _ = write!(line, ", mtu {mtu}");
    }
    let _ = match lease.lease_seconds {
        Some(seconds) => write!(line, ", {seconds} s"),
        None => write!(line, ", without end"),
    };
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_one_line() {
        let mut lease = Lease::bare("eth0", [2; 6], Origin::Dhcp, [10, 0, 2, 15].into(), 24);
        let gateway = Some([10, 0, 2, 2].into());
        lease.server = gateway;
        lease.routes = vec![Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway }];
        lease.dns = vec![[10, 0, 2, 3].into()];
        lease.lease_seconds = Some(86_400);
        assert_eq!(
            summary(&lease),
            "eth0: lease 10.0.2.15/24 from 10.0.2.2, gateway 10.0.2.2, dns 10.0.2.3, 86400 s"
        );
    }
}
