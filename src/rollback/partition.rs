//! A record on the cache partition: mounting it no longer than it takes.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use log::warn;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::file;
use super::superblock::Superblock;
use crate::sys::block::set_read_only;

/// Below the root of the partition.
const FOLDER: &str = "phaseboot";
const SAFE: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC).union(MountFlags::NOSYMFOLLOW);

/// A partition that is there to hold a record.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) device: PathBuf,
    /// An error if its start cannot be read: the record that may be there is damaged.
    pub(super) superblock: Result<Superblock, Errno>,
    /// The record's name in [`FOLDER`].
    pub(super) file: String,
    /// Where it is mounted for a moment.
    pub(super) point: PathBuf,
    /// The kernel lets nobody write to it.
    pub(super) read_only: bool,
    /// The policy names it, and not only the kernel command line.
    pub(super) by_policy: bool,
}

impl Partition {
    /// Whether it can be written to at all.
    pub(super) fn is_writable(&self) -> bool {
        !self.read_only
    }

    /// What has to be there to mount it.
    pub(super) fn driver(&self) -> Option<&'static str> {
        self.superblock.as_ref().ok().map(|superblock| superblock.kind.driver())
    }

    /// Whether [`read`](Self::read) passes over what is only in the journal.
    pub(super) fn reads_without_journal(&self, may_write: bool) -> bool {
        self.is_untouched(may_write) && self.superblock.as_ref().is_ok_and(|found| found.needs_recovery)
    }

    fn is_untouched(&self, may_write: bool) -> bool {
        !may_write || self.read_only
    }

    /// The record, as far as one byte beyond `most`; None if there is none. If nothing `may_write`,
    /// no byte of the partition changes.
    pub(super) fn read(&self, most: usize, may_write: bool) -> io::Result<Option<Vec<u8>>> {
        let untouched = self.is_untouched(may_write);
        let mut protected = None;
        if untouched && !self.read_only {
            // `noload` keeps the journal from being replayed. Inodes whose deletion was broken off are
            // deleted all the same, even by a read-only mount (ext4_orphan_cleanup of fs/ext4/orphan.c).
            let device = File::open(&self.device)?;
            set_read_only(&device, true)?;
            protected = Some(device);
        }
        let result = self.mounted(MountFlags::RDONLY, untouched, |root| file::read(&self.record(root), most));
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
            file::write(&self.record(root), bytes)
        })
    }

    fn record(&self, root: &Path) -> PathBuf {
        root.join(FOLDER).join(&self.file)
    }

    /// Does `work` at its root while it is mounted.
    fn mounted<T>(
        &self,
        flags: MountFlags,
        untouched: bool,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let kind = match &self.superblock {
            Ok(superblock) => superblock.kind,
            Err(errno) => return Err(unusable(format!("its start cannot be read: {errno}"))),
        };
        fs::create_dir_all(&self.point)?;
        // What an attempt that was killed has left.
        let _ = unmount(&self.point, UnmountFlags::NOFOLLOW);
        mount(&self.device, &self.point, kind.driver(), SAFE | flags, kind.options(untouched)).map_err(
            |errno| match errno {
                Errno::NODEV => errno.into(),
                errno => unusable(format!("it cannot be mounted: {errno}")),
            },
        )?;
        let result = work(&self.point);
        if let Err(errno) = unmount(&self.point, UnmountFlags::NOFOLLOW) {
            warn!("{} stays mounted on {}: {errno}", self.device.display(), self.point.display());
        }
        result
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FOLDER}/{} on {}", self.file, self.device.display())
    }
}

fn unusable(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

#[cfg(test)]
pub(super) mod tests;
