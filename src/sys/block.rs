//! What `rustix` lacks for block devices: linux/fs.h.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::sys::memfd::last_errno;

/// `_IO(0x12, 93)`
const BLKROSET: libc::Ioctl = libc::_IO(0x12, 93);

/// Makes the kernel refuse every write to `device`, or lets it write again.
pub fn set_read_only(device: impl AsFd, read_only: bool) -> Result<(), Errno> {
    let value = libc::c_int::from(read_only);
    // SAFETY: BLKROSET reads one int through the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BLKROSET, &raw const value) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
