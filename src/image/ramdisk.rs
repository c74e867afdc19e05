//! The ramdisk of the next kernel: verified files in sealed memory.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::part::Draft;
use super::{Error, Part, archive};
use crate::fetch::VerifiedArtifact;
use crate::sys::memfd::Mapping;

/// The kernel looks for the next archive at multiples of 4 bytes, and passes over zeros before it:
/// Documentation/driver-api/early-userspace/buffer-format.rst.
const ALIGNMENT: u64 = 4;

/// The bytes that the next kernel unpacks.
#[derive(Debug)]
pub struct Ramdisk(Part);

impl Ramdisk {
    /// Joins `parts` in their order; what is certainly no ramdisk is refused. A single one is taken
    /// as it is. Several are copied, and the memory of each is given back when it has been.
    pub fn join<P: Into<Part>>(parts: Vec<P>) -> Result<Option<Self>, Error> {
        Self::join_parts(parts.into_iter().map(Into::into).collect())
    }

    fn join_parts(parts: Vec<Part>) -> Result<Option<Self>, Error> {
        for part in &parts {
            archive::judge(part.name(), &part.mapped()?)?;
        }
        let is_single = parts.len() == 1;
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { return Ok(None) };
        if is_single {
            return Ok(Some(Self(first)));
        }
        let mut joined = Draft::new(first.name())?;
        for part in std::iter::once(first).chain(parts) {
            let padding = joined.size().next_multiple_of(ALIGNMENT) - joined.size();
            let zeros = [0; ALIGNMENT as usize];
            joined.write(zeros.get(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default())?;
            joined.write(&part.mapped()?)?;
        }
        Ok(Some(Self(joined.seal()?)))
    }

    /// What the first one is called in the manifest.
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
        Self(archive.into())
    }
}

impl AsFd for Ramdisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
