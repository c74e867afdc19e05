//! The network: links, the race for an address, what a lease says and where it is applied.
//!
//! [`up`] raises every Ethernet link and runs a DHCPv4 client on each that has carrier; the first
//! good lease wins ([`choice`]). The protocol ([`dhcp4`], [`lease`], [`frame`], [`link`]) takes packets
//! and the time and does no I/O; sockets and netlink are in [`linux`].

mod choice;
#[allow(dead_code, reason = "not every command needs all of it")]
mod dhcp4;
mod existing;
mod files;
mod frame;
#[allow(dead_code, reason = "not every command needs all of it")]
mod identity;
mod lease;
mod link;
mod linux;
mod network;
mod random;
#[allow(dead_code, reason = "not every command needs all of it")]
mod stp;
mod uplink;

use std::fmt;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::Exit;
use crate::paths::Paths;
use crate::time::Deadline;

pub use existing::{Caller, up_unless_routed};
pub use lease::{Lease, Origin, Route};
pub use network::{Event, Network, Settings};
pub use uplink::{Address6, Ipv6, Origin6, Uplink};

use files::Last;

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

/// Brings the network up: loopback, then every Ethernet link (or just the one named `only`), and the
/// first good lease that any of them gets by `deadline`, applied to its link and written to
/// `resolv.conf` and `lease.json`. What the last lease that `lease.json` knows has set is taken away
/// first: its address, its routes, its MTU, and with the new lease its servers for names.
pub fn up(paths: &Paths, only: Option<&str>, deadline: Deadline) -> Result<Lease, Error> {
    up_over(Transport::Auto, paths, only, deadline)
}

/// [`up`] after an attempt that failed with the lease in `lease.json`: the links that have won so far
/// are taken only if no other gets a lease, the latest winner last of all.
pub fn up_elsewhere(paths: &Paths, deadline: Deadline) -> Result<Lease, Error> {
    let last = Last::read(paths);
    let winners = last.as_ref().map(Last::winners).unwrap_or_default();
    linux::up(Transport::Auto, paths, None, last.as_ref(), &winners, deadline)
}

/// [`up`] with a choice of transport.
pub fn up_over(
    transport: Transport,
    paths: &Paths,
    only: Option<&str>,
    deadline: Deadline,
) -> Result<Lease, Error> {
    linux::up(transport, paths, only, Last::read(paths).as_ref(), &[], deadline)
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
            Self::NoLease { .. } => "check that a DHCP server answers in this network",
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
