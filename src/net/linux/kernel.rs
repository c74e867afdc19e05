//! What is asked of the kernel about one link, with a note of how it was before: links.json.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use rustix::io::Errno;

use super::apply::{self, Address, RouteTo};
use super::netlink::{Netlink, attribute};
use super::raiser::{self, Job, Raiser, Setting};
use crate::net::files::{Journal, Record};
use crate::net::link::Link;
use crate::paths::Paths;

/// The connection for requests, and the notes.
pub(super) struct Kernel {
    pub(super) requests: Netlink,
    pub(super) journal: Journal,
    pub(super) paths: Paths,
    pub(super) raiser: Raiser,
    /// Of the link that is raised next.
    settings: Vec<Setting>,
    /// Links to be raised, noted but not written.
    jobs: Vec<Job>,
}

impl Kernel {
    pub(super) fn new(requests: Netlink, raiser: Raiser, paths: &Paths) -> Self {
        let journal = Journal::read(paths);
        Self { requests, journal, paths: paths.clone(), raiser, settings: Vec::new(), jobs: Vec::new() }
    }

    /// Has what [`sysctls`](Self::sysctls) says of a link set, and then IFF_UP, after the next
    /// [`dispatch`](Self::dispatch). On a link that is up it is set at once; false: there is no more to come.
    pub(super) fn raise_soon(&mut self, link: &Link) -> bool {
        let settings = std::mem::take(&mut self.settings);
        if link.flags.up {
            self.journal.keep();
            raiser::set(&settings);
            return false;
        }
        self.journal.note(link.name(), |record| record.raised = true);
        self.jobs.push(Job { index: link.index, settings });
        true
    }

    /// Writes down which links are raised, and has them raised.
    pub(super) fn dispatch(&mut self) {
        if !self.jobs.is_empty() {
            self.journal.keep();
            self.raiser.add(&mut self.jobs);
        }
    }

    /// Links that are not raised yet stay as they are.
    pub(super) fn stop_raising(&mut self) {
        self.jobs.clear();
        self.raiser.stop();
    }

    /// Sets IFF_UP of loopback, now.
    pub(super) fn raise(&mut self, link: &Link) -> Result<(), Errno> {
        if link.flags.up {
            return Ok(());
        }
        self.set_link(link, LinkFlags::Up, LinkFlags::Up, &[])
    }

    /// Since when carrier is waited for: over all attempts, so that only the first waits for a cable that
    /// is not there.
    pub(super) fn raised_since(&mut self, link: &Link, now: Instant) -> Instant {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(clock.tv_sec).unwrap_or(0);
        let millis = seconds.saturating_mul(1000) + u64::try_from(clock.tv_nsec / 1_000_000).unwrap_or(0);
        self.journal.note(link.name(), |record| record.first_seen = record.first_seen.or(Some(millis)));
        let first = self.journal.find(link.name()).and_then(|record| record.first_seen).unwrap_or(millis);
        now.checked_sub(Duration::from_millis(millis.saturating_sub(first))).unwrap_or(now)
    }

    pub(super) fn lower(&mut self, link: &Link) -> Result<(), Errno> {
        self.set_link(link, LinkFlags::empty(), LinkFlags::Up, &[])
    }

    /// `flags` for those of `mask`, and attributes.
    pub(super) fn set_link(
        &mut self,
        link: &Link,
        flags: LinkFlags,
        mask: LinkFlags,
        attributes: &[DefaultNla],
    ) -> Result<(), Errno> {
        let header = LinkHeader { index: link.index, flags, change_mask: mask, ..LinkHeader::default() };
        self.requests.change(libc::RTM_NEWLINK, 0, &header, attributes)
    }

    /// Attributes alone.
    pub(super) fn set_attributes(&mut self, link: &Link, attributes: &[DefaultNla]) -> Result<(), Errno> {
        self.set_link(link, LinkFlags::empty(), LinkFlags::empty(), attributes)
    }

