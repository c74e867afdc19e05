//! What the network leaves in files: `lease.json` for people, and `links.json`, from which the next
//! attempt or command, another process, takes away what this one has set.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::uplink::Uplink;
use crate::paths::Paths;

/// More links than a machine has.
const MOST_WINNERS: usize = 64;

/// The content of `links.json`. It is written before anything is set: a process that is killed in
/// between leaves nothing that the next one does not know of.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    #[serde(skip)]
    path: PathBuf,
    /// Somebody was told that it cannot be written.
    #[serde(skip)]
    warned: bool,
    /// Not all of it is written.
    #[serde(skip)]
    noted: bool,
    /// The boot that it tells of, as `/proc/sys/kernel/random/boot_id` names it.
    #[serde(default)]
    boot: String,
    pub(super) links: Vec<Record>,
    /// The links over which attempts went, the latest first.
    winners: Vec<String>,
}

/// What was set on one link, and what it had before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) interface: String,
    /// The device itself: a VLAN or a bond.
    pub(super) made: bool,
    /// IFF_UP.
    pub(super) raised: bool,
    /// It was made a member of a bond.
    #[serde(default)]
    pub(super) joined: bool,
    /// When an attempt first saw it: milliseconds of CLOCK_BOOTTIME.
    #[serde(default)]
    pub(super) first_seen: Option<u64>,
    /// With their prefixes, in bits.
    pub(super) addresses: Vec<(IpAddr, u8)>,
    /// In bytes, before and after.
    pub(super) mtu: Option<(u32, u32)>,
    /// The hardware address before.
    pub(super) mac: Option<[u8; 6]>,
    /// Settings below /proc/sys, with the values before.
    pub(super) sysctls: Vec<(String, String)>,
    /// The latest lease, to be asked for again: INIT-REBOOT of RFC 2131, section 3.2.
    pub(super) lease: Option<Ipv4Addr>,
    /// Its server has named a URL to boot from.
    #[serde(default)]
    pub(super) boot_url: bool,
}

impl Journal {
    /// Empty if nothing was set since the system started. What an earlier system has set went with it.
    pub(super) fn read(paths: &Paths) -> Self {
        let path = paths.links();
        let boot = std::fs::read_to_string(paths.sysctl("kernel/random/boot_id")).unwrap_or_default();
        let boot = boot.trim_ascii().to_owned();
        let read = std::fs::read(&path).and_then(|json| Ok(serde_json::from_slice(&json)?));
        let journal = read.unwrap_or_else(|error: io::Error| {
            if error.kind() != io::ErrorKind::NotFound {
                log::warn!("cannot read {}: {error}; what it has set stays", path.display());
            }
            Self::default()
        });
        let journal = if journal.boot == boot { journal } else { Self::default() };
        Self { path, boot, ..journal }
    }

    /// What is known of a link.
    pub(super) fn find(&self, interface: &str) -> Option<&Record> {
        self.links.iter().find(|record| record.interface == interface)
    }

    /// Changes what is known of a link, and writes it. Failure is a warning.
    pub(super) fn change(&mut self, interface: &str, change: impl FnOnce(&mut Record)) {
        self.note(interface, change);
        self.keep();
    }

    /// Changes what is known of a link, to be kept before it is acted on: machines have many links, and all
    /// of them are written at once.
    pub(super) fn note(&mut self, interface: &str, change: impl FnOnce(&mut Record)) {
        let mut record = self
            .find(interface)
            .cloned()
            .unwrap_or_else(|| Record { interface: interface.to_owned(), ..Record::default() });
        change(&mut record);
        if self.find(interface) == Some(&record) {
            return;
        }
        match self.links.iter_mut().find(|known| known.interface == interface) {
            Some(known) => *known = record,
            None => self.links.push(record),
        }
        self.noted = true;
    }

    /// Writes what was noted.
    pub(super) fn keep(&mut self) {
        if self.noted {
            self.write();
        }
    }

    /// A link has another name now.
    pub(super) fn rename(&mut self, before: &str, after: &str) {
        let (before_in_path, after_in_path) = (format!("/{before}/"), format!("/{after}/"));
        self.links.retain(|record| record.interface != after);
        for record in self.links.iter_mut().filter(|record| record.interface == before) {
            after.clone_into(&mut record.interface);
            for (setting, _) in &mut record.sysctls {
                *setting = setting.replace(&before_in_path, &after_in_path);
            }
        }
        for winner in self.winners.iter_mut().filter(|winner| *winner == before) {
            after.clone_into(winner);
        }
        self.write();
    }

    /// The links over which attempts went so far, each once, the latest first.
    pub(super) fn winners(&self) -> &[String] {
        &self.winners
    }

