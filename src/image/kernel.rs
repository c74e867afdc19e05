//! A verified file that is a kernel, whatever it was wrapped in.

use std::os::fd::{AsFd, BorrowedFd};

use log::info;
use rustix::io::Errno;

use super::pe::Pe;
use super::unwrap::{self, Limit, MOST_UNPACKED, Unwrapped};
use super::{Error, Header, Part, Trees, Uki, Wrapping};
use crate::arch::Arch;
use crate::fetch::VerifiedArtifact;
use crate::log::bytes;
use crate::sys::memfd::Mapping;

/// A kernel: what is loaded, and what came with it.
#[derive(Debug)]
pub struct KernelImage {
    kernel: Part,
    header: Header,
    wrappings: Vec<Wrapping>,
    uki: Option<Uki>,
    /// Of what is loaded.
    certificates: Option<u64>,
}

impl KernelImage {
    /// Unwraps `artifact` and recognises the kernel in it as one for a machine of architecture
    /// `native`. At most [`MOST_UNPACKED`] bytes are unpacked.
    pub fn from_artifact(artifact: VerifiedArtifact, native: Arch) -> Result<Self, Error> {
        Self::within(artifact, native, &unwrap::at_most(MOST_UNPACKED))
    }

    /// The same, within a limit of one's own, and never more than [`MOST_UNPACKED`].
    pub fn within(artifact: VerifiedArtifact, native: Arch, limit: Limit<'_>) -> Result<Self, Error> {
        let image = Self::new(artifact.into(), Some(native), limit)?;
        if !image.wrappings.is_empty() {
            let layers = Wrapping::list(&image.wrappings);
            info!("{}: {layers} unwrapped, {} are loaded", image.name(), bytes(image.size()));
        }
        Ok(image)
    }

    /// The same for a kernel of whichever architecture.
    pub fn examine(artifact: VerifiedArtifact, limit: Limit<'_>) -> Result<Self, Error> {
        Self::new(artifact.into(), None, limit)
    }

    fn new(published: Part, native: Option<Arch>, limit: Limit<'_>) -> Result<Self, Error> {
        let Unwrapped { kernel, wrappings, uki } = unwrap::unwrap(published, limit)?;
        let mapping = kernel.mapped()?;
        let header = match native {
            Some(native) => Header::parse(kernel.name(), &mapping, native),
            None => Header::of(kernel.name(), &mapping),
        };
        let header = header.map_err(|error| error.within(&wrappings))?;
        let certificates = Pe::parse(&mapping).and_then(|pe| pe.certificates());
        let certificates = certificates.map(|range| range.end - range.start);
        Ok(Self { kernel, header, wrappings, uki, certificates })
    }

    /// What it is called in the manifest.
    pub fn name(&self) -> &'static str {
        self.kernel.name()
    }

    /// What is loaded, in bytes.
    pub fn size(&self) -> u64 {
        self.kernel.size()
    }

    /// Maps what is loaded for reading.
    pub fn map(&self) -> Result<Mapping, Errno> {
        self.kernel.map()
    }

    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The longest command line this kernel reads whole, in bytes without the final NUL.
    pub fn cmdline_limit(&self) -> usize {
        self.header.cmdline_limit()
    }

    /// What it was published in, outermost first. Empty if the file itself is loaded.
    pub fn wrappings(&self) -> &[Wrapping] {
        &self.wrappings
    }

    /// What else the unified kernel image holds, if it came in one.
    pub fn uki(&self) -> Option<&Uki> {
        self.uki.as_ref()
    }

    /// The command line of the unified kernel image, on one line.
    pub fn cmdline(&self) -> Option<&str> {
        self.uki.as_ref()?.cmdline.as_deref()
    }

    /// The kernel's release as the unified kernel image gives it.
    pub fn uname(&self) -> Option<&str> {
        self.uki.as_ref()?.uname.as_deref()
    }

    /// The device trees of the unified kernel image. Whoever takes them has them; none are left.
    pub fn take_trees(&mut self) -> Trees {
        self.uki.as_mut().map(|uki| std::mem::take(&mut uki.trees)).unwrap_or_default()
    }

    /// The ramdisks of the unified kernel image, microcode first. None are left.
    pub fn take_ramdisks(&mut self) -> Vec<Part> {
        self.uki.as_mut().map(|uki| std::mem::take(&mut uki.ramdisks)).unwrap_or_default()
    }

    /// Whether what is loaded carries signatures for Secure Boot. Nobody has verified them here.
    pub fn is_signed(&self) -> bool {
        self.certificates.is_some()
    }

    /// The size of its certificate table in bytes, if it is signed.
    pub fn certificates(&self) -> Option<u64> {
        self.certificates
    }

    /// The version that the kernel itself gives.
    pub fn version(&self) -> Option<String> {
        self.header.version(&self.map().ok()?)
    }
}

/// What is loaded, open for reading.
impl AsFd for KernelImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}
