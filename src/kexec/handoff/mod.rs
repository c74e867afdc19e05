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

use super::attempt::BUSY_PAUSE;
use super::{Error, Method, may_start, preflight, status};
use crate::config::{Handoff, Links, Reset};
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
    /// all, or this process may not start it. Devices that were quieted have their drivers back then, and
    /// file systems are as they were, as far as that can be; links stay down.
    pub fn exec(&self, handoff: Handoff) -> Result<Infallible, Error> {
        if !status(&self.paths)?.kernel {
            return Err(Error::NothingLoaded);
        }
        may_start(&self.paths)?;
        Err(self.leave(handoff, || rustix::system::reboot(RebootCommand::Kexec)))
    }

    /// All that is done once it is decided, up to the `jump`, and what is undone if that comes back.
    fn leave(&self, handoff: Handoff, jump: impl Fn() -> Result<(), Errno>) -> Error {
        let paths = &self.paths;
        patience::sync();
        let mounts = mounts::release(paths);
        if handoff.links == Links::Down {
            // A driver that hangs while its device is closed keeps nobody from going on.
            let paths = paths.clone();
            if patience::within(patience::LONGEST, move || net::lower_all(&paths)).is_none() {
                log::warn!("links are not down within {} s: going on", patience::LONGEST.as_secs());
            }
        }
        let quieted = Quieted::quiet(handoff.reset, mounts.are_disks_free, paths);
        // Held until the jump: some drivers stop a watchdog that is closed.
        let watchdogs = watchdog::feed_all(paths);
        log::info!("starting the next kernel");
        crate::log::drain();
        if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open(paths.kmsg()) {
            let _ = kmsg.write_all(b"<5>phaseboot: handing over to the next kernel\n");
        }
        let mut answer = jump();
        if answer == Err(Errno::BUSY) {
            // Another kexec call is running: kernel_kexec() of kernel/kexec_core.c.
            thread::sleep(BUSY_PAUSE);
            answer = jump();
        }
        drop(watchdogs);
        let undo = move || {
            quieted.undo();
            mounts.undo(handoff.reset == Reset::None);
        };
        let _ = patience::within(patience::LONGEST, undo);
        Error::Exec { errno: answer.err().unwrap_or(Errno::IO) }
    }
}

/// Starts a kernel that somebody loaded before.
pub fn exec_loaded(paths: &Paths, handoff: Handoff) -> Result<Infallible, Error> {
    Loaded::new(paths.clone()).exec(handoff)
}

/// Forgets a loaded kernel, whoever loaded it. No error if there is none. Where no kernel could be loaded
/// either, the error is the one of [`preflight()`].
pub fn unload(paths: &Paths) -> Result<(), Error> {
    let unloaded = match sys::kexec::unload() {
        Err(Errno::BUSY) => {
            thread::sleep(BUSY_PAUSE);
            sys::kexec::unload()
        }
        other => other,
    };
    unloaded.map_err(|errno| preflight(paths, Method::Auto).err().unwrap_or(Error::Unload { errno }))
}

#[cfg(test)]
mod tests;
