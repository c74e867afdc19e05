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
    /// `XLF_CAN_BE_LOADED_ABOVE_4G` is missing.
    #[error("kexec_file_load takes no kernel that has to stay below 4 GiB")]
    Low,
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoFirmwareMap | Self::Confidential { .. } | Self::FiveLevel | Self::Low => Exit::LoadFailed,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoFirmwareMap => "mount /sys, or use --method file",
            Self::Confidential { .. } => "use --method file",
            Self::Low => "use --method load, or a kernel with CONFIG_RELOCATABLE",
            Self::FiveLevel => "start the first kernel with no5lvl, or use a kernel of Linux 4.17 or newer",
        }
    }
}
