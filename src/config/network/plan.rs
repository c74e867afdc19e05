//! What is given for one link.

use std::net::IpAddr;

use super::{Assignment, Device, Given, GivenRoute, Ipv6Mode, StaticAddress};

/// What to do with one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkPlan {
    /// Whether it takes part in the race; if not, nothing below is asked for or set.
    pub used: bool,
    /// Whether it has to be up: it is used, or a VLAN stands on it. A bond raises its members itself.
    pub raised: bool,
    /// Ask for an IPv4 address by DHCP.
    pub dhcp4: bool,
    pub ipv6: Ipv6Mode,
    pub addresses: Vec<StaticAddress>,
    /// The name to give to DHCP servers.
    pub hostname: Option<String>,
    /// In bytes; instead of what DHCP says.
    pub mtu: Option<u16>,
    /// The hardware address to give the link, before it is raised.
    pub mac: Option<[u8; 6]>,
    /// Asked for names before those of a lease: those of `nameserver=`, then those of `ip=`.
    pub dns: Vec<IpAddr>,
    /// Servers for names that a lease or a router brings are not used.
    pub ignore_leased_names: bool,
    pub ntp: Vec<IpAddr>,
    /// Those for this link, and those for no certain one, which hold where their gateway is reached.
    pub routes: Vec<GivenRoute>,
}

impl Assignment {
    /// Whether anything is set or asked for.
    pub fn is_used(&self) -> bool {
        self.dhcp4 || self.ipv6 != Ipv6Mode::Off || !self.addresses.is_empty()
    }
}

impl Given {
    /// Whether the network is to be left as it is: `ip=off`, and no other.
    pub fn leaves_all(&self) -> bool {
        !self.assignments.is_empty() && !self.assignments.iter().any(Assignment::is_used)
    }

    /// Whether names are given to links, or taken by what is made of them: what the kernel calls a card that
    /// appears later may depend on that.
    pub fn takes_names(&self) -> bool {
        !(self.names.is_empty() && self.vlans.is_empty() && self.bonds.is_empty())
    }

    /// What the other parameters call the link: by `ifname=`, or as the kernel does, unless `ifname=`
    /// has given that name to another.
    pub fn called<'a>(&'a self, name: &'a str, mac: Option<[u8; 6]>) -> Option<&'a str> {
        // VLANs and bonds have the hardware address of another.
        if self.makes(name) {
            return Some(name);
        }
        match self.names.iter().find(|(_, known)| Some(*known) == mac) {
            Some((given, _)) => Some(given),
            None => (!self.names.iter().any(|(given, _)| given == name)).then_some(name),
        }
    }

    /// What to do with the link that the kernel calls `name`; `mac` is the one it came with.
    pub fn for_link(&self, name: &str, mac: Option<[u8; 6]>) -> LinkPlan {
        let called = self.called(name, mac);
        let is = |wanted: &str| called == Some(wanted);
        if self.leaves_all() || self.bonds.iter().any(|bond| bond.members.iter().any(|member| is(member))) {
            return LinkPlan::default();
        }
        let is_made = self.makes(name);
        let is_parent = self.vlans.iter().any(|vlan| is(&vlan.parent));
        let has = |wanted: [u8; 6]| Some(wanted) == mac && !is_made;
        let meant = |device: &Device| match device {
            Device::Any => false,
            Device::Name(wanted) => is(wanted),
            Device::Mac(wanted) => has(*wanted),
        };
        let named = self.assignments.iter().find(|assignment| meant(&assignment.device));
        let general = self.assignments.iter().find(|assignment| assignment.device == Device::Any);
        let is_one_of_all = self.assignments.is_empty() || general.is_some();
        let is_wanted = match (self.bootif, &self.bootdev) {
            (Some(bootif), _) => named.is_some() || has(bootif) || (is_made && is_one_of_all),
            (None, Some(bootdev)) => meant(bootdev),
            (None, None) => named.is_some() || is_one_of_all,
        };
        let assignment = named.or(general);
        let used = is_wanted && !(is_parent && named.is_none()) && assignment.is_none_or(Assignment::is_used);
        if !used {
            return LinkPlan { raised: is_parent, ..LinkPlan::default() };
        }
        let routes = self.routes.iter().filter(|route| route.device.as_deref().is_none_or(is));
        let mut plan = LinkPlan {
            used,
            raised: true,
            routes: routes.cloned().collect(),
            ignore_leased_names: self.ignore_leased_names,
            ..LinkPlan::default()
        };
        plan = match assignment.cloned() {
            None => LinkPlan { dhcp4: true, ipv6: Ipv6Mode::Auto, ..plan },
            Some(Assignment { device: _, dhcp4, ipv6, addresses, hostname, mtu, mac, dns, ntp }) => {
                LinkPlan { dhcp4, ipv6, addresses, hostname, mtu, mac, dns, ntp, ..plan }
            }
        };
        let of_link = std::mem::replace(&mut plan.dns, self.nameservers.clone());
        for server in of_link {
            if !plan.dns.contains(&server) {
                plan.dns.push(server);
            }
        }
        plan
    }

    /// Whether `vlan=` or `bond=` makes it.
    fn makes(&self, name: &str) -> bool {
        self.vlans.iter().any(|vlan| vlan.name == name) || self.bonds.iter().any(|bond| bond.name == name)
    }
}
