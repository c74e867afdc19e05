//! The network: links, what is asked for on each, what is set there, and the race between them.
//!
//! [`Network`] raises every Ethernet link and keeps each: DHCPv4 ([`dhcp4`]), what IPv6 routers say
//! ([`ra`], [`slaac`]), DHCPv6 ([`dhcp6`]), or what the command line gives; it tells when servers can be
//! reached over one, as an [`Uplink`]. The protocols and what follows from them ([`state`]) take packets
//! and the time and do no I/O; sockets and netlink are in [`linux`].

mod address;
pub(crate) mod boot_url;
mod choice;
mod compose;
mod dhcp4;
mod dhcp6;
mod existing;
mod files;
mod frame;
mod identity;
mod lease;
mod lease6;
mod link;
mod linux;
pub mod names;
mod network;
mod ra;
mod random;
mod slaac;
mod state;
mod stories;
mod stp;
mod up;
mod uplink;

use std::fmt;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::Exit;

pub use existing::{Caller, is_routed};
pub use lease::{Lease, Origin, Route};
pub use linux::lower_all;
pub use network::{Event, Network, Settings};
pub use up::{up, up_over, up_with};
pub use uplink::{Address6, Ipv6, Origin6, Uplink};

/// How long the network may take to come up: a port that spanning tree blocks takes 30 s.
pub const BUDGET: Duration = Duration::from_secs(60);

/// How DHCP messages travel while there is no address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Packets, or UDP where the kernel has no AF_PACKET.
    #[default]
    Auto,
    /// Whole IPv4 packets over AF_PACKET: answers may come as unicast to the offered address.
    Packet,
    /// A UDP socket bound to the device: answers have to be broadcast, and are asked for so.
    Udp,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("kernel refused to {what}: {errno}")]
    Kernel { what: String, errno: Errno },
    /// No Ethernet link has appeared.
    #[error("no network link found in {:.0} s, only {}", waited.as_secs_f64(), OrNothing(seen))]
    NoLink { waited: Duration, seen: String },
    /// The link that was asked for has not appeared.
    #[error("no network link {name:?} in {:.0} s, only {}", waited.as_secs_f64(), OrNothing(seen))]
    NoSuchLink { name: String, waited: Duration, seen: String },
    /// There are links, and none of them ever had carrier.
    #[error("{links}")]
    NoCarrier { links: String },
    /// A link has carrier, and no usable lease came.
    #[error("{links}")]
    NoLease { links: String },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Kernel { .. }
            | Self::NoLink { .. }
            | Self::NoSuchLink { .. }
            | Self::NoCarrier { .. }
            | Self::NoLease { .. } => Exit::NoNetwork,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Kernel { errno: Errno::PERM | Errno::ACCESS, .. } => {
                "this needs root (CAP_NET_ADMIN, CAP_NET_RAW)"
            }
            Self::Kernel { .. } => "see the kernel log of this machine",
            Self::NoLink { .. } => {
                "the kernel has no driver for the network card: add its module and firmware to the initramfs"
            }
            Self::NoSuchLink { .. } => "check the name of the interface",
            Self::NoCarrier { .. } => "check the cable and the switch port",
            Self::NoLease { .. } => "check that a DHCP server or an IPv6 router answers in this network",
        }
    }
}

/// A list of names for a message.
struct OrNothing<'a>(&'a str);

impl fmt::Display for OrNothing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "nothing" } else { self.0 })
    }
}
