//! What `rustix` lacks for terminals: ioctl_tty(2).

use std::os::fd::{AsFd, AsRawFd};

/// How many bytes written to a terminal have not left it yet; 0 for anything that is no terminal.
pub fn unsent(terminal: impl AsFd) -> u32 {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ stores one int through the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { u32::try_from(count).unwrap_or(0) } else { 0 }
}
