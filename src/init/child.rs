//! Waiting for a child process as PID 1: within a time limit, with drivers loaded meanwhile, and with
//! other people's orphans reaped.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use log::warn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus};

use super::hotplug::Hotplug;

/// Waits for `child`, and reaps whatever else ends meanwhile: Linux hands orphans to PID 1. None if
/// it has not ended when `until` has come.
pub(super) fn wait(child: Pid, until: Option<Instant>, hotplug: &mut Hotplug) -> Option<WaitStatus> {
    match rustix::process::pidfd_open(child, PidfdFlags::empty()) {
        Ok(pidfd) => {
            if !ends(pidfd.as_fd(), until, hotplug) {
                return None;
            }
        }
        Err(errno) => warn!("process {child} cannot be given a time limit: {errno}"),
    }
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Some(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Whether the process behind `pidfd` has ended by `until`.
fn ends(pidfd: BorrowedFd<'_>, until: Option<Instant>, hotplug: &mut Hotplug) -> bool {
    loop {
        hotplug.load_due();
        let wake = until.into_iter().chain(hotplug.due()).min();
        let timeout = wake.map(|wake| timespec(wake.saturating_duration_since(Instant::now())));
        let (ended, events) = {
            let process = PollFd::new(&pidfd, PollFlags::IN);
            let mut descriptors = vec![process];
            descriptors
                .extend(hotplug.events().map(|events| PollFd::from_borrowed_fd(events, PollFlags::IN)));
            match poll(&mut descriptors, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    warn!("cannot wait with a time limit: {errno}");
                    return true;
                }
            }
            let ready = |at: usize| descriptors.get(at).is_some_and(|fd| !fd.revents().is_empty());
            (ready(0), ready(1))
        };
        if ended {
            return true;
        }
        if events {
            hotplug.take_events();
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return false;
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;
    use std::process::Command;

    #[test]
    fn an_end_is_seen_and_a_late_one_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let mut hotplug = Hotplug::start(&Paths::under(root.path()));
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        assert!(!ends(pidfd.as_fd(), Some(soon), &mut hotplug));
        assert!(Instant::now() >= soon);
        child.kill().unwrap();
        assert!(ends(pidfd.as_fd(), None, &mut hotplug));
        child.wait().unwrap();
    }
}
