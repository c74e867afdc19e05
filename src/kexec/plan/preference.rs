//! Where kexec_load does better with a kernel that kexec_file_load would take as well.
//!
//! kexec_file_load comes first because the running kernel judges what it loads then: its keys, its security
//! modules, its own parser. That judgement can be had without loading.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Attempt, Target};
use crate::arch::Arch;
use crate::kexec::admission::Needs;
use crate::kexec::{Availability, Call, Preflight};
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

/// What kexec_load would do better than kexec_file_load, if these are the calls, the latter may be asked, and
/// nothing is missed with the former.
pub(super) fn gain(
    attempts: &[Attempt],
    needs: &Needs,
    preflight: &Preflight,
    paths: &Paths,
) -> Option<Gain> {
    let [Attempt::FileLoad { .. }, Attempt::Load(plan)] = attempts else { return None };
    // Where loads are counted, none is to spare.
    if preflight.file_load != Availability::Available || !plan.log_was_whole {
        return None;
    }
    let screen = plan.hands_on_screen.then_some(Gain::Screen);
    let gain = screen.or_else(|| long_hash(needs).map(Gain::Unhashed))?;
    (!loses(paths)).then_some(gain)
}

/// Whether the running kernel would load this by kexec_file_load, and IMA has noted neither file by that.
/// Nothing is loaded, and what was loaded before stays.
pub(super) fn is_approved(target: &Target, paths: &Paths) -> bool {
    let answer = sys::kexec::judge_files(target.kernel.as_fd(), target.ramdisk.as_ref().map(AsFd::as_fd));
    if answer != Errno::FAULT {
        log::debug!("kexec_file_load stays first: {answer}");
        return false;
    }
    !measures(paths)
}

/// What hands on more than the files by kexec_file_load: IMA's list (CONFIG_IMA_KEXEC), which the kernel writes
/// at the jump, into memory of the image that was loaded last by that call, whatever is loaded now; and what is
/// to survive a live update (CONFIG_KEXEC_HANDOVER).
const HANDS_ON: [&str; 2] = ["ima_add_kexec_buffer", "kho_fill_kimage"];

/// Whether something would be lost by kexec_load, or nobody can tell.
fn loses(paths: &Paths) -> bool {
    if measures(paths) {
        return true;
    }
    let Ok(symbols) = File::open(paths.kallsyms()) else { return true };
    let mut is_empty = true;
    let has = BufReader::new(symbols).lines().any(|line| {
        is_empty = false;
        !line.is_ok_and(|line| !HANDS_ON.iter().any(|function| line.ends_with(function)))
    });
    if has || is_empty {
        log::info!("kexec_file_load stays first: it may hand on more");
    }
    has || is_empty
}

/// Whether IMA keeps a list, or nobody can tell. Without a policy its one entry is the firmware's:
/// security/integrity/ima/ima_init.c.
fn measures(paths: &Paths) -> bool {
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let measures = match fs::read_to_string(paths.ima_measurements()) {
        Ok(text) => !text.trim().parse().is_ok_and(|count: u64| count <= 1),
        Err(error) if is_missing(&error) => match fs::read_dir(paths.security()) {
            // An empty one is not mounted.
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => !is_missing(&error),
        },
        Err(_) => true,
    };
    if measures {
        log::info!("kexec_file_load stays first: IMA measures what it is given");
    }
    measures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kexec::LoadPlan;

    fn file() -> Attempt {
        Attempt::FileLoad { cmdline: c"quiet".into() }
    }

    fn load(hands_on_screen: bool, log_was_whole: bool) -> Attempt {
        Attempt::Load(LoadPlan { entry: 0, segments: vec![], hands_on_screen, log_was_whole })
    }

    fn found(file_load: Availability) -> Preflight {
        let calls = [Call::FileLoad, Call::Load];
        Preflight::for_tests(sys::arch::NATIVE, file_load, Availability::Available, &calls)
    }

    #[test]
    fn kexec_load_is_preferred_for_a_reason_and_over_kexec_file_load_alone() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let (small, large) = (Needs::loading(1 << 20, 1 << 20, 0), Needs::loading(1 << 20, LONG_HASH - 1, 1));
        let hashed = loads(Arch::X86_64).then_some(Gain::Unhashed(LONG_HASH));
        let free = found(Availability::Available);
        fs::create_dir_all(root.path().join("proc")).unwrap();
        assert_eq!(gain(&[file(), load(true, true)], &large, &free, &paths), None, "nobody knows");
        fs::write(paths.kallsyms(), "0000000000000000 T _text\n").unwrap();
        for (attempts, needs, expected) in [
            (vec![file(), load(false, true)], &small, None),
            (vec![file(), load(true, true)], &small, Some(Gain::Screen)),
            (vec![file(), load(false, true)], &large, hashed),
            (vec![file(), load(true, false)], &large, None),
            (vec![load(true, true), file()], &large, None),
            (vec![file()], &large, None),
            (vec![load(true, true)], &large, None),
        ] {
            assert_eq!(gain(&attempts, needs, &free, &paths), expected, "{attempts:?}");
        }
        // Where loads are counted, each question is one.
        let attempts = [file(), load(true, true)];
        assert_eq!(gain(&attempts, &large, &found(Availability::Unknown), &paths), None);
        let with = |symbols: &[u8]| {
            fs::write(paths.kallsyms(), symbols).unwrap();
            gain(&attempts, &large, &free, &paths)
        };
        assert_eq!(with(b"0000000000000000 T kimage_free\n"), Some(Gain::Screen));
        assert_eq!(with(b"0000000000000000 T kimage_free\n0000000000000000 T ima_add_kexec_buffer\n"), None);
        assert_eq!(with(b"ffffffff8118c1d0 T kho_fill_kimage\n"), None);
        assert_eq!(with(b"ffffffff8118c1d0 T kho_fill_kimages\nx\n\n"), Some(Gain::Screen));
        assert_eq!(with(b""), None, "nobody knows");
        assert_eq!(with(b"0000000000000000 T kimage_free\n\xff\n"), None, "nobody knows the rest");
        fs::create_dir_all(paths.security()).unwrap();
        assert_eq!(with(b"0000000000000000 T kimage_free\n"), None, "IMA may measure");
    }

    #[test]
    fn a_list_of_one_entry_is_no_policys() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert!(!measures(&paths), "there is nothing of the kind");
        fs::create_dir_all(paths.security()).unwrap();
        assert!(measures(&paths), "it may not be mounted");
        fs::write(paths.security().join("lsm"), "capability").unwrap();
        assert!(!measures(&paths), "there is no IMA");
        fs::create_dir_all(paths.ima_measurements()).unwrap();
        assert!(measures(&paths), "it cannot be read");
        fs::remove_dir(paths.ima_measurements()).unwrap();
        for (text, expected) in [("0\n", false), ("1\n", false), ("2\n", true), ("1374\n", true), ("", true)]
        {
            fs::write(paths.ima_measurements(), text).unwrap();
            assert_eq!(measures(&paths), expected, "{text:?}");
        }
    }
}
