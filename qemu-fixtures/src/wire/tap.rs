//! A TAP device: the kernel's end of the wire. The only place of the lab with `unsafe`.
//! Source: Documentation/networking/tuntap.rst, linux/if_tun.h, linux/if.h.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context, Result};
use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl, opcode};

/// `TUNSETIFF` of linux/if_tun.h
const SET_INTERFACE: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
/// `IFF_TAP`: whole frames.
const TAP: u16 = 2;
/// `IFF_NO_PI`: nothing before them.
const NO_INFORMATION: u16 = 0x1000;

/// `struct ifreq` of linux/if.h, with the flags of its union.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the device in this thread's network namespace; it goes when the file is closed. Reads and writes
/// a frame each, without waiting.
pub(super) fn open(name: &str) -> Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun");
    let file = file.context("cannot open /dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: TAP | NO_INFORMATION, rest: [0; 22] };
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF takes a pointer to a struct ifreq, which `Request` is: 40 bytes, the name first.
    // It reads the name and the flags, and keeps no pointer (tun_chr_ioctl in drivers/net/tun.c). It writes the
    // device's name back; `Setter` lends a value of its own, which lives until the call returns.
    unsafe { ioctl(file.as_fd(), Setter::<SET_INTERFACE, Request>::new(request)) }
        .with_context(|| format!("cannot make the TAP device {name}"))?;
    Ok(file)
}
