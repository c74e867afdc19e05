//! An artifact that was verified, in sealed memory.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::sys::memfd::{Mapping, Sealed};

/// A file whose SHA-256 and size are those of a verified manifest, in memory that nobody can
/// change. Only [`fetch`](crate::fetch) makes one.
#[derive(Debug)]
pub struct VerifiedArtifact {
    name: &'static str,
    file: Sealed,
    size: u64,
}

impl VerifiedArtifact {
    /// Wraps bytes that were hashed on their way into `file`. The callers are the places where
    /// something counts as verified.
    pub(super) fn new(name: &'static str, file: Sealed, size: u64) -> Self {
        Self { name, file, size }
    }

    /// `kernel`, `initramfs`, ...: the name in the manifest.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Maps it for reading.
    pub fn map(&self) -> Result<Mapping, Errno> {
        self.file.map()
    }
}

impl AsFd for VerifiedArtifact {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
