//! What DHCPv6 servers grant or tell, checked before it is believed: RFC 8415 (now RFC 9915).

use std::net::Ipv6Addr;

use super::lease::domain;

/// Lists are cut to these lengths.
pub(super) const MOST_ADDRESSES: usize = 8;
pub(super) const MOST_SERVERS: usize = 8;
pub(super) const MOST_DOMAINS: usize = 16;
pub(super) const MOST_PARAMS: usize = 16;

/// In bytes: what HTTP servers take (RFC 9110, section 4.1, wants 8000 of them; option 59 is in one packet).
const LONGEST_URL: usize = 2048;
const LONGEST_PARAM: usize = 255;

/// All ones is for ever: RFC 8415, section 7.7.
pub(super) const FOR_EVER: u32 = u32::MAX;

/// Addresses, or none if none was asked for, and all that came with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease6 {
    /// Each with its preferred and its valid lifetime in seconds, [`FOR_EVER`] among them. They are not
    /// on-link by themselves, their prefix is /128: RFC 5942, section 4.
    pub(super) addresses: Vec<(Ipv6Addr, u32, u32)>,
    /// Option 23; a link-local address is one on this link.
    pub(super) dns: Vec<Ipv6Addr>,
    /// Option 24.
    pub(super) search: Vec<String>,
    /// Option 56 (RFC 5908), then option 31.
    pub(super) ntp: Vec<Ipv6Addr>,
    /// Option 59: RFC 5970, section 3.1. Printable ASCII without spaces, of any scheme.
    pub(super) boot_url: Option<String>,
    /// Option 60.
    pub(super) boot_params: Vec<String>,
    /// Where the packet came from: the server or a relay.
    pub(super) server: Ipv6Addr,
    /// Seconds until it is to be renewed, or what was told is to be asked for again; [`FOR_EVER`]: never.
    pub(super) t1: u32,
    /// Seconds until any server may renew it.
    pub(super) t2: u32,
}

impl Lease6 {
    /// Seconds until the last address ends.
    pub(super) fn valid(&self) -> u32 {
        self.addresses.iter().map(|&(_, _, valid)| valid).max().unwrap_or(FOR_EVER)
    }
}

/// T1 and T2 for these addresses: as the server wants them, or where it leaves them open or names
/// what lies beyond a lifetime, as RFC 8415, section 21.4, recommends.
pub(super) fn times(t1: u32, t2: u32, addresses: &[(Ipv6Addr, u32, u32)]) -> (u32, u32) {
    let valid = addresses.iter().map(|&(_, _, valid)| valid).min().unwrap_or(FOR_EVER);
    let preferred = addresses.iter().map(|&(_, preferred, _)| preferred).filter(|&seconds| seconds > 0).min();
    let base = preferred.unwrap_or(valid);
    let fits = |seconds: u32| seconds > 0 && seconds <= valid;
    let t2 = if fits(t2) { t2 } else { part(base, 4, 5) };
    let t1 = if fits(t1) { t1 } else { part(base, 1, 2) };
    (if t1 > t2 { part(t2, 5, 8) } else { t1 }.max(1), t2.max(1))
}

fn part(seconds: u32, of: u32, whole: u32) -> u32 {
    let exact = u64::from(seconds) * u64::from(of) / u64::from(whole);
    if seconds == FOR_EVER { FOR_EVER } else { u32::try_from(exact).unwrap_or(FOR_EVER).max(1) }
}

/// Whether a host may have this address beyond its own link. All of ::/8 is reserved, IPv4 in
/// disguise and loopback lie there: RFC 4291, section 2.4.
pub(super) fn is_global(address: Ipv6Addr) -> bool {
    is_server(address) && !address.is_unicast_link_local()
}

/// Whether a server on this link or elsewhere can be reached by it.
pub(super) fn is_server(address: Ipv6Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_multicast()
}

/// Option 59: a URL without white space, which is what a URL is.
pub(super) fn boot_url(value: &[u8]) -> Option<String> {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    let valid = !value.is_empty() && value.len() <= LONGEST_URL && value.iter().all(u8::is_ascii_graphic);
    valid.then(|| String::from_utf8_lossy(value).into_owned())
}

/// One parameter of option 60: RFC 5970, section 3.2.
pub(super) fn boot_param(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let valid = !text.is_empty() && text.len() <= LONGEST_PARAM && !text.chars().any(char::is_control);
    valid.then(|| text.to_owned())
}

