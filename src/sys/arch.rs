//! The architecture this program was built for: the one place that asks.

use crate::arch::Arch;

/// The architecture of the running machine.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: Arch = Arch::X86_64;

/// The architecture of the running machine.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: Arch = Arch::Aarch64;
