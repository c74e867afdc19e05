//! A lease on its link: MTU, address and routes through rtnetlink(7), then the files that tell others.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressHeader, AddressScope};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteProtocol, RouteScope, RouteType};
use rustix::io::Errno;

use super::netlink::Netlink;
use super::{Error, set_link};
use crate::net::lease::{Lease, Route};
use crate::net::link::Link;
use crate::paths::Paths;

/// What resolv.conf(5) allows: MAXNS servers.
const MOST_NAMESERVERS: usize = 3;

/// Sets what the lease says. Setting it once more changes nothing. Only an address that cannot be
/// set is an error: with it alone, a server in the same network is reached.
pub(super) fn lease(requests: &mut Netlink, link: &Link, lease: &Lease) -> Result<(), Error> {
    if let Some(mtu) = lease.mtu
        && link.mtu != Some(u32::from(mtu))
    {
        let attribute = attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        if let Err(errno) = set_link(requests, link, LinkFlags::empty(), &[attribute]) {
            log::warn!("{}: cannot set MTU {mtu}: {errno}", lease.interface);
        }
    }
    address(requests, link, lease).map_err(|errno| Error::Kernel {
        what: format!("set address {}/{} on {}", lease.address, lease.prefix, lease.interface),
        errno,
    })?;
    for route in &lease.routes {
        if let Err(errno) = self::route(requests, link, lease, *route) {
            log::warn!("{}: cannot set route {}: {errno}", lease.interface, describe(route));
        }
    }
    log::info!("{}", summary(lease));
    Ok(())
}

fn address(requests: &mut Netlink, link: &Link, lease: &Lease) -> Result<(), Errno> {
    let header = AddressHeader {
        family: AddressFamily::Inet,
        prefix_len: lease.prefix,
        scope: AddressScope::Universe,
        index: link.index,
        ..AddressHeader::default()
    };
    let own = lease.address.octets();
    let mut attributes = vec![attribute(libc::IFA_LOCAL, &own), attribute(libc::IFA_ADDRESS, &own)];
    if lease.prefix < 31 {
        let broadcast = Ipv4Addr::from(u32::from(lease.address) | host_bits(lease.prefix));
        attributes.push(attribute(libc::IFA_BROADCAST, &broadcast.octets()));
    }
    requests.change(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
}

fn route(requests: &mut Netlink, link: &Link, lease: &Lease, route: Route) -> Result<(), Errno> {
    let mut header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Dhcp,
        kind: RouteType::Unicast,
        scope: RouteScope::Link,
        ..RouteHeader::default()
    };
    let mut attributes = vec![
        attribute(libc::RTA_OIF, &link.index.to_ne_bytes()),
        attribute(libc::RTA_PREFSRC, &lease.address.octets()),
    ];
    if route.prefix > 0 {
        attributes.push(attribute(libc::RTA_DST, &route.destination.octets()));
    }
    if let Some(gateway) = route.gateway {
        header.scope = RouteScope::Universe;
        // Clouds give /32 leases: the router is on the link all the same.
        let differing = u32::from(gateway) ^ u32::from(lease.address);
        if differing & !host_bits(lease.prefix) != 0 {
            header.flags = RouteFlags::Onlink;
        }
        attributes.push(attribute(libc::RTA_GATEWAY, &gateway.octets()));
    }
    requests.change(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes)
}

fn host_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

fn attribute(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

/// Writes `resolv.conf` (if the lease names a server) and `lease.json`. Failure is a warning: a
/// provider may be named by address, and nobody may read the lease.
pub(super) fn write_files(paths: &Paths, lease: &Lease) {
    if !lease.dns.is_empty()
        && let Err(error) = replace(&paths.resolv_conf(), resolv_conf(lease).as_bytes())
    {
        log::warn!("cannot write {}: {error}; names will not resolve", paths.resolv_conf().display());
    }
    let written = serde_json::to_vec_pretty(lease)
        .map_err(io::Error::from)
        .and_then(|json| replace(&paths.lease(), &json));
    if let Err(error) = written {
        log::warn!("cannot write {}: {error}", paths.lease().display());
    }
}

/// See resolv.conf(5).
fn resolv_conf(lease: &Lease) -> String {
    let mut text = String::new();
    let search = if lease.search.is_empty() { lease.domain.as_slice() } else { &lease.search };
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in lease.dns.iter().take(MOST_NAMESERVERS) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// Writes a file so that a reader sees the old or the new content, whole. Behind a symbolic link the
/// file that it leads to is replaced.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, &path)
}

/// `eth0: lease 10.0.2.15/24 from 10.0.2.2, gateway 10.0.2.2, dns 10.0.2.3, 86400 s`
fn summary(lease: &Lease) -> String {
    let mut line = format!("{}: lease {}/{}", lease.interface, lease.address, lease.prefix);
    if let Some(server) = lease.server {
        let _ = write!(line, " from {server}");
    }
    for route in &lease.routes {
        let _ = match route {
            Route { prefix: 0, gateway: Some(gateway), .. } => write!(line, ", gateway {gateway}"),
            other => write!(line, ", route {}", describe(other)),
        };
    }
    for server in &lease.dns {
        let _ = write!(line, ", dns {server}");
    }
    if let Some(mtu) = lease.mtu {
        let _ = write!(line, ", mtu {mtu}");
    }
    let _ = match lease.lease_seconds {
        Some(seconds) => write!(line, ", {seconds} s"),
        None => write!(line, ", without end"),
    };
    line
}

fn describe(route: &Route) -> String {
    let to = format!("{}/{}", route.destination, route.prefix);
    match route.gateway {
        Some(gateway) => format!("{to} via {gateway}"),
        None => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            interface: "eth0".into(),
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            server: Some(Ipv4Addr::new(10, 0, 2, 2)),
            routers: vec![Ipv4Addr::new(10, 0, 2, 2)],
            routes: vec![Route {
                destination: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            }],
            dns: (1..6).map(|n| Ipv4Addr::new(10, 0, 2, n)).collect(),
            domain: Some("example.org".into()),
            search: vec![],
            mtu: None,
            lease_seconds: Some(86_400),
        }
    }

    #[test]
    fn a_resolver_configuration_has_three_servers_at_most() {
        assert_eq!(
            resolv_conf(&lease()),
            "search example.org\nnameserver 10.0.2.1\nnameserver 10.0.2.2\nnameserver 10.0.2.3\n"
        );
    }

    #[test]
    fn a_summary_is_one_line() {
        let lease = Lease { dns: vec![Ipv4Addr::new(10, 0, 2, 3)], ..lease() };
        assert_eq!(
            summary(&lease),
            "eth0: lease 10.0.2.15/24 from 10.0.2.2, gateway 10.0.2.2, dns 10.0.2.3, 86400 s"
        );
    }

    #[test]
    fn files_are_written_where_nothing_was_and_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        write_files(&paths, &lease());
        write_files(&paths, &lease());
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(paths.lease()).unwrap()).unwrap();
        assert_eq!(json["mac"], "52:54:00:12:34:56");
        assert_eq!(json["routes"][0]["gateway"], "10.0.2.2");

        let real = folder.path().join("stub.conf");
        std::fs::write(&real, "old").unwrap();
        std::fs::remove_file(paths.resolv_conf()).unwrap();
        std::os::unix::fs::symlink(&real, paths.resolv_conf()).unwrap();
        write_files(&paths, &lease());
        assert!(std::fs::read_to_string(&real).unwrap().contains("nameserver 10.0.2.3"));
        assert!(paths.resolv_conf().is_symlink());
    }
}
