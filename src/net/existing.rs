//! A network that somebody else has brought up already: another init, or the kernel itself.

use std::fs;
use std::net::IpAddr;

use log::{info, warn};

use super::files::read_lease;
use super::lease::Lease;
use super::uplink::Uplink;
use crate::config::network::Given;
use crate::paths::Paths;

/// `RTF_UP` and `RTF_REJECT` of linux/route.h.
const ROUTE_UP: u32 = 1;
const ROUTE_REJECT: u32 = 0x200;

/// What a command may take, in seconds: a lease that ends before is worth a warning.
const SHORT: u64 = 600;

/// Who wants the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// PID 1, for one of its attempts: whatever network there is belongs to one that failed.
    Init,
    /// A command, in a system that somebody else has set up: its network is trusted.
    Command,
}

/// The network as it is, if it is to be used so: with `ip=off`, and where there is a route. PID 1 takes
/// a route for that only before it has set anything: afterwards the route is its own.
pub(super) fn existing(paths: &Paths, caller: Caller, given: &Given) -> Option<Uplink> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (ipv4, ipv6) = (read(paths.routes()), read(paths.routes6()));
    let routed = routed_interface(&ipv4).or_else(|| routed_interface6(&ipv6));
    let distrusted = caller == Caller::Init && paths.links().exists();
    let (dns, search) = told(&read(paths.pnp()));
    let uplink = |interface: &str| Uplink {
        interface: interface.to_owned(),
        // Whoever runs a command has its resolver set up.
        dns: if caller == Caller::Init { dns.clone() } else { Vec::new() },
        search: if caller == Caller::Init { search.clone() } else { Vec::new() },
        complete: true,
        bound: false,
        ..Uplink::default()
    };
    match routed {
        Some(interface) if !distrusted => {
            info!("{interface} has a route; the network is used as it is");
            // What `phaseboot net up` has asked for there names providers, too.
            let mut found = uplink(interface);
            if caller == Caller::Command
                && let Some(told) = read_lease(paths, interface)
            {
                if let Some(left) = told.ipv4.as_ref().and_then(|lease| left(paths, lease)) {
                    warn!(
                        "{interface}: its lease ends in {left} s, and nobody renews it but `phaseboot net up`"
                    );
                }
                (found.ipv4, found.ipv6, found.search) = (told.ipv4, told.ipv6, told.search);
            }
            Some(found)
        }
        other => given.leaves_all().then(|| {
            info!("the network is left as it is: ip=off");
            uplink(other.unwrap_or_default())
        }),
    }
}

/// The seconds until a lease of before ends, and the kernel takes its address away, if they are few. One that is over
/// while its route is there is in the hands of somebody else.
fn left(paths: &Paths, lease: &Lease) -> Option<u64> {
    let age = fs::metadata(paths.lease()).ok()?.modified().ok()?.elapsed().ok()?;
    let left = u64::from(lease.lease_seconds?).saturating_sub(age.as_secs());
    (1..SHORT).contains(&left).then_some(left)
}

/// Whether there is a network that a command uses as it is, whatever the command line gives.
pub fn is_routed(paths: &Paths) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    routed_interface(&read(paths.routes())).is_some() || routed_interface6(&read(paths.routes6())).is_some()
}

