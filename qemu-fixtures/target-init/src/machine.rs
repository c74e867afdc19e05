//! What the kernel and its firmware show of the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};

/// Where efivarfs belongs.
pub(crate) const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// EFI_GLOBAL_VARIABLE: UEFI 2.10, section 3.3.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Before each variable's value are its attributes: Documentation/filesystems/efivarfs.rst.
const ATTRIBUTES: usize = 4;

/// Where the kernel lies in memory, as /proc/iomem has it.
pub(crate) fn kernel_code() -> Option<u64> {
    let text = fs::read_to_string("/proc/iomem").ok()?;
    let line = text.lines().find(|line| line.ends_with(": Kernel code"))?;
    hexadecimal(line.trim_start().split('-').next()?)
}

/// The address at which the kernel sees its own first instruction.
pub(crate) fn kernel_text() -> Option<u64> {
    // It stands near the top of a long file.
    let lines = BufReader::new(File::open("/proc/kallsyms").ok()?).lines();
    let line = lines.map_while(Result::ok).find(|line| line.split(' ').nth(2) == Some("_text"))?;
    hexadecimal(line.split(' ').next()?)
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The ramdisk's address on x86: `ramdisk_image` and `ext_ramdisk_image` of
/// Documentation/arch/x86/zero-page.rst.
pub(crate) fn ramdisk() -> Option<u64> {
    let page = fs::read("/sys/kernel/boot_params/data").ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?));
    Some(u64::from(word(0x0c0)?) << 32 | u64::from(word(0x218)?))
}

/// Whether an x86 kernel has drawn its addresses at random: KASLR_FLAG in `loadflags` of
/// Documentation/arch/x86/boot.rst, which its decompressor clears, and sets where it draws.
pub(crate) fn kaslr() -> Option<bool> {
    let page = fs::read("/sys/kernel/boot_params/data").ok()?;
    Some(page.get(0x211)? & 1 << 1 != 0)
}

/// What each framebuffer says it is, and whether it keeps what is drawn.
pub(crate) fn framebuffers() -> Vec<Value> {
    let devices = names("/sys/class/graphics").unwrap_or_default();
    let framebuffer = |device: &String| {
        let folder = Path::new("/sys/class/graphics").join(device);
        let text = |name| Some(fs::read_to_string(folder.join(name)).ok()?.trim_end().to_owned());
        let (size, stride) = (text("virtual_size"), text("stride"));
        let drawn = draw(&Path::new("/dev").join(device), size.as_deref(), stride.as_deref());
        Some(json!({
            "name": text("name")?,
            "size": size,
            "bits": text("bits_per_pixel"),
            "stride": stride,
            "drawn": drawn.is_ok(),
            "why_not": drawn.err().map(|error| error.to_string()),
        }))
    };
    devices.iter().filter_map(framebuffer).collect()
}

/// Draws into the end of the last line and looks whether it is there. In the first one the
/// kernel's own cursor blinks.
fn draw(device: &Path, size: Option<&str>, stride: Option<&str>) -> io::Result<()> {
    let number = |text: Option<&str>| text?.parse::<u64>().ok();
    let lines = number(size.and_then(|size| Some(size.split_once(',')?.1)));
    let bytes = lines.zip(number(stride)).and_then(|(lines, stride)| lines.checked_mul(stride));
    let drawn = [0x5a, 0xa5].repeat(256);
    let at = bytes.and_then(|bytes| bytes.checked_sub(drawn.len() as u64));
    let at = at.ok_or_else(|| io::Error::other("neither size nor stride are known"))?;
    let file = OpenOptions::new().read(true).write(true).open(device)?;
    let mut seen = vec![0; drawn.len()];
    file.write_all_at(&drawn, at)?;
    file.read_exact_at(&mut seen, at)?;
    let lost = drawn.iter().zip(&seen).filter(|(drawn, seen)| drawn != seen).count();
    match lost {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("{lost} of {} bytes are others", drawn.len()))),
    }
}

/// The names in a folder, in order.
pub(crate) fn names(folder: &str) -> Option<Vec<String>> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Some(names)
}

/// How many variables the firmware lists, and what it answers when it is asked for one.
pub(crate) fn efi_variables() -> Option<Value> {
    let listed = names(VARIABLES)?;
    let value = |name: &str| fs::read(Path::new(VARIABLES).join(format!("{name}-{GLOBAL}"))).ok();
    Some(json!({
        "count": listed.len(),
        "secure_boot": value("SecureBoot").and_then(|bytes| bytes.get(ATTRIBUTES).copied()),
        "boot_order_bytes": value("BootOrder").map(|bytes| bytes.len().saturating_sub(ATTRIBUTES)),
    }))
}
