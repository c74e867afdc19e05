//! `vlan=NAME:PARENT`

use super::Vlan;
use super::field::{self, Fault, fault};

pub(super) fn parse(text: &str) -> Result<Vlan, Fault> {
    let (name, parent) = text
        .split_once(':')
        .ok_or_else(|| fault(text, "no VLAN and its link", "NAME:LINK, as in eth0.5:eth0"))?;
    let name = field::interface(name)?;
    // The four ways in which the kernel's own tools name VLANs: vlan0005, vlan5, eth0.0005, eth0.5.
    // Zeros before it do not make it octal.
    let digits = name.strip_prefix("vlan").or_else(|| name.rsplit_once('.').map(|(_, digits)| digits));
    let id = digits.and_then(|digits| field::number(digits, 1..=4094)).ok_or_else(|| {
        fault(&name, "no name of a VLAN", "vlan5, vlan0005, eth0.5 or eth0.0005, with 1 to 4094")
    })?;
    Ok(Vlan { name, id, parent: field::interface(parent)? })
}
