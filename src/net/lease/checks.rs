//! What is believed of a value that a server names.

use std::net::Ipv4Addr;

use super::Route;

/// Lists of servers are cut to this length.
const MOST_SERVERS: usize = 8;

/// Longer than any URL that a server of files has to have.
const MOST_TEXT: usize = 2048;

pub(super) fn hosts(list: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    list.iter().copied().filter(|&address| is_host(address)).take(MOST_SERVERS).collect()
}

/// A unicast address outside 0.0.0.0/8, 127.0.0.0/8 and what lies above 224.0.0.0.
pub(in crate::net) fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    (1..224).contains(&first) && first != 127
}

/// Not all zeros and not all ones behind the prefix; /31 (RFC 3021) and /32 have neither.
pub(super) fn is_host_in(address: Ipv4Addr, prefix: u8) -> bool {
    let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let host = u32::from(address) & host_bits;
    prefix >= 31 || (host != 0 && host != host_bits)
}

pub(super) fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..128, ..] => 8,
        [128..192, ..] => 16,
        [192..=255, ..] => 24,
    }
}

/// The length of a contiguous, not empty mask.
pub(super) fn mask_prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (ones > 0 && ones + bits.trailing_zeros() == 32).then(|| u8::try_from(ones).ok()).flatten()
}

/// A route that the kernel can be asked for. A gateway of 0.0.0.0 is the link itself: RFC 3442.
pub(super) fn route(destination: Ipv4Addr, prefix: u8, gateway: Ipv4Addr, own: Ipv4Addr) -> Option<Route> {
    let local = destination.is_loopback() || destination.is_multicast();
    if local || gateway == own || !(gateway.is_unspecified() || is_host(gateway)) {
        return None;
    }
    Some(Route { destination, prefix, gateway: (!gateway.is_unspecified()).then_some(gateway) })
}

/// A name that may stand in resolv.conf: letters, digits, hyphens, underscores and dots.
pub(in crate::net) fn domain(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let name = name.strip_suffix(b".").unwrap_or(name);
    let fits = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let valid = !name.is_empty() && name.len() <= 253 && name.iter().all(fits) && !name.starts_with(b".");
    valid.then(|| String::from_utf8_lossy(name).into_owned())
}

/// A printable text in ASCII, up to its first zero byte: a field of the header is filled up with these.
pub(super) fn text(value: &[u8]) -> Option<String> {
    let text = value.split(|&byte| byte == 0).next()?.trim_ascii();
    let printable = text.iter().all(|byte| (b' '..=b'~').contains(byte));
    (printable && !text.is_empty() && text.len() <= MOST_TEXT)
        .then(|| String::from_utf8_lossy(text).into_owned())
}
