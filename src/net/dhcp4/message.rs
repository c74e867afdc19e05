//! What the client says, for each state as in tables 4 and 5 of RFC 2131.
//!
//! Messages are made from [`BLANK`]: every constructor of `dhcproto::v4::Message` draws from the
//! `rand` crate, `new_with_id` included, and that waits for the kernel's generator.

use std::net::Ipv4Addr;

use dhcproto::v4::{Architecture, Decodable, DhcpOption, Encodable, Flags, Message, MessageType, OptionCode};

use super::Device;
use crate::net::identity::{self, UNDI};

/// What servers are asked for. 121 comes before 3: RFC 3442.
pub(in crate::net) const WANTED: [OptionCode; 16] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::Hostname,
    OptionCode::DomainName,
    OptionCode::DomainSearch,
    OptionCode::InterfaceMtu,
    OptionCode::BroadcastAddr,
    OptionCode::NtpServers,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
    OptionCode::Renewal,
    OptionCode::Rebinding,
    OptionCode::TFTPServerName,
    OptionCode::BootfileName,
];

/// The smallest BOOTP message that old servers and relays take: RFC 1542, section 2.1.
pub(super) const LEAST_LENGTH: usize = 300;

/// The largest answer: a UDP payload in one Ethernet frame (option 57).
const MOST_LENGTH: u16 = 1472;

/// HOST_NAME_MAX of linux/limits.h; what is longer is not sent.
const LONGEST_HOSTNAME: usize = 64;

/// A BOOTREQUEST (1) for Ethernet (1) with addresses of 6 bytes, all else zero, and the magic cookie.
pub(super) const BLANK: [u8; 240] = {
    let mut header = [0; 240];
    header[0] = 1;
    header[1] = 1;
    header[2] = 6;
    let (_, cookie) = header.split_at_mut(236);
    cookie.copy_from_slice(&dhcproto::v4::MAGIC);
    header
};

/// A message, and what differs from one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any address will do, and `hint` is liked best; `rapid` if the first server to answer may commit.
    Discover {
        hint: Option<Ipv4Addr>,
        rapid: bool,
    },
    /// DHCPREQUEST for what `server` offers, or, without one, for what was held before (INIT-REBOOT).
    Request {
        address: Ipv4Addr,
        server: Option<Ipv4Addr>,
    },
    /// DHCPREQUEST for more time, in RENEWING and REBINDING.
    Extend {
        address: Ipv4Addr,
    },
    Release {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
}

/// The bytes of a message, at least [`LEAST_LENGTH`] of them. `secs` is the time since the client has
/// begun, in seconds.
pub(super) fn compose(device: &Device, kind: Kind, xid: u32, secs: u16) -> Option<Vec<u8>> {
    let mut message = Message::from_bytes(&BLANK).ok()?;
    message.set_xid(xid).set_chaddr(&device.mac).set_secs(secs);
    let said = match kind {
        Kind::Discover { .. } => MessageType::Discover,
        Kind::Request { .. } | Kind::Extend { .. } => MessageType::Request,
        Kind::Release { .. } => MessageType::Release,
    };
    if let Kind::Extend { address } | Kind::Release { address, .. } = kind {
        message.set_ciaddr(address);
    } else if device.broadcast {
        message.set_flags(Flags::default().set_broadcast());
    }
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(said));
    options.insert(DhcpOption::ClientIdentifier(device.client_id.clone()));
    if let Kind::Discover { hint: Some(address), .. } | Kind::Request { address, .. } = kind {
        options.insert(DhcpOption::RequestedIpAddress(address));
    }
    if let Kind::Request { server: Some(server), .. } | Kind::Release { server, .. } = kind {
        options.insert(DhcpOption::ServerIdentifier(server));
    }
    if let Kind::Discover { rapid: true, .. } = kind {
        options.insert(DhcpOption::RapidCommit);
    }
    if said != MessageType::Release {
        let arch = Architecture::from(identity::architecture(device.arch));
        options.insert(DhcpOption::MaxMessageSize(MOST_LENGTH));
        options.insert(DhcpOption::ParameterRequestList(WANTED.to_vec()));
        options.insert(DhcpOption::ClassIdentifier(identity::vendor_class(device.arch).into_bytes()));
        options.insert(DhcpOption::ClientSystemArchitecture(arch));
        options.insert(DhcpOption::ClientNetworkInterface(UNDI.0, UNDI.1, UNDI.2));
        if let Some(uuid) = device.uuid {
            let uuid = identity::firmware_order(uuid);
            options.insert(DhcpOption::ClientMachineIdentifier([[0].as_slice(), &uuid].concat()));
        }
        if let Some(hostname) = device.hostname.as_ref().filter(|name| name.len() <= LONGEST_HOSTNAME) {
            options.insert(DhcpOption::Hostname(hostname.clone()));
        }
    }
    let mut bytes = message.to_vec().ok()?;
    bytes.resize(bytes.len().max(LEAST_LENGTH), 0);
    Some(bytes)
}
