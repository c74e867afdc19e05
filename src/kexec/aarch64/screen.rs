//! The screen that the firmware has set up, for the next kernel: `struct screen_info` of
//! include/uapi/linux/screen_info.h, as setup_gop() of drivers/firmware/efi/libstub/gop.c fills it.

use std::fs::{self, File};

use crate::paths::Paths;
use crate::sys::framebuffer::{self, Bits, Fixed, Variable};

/// In bytes.
pub(super) const SCREEN_INFO: usize = 64;

/// `VIDEO_TYPE_EFI`
const EFI: u8 = 0x70;
/// `VIDEO_CAPABILITY_SKIP_QUIRKS`: what is told here has been seen to work.
const SKIP_QUIRKS: u32 = 1;
/// `VIDEO_CAPABILITY_64BIT_BASE`
const LARGE_BASE: u32 = 2;

/// The names by which efifb and simplefb go, which draw into what firmware has set up. Every other driver
/// has taken the hardware from it.
const FIRMWARES: [&str; 2] = ["EFI VGA", "simple"];

/// The screen that the running kernel draws into as firmware has left it. None where there is none, or not as
/// the next kernel can be told.
pub(super) fn find(paths: &Paths) -> Option<[u8; SCREEN_INFO]> {
    let listed = fs::read_dir(paths.framebuffers()).ok()?;
    let mut names = listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let name = names.find(|name| {
        let folder = paths.framebuffers().join(name);
        let driver = fs::read_to_string(folder.join("name")).unwrap_or_default();
        // One of the device tree the next kernel finds where this one did.
        FIRMWARES.contains(&driver.trim_end()) && !folder.join("device/of_node").exists()
    })?;
    let device = paths.device(&name);
    let described = File::open(&device).and_then(|file| Ok(framebuffer::describe(&file)?));
    let (fixed, variable) = match described {
        Ok(described) => described,
        Err(error) => {
            log::info!("the screen is not handed on, cannot read {}: {error}", device.display());
            return None;
        }
    };
    let screen = screen_info(&fixed, &variable);
    match screen {
        Some(_) => log::debug!(
            "screen at {:#x}, {}x{}, {} bits a pixel, {} bytes a line",
            fixed.start,
            variable.width,
            variable.height,
            variable.bits_per_pixel,
            fixed.stride
        ),
        None => log::info!("the screen is not handed on: {name} is none that a kernel can be told of"),
    }
    screen
}

