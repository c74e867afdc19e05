//! The ramdisk of the next kernel: verified files in sealed memory.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::fetch::VerifiedArtifact;
use crate::sys::memfd::Mapping;

/// The bytes that the next kernel unpacks.
#[derive(Debug)]
pub struct Ramdisk(VerifiedArtifact);

impl Ramdisk {
    /// What it is called in the manifest.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// Maps it for reading.
    pub fn map(&self) -> Result<Mapping, Errno> {
        self.0.map()
    }
}

impl From<VerifiedArtifact> for Ramdisk {
    fn from(archive: VerifiedArtifact) -> Self {
        Self(archive)
    }
}

impl AsFd for Ramdisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
