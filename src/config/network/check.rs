//! Whether parameters, each of which can be followed, can be followed together.

use super::field::{MOST, fault};
use super::{Assignment, Device, Error, Given, Ipv6Mode, Parameter, StaticAddress};

/// IPv6 works on no link with less: RFC 8200, section 5.
pub(crate) const LEAST_MTU_IPV6: u16 = 1280;

/// Puts each `ip=` to the link it is for. What says the same as one before says nothing: boot loaders
/// and firmware each append their own.
pub(super) fn assign(given: &mut Given, read: Vec<(Parameter<'_>, Assignment)>) -> Result<(), Error> {
    let mut said: Vec<Assignment> = Vec::new();
    for (parameter, mut assignment) in read {
        by_name(&mut assignment.device, &given.names);
        if said.contains(&assignment) {
            continue;
        }
        said.push(assignment.clone());
        let wrong =
            |part: &str, wrong, expected| Err(Error::new(parameter.raw(), fault(part, wrong, expected)));
        if assignment.mac.is_some() {
            match &assignment.device {
                Device::Any => return wrong("a hardware address to set", "for no certain link", "a device"),
                Device::Name(name) if given.names.iter().any(|(known, _)| known == name) => {
                    return wrong(
                        name,
                        "known by the hardware address that is to change",
                        "no ifname= for it",
                    );
                }
                Device::Name(_) | Device::Mac(_) => {}
            }
        }
        let is_full = given.assignments.len() >= MOST;
        match given.assignments.iter_mut().find(|other| other.device == assignment.device) {
            Some(other) => {
                if let Err((what, expected)) = merge(other, assignment) {
                    return wrong(what, "given twice for one device", expected);
                }
            }
            None if is_full => return wrong("it", "one too many", "at most 16"),
            None => given.assignments.push(assignment),
        }
    }
    if let Some(bootdev) = &mut given.bootdev {
        by_name(bootdev, &given.names);
        let mac = match bootdev {
            Device::Mac(mac) => Some(*mac),
            Device::Name(name) => given.names.iter().find(|(known, _)| known == name).map(|(_, mac)| *mac),
            Device::Any => None,
        };
        if let (Some(mac), Some(bootif)) = (mac, given.bootif)
            && mac != bootif
        {
            return Err(Error::new(
                "bootdev=",
                fault("it", "another link than BOOTIF= has", "one, or rd.bootif=0"),
            ));
        }
    }
    for assignment in &given.assignments {
        let uses_ipv6 =
            assignment.ipv6 != Ipv6Mode::Off || assignment.addresses.iter().any(|a| a.address.is_ipv6());
        if uses_ipv6 && assignment.mtu.is_some_and(|mtu| mtu < LEAST_MTU_IPV6) {
            return Err(Error::new("ip=", fault("the MTU", "too small for IPv6", "1280 or more")));
        }
        if let (Device::Mac(mac), Some(bootif)) = (&assignment.device, given.bootif)
            && *mac == bootif
            && !assignment.is_used()
        {
            return Err(Error::new(
                "BOOTIF= and ip=",
                fault("one link", "used and not used", "one of the two"),
            ));
        }
    }
    Ok(())
}

/// A link that `ifname=` names is known by that name from here on.
fn by_name(device: &mut Device, names: &[(String, [u8; 6])]) {
    if let Device::Mac(mac) = device
        && let Some((name, _)) = names.iter().find(|(_, known)| known == mac)
    {
        *device = Device::Name(name.clone());
    }
}

/// Both for one device: an address of each family, or several, is all that can be given in two.
fn merge(into: &mut Assignment, more: Assignment) -> Result<(), (&'static str, &'static str)> {
    if !into.is_used() || !more.is_used() {
        return Err(("off", "one ip= for the device, or none that says off"));
    }
    for ipv4 in [true, false] {
        let asks = |from: &Assignment| if ipv4 { from.dhcp4 } else { from.ipv6 != Ipv6Mode::Off };
        let count = |from: &Assignment, wanted: fn(&StaticAddress) -> bool| {
            from.addresses.iter().filter(|given| given.address.is_ipv4() == ipv4 && wanted(given)).count()
        };
        let (asked, given) = (asks(into) || asks(&more), count(into, |_| true) + count(&more, |_| true) > 0);
        if (asks(into) && asks(&more)) || (asked && given) {
            let what = if ipv4 { "its IPv4 address" } else { "its IPv6 address" };
            return Err((what, "one way to get it, or addresses"));
        }
        if count(into, |given| given.gateway.is_some()) + count(&more, |given| given.gateway.is_some()) > 1 {
            return Err(("its gateway", "one for IPv4 and one for IPv6"));
        }
    }
    fn same<T: PartialEq>(into: &mut Option<T>, more: Option<T>) -> bool {
        let agree = into.is_none() || more.is_none() || *into == more;
        *into = into.take().or(more);
        agree
    }
    if !same(&mut into.hostname, more.hostname) {
        return Err(("its host name", "one"));
    }
    if !same(&mut into.mtu, more.mtu) || !same(&mut into.mac, more.mac) {
        return Err(("its MTU or hardware address", "one of each"));
    }
    into.dhcp4 |= more.dhcp4;
    into.ipv6 = into.ipv6.max(more.ipv6);
    into.addresses.extend(more.addresses);
    into.dns.extend(more.dns);
    into.ntp.extend(more.ntp);
    if [into.addresses.len(), into.dns.len(), into.ntp.len()].iter().any(|&length| length > MOST) {
        return Err(("its addresses or servers", "at most 16 of each"));
    }
    Ok(())
}

/// The devices that are made: each once, on links that are there for it.
pub(super) fn devices(given: &Given) -> Result<(), Error> {
    let wrong = |parameter: &str, part: &str, wrong, expected| {
        Err(Error::new(parameter, fault(part, wrong, expected)))
    };
    let mut made: Vec<&str> = Vec::new();
    let bonds = given.bonds.iter().map(|bond| ("bond=", bond.name.as_str()));
    let vlans = given.vlans.iter().map(|vlan| ("vlan=", vlan.name.as_str()));
    let names = given.names.iter().map(|(name, _)| ("ifname=", name.as_str()));
    for (parameter, name) in bonds.chain(vlans).chain(names) {
        if made.contains(&name) {
            return wrong(parameter, name, "the name of two links", "one name for each");
        }
        made.push(name);
    }
    for (at, (name, mac)) in given.names.iter().enumerate() {
        if given.names.iter().skip(at + 1).any(|(_, other)| other == mac) {
            return wrong("ifname=", name, "one of two names for one link", "one name for each");
        }
    }
    let is_vlan = |name: &str| given.vlans.iter().any(|vlan| vlan.name == name);
    let is_bond = |name: &str| given.bonds.iter().any(|bond| bond.name == name);
    let mut members: Vec<&str> = Vec::new();
    for member in given.bonds.iter().flat_map(|bond| &bond.members) {
        if members.contains(&member.as_str()) {
            return wrong("bond=", member, "a member of two bonds", "each link in one");
        }
        if is_vlan(member) || is_bond(member) {
            return wrong("bond=", member, "no Ethernet link of its own", "links that are there");
        }
        members.push(member);
    }
    for (at, vlan) in given.vlans.iter().enumerate() {
        let parent = vlan.parent.as_str();
        if is_vlan(parent) {
            return wrong("vlan=", parent, "a VLAN itself", "an Ethernet link or a bond");
        }
        if members.contains(&parent) {
            return wrong("vlan=", parent, "a member of a bond", "the bond");
        }
        if given.vlans.iter().skip(at + 1).any(|other| other.parent == vlan.parent && other.id == vlan.id) {
            return wrong("vlan=", &vlan.name, "there twice on its link", "each VLAN once");
        }
    }
    let named = given.assignments.iter().map(|assignment| ("ip=", &assignment.device));
    for (parameter, device) in named.chain(given.bootdev.iter().map(|device| ("bootdev=", device))) {
        if let Device::Name(name) = device
            && members.contains(&name.as_str())
        {
            return wrong(parameter, name, "a member of a bond", "the bond");
        }
    }
    Ok(())
}
