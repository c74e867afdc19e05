//! What the kernel command line gives of the network, as the kernel's own `ip=` and dracut's parameters
//! write it: Documentation/admin-guide/nfs/nfsroot.rst, dracut.cmdline(7). Pure.

mod bond;
mod check;
mod field;
mod ip;
mod plan;
mod route;
#[cfg(test)]
mod tests;
mod vlan;

use std::fmt;
use std::net::IpAddr;

use super::cmdline::{self, Parameter};
use crate::error::printable;
use field::{Fault, add, fault};

pub(crate) use check::LEAST_MTU_IPV6;
pub use plan::LinkPlan;

/// Everything that is given. The default is nothing: every Ethernet link is raced, over IPv4 and IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `ip=`, in the order of the line, one for each device. Where there is any, only the links that they name are used; one
    /// without a device holds for every link that no other names.
    pub assignments: Vec<Assignment>,
    /// `BOOTIF=`: of the links that are there only this one is used, and those that an `ip=` names.
    pub bootif: Option<[u8; 6]>,
    /// `bootdev=`: only this link is used. It does not count beside `BOOTIF=`.
    pub bootdev: Option<Device>,
    /// `ifname=NAME:MAC`: what the link is called in the other parameters.
    pub names: Vec<(String, [u8; 6])>,
    /// `nameserver=`: asked before those of any lease.
    pub nameservers: Vec<IpAddr>,
    /// `rd.peerdns=0`: servers for names that a lease brings are not used.
    pub ignore_leased_names: bool,
    /// `rd.route=`.
    pub routes: Vec<GivenRoute>,
    /// `vlan=`.
    pub vlans: Vec<Vlan>,
    /// `bond=`.
    pub bonds: Vec<Bond>,
}

/// One `ip=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub device: Device,
    /// Ask for an IPv4 address by DHCP.
    pub dhcp4: bool,
    pub ipv6: Ipv6Mode,
    /// Addresses to be set as they are. With one of a family, nothing is asked for in that family.
    pub addresses: Vec<StaticAddress>,
    /// The name to give to DHCP servers.
    pub hostname: Option<String>,
    /// In bytes.
    pub mtu: Option<u16>,
    /// The hardware address to give the link.
    pub mac: Option<[u8; 6]>,
    pub dns: Vec<IpAddr>,
    pub ntp: Vec<IpAddr>,
}

/// How IPv6 addresses are come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ipv6Mode {
    #[default]
    Off,
    /// What routers advertise, and DHCPv6 as far as they say so.
    Auto,
    /// As [`Ipv6Mode::Auto`], and DHCPv6 also where no router brings an address.
    Either,
    /// DHCPv6 whatever routers say.
    Dhcp,
}

/// Which links are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Any,
    Name(String),
    Mac([u8; 6]),
}

/// An address of the machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticAddress {
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
}

/// `rd.route=NET/PREFIX:GATEWAY[:DEVICE]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenRoute {
    pub destination: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub device: Option<String>,
}

/// `vlan=NAME:PARENT`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    pub name: String,
    /// 1 to 4094: IEEE 802.1Q.
    pub id: u16,
    pub parent: String,
}

/// `bond=NAME:MEMBER,MEMBER:OPTIONS:MTU`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bond {
    pub name: String,
    pub members: Vec<String>,
    pub mode: BondMode,
    /// How often carrier is looked for, in milliseconds.
    pub miimon: u32,
    /// LACPDUs every second instead of every 30 s.
    pub fast_lacp: bool,
    /// The member preferred with [`BondMode::ActiveBackup`].
    pub primary: Option<String>,
    /// In milliseconds; multiples of `miimon`.
    pub updelay: u32,
    /// In milliseconds; multiples of `miimon`.
    pub downdelay: u32,
    /// BOND_XMIT_POLICY_* of linux/if_bonding.h, with [`BondMode::Ieee8023ad`].
    pub xmit_hash_policy: Option<u8>,
    /// In bytes.
    pub mtu: Option<u16>,
}

/// Documentation/networking/bonding.rst
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    ActiveBackup,
    Ieee8023ad,
}

/// A parameter that cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {} is {wrong}; expected {expected}", printable(parameter), OrNothing(part))]
pub struct Error {
    /// As it stands on the line, or the names of two that contradict each other.
    pub parameter: String,
    /// The part of it.
    pub part: String,
    pub wrong: &'static str,
    pub expected: &'static str,
}

struct OrNothing<'a>(&'a str);

impl fmt::Display for OrNothing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "nothing".to_owned() } else { printable(self.0) }.as_str())
    }
}

