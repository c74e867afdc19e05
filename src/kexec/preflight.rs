//! Can this kernel start another one? Asked before a byte is downloaded.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::errno::explain;
use super::{Call, Error, Method, Untried};
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
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
            Some(("integrity", _)) => Self::Integrity,
            Some(("confidentiality", _)) => Self::Confidentiality,
            _ => Self::None,
        }
    }

    /// Its name, if it is on.
    pub fn mode(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Integrity => Some("integrity"),
            Self::Confidentiality => Some("confidentiality"),
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
    untried: Vec<Untried>,
}

impl Preflight {
    #[cfg(test)]
    pub(super) fn for_tests(arch: Arch, file_load: Availability, load: Availability, calls: &[Call]) -> Self {
        let (calls, untried) = (calls.to_vec(), Vec::new());
        Self { arch, file_load, load, lockdown: Lockdown::None, calls, untried }
    }

    /// The calls to try, in this order. Never empty.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The calls that were wanted and are not among them, each with the reason.
    pub fn untried(&self) -> &[Untried] {
        &self.untried
    }

    /// Leaves only the call that asks the running kernel's keyring, whatever was wanted: kexec_load
    /// asks nobody. A kernel without that call has no keyring for this, and keeps what it has.
    pub fn with_keyring(mut self) -> Result<Self, Error> {
        if self.file_load == Availability::Missing {
            return Ok(self);
        }
        if let Availability::Refused(errno) = self.file_load {
            return Err(Error::NotPermitted { call: Call::FileLoad, errno });
        }
        if self.calls.contains(&Call::Load) {
            let reason = "the policy wants the running kernel's keyring asked".to_owned();
            self.untried.push(Untried { call: Call::Load, reason });
        }
        self.calls = vec![Call::FileLoad];
        Ok(self)
    }
}

/// Looks at the running kernel. Loads nothing and unloads nothing.
pub fn preflight(paths: &Paths, method: Method) -> Result<Preflight, Error> {
    look(paths, method, |answer| answer)
}

/// The same for a process without the right to load anything, whom the kernel refuses every call that
/// it has: what it would answer others is not known.
pub fn presume(paths: &Paths, method: Method) -> Result<Preflight, Error> {
    look(paths, method, |answer| match answer {
        Availability::Refused(Errno::PERM) => Availability::Unknown,
        other => other,
    })
}

fn look(
    paths: &Paths,
    method: Method,
    taken_for: impl Fn(Availability) -> Availability,
) -> Result<Preflight, Error> {
    if sysctl(&paths.kexec_load_disabled())? == Some(1) {
        return Err(Error::Disabled);
    }
    let (file_load, load) = match sysctl(&paths.kexec_load_limit())? {
        Some(0) => return Err(Error::Exhausted),
        Some(1..) => (Availability::Unknown, Availability::Unknown),
        Some(..0) | None => {
            (taken_for(sys::kexec::probe_file_load().into()), taken_for(sys::kexec::probe_load().into()))
        }
    };
    // Without /proc nothing of this is known, and no file can be sealed.
    let mounts = paths.mountinfo();
    if let Err(source) = fs::metadata(&mounts) {
        return Err(Error::Read { path: mounts.display().to_string(), source });
    }
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
    // Lockdown refuses kexec_load whatever it is given, and need not be asked.
    let load = if load == Availability::Unknown && lockdown != Lockdown::None {
        Availability::Refused(Errno::PERM)
    } else {
        load
    };
    let wanted: &[Call] = match method {
        Method::Auto => &[Call::FileLoad, Call::Load],
        Method::File => &[Call::FileLoad],
        Method::Load => &[Call::Load],
    };
    let availability = |call| match call {
        Call::FileLoad => file_load,
        Call::Load => load,
    };
    let (calls, left_out): (Vec<Call>, Vec<Call>) =
        wanted.iter().partition(|&&call| availability(call).may_work());
    if !calls.is_empty() {
        let untried = left_out.into_iter().map(|call| untried(call, availability(call), lockdown)).collect();
        return Ok(Preflight { arch, file_load, load, lockdown, calls, untried });
    }
    // The refusal says more than the absence of the other call.
    for &call in wanted {
        if let Availability::Refused(errno) = availability(call) {
            return Err(match (call, lockdown.mode()) {
                (Call::Load, Some(mode)) => Error::LockedDown { mode },
                _ => Error::NotPermitted { call, errno },
            });
        }
    }
    Err(Error::Missing { method })
}

/// Why `call` is not tried.
fn untried(call: Call, availability: Availability, lockdown: Lockdown) -> Untried {
    let reason = match (availability, lockdown.mode()) {
        (Availability::Refused(_), Some(mode)) if call == Call::Load => {
            format!("lockdown ({mode}) forbids it")
        }
        (Availability::Refused(errno), _) => {
            let meaning = explain(call, errno);
            format!("{} ({})", meaning.name, meaning.text)
        }
        _ => explain(call, Errno::NOSYS).text.to_owned(),
    };
    Untried { call, reason }
}

#[cfg(test)]
mod tests;
