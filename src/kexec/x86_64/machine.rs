//! What the running kernel knows of the machine and the next one has to be told.

use super::e820::Entry;
use super::efi::Efi;
use crate::kexec::Ranges;

/// `RNG_SEED_LENGTH` of arch/x86/kernel/kexec-bzimage64.c, in bytes.
pub(super) const SEED: usize = 32;

/// The machine.
#[derive(Debug)]
pub(in crate::kexec) struct Machine {
    /// Memory that the running kernel lets go of and the next one takes for memory, too.
    pub(super) memory: Ranges,
    /// The firmware's memory map, ascending. Never empty.
    pub(super) e820: Vec<Entry>,
    /// The running kernel's zero page; empty if it does not show it.
    pub(super) boot_params: Vec<u8>,
    /// The physical address of ACPI's root pointer; 0 if nobody knows it.
    pub(super) rsdp: u64,
    pub(super) efi: Handover,
    /// CR4.LA57
    pub(super) five_level: bool,
    /// What encrypts this guest's memory.
    pub(super) confidential: Option<&'static str>,
    /// Nothing that the kernel log alone tells has been lost.
    pub(super) log_is_whole: bool,
    pub(super) seed: Option<Seed>,
}

/// What becomes of EFI.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handover {
    /// The machine has none, as far as the running kernel knows.
    None,
    /// Its runtime services cannot be handed on, for this reason.
    Lost(&'static str),
    Whole(Efi),
}

/// Fresh random bytes for the next kernel's generator.
pub(super) struct Seed(pub(super) [u8; SEED]);

/// Without the bytes.
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed")
    }
}
