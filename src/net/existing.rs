//! A network that somebody else's init has brought up already.

use std::fs;

use log::info;

use crate::net::{BUDGET, Error, Lease, up, up_elsewhere};
use crate::paths::Paths;
use crate::time::Deadline;

/// `RTF_UP` of linux/route.h.
const ROUTE_UP: u32 = 1;

/// Who wants the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// PID 1, for one of its attempts: whatever lease there is belongs to one that failed.
    Init,
    /// A command, in a system that somebody else has set up: its network is trusted.
    Command,
}

/// Brings the network up by `deadline`, unless this machine has an IPv4 route already. PID 1 takes a
/// route for that only before its first lease: afterwards the route is its own, and every attempt
/// asks for a lease again, over another link if there is one.
pub fn up_unless_routed(paths: &Paths, caller: Caller, deadline: Deadline) -> Result<Option<Lease>, Error> {
    let distrusted = caller == Caller::Init && paths.lease().exists();
    let routes = fs::read_to_string(paths.routes()).unwrap_or_default();
    let deadline = deadline.or_after(BUDGET);
    match (routed_interface(&routes), caller) {
        (Some(interface), _) if !distrusted => {
            info!("{interface} has a route; the network is used as it is");
            Ok(None)
        }
        (_, Caller::Init) => up_elsewhere(paths, deadline).map(Some),
        (_, Caller::Command) => up(paths, None, deadline).map(Some),
    }
}

/// The first interface but loopback with a route in /proc/net/route.
fn routed_interface(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let interface = fields.next()?;
        let flags = u32::from_str_radix(fields.nth(2)?, 16).ok()?;
        (interface != "lo" && flags & ROUTE_UP != 0).then_some(interface)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn routes_but_loopback_count() {
        let with = |line: &str| routed_interface(&format!("{HEADER}{line}")).map(str::to_owned);
        assert_eq!(with(""), None);
        assert_eq!(
            with("eth1\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n").as_deref(),
            Some("eth1")
        );
        assert_eq!(with("lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n"), None);
        assert_eq!(with("eth0\t00000000\t0202000A\t0200\t0\t0\t0\t00000000\t0\t0\t0\n"), None);
        assert_eq!(with("eth0 nonsense\n"), None);
        assert_eq!(routed_interface(""), None);
    }
}