    /// An attempt goes over this link.
    pub(super) fn add_winner(&mut self, interface: &str) {
        if self.winners.first().is_none_or(|latest| latest != interface) {
            self.winners.retain(|name| name != interface);
            self.winners.insert(0, interface.to_owned());
            self.winners.truncate(MOST_WINNERS);
            self.write();
        }
    }

    fn write(&mut self) {
        self.noted = false;
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        let written = json.and_then(|json| replace(&self.path, &json));
        if let Err(error) = written
            && !std::mem::replace(&mut self.warned, true)
        {
            log::warn!("cannot write {}: {error}", self.path.display());
        }
    }
}

/// Writes `lease.json`. Failure is a warning.
pub(super) fn write_lease(paths: &Paths, uplink: &Uplink) {
    let json = serde_json::to_vec_pretty(uplink).map_err(io::Error::from);
    if let Err(error) = json.and_then(|json| replace(&paths.lease(), &json)) {
        log::warn!("cannot write {}: {error}", paths.lease().display());
    }
}

/// What `lease.json` says, if that is of this link.
pub(super) fn read_lease(paths: &Paths, interface: &str) -> Option<Uplink> {
    let json = std::fs::read(paths.lease()).ok()?;
    let uplink = serde_json::from_slice::<Uplink>(&json)
        .inspect_err(|error| log::debug!("{}: {error}", paths.lease().display()));
    uplink.ok().filter(|uplink| uplink.interface == interface)
}

/// Writes a file so that a reader sees the old or the new content, whole. Behind a symbolic link the
/// file that it leads to is replaced.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let moved = std::fs::write(&temporary, content).and_then(|()| std::fs::rename(&temporary, &path));
    if moved.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    match moved {
        // The name is a mount, as containers have it.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::fs::write(&path, content),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let mut journal = Journal::read(&paths);
        assert_eq!((journal.links.len(), paths.links().exists()), (0, false));
        journal.change("eth0", |_| {});
        journal.change("eth0", |record| {
            record.raised = true;
            record.addresses.push(("10.0.2.15".parse().unwrap(), 24));
            record.addresses.push(("2001:db8::1".parse().unwrap(), 64));
            record.mtu = Some((1500, 1400));
            record.sysctls.push(("net/ipv6/conf/eth0/accept_ra".into(), "0".into()));
            record.lease = Some(Ipv4Addr::new(10, 0, 2, 15));
        });
        assert_eq!(Journal::read(&paths), journal);
        for garbage in ["", "{", "[]", "null", "{\"links\": 7, \"winners\": []}", "\u{0}\u{0}"] {
            std::fs::write(paths.links(), garbage).unwrap();
            assert_eq!(Journal::read(&paths).links, []);
        }
    }

    #[test]
    fn what_is_noted_is_written_when_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let mut journal = Journal::read(&paths);
        journal.note("eth0", |record| record.raised = true);
        journal.note("eth1", |record| record.raised = true);
        assert!(!paths.links().exists());
        journal.keep();
        assert_eq!(Journal::read(&paths), journal);
        std::fs::remove_file(paths.links()).unwrap();
        journal.note("eth1", |record| record.raised = true);
        journal.keep();
        assert!(!paths.links().exists(), "nothing has changed");
    }

    #[test]
    fn what_another_boot_has_set_counts_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let boot = paths.sysctl("kernel/random/boot_id");
        std::fs::create_dir_all(boot.parent().unwrap()).unwrap();
        std::fs::write(&boot, "one\n").unwrap();
        let mut journal = Journal::read(&paths);
        journal.change("eth0", |record| record.raised = true);
        journal.add_winner("eth0");
        assert_eq!(Journal::read(&paths), journal);
        std::fs::write(&boot, "another\n").unwrap();
        let journal = Journal::read(&paths);
        assert_eq!((journal.links.len(), journal.winners().len()), (0, 0));
    }

    #[test]
    fn what_was_set_follows_the_name_of_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let mut journal = Journal::read(&paths);
        journal.change("eth1", |record| record.raised = true);
        journal.change("eth0", |record| {
            record.sysctls.push(("net/ipv4/conf/eth0/arp_ignore".into(), "0".into()));
        });
        journal.add_winner("eth0");
        journal.rename("eth0", "eth1");
        let journal = Journal::read(&paths);
        assert_eq!((journal.links.len(), journal.winners()), (1, &["eth1".to_owned()][..]));
        let record = journal.find("eth1").unwrap();
        assert_eq!((record.raised, record.sysctls[0].0.as_str()), (false, "net/ipv4/conf/eth1/arp_ignore"));
    }

    #[test]
    fn the_latest_winner_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let mut journal = Journal::read(&paths);
        ["eth0", "eth1", "eth1", "eth0"].iter().for_each(|name| journal.add_winner(name));
        assert_eq!(Journal::read(&paths).winners(), ["eth0", "eth1"]);
    }
}
