//! From a recognised kernel into it: can this machine (preflight), how (plan), the system call
//! (load), and the hand-over (exec).
//!
//! `Target` + [`Preflight`] -> [`Plan`] -> [`Loaded`] -> the next kernel. A plan takes a
//! [`KernelImage`](crate::image::KernelImage) and a [`VerifiedArtifact`](crate::fetch::VerifiedArtifact),
//! so nothing else can get in.

mod aarch64;
pub mod cmdline;
mod errno;
mod error;
mod gic;
mod handoff;
mod memory;
mod placement;
mod plan;
mod preflight;
mod ranges;

use std::fmt;
use std::str::FromStr;

pub use errno::{Meaning, explain};
pub use error::{Attempted, Error};
pub use handoff::{Loaded, unload};
pub use memory::MemoryMap;
pub use placement::{Layout, Pieces, place};
pub use plan::{Attempt, Content, LoadPlan, Plan, Segment, Target};
pub use preflight::{Availability, Lockdown, Preflight, preflight};
pub use ranges::Ranges;

/// A system call that loads a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// kexec_file_load(2): the kernel places everything itself.
    FileLoad,
    /// kexec_load(2): we do.
    Load,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileLoad => "kexec_file_load",
            Self::Load => "kexec_load",
        })
    }
}

/// Which calls may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// kexec_file_load, and kexec_load where that cannot do it.
    #[default]
    Auto,
    File,
    Load,
}

/// The text names no method.
#[derive(Debug, thiserror::Error)]
#[error("unknown kexec method \"{}\" (known: auto, file, load)", crate::error::printable(.0))]
pub struct UnknownMethod(String);

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        match name {
            "auto" => Ok(Self::Auto),
            "file" => Ok(Self::File),
            "load" => Ok(Self::Load),
            other => Err(UnknownMethod(other.to_owned())),
        }
    }
}

/// What becomes of address-space randomisation (KASLR) in the next kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kaslr {
    /// Fresh seeds from this kernel's generator.
    #[default]
    Seed,
    /// None. Where the kernel makes the seeds itself (kexec_file_load), `nokaslr` is added to the
    /// command line; where we write the device tree (kexec_load), both seeds are left out.
    Zero,
}
