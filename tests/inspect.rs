//! `phaseboot inspect` as people and scripts see it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic and print"
)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

#[path = "common/pe.rs"]
mod pe;

use pe::pe;

/// The first 4 KiB of the kernels that Debian ships.
const ARM64: &[u8] = include_bytes!("../src/image/testdata/debian-6.1-arm64.head");
const AMD64: &[u8] = include_bytes!("../src/image/testdata/debian-6.1-amd64.head");
const TREE: &[u8] = include_bytes!("../src/devicetree/testdata/qemu-virt-gicv3.dtb");

/// What is printed and the exit code.
fn inspect(folder: &Path, bytes: &[u8], option: &str) -> (String, i32) {
    let path = folder.join("file");
    fs::write(&path, bytes).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_phaseboot"))
        .arg("inspect")
        .arg(&path)
        .args(Some(option).filter(|option| !option.is_empty()))
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(error.contains(&format!("(exit code {code})")), code != 0, "{error}");
    (String::from_utf8(output.stdout).unwrap(), code)
}

fn said(folder: &Path, bytes: &[u8]) -> Value {
    let (text, code) = inspect(folder, bytes, "--json");
    assert_eq!(text.lines().count(), 1, "one object on one line");
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["code"] = code.into();
    value
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sized(head: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = head.to_vec();
    bytes.resize(size, 0);
    bytes
}

/// 1 MiB: a kernel whose `.text` ends with them, and whose `.data` is empty.
fn arm64() -> Vec<u8> {
    let mut bytes = sized(ARM64, 1 << 20);
    bytes[0x108..0x10c].copy_from_slice(&0xf_0000_u32.to_le_bytes());
    bytes[0x130..0x134].fill(0);
    bytes
}

#[test]
fn kernels_of_both_architectures_on_any_machine() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut image = arm64();
    image[0x8000..0x8020].copy_from_slice(b"Linux version 6.1.0-test (x@y)\n\0");
    let packed = gzip(&image);
    let arm = said(at, &packed);
    for (name, value) in [
        ("kind", json!("kernel")),
        ("arch", json!("arm64")),
        ("format", json!("Image")),
        ("size", json!(packed.len())),
        ("loaded_size", json!(1 << 20)),
        ("page_size", json!("4K")),
        ("endian", json!("little")),
        ("text_offset", json!("0x0")),
        ("cmdline_limit", json!(2047)),
        ("version", json!("6.1.0-test (x@y)")),
        ("signed", json!(false)),
        ("wrappings", json!([{"format": "gzip file", "size": packed.len()}])),
        ("code", json!(0)),
    ] {
        assert_eq!(arm[name], value, "{name}");
    }
    let x86 = said(at, &sized(AMD64, 14_186_432));
    assert_eq!(
        (&x86["arch"], &x86["format"], &x86["protocol"]),
        (&json!("x86_64"), &json!("bzImage"), &json!("2.15"))
    );
    assert_eq!((&x86["pref_address"], &x86["above_4g"]), (&json!("0x1000000"), &json!(true)));
    assert!(x86.get("wrappings").is_none() && x86.get("loaded_size").is_none());
    let (text, code) = inspect(at, &packed, "");
    assert_eq!(code, 0);
    assert!(text.contains("\nwrappings         format gzip file, size "), "{text}");
    assert!(text.contains("\nloaded_size       1.0 MB (1048576 bytes)\n"), "{text}");
}

