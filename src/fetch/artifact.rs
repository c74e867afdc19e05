//! An artifact that was verified, in sealed memory.

use std::fs::File;
use std::io;
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

    /// The memory alone.
    pub fn into_file(self) -> Sealed {
        self.file
    }

    /// Copies all of it into `file`, within the kernel: sendfile(2).
    pub fn copy_to(&self, file: &mut File) -> io::Result<()> {
        let mut offset = 0;
        while offset < self.size {
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            match rustix::fs::sendfile(&mut *file, &self.file, Some(&mut offset), left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for VerifiedArtifact {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn it_is_copied_whole_and_however_often() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut file = crate::sys::memfd::create("test").unwrap();
        file.write_all(&bytes).unwrap();
        let size = bytes.len() as u64;
        let artifact = VerifiedArtifact::new("kernel", Sealed::seal(file).unwrap(), size);
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            let path = folder.path().join(name);
            artifact.copy_to(&mut File::create(&path).unwrap()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        let full = artifact.copy_to(&mut File::options().write(true).open("/dev/full").unwrap());
        assert!(full.is_err());
    }
}
