//! VLANs and bonds that the command line asks for: made when what they stand on is there.
//! Documentation/networking/bonding.rst; linux/if_link.h.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use rustix::io::Errno;

use super::kernel::Kernel;
use super::netlink::{attribute, nested};
use super::runner::fault;
use crate::config::network::{Bond, BondMode, Given, Vlan};
use crate::net::link::Link;

/// `IFLA_VLAN_ID` of linux/if_link.h.
const IFLA_VLAN_ID: u16 = 1;

/// `IFLA_BOND_*` of linux/if_link.h.
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const IFLA_BOND_UPDELAY: u16 = 4;
const IFLA_BOND_DOWNDELAY: u16 = 5;
const IFLA_BOND_PRIMARY: u16 = 11;
const IFLA_BOND_XMIT_HASH_POLICY: u16 = 14;
const IFLA_BOND_AD_LACP_RATE: u16 = 21;

/// A device that the kernel refused to make or to use.
pub(super) struct Failed {
    pub(super) name: String,
    pub(super) story: String,
}

/// What was done for devices that the command line asks for.
#[derive(Default)]
pub(super) struct Devices {
    /// Devices that were made, and members that joined, or were refused: each is tried once.
    tried: Vec<String>,
    pub(super) failed: Vec<Failed>,
}

impl Devices {
    /// Makes every device that is missing and can be made from `links`, and enslaves the members of bonds
    /// that are there. The kernel tells of what was made as of any new link.
    pub(super) fn make(&mut self, kernel: &mut Kernel, given: &Given, links: &[Link]) {
        let find = |name: &str| links.iter().find(|link| link.name() == name);
        for bond in &given.bonds {
            let device = find(&bond.name);
            if device.is_none() || !kernel.journal.find(&bond.name).is_some_and(|record| record.made) {
                self.attempt(kernel, &bond.name, |kernel| make_bond(kernel, bond, device));
            }
            // One of another mode is of no use to its members.
            let Some(device) = device.filter(|_| !self.has_failed(&bond.name)) else { continue };
            let members = bond.members.iter().filter_map(|name| find(name));
            for member in members {
                if member.master != Some(device.index) {
                    self.attempt(kernel, member.name(), |kernel| enslave(kernel, bond, device, member));
                } else if !member.flags.up {
                    self.attempt(kernel, member.name(), |kernel| {
                        kernel.raise_soon(member);
                        Ok(())
                    });
                }
            }
        }
        for vlan in &given.vlans {
            if let (None, Some(parent)) = (find(&vlan.name), find(&vlan.parent)) {
                self.attempt(kernel, &vlan.name, |kernel| make_vlan(kernel, vlan, parent));
            }
        }
    }

    /// A device has gone: should it come back, it is tried again.
    pub(super) fn forget(&mut self, name: &str) {
        self.tried.retain(|tried| tried != name);
        self.failed.retain(|failed| failed.name != name);
    }

    pub(super) fn has_failed(&self, name: &str) -> bool {
        self.failed.iter().any(|failed| failed.name == name)
    }

    /// What came of a link that others stand on: one that stays down is their story, not the end of the race.
    pub(super) fn raised(&mut self, link: &Link, result: Result<(), Errno>) -> Result<(), Errno> {
        let mut trouble = None;
        if let Err(errno) = result {
            fault(link, "raise", errno, &mut trouble)?;
        }
        let name = link.name().to_owned();
        self.failed.extend(trouble.map(|story| Failed { name, story }));
        Ok(())
    }

    fn attempt(
        &mut self,
        kernel: &mut Kernel,
        name: &str,
        make: impl FnOnce(&mut Kernel) -> Result<(), Errno>,
    ) {
        if self.tried.iter().any(|tried| tried == name) {
            return;
        }
        self.tried.push(name.to_owned());
        if let Err(errno) = make(kernel) {
            let hint =
                if errno == Errno::OPNOTSUPP { ": its module is missing (8021q, bonding)" } else { "" };
            log::warn!("cannot make or use {name}: {errno}{hint}");
            let story = format!("kernel refused to make it: {errno}{hint}");
            self.failed.push(Failed { name: name.to_owned(), story });
        }
    }
}

fn make_vlan(kernel: &mut Kernel, vlan: &Vlan, parent: &Link) -> Result<(), Errno> {
    let data = [attribute(IFLA_VLAN_ID, &vlan.id.to_ne_bytes())];
    let below = attribute(libc::IFLA_LINK, &parent.index.to_ne_bytes());
    create(kernel, &vlan.name, "vlan", &data, Some(below))
}

