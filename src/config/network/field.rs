//! The fields of a parameter: addresses, prefix lengths, names of links, numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A part of a parameter that cannot be followed.
#[derive(Debug)]
pub(super) struct Fault {
    pub part: String,
    pub wrong: &'static str,
    pub expected: &'static str,
}

pub(super) fn fault(part: &str, wrong: &'static str, expected: &'static str) -> Fault {
    Fault { part: part.to_owned(), wrong, expected }
}

/// How many of a thing can be given.
pub(super) const MOST: usize = 16;

/// Puts `item` into `list`, unless it is there; at most [`MOST`] are taken.
pub(super) fn add<T: PartialEq>(list: &mut Vec<T>, item: T, part: &str) -> Result<(), Fault> {
    if !list.contains(&item) {
        if list.len() >= MOST {
            return Err(fault(part, "one too many", "at most 16"));
        }
        list.push(item);
    }
    Ok(())
}

/// What stands between colons, those within brackets apart.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(move |c| {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        c == ':' && !inside
    })
    .collect()
}

/// An address; an IPv6 address may be in brackets.
pub(super) fn address(text: &str) -> Result<IpAddr, Fault> {
    let found = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    found.ok_or_else(|| fault(text, "no IP address", "an IPv4 address, or an IPv6 address in brackets"))
}

/// An address that one machine can have.
pub(super) fn host(text: &str) -> Result<IpAddr, Fault> {
    let address = address(text)?;
    if is_host(address) {
        Ok(address)
    } else {
        Err(fault(text, "no address of a machine", "a unicast address"))
    }
}

pub(super) fn is_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}

/// Whether a machine of a network with this prefix can have it; the first and the last of an IPv4
/// network are nobody's, unless it has two: RFC 3021.
pub(super) fn is_host_in(address: IpAddr, prefix: u8) -> bool {
    match address {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let own = address.to_bits() & rest;
            prefix >= 31 || (own != 0 && own != rest)
        }
        IpAddr::V6(_) => true,
    }
}

/// [`host`], if there is one: the kernel takes 0.0.0.0 for none.
pub(super) fn optional(text: &str) -> Result<Option<IpAddr>, Fault> {
    if matches!(text, "" | "0.0.0.0") { Ok(None) } else { host(text).map(Some) }
}

/// `ADDRESS/PREFIX`, `[ADDRESS]/PREFIX` or `[ADDRESS/PREFIX]`, and the prefix may be missing.
pub(super) fn network(text: &str) -> Result<(IpAddr, Option<u8>), Fault> {
    let bracketed = text.starts_with('[');
    let whole = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let (before, after) = match whole.split_once('/') {
        Some((before, after)) => (before, Some(after)),
        None => (whole, None),
    };
    let before = before.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(before);
    let found = address(before).map_err(|wrong| fault(text, wrong.wrong, wrong.expected))?;
    if found.is_ipv6() != bracketed {
        return Err(fault(text, "no IP address", "an IPv4 address, or an IPv6 address in brackets"));
    }
    Ok((found, after.map(|after| prefix(after, found)).transpose()?))
}

/// A prefix length for `address`, for IPv4 also as a mask.
pub(super) fn prefix(text: &str, address: IpAddr) -> Result<u8, Fault> {
    let (most, mask) = match address {
        IpAddr::V4(_) => (32, text.parse().ok().map(Ipv4Addr::to_bits)),
        IpAddr::V6(_) => (128, None),
    };
    match mask {
        Some(mask) if mask.leading_ones() + mask.trailing_zeros() >= 32 => {
            Ok(u8::try_from(mask.leading_ones()).unwrap_or(32))
        }
        Some(_) => Err(fault(text, "no netmask", "ones, then zeros, as in 255.255.255.0")),
        None => number(text, 0..=most)
            .ok_or_else(|| fault(text, "no prefix length", "0 to 32 or a mask for IPv4, 0 to 128 for IPv6")),
    }
}

/// `address` with the bits behind the prefix cleared.
pub(super) fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// A decimal number within bounds; digits and nothing else.
pub(super) fn number<T: FromStr + PartialOrd>(text: &str, bounds: std::ops::RangeInclusive<T>) -> Option<T> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| bounds.contains(number))
}

/// 68 bytes is the least that IPv4 can do with: RFC 791, section 3.2.
pub(super) fn mtu(text: &str) -> Result<Option<u16>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let found = number(text, 68..=u16::MAX);
    found.map(Some).ok_or_else(|| fault(text, "no MTU", "68 to 65535 bytes"))
}

/// The hardware address of one Ethernet link, its bytes between dashes or colons.
pub(super) fn mac(text: &str) -> Result<[u8; 6], Fault> {
    unicast(text.split(['-', ':']))
        .ok_or_else(|| fault(text, "no hardware address", "one as 52-54-00-12-34-56 or 52:54:00:12:34:56"))
}

/// The same, its bytes with nothing between them.
pub(super) fn plain_mac(text: &str) -> Option<[u8; 6]> {
    if !text.is_ascii() {
        return None;
    }
    unicast((0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or_default()))
}

fn unicast<'a>(mut bytes: impl Iterator<Item = &'a str>) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    for byte in &mut mac {
        let text = bytes.next()?;
        let is_byte = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(text, 16).ok().filter(|_| is_byte)?;
    }
    let is_group = mac.first().is_some_and(|first| first & 1 == 1);
    (bytes.next().is_none() && !is_group && mac != [0; 6]).then_some(mac)
}

/// What settings of every link go by (Documentation/networking/ip-sysctl.rst), and loopback.
const NO_LINKS: [&str; 3] = ["all", "default", "lo"];

/// A name that a link can have: dev_valid_name() of net/core/dev.c, and no template.
pub(super) fn interface(text: &str) -> Result<String, Fault> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%' | b'[' | b']' | b',');
    if !(1..=15).contains(&text.len()) || matches!(text, "." | "..") || !text.bytes().all(fits) {
        return Err(fault(text, "no name of a link", "1 to 15 letters, digits and marks, as in eth0"));
    }
    if NO_LINKS.contains(&text) {
        return Err(fault(text, "no name of an Ethernet link", "another name, as in eth0"));
    }
    Ok(text.to_owned())
}

/// As dracut reads booleans; one without a value is true.
pub(super) fn boolean(value: Option<&str>) -> Result<bool, Fault> {
    match value {
        None | Some("1" | "yes" | "on" | "true") => Ok(true),
        Some("0" | "no" | "off" | "false") => Ok(false),
        Some(text) => Err(fault(text, "neither true nor false", "0 or 1")),
    }
}
