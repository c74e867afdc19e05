//! The last steps of this kernel: nothing is left half-written, what was asked for is quiet, then
//! reboot(2) into the next one.

mod devices;
mod mounts;
mod watchdog;

use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::thread;

use rustix::io::Errno;
use rustix::system::RebootCommand;

use super::Error;
use super::attempt::BUSY_PAUSE;
use crate::config::{Handoff, Links};
use crate::net;
use crate::paths::Paths;
use crate::patience;
use crate::sys;
use devices::Quieted;

/// A kernel is loaded. Only [`Plan::load`](super::Plan::load) makes this.
#[derive(Debug)]
pub struct Loaded {
    paths: Paths,
}

impl Loaded {
    pub(super) fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// Starts it. Writes back what is cached, takes block devices out of use as far as they can be,
    /// does what `handoff` asks for, feeds a watchdog that runs, and leaves a line in the kernel log.
    /// Returns only if the kernel refuses, or, before anything is touched, if no kernel is loaded after
    /// all. Devices that were quieted have their drivers back then; links stay down.
    pub fn exec(&self, handoff: Handoff) -> Result<Infallible, Error> {
        let paths = &self.paths;
        let loaded = fs::read_to_string(paths.kexec_loaded()).unwrap_or_default();
        if loaded.trim() != "1" {
            return Err(Error::NothingLoaded);
        }
        patience::sync();
        let are_disks_free = mounts::release(paths);
        if handoff.links == Links::Down {
            // A driver that hangs while its device is closed keeps nobody from going on.
            let paths = paths.clone();
            if patience::within(patience::LONGEST, move || net::lower_all(&paths)).is_none() {
                log::warn!("links are not down within {} s: going on", patience::LONGEST.as_secs());
            }
        }
        let quieted = Quieted::quiet(handoff.reset, are_disks_free, paths);
        // Held until the jump: some drivers stop a watchdog that is closed.
        let watchdogs = watchdog::feed_all(paths);
        log::info!("starting the next kernel");
        crate::log::drain();
        if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open(paths.kmsg()) {
            let _ = kmsg.write_all(b"<5>phaseboot: handing over to the next kernel\n");
        }
        let errno = rustix::system::reboot(RebootCommand::Kexec).err().unwrap_or(Errno::IO);
        drop(watchdogs);
        quieted.undo();
        Err(Error::Exec { errno })
    }
}

/// Starts a kernel that somebody loaded before.
pub fn exec_loaded(paths: &Paths, handoff: Handoff) -> Result<Infallible, Error> {
    Loaded::new(paths.clone()).exec(handoff)
}

/// Forgets a loaded kernel, whoever loaded it. No error if there is none.
pub fn unload() -> Result<(), Error> {
    let unloaded = match sys::kexec::unload() {
        Err(Errno::BUSY) => {
            thread::sleep(BUSY_PAUSE);
            sys::kexec::unload()
        }
        other => other,
    };
    unloaded.map_err(|errno| Error::Unload { errno })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Reset;

    #[test]
    fn nothing_is_touched_when_no_kernel_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let handoff = Handoff { links: Links::Down, reset: Reset::Pci };
        assert!(matches!(exec_loaded(&paths, handoff), Err(Error::NothingLoaded)));
        fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
        fs::write(paths.kexec_loaded(), "0\n").unwrap();
        assert!(matches!(exec_loaded(&paths, handoff), Err(Error::NothingLoaded)));
    }
}
