//! What the kernel says of IPv6 addresses and default routes: RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE and
//! RTM_DELROUTE of rtnetlink(7), groups RTNLGRP_IPV6_IFADDR and RTNLGRP_IPV6_ROUTE. The payload does
//! not tell a new one from one that has gone; the type of the message does.

use std::net::Ipv6Addr;

use netlink_packet_core::{NLA_HEADER_SIZE, NLA_TYPE_MASK};

/// `struct ifaddrmsg` of linux/if_addr.h and `struct rtmsg` of linux/rtnetlink.h.
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// Routes that the kernel has from router advertisements: linux/rtnetlink.h.
const RTPROT_RA: u8 = 9;

/// An IPv6 address on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkAddress {
    pub(super) index: u32,
    pub(super) address: Ipv6Addr,
    pub(super) prefix: u8,
    /// Of global scope, in the kernel's sense: neither link-local nor the host's own.
    pub(super) global: bool,
    /// Duplicates are still being looked for; it cannot be used, unless it is optimistic (RFC 4429).
    pub(super) tentative: bool,
    pub(super) optimistic: bool,
    /// Somebody else has it.
    pub(super) duplicate: bool,
    /// Formed for privacy: RFC 8981.
    pub(super) temporary: bool,
    /// Its preferred lifetime is over.
    pub(super) deprecated: bool,
    /// Without an end.
    pub(super) permanent: bool,
}

impl LinkAddress {
    /// Reads the payload of an RTM_NEWADDR or RTM_DELADDR message. None if it is malformed or not of IPv6.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(ADDRESS_HEADER)?;
        let &[family, prefix, flags, scope, ref index @ ..] = header else { return None };
        if i32::from(family) != libc::AF_INET6 || prefix > 128 {
            return None;
        }
        let mut flags = u32::from(flags);
        let (mut address, mut own) = (None, None);
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFA_ADDRESS => address = ipv6(value),
                // Of a point-to-point link; IFA_ADDRESS is the other end there.
                libc::IFA_LOCAL => own = ipv6(value),
                libc::IFA_FLAGS => flags = number(value).unwrap_or(flags),
                _ => {}
            }
        }
        let has = |flag| flags & flag != 0;
        Some(Self {
            index: number(index)?,
            address: own.or(address)?,
            prefix,
            global: scope == libc::RT_SCOPE_UNIVERSE,
            tentative: has(libc::IFA_F_TENTATIVE),
            optimistic: has(libc::IFA_F_OPTIMISTIC),
            duplicate: has(libc::IFA_F_DADFAILED),
            temporary: has(libc::IFA_F_TEMPORARY),
            deprecated: has(libc::IFA_F_DEPRECATED),
            permanent: has(libc::IFA_F_PERMANENT),
        })
    }

    /// Whether packets can be sent from it.
    pub(super) fn is_ready(&self) -> bool {
        !self.duplicate && (!self.tentative || self.optimistic)
    }
}

/// An IPv6 default route of the main table through a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DefaultRoute {
    pub(super) index: u32,
    pub(super) gateway: Ipv6Addr,
    /// The kernel has it from a router advertisement.
    pub(super) advertised: bool,
    pub(super) metric: u32,
}

impl DefaultRoute {
    /// Reads the payload of an RTM_NEWROUTE or RTM_DELROUTE message. None if it is another route.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let (header, rest) = payload.split_at_checked(ROUTE_HEADER)?;
        let [family, destination, source, _, table, protocol, _, kind, ..] = *header else { return None };
        let ours = i32::from(family) == libc::AF_INET6 && table == libc::RT_TABLE_MAIN;
        if !ours || destination != 0 || source != 0 || kind != libc::RTN_UNICAST {
            return None;
        }
        let (mut index, mut gateway, mut metric) = (None, None, 0);
        for (kind, value) in attributes(rest) {
            match kind {
                libc::RTA_OIF => index = number(value),
                libc::RTA_GATEWAY => gateway = ipv6(value),
                libc::RTA_PRIORITY => metric = number(value).unwrap_or(0),
                _ => {}
            }
        }
        Some(Self { index: index?, gateway: gateway?, advertised: protocol == RTPROT_RA, metric })
    }
}

/// Kinds, without their flags, and values, until one is longer than what is there.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[a, b, c, d], _) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(NLA_HEADER_SIZE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    })
}

fn ipv6(value: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(value).ok().map(Ipv6Addr::from)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}
