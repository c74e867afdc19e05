//! The budgets, measured: times against the way people do it without phaseboot, sizes against limits.

use crate::arch::Arch;
use crate::build::{Built, PAYLOAD_BUDGET, megabytes};
use crate::e2e::{Outcome, Times};

/// 1.3 MB: what an initramfs with modules may weigh.
const INITRAMFS_BUDGET: u64 = 1_300_000;

/// Seconds from PID 1 to kexec exec on the same machine (2 CPUs, TCG, `-cpu max`) and kernel, for a
/// shell init with busybox udhcpc, wget, sha256sum and `kexec -l`.
fn shell_init(arch: Arch) -> f64 {
    match arch {
        Arch::X86_64 => 2.24,
        Arch::Aarch64 => 2.39,
    }
}

/// Prints the table. Only runs that had the host for themselves are in it.
pub(crate) fn print<'a>(outcomes: &[Outcome], built: impl Iterator<Item = &'a Built>) {
    println!("\nbudgets (seconds since PID 1 started; a shell init with kexec -l for comparison)");
    println!(
        "{:<28} {:>8} {:>9} {:>8} {:>10} {:>9}",
        "", "lease", "verified", "exec", "shell init", "handover"
    );
    for outcome in outcomes.iter().filter(|outcome| outcome.scenario.timed) {
        let Ok(times) = &outcome.result else { continue };
        let arch = outcome.scenario.machine.arch;
        let compared = if outcome.scenario.kernel == crate::kernels::Id::Debian61(arch) {
            format!("{:.2}", shell_init(arch))
        } else {
            "-".to_owned()
        };
        println!(
            "{:<28} {:>8} {:>9} {:>8} {:>10} {:>9}",
            outcome.scenario.full_name(),
            seconds(times.lease),
            seconds(times.verified),
            seconds(times.exec),
            compared,
            seconds(times.handover)
        );
    }
    for built in built {
        size(&format!("payload {}", built.arch), built.payload_size, PAYLOAD_BUDGET);
    }
    for arch in Arch::ALL {
        let of_arch =
            outcomes.iter().filter(|outcome| outcome.scenario.kernel == crate::kernels::Id::Debian61(arch));
        let largest =
            of_arch.filter_map(|outcome| outcome.result.as_ref().ok()).map(|times: &Times| times.initramfs);
        if let Some(largest) = largest.max() {
            size(&format!("initramfs {arch}"), largest, INITRAMFS_BUDGET);
        }
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn size(name: &str, bytes: u64, budget: u64) {
    let verdict = if bytes <= budget { "within" } else { "OVER" };
    println!("{name:<28} {:.2} MB, {verdict} {:.1} MB", megabytes(bytes), megabytes(budget));
}
