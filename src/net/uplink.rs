//! A link over which servers can be reached: its addresses, and what came with them.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::lease::Lease;

/// What one link offers to a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    pub interface: String,
    pub ipv4: Option<Lease>,
    pub ipv6: Option<Ipv6>,
    /// Servers for names, those that the command line gives first, then IPv4's, then IPv6's.
    pub dns: Vec<IpAddr>,
    /// Domains in which names without a dot are looked up; the link's own domain first.
    pub search: Vec<String>,
    pub ntp: Vec<IpAddr>,
    /// Nothing more is asked for on this link: what is missing will not come.
    #[serde(skip)]
    pub complete: bool,
    /// Other links may be up too: sockets have to be bound to the device.
    #[serde(skip)]
    pub bound: bool,
}

/// The IPv6 side of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6 {
    /// Global addresses, those that the kernel formed (RFC 4862) among them.
    pub addresses: Vec<Address6>,
    /// The default router.
    pub router: Option<Ipv6Addr>,
    /// RDNSS (RFC 8106), then DHCPv6 (RFC 3646).
    pub dns: Vec<Ipv6Addr>,
    pub search: Vec<String>,
    pub ntp: Vec<Ipv6Addr>,
    /// The DHCPv6 server, as its address.
    pub server: Option<Ipv6Addr>,
    /// Option 59: RFC 5970, section 3.1.
    pub boot_url: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address6 {
    pub address: Ipv6Addr,
    pub prefix: u8,
    pub origin: Origin6,
}

/// How an IPv6 address was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin6 {
    Slaac,
    Dhcp,
    Static,
}