/// Servers for names, and domains, of /proc/net/pnp.
fn told(pnp: &str) -> (Vec<IpAddr>, Vec<String>) {
    let values =
        |key: &'static str| pnp.lines().filter_map(move |line| line.strip_prefix(key)).map(str::trim);
    let servers = values("nameserver ").filter_map(|server| server.parse().ok());
    let servers = servers.filter(|server: &IpAddr| !server.is_unspecified()).collect();
    (servers, values("domain ").map(str::to_owned).collect())
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

/// The first interface but loopback with a default route in /proc/net/ipv6_route.
fn routed_interface6(routes: &str) -> Option<&str> {
    routes.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, prefix, .., flags, interface] = fields.as_slice() else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let default = *prefix == "00" && destination.bytes().all(|digit| digit == b'0');
        (default && *interface != "lo" && flags & (ROUTE_UP | ROUTE_REJECT) == ROUTE_UP).then_some(*interface)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::files::write_lease;
    use crate::net::lease::Origin;
    use std::time::{Duration, SystemTime};

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

    #[test]
    fn what_the_kernel_learnt_is_used() {
        let (dns, search) = told(
            "#PROTO: DHCP\ndomain example.org\nnameserver 10.0.2.3\nnameserver 0.0.0.0\nbootserver 10.0.2.2\n",
        );
        assert_eq!(
            (dns.len(), dns[0].to_string(), search),
            (1, "10.0.2.3".into(), vec!["example.org".to_owned()])
        );
    }

    #[test]
    fn a_lease_that_nobody_renews_is_told_of_when_it_is_short() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let mut lease = Lease::bare("eth1", [2; 6], Origin::Dhcp, [10, 0, 2, 15].into(), 24);
        lease.lease_seconds = Some(120);
        assert_eq!(left(&paths, &lease), None, "nobody knows since when");
        write_lease(&paths, &Uplink::default());
        for (seconds, age, expected) in [
            (Some(120), 20, 90..=100),
            (Some(3600), 3500, 90..=100),
            (Some(3600), 20, 0..=0),
            (Some(120), 500, 0..=0),
            (None, 20, 0..=0),
        ] {
            lease.lease_seconds = seconds;
            let written = SystemTime::now() - Duration::from_secs(age);
            fs::File::options().write(true).open(paths.lease()).unwrap().set_modified(written).unwrap();
            let told = left(&paths, &lease).unwrap_or_default();
            assert!(expected.contains(&told), "{seconds:?} {age}: {told}");
        }
    }

    #[test]
    fn ipv6_default_routes_count_and_others_do_not() {
        let zero = "00000000000000000000000000000000";
        let with = |destination: &str, prefix: &str, flags: &str, interface: &str| {
            let line = format!(
                "{destination} {prefix} {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 {flags} {interface:>8}\n"
            );
            routed_interface6(&line).map(str::to_owned)
        };
        assert_eq!(with(zero, "00", "00450003", "eth0").as_deref(), Some("eth0"));
        assert_eq!(with(zero, "00", "00200200", "lo"), None);
        assert_eq!(with(zero, "00", "00200201", "eth0"), None);
        assert_eq!(with("fe800000000000000000000000000000", "40", "00000001", "eth0"), None);
        assert_eq!(routed_interface6("nonsense\n"), None);
    }

    #[test]
    fn what_pid_1_has_set_itself_is_not_taken_for_a_network() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let given = Given::default();
        assert_eq!(existing(&paths, Caller::Command, &given), None);
        assert!(!is_routed(&paths));
        fs::create_dir_all(folder.path().join("proc/net")).unwrap();
        fs::write(paths.routes(), format!("{HEADER}eth1\t00000000\t0202000A\t0003\t0\t0\t0\t0\t0\t0\t0\n"))
            .unwrap();
        for caller in [Caller::Command, Caller::Init] {
            let found = existing(&paths, caller, &given).unwrap();
            assert_eq!((found.interface.as_str(), found.complete, found.bound), ("eth1", true, false));
        }
        let mut lease = Lease::bare("eth1", [2; 6], Origin::Dhcp, [10, 0, 2, 15].into(), 24);
        lease.boot_file = Some("http://10.0.2.2/".to_owned());
        let search = vec!["lab.example".to_owned()];
        let ours = Uplink {
            interface: "eth1".to_owned(),
            ipv4: Some(lease.clone()),
            dns: vec!["10.0.2.3".parse().unwrap()],
            search: search.clone(),
            ..Uplink::default()
        };
        write_lease(&paths, &ours);
        let found = existing(&paths, Caller::Command, &given).unwrap();
        assert_eq!((found.ipv4, found.search, found.dns), (Some(lease), search, Vec::new()));
        fs::write(paths.pnp(), "domain pnp.example\nnameserver 10.0.2.4\n").unwrap();
        let found = existing(&paths, Caller::Init, &given).unwrap();
        assert_eq!((found.ipv4, found.search, found.dns.len()), (None, vec!["pnp.example".to_owned()], 1));
        write_lease(&paths, &Uplink { interface: "eth0".to_owned(), ..ours });
        assert_eq!(existing(&paths, Caller::Command, &given).unwrap().ipv4, None);
        fs::write(paths.links(), "{}").unwrap();
        assert!(existing(&paths, Caller::Command, &given).is_some() && is_routed(&paths));
        assert_eq!(existing(&paths, Caller::Init, &given), None);
    }
}
