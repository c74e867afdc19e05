//! What the kernel command line gives of the network, as the kernel's own `ip=` and dracut's parameters
//! write it: Documentation/admin-guide/nfs/nfsroot.rst, dracut.cmdline(7). Pure.

use std::net::IpAddr;

/// Everything that is given. The default is nothing: every Ethernet link is raced, over IPv4 and IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `ip=`, in the order of the line. Where there is any, only the links that they name are used; one
    /// without a device holds for every link that no other names.
    pub assignments: Vec<Assignment>,
    /// `BOOTIF=`: only this link is used, unless an `ip=` names another.
    pub bootif: Option<[u8; 6]>,
    /// `ifname=NAME:MAC`.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6Mode {
    #[default]
    Off,
    /// What routers advertise, and DHCPv6 as far as they say so.
    Auto,
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
    /// In bytes.
    pub mtu: Option<u16>,
}

/// Documentation/networking/bonding.rst
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    ActiveBackup,
    Ieee8023ad,
}
