//! Watchdogs that run when the next kernel starts: each is fed, and runs on.
//! Documentation/watchdog/watchdog-api.rst, Documentation/ABI/testing/sysfs-class-watchdog.

use std::fs::{self, File, OpenOptions};
use std::io::Write;

use crate::error::printable;
use crate::paths::Paths;

/// A watchdog that nobody else has open. Closed, it is as it was before.
#[derive(Debug)]
pub(super) struct Fed(File);

impl Drop for Fed {
    fn drop(&mut self) {
        // Without it the kernel takes closing for an accident, and nobody feeds the watchdog any more.
        let _ = self.0.write_all(b"V");
    }
}

/// Feeds every watchdog that runs. One that is open elsewhere, as PID 1 has its own, is fed there.
pub(super) fn feed_all(paths: &Paths) -> Vec<Fed> {
    let Ok(listed) = fs::read_dir(paths.watchdogs()) else { return Vec::new() };
    listed.flatten().filter_map(|entry| feed(&entry.file_name().to_string_lossy(), paths)).collect()
}

fn feed(name: &str, paths: &Paths) -> Option<Fed> {
    let attribute = |what| {
        let text = fs::read_to_string(paths.watchdogs().join(name).join(what)).unwrap_or_default();
        printable(text.trim())
    };
    if attribute("state") != "active" {
        return None;
    }
    let seconds = attribute("timeout");
    let fed = OpenOptions::new().write(true).open(paths.device(name)).map(Fed);
    match fed.and_then(|mut fed| fed.0.write_all(b"\0").map(|()| fed)) {
        Ok(fed) => {
            log::info!("{name} is fed and runs on: the next kernel has {seconds} s to take it over");
            Some(fed)
        }
        Err(error) => {
            log::info!("{name} runs on, {seconds} s after it was last fed by who has it open: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watchdogs_that_run_are_fed() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert!(feed_all(&paths).is_empty());
        fs::create_dir_all(root.path().join("dev")).unwrap();
        for (name, state) in [("watchdog0", "active\n"), ("watchdog1", "inactive\n")] {
            let folder = paths.watchdogs().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("state"), state).unwrap();
            fs::write(folder.join("timeout"), "30\n").unwrap();
            fs::write(paths.device(name), "").unwrap();
        }
        // Listed, and without a device.
        fs::create_dir_all(paths.watchdogs().join("watchdog2")).unwrap();
        fs::write(paths.watchdogs().join("watchdog2/state"), "active").unwrap();
        let fed = feed_all(&paths);
        assert_eq!(fed.len(), 1);
        assert_eq!(fs::read(paths.device("watchdog0")).unwrap(), b"\0");
        drop(fed);
        assert_eq!(fs::read(paths.device("watchdog0")).unwrap(), b"\0V");
        assert_eq!(fs::read(paths.device("watchdog1")).unwrap(), b"");
    }
}
