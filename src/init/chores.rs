//! What PID 1 does while it waits: drivers for devices that appear are loaded, a watchdog is fed.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use log::warn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::hotplug::Hotplug;
use super::watchdog::Watchdog;
use crate::paths::Paths;

/// Everything that falls due while something else is waited for.
pub(super) struct Chores {
    pub(super) hotplug: Hotplug,
    pub(super) watchdog: Watchdog,
}

impl Chores {
    /// Listens for devices from now on. No watchdog is started.
    pub(super) fn start(paths: &Paths) -> Self {
        Self { hotplug: Hotplug::start(paths), watchdog: Watchdog::new(paths) }
    }

    /// Waits for as long.
    pub(super) fn rest(&mut self, time: Duration) {
        if let Some(until) = Instant::now().checked_add(time) {
            self.until(None, Some(until));
        }
    }

    /// Whether `awaited` has become readable by `until`.
    pub(super) fn until(&mut self, awaited: Option<BorrowedFd<'_>>, until: Option<Instant>) -> bool {
        loop {
            self.hotplug.load_due();
            self.watchdog.feed_due();
            let wake = [until, self.hotplug.due(), self.watchdog.due()].into_iter().flatten().min();
            let timeout = wake.map(|wake| timespec(wake.saturating_duration_since(Instant::now())));
            let (ended, events) = {
                let others = [awaited, self.hotplug.events()];
                let mut descriptors: Vec<PollFd<'_>> = others
                    .into_iter()
                    .flatten()
                    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                    .collect();
                match poll(&mut descriptors, timeout.as_ref()) {
                    Ok(_) => {}
                    Err(Errno::INTR) => continue,
                    Err(errno) => {
                        warn!("cannot wait with a time limit: {errno}");
                        return true;
                    }
                }
                let ready = |at: usize| descriptors.get(at).is_some_and(|fd| !fd.revents().is_empty());
                let first = usize::from(awaited.is_some());
                (awaited.is_some() && ready(0), ready(first))
            };
            if ended {
                return true;
            }
            if events {
                self.hotplug.take_events();
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return false;
            }
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
    use rustix::process::{Pid, PidfdFlags};
    use std::os::fd::AsFd;
    use std::process::Command;

    #[test]
    fn an_end_is_seen_and_a_late_one_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let mut chores = Chores::start(&Paths::under(root.path()));
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        assert!(!chores.until(Some(pidfd.as_fd()), Some(soon)));
        assert!(Instant::now() >= soon);
        child.kill().unwrap();
        assert!(chores.until(Some(pidfd.as_fd()), None));
        child.wait().unwrap();
    }

    #[test]
    fn a_rest_is_as_long_as_it_was_meant() {
        let root = tempfile::tempdir().unwrap();
        let started = Instant::now();
        Chores::start(&Paths::under(root.path())).rest(Duration::from_millis(30));
        assert!(started.elapsed() >= Duration::from_millis(30));
    }
}
