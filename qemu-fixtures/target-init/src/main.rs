//! The init of the lab's second kernel: says what it sees in one line on the console, and powers off, or
//! stays where the command line has `lab.stays`.
//!
//! The line is `PHASEBOOT-TARGET {json}`. Sizes are in kB as /proc/meminfo has them, times in seconds. A line
//! before it says when this started.

mod machine;
mod modules;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

fn main() {
    for (kind, folder) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mounted(kind, folder);
    }
    // Messages of the kernel's own would break the line in two.
    let _ = fs::write("/proc/sys/kernel/printk", "1");
    say("\nPHASEBOOT-TARGET-STARTED\n");
    mounted("securityfs", "/sys/kernel/security");
    modules::load("efivarfs");
    mounted("efivarfs", machine::VARIABLES);
    let line = format!("\nPHASEBOOT-TARGET {}\n", report());
    say(&line);
    rustix::fs::sync();
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if cmdline.split_whitespace().any(|word| word == "lab.stays") {
        wait();
    }
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    // A kernel that cannot power off.
    wait();
}

/// What is mounted already, or missing from this kernel, shows in the report.
fn mounted(kind: &str, folder: &str) {
    let _ = fs::create_dir_all(folder);
    let _ = mount(kind, folder, kind, MountFlags::empty(), None);
}

/// PID 1 must not end, and the lab has its time limit.
fn wait() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}

/// Every console gets the line, and has it written out before this returns.
fn say(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(line.as_bytes());
        let _ = rustix::termios::tcdrain(&console);
    } else {
        let _ = std::io::stdout().write_all(line.as_bytes());
    }
}

fn report() -> Value {
    let uname = rustix::system::uname();
    let text = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned());
    let first_word = |path: &str| Some(text(path)?.split(' ').next()?.to_owned());
    json!({
        "cmdline": text("/proc/cmdline"),
        "release": uname.release().to_string_lossy(),
        "machine": uname.machine().to_string_lossy(),
        "secret_sha256": sha256("/target-secret"),
        "chosen": chosen(Path::new("/proc/device-tree/chosen")),
        "kexec_loaded": text("/sys/kernel/kexec_loaded"),
        "mem_total_kb": mem_total_kb(),
        "cpus_online": text("/sys/devices/system/cpu/online"),
        "efi": Path::new("/sys/firmware/efi").exists(),
        "acpi": Path::new("/sys/firmware/acpi").exists(),
        "kernel_said": kernel_log(&["KASLR", "crng init done", "EFI v", "Machine model"]),
        "kernel_code": machine::kernel_code(),
        "kernel_text": machine::kernel_text(),
        "kaslr": machine::kaslr(),
        "ramdisk_at": machine::ramdisk(),
        "framebuffers": machine::framebuffers(),
        "lockdown": text("/sys/kernel/security/lockdown"),
        "efi_variables": machine::efi_variables(),
        "parts": machine::names("/target-parts"),
        "uptime_s": first_word("/proc/uptime").and_then(|seconds| seconds.parse::<f64>().ok()),
    })
}

fn sha256(path: &str) -> Option<String> {
    let digest = Sha256::digest(fs::read(path).ok()?);
    Some(hex(&digest))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The properties of /chosen: text where it is text, else `0x...`. None without a device tree.
fn chosen(folder: &Path) -> Option<Value> {
    let mut properties = Map::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let Ok(bytes) = fs::read(entry.path()) else { continue };
        properties.insert(entry.file_name().to_string_lossy().into_owned(), Value::String(property(&bytes)));
    }
    Some(Value::Object(properties))
}

fn property(bytes: &[u8]) -> String {
    match bytes.strip_suffix(b"\0") {
        Some(text) if text.iter().all(|&byte| (b' '..=b'~').contains(&byte)) => {
            String::from_utf8_lossy(text).into_owned()
        }
        _ => format!("0x{}", hex(bytes)),
    }
}

fn mem_total_kb() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Lines of this boot's kernel log that contain one of `words`: what /proc cannot tell.
fn kernel_log(words: &[&str]) -> Vec<String> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), flags);
    let Ok(mut kmsg) = options.open("/dev/kmsg") else { return Vec::new() };
    let mut found = Vec::new();
    while let Some(record) = next_record(&mut kmsg) {
        let message = record.split_once(';').map_or(record.as_str(), |(_, message)| message);
        let message = message.lines().next().unwrap_or_default();
        if words.iter().any(|word| message.contains(word)) {
            found.push(message.to_owned());
        }
    }
    found
}

/// One record of /dev/kmsg: Documentation/ABI/testing/dev-kmsg. None at the end.
fn next_record(kmsg: &mut File) -> Option<String> {
    let mut buffer = [0; 8192];
    let length = kmsg.read(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(buffer.get(..length)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_text_or_hexadecimal() {
        assert_eq!(property(b"console=ttyAMA0\0"), "console=ttyAMA0");
        assert_eq!(property(&[0; 8]), "0x0000000000000000");
        assert_eq!(property(b"\0"), "");
        assert_eq!(property(b""), "0x");
    }
}
