//! What is the same for every link of one start: the settings, and what this machine is called.

use std::path::PathBuf;

use netlink_packet_route::link::LinkFlags;
use rustix::io::Errno;

use super::kernel::Kernel;
use super::netlink::attribute;
use crate::config::ClientId;
use crate::config::network::{Device, Ipv6Mode, LinkPlan};
use crate::net::Caller;
use crate::net::dhcp4;
use crate::net::dhcp6::Device6;
use crate::net::identity;
use crate::net::lease::Mac;
use crate::net::link::Link;
use crate::net::network::Settings;
use crate::paths::Paths;
use crate::sys::arch::NATIVE;
use crate::sys::random;

pub(super) struct Setup {
    pub(super) settings: Settings,
    pub(super) caller: Caller,
    interfaces: PathBuf,
    uuid: Option<[u8; 16]>,
    /// One for all links, from the first of them that needs it.
    duid: Option<Vec<u8>>,
}

impl Setup {
    pub(super) fn new(settings: Settings, caller: Caller, paths: &Paths) -> Self {
        let uuid = std::fs::read_to_string(paths.product_uuid()).ok();
        Self {
            settings,
            caller,
            interfaces: paths.interfaces(),
            uuid: uuid.and_then(|text| identity::uuid(&text)),
            duid: None,
        }
    }

    /// What to do with a link; None if it takes no part.
    pub(super) fn plan(&self, link: &Link) -> Option<LinkPlan> {
        if !link.flags.ethernet || link.mac.is_none() {
            return None;
        }
        let given = &self.settings.given;
        let plan = given.for_link(link.name(), link.mac);
        if let Some(only) = &self.settings.only {
            let chosen = link.name.as_ref() == Some(only);
            let default =
                LinkPlan { used: true, raised: true, dhcp4: true, ipv6: Ipv6Mode::Auto, ..plan.clone() };
            return chosen.then_some(if plan.used { plan } else { default });
        }
        (plan.used && (self.is_wired(link) || self.names(link))).then_some(plan)
    }

    /// Wireless cards look like Ethernet, and have no carrier without a supplicant.
    fn is_wired(&self, link: &Link) -> bool {
        let folder = self.interfaces.join(link.name());
        let is_wireless = ["phy80211", "wireless"].iter().any(|sign| folder.join(sign).exists());
        let port = std::fs::read_to_string(folder.join("phys_port_name")).unwrap_or_default();
        link.is_card() && !is_wireless && !is_representor(port.trim_ascii_end())
    }

    /// Whether a VLAN stands on the link.
    pub(super) fn only_raises(&self, link: &Link) -> bool {
        link.flags.ethernet && self.settings.given.for_link(link.name(), link.mac).raised
    }

    /// Whether a bond is to have the link. None is made where one link alone is wanted.
    pub(super) fn is_member(&self, link: &Link) -> bool {
        self.settings.only.is_none()
            && self
                .settings
                .given
                .bonds
                .iter()
                .any(|bond| bond.members.iter().any(|member| member == link.name()))
    }

    /// Whether the command line names the link, or has it made.
    fn names(&self, link: &Link) -> bool {
        let given = &self.settings.given;
        let named = |device: &Device| match device {
            Device::Any => false,
            Device::Name(name) => name == link.name(),
            Device::Mac(mac) => link.mac == Some(*mac) && link.is_card(),
        };
        given.assignments.iter().any(|assignment| named(&assignment.device))
            || given.vlans.iter().any(|vlan| vlan.name == link.name())
            || given.bonds.iter().any(|bond| bond.name == link.name())
    }

    /// Links that are named and may be waited for.
    pub(super) fn expected(&self) -> Vec<&str> {
        let given = &self.settings.given;
        let named = given.assignments.iter().filter_map(|assignment| match &assignment.device {
            Device::Name(name) => Some(name.as_str()),
            Device::Any | Device::Mac(_) => None,
        });
        let only = self.settings.only.as_deref();
        if only.is_some() { only.into_iter().collect() } else { named.collect() }
    }

    /// What is asked for by name or hardware address, and is not among `links`.
    pub(super) fn missing(&self, links: &[Link]) -> Vec<String> {
        let given = &self.settings.given;
        let is_there = |name: &str| links.iter().any(|link| self.will_be_called(link) == name);
        let names = self.expected().into_iter().filter(|name| !is_there(name)).map(str::to_owned);
        let macs = given.assignments.iter().filter_map(|assignment| match assignment.device {
            Device::Mac(mac) => Some(mac),
            Device::Any | Device::Name(_) => None,
        });
        let macs = macs.chain(given.bootif).filter(|_| self.settings.only.is_none());
        let absent = macs.filter(|&mac| !links.iter().any(|link| link.mac == Some(mac)));
        names.chain(absent.map(|mac| Mac(mac).to_string())).collect()
    }

