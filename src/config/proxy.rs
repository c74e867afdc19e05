//! `phase.proxy=`

use std::net::Ipv6Addr;

/// `http://HOST`, `http://HOST:PORT` or the same with a slash behind it; also with `USER:PASSWORD@`.
pub(super) fn is_proxy(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest))
    else {
        return false;
    };
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.rsplit_once(':') {
        // The colons of an IPv6 address are within brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|inside| inside.parse::<Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    let is_port = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    is_host
        && is_port
        && authority.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_host_and_no_path() {
        for url in [
            "http://a",
            "http://a/",
            "http://a:1",
            "http://u:p@a:3128",
            "http://192.0.2.1:80/",
            "http://[2001:db8::1]:8080",
            "http://[::1]",
        ] {
            assert!(is_proxy(url), "{url}");
        }
        for url in [
            "",
            "http://",
            "http:///",
            "http://:80",
            "https://a",
            "socks5://a",
            "a:3128",
            "http://a/path",
            "http://a//",
            "http://a?b",
            "http://a#b",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:x",
            "http://[2001:db8::1",
            "http://[a]",
            "http://a/@b",
            "http://2001:db8::1",
            "http://a b",
        ] {
            assert!(!is_proxy(url), "{url}");
        }
    }
}
