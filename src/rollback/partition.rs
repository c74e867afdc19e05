//! A record on the cache partition: which partition that is, and mounting it no longer than it takes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use log::{debug, warn};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::file;
use super::gpt;
use super::superblock::{FileSystem, LENGTH, Superblock};
use crate::config::Cache;
use crate::paths::Paths;
use crate::sys::block::set_read_only;
use crate::time::Deadline;

/// Below the root of the partition.
const FOLDER: &str = "phaseboot";
const FILE: &str = "seen.json";
/// The name in a partition table, and the labels, of a partition that is made for it.
const PART_NAME: &str = "Phase Cache";
const LABELS: [&str; 2] = ["PHASE_CACHE", "PHASECACHE"];
/// What only turns up later: USB is slow.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);
/// Every one that matches counts: a second one must not take the place of the first.
const MOST: usize = 8;
/// Floppies, optical drives and raw flash hold no cache, and are slow to say so.
const PASSED_OVER: [&str; 3] = ["fd", "sr", "mtd"];
const SAFE: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC).union(MountFlags::NOSYMFOLLOW);

/// A partition that is there to hold a record.
#[derive(Debug)]
pub(super) struct Partition {
    device: PathBuf,
    /// None if no file system can be recognised: the record that was there is damaged.
    kind: Option<FileSystem>,
    /// Where it is mounted for a moment.
    point: PathBuf,
    /// The kernel lets nobody write to it.
    read_only: bool,
}

/// The partitions that any of `caches` names.
pub(super) fn find(caches: &[&Cache], paths: &Paths, deadline: Deadline) -> Vec<Partition> {
    let deadline = deadline.or_after(LONGEST_WAIT);
    let mut found: Vec<Partition> = Vec::new();
    for cache in caches {
        for partition in wait_for(cache, paths, deadline) {
            if !found.iter().any(|other| other.device.as_os_str() == partition.device.as_os_str()) {
                found.push(partition);
            }
        }
    }
    found
}

/// The partitions that `cache` names. One that is named by hand is waited for.
fn wait_for(cache: &Cache, paths: &Paths, deadline: Deadline) -> Vec<Partition> {
    loop {
        let found = look(cache, paths);
        if !found.is_empty() || matches!(cache, Cache::On | Cache::Off) {
            return found;
        }
        if deadline.passed() {
            warn!("there is no partition {cache}");
            return found;
        }
        thread::sleep(PAUSE);
    }
}

fn look(cache: &Cache, paths: &Paths) -> Vec<Partition> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(paths.block_devices()) else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if found.len() < MOST && !PASSED_OVER.iter().any(|prefix| name.starts_with(prefix)) {
            found.extend(Partition::open(&name, cache, paths));
        }
    }
    found
}

impl Partition {
    /// The device `name`, if it is one that `cache` names.
    fn open(name: &str, cache: &Cache, paths: &Paths) -> Option<Self> {
        let folder = paths.block_devices().join(name);
        let is_called = |wanted: &str| part_name(&folder).is_some_and(|name| name == wanted);
        let selected = match cache {
            Cache::Off => false,
            // The file system says.
            Cache::On | Cache::Label(_) | Cache::Uuid(_) => true,
            Cache::Device(wanted) => wanted == name,
            Cache::PartLabel(wanted) => is_called(wanted),
            Cache::PartUuid(wanted) => {
                gpt::uuid(name, paths).is_some_and(|uuid| uuid.eq_ignore_ascii_case(wanted))
            }
        };
        if !selected {
            return None;
        }
        let device = paths.device(name);
        let superblock = match superblock(&device) {
            Ok(superblock) => superblock,
            // Not there yet, or a card reader without a card.
            Err(Errno::NOENT | Errno::NXIO | Errno::NOMEDIUM) => return None,
            Err(errno) => {
                debug!("{}: {errno}", device.display());
                None
            }
        };
        let is_labelled = |wanted: &str| superblock.as_ref().is_some_and(|found| found.label == wanted);
        let selected = match cache {
            Cache::On => LABELS.iter().any(|label| is_labelled(label)) || is_called(PART_NAME),
            Cache::Label(wanted) => is_labelled(wanted),
            Cache::Uuid(wanted) => {
                superblock.as_ref().is_some_and(|found| found.uuid.eq_ignore_ascii_case(wanted))
            }
            Cache::Off | Cache::Device(_) | Cache::PartLabel(_) | Cache::PartUuid(_) => true,
        };
        let read_only = fs::read_to_string(folder.join("ro")).is_ok_and(|text| text.trim() == "1");
        let kind = superblock.map(|found| found.kind);
        selected.then(|| Self { device, kind, point: paths.cache(), read_only })
    }

    /// Whether it can be written to at all.
    pub(super) fn is_writable(&self) -> bool {
        !self.read_only
    }

    /// The record, as far as one byte beyond `most`; None if there is none. If nothing `may_write`,
    /// no byte of the partition changes.
    pub(super) fn read(&self, most: usize, may_write: bool) -> io::Result<Option<Vec<u8>>> {
        let untouched = !may_write || self.read_only;
        let mut protected = None;
        if untouched && !self.read_only {
            // `noload` keeps the journal from being replayed. Inodes whose deletion was broken off are
            // deleted all the same, even by a read-only mount (ext4_orphan_cleanup of fs/ext4/orphan.c).
            let device = File::open(&self.device)?;
            set_read_only(&device, true)?;
            protected = Some(device);
        }
        let result = self
            .mounted(MountFlags::RDONLY, untouched, |root| file::read(&root.join(FOLDER).join(FILE), most));
        if let Some(device) = protected {
            set_read_only(&device, false)?;
        }
        result
    }

    /// Replaces the record.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.mounted(MountFlags::empty(), false, |root| {
            let folder = root.join(FOLDER);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            file::write(&folder.join(FILE), bytes)
        })
    }

    /// Does `work` at its root while it is mounted.
    fn mounted<T>(
        &self,
        flags: MountFlags,
        untouched: bool,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let kind =
            self.kind.ok_or_else(|| unusable("it holds neither ext2, ext3, ext4 nor FAT".to_owned()))?;
        fs::create_dir_all(&self.point)?;
        // What an attempt that was killed has left.
        let _ = unmount(&self.point, UnmountFlags::NOFOLLOW);
        let driver = kind.driver();
        mount(&self.device, &self.point, driver, SAFE | flags, kind.options(untouched)).map_err(|errno| {
            match errno {
                Errno::NODEV => unusable(format!("this kernel has no driver for {driver}")),
                errno => unusable(format!("it cannot be mounted: {errno}")),
            }
        })?;
        let result = work(&self.point);
        if let Err(errno) = unmount(&self.point, UnmountFlags::NOFOLLOW) {
            warn!("{} stays mounted on {}: {errno}", self.device.display(), self.point.display());
        }
        result
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FOLDER}/{FILE} on {}", self.device.display())
    }
}

/// The name in the partition table: disk_uevent of block/partitions/core.c.
fn part_name(folder: &Path) -> Option<String> {
    let uevent = fs::read(folder.join("uevent")).ok()?;
    String::from_utf8_lossy(&uevent)
        .lines()
        .find_map(|line| line.strip_prefix("PARTNAME=").map(str::to_owned))
}

fn superblock(device: &Path) -> Result<Option<Superblock>, Errno> {
    let mut start = Vec::with_capacity(LENGTH);
    let length = u64::try_from(LENGTH).unwrap_or(0);
    let read = File::open(device).and_then(|device| device.take(length).read_to_end(&mut start));
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(Superblock::parse(&start))
}

fn unusable(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

#[cfg(test)]
mod tests;
