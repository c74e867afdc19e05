//! Where a record can be kept, and what each place is good for.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::fs::Access;

use super::partition::Partition;
use super::{efivar, file};
use crate::config::{Cache, Config};
use crate::manifest::MOST_SEEN_BYTES;

/// Where a record is kept.
#[derive(Debug)]
pub(super) enum Place {
    Partition(Partition),
    Variable(PathBuf),
    File(PathBuf),
    /// In memory, from one attempt of PID 1 to the next: each is a process of its own.
    Volatile(PathBuf),
}

impl Place {
    pub(super) fn read(&self, may_write: bool) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Partition(partition) => partition.read(MOST_SEEN_BYTES, may_write),
            Self::Variable(path) => efivar::read(path, MOST_SEEN_BYTES),
            Self::File(path) | Self::Volatile(path) => file::read(path, MOST_SEEN_BYTES),
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Partition(partition) => partition.write(bytes),
            Self::Variable(path) => efivar::write(path, bytes),
            Self::File(path) => file::write(path, bytes),
            Self::Volatile(path) => {
                fs::create_dir_all(file::folder(path))?;
                file::write(path, bytes)
            }
        }
    }

    /// Whether the parameters let it be written.
    pub(super) fn may_be_written(&self, config: &Config) -> bool {
        match self {
            Self::Partition(_) => config.may_write() && config.cache != Some(Cache::Off),
            Self::Variable(_) | Self::File(_) => config.may_write(),
            Self::Volatile(_) => true,
        }
    }

    /// Whether a write can be expected to work.
    pub(super) fn is_writable(&self) -> bool {
        match self {
            Self::Partition(partition) => partition.is_writable(),
            Self::Variable(path) | Self::File(path) => {
                rustix::fs::access(file::folder(path), Access::WRITE_OK).is_ok()
            }
            Self::Volatile(_) => true,
        }
    }

    /// The driver of its file system, where phaseboot mounts one.
    pub(super) fn driver(&self) -> Option<&'static str> {
        match self {
            Self::Partition(partition) => partition.driver(),
            Self::Variable(_) | Self::File(_) | Self::Volatile(_) => None,
        }
    }

    /// Whether what was written last may not be visible.
    pub(super) fn reads_without_journal(&self, may_write: bool) -> bool {
        matches!(self, Self::Partition(partition) if partition.reads_without_journal(may_write))
    }

    /// Whether it is there after the machine was off.
    pub(super) fn lasts(&self) -> bool {
        !matches!(self, Self::Volatile(_))
    }

    /// Whether a policy that requires a record is content with this one: who can change the kernel
    /// command line could name an empty partition.
    pub(super) fn serves(&self) -> bool {
        match self {
            Self::Partition(partition) => partition.by_policy,
            Self::Variable(_) | Self::File(_) => true,
            Self::Volatile(_) => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => partition.fmt(f),
            Self::Variable(path) | Self::File(path) | Self::Volatile(path) => path.display().fmt(f),
        }
    }
}
