//! What a DHCP server grants: read from its OFFER or ACK, and checked before it is believed.
//!
//! RFC 2131 and RFC 2132; domain search (RFC 3397), classless routes (RFC 3442), rapid commit (RFC 4039).

use std::net::Ipv4Addr;

use dhcproto::v4::{Decodable, DhcpOption, Message, MessageType};

use super::checks::{class_prefix, domain, hosts, is_host, is_host_in, mask_prefix, route, text};
use super::options::{COOKIE, Content, HEADER};
use super::{Lease, Origin};
use crate::net::boot_url::is_usable;

/// Lists are cut to these lengths.
const MOST_ROUTES: usize = 64;
const MOST_DOMAINS: usize = 16;

/// The smallest MTU that option 26 may name less 8: RFC 791, section 3.1 (every host takes 576 bytes).
const LEAST_MTU: u16 = 576;

/// A server's message: the header and the options this client understands.
#[derive(Debug)]
pub(in crate::net) struct Reply {
    pub(in crate::net) xid: u32,
    pub(in crate::net) mac: [u8; 6],
    pub(in crate::net) kind: MessageType,
    /// Option 54.
    pub(in crate::net) server: Option<Ipv4Addr>,
    /// Option 56: why a server says no.
    pub(in crate::net) message: Option<String>,
    /// The header's `yiaddr`.
    pub(in crate::net) address: Ipv4Addr,
    content: Content,
}

impl Reply {
    /// Reads a BOOTREPLY for Ethernet. None if it is anything else.
    pub(in crate::net) fn parse(packet: &[u8]) -> Option<Self> {
        if packet.get(COOKIE)? != dhcproto::v4::MAGIC {
            return None;
        }
        // The header alone: its options are read one by one, so that a faulty one spoils no other.
        let header = Message::from_bytes(packet.get(..HEADER)?).ok()?;
        let ethernet = header.htype() == dhcproto::v4::HType::Eth && header.hlen() == 6;
        if header.opcode() != dhcproto::v4::Opcode::BootReply || !ethernet {
            return None;
        }
        let mut reply = Self {
            xid: header.xid(),
            mac: *header.chaddr().first_chunk()?,
            kind: MessageType::Unknown(0),
            server: None,
            message: None,
            address: header.yiaddr(),
            content: Content::of(packet),
        };
        for option in &reply.content.options {
            match option {
                DhcpOption::MessageType(kind) => reply.kind = *kind,
                DhcpOption::ServerIdentifier(server) => reply.server = is_host(*server).then_some(*server),
                DhcpOption::Message(text) => reply.message = Some(text.clone()),
                _ => {}
            }
        }
        Some(reply)
    }

    /// Whether this ACK may be one without a request: RFC 4039, section 3.
    pub(in crate::net) fn is_rapid_commit(&self) -> bool {
        self.content.rapid_commit
    }

    /// What is named to boot from, as in [`Lease::boot_url`], of a message that may have no address; what is
    /// of no use only if there is nothing else.
    pub(in crate::net) fn boot_text(&self) -> Option<String> {
        let (file, server) = self.boot();
        let usable = |text: &Option<String>| text.as_deref().is_some_and(|text| is_usable(text, false));
        if usable(&server) && !usable(&file) { server } else { file.or(server) }
    }

    /// Options 67 and 66, each, if it is missing, from the header.
    fn boot(&self) -> (Option<String>, Option<String>) {
        let mut file = self.content.file.as_deref();
        let mut server = self.content.sname.as_deref();
        for option in &self.content.options {
            match option {
                DhcpOption::BootfileName(value) => file = Some(value),
                DhcpOption::TFTPServerName(value) => server = Some(value),
                _ => {}
            }
        }
        (file.and_then(text), server.and_then(text))
    }

