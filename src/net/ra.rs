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
const IF_RA_RCVD: u32 = 0x20;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address::tests::bytes;
    use proptest::prelude::*;

    // Messages of Linux about a veth device whose peer runs radvd, statistics cut out.

    /// RTM_NEWLINK of AF_INET6, before the first advertisement.
    const SILENT: &str = "\
        0a00010002000000431001000000000007000300683000000a000100bab3849da50c000008000400dc050000\
        050010000600000020000c00080001000000008014000500ffff0000594a25005c490000e8030000\
        ";
    /// The same, after one with the flags M and O.
    const ADVERTISED: &str = "\
        0a00010002000000431001000000000007000300683000000a000100bab3849da50c000008000400dc050000\
        050010000600000020000c0008000100f000008014000500ffff0000594a25005c490000e8030000\
        ";
    /// The same device in a list of AF_UNSPEC, its name and IFLA_AF_SPEC only.
    const LISTED: &str = "\
        000001000200000043100100000000000700030068300000b0001a008c000200880001000000000000000000\
        0000000001000000010000000100000001000000000000000100000000000000000000000000000000000000\
        0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
        000000000000000010270000e8030000000000000000000000000000000000000100000020000a0008000100\
        f000008014000500ffff0000594a25005c490000e8030000\
        ";
    /// RTM_NEWNDUSEROPT with the prefix 2001:db8:7::/64.
    const PREFIX: &str = "\
        0a002000020000008600000000000000030440c000015180000038400000000020010db80007000000000000\
        0000000014000100fe80000000000000e8aa95fffe89c56f\
        ";
    /// RDNSS 2001:db8:7::53 and fd00::53, 600 s.
    const SERVERS: &str = "\
        0a002800020000008600000000000000190500000000025820010db8000700000000000000000053fd000000\
        00000000000000000000005314000100fe80000000000000e8aa95fffe89c56f\
        ";
    /// DNSSL lab.example and phase.test, 700 s.
    const DOMAINS: &str = "\
        0a0028000200000086000000000000001f050000000002bc036c6162076578616d706c650005706861736504\
        74657374000000000000000014000100fe80000000000000e8aa95fffe89c56f\
        ";

    const ROUTER: &str = "fe80::e8aa:95ff:fe89:c56f";

    #[test]
    fn flags_of_routers() {
        assert_eq!(RouterFlags::parse(&bytes(SILENT)), Some((2, RouterFlags::default())));
        let all = RouterFlags { received: true, managed: true, other: true };
        assert_eq!(RouterFlags::parse(&bytes(ADVERTISED)), Some((2, all)));
        assert_eq!(RouterFlags::parse(&bytes(LISTED)), Some((2, all)));
        let flag = |byte: u8| {
            let mut one = bytes(ADVERTISED);
            let place = one.windows(4).position(|flags| flags == [0xf0, 0, 0, 0x80]).unwrap();
            one[place] = byte;
            let (_, flags) = RouterFlags::parse(&one).unwrap();
            [flags.received, flags.managed, flags.other]
        };
        assert_eq!(
            [0x10, 0x20, 0x40, 0x80].map(flag),
            [[false; 3], [true, false, false], [false, true, false], [false, false, true]]
        );
        let mut bridge = bytes(ADVERTISED);
        bridge[0] = 7;
        assert_eq!(RouterFlags::parse(&bridge), None, "a bridge port");
    }

    #[test]
    fn a_managed_link_is_one_for_addresses() {
        let flags = |managed, other| RouterFlags { received: true, managed, other };
        assert_eq!(flags(true, true).need(), Some(Need::Stateful));
        assert_eq!(flags(true, false).need(), Some(Need::Stateful));
        assert_eq!(flags(false, true).need(), Some(Need::Stateless));
        assert_eq!(flags(false, false).need(), None);
    }

    #[test]
    fn names_of_routers() {
        let names = RouterNames::parse(&bytes(SERVERS)).unwrap();
        assert_eq!((names.index, names.router), (2, Some(ROUTER.parse().unwrap())));
        let servers = ["2001:db8:7::53", "fd00::53"].map(|text| (text.parse().unwrap(), 600));
        assert_eq!((&*names.dns, names.search.len()), (&servers[..], 0));
        let names = RouterNames::parse(&bytes(DOMAINS)).unwrap();
        assert_eq!(names.search, [("lab.example".to_owned(), 700), ("phase.test".to_owned(), 700)]);
        let names = RouterNames::parse(&bytes(PREFIX)).unwrap();
        assert!(names.dns.is_empty() && names.search.is_empty());
    }

    #[test]
    fn options_that_are_none_end_the_list_and_only_advertisements_count() {
        let servers = bytes(SERVERS);
        let changed = |at: usize, to: u8| {
            let mut bytes = servers.clone();
            bytes[at] = to;
            RouterNames::parse(&bytes)
        };
        assert_eq!(changed(0, 2), None, "AF_INET");
        assert_eq!(changed(8, 137), None, "a redirect");
        assert_eq!(changed(2, 255), None, "options longer than the message");
        assert_eq!(changed(17, 0).unwrap().dns, [], "an option of no length");
        assert_eq!(changed(17, 6).unwrap().dns, [], "one longer than the options");
        assert_eq!(changed(24, 0xff).unwrap().dns.len(), 1, "a multicast server");
        assert_eq!(changed(17, 4).unwrap().dns.len(), 1, "half an address behind the first");
    }

    proptest! {
        #[test]
        fn no_change_panics(at in 0..200usize, to: u8, cut in 0..200usize) {
            for text in [SILENT, ADVERTISED, LISTED, PREFIX, SERVERS, DOMAINS] {
                let mut bytes = bytes(text);
                let length = bytes.len();
                bytes[at % length] = to;
                bytes.truncate(length - cut % length);
                let _ = RouterFlags::parse(&bytes);
                if let Some(names) = RouterNames::parse(&bytes) {
                    prop_assert!(names.dns.len() <= 16 && names.search.len() <= 32);
                }
            }
        }
    }
}
