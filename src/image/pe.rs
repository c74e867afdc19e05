//! As much of a PE file as kernels and unified kernel images need: the machine, the sections and the
//! certificate table. Source: Microsoft PE Format, "COFF File Header", "Optional Header", "Section Table".

use std::ops::Range;

use super::at;

/// Where the offset of the PE header stands.
const HEADER_OFFSET: usize = 0x3c;
const COFF_SIZE: usize = 24;
const SECTION_SIZE: usize = 40;
/// More sections than a loader of programs takes: "COFF File Header".
const SECTIONS_MOST: u64 = 96;
/// The optional header's magic of 32-bit and 64-bit programs.
const PE32: u16 = 0x10b;
const PE32_PLUS: u16 = 0x20b;
/// The entry of the data directory that is the certificate table. Unlike the others it is given as an
/// offset into the file.
const CERTIFICATES: usize = 4;

/// A PE file whose headers are whole.
#[derive(Clone, Debug)]
pub(super) struct Pe<'a> {
    file: u64,
    machine: u16,
    table: &'a [u8],
    certificates: Option<Range<u64>>,
}

/// One section as the table describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    /// Without the NULs behind it.
    pub(super) name: &'a [u8],
    /// Bytes of the file. `end` may lie beyond the file's end.
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Section<'_> {
    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

impl<'a> Pe<'a> {
    /// Reads the headers of `bytes`, if it is a PE file and they are whole.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.starts_with(b"MZ") {
            return None;
        }
        let coff = usize::try_from(u32::from_le_bytes(at(bytes, HEADER_OFFSET)?)).ok()?;
        let coff = bytes.get(coff..)?;
        if !coff.starts_with(b"PE\0\0") {
            return None;
        }
        let u16_at = |offset| at(coff, offset).map(u16::from_le_bytes).map(usize::from);
        let (sections, optional) = (u16_at(6)?, u16_at(20)?);
        let (optional, rest) = coff.get(COFF_SIZE..)?.split_at_checked(optional)?;
        Some(Self {
            file: bytes.len() as u64,
            machine: u16::from_le_bytes(at(coff, 4)?),
            table: rest.get(..sections.checked_mul(SECTION_SIZE)?)?,
            certificates: certificates(optional),
        })
    }

    /// The architecture it is for.
    pub(super) fn arch(&self) -> &'static str {
        match self.machine {
            0x8664 => "x86_64",
            0xaa64 => "arm64",
            0x014c => "32-bit x86",
            0x01c0 | 0x01c2 | 0x01c4 => "32-bit ARM",
            0x5032 | 0x5064 => "RISC-V",
            0x6232 | 0x6264 => "LoongArch",
            _ => "another architecture",
        }
    }

    /// Its sections, in their order. What tools pad a section with is left out, where the table tells
    /// it from the section's own bytes.
    pub(super) fn sections(&self) -> impl Iterator<Item = Section<'a>> + use<'a> {
        self.table.chunks_exact(SECTION_SIZE).map(|entry| {
            let u32_at = |offset| at(entry, offset).map_or(0, |bytes| u64::from(u32::from_le_bytes(bytes)));
            let name = entry.split(|&byte| byte == 0).next().unwrap_or_default();
            let (in_memory, in_file, start) = (u32_at(8), u32_at(16), u32_at(20));
            let size = if in_memory == 0 { in_file } else { in_memory.min(in_file) };
            Section { name: name.get(..8).unwrap_or(name), start, end: start.saturating_add(size) }
        })
    }

    /// The bytes of the file that are its certificate table: it is signed, by whomever.
    pub(super) fn certificates(&self) -> Option<Range<u64>> {
        self.certificates.clone().filter(|range| range.end <= self.file)
    }
}

/// How many bytes a PE file has up to the end of its headers and of what its sections hold, even if the
/// file is cut off before. Left out is what would end behind `most`: those are no places in this file.
/// None for what is no PE file.
pub(super) fn extent(bytes: &[u8], most: u64) -> Option<u64> {
    const SIGNATURE: &[u8] = b"PE\0\0";
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    let start = u32::from_le_bytes(at(bytes, HEADER_OFFSET)?);
    let coff = bytes.get(usize::try_from(start).ok()?..)?;
    let signature = coff.get(..SIGNATURE.len()).unwrap_or(coff);
    let u16_at = |offset| at(coff, offset).map_or(0, u16::from_le_bytes);
    let (sections, optional) = (u64::from(u16_at(6)), u64::from(u16_at(20)));
    if !SIGNATURE.starts_with(signature) || sections > SECTIONS_MOST {
        return None;
    }
    let headers = u64::from(start) + COFF_SIZE as u64 + optional + sections * SECTION_SIZE as u64;
    let sections = Pe::parse(bytes).into_iter().flat_map(|pe| pe.sections());
    let ends = sections.filter(|section| section.size() > 0).map(|section| section.end);
    ends.chain([headers]).filter(|&end| end <= most).max()
}

fn certificates(optional: &[u8]) -> Option<Range<u64>> {
    let entries = match u16::from_le_bytes(at(optional, 0)?) {
        PE32 => 92,
        PE32_PLUS => 108,
        _ => return None,
    };
    if usize::try_from(u32::from_le_bytes(at(optional, entries)?)).ok()? <= CERTIFICATES {
        return None;
    }
    let entry = entries + 4 + CERTIFICATES * 8;
    let start = u64::from(u32::from_le_bytes(at(optional, entry)?));
    let size = u64::from(u32::from_le_bytes(at(optional, entry + 4)?));
    (start > 0 && size > 0).then(|| start..start + size)
}
