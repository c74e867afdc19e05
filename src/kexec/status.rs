//! What is loaded, and whether this process may load anything at all.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::{Error, Method, aarch64};
use crate::paths::Paths;

/// What waits in the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// For reboot(2).
    pub kernel: bool,
    /// For a panic.
    pub crash_kernel: bool,
}

/// Looks what is loaded. Needs no privilege.
pub fn status(paths: &Paths) -> Result<Status, Error> {
    let path = paths.kexec_loaded();
    let kernel = match fs::read_to_string(&path) {
        Ok(text) => is_one(&text),
        // Without /sys it is not known.
        Err(source)
            if source.kind() != ErrorKind::NotFound || path.parent().is_none_or(|sys| !sys.exists()) =>
        {
            return Err(Error::Read { path: path.display().to_string(), source });
        }
        Err(_) => return Err(Error::Missing { method: Method::Auto }),
    };
    let crash_kernel = fs::read_to_string(paths.kexec_crash_loaded()).is_ok_and(|text| is_one(&text));
    Ok(Status { kernel, crash_kernel })
}

fn is_one(text: &str) -> bool {
    text.trim() == "1"
}

/// Whether this process has CAP_SYS_BOOT, without which the kernel lets nobody load or start another.
pub fn may_boot() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_BOOT))
}

/// reboot(2) into a kernel works in the first process namespace alone, capabilities count in the first
/// user namespace alone. The first ones have fixed numbers: include/linux/proc_ns.h of the kernel.
pub fn is_contained(paths: &Paths) -> bool {
    const FIRST: [(&str, &str); 2] = [("pid", "pid:[4026531836]"), ("user", "user:[4026531837]")];
    FIRST.iter().any(|(kind, first)| {
        fs::read_link(paths.namespaces().join(kind)).is_ok_and(|found| found != Path::new(first))
    })
}

/// Whether the kernel would start another one for this process: reboot(2) and reboot_pid_ns() of
/// kernel/pid_namespace.c.
pub fn may_start(paths: &Paths) -> Result<(), Error> {
    let reason = match (may_boot(), is_contained(paths)) {
        (false, _) => "CAP_SYS_BOOT is missing",
        (true, true) => "it is in a process or user namespace of its own",
        (true, false) => return Ok(()),
    };
    Err(Error::MayNotStart { reason })
}

/// The tables in memory that a GICv3 keeps using, as the kernel log tells. Physical addresses. An error if
/// there are some, and the log has lost what it told of them.
pub fn live_tables(paths: &Paths) -> Result<Vec<Range<u64>>, Error> {
    aarch64::live_tables(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn what_is_loaded_is_read_or_the_reason_is_given() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let error = status(&paths).unwrap_err();
        assert_eq!(error.exit(), Exit::LoadFailed, "{error}");
        fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
        let error = status(&paths).unwrap_err();
        assert_eq!(error.exit(), Exit::KexecUnavailable, "{error}");
        for (loaded, crash, expected) in [
            ("0\n", None, (false, false)),
            ("1\n", Some("0\n"), (true, false)),
            ("0\n", Some("1\n"), (false, true)),
            ("", Some("x"), (false, false)),
        ] {
            fs::write(paths.kexec_loaded(), loaded).unwrap();
            if let Some(crash) = crash {
                fs::write(paths.kexec_crash_loaded(), crash).unwrap();
            }
            let Status { kernel, crash_kernel } = status(&paths).unwrap();
            assert_eq!((kernel, crash_kernel), expected);
        }
    }
}
