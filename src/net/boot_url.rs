//! URLs from outside, before they are believed to lead to a provider: servers are preferred by it, and what
//! they name is taken or passed over. Pure.

use std::net::IpAddr;

use super::Uplink;
use crate::provider::url;

/// In bytes.
const MOST: usize = 2048;
/// What firmware and boot loaders load. None of it is a manifest, or a folder of them.
const OTHER_FILES: [&str; 14] =
    ["0", "bin", "cfg", "efi", "gz", "img", "ipxe", "iso", "kkpxe", "kpxe", "lkrn", "pxe", "vhd", "wim"];

/// Whether an offer that names it is worth more than one that does not.
pub(super) fn is_usable(text: &str, https_only: bool) -> bool {
    judge(text, &|_| false).is_ok() && (!https_only || url::is_https(text))
}

/// Whether it is an http(s) URL of a length and characters that such a URL has, without credentials,
/// that leads to another machine and to no file for somebody else. The error is a reason for people.
pub(crate) fn check(text: &str, uplink: &Uplink) -> Result<(), &'static str> {
    let own = uplink.ipv6.iter().flat_map(|ipv6| &ipv6.addresses).map(|own| IpAddr::from(own.address));
    let leased = uplink.ipv4.as_ref().map(|lease| IpAddr::from(lease.address));
    judge(text, &|address| leased == Some(address) || own.clone().any(|own| own == address))
}

fn judge(text: &str, is_own: &dyn Fn(IpAddr) -> bool) -> Result<(), &'static str> {
    let odd = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'"' | b'<' | b'>' | b'\\');
    if text.len() > MOST || !url::is_http(text) || text.bytes().any(odd) {
        return Err("is no http or https URL");
    }
    let authority = text.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    let authority = authority.unwrap_or_default();
    if authority.contains('@') {
        return Err("holds credentials");
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority).trim_end_matches('.'),
    };
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) if address.is_loopback() || address.is_unspecified() || is_own(address) => {
            return Err("is this machine itself");
        }
        Err(_) if host.eq_ignore_ascii_case("localhost") => return Err("is this machine itself"),
        // getaddrinfo(3) takes 127.1, 0x7f000001 and 2130706433 for addresses.
        Err(_) if host.rsplit('.').next().is_some_and(is_number) => return Err("has an odd address"),
        _ => {}
    }
    if is_for_others(text) { Err("is a file for a boot loader") } else { Ok(()) }
}

fn is_number(label: &str) -> bool {
    let is_hexadecimal = label.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    is_hexadecimal || label.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_for_others(text: &str) -> bool {
    ending(text).is_some_and(|ending| OTHER_FILES.iter().any(|other| ending.eq_ignore_ascii_case(other)))
}

/// What follows the last dot of a file's name.
fn ending(text: &str) -> Option<&str> {
    let path = text.split(['?', '#']).next().unwrap_or(text);
    let file = path.split_once("://")?.1.split_once('/')?.1.rsplit('/').next()?;
    let (stem, ending) = file.rsplit_once('.')?;
    // v1.0 is no pxelinux.0.
    let is_version = ending == "0" && stem.ends_with(|last: char| last.is_ascii_digit());
    (!is_version).then_some(ending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Address6, Ipv6, Origin6};
    use proptest::prelude::*;

    #[test]
    fn providers_and_what_is_none() {
        for text in [
            "http://10.0.2.2",
            "http://10.0.2.2:8080/boot/",
            "https://[2001:db8::1]/a/manifest.json?token=1",
            "http://host.img",
            "http://host/v1.0",
            "http://3host/",
        ] {
            assert_eq!(check(text, &Uplink::default()), Ok(()), "{text}");
        }
        let address = Address6 { address: "fd00::7".parse().unwrap(), prefix: 64, origin: Origin6::Slaac };
        let ipv6 = Ipv6 { addresses: vec![address], ..Ipv6::default() };
        let uplink = Uplink { ipv6: Some(ipv6), ..Uplink::default() };
        for text in [
            "",
            "http://user:secret@a/",
            "http://127.0.0.1:8080/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
            "http://LOCALHOST:80/",
            "http://127.1:631/",
            "http://2130706433/",
            "http://0x7f000001./",
            "http://127.0.0.0X1/",
            "http://:80/",
            "http://[fd00::7]:80/",
            "pxelinux.0",
            "tftp://10.0.2.2/a",
            "http://",
            "http:///x",
            "http://a/b c",
            "http://a/\u{7f}",
            "http://a/\u{e9}",
            "http://a/\n",
            "http://a/boot/BOOTX64.EFI",
            "http://a/undionly.kpxe?x=1",
            "https://a/pxelinux.0",
            &format!("http://a/{}", "x".repeat(MOST)),
        ] {
            assert!(check(text, &uplink).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(https?://)?[\\PC./]{0,30}") {
            let _ = check(&text, &Uplink::default());
        }
    }
}