#[test]
fn what_is_broken_is_shown_and_exits_16() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let packed = gzip(&arm64());
    for (bytes, error) in [
        (&packed[..packed.len() - 4], "the file is a broken gzip file: it promises 4 bytes more, 0 are left"),
        (AMD64, "the file is a truncated bzImage"),
        (ARM64, "the file is a truncated arm64 Image: its header promises 27302400 bytes, the file has 4096"),
        (b"<html>not found</html>", "the file is a web page"),
        (b"", "the file is empty"),
        (b"{\"error\": 404}", "the file is a JSON text"),
        (b"\x7fELF\x02\x01............\x3e\0", "the file is an ELF file for x86_64 (a vmlinux?)"),
    ] {
        let value = said(at, bytes);
        assert_eq!((&value["kind"], &value["code"]), (&json!("unusable"), &json!(16)));
        assert!(value["error"].as_str().unwrap().starts_with(error), "{value}");
        assert_eq!(value["size"], bytes.len());
        assert!(!value["cure"].as_str().unwrap().is_empty());
    }
    let missing =
        Command::new(env!("CARGO_BIN_EXE_phaseboot")).args(["inspect", "/nowhere"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn ramdisks_trees_and_documents_are_no_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let archive = b"07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b00000000TRAILER!!!\0\0\0\0";
    let disk = said(at, &gzip(archive));
    assert_eq!((&disk["kind"], &disk["code"]), (&json!("ramdisk"), &json!(0)));
    assert_eq!(disk["archives"][0]["format"], "gzip");
    assert_eq!(disk["archives"][0]["unpacked_size"], archive.len());
    let plain = said(at, archive);
    assert_eq!((&plain["archives"][0]["files"], &plain["code"]), (&json!(0), &json!(0)));
    let cut = said(at, &archive[..100]);
    assert_eq!((&cut["code"], &cut["kind"]), (&json!(0), &json!("ramdisk")));
    assert!(cut["archives"][0]["fault"].as_str().unwrap().contains("without an end mark"));
    let manifest = json!({
        "version": "0.1", "channel": "stable", "arch": "arm64", "manifest_version": 7, "cmdline": "quiet",
        "artifacts": {"kernel": {"hash": "sha256:00", "size": 12}},
    });
    let value = said(at, manifest.to_string().as_bytes());
    assert_eq!(
        (&value["kind"], &value["code"], &value["verified"]),
        (&json!("manifest"), &json!(0), &json!(false))
    );
    assert_eq!((&value["manifest_version"], &value["signatures"]), (&json!(7), &json!(0)));
    assert_eq!(value["artifacts"], json!([{"name": "kernel", "size": 12, "hash": "sha256:00"}]));
    let twice = said(at, b"{\"artifacts\": 1, \"artifacts\": 2}");
    assert_eq!(twice["code"], 12, "{twice}");
    let tree = said(at, TREE);
    assert_eq!((&tree["kind"], &tree["code"]), (&json!("device tree"), &json!(0)));
    assert!(!tree["compatible"].as_array().unwrap().is_empty());
}

#[test]
fn nothing_of_a_unified_kernel_image_reaches_the_terminal_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let parameters = "console=ttyS0,115200 ".repeat(60);
    let cmdline = format!("\x1b[2J\u{9b}m\nquiet {parameters}");
    let image = pe(&[
        (".linux", &arm64()),
        (".cmdline", cmdline.as_bytes()),
        (".osrel", b"PRETTY_NAME=\"\x1b]0;owned\x07\"\nVERSION_ID=1\n"),
        (".uname", b"6.1\x1b[31m"),
        (".sbat", b"sbat,1,\r\x1b[A\n"),
        (".x\x1b[31m", b"?"),
        (".initrd", &[0; 512]),
    ]);
    let (text, code) = inspect(at, &image, "");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("owned") && text.contains("unified kernel image"), "{text}");
    assert!(!text.contains(|it: char| it.is_control() && it != '\n'), "{text:?}");
    let long = text.lines().find(|line| !line.starts_with("file ") && line.chars().count() > 100);
    assert_eq!(long, None);
    assert_eq!(text.matches("console=ttyS0,115200").count(), 60);
    assert!(text.contains("\nramdisks          name .initrd, size 512 B (512 bytes)\n"), "{text}");
    let object = said(at, &image);
    assert_eq!(object["cmdline"].as_str().unwrap().split_whitespace().count(), 63);
    assert_eq!(object["ramdisks"][0]["archives"], json!([]));
}
