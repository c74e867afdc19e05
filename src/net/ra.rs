//! What routers advertise (RFC 4861, RFC 8106), as the kernel hands it on: it takes in the advertisements
//! itself and forms the addresses, and tells of the rest by rtnetlink(7).
//!
//! Attributes are walked here, as [`super::link`] does.

use std::net::Ipv6Addr;

use super::dhcp6::Need;
use super::lease6::{MOST_SERVERS, is_server, names};

/// `struct ifinfomsg` and `struct nduseroptmsg` of linux/rtnetlink.h.
const LINK_HEADER: usize = 16;
const OPTION_HEADER: usize = 16;

/// IFLA_INET6_FLAGS of linux/if_link.h: flags of net/if_inet6.h.
const INET6_FLAGS: u16 = 1;
const IF_RA_OTHERCONF: u32 = 0x80;
const IF_RA_MANAGED: u32 = 0x40;
const IF_RA_RCVD: u32 = 0x10;

/// NDUSEROPT_SRCADDR of linux/rtnetlink.h.
const SOURCE_ADDRESS: u16 = 1;

/// ICMPv6 Router Advertisement: RFC 4861, section 4.2.
const ADVERTISEMENT: u8 = 134;
/// Its options: RFC 8106, section 5.
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// What routers say on a link of how more is to be learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RouterFlags {
    /// Any router has advertised itself since the link is up.
    pub(super) received: bool,
    /// Flag M: addresses are to be had by DHCPv6.
    pub(super) managed: bool,
    /// Flag O: other things are.
    pub(super) other: bool,
}

impl RouterFlags {
    /// Reads the payload of an RTM_NEWLINK message: the number of the device, and its flags. None if it
    /// does not tell of IPv6. Such messages come to RTNLGRP_IPV6_IFINFO, and are listed for AF_INET6
    /// and for AF_UNSPEC.
    pub(super) fn parse(payload: &[u8]) -> Option<(u32, Self)> {
        let (header, attributes) = payload.split_at_checked(LINK_HEADER)?;
        let index = u32::from_ne_bytes(*header.get(4..)?.first_chunk()?);
        let family = i32::from(*header.first()?);
        let flags = if family == libc::AF_INET6 {
            find(find(attributes, libc::IFLA_PROTINFO)?, INET6_FLAGS)?
        } else if family == libc::AF_UNSPEC {
            let ipv6 = u16::try_from(libc::AF_INET6).ok()?;
            find(find(find(attributes, libc::IFLA_AF_SPEC)?, ipv6)?, INET6_FLAGS)?
        } else {
            return None;
        };
        let flags = u32::from_ne_bytes(flags.try_into().ok()?);
        let has = |flag| flags & flag != 0;
        let (received, managed, other) = (has(IF_RA_RCVD), has(IF_RA_MANAGED), has(IF_RA_OTHERCONF));
        Some((index, Self { received, managed, other }))
    }

    /// What is to be asked for by DHCPv6: with flag M set, O says nothing more (RFC 4861, section 4.2).
    pub(super) fn need(self) -> Option<Need> {
        match self {
            Self { managed: true, .. } => Some(Need::Stateful),
            Self { other: true, .. } => Some(Need::Stateless),
            _ => None,
        }
    }
}

/// What a router says of names: RFC 8106. Lifetimes are in seconds; 0: not to be used any more, all
/// ones: for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RouterNames {
    pub(super) index: u32,
    /// Its link-local address.
    pub(super) router: Option<Ipv6Addr>,
    pub(super) dns: Vec<(Ipv6Addr, u32)>,
    pub(super) search: Vec<(String, u32)>,
}

impl RouterNames {
    /// Reads the payload of an RTM_NEWNDUSEROPT message (group RTNLGRP_ND_USEROPT). None if it does
    /// not hold options of a router advertisement.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(OPTION_HEADER)?;
        let [family, _, low, high, a, b, c, d, kind, 0, ..] = *header else { return None };
        if i32::from(family) != libc::AF_INET6 || kind != ADVERTISEMENT {
            return None;
        }
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let (mut options, attributes) = rest.split_at_checked(length)?;
        let source = find(attributes, SOURCE_ADDRESS).and_then(|value| <[u8; 16]>::try_from(value).ok());
        let index = u32::from_ne_bytes([a, b, c, d]);
        let mut found = Self { index, router: source.map(Ipv6Addr::from), ..Self::default() };
        // Lengths count eight bytes: RFC 4861, section 4.6.
        while let [kind, length, ..] = *options
            && length > 0
            && let Some((option, next)) = options.split_at_checked(usize::from(length) * 8)
        {
            options = next;
            if let Some((&[_, _, _, _, a, b, c, d], value)) = option.split_first_chunk() {
                found.add(kind, u32::from_be_bytes([a, b, c, d]), value);
            }
        }
        Some(found)
    }

    fn add(&mut self, kind: u8, lifetime: u32, value: &[u8]) {
        match kind {
            RDNSS => {
                let (servers, _) = value.as_chunks::<16>();
                let servers = servers.iter().copied().map(Ipv6Addr::from).filter(|&server| is_server(server));
                self.dns.extend(servers.map(|server| (server, lifetime)).take(MOST_SERVERS));
            }
            DNSSL => self.search.extend(names(value).into_iter().map(|name| (name, lifetime))),
            _ => {}
        }
    }
}

/// The value of the first attribute of a kind.
fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    super::address::attributes(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}
