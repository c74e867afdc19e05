//! `cargo lab build`: phaseboot and the target init as static binaries.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::arch::Arch;
use crate::{elf, folders, run, toolchain};

/// 2.0 MB: what a payload may weigh.
pub(crate) const PAYLOAD_BUDGET: u64 = 2_000_000;

/// The binaries of one architecture.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) arch: Arch,
    /// The static phaseboot.
    pub(crate) payload: PathBuf,
    /// Its size in bytes.
    pub(crate) payload_size: u64,
    /// The second kernel's init.
    pub(crate) target_init: PathBuf,
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.payload_size <= PAYLOAD_BUDGET { "within" } else { "OVER" };
        write!(
            f,
            "payload {:<8} {:.2} MB static ({verdict} the budget of {:.1} MB)  {}",
            self.arch.gnu(),
            megabytes(self.payload_size),
            megabytes(PAYLOAD_BUDGET),
            self.payload.display()
        )
    }
}

/// Bytes as megabytes (powers of ten).
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Builds for `archs`; cargo sees to it that nothing is built twice.
pub(crate) fn payloads(archs: &[Arch]) -> Result<Vec<Built>> {
    let target = folders::payload_target();
    // A cargo call each: features that one of them wants must not reach the other.
    for (package, bin) in [("target-init", "target-init"), ("phaseboot", "phaseboot")] {
        let mut cargo = toolchain::cargo_build(archs, &target)?;
        cargo.args(["--locked", "--profile", "payload", "--package", package, "--bin", bin]);
        println!(
            "building {package} ({})",
            archs.iter().map(|arch| arch.target()).collect::<Vec<_>>().join(", ")
        );
        if let Err(error) = run::shown(&mut cargo) {
            bail!("{package}: {error:#}");
        }
    }
    built(archs, &target)
}

/// What is below `target`, a folder as `cargo lab build` leaves it: TARGET/payload/{phaseboot,target-init}.
pub(crate) fn built(archs: &[Arch], target: &Path) -> Result<Vec<Built>> {
    archs
        .iter()
        .map(|&arch| {
            let folder = target.join(arch.target()).join("payload");
            let (payload, target_init) = (folder.join("phaseboot"), folder.join("target-init"));
            let payload_size = elf::check_static(&payload, arch)?;
            elf::check_static(&target_init, arch)?;
            Ok(Built { arch, payload, payload_size, target_init })
        })
        .collect()
}
