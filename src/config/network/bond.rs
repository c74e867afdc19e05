//! `bond=NAME:MEMBER,MEMBER:OPTIONS[:MTU]`; the options are those of the kernel's bonding driver:
//! Documentation/networking/bonding.rst

use super::field::{self, Fault, add, fault};
use super::{Bond, BondMode};

const FORM: &str = "NAME:MEMBER,MEMBER:mode=active-backup, or with mode=802.3ad";
/// A minute: the most for anything that is said in milliseconds.
const MOST_MS: u32 = 60_000;

pub(super) fn parse(text: &str) -> Result<Bond, Fault> {
    let fields = field::split(text);
    let at = |index: usize| fields.get(index).copied().unwrap_or_default();
    // Without a mode it would be balance-rr.
    if fields.len() < 3 || fields.len() > 4 {
        return Err(fault(text, "no bond that is supported", FORM));
    }
    let mut bond = Bond {
        name: field::interface(at(0))?,
        members: Vec::new(),
        mode: BondMode::ActiveBackup,
        miimon: 100,
        fast_lacp: false,
        primary: None,
        updelay: 0,
        downdelay: 0,
        xmit_hash_policy: None,
        mtu: field::mtu(at(3))?,
    };
    for member in at(1).split(',') {
        let name = field::interface(member)?;
        if bond.members.contains(&name) || name == bond.name {
            return Err(fault(member, "named twice", "each link once"));
        }
        add(&mut bond.members, name, member)?;
    }
    options(&mut bond, at(2))?;
    Ok(bond)
}

fn options(bond: &mut Bond, text: &str) -> Result<(), Fault> {
    let mut mode = None;
    let mut lacp_rate = None;
    let mut seen: Vec<&str> = Vec::new();
    for option in text.split(',') {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        if seen.contains(&name) {
            return Err(fault(name, "given twice", "each option once"));
        }
        seen.push(name);
        let wrong = |expected| fault(option, "not supported", expected);
        let milliseconds =
            |least| field::number(value, least..=MOST_MS).ok_or_else(|| wrong("milliseconds, at most 60000"));
        match name {
            "mode" => {
                mode = Some(match value {
                    "active-backup" | "1" => BondMode::ActiveBackup,
                    "802.3ad" | "4" => BondMode::Ieee8023ad,
                    _ => return Err(wrong("mode=active-backup or mode=802.3ad")),
                });
            }
            "miimon" => bond.miimon = milliseconds(1)?,
            "updelay" => bond.updelay = milliseconds(0)?,
            "downdelay" => bond.downdelay = milliseconds(0)?,
            "lacp_rate" => {
                lacp_rate = Some(match value {
                    "slow" | "0" => false,
                    "fast" | "1" => true,
                    _ => return Err(wrong("lacp_rate=slow or lacp_rate=fast")),
                });
            }
            "primary" => {
                if !bond.members.iter().any(|member| member == value) {
                    return Err(fault(option, "no member of the bond", "one of its members"));
                }
                bond.primary = Some(value.to_owned());
            }
            "xmit_hash_policy" => {
                bond.xmit_hash_policy = Some(match value {
                    "layer2" | "0" => 0,
                    "layer3+4" | "1" => 1,
                    "layer2+3" | "2" => 2,
                    "encap2+3" | "3" => 3,
                    "encap3+4" | "4" => 4,
                    "vlan+srcmac" | "5" => 5,
                    _ => return Err(wrong("layer2, layer2+3, layer3+4, encap2+3, encap3+4 or vlan+srcmac")),
                });
            }
            _ => {
                return Err(wrong(
                    "mode, miimon, updelay, downdelay, lacp_rate, primary or xmit_hash_policy",
                ));
            }
        }
    }
    bond.mode =
        mode.ok_or_else(|| fault("balance-rr, the mode of a bond without one", "not supported", FORM))?;
    let is_backup = bond.mode == BondMode::ActiveBackup;
    if is_backup && (lacp_rate.is_some() || bond.xmit_hash_policy.is_some()) {
        return Err(fault("lacp_rate or xmit_hash_policy", "without effect", "mode=802.3ad beside it"));
    }
    if !is_backup && bond.primary.is_some() {
        return Err(fault("primary", "without effect", "mode=active-backup beside it"));
    }
    if bond.updelay % bond.miimon != 0 || bond.downdelay % bond.miimon != 0 {
        return Err(fault("updelay or downdelay", "no multiple of miimon", "one, as 200 with miimon=100"));
    }
    bond.fast_lacp = lacp_rate.unwrap_or(false);
    Ok(())
}
