//! What keeps kexec_load from starting an x86_64 kernel.

use crate::error::Exit;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither /sys/firmware/memmap nor /sys/kernel/boot_params says where memory is.
    #[error("no memory map of the firmware: /sys/firmware/memmap and /sys/kernel/boot_params have none")]
    NoFirmwareMap,
    /// Its memory is encrypted, and its pages must be accepted or marked by whoever uses them.
    #[error("this is a confidential guest ({kind}): kexec_load cannot hand over its memory")]
    Confidential { kind: &'static str },
    /// `XLF_5LEVEL` is missing, and LA57 cannot be switched off on the way.
    #[error("this kernel runs with 5-level paging, and the next one does not know it")]
    FiveLevel,
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoFirmwareMap | Self::Confidential { .. } | Self::FiveLevel => Exit::LoadFailed,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoFirmwareMap => "mount /sys, or use --method file",
            Self::Confidential { .. } => "use --method file",
            Self::FiveLevel => "start the first kernel with no5lvl, or use a kernel of Linux 4.17 or newer",
        }
    }
}
