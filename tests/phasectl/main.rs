//! phasectl as people run it: the real binary, its files and its exit codes, with openssl, cpio and
//! curl on the other side.
//!
//! Kernels are headers of Debian's on little behind them; programs and modules are small files made
//! here.

// The lints that keep PID 1 from panicking: a test that panics is a test that fails.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod handbook;
mod initramfs;
mod inspect;
mod keygen;
mod keys;
#[path = "../common/pe.rs"]
mod pe;
mod policy;
mod publish;
mod serve;
mod sign;
mod verify;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A release that can be published from a [`workshop`].
const PUBLISH: &str = "publish --key k.key --into tree --arch x86_64 --kernel bzimage --initramfs initrd";
/// An initramfs that can be packed there.
const PACK: &str = "initramfs --out out.img --payload payload --key k.pub";

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

fn phasectl<I: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phasectl"))
        .current_dir(folder)
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null())
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs a command line whose words are separated by blanks, which must succeed.
fn done(folder: &Path, line: &str) -> String {
    let output = phasectl(folder, line.split_ascii_whitespace());
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command line that must be refused with `code` and one line that has `part` in it.
fn refused(folder: &Path, line: &str, code: i32, part: &str) {
    let output = phasectl(folder, line.split_ascii_whitespace());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(said.contains(part), "{line}: {said}");
    if code != 2 {
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
    }
}

#[test]
fn a_failure_is_json_too() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    done(at, "keygen --out two");
    fs::write(at.join("bad"), "{").unwrap();
    fs::write(at.join("other"), "x").unwrap();
    for (line, code, verdict) in [
        ("keygen --out k", 1, None),
        ("sign bad --key k.key", 12, Some("malformed")),
        ("inspect bad", 12, Some("malformed")),
        ("inspect other", 1, None),
        ("keys show nothing", 1, None),
        ("keys rotate --root k.key --file keys.json", 1, None),
        ("policy check other", 1, None),
        ("serve none", 1, None),
        (&PACK.replace("k.pub", "k.key"), 1, None),
        (&PUBLISH.replace("k.key", "none"), 1, None),
        (&format!("{PUBLISH} --trust none"), 13, Some("no-trust")),
        ("verify none --key k.pub", 1, Some("error")),
        (&format!("verify {live} --key two.pub"), 13, Some("not-trusted")),
    ] {
        let output = phasectl(at, format!("{line} --json").split_ascii_whitespace());
        let (said, line_said) = (json(&output.stdout), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{line}: {line_said}");
        assert_eq!(said["exit_code"], code, "{line}");
        assert_eq!(said["verdict"].as_str(), verdict, "{line}");
        assert_eq!(said["hint"].is_string(), code != 1, "{line}");
        let error = said["error"].as_str().unwrap();
        assert!(line_said.starts_with(&format!("phasectl: {error}")), "{line}: {line_said}");
        assert_eq!(line_said.lines().count(), 1, "{line_said}");
    }
}

/// Publishes to `channel` and returns the path of the manifest.
fn publish(folder: &Path, channel: &str, more: &str) -> String {
    done(folder, &format!("{PUBLISH} --channel {channel} {more}"));
    format!("tree/{channel}/x86_64/manifest.signed.json")
}

/// A trust folder with these public keys.
fn trust(folder: &Path, name: &str, keys: &[&str], policy: &str) {
    let at = folder.join(name);
    fs::create_dir_all(at.join("keys")).unwrap();
    for key in keys {
        fs::copy(folder.join(key), at.join("keys").join(key)).unwrap();
    }
    fs::write(at.join("policy.json"), policy).unwrap();
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program).current_dir(folder).args(arguments).output().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// An ELF program with one PT_INTERP segment if `interpreter` is not empty.
fn elf(machine: u16, interpreter: &str) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend(0x40_0000_u64.to_le_bytes()); // e_entry
    elf.extend(64_u64.to_le_bytes()); // e_phoff
    elf.extend(0_u64.to_le_bytes()); // e_shoff
    elf.extend(0_u32.to_le_bytes());
    for half in [64, 56, u16::from(!interpreter.is_empty()), 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    if !interpreter.is_empty() {
        let size = interpreter.len() as u64 + 1;
        elf.extend(3_u32.to_le_bytes()); // PT_INTERP
        elf.extend(4_u32.to_le_bytes());
        for word in [120, 0, 0, size, size, 1_u64] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(interpreter.as_bytes());
        elf.push(0);
    }
    elf
}

/// 70 000 bytes: a header whose `syssize` promises no more than these.
fn bzimage() -> Vec<u8> {
    let mut bytes = include_bytes!("../../src/image/testdata/debian-6.1-amd64.head").to_vec();
    bytes.resize(70_000, 0);
    let setup = (u32::from(bytes[0x1f1]) + 1) * 512;
    bytes[0x1f4..0x1f8].copy_from_slice(&((70_000 - setup) / 16).to_le_bytes());
    bytes
}

/// 70 000 bytes: the header of an arm64 kernel whose `.text` ends with them, and whose `.data` is empty.
fn image() -> Vec<u8> {
    let mut bytes = include_bytes!("../../src/image/testdata/debian-6.1-arm64.head").to_vec();
    bytes.resize(70_000, 0);
    bytes[0x108..0x10c].copy_from_slice(&(70_000 - 0x1_0000_u32).to_le_bytes());
    bytes[0x130..0x134].fill(0);
    bytes
}

/// Writes a file that only its owner can read.
fn private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder with a key pair `k`, kernels of both architectures, an initramfs and static programs.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("bzimage"), bzimage()).unwrap();
    fs::write(at("image"), image()).unwrap();
    fs::write(at("initrd"), b"an initramfs").unwrap();
    fs::write(at("empty"), b"").unwrap();
    program(&at("payload"), &elf(X86_64, ""));
    program(&at("payload-arm64"), &elf(AARCH64, ""));
    program(&at("dynamic"), &elf(X86_64, "/lib64/ld-linux-x86-64.so.2"));
    done(folder.path(), "keygen --out k");
    folder
}
