//! An IPv4 address and what came with it, from a DHCP server or by hand.

mod checks;
mod options;
mod reply;

use std::net::Ipv4Addr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::boot_url::is_usable;

pub(super) use checks::{domain, is_host};
pub(super) use reply::Reply;

/// An address and all that came with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub interface: String,
    /// Serialised as six pairs of hexadecimal digits.
    #[serde(serialize_with = "mac_as_text", deserialize_with = "mac_of_text")]
    pub mac: [u8; 6],
    pub origin: Origin,
    pub address: Ipv4Addr,
    /// Bits of the network mask, 1 to 32.
    pub prefix: u8,
    /// Option 28, if it lies in the network.
    pub broadcast: Option<Ipv4Addr>,
    /// The DHCP server.
    pub server: Option<Ipv4Addr>,
    /// Option 3, as it came.
    pub routers: Vec<Ipv4Addr>,
    /// What is to be set: option 121, or else a default route through the first router.
    pub routes: Vec<Route>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    /// Option 12: what the server calls this machine.
    pub hostname: Option<String>,
    pub ntp: Vec<Ipv4Addr>,
    /// In bytes.
    pub mtu: Option<u16>,
    /// Option 67, or the header's `file`.
    pub boot_file: Option<String>,
    /// Option 66, or the header's `sname`.
    pub boot_server: Option<String>,
    /// None if the lease does not end.
    pub lease_seconds: Option<u32>,
    /// Seconds after which the server is asked to extend the lease, and then any server: T1 and T2 of
    /// RFC 2131, section 4.4.5. Always `t1 < t2 < lease_seconds`; of less than 8 s, `t2` is all of them where the
    /// server has not said otherwise, since whole seconds are too coarse. None if the lease does not end.
    pub t1: Option<u32>,
    pub t2: Option<u32>,
}

/// How an IPv4 address was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Dhcp,
    Static,
}

/// One route of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Without host bits.
    pub destination: Ipv4Addr,
    pub prefix: u8,
    /// None for what is on the link itself.
    pub gateway: Option<Ipv4Addr>,
}

impl Lease {
    /// An address of a network with a mask of `prefix` bits, and nothing else.
    pub(super) fn bare(interface: &str, mac: [u8; 6], origin: Origin, address: Ipv4Addr, prefix: u8) -> Self {
        Self {
            interface: interface.to_owned(),
            mac,
            origin,
            address,
            prefix,
            broadcast: None,
            server: None,
            routers: Vec::new(),
            routes: Vec::new(),
            dns: Vec::new(),
            domain: None,
            search: Vec::new(),
            hostname: None,
            ntp: Vec::new(),
            mtu: None,
            boot_file: None,
            boot_server: None,
            lease_seconds: None,
            t1: None,
            t2: None,
        }
    }

    /// Whether the lease leads out of its own network.
    pub(super) fn has_default_route(&self) -> bool {
        // Two halves of the address space are one, too, as OpenVPN writes it.
        let widest = |route: &Route| route.prefix <= 1 && route.gateway.is_some();
        self.routes.iter().any(widest)
    }

    /// The URL of a provider that the server names, as far as its text tells, and where it names it.
    pub fn boot_url(&self) -> Option<(String, &'static str)> {
        let places = [(&self.boot_file, "option 67"), (&self.boot_server, "option 66")];
        let urls = places.into_iter().filter_map(|(text, place)| Some((text.clone()?, place)));
        urls.into_iter().find(|(text, _)| is_usable(text, false))
    }
}

fn mac_of_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 6], D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut mac = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut mac {
        let pair = pairs.next().unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).map_err(D::Error::custom)?;
    }
    Ok(mac)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn mac_as_text<S: Serializer>(mac: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Mac(*mac))
}

/// A hardware address, for people.
pub(super) struct Mac(pub(super) [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests;