    /// The lease in an OFFER or ACK for `interface`, whose device can carry `largest_mtu` bytes; or
    /// what is wrong with it.
    pub(in crate::net) fn lease(&self, interface: &str, largest_mtu: u16) -> Result<Lease, String> {
        let address = self.address;
        if !is_host(address) {
            return Err(format!("{address} is no host's address"));
        }
        // Without a mask, or with one that is none, the class of the address decides, as in every
        // other client: RFC 950, section 2.2 made masks optional.
        let mut lease = Lease::bare(interface, self.mac, Origin::Dhcp, address, class_prefix(address));
        lease.server = self.server;
        (lease.boot_file, lease.boot_server) = self.boot();
        for option in &self.content.options {
            match option {
                DhcpOption::SubnetMask(mask) => lease.prefix = mask_prefix(*mask).unwrap_or(lease.prefix),
                DhcpOption::BroadcastAddr(value) => lease.broadcast = Some(*value),
                DhcpOption::Router(list) => lease.routers = hosts(list),
                DhcpOption::DomainNameServer(list) => lease.dns = hosts(list),
                DhcpOption::NtpServers(list) => lease.ntp = hosts(list),
                DhcpOption::Hostname(name) => lease.hostname = domain(name.as_bytes()),
                DhcpOption::DomainName(name) => lease.domain = domain(name.as_bytes()),
                DhcpOption::DomainSearch(names) => {
                    let names = names.iter().take(MOST_DOMAINS);
                    let labels = names.map(|name| name.iter().collect::<Vec<&[u8]>>().join(&b'.'));
                    lease.search = labels.filter_map(|name| domain(&name)).collect();
                }
                DhcpOption::InterfaceMtu(mtu) => {
                    lease.mtu = (LEAST_MTU..=largest_mtu).contains(mtu).then_some(*mtu);
                }
                DhcpOption::AddressLeaseTime(seconds) => lease.lease_seconds = Some(*seconds),
                DhcpOption::Renewal(seconds) => lease.t1 = Some(*seconds),
                DhcpOption::Rebinding(seconds) => lease.t2 = Some(*seconds),
                DhcpOption::ClasslessStaticRoute(routes) => {
                    let routes = routes.iter().take(MOST_ROUTES).filter_map(|(net, gateway)| {
                        route(net.trunc().addr(), net.prefix_len(), *gateway, address)
                    });
                    lease.routes = routes.collect();
                }
                _ => {}
            }
        }
        if !is_host_in(address, lease.prefix) {
            return Err(format!("{address}/{} is a network, no host", lease.prefix));
        }
        let network = |other: Ipv4Addr| u32::from(other) >> (32 - u32::from(lease.prefix.clamp(1, 32)));
        let on_link = |other: &Ipv4Addr| *other != address && network(*other) == network(address);
        lease.broadcast = lease.broadcast.filter(on_link);
        // RFC 3442: with option 121 the routers of option 3 do not count. Where nothing of it can be set they
        // are better than no way out.
        if lease.routes.is_empty() {
            let default =
                lease.routers.iter().find_map(|&router| route(Ipv4Addr::UNSPECIFIED, 0, router, address));
            if default.is_some() && self.content.classless {
                log::warn!("{interface}: no route of DHCP option 121 is of use: option 3 counts");
            }
            lease.routes.extend(default);
        }
        // A gateway may be reachable only through another route of the same list.
        lease.routes.sort_by_key(|route| route.gateway.is_some());
        bound_times(&mut lease);
        Ok(lease)
    }
}

/// Makes the times such as [`Lease::t1`] has them, whatever the server says; what it says counts if it can.
fn bound_times(lease: &mut Lease) {
    // All ones is for ever: RFC 2131, section 3.3.
    let granted = lease.lease_seconds.filter(|&seconds| seconds != u32::MAX);
    let Some(seconds) = granted.map(|seconds| seconds.max(1)) else {
        (lease.lease_seconds, lease.t1, lease.t2) = (None, None, None);
        return;
    };
    // Half and seven eighths: RFC 2131, section 4.4.5.
    let default = (seconds / 2, seconds - seconds / 8);
    let said = (lease.t1.unwrap_or(default.0), lease.t2.unwrap_or(default.1));
    let sane = 0 < said.0 && said.0 < said.1 && said.1 < seconds;
    let (t1, t2) = if sane { said } else { default };
    (lease.lease_seconds, lease.t1, lease.t2) = (Some(seconds), Some(t1), Some(t2));
}