/// Makes it, or sets up one that is there: the module makes a `bond0` of another mode when it starts. One that is
/// up already is taken as it is if its mode is right, and otherwise refused by the kernel.
fn make_bond(kernel: &mut Kernel, bond: &Bond, device: Option<&Link>) -> Result<(), Errno> {
    let mode: u8 = match bond.mode {
        BondMode::ActiveBackup => 1,
        BondMode::Ieee8023ad => 4,
    };
    // "active-backup 1"
    let now = std::fs::read_to_string(kernel.paths.interface(&bond.name).join("bonding/mode"));
    let is_right = now.is_ok_and(|now| now.trim_end().as_bytes().ends_with(&[b' ', b'0' + mode]));
    if is_right && device.is_some_and(|device| device.flags.up) {
        return Ok(());
    }
    // The kernel takes them in this order: delays need miimon. With members it takes no mode, were it its own.
    let mut data = Vec::new();
    if !is_right {
        data.push(attribute(IFLA_BOND_MODE, &[mode]));
    }
    data.extend([
        attribute(IFLA_BOND_MIIMON, &bond.miimon.to_ne_bytes()),
        attribute(IFLA_BOND_UPDELAY, &bond.updelay.to_ne_bytes()),
        attribute(IFLA_BOND_DOWNDELAY, &bond.downdelay.to_ne_bytes()),
    ]);
    if bond.mode == BondMode::Ieee8023ad {
        data.push(attribute(IFLA_BOND_AD_LACP_RATE, &[u8::from(bond.fast_lacp)]));
    }
    data.extend(bond.xmit_hash_policy.map(|policy| attribute(IFLA_BOND_XMIT_HASH_POLICY, &[policy])));
    let mtu = bond.mtu.map(|mtu| attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes()));
    create(kernel, &bond.name, "bond", &data, mtu)
}

/// Makes a device. A bond that is there already is set up instead.
fn create(
    kernel: &mut Kernel,
    name: &str,
    kind: &str,
    data: &[DefaultNla],
    other: Option<DefaultNla>,
) -> Result<(), Errno> {
    log::debug!("{name} is made ({kind})");
    kernel.journal.change(name, |record| record.made = true);
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let info = [attribute(libc::IFLA_INFO_KIND, kind.as_bytes()), nested(libc::IFLA_INFO_DATA, data)];
    let mut attributes = vec![attribute(libc::IFLA_IFNAME, &text), nested(libc::IFLA_LINKINFO, &info)];
    attributes.extend(other);
    let mut change =
        |flags| kernel.requests.change(libc::RTM_NEWLINK, flags, &LinkHeader::default(), &attributes);
    let made = change(NLM_F_CREATE | NLM_F_EXCL);
    let result = if made == Err(Errno::EXIST) && kind == "bond" { change(0) } else { made };
    if made.is_err() {
        // It is not ours to be taken away.
        kernel.journal.change(name, |record| record.made = false);
    }
    result
}

/// A member has to be down when it joins; the bond raises it.
fn enslave(kernel: &mut Kernel, bond: &Bond, device: &Link, member: &Link) -> Result<(), Errno> {
    log::debug!("{} joins {}", member.name(), bond.name);
    kernel.journal.change(member.name(), |record| {
        record.raised |= !record.joined && !member.flags.up;
        record.joined = true;
    });
    if member.flags.up {
        kernel.lower(member)?;
    }
    kernel.set_attributes(member, &[attribute(libc::IFLA_MASTER, &device.index.to_ne_bytes())])?;
    if bond.primary.as_deref() == Some(member.name()) {
        let data = [attribute(IFLA_BOND_PRIMARY, &member.index.to_ne_bytes())];
        let info = [attribute(libc::IFLA_INFO_KIND, b"bond"), nested(libc::IFLA_INFO_DATA, &data)];
        kernel.set_link(
            device,
            LinkFlags::empty(),
            LinkFlags::empty(),
            &[nested(libc::IFLA_LINKINFO, &info)],
        )?;
    }
    Ok(())
}

/// The names of the links that the device `name` stands on, of those it stands on in turn, and itself.
pub(super) fn stands_on(given: &Given, name: &str) -> Vec<String> {
    let mut found = vec![name.to_owned()];
    let mut next = 0;
    while let Some(name) = found.get(next).cloned() {
        next += 1;
        let parents = given.vlans.iter().filter(|vlan| vlan.name == name).map(|vlan| vlan.parent.clone());
        let members =
            given.bonds.iter().filter(|bond| bond.name == name).flat_map(|bond| bond.members.clone());
        for below in parents.chain(members).collect::<Vec<_>>() {
            if !found.contains(&below) {
                found.push(below);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_on_a_bond_stands_on_its_members() {
        let given = Given {
            vlans: vec![Vlan { name: "bond0.7".into(), id: 7, parent: "bond0".into() }],
            bonds: vec![Bond {
                name: "bond0".into(),
                members: vec!["eth0".into(), "eth1".into()],
                mode: BondMode::ActiveBackup,
                miimon: 100,
                fast_lacp: false,
                primary: None,
                updelay: 0,
                downdelay: 0,
                xmit_hash_policy: None,
                mtu: None,
            }],
            ..Given::default()
        };
        assert_eq!(stands_on(&given, "bond0.7"), ["bond0.7", "bond0", "eth0", "eth1"]);
        assert_eq!(stands_on(&given, "eth0"), ["eth0"]);
    }
}
