//! Where kexec_load does better with a kernel that kexec_file_load would take as well.
//!
//! kexec_file_load comes first because the running kernel judges the image then: its keys, its security
//! modules, its own parser. For that judgement it need not be given the ramdisk, nor keep the kernel.

use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::os::fd::AsFd;

use crate::arch::Arch;
use crate::image::KernelImage;
use crate::kexec::admission::Needs;
use crate::kexec::handoff::unload;
use crate::kexec::{Attempt, Availability, Call, Preflight, status};
use crate::log::bytes;
use crate::paths::Paths;
use crate::sys;
use crate::sys::arch::loads;

/// 128 MiB: from here on it takes most of a second.
const LONG_HASH: u64 = 128 << 20;

/// What kexec_load does better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gain {
    /// It does not have so many bytes hashed.
    Unhashed(u64),
    /// The next kernel learns of the screen.
    Screen,
}

impl fmt::Display for Gain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unhashed(size) => {
                write!(f, "with it the kernel does not hash {} before it jumps", bytes(*size))
            }
            Self::Screen => f.write_str("with it the next kernel keeps the screen"),
        }
    }
}

/// The bytes that kexec_file_load has hashed once more before the jump, if they are many, zeros behind the
/// files too: kexec_calculate_store_digests() of kernel/kexec_file.c, verify_sha256_digest() of
/// arch/x86/purgatory/purgatory.c. arm64 has no such purgatory.
pub(super) fn long_hash(needs: &Needs) -> Option<u64> {
    Some(needs.segments(Call::FileLoad)).filter(|&size| loads(Arch::X86_64) && size >= LONG_HASH)
}

/// What kexec_load would do better than kexec_file_load, if these are the calls and the latter may be asked.
pub(super) fn gain(attempts: &[Attempt], needs: &Needs, preflight: &Preflight) -> Option<Gain> {
    let [Attempt::FileLoad { .. }, Attempt::Load(plan)] = attempts else { return None };
    // Where loads are counted, none is to spare.
    if preflight.file_load != Availability::Available {
        return None;
    }
    let screen = plan.hands_on_screen.then_some(Gain::Screen);
    screen.or_else(|| long_hash(needs).map(Gain::Unhashed))
}

/// Whether the running kernel would load this one by kexec_file_load, and nobody would miss that it did.
/// Nothing is loaded afterwards; what was loaded before is not given up for the question.
pub(super) fn is_approved(kernel: &KernelImage, cmdline: &CStr, paths: &Paths) -> bool {
    if !status(paths).is_ok_and(|status| !status.kernel) {
        return false;
    }
    if let Err(errno) = sys::kexec::file_load(kernel.as_fd(), None, cmdline) {
        log::debug!("kexec_file_load does not take the kernel alone: {errno}");
        return false;
    }
    if let Err(error) = unload(paths) {
        log::warn!("{error}");
        return false;
    }
    if measures(paths) {
        log::info!("IMA measures what kexec_file_load is given, and not what kexec_load is");
        return false;
    }
    true
}

/// Whether IMA keeps a list: without a policy there is only its first entry, the firmware's.
/// security/integrity/ima/ima_init.c
fn measures(paths: &Paths) -> bool {
    let count = fs::read_to_string(paths.ima_measurements()).ok();
    count.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|count| count > 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kexec::LoadPlan;

    fn file() -> Attempt {
        Attempt::FileLoad { cmdline: c"quiet".into() }
    }

    fn load(hands_on_screen: bool) -> Attempt {
        Attempt::Load(LoadPlan { entry: 0, segments: vec![], hands_on_screen })
    }

    fn found(file_load: Availability) -> Preflight {
        let calls = [Call::FileLoad, Call::Load];
        Preflight::for_tests(sys::arch::NATIVE, file_load, Availability::Available, &calls)
    }

    #[test]
    fn kexec_load_is_preferred_for_a_reason_and_over_kexec_file_load_alone() {
        let (small, large) = (Needs::loading(1 << 20, 1 << 20, 0), Needs::loading(1 << 20, LONG_HASH - 1, 1));
        let hashed = loads(Arch::X86_64).then_some(Gain::Unhashed(LONG_HASH));
        let free = found(Availability::Available);
        for (attempts, needs, expected) in [
            (vec![file(), load(false)], &small, None),
            (vec![file(), load(true)], &small, Some(Gain::Screen)),
            (vec![file(), load(false)], &large, hashed),
            (vec![load(true), file()], &large, None),
            (vec![file()], &large, None),
            (vec![load(true)], &large, None),
        ] {
            assert_eq!(gain(&attempts, needs, &free), expected, "{attempts:?}");
        }
        // Where loads are counted, each question is one.
        assert_eq!(gain(&[file(), load(true)], &large, &found(Availability::Unknown)), None);
    }

    #[test]
    fn a_list_of_one_entry_is_no_policys() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert!(!measures(&paths));
        fs::create_dir_all(paths.ima_measurements().parent().unwrap()).unwrap();
        for (text, expected) in [("0\n", false), ("1\n", false), ("2\n", true), ("1374\n", true), ("", false)]
        {
            fs::write(paths.ima_measurements(), text).unwrap();
            assert_eq!(measures(&paths), expected, "{text:?}");
        }
    }
}
