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

/// Who has set an address: linux/if_addr.h.
const IFA_PROTO: u16 = 11;
const IFAPROT_KERNEL_RA: u8 = 2;

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
    /// The kernel has formed it of a router advertisement. Only kernels from 5.18 on say so.
    pub(super) advertised: bool,
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
        let (mut address, mut own, mut advertised) = (None, None, false);
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFA_ADDRESS => address = ipv6(value),
                // Of a point-to-point link; IFA_ADDRESS is the other end there.
                libc::IFA_LOCAL => own = ipv6(value),
                libc::IFA_FLAGS => flags = number(value).unwrap_or(flags),
                IFA_PROTO => advertised = *value == [IFAPROT_KERNEL_RA],
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
            advertised,
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    // Messages of Linux about a veth device whose peer runs radvd.

    /// RTM_NEWADDR of the link-local address.
    const LINK_LOCAL: &str = "\
        0a4080fd0200000014000100fe80000000000000b8b384fffe9da50c14000600ffffffffffffffff594a2500\
        594a2500080008008000000005000b0003000000\
        ";
    /// The same of one that was formed from an advertisement: DAD is over.
    const GLOBAL: &str = "\
        0a400000020000001400010020010db800070000b8b384fffe9da50c140006003f3800007f510100194b2500\
        194b2500080008000001000005000b0002000000\
        ";
    /// RTM_NEWROUTE of the default route.
    const DEFAULT: &str = "\
        0a000000fe0900010000000008000f00fe000000080006000004000014000500fe80000000000000e8aa95ff\
        fe89c56f080004000200000024000c000000000000000000b004000000000000000000000000000000000000\
        000000000500140000000000\
        ";
    /// The route of the prefix.
    const PREFIX: &str = "\
        0a400000fe0200010000000008000f00fe0000001400010020010db800070000000000000000000008000600\
        00010000080004000200000024000c00000000000000000000d6830000000000000000000000000000000000\
        000000000500140000000000\
        ";

    /// What hexadecimal digits stand for.
    pub(in crate::net) fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().collect();
        let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    pub(in crate::net) fn global() -> LinkAddress {
        LinkAddress::parse(&bytes(GLOBAL)).unwrap()
    }

    pub(in crate::net) fn default_route() -> DefaultRoute {
        DefaultRoute::parse(&bytes(DEFAULT)).unwrap()
    }

    #[test]
    fn addresses_of_a_link() {
        let address = LinkAddress::parse(&bytes(LINK_LOCAL)).unwrap();
        assert_eq!(address.address, "fe80::b8b3:84ff:fe9d:a50c".parse::<Ipv6Addr>().unwrap());
        assert!(!address.global && address.permanent && address.is_ready());
        let address = global();
        assert_eq!(address.address, "2001:db8:7:0:b8b3:84ff:fe9d:a50c".parse::<Ipv6Addr>().unwrap());
        assert_eq!((address.index, address.prefix), (2, 64));
        assert!(address.global && !address.permanent && address.is_ready());
    }

    #[test]
    fn flags_of_an_address() {
        // The low byte of the header, then IFA_FLAGS at its end, which counts.
        let with = |flags: u32| {
            let mut message = bytes(GLOBAL);
            message.truncate(28);
            message.extend([8, 0, 8, 0]);
            message.extend(flags.to_ne_bytes());
            LinkAddress::parse(&message).unwrap()
        };
        assert!(with(0x40).tentative && !with(0x40).is_ready());
        assert!(with(0x44).optimistic && with(0x44).is_ready());
        assert!(with(0x48).duplicate && !with(0x48).is_ready() && !with(0x0c).is_ready());
        assert!(with(0x21).deprecated && with(0x21).temporary && with(0x21).is_ready());
        let mut old = bytes(GLOBAL);
        old.truncate(28);
        old[2] = 0x40;
        assert!(LinkAddress::parse(&old).unwrap().tentative, "without IFA_FLAGS the header counts");
    }

    #[test]
    fn the_own_end_of_a_pair() {
        let peer = [2, 1].map(|end| [[20, 0, end, 0].as_slice(), &[0x20, end], &[0; 14]].concat()).concat();
        let message = [[10, 128, 0, 0, 2, 0, 0, 0].as_slice(), &peer].concat();
        let address = LinkAddress::parse(&message).unwrap().address;
        assert_eq!(address.octets()[1], 2, "IFA_LOCAL, not the other end");
    }

    #[test]
    fn default_routes_and_others() {
        let gateway = "fe80::e8aa:95ff:fe89:c56f".parse().unwrap();
        let expected = DefaultRoute { index: 2, gateway, advertised: true, metric: 1024 };
        assert_eq!(default_route(), expected);
        assert_eq!(DefaultRoute::parse(&bytes(PREFIX)), None);
        for (at, to) in [(0, 2), (1, 64), (2, 64), (4, 255), (7, 7)] {
            let mut other = bytes(DEFAULT);
            other[at] = to;
            assert_eq!(DefaultRoute::parse(&other), None, "byte {at}");
        }
        let mut ours = bytes(DEFAULT);
        ours[5] = 3;
        assert!(!DefaultRoute::parse(&ours).unwrap().advertised);
    }

    proptest! {
        #[test]
        fn no_change_panics(at in 0..200usize, to: u8, cut in 0..200usize) {
            for text in [LINK_LOCAL, GLOBAL, DEFAULT, PREFIX] {
                let mut bytes = bytes(text);
                let length = bytes.len();
                bytes[at % length] = to;
                bytes.truncate(length - cut % length);
                let _ = (LinkAddress::parse(&bytes), DefaultRoute::parse(&bytes));
            }
        }

        #[test]
        fn attributes_end(list in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(attributes(&list).count() <= 25);
        }
    }
}