/// The names of a list in the encoding of RFC 1035, section 3.1, without compression (RFC 8415,
/// section 10), as options 24 and DNSSL have them. Zeros behind the last name pad it (RFC 8106,
/// section 5.2). What may not stand in resolv.conf is left out; a broken name ends the list.
pub(super) fn names(mut list: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut name = Vec::new();
    while let Some((&length, rest)) = list.split_first()
        && let Some((label, rest)) = rest.split_at_checked(usize::from(length))
        && length < 64
        && found.len() < MOST_DOMAINS
    {
        list = rest;
        if !label.is_empty() {
            // A dot within a label would make it two.
            name.extend(label.iter().map(|&c| if c == b'.' { 0 } else { c }));
            name.push(b'.');
        } else if !name.is_empty() {
            found.extend(domain(&name));
            name.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    #[test]
    fn only_what_a_host_may_have_is_an_address() {
        for good in ["2001:db8::1", "fd00::1", "2a00:1450:4001::200e", "fec0::1"] {
            assert!(is_global(good.parse().unwrap()), "{good}");
        }
        for bad in
            ["::", "::1", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::1", "ff02::1", "fe80::1", "febf::1"]
        {
            assert!(!is_global(bad.parse().unwrap()), "{bad}");
        }
        assert!(is_server("fe80::1".parse().unwrap()) && !is_server("ff02::fb".parse().unwrap()));
    }

    #[test]
    fn times_follow_the_server_or_the_lifetimes() {
        let lease = |preferred, valid| vec![(A, preferred, valid)];
        assert_eq!(times(1000, 1600, &lease(2000, 3000)), (1000, 1600));
        assert_eq!(times(0, 0, &lease(2000, 3000)), (1000, 1600));
        assert_eq!(times(0, 0, &lease(0, 3000)), (1500, 2400), "a deprecated address is kept alive too");
        assert_eq!(times(9000, 9500, &lease(2000, 3000)), (1000, 1600), "beyond the end of the lease");
        assert_eq!(times(2000, 0, &lease(2000, 3000)), (1000, 1600), "T1 behind T2");
        assert_eq!(times(0, 0, &lease(FOR_EVER, FOR_EVER)), (FOR_EVER, FOR_EVER));
        assert_eq!(times(FOR_EVER, FOR_EVER, &lease(60, 120)), (30, 48));
        assert_eq!(times(0, 0, &lease(9, 9)), (4, 7));
        assert_eq!(times(0, 0, &lease(1, 1)), (1, 1));
    }

    #[test]
    fn urls_and_parameters_are_printable_and_bounded() {
        assert_eq!(boot_url(b"http://[2001:db8::1]/x").as_deref(), Some("http://[2001:db8::1]/x"));
        assert_eq!(boot_url(b"http://a/\0").as_deref(), Some("http://a/"));
        for bad in [&b""[..], b"\0", b"http://a/ b", b"http://a/\n", b"http://\xc3\xa4/", &[b'a'; 2049]] {
            assert_eq!(boot_url(bad), None);
        }
        assert!(boot_url(&[b'a'; 2048]).is_some());
        assert_eq!(boot_param("root=/dev/ram0 ä".as_bytes()).as_deref(), Some("root=/dev/ram0 ä"));
        for bad in [&b""[..], b"a\nb", b"\x1b[2J", b"\xff", &[b'a'; 256]] {
            assert_eq!(boot_param(bad), None);
        }
    }

    #[test]
    fn names_are_checked_one_by_one() {
        let list = b"\x07example\x03org\0\x03lab\0\x04a b \x01c\0\x02ok\0";
        assert_eq!(names(list), ["example.org", "lab", "ok"]);
        assert_eq!(names(b"\x03a.b\0\x01c\0"), ["c"], "a dot in a label");
        assert_eq!(names(b"\x03lab\0\0\0\0\0"), ["lab"], "padded");
        assert_eq!(
            names(b"\x03lab\0\xc0\x00\x01c\0"),
            ["lab"],
            "compressed: RFC 8415, section 10 forbids it"
        );
        assert_eq!(names(b"\x03lab\0\x3fshort"), ["lab"]);
        assert_eq!(names(b"\x03lab"), Vec::<String>::new(), "never ended");
        assert_eq!(names(&b"\x01a\0".repeat(500)).len(), MOST_DOMAINS);
        let long = [b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(4);
        assert_eq!(names(&[long.as_slice(), b"\0"].concat()), Vec::<String>::new(), "256 characters");
    }
}
