//! IPv6 on one link: what the kernel makes of router advertisements, DHCPv6, or the addresses that are
//! given ([`given`]).

mod given;

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::apply::{Address, RouteTo, same_network};
use super::runner::{Context, routes_given};
use super::setup::seed;
use super::transport::{self, Port6};
use crate::config::network::Ipv6Mode;
use crate::net::Caller;
use crate::net::address::{DefaultRoute, LinkAddress};
use crate::net::dhcp6::{Client6, Need, Reaction6};
use crate::net::lease6::Lease6;
use crate::net::ra::{RouterFlags, RouterNames};
use crate::net::slaac::Gathered;
use crate::net::state::Family;
use crate::net::uplink::Ipv6 as Side;

/// Packets read from one socket before the others have their turn.
const BATCH: usize = 32;

/// What the kernel says of IPv6 on one link.
#[derive(Debug)]
pub(super) enum Word {
    Address(LinkAddress, bool),
    Route(DefaultRoute, bool),
    Flags(RouterFlags),
    Names(RouterNames),
}

#[derive(Default)]
pub(super) struct Ipv6 {
    mode: Mode,
    gathered: Gathered,
    /// In [`Mode::Either`]: when routers have had their time, and whether they have.
    fallback: Option<Instant>,
    given_up: bool,
    /// A router spoke before anybody listened, and has not told its names again.
    unheard: bool,
    /// The link-local address can be sent from.
    ready: bool,
    port: Option<Port6>,
    client: Option<(Client6, Need)>,
    lease: Option<Lease6>,
    /// Besides what routers say: to where names are asked for, and those that are given.
    routes: Vec<RouteTo>,
    trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Off,
    /// As routers say.
    Auto,
    /// As routers say, and DHCPv6 where none brings an address.
    Either,
    /// DHCPv6 whatever they say.
    Dhcp,
    Given,
}

/// How long routers have before DHCPv6 is asked without them, in [`Mode::Either`].
const ROUTERS_FIRST: Duration = Duration::from_secs(3);

/// Settings of a link with IPv6: see [`Ipv6::prepare`].
const WITH_IPV6: [(&str, &str); 7] = [
    ("disable_ipv6", "0"),
    ("use_tempaddr", "0"),
    ("use_oif_addrs_only", "1"),
    ("router_solicitation_delay", "0"),
    ("router_solicitation_interval", "1"),
    ("router_solicitation_max_interval", "4"),
    ("router_solicitations", "-1"),
];

impl Ipv6 {
    /// Before the link is raised: how the kernel is to deal with routers here. What Linux does by itself,
    /// with these differences (Documentation/networking/ip-sysctl.rst): no temporary addresses; the first
    /// solicitation at once, and none more than 4 s after the last; no address of another link; no wait for
    /// duplicate address detection.
    pub(super) fn prepare(&mut self, context: &mut Context<'_>) {
        let given = given::addresses(context);
        self.mode = match context.plan.ipv6 {
            _ if !given.is_empty() => Mode::Given,
            _ if !context.kernel.paths.sysctl("net/ipv6").exists() => Mode::Off,
            Ipv6Mode::Off => Mode::Off,
            Ipv6Mode::Auto => Mode::Auto,
            Ipv6Mode::Either => Mode::Either,
            Ipv6Mode::Dhcp => Mode::Dhcp,
        };
        self.gathered = Gathered::new(given);
        let asks = self.asks_routers();
        // 2 rather than 1: also where packets are forwarded.
        let [accept, form] = if asks { ["2", "1"] } else { ["0", "0"] };
        let mut settings = vec![("accept_ra", accept), ("autoconf", form)];
        if self.mode != Mode::Off {
            settings.extend(WITH_IPV6);
            // A machine that boots has a second less than duplicate address detection takes; in a system of
            // somebody else addresses are used while it goes on (RFC 4429).
            settings.push(match context.setup.caller {
                Caller::Init => ("dad_transmits", "0"),
                Caller::Command => ("optimistic_dad", "1"),
            });
        }
        context.kernel.sysctls("net/ipv6/conf", context.link, &settings);
    }

    fn asks_routers(&self) -> bool {
        matches!(self.mode, Mode::Auto | Mode::Either | Mode::Dhcp)
    }

