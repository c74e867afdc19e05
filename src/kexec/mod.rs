//! From a recognised kernel into it: can this machine (preflight), how (plan), the system call
//! (load), and the hand-over (exec).
//!
//! `Target` + [`Preflight`] -> [`Plan`] -> [`Loaded`] -> the next kernel. A plan takes a
//! [`KernelImage`](crate::image::KernelImage) and a [`VerifiedArtifact`](crate::fetch::VerifiedArtifact),
//! so nothing else can get in.

mod aarch64;
pub mod admission;
mod attempt;
pub mod cmdline;
mod errno;
mod error;
mod handoff;
mod kmsg;
mod memory;
mod plan;
mod preflight;
mod ranges;
mod status;
mod x86_64;

use std::fmt;

pub use crate::config::{Handoff, Kaslr, Method};
pub use aarch64::{Layout, Pieces, place};
pub use attempt::{Attempted, Untried};
pub use errno::{Meaning, explain};
pub use error::Error;
pub use handoff::{Loaded, exec_loaded, unload};
pub use memory::MemoryMap;
pub use plan::{Attempt, Content, LoadPlan, Plan, Segment, Target, cmdline_limit};
pub use preflight::{Availability, Lockdown, Preflight, preflight, presume};
pub use ranges::Ranges;
pub use status::{Status, is_contained, live_tables, may_boot, may_start, status};
pub use x86_64::Error as X86Error;

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