    /// Sets the MTU, in bytes. A failure is a warning: smaller packets pass, too.
    pub(super) fn set_mtu(&mut self, link: &Link, mtu: u32) {
        let Some(now) = link.mtu.filter(|&now| now != mtu) else { return };
        self.journal.change(link.name(), |record| {
            let before = record.mtu.map_or(now, |(before, _)| before);
            record.mtu = Some((before, mtu));
        });
        if let Err(errno) = self.set_attributes(link, &[attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())]) {
            log::warn!("{}: cannot set MTU {mtu}: {errno}", link.name());
        }
    }

    /// Sets the hardware address. Where the link was taken down for it: whether it is up again.
    pub(super) fn set_mac(&mut self, link: &Link, mac: [u8; 6]) -> Result<Option<bool>, Errno> {
        let before = self.journal.find(link.name()).and_then(|record| record.mac);
        let noted = |mac| move |record: &mut Record| record.mac = mac;
        self.journal.change(link.name(), noted(before.or(link.mac)));
        let set = self.change_mac(link, mac);
        if set.is_err() {
            self.journal.change(link.name(), noted(before));
        }
        set
    }

    /// Many drivers take a hardware address only while the link is down: then it is taken down, and raised again.
    fn change_mac(&mut self, link: &Link, mac: [u8; 6]) -> Result<Option<bool>, Errno> {
        let address = [attribute(libc::IFLA_ADDRESS, &mac)];
        match self.set_attributes(link, &address) {
            Err(Errno::BUSY) if link.flags.up => {
                self.lower(link)?;
                let set = self.set_attributes(link, &address);
                let raised = self.set_link(link, LinkFlags::Up, LinkFlags::Up, &[]);
                report(link.name(), "IFF_UP", raised);
                set.and(Ok(Some(raised.is_ok())))
            }
            set => set.and(Ok(None)),
        }
    }

    pub(super) fn add_address(&mut self, link: &Link, address: &Address) -> Result<(), Errno> {
        let noted = (address.address, address.prefix);
        self.journal.change(link.name(), |record| {
            if !record.addresses.contains(&noted) {
                record.addresses.push(noted);
            }
        });
        apply::add_address(&mut self.requests, link.index, address)
    }

    pub(super) fn remove_address(&mut self, link: &Link, address: IpAddr, prefix: u8) {
        let result = apply::remove_address(&mut self.requests, link.index, address, prefix);
        report(link.name(), &format!("address {address}"), result);
        self.journal
            .change(link.name(), |record| record.addresses.retain(|known| *known != (address, prefix)));
    }

    /// Sets a route. A failure is a warning: other servers may be reached.
    pub(super) fn add_route(&mut self, link: &Link, route: &RouteTo) {
        if let Err(errno) = apply::add_route(&mut self.requests, link.index, route) {
            log::warn!("{}: cannot set route {route}: {errno}", link.name());
        }
    }

    /// Removes what we have set of one family, but not `kept`.
    pub(super) fn remove_routes(&mut self, link: &Link, ipv6: bool, kept: &[RouteTo]) {
        let result = apply::remove_routes(&mut self.requests, link.index, ipv6, kept);
        report(link.name(), "routes", result);
    }

    /// Kernel settings of the interface that is raised next, each with `NAME` in
    /// `net/ipv4/conf/INTERFACE/NAME` and its value. What the kernel has not told is passed over.
    pub(super) fn sysctls(&mut self, room: &str, link: &Link, settings: &[(&str, &'static str)]) {
        let interface = link.name();
        let mut changes: Vec<(String, String)> = Vec::new();
        for (name, value) in settings {
            let setting = format!("{room}/{interface}/{name}");
            let Some(before) = link.setting(name).map(|before| before.to_string()) else { continue };
            if before != *value {
                self.settings.push((self.paths.sysctl(&setting), value));
                changes.push((setting, before));
            }
        }
        if changes.is_empty() {
            return;
        }
        self.journal.note(interface, |record| {
            for change in changes {
                if !record.sysctls.iter().any(|(known, _)| *known == change.0) {
                    record.sysctls.push(change);
                }
            }
        });
    }

    /// Makes the kernel forget what routers have said, and ask them again at once; carrier stays.
    pub(super) fn reset_ipv6(&self, link: &Link) {
        let setting = self.paths.sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", link.name()));
        if std::fs::read_to_string(&setting).is_ok_and(|value| value.trim() == "0") {
            let reset = std::fs::write(&setting, "1").and_then(|()| std::fs::write(&setting, "0"));
            if let Err(error) = reset {
                log::debug!("{}: IPv6 cannot be reset: {error}", link.name());
            }
        }
    }

    /// Gives the settings of an interface below `room` their values from before. That is noted, not written.
    pub(super) fn restore_sysctls(&mut self, interface: &str, room: &str) {
        let Some(record) = self.journal.find(interface).cloned() else { return };
        for (setting, before) in record.sysctls.iter().filter(|(setting, _)| setting.starts_with(room)) {
            if let Err(error) = std::fs::write(self.paths.sysctl(setting), before) {
                log::debug!("cannot set {setting} back to {before}: {error}");
            }
        }
        self.journal
            .note(interface, |record| record.sysctls.retain(|(setting, _)| !setting.starts_with(room)));
    }

    /// Takes away the addresses, the routes and the MTU that an attempt has set. The link stays up and
    /// raced: what else was changed stays noted.
    pub(super) fn withdraw_addresses(&mut self, link: &Link) {
        let Some(record) = self.journal.find(link.name()).cloned() else { return };
        for ipv6 in [false, true] {
            self.remove_routes(link, ipv6, &[]);
        }
        for (address, prefix) in record.addresses {
            log::debug!("{}: {address}/{prefix} is taken away", link.name());
            self.remove_address(link, address, prefix);
        }
        if let Some((before, set)) = record.mtu {
            if link.mtu == Some(set) && before != set {
                let result = self.set_attributes(link, &[attribute(libc::IFLA_MTU, &before.to_ne_bytes())]);
                report(link.name(), "MTU", result);
            }
            self.journal.change(link.name(), |record| record.mtu = None);
        }
    }

    /// The device has gone, and all that was set on it. Should it come back, carrier is waited for anew.
    pub(super) fn forget(&mut self, name: &str) {
        if self.journal.find(name).is_some() {
            self.journal.change(name, |record| {
                *record = Record { interface: name.to_owned(), lease: record.lease, ..Record::default() };
            });
        }
    }

    /// Puts a link back as it was found, or a device that was made away. That is noted, and written when all of
    /// them are: who does it twice does no harm.
    pub(super) fn put_back(&mut self, link: &Link) {
        self.withdraw_addresses(link);
        let name = link.name();
        let Some(record) = self.journal.find(name).cloned() else { return };
        if record.made {
            let header = LinkHeader { index: link.index, ..LinkHeader::default() };
            report(name, "device", self.requests.change(libc::RTM_DELLINK, 0, &header, &[]));
        } else {
            if record.joined {
                let result = self.set_attributes(link, &[attribute(libc::IFLA_MASTER, &[0; 4])]);
                report(name, "IFLA_MASTER", result);
            }
            if record.raised {
                log::debug!("{name} is put back down");
                report(name, "IFF_UP", self.lower(link));
            } else if record.joined {
                // It was taken down to join, and again by the bond that it leaves.
                report(name, "IFF_UP", self.set_link(link, LinkFlags::Up, LinkFlags::Up, &[]));
            }
            if let Some(mac) = record.mac {
                let result = self.change_mac(link, mac).map(drop);
                report(name, "hardware address", result);
            }
            self.restore_sysctls(name, "");
            // Advertisements that nobody wanted here before have left their mark.
            let unheard =
                |(setting, before): &(String, String)| setting.ends_with("/accept_ra") && before == "0";
            if !record.raised && record.sysctls.iter().any(unheard) {
                let table = std::fs::read_to_string(self.paths.routes6()).unwrap_or_default();
                let result = apply::remove_advertised(&mut self.requests, link.index, name, &table);
                report(name, "IPv6", result);
            }
        }
        let Record { lease, first_seen, .. } = record;
        // A cable that was there is waited for when the link is raised again.
        let first_seen = first_seen.filter(|_| !link.flags.carrier);
        self.journal.note(name, |record| {
            *record = Record { interface: name.to_owned(), lease, first_seen, ..Record::default() };
        });
    }
}

/// What is gone already is no fault; what cannot be taken away is a warning, since the next lease may
/// do all the same.
fn report(name: &str, what: &str, result: Result<(), Errno>) {
    match result {
        Ok(()) | Err(Errno::ADDRNOTAVAIL | Errno::SRCH | Errno::NODEV) => {}
        Err(errno) => log::warn!("{name}: cannot take back {what}: {errno}"),
    }
}