    /// The name that the link has when it takes part.
    pub(super) fn will_be_called<'a>(&'a self, link: &'a Link) -> &'a str {
        let called = self.settings.given.called(link.name(), link.mac);
        called.filter(|_| link.is_card()).unwrap_or_else(|| link.name())
    }

    /// Gives the link the name that `ifname=` says. A link that is up is taken down for it.
    pub(super) fn rename(&self, kernel: &mut Kernel, link: &mut Link) {
        let called = self.settings.given.called(link.name(), link.mac);
        let Some(called) = called.filter(|&called| called != link.name() && link.is_card()) else { return };
        let mut name = called.as_bytes().to_vec();
        name.push(0);
        let lowered = if link.flags.up { kernel.lower(link) } else { Ok(()) };
        let result = lowered.and_then(|()| {
            let attributes = [attribute(libc::IFLA_IFNAME, &name)];
            kernel.set_link(link, LinkFlags::empty(), LinkFlags::empty(), &attributes)
        });
        match result {
            Ok(()) => {
                log::info!("{} is called {called}", link.name());
                link.name = Some(called.to_owned());
                link.flags.up = false;
                link.flags.carrier = false;
                link.flags.running = false;
            }
            Err(errno) => log::warn!("{} cannot be called {called}: {errno}", link.name()),
        }
    }

    pub(super) fn device4(&mut self, link: &Link, plan: &LinkPlan, broadcast: bool) -> Option<dhcp4::Device> {
        let mac = link.mac?;
        let client_id = match self.settings.client_id {
            ClientId::Mac => identity::client_id_from_mac(mac),
            ClientId::Duid => identity::client_id_from_duid(mac, &self.duid(mac)),
        };
        Some(dhcp4::Device {
            name: link.name().to_owned(),
            mac,
            largest_mtu: link.mtu_limit(),
            broadcast,
            client_id,
            uuid: self.uuid,
            arch: NATIVE,
            hostname: plan.hostname.clone(),
        })
    }

    pub(super) fn device6(&mut self, link: &Link, plan: &LinkPlan) -> Option<Device6> {
        let mac = link.mac?;
        let duid = self.duid(mac);
        Some(Device6 {
            name: link.name().to_owned(),
            mac,
            duid,
            arch: NATIVE,
            hostname: plan.hostname.clone(),
        })
    }

    fn duid(&mut self, mac: [u8; 6]) -> Vec<u8> {
        self.duid.get_or_insert_with(|| identity::duid(self.uuid, mac)).clone()
    }
}

/// Whether a port's name in sysfs is that of the switch's end of a virtual or scalable function, `pf0vf3`,
/// `c1pf0sf7`: nobody serves there. Documentation/networking/representors.rst, net/core/devlink.c.
fn is_representor(port: &str) -> bool {
    let controller = port.strip_prefix('c').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let Some(function) = controller.unwrap_or(port).strip_prefix("pf") else { return false };
    let rest = function.trim_start_matches(|c: char| c.is_ascii_digit());
    ["vf", "sf"].iter().any(|kind| {
        rest.strip_prefix(kind)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
    })
}

/// For transaction ids and jitter. Early in boot the generator may have nothing; the clock and the
/// address still tell machines apart.
pub(super) fn seed(mac: [u8; 6]) -> u64 {
    let mut seed = [0; 8];
    random::fill_insecure(&mut seed);
    let [a, b, c, d, e, f] = mac;
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let clock = (clock.tv_sec << 30) ^ clock.tv_nsec;
    u64::from_ne_bytes(seed) ^ u64::from_be_bytes([a, b, c, d, e, f, 0, 0]) ^ clock.cast_unsigned()
}

/// Whether the errno says that no link will ever obey.
pub(super) fn is_forbidden(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::ACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_virtual_functions_are_no_ports() {
        for port in ["pf0vf3", "pf1sf88", "c1pf0vf0"] {
            assert!(is_representor(port), "{port}");
        }
        for port in ["", "p0", "p0s1", "pf0", "c1pf0", "pf0vf", "pfvfx", "0", "1a"] {
            assert!(!is_representor(port), "{port}");
        }
    }
}
