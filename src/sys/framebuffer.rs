//! What `rustix` lacks for framebuffers: linux/fb.h, Documentation/fb/api.rst.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::memfd::last_errno;

const GET_VARIABLE: u32 = 0x4600;
const GET_FIXED: u32 = 0x4602;

/// `struct fb_fix_screeninfo`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fixed {
    /// The driver's name for it, up to a NUL.
    pub(crate) id: [u8; 16],
    /// Physical address; 0 where the driver tells nobody.
    pub(crate) start: libc::c_ulong,
    /// In bytes.
    pub(crate) size: u32,
    /// `FB_TYPE_PACKED_PIXELS` is 0.
    pub(crate) kind: u32,
    pub(crate) kind_more: u32,
    /// `FB_VISUAL_TRUECOLOR` is 2.
    pub(crate) visual: u32,
    pub(crate) steps: [u16; 3],
    /// From one line to the next, in bytes.
    pub(crate) stride: u32,
    pub(crate) registers: libc::c_ulong,
    pub(crate) registers_size: u32,
    pub(crate) accelerator: u32,
    pub(crate) capabilities: u16,
    pub(crate) reserved: [u16; 2],
}

/// `struct fb_bitfield`: the bits of a pixel that are one colour.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bits {
    /// From the right.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) reversed: u32,
}

/// `struct fb_var_screeninfo`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Variable {
    /// In pixels.
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) virtual_size: [u32; 2],
    pub(crate) offset: [u32; 2],
    pub(crate) bits_per_pixel: u32,
    /// 0 where it has colours.
    pub(crate) grayscale: u32,
    pub(crate) red: Bits,
    pub(crate) green: Bits,
    pub(crate) blue: Bits,
    /// Opacity, or bits that are nothing.
    pub(crate) rest: Bits,
    /// Not 0: pixels that are made otherwise.
    pub(crate) nonstandard: u32,
    pub(crate) more: [u32; 19],
}

/// What the driver of `device` says of it.
pub(crate) fn describe(device: &File) -> Result<(Fixed, Variable), Errno> {
    let (mut fixed, mut variable) = (Fixed::default(), Variable::default());
    ask(device, GET_FIXED, (&raw mut fixed).cast())?;
    ask(device, GET_VARIABLE, (&raw mut variable).cast())?;
    Ok((fixed, variable))
}

/// `answer` has to be what `request` stores.
fn ask(device: &File, request: u32, answer: *mut libc::c_void) -> Result<(), Errno> {
    // SAFETY: FBIOGET_FSCREENINFO stores a fb_fix_screeninfo and FBIOGET_VSCREENINFO a fb_var_screeninfo, of
    // any bits, through a pointer that is valid for one during the call; a file that is no framebuffer answers
    // ENOTTY.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request as _, answer) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!((size_of::<Fixed>(), size_of::<Variable>()), (80, 160));
        assert_eq!(
            (offset_of!(Fixed, start), offset_of!(Fixed, size), offset_of!(Fixed, visual)),
            (16, 24, 36)
        );
        assert_eq!((offset_of!(Fixed, stride), offset_of!(Fixed, registers)), (48, 56));
        assert_eq!((offset_of!(Variable, bits_per_pixel), offset_of!(Variable, red)), (24, 32));
        assert_eq!((offset_of!(Variable, rest), offset_of!(Variable, nonstandard)), (68, 80));
    }

    #[test]
    fn what_is_no_framebuffer_says_so() {
        assert_eq!(describe(&File::open("/dev/null").unwrap()).unwrap_err(), Errno::NOTTY);
    }
}
