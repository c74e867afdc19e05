//! What kexec_load is given on x86_64: the protected-mode kernel, the ramdisk, the boot parameters,
//! and a trampoline to the kernel's 64-bit entry point. Documentation/arch/x86/boot.rst.

use super::Error;
use super::plan::LoadPlan;
use crate::image::BzImage;
use crate::paths::Paths;

/// What the running kernel knows of the machine and the next one has to be told.
#[derive(Debug)]
pub(super) struct Machine;

impl Machine {
    /// Reads it from /sys/firmware/memmap, /sys/kernel/boot_params and /sys/firmware/efi.
    pub(super) fn read(_paths: &Paths) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// What a plan is made from. Sizes in bytes.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) kernel: &'a BzImage,
    /// The kernel file: its setup header is copied.
    pub(super) image: &'a [u8],
    pub(super) initrd_file: Option<u64>,
    pub(super) cmdline: &'a str,
    /// Whether a seed for the random generator is handed on.
    pub(super) seed: bool,
    /// The page size: kexec_load takes whole pages only.
    pub(super) page: u64,
}

/// Places everything in the machine's memory and writes the boot parameters for it.
pub(super) fn plan(_machine: &Machine, _parts: Parts<'_>) -> Result<LoadPlan, Error> {
    Err(Error::NoWay)
}
