//! Kernels, wrappings and archives for the tests of this room and of those that build on it.

use std::io::Write;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::tests::{DEBIAN_AMD64, DEBIAN_ARM64, file};
use crate::fetch::{VerifiedArtifact, operator};

/// 256 KiB of a kernel: its header, and a body that does not compress away.
const SIZE: usize = 256 * 1024;

fn with_body(head: &[u8]) -> Vec<u8> {
    let mut bytes = file(head, SIZE);
    let mut state = 1u32;
    for byte in bytes.iter_mut().skip(head.len()) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8 & 0x3f;
    }
    bytes
}

pub(crate) fn bzimage() -> Vec<u8> {
    let mut bytes = with_body(DEBIAN_AMD64);
    let setup = (usize::from(bytes[0x1f1]) + 1) * 512;
    let paragraphs = u32::try_from((SIZE - setup) / 16).unwrap();
    bytes[0x1f4..0x1f8].copy_from_slice(&paragraphs.to_le_bytes());
    bytes
}

pub(crate) fn arm64() -> Vec<u8> {
    arm64_of(with_body(DEBIAN_ARM64))
}

/// Makes an Image of the beginning of Debian's: `.text` ends where `bytes` do, and `.data` is empty.
pub(crate) fn arm64_of(mut bytes: Vec<u8>) -> Vec<u8> {
    let text = u32::try_from(bytes.len()).unwrap() - 0x1_0000;
    bytes[0x108..0x10c].copy_from_slice(&text.to_le_bytes());
    bytes[0x130..0x134].fill(0);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// As linux/drivers/firmware/efi/libstub/zboot-header.S writes it, around `payload`.
pub(crate) fn zboot(compression: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x1000];
    bytes[..8].copy_from_slice(b"MZ\0\0zimg");
    bytes[8..12].copy_from_slice(&0x1000u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    bytes[24..24 + compression.len()].copy_from_slice(compression.as_bytes());
    bytes[0x38..0x3c].copy_from_slice(&[0xcd, 0x23, 0x82, 0x81]);
    bytes.extend_from_slice(payload);
    // What follows the payload: its size, the stub's code.
    bytes.extend_from_slice(&[0x90; 600]);
    bytes
}

/// A PE file for `machine` with these sections, padded as linkers do.
pub(crate) fn pe(machine: u16, sections: &[(&str, &[u8])]) -> Vec<u8> {
    const ALIGNMENT: usize = 512;
    let coff = 0x80;
    let table = coff + 24 + 240;
    let mut bytes = vec![0; (table + sections.len() * 40).next_multiple_of(ALIGNMENT)];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x80;
    bytes[coff..coff + 4].copy_from_slice(b"PE\0\0");
    bytes[coff + 4..coff + 6].copy_from_slice(&machine.to_le_bytes());
    bytes[coff + 6..coff + 8].copy_from_slice(&u16::try_from(sections.len()).unwrap().to_le_bytes());
    bytes[coff + 20..coff + 22].copy_from_slice(&240u16.to_le_bytes());
    bytes[coff + 24..coff + 26].copy_from_slice(&0x20bu16.to_le_bytes());
    bytes[coff + 24 + 108] = 16;
    for (index, (name, content)) in sections.iter().enumerate() {
        let start = bytes.len();
        let padded = content.len().next_multiple_of(ALIGNMENT);
        bytes.extend_from_slice(content);
        bytes.resize(start + padded, 0);
        let entry = &mut bytes[table + index * 40..][..40];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        for (at, value) in [(8, content.len()), (12, 0x1_0000 + start), (16, padded), (20, start)] {
            entry[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
        }
    }
    bytes
}

/// Puts a certificate table of `size` bytes behind a PE file, as sbsign(1) does.
pub(crate) fn sign(bytes: &mut Vec<u8>, size: u32) {
    let coff = u32::from_le_bytes(bytes[0x3c..0x40].try_into().unwrap()) as usize;
    let entry = coff + 24 + 112 + 4 * 8;
    let start = u32::try_from(bytes.len()).unwrap();
    bytes[entry..entry + 4].copy_from_slice(&start.to_le_bytes());
    bytes[entry + 4..entry + 8].copy_from_slice(&size.to_le_bytes());
    bytes.resize(bytes.len() + size as usize, 0xce);
}

pub(crate) const X86: u16 = 0x8664;
pub(crate) const ARM: u16 = 0xaa64;

pub(crate) fn uki(machine: u16, kernel: &[u8]) -> Vec<u8> {
    let release = b"ID=test\nPRETTY_NAME=\"A Test\"\n";
    pe(
        machine,
        &[
            (".text", &[0x90; 700]),
            (".osrel", release),
            (".cmdline", b"root=/dev/vda\nquiet\n\0"),
            (".uname", b"6.12.0-test\0"),
            (".initrd", &cpio(&[("init", b"#!/bin/sh\n")])),
            (".ucode", &cpio(&[("kernel/x86/microcode/GenuineIntel.bin", &[7; 100])])),
            (".linux", kernel),
        ],
    )
}

/// A newc archive.
pub(crate) fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files.iter().copied().chain([("TRAILER!!!", &[][..])]) {
        let size = content.len();
        let name_size = name.len() + 1;
        let zero = 0;
        let header = format!(
            "070701{zero:08x}{:08x}{zero:08x}{zero:08x}{:08x}{zero:08x}{size:08x}{zero:08x}{zero:08x}{zero:08x}{zero:08x}{name_size:08x}{zero:08x}",
            0o100_755, 1
        );
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

pub(crate) fn artifact(name: &'static str, mut bytes: &[u8]) -> VerifiedArtifact {
    operator::vouched(name, &mut bytes, u64::MAX).unwrap()
}
