//! What the kernel tells: links that appear, change and go, and what IPv6 routers bring about.

use std::time::Instant;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::route::RouteHeader;
use rustix::io::Errno;

use super::ipv6::Word;
use super::netlink::Incoming;
use super::runner::Runner;
use super::{Engine, refused};
use crate::net::address::{DefaultRoute, LinkAddress};
use crate::net::link::Link;
use crate::net::ra::{RouterFlags, RouterNames};
use crate::net::{Caller, Error};

/// RTM_NEWPREFIX and RTM_NEWNDUSEROPT of linux/rtnetlink.h.
const RTM_NEWPREFIX: u16 = 52;
const RTM_NEWNDUSEROPT: u16 = 68;

impl Engine {
    /// Takes away what the last attempt has set, and takes the links that are there.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        if self.kernel.journal.links.is_empty() {
            return self.list();
        }
        let links = self.links_now()?;
        for link in links.iter().rev() {
            let record = self.kernel.journal.find(link.name());
            let is_ours = record.is_some_and(|record| record.raised);
            // A bond that stays keeps its members: it raises them only when they join.
            let stays = if record.is_some_and(|record| record.joined) {
                self.setup.is_member(link)
            } else {
                self.setup.plan(link).is_some() || self.setup.only_raises(link)
            };
            if stays {
                self.kernel.withdraw_addresses(link);
                if is_ours && self.setup.caller == Caller::Init {
                    self.kernel.reset_ipv6(link);
                }
            } else {
                self.kernel.put_back(link);
            }
        }
        self.kernel.journal.keep();
        self.list()
    }

    /// Takes the links that are there, and IPv6 as it is.
    pub(super) fn list(&mut self) -> Result<(), Error> {
        let links = self.links_now()?;
        let is_there = |known: &Link| links.iter().any(|link| link.index == known.index);
        let vanished: Vec<Link> = self.links.iter().filter(|known| !is_there(known)).cloned().collect();
        vanished.iter().for_each(|link| self.gone(link));
        // What is to be made may be there, behind what it stands on.
        links.iter().for_each(|link| self.note(link));
        let now = Instant::now();
        for (number, link) in links.into_iter().enumerate() {
            self.seen(link, now)?;
            // The first are raised while others are looked at; each time all of them are written.
            if number.is_power_of_two() {
                self.kernel.dispatch();
            }
        }
        self.kernel.dispatch();
        let list = |engine: &mut Self| -> Result<Vec<Incoming>, Errno> {
            let mut found = Vec::new();
            let ipv6 = AddressFamily::Inet6;
            let add = &mut |incoming| found.push(incoming);
            let requests = &mut engine.kernel.requests;
            requests.list(
                libc::RTM_GETADDR,
                &AddressHeader { family: ipv6, ..AddressHeader::default() },
                add,
            )?;
            let header = RouteHeader { address_family: ipv6, ..RouteHeader::default() };
            requests.list(libc::RTM_GETROUTE, &header, add)?;
            Ok(found)
        };
        // A kernel without IPv6 has nothing to list.
        let found = list(self).unwrap_or_default();
        for incoming in &found {
            self.learn(incoming, now)?;
        }
        self.list_flags(now)?;
        for runner in &mut self.runners {
            runner.listed(&mut self.kernel, &mut self.setup, now);
        }
        Ok(())
    }

    /// What routers have said of DHCPv6.
    fn list_flags(&mut self, now: Instant) -> Result<(), Error> {
        let mut found = Vec::new();
        let header = LinkHeader { interface_family: AddressFamily::Inet6, ..LinkHeader::default() };
        let add = &mut |incoming| found.push(incoming);
        if let Err(errno) = self.kernel.requests.list(libc::RTM_GETLINK, &header, add) {
            log::debug!("IPv6 flags cannot be listed: {errno}");
        }
        found.iter().try_for_each(|incoming| self.learn(incoming, now))
    }

    fn links_now(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        let found = &mut |incoming: Incoming| {
            if incoming.kind == libc::RTM_NEWLINK {
                links.extend(Link::parse(&incoming.payload));
            }
        };
        self.kernel
            .requests
            .list(libc::RTM_GETLINK, &LinkHeader::default(), found)
            .map_err(refused("list the links"))?;
        Ok(links)
    }

    /// Takes the kernel's events.
    pub(super) fn hear(&mut self) -> Result<(), Error> {
        let mut events = Vec::new();
        let heard = self.events.arrived(&mut |incoming| events.push(incoming));
        let now = Instant::now();
        let mut advertised = false;
        for incoming in &events {
            match (incoming.kind, Link::parse(&incoming.payload)) {
                (libc::RTM_NEWLINK, Some(link)) => self.seen(link, now)?,
                (libc::RTM_DELLINK, Some(link)) => self.gone(&link),
                (RTM_NEWPREFIX | RTM_NEWNDUSEROPT, _) => {
                    advertised = true;
                    self.learn(incoming, now)?;
                }
                _ => {
                    // Routes to the link itself come with every one that is raised.
                    advertised |= incoming.kind == libc::RTM_NEWROUTE
                        && DefaultRoute::parse(&incoming.payload).is_some();
                    self.learn(incoming, now)?;
                }
            }
        }
        if advertised {
            self.list_flags(now)?;
        }
        match heard {
            Err(Errno::NOBUFS) => {
                self.has_missed_events = true;
                Ok(())
            }
            other => other.map_err(refused("report events")),
        }
    }

    fn gone(&mut self, link: &Link) {
        self.links.retain(|known| known.index != link.index);
        self.devices.forget(link.name());
        self.kernel.forget(link.name());
        if let Some(place) = self.runners.iter().position(|runner| runner.link.index == link.index) {
            let runner = self.runners.remove(place);
            log::info!("{} has gone", runner.link.name());
            if runner.told.is_some() {
                (self.sink)(super::Event::Down(runner.link.name().to_owned()));
            }
            self.written = self.written.take().filter(|written| written != runner.link.name());
        }
    }

    /// A device is new or has changed.
    fn seen(&mut self, mut link: Link, now: Instant) -> Result<(), Error> {
        self.follow_name(&mut link);
        self.note(&link);
        if let Some(known) = self.links.iter_mut().find(|known| known.index == link.index) {
            known.update(link.clone());
            link = known.clone();
        }
        if self.settled.is_none() && self.setup.settings.only.is_none() {
            // A bond takes its members before it is raised.
            self.devices.make(&mut self.kernel, &self.setup.settings.given, &self.links);
        }
        if let Some(runner) = self.runners.iter_mut().find(|runner| runner.link.index == link.index) {
            let updated = runner.update(link, &mut self.kernel, &mut self.setup, self.started, now);
            updated.map_err(refused("set up a link"))?;
        } else if self.settled.as_deref().is_none_or(|settled| settled == self.setup.will_be_called(&link)) {
            // A card that resets may go and come back, also the one that carries the boot.
            self.new_link(link, now)?;
        }
        Ok(())
    }

    fn note(&mut self, link: &Link) {
        if !self.links.iter().any(|known| known.index == link.index) {
            log::debug!("{}", link.describe());
            self.links.push(link.clone());
        }
    }

    /// A link may have another name than it had: udev gives names, also to links that are up. An event from
    /// before we have named it ourselves says nothing.
    fn follow_name(&mut self, link: &mut Link) {
        let Some(known) = self.links.iter().find(|known| known.index == link.index) else { return };
        if link.name.is_none() || link.name == known.name {
            return;
        }
        if super::lookup::name(link.index).ok() != link.name {
            link.name = None;
            return;
        }
        let (before, after) = (known.name().to_owned(), link.name().to_owned());
        log::info!("{before} is called {after} now");
        self.kernel.journal.rename(&before, &after);
        let place = self.runners.iter_mut().find(|runner| runner.link.index == link.index);
        if place.is_some_and(|runner| runner.told.take().is_some()) {
            (self.sink)(super::Event::Down(before.clone()));
        }
        if self.settled.as_ref() == Some(&before) {
            crate::net::names::settle(&after);
            self.settled = Some(after.clone());
        }
        if self.written.as_ref() == Some(&before) {
            self.written = Some(after);
        }
    }

    /// What came of links that were to be raised.
    pub(super) fn raised(&mut self, now: Instant) -> Result<(), Error> {
        for (index, result) in self.kernel.raiser.take() {
            let Some(link) = self.links.iter().find(|link| link.index == index) else { continue };
            let raised = match self.runners.iter_mut().find(|runner| runner.link.index == index) {
                Some(runner) => runner.raised(result, &mut self.kernel, now),
                None => self.devices.raised(link, result),
            };
            if let Err(errno) = raised {
                return Err(Error::Kernel { what: format!("raise {}", link.name()), errno });
            }
        }
        if !self.is_raising() {
            self.kernel.journal.keep();
        }
        Ok(())
    }

    /// A device that takes no part so far.
    fn new_link(&mut self, mut link: Link, now: Instant) -> Result<(), Error> {
        if link.flags.loopback {
            if let Err(errno) = self.kernel.raise(&link) {
                log::warn!("{} cannot be raised: {errno}", link.name());
            }
            return Ok(());
        }
        // A bond that is not as it is asked for takes no part: its story says why.
        let bonds = &self.setup.settings.given.bonds;
        let failed =
            self.devices.has_failed(link.name()) && bonds.iter().any(|bond| bond.name == link.name());
        let plan = self.setup.plan(&link).filter(|_| !failed);
        if plan.is_some() || self.setup.only_raises(&link) {
            self.setup.rename(&mut self.kernel, &mut link);
            if let Some(known) = self.links.iter_mut().find(|known| known.index == link.index) {
                known.clone_from(&link);
            }
        }
        let Some(plan) = plan else {
            if self.setup.only_raises(&link) {
                self.kernel.raise_soon(&link);
            }
            return Ok(());
        };
        let metric = self.next_metric;
        self.next_metric = self.next_metric.saturating_add(1);
        let vlan = self.setup.settings.given.vlans.iter().find(|vlan| vlan.name == link.name());
        let below = vlan.and_then(|vlan| self.links.iter().find(|below| below.name() == vlan.parent));
        let numbers = (metric, below.unwrap_or(&link).index);
        let mut runner = Runner::new(link, plan, numbers, &mut self.kernel, &mut self.setup, now);
        let followed = runner.follow_carrier(&mut self.kernel, &mut self.setup, self.started, now);
        self.runners.push(runner);
        followed.map_err(refused("set up a link"))
    }

    /// Hands what is said of IPv6 to the link that it is about.
    fn learn(&mut self, incoming: &Incoming, now: Instant) -> Result<(), Error> {
        let Some((index, word)) = word(incoming) else { return Ok(()) };
        let Some(runner) = self.runners.iter_mut().find(|runner| runner.link.index == index) else {
            return Ok(());
        };
        runner.learn(word, &mut self.kernel, &mut self.setup, now).map_err(refused("set up IPv6"))
    }
}

fn word(incoming: &Incoming) -> Option<(u32, Word)> {
    let payload = &incoming.payload;
    match incoming.kind {
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let address = LinkAddress::parse(payload)?;
            Some((address.index, Word::Address(address, incoming.kind == libc::RTM_NEWADDR)))
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let route = DefaultRoute::parse(payload)?;
            Some((route.index, Word::Route(route, incoming.kind == libc::RTM_NEWROUTE)))
        }
        libc::RTM_NEWLINK => RouterFlags::parse(payload).map(|(index, flags)| (index, Word::Flags(flags))),
        RTM_NEWNDUSEROPT => RouterNames::parse(payload).map(|names| (names.index, Word::Names(names))),
        _ => None,
    }
}
