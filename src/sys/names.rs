//! getaddrinfo(3), one address family at a time if need be: `std` always asks for both, and a server that
//! refuses to speak of one of them spoils the other.

use std::ffi::{CStr, CString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Any,
    V4,
    V6,
}

/// Why there is no address.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Servers did not answer, or not to all that was asked: EAI_AGAIN.
    pub is_passing: bool,
    /// As libc says it.
    pub reason: String,
}

/// The addresses of `name`, by libc's resolver, in its order. It takes as long as that does.
pub fn addresses(name: &str, family: Family) -> Result<Vec<IpAddr>, Failure> {
    let Ok(name) = CString::new(name) else {
        return Err(Failure { is_passing: false, reason: "a name has no zero byte".to_owned() });
    };
    // SAFETY: an addrinfo of zeros is one: no flags, any protocol, no pointers.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_socktype = libc::SOCK_STREAM;
    hints.ai_family = match family {
        Family::Any => libc::AF_UNSPEC,
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let mut list = ptr::null_mut();
    // SAFETY: the name ends in a zero byte, the hints are whole, and both outlive the call.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        // SAFETY: gai_strerror(3) returns a constant string, for codes that it does not know, too.
        let reason = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
        let reason = reason.to_string_lossy().into_owned();
        return Err(Failure { is_passing: code == libc::EAI_AGAIN, reason });
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: getaddrinfo has made the list, and nobody has freed it yet.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: as above.
        found.extend(unsafe { address(entry) });
        next = entry.ai_next;
    }
    // SAFETY: the list came from getaddrinfo, and nothing refers to it any more.
    unsafe { libc::freeaddrinfo(list) };
    Ok(found)
}

/// The address of an entry; None for another family.
///
/// # Safety
/// The entry is of a list that getaddrinfo has made.
unsafe fn address(entry: &libc::addrinfo) -> Option<IpAddr> {
    if entry.ai_addr.is_null() {
        return None;
    }
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: with AF_INET getaddrinfo has put a sockaddr_in there.
            let socket = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(socket.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: with AF_INET6 getaddrinfo has put a sockaddr_in6 there.
            let socket = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(socket.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_by_family() {
        let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(addresses("127.0.0.1", Family::Any), Ok(vec![v4]));
        assert_eq!(addresses("127.0.0.1", Family::V4), Ok(vec![v4]));
        assert_eq!(addresses("::1", Family::V6), Ok(vec![v6]));
        assert!(addresses("localhost", Family::V4).unwrap().contains(&v4));
        assert!(!addresses("127.0.0.1", Family::V6).unwrap_err().is_passing);
    }

    #[test]
    fn what_is_no_name_has_no_address() {
        assert!(!addresses("a\0b", Family::Any).unwrap_err().reason.is_empty());
        assert!(!addresses("", Family::Any).unwrap_err().reason.is_empty());
    }
}