impl Error {
    fn new(parameter: &str, fault: Fault) -> Self {
        let Fault { part, wrong, expected } = fault;
        Self { parameter: parameter.to_owned(), part, wrong, expected }
    }
}

impl Given {
    /// Reads a kernel command line. Parameters that give nothing of the network are passed over.
    pub fn parse(line: &str) -> Result<Self, Error> {
        let mut given = Self::default();
        let mut assignments = Vec::new();
        let (mut bootifs, mut bootif_counts) = (Vec::new(), true);
        // An installer's form: an address alone, and the rest in parameters of their own.
        let (mut is_bare, mut beside) = (false, None);
        for parameter in cmdline::parameters(line) {
            let value = parameter.value();
            let text = value.unwrap_or_default();
            let taken = match parameter.name() {
                // The kernel's older name for it.
                "ip" | "nfsaddrs" => {
                    is_bare |= field::address(text).is_ok();
                    ip::parse(text).map(|read| assignments.push((parameter, read)))
                }
                "gateway" | "netmask" | "ksdevice" => {
                    beside = Some(parameter);
                    Ok(())
                }
                "BOOTIF" => {
                    bootifs.push(parameter);
                    Ok(())
                }
                "rd.bootif" => field::boolean(value).map(|counts| bootif_counts = counts),
                "bootdev" => ip::named(text).and_then(|device| once(&mut given.bootdev, device, text)),
                "ifname" => name(text).and_then(|name| add(&mut given.names, name, text)),
                "nameserver" => {
                    field::host(text).and_then(|server| add(&mut given.nameservers, server, text))
                }
                "rd.peerdns" => field::boolean(value).map(|wanted| given.ignore_leased_names = !wanted),
                "rd.route" => route::parse(text).and_then(|route| add(&mut given.routes, route, text)),
                "vlan" => vlan::parse(text).and_then(|vlan| add(&mut given.vlans, vlan, text)),
                "bond" => bond::parse(text).and_then(|bond| add(&mut given.bonds, bond, text)),
                "bridge" | "team" => {
                    Err(fault(parameter.name(), "not supported", "bond= or vlan=, or a single link"))
                }
                "rd.iscsi.ibft" => field::boolean(value).and_then(|wanted| {
                    if wanted {
                        Err(fault(parameter.name(), "not supported", "the addresses in ip="))
                    } else {
                        Ok(())
                    }
                }),
                _ => Ok(()),
            };
            taken.map_err(|fault| Error::new(parameter.raw(), fault))?;
        }
        for parameter in bootifs.into_iter().filter(|_| bootif_counts) {
            let text = parameter.value().unwrap_or_default();
            let taken = bootif(text).and_then(|mac| once(&mut given.bootif, mac, text));
            taken.map_err(|fault| Error::new(parameter.raw(), fault))?;
        }
        if let Some(parameter) = beside.filter(|_| is_bare) {
            let fault = fault(parameter.name(), "not supported beside ip=", "all of it in the fields of ip=");
            return Err(Error::new(parameter.raw(), fault));
        }
        check::assign(&mut given, assignments)?;
        check::devices(&given)?;
        Ok(given)
    }
}

/// Whether it is a parameter of the network that is of no use here: other programs' waits and
/// retries, a vendor class, settings of Ethernet chips.
pub(super) fn is_of_no_use(name: &str) -> bool {
    name.starts_with("rd.net.") || matches!(name, "dhcpclass" | "rd.ethtool")
}

/// `BOOTIF=`: pxelinux puts the hardware type before the address, 1 for Ethernet.
fn bootif(text: &str) -> Result<[u8; 6], Fault> {
    let address = text.strip_prefix("01-").or_else(|| text.strip_prefix("01:"));
    match address.map(field::mac) {
        Some(Ok(mac)) => Ok(mac),
        _ => field::mac(text),
    }
}

/// `ifname=NAME:MAC`
fn name(text: &str) -> Result<(String, [u8; 6]), Fault> {
    let (name, mac) =
        text.split_once(':').ok_or_else(|| fault(text, "no name and hardware address", "NAME:MAC"))?;
    Ok((field::interface(name)?, field::mac(mac)?))
}

/// Sets what can be said only once.
fn once<T: PartialEq>(place: &mut Option<T>, value: T, part: &str) -> Result<(), Fault> {
    if place.as_ref().is_some_and(|before| *before != value) {
        return Err(fault(part, "another than was given before", "one"));
    }
    *place = Some(value);
    Ok(())
}
