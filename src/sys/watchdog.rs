//! What `rustix` lacks for watchdogs: Documentation/watchdog/watchdog-api.rst, linux/watchdog.h.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::memfd::last_errno;

/// `_IOWR('W', 6, int)` and `_IOR('W', 7, int)`: the same number on x86 and arm64.
const SET_TIMEOUT: u32 = 0xc004_5706;
const GET_TIMEOUT: u32 = 0x8004_5707;

/// Sets the time in seconds after which `device` resets the machine. Answers what it took: hardware
/// rounds.
pub(crate) fn set_timeout(device: &File, seconds: u32) -> Result<u32, Errno> {
    exchange(device, SET_TIMEOUT, seconds)
}

/// That time as it is, in seconds.
pub(crate) fn timeout(device: &File) -> Result<u32, Errno> {
    exchange(device, GET_TIMEOUT, 0)
}

fn exchange(device: &File, request: u32, seconds: u32) -> Result<u32, Errno> {
    let mut value = libc::c_int::try_from(seconds).map_err(|_| Errno::INVAL)?;
    // SAFETY: both requests read or store one int through the pointer, which is valid for the call; a file
    // that is no watchdog answers ENOTTY.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request as _, &raw mut value) };
    if result < 0 {
        return Err(last_errno());
    }
    u32::try_from(value).map_err(|_| Errno::INVAL)
}
