//! The two system calls that load a kernel: kexec_load(2), kexec_file_load(2).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::sys::memfd::last_errno;

/// `KEXEC_FILE_UNLOAD` and `KEXEC_FILE_NO_INITRAMFS` of linux/kexec.h.
const FILE_UNLOAD: libc::c_ulong = 1;
const FILE_NO_INITRAMFS: libc::c_ulong = 4;

/// asm/unistd_64.h. `libc` has it for some targets only.
#[cfg(target_arch = "x86_64")]
const SYS_KEXEC_FILE_LOAD: libc::c_long = 320;
/// asm-generic/unistd.h. `libc` has it for some targets only.
#[cfg(target_arch = "aarch64")]
const SYS_KEXEC_FILE_LOAD: libc::c_long = 294;

/// One piece of memory for kexec_load: `buf` goes to physical `mem`, zero-filled up to `memsz`.
/// `mem` and `memsz` are multiples of the page size. Layout: `struct kexec_segment` of linux/kexec.h.
#[repr(C)]
#[derive(Debug)]
struct RawSegment {
    buf: *const libc::c_void,
    bufsz: usize,
    mem: usize,
    memsz: usize,
}

/// One piece of memory for [`load`]: bytes and their physical place, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub bytes: &'a [u8],
    pub address: u64,
    pub size: u64,
}

/// The running kernel's page size in bytes. sysconf(3)
pub fn page_size() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

fn check(result: libc::c_long) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Loads `segments`, to be entered at physical `entry`. kexec_load(2)
pub(crate) fn load(entry: u64, segments: &[Segment<'_>]) -> Result<(), Errno> {
    let size = |n: u64| usize::try_from(n).map_err(|_| Errno::OVERFLOW);
    let mut raw = Vec::with_capacity(segments.len());
    for segment in segments {
        raw.push(RawSegment {
            buf: segment.bytes.as_ptr().cast(),
            bufsz: segment.bytes.len(),
            mem: size(segment.address)?,
            memsz: size(segment.size)?,
        });
    }
    // SAFETY: the kernel reads `raw.len()` segments from `raw`, and from each `bufsz` bytes at `buf`;
    // `segments` borrows all of them for the time of the call.
    check(unsafe {
        libc::syscall(libc::SYS_kexec_load, size(entry)?, raw.len(), raw.as_ptr(), 0 as libc::c_ulong)
    })
}

/// Asks whether kexec_load exists and is allowed (each asking counts against
/// `kexec_load_limit_reboot` where that is set), without loading or unloading anything: more
/// segments than `KEXEC_SEGMENT_MAX` are refused with EINVAL, but only after the permission checks.
pub(crate) fn probe_load() -> Errno {
    // SAFETY: the count is over the kernel's maximum, so it answers before it reads the segments.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            0usize,
            usize::MAX,
            std::ptr::null::<RawSegment>(),
            0 as libc::c_ulong,
        )
    };
    check(result).err().unwrap_or(Errno::INVAL)
}

/// Loads a kernel image and its ramdisk from files, with a command line. kexec_file_load(2)
pub(crate) fn file_load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
) -> Result<(), Errno> {
    let flags = if initrd.is_some() { 0 } else { FILE_NO_INITRAMFS };
    let initrd = initrd.map_or(-1, |fd| fd.as_raw_fd());
    let length = cmdline.to_bytes_with_nul().len();
    // SAFETY: `cmdline` is `length` readable bytes that end in NUL; the descriptors are borrowed.
    check(unsafe {
        libc::syscall(
            SYS_KEXEC_FILE_LOAD,
            kernel.as_fd().as_raw_fd(),
            initrd,
            length,
            cmdline.as_ptr(),
            flags,
        )
    })
}

/// Has the running kernel read and judge a kernel and its ramdisk as kexec_file_load(2) would, and load neither:
/// there is no command line where it looks for one next. EFAULT if it has nothing against them, else what it
/// has: kimage_file_prepare_segments() of kernel/kexec_file.c. Counts against `kexec_load_limit_reboot`.
pub(crate) fn judge_files(kernel: BorrowedFd<'_>, initrd: Option<BorrowedFd<'_>>) -> Errno {
    let flags = if initrd.is_some() { 0 } else { FILE_NO_INITRAMFS };
    let initrd = initrd.map_or(-1, |fd| fd.as_raw_fd());
    let nowhere = std::ptr::null::<libc::c_char>();
    // SAFETY: the kernel takes null for any other address that cannot be read; the descriptors are borrowed.
    let result = unsafe {
        libc::syscall(SYS_KEXEC_FILE_LOAD, kernel.as_fd().as_raw_fd(), initrd, 1usize, nowhere, flags)
    };
    check(result).err().unwrap_or(Errno::INVAL)
}

/// Asks whether kexec_file_load exists and is allowed: a descriptor that is not open is refused
/// with EBADF, but only after the permission checks. Counts against `kexec_load_limit_reboot` too.
pub(crate) fn probe_file_load() -> Errno {
    file_load_nothing(FILE_NO_INITRAMFS).err().unwrap_or(Errno::BADF)
}

/// kexec_file_load without files, for its answer or for what `flags` alone ask.
fn file_load_nothing(flags: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: a command line of length zero is not read, and -1 is no descriptor.
    check(unsafe {
        libc::syscall(SYS_KEXEC_FILE_LOAD, -1, -1, 0usize, std::ptr::null::<libc::c_char>(), flags)
    })
}

/// Forgets a loaded kernel, whichever call loaded it.
pub(crate) fn unload() -> Result<(), Errno> {
    // SAFETY: with zero segments the pointer is not read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            0usize,
            0usize,
            std::ptr::null::<RawSegment>(),
            0 as libc::c_ulong,
        )
    };
    match check(result) {
        // Lockdown (EPERM) and IMA (EACCES) refuse kexec_load whatever it is asked to do.
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => file_load_nothing(FILE_UNLOAD),
        other => other,
    }
}
