//! What a kernel file is: its format, its architecture and what its header asks of a loader.
//!
//! [`Header`] is read from foreign bytes once, here; what it says is in bounds and consistent, and
//! nobody checks it again. A file a step a format: [`bzimage`], [`arm64`]; [`foreign`] names the
//! files that are not loadable.

pub mod arm64;
pub mod bzimage;
mod foreign;
mod ramdisk;

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::arch::Arch;
use crate::error::Exit;
use crate::fetch::VerifiedArtifact;
use crate::sys::memfd::Mapping;

pub use arm64::Arm64Image;
pub use bzimage::BzImage;
pub use foreign::Foreign;
pub use ramdisk::Ramdisk;

/// Why a file cannot be the next kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Recognised, and not loadable.
    #[error("{name} is {kind}, {} bytes", size)]
    Foreign { name: &'static str, kind: Foreign, size: u64 },
    /// A kernel, but for another machine.
    #[error("{name} is a kernel for {found}, not for {native}")]
    WrongArch { name: &'static str, found: &'static str, native: Arch },
    /// The header promises more bytes than there are.
    #[error("{name} is a truncated {format}: its header promises {promised} bytes, the file has {size}")]
    Truncated { name: &'static str, format: &'static str, promised: u64, size: u64 },
    /// The header contradicts itself or the boot protocol.
    #[error("{name} has a broken {format} header: {what}")]
    Malformed { name: &'static str, format: &'static str, what: &'static str },
    /// An x86 boot protocol without what is needed here.
    #[error("{name} is a bzImage of boot protocol {major}.{minor:02}, at least 2.12 is needed")]
    OldProtocol { name: &'static str, major: u16, minor: u16 },
    /// The verified memory cannot be mapped.
    #[error("map {name}: {errno}")]
    Map { name: &'static str, errno: Errno },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Foreign { .. }
            | Self::WrongArch { .. }
            | Self::Truncated { .. }
            | Self::Malformed { .. }
            | Self::OldProtocol { .. } => Exit::ImageUnusable,
            Self::Map { .. } => Exit::NotEnoughMemory,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Foreign { kind, .. } => kind.hint(),
            Self::WrongArch { .. } => "publish the kernel that was built for this architecture",
            Self::Truncated { .. } => "publish the whole file",
            Self::Malformed { .. } => "publish an unmodified bzImage (x86_64) or Image (arm64)",
            Self::OldProtocol { .. } => "publish a kernel of Linux 3.8 or newer",
            Self::Map { .. } => "give the machine more memory",
        }
    }
}

/// What the header of a loadable kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    BzImage(BzImage),
    Arm64(Arm64Image),
}

impl Header {
    /// Reads the header of the kernel file `bytes`, which errors call `name`, for a machine of
    /// architecture `native`.
    pub fn parse(name: &'static str, bytes: &[u8], native: Arch) -> Result<Self, Error> {
        if bzimage::is(bytes) {
            if native != Arch::X86_64 {
                return Err(Error::WrongArch { name, found: "x86", native });
            }
            return BzImage::parse(name, bytes).map(Self::BzImage);
        }
        if arm64::is(bytes) {
            if native != Arch::Aarch64 {
                return Err(Error::WrongArch { name, found: "arm64", native });
            }
            return Arm64Image::parse(name, bytes).map(Self::Arm64);
        }
        Err(Error::Foreign { name, kind: foreign::recognise(bytes), size: bytes.len() as u64 })
    }

    /// The longest command line this kernel reads whole, in bytes without the final NUL.
    pub fn cmdline_limit(&self) -> usize {
        match self {
            Self::BzImage(header) => header.cmdline_limit(),
            Self::Arm64(_) => arm64::CMDLINE_LIMIT,
        }
    }
}

/// A verified file that is a kernel for this machine.
#[derive(Debug)]
pub struct KernelImage {
    artifact: VerifiedArtifact,
    header: Header,
}

impl KernelImage {
    /// Recognises `artifact` as a kernel for a machine of architecture `native`.
    pub fn from_artifact(artifact: VerifiedArtifact, native: Arch) -> Result<Self, Error> {
        let name = artifact.name();
        let bytes = artifact.map().map_err(|errno| Error::Map { name, errno })?;
        let header = Header::parse(name, &bytes, native)?;
        Ok(Self { artifact, header })
    }

    /// What it is called in the manifest.
    pub fn name(&self) -> &'static str {
        self.artifact.name()
    }

    /// What is loaded, in bytes.
    pub fn size(&self) -> u64 {
        self.artifact.size()
    }

    /// Maps what is loaded for reading.
    pub fn map(&self) -> Result<Mapping, Errno> {
        self.artifact.map()
    }

    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The longest command line this kernel reads whole, in bytes without the final NUL.
    pub fn cmdline_limit(&self) -> usize {
        self.header.cmdline_limit()
    }
}

/// What is loaded, open for reading.
impl AsFd for KernelImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.artifact.as_fd()
    }
}

/// `N` bytes at `offset`, if they are there.
pub(crate) fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first 4 KiB of the kernels that Debian ships.
    pub(super) const DEBIAN_AMD64: &[u8] = include_bytes!("testdata/debian-6.1-amd64.head");
    pub(super) const DEBIAN_ARM64: &[u8] = include_bytes!("testdata/debian-6.1-arm64.head");
    pub(super) const DEBIAN_ARM64_SIZE: usize = 27_303_872;
    pub(super) const DEBIAN_AMD64_SIZE: usize = 14_186_432;

    /// A file of `size` bytes that begins with `head`.
    pub(super) fn file(head: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = head.to_vec();
        bytes.resize(size, 0);
        bytes
    }

    #[test]
    fn the_other_architecture_is_named() {
        let amd64 = file(DEBIAN_AMD64, DEBIAN_AMD64_SIZE);
        let arm64 = file(DEBIAN_ARM64, DEBIAN_ARM64_SIZE);
        let error = Header::parse("kernel", &amd64, Arch::Aarch64).unwrap_err();
        assert_eq!(error.to_string(), "kernel is a kernel for x86, not for arm64");
        let error = Header::parse("kernel", &arm64, Arch::X86_64).unwrap_err();
        assert_eq!(error.to_string(), "kernel is a kernel for arm64, not for x86_64");
        assert_eq!(error.exit(), Exit::ImageUnusable);
    }

    proptest! {
        #[test]
        fn no_header_panics(
            arm in any::<bool>(),
            flips in prop::collection::vec((0usize..4096, any::<u8>()), 0..8),
            length in 0usize..=4096,
            native in prop_oneof![Just(Arch::X86_64), Just(Arch::Aarch64)],
        ) {
            let mut bytes = if arm { DEBIAN_ARM64.to_vec() } else { DEBIAN_AMD64.to_vec() };
            for (at, value) in flips {
                bytes[at] = value;
            }
            bytes.truncate(length);
            let _ = Header::parse("kernel", &bytes, native).map_err(|e| (e.to_string(), e.hint()));
        }
    }
}
