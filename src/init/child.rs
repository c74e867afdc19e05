//! Waiting for a child process as PID 1: within a time limit, with its chores done meanwhile, and with
//! other people's orphans reaped.

use std::os::fd::AsFd;
use std::time::Instant;

use log::warn;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus};

use super::chores::Chores;

/// Waits for `child`, and reaps whatever else ends meanwhile: Linux hands orphans to PID 1. None if
/// it has not ended when `until` has come.
pub(super) fn wait(child: Pid, until: Option<Instant>, chores: &mut Chores) -> Option<WaitStatus> {
    match rustix::process::pidfd_open(child, PidfdFlags::empty()) {
        Ok(pidfd) => {
            if !chores.until(Some(pidfd.as_fd()), until) {
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
