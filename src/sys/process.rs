//! A second process for the boot itself: fork(2).

use rustix::io::Errno;
use rustix::process::Pid;

use crate::sys::memfd::last_errno;

/// Which of the two processes goes on.
#[derive(Debug)]
pub enum Fork {
    Parent(Pid),
    Child,
}

/// Forks. Refused with `EBUSY` where this process has more than one thread: the child would be
/// left with locks that nobody holds.
pub fn fork() -> Result<Fork, Errno> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: this is the only thread, so the child's copy of every lock and of the heap is in a
    // consistent state.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(last_errno()),
        pid => Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
    }
}
