//! A piece of what was verified, in sealed memory of its own: a published file as it is, or what was
//! unwrapped from one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::Error;
use crate::fetch::VerifiedArtifact;
use crate::sys::memfd::{self, Mapping, Sealed};

/// Sealed bytes that are a verified file, or were made from one.
#[derive(Debug)]
pub struct Part {
    name: &'static str,
    file: Sealed,
    size: u64,
}

impl Part {
    /// Copies `bytes`, which are part of something verified.
    pub(super) fn copy_of(name: &'static str, bytes: &[u8]) -> Result<Self, Error> {
        let mut draft = Draft::new(name)?;
        draft.write(bytes)?;
        draft.seal()
    }

    /// What it is called in the manifest, or in the unified kernel image it comes from.
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

    pub(super) fn mapped(&self) -> Result<Mapping, Error> {
        self.map().map_err(|errno| Error::Map { name: self.name, errno })
    }
}

impl From<VerifiedArtifact> for Part {
    fn from(artifact: VerifiedArtifact) -> Self {
        let (name, size) = (artifact.name(), artifact.size());
        Self { name, file: artifact.into_file(), size }
    }
}

impl AsFd for Part {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A part that is being written.
#[derive(Debug)]
pub(super) struct Draft {
    name: &'static str,
    file: File,
    size: u64,
}

impl Draft {
    pub(super) fn new(name: &'static str) -> Result<Self, Error> {
        let file = memfd::create(name).map_err(|errno| memory(name, 0, errno.into()))?;
        Ok(Self { name, file, size: 0 })
    }

    /// In bytes, so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| memory(self.name, self.size, error))?;
        self.size = self.size.saturating_add(bytes.len() as u64);
        Ok(())
    }

    pub(super) fn seal(self) -> Result<Part, Error> {
        let Self { name, file, size } = self;
        let file = Sealed::seal(file).map_err(|errno| memory(name, size, errno.into()))?;
        Ok(Part { name, file, size })
    }
}

fn memory(name: &'static str, size: u64, error: io::Error) -> Error {
    Error::Memory { name, size, error }
}
