//! The architecture this program was built for: the one place that asks.

use crate::arch::Arch;

/// The architecture of the running machine.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: Arch = Arch::X86_64;

/// The architecture of the running machine.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: Arch = Arch::Aarch64;

/// Whether what is done for kernels of `arch` alone is ever done here. The answer is known when the program is
/// built, so that a payload leaves out how the other architecture's kernels are loaded. Tests have both.
pub const fn loads(arch: Arch) -> bool {
    cfg!(test) || matches!((arch, NATIVE), (Arch::X86_64, Arch::X86_64) | (Arch::Aarch64, Arch::Aarch64))
}
