//! Can this kernel start another one? Asked before a byte is downloaded.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::{Call, Error, Method};
use crate::arch::Arch;
use crate::paths::Paths;
use crate::sys;

/// kernel_lockdown(7)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Off, not built in, or securityfs is not mounted.
    None,
    Integrity,
    Confidentiality,
}

impl Lockdown {
    /// Reads `none [integrity] confidentiality`: the active mode is in brackets.
    fn parse(text: &str) -> Self {
        match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
            Some(("integrity", _)) => Self::Integrity,
            Some(("confidentiality", _)) => Self::Confidentiality,
            _ => Self::None,
        }
    }
}

/// What a call answers when nothing is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    Available,
    /// ENOSYS
    Missing,
    Refused(Errno),
    /// Not asked: asking would use up one of the loads that `kexec_load_limit_reboot` leaves.
    Unknown,
}

impl From<Errno> for Availability {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOSYS => Self::Missing,
            Errno::PERM | Errno::ACCESS => Self::Refused(errno),
            _ => Self::Available,
        }
    }
}

impl Availability {
    fn may_work(self) -> bool {
        matches!(self, Self::Available | Self::Unknown)
    }
}

/// A kernel that can start another one, and by which calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    pub arch: Arch,
    pub file_load: Availability,
    pub load: Availability,
    pub lockdown: Lockdown,
    calls: Vec<Call>,
}

impl Preflight {
    #[cfg(test)]
    pub(super) fn for_tests(arch: Arch, file_load: Availability, load: Availability, calls: &[Call]) -> Self {
        Self { arch, file_load, load, lockdown: Lockdown::None, calls: calls.to_vec() }
    }

    /// The calls to try, in this order. Never empty.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }
}

/// Looks at the running kernel. Loads nothing and unloads nothing.
pub fn preflight(paths: &Paths, method: Method) -> Result<Preflight, Error> {
    if sysctl(&paths.kexec_load_disabled())? == Some(1) {
        return Err(Error::Disabled);
    }
    let (file_load, load) = match sysctl(&paths.kexec_load_limit())? {
        Some(0) => return Err(Error::Exhausted),
        Some(1..) => (Availability::Unknown, Availability::Unknown),
        Some(..0) | None => (sys::kexec::probe_file_load().into(), sys::kexec::probe_load().into()),
    };
    let lockdown = Lockdown::parse(&fs::read_to_string(paths.lockdown()).unwrap_or_default());
    let found = judge(sys::arch::NATIVE, method, file_load, load, lockdown)?;
    log::debug!("kexec_file_load {file_load:?}, kexec_load {load:?}, lockdown {lockdown:?}");
    Ok(found)
}

/// A sysctl's number. A kernel without the sysctl does not limit anything.
fn sysctl(path: &Path) -> Result<Option<i64>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.display().to_string(), source }),
    }
}

/// Which calls to try on a machine of this kind.
fn judge(
    arch: Arch,
    method: Method,
    file_load: Availability,
    load: Availability,
    lockdown: Lockdown,
) -> Result<Preflight, Error> {
    let wanted: &[Call] = match method {
        Method::Auto => &[Call::FileLoad, Call::Load],
        Method::File => &[Call::FileLoad],
        Method::Load => &[Call::Load],
    };
    let availability = |call| match call {
        Call::FileLoad => file_load,
        Call::Load => load,
    };
    let calls: Vec<Call> = wanted.iter().copied().filter(|&call| availability(call).may_work()).collect();
    if !calls.is_empty() {
        return Ok(Preflight { arch, file_load, load, lockdown, calls });
    }
    // The refusal says more than the absence of the other call.
    for &call in wanted {
        if let Availability::Refused(errno) = availability(call) {
            return Err(match (call, lockdown) {
                (Call::Load, Lockdown::Integrity) => Error::LockedDown { mode: "integrity".to_owned() },
                (Call::Load, Lockdown::Confidentiality) => {
                    Error::LockedDown { mode: "confidentiality".to_owned() }
                }
                _ => Error::NotPermitted { call, errno },
            });
        }
    }
    Err(Error::Missing { method })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use Availability::{Available, Missing, Refused, Unknown};

    fn calls(arch: Arch, method: Method, file: Availability, load: Availability) -> Result<Vec<Call>, Error> {
        judge(arch, method, file, load, Lockdown::None).map(|found| found.calls)
    }

    #[test]
    fn file_first_then_load_where_we_can() {
        let both = [Call::FileLoad, Call::Load];
        assert_eq!(calls(Arch::Aarch64, Method::Auto, Available, Available).unwrap(), both);
        assert_eq!(calls(Arch::Aarch64, Method::Auto, Unknown, Unknown).unwrap(), both);
        assert_eq!(calls(Arch::Aarch64, Method::Auto, Missing, Available).unwrap(), [Call::Load]);
        assert_eq!(calls(Arch::X86_64, Method::Auto, Available, Available).unwrap(), both);
        assert_eq!(calls(Arch::X86_64, Method::Load, Missing, Available).unwrap(), [Call::Load]);
        assert_eq!(calls(Arch::Aarch64, Method::Load, Available, Available).unwrap(), [Call::Load]);
    }

    #[test]
    fn each_blocker_has_its_own_error() {
        for method in [Method::Auto, Method::File, Method::Load] {
            let error = calls(Arch::Aarch64, method, Missing, Missing).unwrap_err();
            assert_eq!(error.exit(), Exit::KexecUnavailable);
            assert!(error.to_string().starts_with("this kernel was built without kexec"));
        }
        let refused = Refused(Errno::PERM);
        let error = judge(Arch::Aarch64, Method::Auto, Missing, refused, Lockdown::Integrity).unwrap_err();
        assert_eq!(error.exit(), Exit::KexecRefused);
        let error = calls(Arch::Aarch64, Method::Auto, refused, refused).unwrap_err();
        assert!(matches!(error, Error::NotPermitted { call: Call::FileLoad, .. }));
    }

    #[test]
    fn the_lockdown_mode_is_in_brackets() {
        assert_eq!(Lockdown::parse("[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(Lockdown::parse("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(Lockdown::parse("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
        assert_eq!(Lockdown::parse(""), Lockdown::None);
    }

    #[test]
    fn the_sysctls_are_read_first() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
        fs::write(paths.kexec_load_limit(), "0\n").unwrap();
        assert!(matches!(preflight(&paths, Method::Auto), Err(Error::Exhausted)));
        fs::write(paths.kexec_load_disabled(), "1\n").unwrap();
        let error = preflight(&paths, Method::Auto).unwrap_err();
        assert_eq!(error.exit(), Exit::KexecUnavailable);
        assert!(error.hint().contains("reboot"));
    }
}