/// None unless it has colours in whole pixels, and all of it lies in its memory.
fn screen_info(fixed: &Fixed, variable: &Variable) -> Option<[u8; SCREEN_INFO]> {
    const PACKED: u32 = 0;
    const TRUECOLOR: u32 = 2;
    let plain =
        (fixed.kind, fixed.visual, variable.grayscale, variable.nonstandard) == (PACKED, TRUECOLOR, 0, 0);
    let bits = variable.bits_per_pixel;
    let colours = [variable.red, variable.green, variable.blue, variable.rest];
    let sound = |(index, colour): (usize, &Bits)| {
        let end = colour.offset.checked_add(colour.length).filter(|&end| end <= bits);
        // Only what is left over may be nothing.
        end.is_some() && colour.reversed == 0 && (colour.length > 0 || index == 3)
    };
    let (width, height) = (variable.width, variable.height);
    let line = u64::from(width) * u64::from(bits).div_ceil(8);
    let size = height.checked_mul(fixed.stride).filter(|&size| size > 0 && size <= fixed.size)?;
    let start = fixed.start;
    let whole = start > 0 && start.checked_add(size.into()).is_some() && line <= fixed.stride.into();
    if !plain || !whole || !(15..=32).contains(&bits) || width == 0 || !colours.iter().enumerate().all(sound)
    {
        return None;
    }

    let mut screen = [0; SCREEN_INFO];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = at.checked_add(value.len()).and_then(|end| screen.get_mut(at..end)) {
            place.copy_from_slice(value);
        }
    };
    let short = |value: u32| u16::try_from(value).map(u16::to_le_bytes).ok();
    let (low, high) = (start & u64::from(u32::MAX), start >> 32);
    put(0x0f, &[EFI]);
    put(0x12, &short(width)?);
    put(0x14, &short(height)?);
    put(0x16, &short(bits)?);
    put(0x18, &u32::try_from(low).ok()?.to_le_bytes());
    put(0x1c, &size.to_le_bytes());
    put(0x24, &short(fixed.stride)?);
    for (index, colour) in colours.iter().enumerate() {
        put(0x26 + 2 * index, &[u8::try_from(colour.length).ok()?, u8::try_from(colour.offset).ok()?]);
    }
    // Pages of it.
    put(0x32, &[1]);
    put(0x36, &(if high > 0 { SKIP_QUIRKS | LARGE_BASE } else { SKIP_QUIRKS }).to_le_bytes());
    put(0x3a, &u32::try_from(high).ok()?.to_le_bytes());
    Some(screen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(offset: u32, length: u32) -> Bits {
        Bits { offset, length, reversed: 0 }
    }

    /// QEMU's ramfb under UEFI.
    fn ramfb() -> (Fixed, Variable) {
        let fixed = Fixed {
            id: *b"EFI VGA\0\0\0\0\0\0\0\0\0",
            start: 0x7bb0_0000,
            size: 0x1d_5000,
            visual: 2,
            stride: 3200,
            ..Fixed::default()
        };
        let variable = Variable {
            width: 800,
            height: 600,
            bits_per_pixel: 32,
            red: bits(16, 8),
            green: bits(8, 8),
            blue: bits(0, 8),
            rest: bits(24, 8),
            ..Variable::default()
        };
        (fixed, variable)
    }

    #[test]
    fn it_is_told_as_the_stub_does() {
        let (mut fixed, variable) = ramfb();
        let screen = screen_info(&fixed, &variable).unwrap();
        let mut expected = [0; SCREEN_INFO];
        expected[0x0f] = 0x70;
        expected[0x12..0x18].copy_from_slice(&[0x20, 3, 0x58, 2, 32, 0]);
        expected[0x18..0x20].copy_from_slice(&[0, 0, 0xb0, 0x7b, 0x00, 0x4c, 0x1d, 0]);
        expected[0x24..0x2e].copy_from_slice(&[0x80, 0x0c, 8, 16, 8, 8, 8, 0, 8, 24]);
        expected[0x32] = 1;
        expected[0x36] = 1;
        assert_eq!(screen, expected);
        // A card's memory above 4 GiB.
        fixed.start = 0x1_4000_1000;
        let screen = screen_info(&fixed, &variable).unwrap();
        assert_eq!(screen[0x18..0x1c], [0, 0x10, 0, 0x40]);
        assert_eq!((screen[0x36], &screen[0x3a..0x3e]), (3, &[1, 0, 0, 0][..]));
    }

    #[test]
    fn what_does_not_fit_is_not_told() {
        let changes: [fn(&mut Fixed, &mut Variable); 17] = [
            |fixed, _| fixed.start = 0,
            |fixed, _| fixed.start = u64::MAX - 5,
            |fixed, _| fixed.size = 600 * 3200 - 1,
            |fixed, _| fixed.stride = 3199,
            |fixed, _| fixed.stride = 0,
            |fixed, _| fixed.stride = u32::MAX,
            |fixed, _| fixed.kind = 1,
            |fixed, _| fixed.visual = 4,
            |_, variable| variable.width = 0,
            |_, variable| variable.height = 0,
            |_, variable| variable.height = u32::MAX,
            |_, variable| variable.bits_per_pixel = 8,
            |_, variable| variable.grayscale = 1,
            |_, variable| variable.red.length = 0,
            |_, variable| variable.green = bits(u32::MAX, 8),
            |_, variable| variable.rest = bits(25, 8),
            |_, variable| variable.blue.reversed = 1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let (mut fixed, mut variable) = ramfb();
            change(&mut fixed, &mut variable);
            assert_eq!(screen_info(&fixed, &variable), None, "{number}");
        }
        // Larger than the fields.
        let (mut fixed, mut variable) = ramfb();
        (fixed.stride, fixed.size) = (0x1_0000, u32::MAX);
        assert_eq!(screen_info(&fixed, &variable), None);
        (fixed.stride, variable.height) = (0xfff0, 0x1_0000);
        assert_eq!(screen_info(&fixed, &variable), None);
    }

    #[test]
    fn only_firmwares_screen_is_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert_eq!(find(&paths), None);
        fs::create_dir_all(root.path().join("dev")).unwrap();
        for (name, driver) in [("fb0", "virtio_gpudrmfb\n"), ("fb1", "simple\n"), ("fbcon", "")] {
            let folder = paths.framebuffers().join(name);
            fs::create_dir_all(folder.join("device")).unwrap();
            fs::write(folder.join("name"), driver).unwrap();
        }
        fs::create_dir(paths.framebuffers().join("fb1/device/of_node")).unwrap();
        // No device could be opened for either.
        assert_eq!(find(&paths), None);
        fs::remove_dir(paths.framebuffers().join("fb1/device/of_node")).unwrap();
        assert_eq!(find(&paths), None);
        // It is none.
        fs::write(paths.device("fb1"), [0; 512]).unwrap();
        assert_eq!(find(&paths), None);
    }

    proptest! {
        #[test]
        fn what_is_told_fits(
            start in any::<u64>(), size in any::<u32>(), stride in any::<u32>(),
            width in 0u32..0x2_0000, height in 0u32..0x2_0000, depth in 0u32..40,
            offsets in any::<[u8; 4]>(), lengths in any::<[u8; 4]>(),
        ) {
            let (mut fixed, mut variable) = ramfb();
            (fixed.start, fixed.size, fixed.stride) = (start, size, stride);
            (variable.width, variable.height, variable.bits_per_pixel) = (width, height, depth);
            let [red, green, blue, rest] =
                [0, 1, 2, 3].map(|index: usize| bits((offsets[index] % 40).into(), (lengths[index] % 40).into()));
            (variable.red, variable.green, variable.blue, variable.rest) = (red, green, blue, rest);
            if let Some(screen) = screen_info(&fixed, &variable) {
                let told = u32::from_le_bytes(screen[0x1c..0x20].try_into().unwrap());
                prop_assert!(told <= size && told > 0 && start.checked_add(told.into()).is_some());
            }
        }
    }
}
