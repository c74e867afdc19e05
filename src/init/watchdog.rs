//! The machine's watchdog in the hands of PID 1: if PID 1 stops, or the next kernel does not take the
//! watchdog over, the machine is reset. Documentation/watchdog/watchdog-api.rst

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::paths::Paths;
use crate::sys;

/// Fed so often within its time: what is left when the next kernel starts is three quarters at least.
const FEEDS: u32 = 4;
/// How often a driver is looked for that may still appear.
const LOOK: Duration = Duration::from_secs(1);

/// The first watchdog of the machine, and what is wanted of it.
pub(super) struct Watchdog {
    path: PathBuf,
    /// In seconds. Nothing happens where it is not wanted.
    wanted: Option<u32>,
    running: Option<Running>,
    due: Option<Instant>,
}

struct Running {
    device: File,
    every: Duration,
}

impl Watchdog {
    pub(super) fn new(paths: &Paths) -> Self {
        Self { path: paths.device("watchdog0"), wanted: None, running: None, due: None }
    }

    /// Starts it as soon as it is there, to reset the machine `seconds` after it was last fed. One that
    /// runs is not stopped again.
    pub(super) fn want(&mut self, seconds: Option<u32>) {
        self.wanted = seconds;
        if self.due.is_none() && seconds.is_some() {
            self.due = Some(Instant::now());
            self.feed_due();
        }
    }

    /// When [`feed_due`](Self::feed_due) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Feeds it, or looks whether it is there, if it is time to.
    pub(super) fn feed_due(&mut self) {
        let now = Instant::now();
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        if self.running.is_none() {
            self.running = self.wanted.and_then(|seconds| start(&self.path, seconds));
        }
        let pause = match &mut self.running {
            Some(running) => {
                if let Err(error) = running.device.write_all(b"\0") {
                    warn!("{} cannot be fed: {error}", self.path.display());
                }
                running.every
            }
            None => LOOK,
        };
        self.due = now.checked_add(pause);
    }
}

/// Opening it starts it.
fn start(path: &PathBuf, seconds: u32) -> Option<Running> {
    let device = OpenOptions::new().write(true).open(path).ok()?;
    let seconds = match sys::watchdog::set_timeout(&device, seconds) {
        Ok(seconds) => seconds,
        Err(errno) => {
            let own = sys::watchdog::timeout(&device).unwrap_or(seconds);
            warn!("{} does not take {seconds} s ({errno}) and keeps its own {own} s", path.display());
            own
        }
    };
    info!("{} resets this machine after {seconds} s without phaseboot or the next system", path.display());
    Some(Running { device, every: Duration::from_secs(u64::from(seconds.max(1))) / FEEDS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_started_when_it_appears_and_only_where_it_is_wanted() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        std::fs::create_dir(root.path().join("dev")).unwrap();
        let mut watchdog = Watchdog::new(&paths);
        watchdog.want(None);
        assert_eq!(watchdog.due(), None);
        watchdog.want(Some(60));
        assert!(watchdog.running.is_none() && watchdog.due().is_some());
        // A file takes no time-out: the wanted one is believed.
        std::fs::write(&watchdog.path, "").unwrap();
        watchdog.due = Some(Instant::now());
        watchdog.feed_due();
        assert_eq!(watchdog.running.as_ref().map(|running| running.every), Some(Duration::from_secs(15)));
        watchdog.feed_due();
        assert_eq!(std::fs::read(&watchdog.path).unwrap(), b"\0");
    }
}
