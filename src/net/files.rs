//! What a lease leaves in files: `resolv.conf` for resolvers, `lease.json` for people and for the
//! next attempt, which is another process.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lease::Lease;
use crate::paths::Paths;

/// What resolv.conf(5) allows: MAXNS servers.
const MOST_NAMESERVERS: usize = 3;

/// More links than a machine has.
const MOST_WINNERS: usize = 64;

/// The content of `lease.json`: the lease, and what is needed to take it back.
#[derive(Debug, Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    lease: &'a Lease,
    /// What the link had before the lease set another MTU, in bytes.
    mtu_before: Option<u32>,
    /// The links whose leases have led nowhere before, the latest first.
    earlier: &'a [String],
}

/// What `lease.json` says of the lease that was set last.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Last {
    pub(super) interface: String,
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) mtu: Option<u16>,
    pub(super) mtu_before: Option<u32>,
    dns: Vec<Ipv4Addr>,
    earlier: Vec<String>,
}

impl Last {
    /// None if no lease was set since the system started.
    pub(super) fn read(paths: &Paths) -> Option<Self> {
        let path = paths.lease();
        match std::fs::read(&path).and_then(|json| Ok(serde_json::from_slice(&json)?)) {
            Ok(last) => Some(last),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                log::warn!("cannot read {}: {error}; what it has set stays", path.display());
                None
            }
        }
    }

    /// The links that have won the attempts so far, each once, the latest first.
    pub(super) fn winners(&self) -> Vec<String> {
        let before = self.earlier.iter().filter(|&name| *name != self.interface);
        std::iter::once(&self.interface).chain(before).take(MOST_WINNERS).cloned().collect()
    }
}

/// Writes `lease.json`. This is done before the lease is set: a process that is killed in between
/// leaves nothing that the next one does not know of. Failure is a warning. `mtu_now` is the MTU of the
/// link in bytes, `earlier` are the links that won before.
pub(super) fn write_lease(paths: &Paths, lease: &Lease, mtu_now: Option<u32>, earlier: &[String]) {
    let record = Record { lease, mtu_before: mtu_now.filter(|_| lease.mtu.is_some()), earlier };
    let written = serde_json::to_vec_pretty(&record)
        .map_err(io::Error::from)
        .and_then(|json| replace(&paths.lease(), &json));
    if let Err(error) = written {
        log::warn!("cannot write {}: {error}", paths.lease().display());
    }
}

/// Writes `resolv.conf`. If the lease names no server it becomes empty where the last lease has
/// written it, and stays as it is where somebody else has. Failure is a warning: a provider may be
/// named by address.
pub(super) fn write_resolv_conf(paths: &Paths, lease: &Lease, last: Option<&Last>) {
    if lease.dns.is_empty() && last.is_none_or(|last| last.dns.is_empty()) {
        return;
    }
    if let Err(error) = replace(&paths.resolv_conf(), resolv_conf(lease).as_bytes()) {
        log::warn!("cannot write {}: {error}; names will not resolve", paths.resolv_conf().display());
    }
}

/// See resolv.conf(5). Empty without a server.
fn resolv_conf(lease: &Lease) -> String {
    let mut text = String::new();
    let search = if lease.search.is_empty() { lease.domain.as_slice() } else { &lease.search };
    if !search.is_empty() && !lease.dns.is_empty() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::lease::Origin;

    fn lease() -> Lease {
        let address = Ipv4Addr::new(10, 0, 2, 15);
        Lease {
            dns: (1..6).map(|n| Ipv4Addr::new(10, 0, 2, n)).collect(),
            domain: Some("example.org".into()),
            mtu: Some(1400),
            lease_seconds: Some(86_400),
            ..Lease::bare("eth0", [0x52, 0x54, 0, 0x12, 0x34, 0x56], Origin::Dhcp, address, 24)
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
    fn a_lease_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        assert_eq!(Last::read(&paths), None);
        write_lease(&paths, &lease(), Some(1500), &["eth1".into(), "eth0".into()]);
        let last = Last::read(&paths).unwrap();
        assert_eq!((last.interface.as_str(), last.address, last.prefix), ("eth0", lease().address, 24));
        assert_eq!((last.mtu, last.mtu_before, last.dns.len()), (Some(1400), Some(1500), 5));
        assert_eq!(last.winners(), ["eth0", "eth1"]);
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(paths.lease()).unwrap()).unwrap();
        assert_eq!(json["mac"], "52:54:00:12:34:56");

        write_lease(&paths, &Lease { mtu: None, ..lease() }, Some(1500), &[]);
        assert_eq!(Last::read(&paths).unwrap().mtu_before, None);
        std::fs::write(paths.lease(), "{").unwrap();
        assert_eq!(Last::read(&paths), None);
    }

    #[test]
    fn servers_for_names_go_with_the_lease_that_brought_them() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let content = || std::fs::read_to_string(paths.resolv_conf()).unwrap();
        let nameless = Lease { dns: vec![], ..lease() };
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(paths.resolv_conf(), "somebody else's").unwrap();
        write_resolv_conf(&paths, &nameless, None);
        assert_eq!(content(), "somebody else's");
        write_lease(&paths, &lease(), None, &[]);
        write_resolv_conf(&paths, &lease(), None);
        assert!(content().contains("nameserver 10.0.2.3"));
        write_resolv_conf(&paths, &nameless, Last::read(&paths).as_ref());
        assert_eq!(content(), "");
    }

    #[test]
    fn a_file_is_replaced_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let real = folder.path().join("stub.conf");
        std::fs::write(&real, "old").unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(&real, paths.resolv_conf()).unwrap();
        write_resolv_conf(&paths, &lease(), None);
        assert!(std::fs::read_to_string(&real).unwrap().contains("nameserver 10.0.2.3"));
        assert!(paths.resolv_conf().is_symlink());
    }
}
