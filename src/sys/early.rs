//! Standard descriptors for PID 1, before Rust's runtime looks at them.
//!
//! A kernel that finds no /dev/console in the initramfs starts /init with descriptors 0 to 2
//! closed. Rust's runtime then opens /dev/null in their place and aborts if that is missing too,
//! which panics the kernel. So a constructor runs before it: with devtmpfs mounted both exist.

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

#[used]
// SAFETY: `.init_array` holds pointers to functions of this type, which the C runtime calls once,
// in the only thread, after its own initialisation and before `main`.
#[unsafe(link_section = ".init_array")]
static OPEN_STANDARD_DESCRIPTORS: extern "C" fn() = open_standard_descriptors;

/// Keeps the constructor in the program: a linker may drop an object that nothing refers to.
pub fn keep() {
    std::hint::black_box(&raw const OPEN_STANDARD_DESCRIPTORS);
}

/// In PID 1, opens /dev/console as descriptors 0 to 2 where they are closed. Failure is not an
/// error here: there is nobody to tell it to yet.
extern "C" fn open_standard_descriptors() {
    if rustix::process::getpid().as_raw_pid() != 1 || all_open() {
        return;
    }
    let _ = rustix::fs::mkdir("/dev", Mode::from_raw_mode(0o755));
    let _ = rustix::mount::mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, None);
    while !all_open() {
        // The lowest free descriptor is the one that is missing. It stays open for good.
        let opened = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
            .or_else(|_| rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()));
        match opened {
            Ok(descriptor) => std::mem::forget(descriptor),
            Err(_) => return,
        }
    }
}

fn all_open() -> bool {
    (0..=2).all(|descriptor| {
        // SAFETY: F_GETFD only asks whether the number is an open descriptor.
        unsafe { libc::fcntl(descriptor, libc::F_GETFD) != -1 }
    })
}
