//! What a kernel file is: what it is wrapped in, its format, its architecture and what its header asks
//! of a loader; and the ramdisks that go with it.
//!
//! What was verified is the file as it was published. It is unwrapped afterwards, in memory, into
//! sealed files of its own ([`unwrap`]): before any kexec call, so that a broken file leaves a kernel
//! that is loaded already as it is. [`Header`] is read from foreign bytes once, here; what it says is in
//! bounds and consistent, and nobody checks it again. A file a step a format: [`compressed`], [`zboot`],
//! [`uki`], [`bzimage`], [`arm64`]; [`foreign`] names the files that are not loadable.

pub mod archive;
pub mod arm64;
pub mod bzimage;
mod compressed;
mod foreign;
mod kernel;
mod part;
mod pe;
mod ramdisk;
#[cfg(test)]
pub(crate) mod testing;
mod uki;
mod unwrap;
mod zboot;

use std::io;

use rustix::io::Errno;

use crate::arch::Arch;
use crate::error::Exit;

pub use arm64::Arm64Image;
pub use bzimage::BzImage;
pub(crate) use compressed::gunzip;
pub use compressed::{Compression, Demand, Fault};
pub use foreign::Foreign;
pub use kernel::KernelImage;
pub use part::Part;
pub use ramdisk::Ramdisk;
pub use uki::{Trees, Uki};
pub use unwrap::{Limit, MOST_UNPACKED, Wrapper, Wrapping, at_most};

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
    /// A kernel for a kind of machine that phaseboot does not run on.
    #[error("{name} is a kernel for {found}")]
    OtherArch { name: &'static str, found: &'static str },
    /// A wrapping that does not unpack.
    #[error("{name} is a broken {wrapper}: {fault} (after {done} unpacked bytes)")]
    Unpack { name: &'static str, wrapper: Wrapper, done: u64, fault: Fault },
    /// A zstd frame for which the decoder would have to keep too much.
    #[error("{name} is a {wrapper} with a window of {size} bytes, over the limit of 128 MiB")]
    Window { name: &'static str, wrapper: Wrapper, size: u64 },
    /// More comes out than there is room for.
    #[error("{name} is larger than {} when it is unpacked", crate::log::bytes(*limit))]
    TooLarge { name: &'static str, limit: u64 },
    /// It is known before that there is no room for what comes out.
    #[error("{name} is not unpacked: {why}")]
    NoRoom { name: &'static str, why: String },
    /// Compressed in a way that is not undone here.
    #[error("{name} is an EFI zboot kernel compressed with \"{found}\"")]
    Compression { name: &'static str, found: String },
    /// A wrapping in a wrapping in a wrapping, and so on.
    #[error("{name} is wrapped too often")]
    TooDeep { name: &'static str },
    /// It is about what a wrapping holds.
    #[error("{error}, inside {wrappings}")]
    Within { wrappings: String, error: Box<Self> },
    /// What was published as a ramdisk is certainly none.
    #[error("{name} is {kind}, not a ramdisk")]
    NotRamdisk { name: &'static str, kind: Foreign },
    /// There is no memory for what was unwrapped.
    #[error("keep {name} in memory, {size} bytes so far: {error}")]
    Memory { name: &'static str, size: u64, error: io::Error },
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
            | Self::OldProtocol { .. }
            | Self::OtherArch { .. }
            | Self::Unpack { .. }
            | Self::Window { .. }
            | Self::Compression { .. }
            | Self::TooDeep { .. }
            | Self::NotRamdisk { .. } => Exit::ImageUnusable,
            Self::TooLarge { limit, .. } if *limit >= MOST_UNPACKED => Exit::ImageUnusable,
            Self::TooLarge { .. } | Self::NoRoom { .. } | Self::Memory { .. } | Self::Map { .. } => {
                Exit::NotEnoughMemory
            }
            Self::Within { error, .. } => error.exit(),
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Foreign { kind, .. } => kind.hint(),
            Self::WrongArch { .. } => "use the kernel that was built for this architecture",
            Self::OtherArch { .. } => "use a 64-bit kernel for x86_64 or arm64",
            Self::Truncated { .. } | Self::Unpack { .. } => "check the file: it must be whole",
            Self::Window { .. } => "compress it without --long, or with --long=27 at the most",
            Self::Malformed { .. } => "use an unmodified bzImage (x86_64) or Image (arm64)",
            Self::OldProtocol { .. } => "use a kernel of Linux 3.8 or newer",
            Self::Compression { .. } => {
                "build it with CONFIG_KERNEL_GZIP or CONFIG_KERNEL_ZSTD, or use arch/arm64/boot/Image"
            }
            Self::TooDeep { .. } => "use the kernel that is in it",
            Self::TooLarge { limit, .. } if *limit >= MOST_UNPACKED => "check that this is the right file",
            Self::TooLarge { .. } | Self::NoRoom { .. } | Self::Memory { .. } | Self::Map { .. } => {
                "give the machine more memory"
            }
            Self::NotRamdisk { kind, .. } => kind.hint(),
            Self::Within { error, .. } => error.hint(),
        }
    }

    /// The same about what is inside `wrappings`.
    fn within(self, wrappings: &[Wrapping]) -> Self {
        if wrappings.is_empty() {
            return self;
        }
        Self::Within { wrappings: Wrapping::list(wrappings), error: Box::new(self) }
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
        match arch(bytes) {
            Some(Arch::X86_64) if native != Arch::X86_64 => {
                Err(Error::WrongArch { name, found: "x86", native })
            }
            Some(Arch::Aarch64) if native != Arch::Aarch64 => {
                Err(Error::WrongArch { name, found: "arm64", native })
            }
            _ => Self::of(name, bytes),
        }
    }

    /// Reads the header of the kernel file `bytes`, which errors call `name`, for whichever
    /// architecture it is.
    pub fn of(name: &'static str, bytes: &[u8]) -> Result<Self, Error> {
        match (arch(bytes), foreign::other_kernel(bytes)) {
            (Some(Arch::X86_64), _) => BzImage::parse(name, bytes).map(Self::BzImage),
            (Some(Arch::Aarch64), _) => Arm64Image::parse(name, bytes).map(Self::Arm64),
            (None, Some(found)) => Err(Error::OtherArch { name, found }),
            (None, None) => {
                Err(Error::Foreign { name, kind: foreign::recognise(bytes), size: bytes.len() as u64 })
            }
        }
    }

    /// The architecture the kernel is for.
    pub fn arch(&self) -> Arch {
        match self {
            Self::BzImage(_) => Arch::X86_64,
            Self::Arm64(_) => Arch::Aarch64,
        }
    }

    /// The version that stands in the kernel `bytes`.
    fn version(&self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::BzImage(header) => header.version(bytes),
            Self::Arm64(_) => arm64::version(bytes),
        }
    }

    /// The longest command line this kernel reads whole, in bytes without the final NUL.
    pub fn cmdline_limit(&self) -> usize {
        match self {
            Self::BzImage(header) => header.cmdline_limit(),
            Self::Arm64(_) => arm64::CMDLINE_LIMIT,
        }
    }
}

/// The architecture of the kernel that `bytes` carry the marks of.
fn arch(bytes: &[u8]) -> Option<Arch> {
    if bzimage::is(bytes) {
        Some(Arch::X86_64)
    } else if arm64::is(bytes) {
        Some(Arch::Aarch64)
    } else {
        None
    }
}

/// `N` bytes at `offset`, if they are there.
pub(crate) fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// The text at the beginning of `bytes`, as far as it is one line.
fn line_at(bytes: &[u8]) -> Option<String> {
    /// Versions are shorter, even with compilers and dates.
    const MOST: usize = 400;
    let bytes = bytes.get(..MOST).unwrap_or(bytes);
    let line = bytes.split(|&byte| byte == 0 || byte == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line).ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
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