    /// Where messages arrive.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.port.as_ref().map(Port6::as_fd)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.client.as_ref().map(|(client, _)| client.due()).into_iter().chain(self.fallback).min()
    }

    pub(super) fn family(&self) -> Family {
        let waits = self.waits();
        match self.mode {
            Mode::Off => Family::Off,
            Mode::Given if self.has_address() => Family::Settled,
            Mode::Auto | Mode::Either if self.gathered.is_usable() && self.unheard => Family::Usable,
            Mode::Auto | Mode::Either if self.gathered.is_usable() && !waits => Family::Settled,
            Mode::Dhcp if self.gathered.is_usable() && self.client.is_some() && !waits => Family::Settled,
            // DHCPv6 has more to tell.
            Mode::Auto | Mode::Either if self.gathered.is_usable() => Family::Usable,
            Mode::Dhcp if self.gathered.is_usable() => Family::Advertised,
            Mode::Auto | Mode::Either if self.gathered.is_near() => Family::Near,
            // No address of DHCPv6 says what is on the link: a router that leads nowhere else does, or rd.route=.
            _ if self.has_lease() && !self.lacks_routes() => Family::Usable,
            _ if self.gathered.flags.received => Family::Advertised,
            _ => Family::Asking,
        }
    }

    /// Whether DHCPv6 has still to bring what it is asked for. One of several addresses may be over by now.
    fn waits(&self) -> bool {
        let held = |lease: &Lease6| lease.addresses.iter().any(|(address, ..)| self.gathered.has(*address));
        let told = |need| self.lease.as_ref().is_some_and(|lease| need == Need::Stateless || held(lease));
        self.client.as_ref().is_some_and(|&(_, need)| !told(need))
    }

    fn has_lease(&self) -> bool {
        self.holds() && self.has_address()
    }

    /// Whether there is a lease, and not what is left of one whose addresses were declined.
    fn holds(&self) -> bool {
        let is_stateless = self.client.as_ref().is_some_and(|&(_, need)| need == Need::Stateless);
        self.lease.as_ref().is_some_and(|lease| is_stateless || !lease.addresses.is_empty())
    }

    /// Whether nobody says how anything is reached: RFC 5942, section 4.
    fn lacks_routes(&self) -> bool {
        !self.gathered.flags.received && self.routes.is_empty()
    }

    fn knows_names(&self, now: Instant) -> bool {
        !self.gathered.ipv6(self.lease.as_ref(), now).dns.is_empty()
    }

    fn has_address(&self) -> bool {
        self.gathered.duplicates().next().is_none()
            && !self.gathered.ipv6(self.lease.as_ref(), Instant::now()).addresses.is_empty()
    }

    /// What there is of it for an uplink.
    pub(super) fn side(&self, now: Instant) -> Option<Side> {
        let side = self.gathered.ipv6(self.lease.as_ref(), now);
        (self.mode != Mode::Off && !side.addresses.is_empty()).then_some(side)
    }

    /// Carrier is there.
    pub(super) fn start(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), Errno> {
        self.trouble = None;
        if self.mode == Mode::Given {
            return given::set(context, &mut self.trouble);
        }
        if self.gathered.flags.received {
            self.hurry(context, now);
        }
        self.wait_for_routers(now);
        self.consider_dhcp(context, now)
    }

    /// From now on, routers have their time before DHCPv6 is asked without them.
    fn wait_for_routers(&mut self, now: Instant) {
        if self.mode == Mode::Either && !self.holds() {
            if std::mem::take(&mut self.given_up) {
                (self.port, self.client) = (None, None);
            }
            self.fallback = Some(now + ROUTERS_FIRST);
        }
    }

    /// The kernel's lists were read. What a router told before anybody listened it is asked for again; and on a
    /// link that was up already the kernel may have given up asking, which no setting makes it take up again.
    pub(super) fn listed(&mut self, context: &mut Context<'_>, now: Instant) {
        if self.asks_routers() && !self.knows_names(now) {
            self.unheard |= self.gathered.flags.received;
            self.hurry(context, now);
        }
    }

    /// Carrier has gone, and may come back. The kernel keeps what routers said.
    pub(super) fn pause(&mut self) {
        self.fallback = None;
        if self.lease.as_ref().is_none_or(|lease| lease.addresses.is_empty()) {
            (self.port, self.client) = (None, None);
        }
    }

    /// Takes away what was set.
    pub(super) fn stop(&mut self, context: &mut Context<'_>) {
        self.pause();
        (self.port, self.client) = (None, None);
        if let Some(lease) = self.lease.take() {
            remove(context, &lease.addresses);
        }
        if self.mode == Mode::Given {
            given::remove(context);
        }
        if !std::mem::take(&mut self.routes).is_empty() || self.mode == Mode::Given {
            context.kernel.remove_routes(context.link, true, &[]);
        }
    }

    /// The link forwards now: routers and servers are asked again.
    pub(super) fn hurry(&mut self, context: &mut Context<'_>, now: Instant) {
        if matches!(self.mode, Mode::Off | Mode::Given) {
            return;
        }
        self.wait_for_routers(now);
        if let (true, Some(mac)) = (self.ready, context.link.mac)
            && let Err(errno) = transport::solicit_routers(context.link.index, context.link.name(), mac)
        {
            log::debug!("{}: routers cannot be solicited: {errno}", context.link.name());
        }
        if let Some((client, _)) = &mut self.client {
            client.hurry(now);
        }
    }

    /// Takes what the kernel says. True if a router has spoken.
    pub(super) fn learn(
        &mut self,
        context: &mut Context<'_>,
        word: Word,
        now: Instant,
    ) -> Result<bool, Errno> {
        let routers_before = self.gathered.flags.received;
        match word {
            Word::Address(address, there) => {
                if address.address.is_unicast_link_local() && there && address.is_ready() {
                    self.ready = true;
                }
                self.gathered.address(address, there);
                // The kernel takes one with a lifetime away at once, and says why.
                if address.duplicate {
                    self.decline(context, address.address, now);
                }
            }
            Word::Route(route, there) => {
                self.gathered.flags.received |= route.advertised && there;
                self.gathered.route(route, there);
            }
            Word::Flags(flags) => {
                self.gathered.flags = RouterFlags { received: flags.received || routers_before, ..flags };
            }
            Word::Names(names) => {
                self.gathered.flags.received = true;
                self.unheard = false;
                self.gathered.names(names, now);
            }
        }
        if context.has_carrier {
            self.consider_dhcp(context, now)?;
            self.add_routes(context, now);
        }
        Ok(self.gathered.flags.received)
    }

    /// Runs a DHCPv6 client where one is needed, as soon as there is an address to ask from.
    fn consider_dhcp(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), Errno> {
        let need = match self.mode {
            Mode::Off | Mode::Given => None,
            Mode::Either if self.given_up && !self.gathered.is_near() => Some(Need::Stateful),
            Mode::Auto | Mode::Either => self.gathered.flags.need(),
            Mode::Dhcp => Some(Need::Stateful),
        };
        // Routers came late, and what they say counts, unless there is a lease.
        let is_other = |(_, running): &(Client6, Need)| Some(*running) != need;
        if self.given_up && !self.holds() && self.client.as_ref().is_some_and(is_other) {
            (self.port, self.client) = (None, None);
        }
        let Some(need) = need.filter(|_| self.ready) else { return Ok(()) };
        if self.client.as_ref().is_some_and(|(_, running)| *running == need || *running == Need::Stateful) {
            return Ok(());
        }
        let Some(device) = context.setup.device6(context.link, context.plan) else { return Ok(()) };
        if self.port.is_none() {
            match Port6::open(context.link.index, context.link.name()) {
                Ok(port) => self.port = Some(port),
                Err(errno) => {
                    return super::runner::fault(
                        context.link,
                        "open a DHCPv6 socket on",
                        errno,
                        &mut self.trouble,
                    );
                }
            }
        }
        let wishes = context.setup.settings.wants_boot_url;
        let seed = seed(device.mac);
        let mut client = Client6::new(device, need, wishes, seed, now);
        client.https_only = context.setup.settings.https_only;
        self.client = Some((client, need));
        self.tick(context, now)
    }

    pub(super) fn tick(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), Errno> {
        if self.fallback.is_some_and(|due| due <= now) {
            (self.fallback, self.given_up) = (None, true);
            self.consider_dhcp(context, now)?;
        }
        match &mut self.client {
            Some((client, _)) if client.due() <= now => {
                let reaction = client.tick(now);
                self.react(context, reaction, now)
            }
            _ => Ok(()),
        }
    }

    /// Reads what has arrived.
    pub(super) fn receive(&mut self, context: &mut Context<'_>, now: Instant) -> Result<(), Errno> {
        for _ in 0..BATCH {
            let (Some(port), Some((client, _))) = (&self.port, &mut self.client) else { break };
            let (source, message) = match port.receive() {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    log::debug!("{}: receiving: {errno}", context.link.name());
                    break;
                }
            };
            let reaction = client.receive(now, source, &message);
            self.react(context, reaction, now)?;
        }
        Ok(())
    }

    fn react(&mut self, context: &mut Context<'_>, reaction: Reaction6, now: Instant) -> Result<(), Errno> {
        match reaction {
            Reaction6::Nothing => {}
            Reaction6::Send(message) => self.send(context, &message),
            Reaction6::Bound(lease) | Reaction6::Renewed(lease) => {
                self.set(context, *lease)?;
                self.add_routes(context, now);
            }
            Reaction6::Lost(why) => {
                log::warn!("{}: DHCPv6 lease lost: {why}", context.link.name());
                if let Some(lease) = self.lease.take() {
                    remove(context, &lease.addresses);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, context: &Context<'_>, message: &[u8]) {
        let Some(port) = &self.port else { return };
        self.trouble = port.send(message).err().map(|errno| {
            log::debug!("{}: sending: {errno}", context.link.name());
            format!("cannot send by DHCPv6: {errno}")
        });
    }

    /// Sets the addresses of a lease; those that an earlier one had beyond them go.
    fn set(&mut self, context: &mut Context<'_>, lease: Lease6) -> Result<(), Errno> {
        // What is left of one whose addresses were declined is no lease of them.
        let is_bare = |lease: &Lease6| lease.addresses.is_empty();
        if self.lease.as_ref().is_none_or(|before| is_bare(before) && !is_bare(&lease)) {
            log::info!("{}", summary(context.link.name(), &lease));
        }
        let before = self.lease.take().map(|lease| lease.addresses).unwrap_or_default();
        for (gone, ..) in
            before.iter().filter(|(old, ..)| !lease.addresses.iter().any(|(new, ..)| new == old))
        {
            context.kernel.remove_address(context.link, (*gone).into(), 128);
        }
        for &(leased, preferred, valid) in &lease.addresses {
            let address = Address {
                address: leased.into(),
                prefix: 128,
                peer: None,
                broadcast: None,
                lifetimes: Some((preferred, valid)),
                alone: true,
                metric: 0,
            };
            if let Err(errno) = context.kernel.add_address(context.link, &address) {
                refused(context, leased.into(), errno, &mut self.trouble)?;
            }
        }
        self.lease = Some(lease);
        Ok(())
    }

    /// Sets the routes that the command line gives, and those to servers of names beyond the link through its
    /// router, so that lookups go over it.
    fn add_routes(&mut self, context: &mut Context<'_>, now: Instant) {
        if !self.asks_routers() {
            return;
        }
        let side = self.gathered.ipv6(self.lease.as_ref(), now);
        let metric = context.metric;
        let to = |destination: IpAddr, prefix: u8, gateway: Option<IpAddr>| RouteTo {
            destination,
            prefix,
            gateway,
            onlink: false,
            source: None,
            metric,
        };
        let mut routes = Vec::new();
        for own in &side.addresses {
            let given = routes_given(context, own.address.into(), own.prefix);
            routes.extend(given.map(|route| to(route.destination, route.prefix, route.gateway)));
        }
        if let Some(router) = side.router {
            let beyond = |server: Ipv6Addr| {
                let near = |known: &crate::net::uplink::Address6| {
                    known.prefix < 128 && same_network(server.into(), known.address.into(), known.prefix)
                };
                !server.is_unicast_link_local() && server != router && !side.addresses.iter().any(near)
            };
            let servers =
                context.name_servers(&side.dns.iter().copied().map(IpAddr::from).collect::<Vec<_>>());
            let distant = servers.into_iter().filter_map(ipv6).filter(|&server| beyond(server));
            routes.extend(distant.map(|server| to(server.into(), 128, Some(router.into()))));
        }
        for route in routes {
            if !self.routes.contains(&route) {
                self.routes.push(route);
                context.kernel.add_route(context.link, &route);
            }
        }
    }

    /// Tells the server of a lease that somebody else has its address. What else it told stays.
    fn decline(&mut self, context: &mut Context<'_>, address: Ipv6Addr, now: Instant) {
        let Some((client, _)) = &mut self.client else { return };
        let has = |lease: &&mut Lease6| lease.addresses.iter().any(|own| own.0 == address);
        let Some(addresses) =
            self.lease.as_mut().filter(has).map(|lease| std::mem::take(&mut lease.addresses))
        else {
            return;
        };
        log::warn!("{}: somebody else has the address {address}", context.link.name());
        if let Some(message) = client.decline(now, address) {
            self.send(context, &message);
        }
        remove(context, &addresses);
    }

    /// Gives the addresses back.
    pub(super) fn release(&mut self, context: &mut Context<'_>) {
        let message = self.client.as_mut().and_then(|(client, _)| client.release());
        if let Some(message) = message {
            log::debug!("{}: the DHCPv6 lease is released", context.link.name());
            self.send(context, &message);
        }
    }

    /// The kernel has forgotten what was set: it is set again.
    pub(super) fn set_again(&mut self, context: &mut Context<'_>) -> Result<(), Errno> {
        self.routes.clear();
        match self.lease.take() {
            Some(lease) => self.set(context, lease),
            None => Ok(()),
        }
    }

    /// None where nothing is asked for.
    pub(super) fn story(&self, now: Instant) -> Option<String> {
        let duplicate = self.gathered.duplicates().next();
        match (self.mode, &self.trouble, duplicate, &self.client) {
            (Mode::Off, None, ..) => None,
            (_, Some(trouble), ..) => Some(trouble.clone()),
            (_, None, Some(duplicate), _) => Some(format!("somebody else has the address {duplicate}")),
            _ if self.gathered.is_near() => {
                let near = if self.gathered.is_usable() { "" } else { ", its router leads nowhere else" };
                let side = self.gathered.ipv6(self.lease.as_ref(), now);
                let unanswered = self.client.as_ref().filter(|_| self.waits());
                let told =
                    unanswered.map(|(client, _)| format!(", {}", client.story(now))).unwrap_or_default();
                side.addresses.first().map(|own| format!("address {}{near}{told}", own.address))
            }
            _ if self.has_lease() && self.lacks_routes() => Some(
                "no IPv6 router advertised itself, and a DHCPv6 address alone reaches nothing".to_owned(),
            ),
            (_, None, None, Some((client, _))) => Some(client.story(now)),
            (Mode::Given, ..) => None,
            _ if self.gathered.flags.received => Some("no IPv6 address from its router".to_owned()),
            _ => Some("no IPv6 router advertised itself".to_owned()),
        }
    }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// The kernel does not take an address.
fn refused(
    context: &Context<'_>,
    address: IpAddr,
    errno: Errno,
    trouble: &mut Option<String>,
) -> Result<(), Errno> {
    // inet6_addr_add() of net/ipv6/addrconf.c: somebody has set disable_ipv6. IPv4 goes on.
    if errno == Errno::ACCESS {
        log::warn!("{}: cannot set address {address}: IPv6 is switched off", context.link.name());
        *trouble = Some("IPv6 is switched off".to_owned());
        return Ok(());
    }
    super::runner::fault(context.link, &format!("set address {address} on"), errno, trouble)
}

fn remove(context: &mut Context<'_>, addresses: &[(Ipv6Addr, u32, u32)]) {
    for &(address, ..) in addresses {
        context.kernel.remove_address(context.link, address.into(), 128);
    }
}

/// `eth0: DHCPv6 from fe80::1: address 2001:db8::100, dns 2001:db8::53`
fn summary(name: &str, lease: &Lease6) -> String {
    let addresses = lease.addresses.iter().map(|(address, ..)| format!("address {address}"));
    let servers = lease.dns.iter().map(|server| format!("dns {server}"));
    let said: Vec<String> = addresses.chain(servers).collect();
    format!("{name}: DHCPv6 from {}: {}", lease.server, said.join(", "))
}

#[cfg(test)]
mod tests;
