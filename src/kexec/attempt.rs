//! The calls of a plan, one after the other, until one loads: what each answered, what that means here,
//! and whether the next one is worth a try.

use std::fmt;
use std::time::Duration;

use rustix::io::Errno;

use super::errno::{explain, other_call_may_do};
use super::{Call, Error, Lockdown};

/// How long another kexec call is given to end: copying a large image takes a slow machine a second.
pub(super) const BUSY_PAUSE: Duration = Duration::from_secs(2);

/// A call that was tried, and the kernel's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempted {
    pub call: Call,
    pub errno: Errno,
    /// The running kernel's.
    pub lockdown: Lockdown,
}

impl fmt::Display for Attempted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = explain(self.call, self.errno);
        write!(f, "{} answered ", self.call)?;
        match (meaning.name, self.lockdown.mode()) {
            ("", _) => write!(f, "errno {}, {}", self.errno.raw_os_error(), meaning.text),
            ("EPERM", Some(mode)) => write!(
                f,
                "EPERM (the kernel is locked down ({mode}), and the image is not signed with a key that it trusts)"
            ),
            (name, _) => write!(f, "{name} ({})", meaning.text),
        }
    }
}

/// A call that was wanted and not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untried {
    pub call: Call,
    pub reason: String,
}

impl fmt::Display for Untried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is left out: {}", self.call, self.reason)
    }
}

/// Asks `kernel` by each of `calls` in turn until one is answered with success, or with what holds for
/// the others too. EBUSY is asked about once more after a `pause`: another call may be running.
pub(super) fn first_that_loads(
    calls: &[Call],
    lockdown: Lockdown,
    mut kernel: impl FnMut(usize) -> Result<Result<(), Errno>, Error>,
    mut pause: impl FnMut(),
) -> Result<Result<Call, Vec<Attempted>>, Error> {
    let mut refused = Vec::new();
    for (index, &call) in calls.iter().enumerate() {
        let mut answer = kernel(index)?;
        if answer == Err(Errno::BUSY) {
            log::info!("{call} answered EBUSY: once more, in case another kexec call is running");
            pause();
            answer = kernel(index)?;
        }
        let Err(errno) = answer else { return Ok(Ok(call)) };
        let attempted = Attempted { call, errno, lockdown };
        log::warn!("{attempted}");
        refused.push(attempted);
        if !other_call_may_do(call, errno, lockdown) {
            break;
        }
    }
    Ok(Err(refused))
}

/// The answer that says most of several: the last one, unless all it says is that there is no such call.
pub(super) fn telling(attempts: &[Attempted]) -> Option<&Attempted> {
    attempts.iter().rev().find(|attempted| attempted.errno != Errno::NOSYS).or(attempts.last())
}

#[cfg(test)]
mod tests;
