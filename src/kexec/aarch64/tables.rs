//! UEFI's system table for the next kernel, with the screen in it.
//!
//! An arm64 kernel is told of the screen by its own EFI stub, which kexec goes past, or since 6.2 by a
//! configuration table of UEFI's: init_screen_info() of drivers/firmware/efi/efi-init.c. No firmware has that table, and nobody can
//! add one to firmware's own when it is at work no more. So the next kernel gets a system table of ours: a copy of
//! firmware's, with one more configuration table. It is read while the kernel boots, and never again.
//!
//! UEFI 2.10, section 4.3 (system table), 4.6 (configuration tables), 7.2.3 (memory map).

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::screen::{self, SCREEN_INFO};
use crate::devicetree::{self, Uefi};
use crate::paths::Paths;
use crate::sys::physical;

/// `EFI_SYSTEM_TABLE` of 64 bits, in bytes.
const SYSTEM_TABLE: usize = 120;
/// "IBI SYST"
const SIGNATURE: u64 = 0x5453_5953_2049_4249;
/// Its fields.
const HEADER_SIZE: usize = 12;
const CHECKSUM: Range<usize> = 16..20;
const TABLES: usize = 104;
const TABLES_AT: usize = 112;
/// `EFI_CONFIGURATION_TABLE`: a GUID, and an address.
const ENTRY: usize = 24;
const GUID: usize = 16;
/// More than any firmware has.
const MOST_TABLES: u64 = 512;
/// LINUX_EFI_SCREEN_INFO_TABLE_GUID of include/linux/efi.h, e03fc20a-85dc-406e-b90e-4ab502371d95.
const SCREEN_GUID: [u8; GUID] =
    [0x0a, 0xc2, 0x3f, 0xe0, 0xdc, 0x85, 0x6e, 0x40, 0xb9, 0x0e, 0x4a, 0xb5, 0x02, 0x37, 0x1d, 0x95];
/// The fields of an `EFI_MEMORY_DESCRIPTOR`, and its least size.
const DESCRIPTOR: u64 = 40;
const PHYSICAL: usize = 8;
const VIRTUAL: usize = 16;
const PAGES: usize = 24;
const ATTRIBUTES: usize = 32;
/// `EFI_MEMORY_WB` and `EFI_MEMORY_RUNTIME`
const MEMORY: u64 = 1 << 3;
const RUNTIME: u64 = 1 << 63;
/// EFI_PAGE_SIZE
const PAGE: u64 = 4096;
/// More than any firmware has, in bytes.
const LARGEST_MAP: u64 = 1 << 20;

/// What goes into the next kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kexec) struct Tables {
    /// Firmware's system table.
    system: Vec<u8>,
    /// Its configuration tables, and the screen's: the last, without its address.
    entries: Vec<u8>,
    screen: [u8; SCREEN_INFO],
    /// Addresses that the kernel takes for those of firmware's that were made virtual.
    translated: Vec<Range<u64>>,
}

/// Reads what firmware has, if there is a screen to be told of. Whatever is in the way costs the screen alone.
pub(in crate::kexec) fn read(paths: &Paths, tree: &[u8]) -> Option<Tables> {
    let uefi = devicetree::uefi(tree).ok().flatten()?;
    let screen = screen::find(paths)?;
    let known = fs::read_to_string(paths.efi_systab()).unwrap_or_default();
    let memory = Physical::open(paths);
    let tables = memory.map_err(|error| error.to_string()).and_then(|memory| {
        let ram = |address, size| memory.ram(address, size);
        let any = |address, size| memory.any(address, size);
        compose(&uefi, screen, &known, &ram, &any)
    });
    tables.inspect_err(|reason| log::info!("the screen is not handed on: {reason}")).ok()
}

type Reader<'a> = &'a dyn Fn(u64, u64) -> io::Result<Vec<u8>>;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(value);
    }
}

/// The memory map is in `ram`; the tables may be in memory that the kernel leaves to firmware. `known` is what
/// the running kernel has found in them when it booted.
fn compose(
    uefi: &Uefi,
    screen: [u8; SCREEN_INFO],
    known: &str,
    ram: Reader<'_>,
    any: Reader<'_>,
) -> Result<Tables, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("cannot read {what}: {error}");
    if uefi.map_size > LARGEST_MAP || !(DESCRIPTOR..PAGE).contains(&uefi.descriptor_size) {
        return Err("UEFI's memory map has no such size".to_owned());
    }
    let map = ram(uefi.map, uefi.map_size).map_err(failed("UEFI's memory map"))?;
    let descriptor = usize::try_from(uefi.descriptor_size).map_err(|error| error.to_string())?;
    let regions: Vec<Region> = map.chunks_exact(descriptor).filter_map(Region::parse).collect();
    // What a wrong address leads to may be a device, where reading alone does something.
    let within = |address: u64, size: u64| {
        let is_there = |region: &Region| {
            let end = address.checked_add(size);
            region.memory && region.start <= address && end.is_some_and(|end| end <= region.end())
        };
        regions.iter().any(is_there).then_some(()).ok_or("UEFI's tables are not in its memory")
    };

    within(uefi.system_table, SYSTEM_TABLE as u64)?;
    let system = any(uefi.system_table, SYSTEM_TABLE as u64).map_err(failed("UEFI's system table"))?;
    let whole = system.len() == SYSTEM_TABLE
        && u64_at(&system, 0) == SIGNATURE
        && u64::from(u32_at(&system, HEADER_SIZE)) == SYSTEM_TABLE as u64
        && u32_at(&system, CHECKSUM.start) == checksum(&system);
    if !whole {
        return Err("UEFI's system table is not whole".to_owned());
    }
    let count = u64_at(&system, TABLES);
    if !(1..MOST_TABLES).contains(&count) {
        return Err(format!("UEFI has {count} configuration tables"));
    }
    // As the kernel translates it: efi_to_phys() of drivers/firmware/efi/efi-init.c.
    let translated: Vec<&Region> =
        regions.iter().filter(|region| region.runtime).take_while(|region| region.mapped != 0).collect();
    let named = u64_at(&system, TABLES_AT);
    let region = translated.iter().find(|region| region.virtual_range().contains(&named));
    let at = region.map_or(named, |region| region.start.saturating_add(named - region.mapped));
    let size = count.saturating_mul(ENTRY as u64);
    within(at, size)?;
    let mut entries = any(at, size).map_err(failed("UEFI's configuration tables"))?;
    // They have no checksum, and were read past the caches: what vouches for them is what the kernel has found.
    let known: Vec<u64> = known
        .lines()
        .filter_map(|line| line.split_once("=0x"))
        .filter_map(|(_, address)| u64::from_str_radix(address.trim_end(), 16).ok())
        .collect();
    let has = |address: &u64| entries.chunks_exact(ENTRY).any(|entry| u64_at(entry, GUID) == *address);
    if known.is_empty() || !known.iter().all(has) {
        return Err("UEFI's configuration tables are not those that this kernel has found".to_owned());
    }

    let (old, _) = entries.as_chunks::<ENTRY>();
    entries = old.iter().filter(|entry| !entry.starts_with(&SCREEN_GUID)).flatten().copied().collect();
    entries.extend_from_slice(&SCREEN_GUID);
    entries.extend_from_slice(&[0; ENTRY - GUID]);
    let translated = translated.iter().map(|region| region.virtual_range()).collect();
    Ok(Tables { system, entries, screen, translated })
}

impl Tables {
    /// In bytes.
    pub(super) fn size(&self) -> usize {
        self.system.len() + self.entries.len() + self.screen.len()
    }

    /// The tables for physical address `at`, the system table first: aligned to 8 bytes. None if the kernel would
    /// take an address in them for another.
    pub(super) fn write(&self, at: u64) -> Option<Vec<u8>> {
        let end = at.checked_add(self.size() as u64)?;
        if self.translated.iter().any(|range| range.start < end && at < range.end) {
            return None;
        }
        let entries_at = at + self.system.len() as u64;
        let screen_at = entries_at + self.entries.len() as u64;
        let mut system = self.system.clone();
        put(&mut system, TABLES, &((self.entries.len() / ENTRY) as u64).to_le_bytes());
        put(&mut system, TABLES_AT, &entries_at.to_le_bytes());
        let sum = checksum(&system);
        put(&mut system, CHECKSUM.start, &sum.to_le_bytes());
        let mut entries = self.entries.clone();
        let last = entries.len().saturating_sub(ENTRY - GUID);
        put(&mut entries, last, &screen_at.to_le_bytes());
        Some([&system[..], &entries, &self.screen].concat())
    }
}

/// A region of UEFI's memory map.
struct Region {
    /// Physical; size in bytes.
    start: u64,
    size: u64,
    /// Where firmware was told to find it, if it is one of its own.
    mapped: u64,
    memory: bool,
    runtime: bool,
}

impl Region {
    fn parse(descriptor: &[u8]) -> Option<Self> {
        let attributes = u64_at(descriptor, ATTRIBUTES);
        let (start, size) = (u64_at(descriptor, PHYSICAL), u64_at(descriptor, PAGES).checked_mul(PAGE)?);
        start.checked_add(size)?;
        Some(Self {
            start,
            size,
            mapped: u64_at(descriptor, VIRTUAL),
            memory: attributes & MEMORY != 0,
            runtime: attributes & RUNTIME != 0,
        })
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }

    fn virtual_range(&self) -> Range<u64> {
        self.mapped..self.mapped.saturating_add(self.size)
    }
}

/// CRC-32 of a system table whose field for it is zero.
fn checksum(table: &[u8]) -> u32 {
    /// The polynomial, its highest power in the lowest bit.
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let bytes = table.iter().enumerate().map(|(at, &byte)| if CHECKSUM.contains(&at) { 0 } else { byte });
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

/// Physical memory as root can read it.
struct Physical {
    kcore: File,
    memory: File,
    /// What of /proc/kcore is memory: physical address, size, and where in the file.
    ram: Vec<(u64, u64, u64)>,
}

impl Physical {
    fn open(paths: &Paths) -> io::Result<Self> {
        let open = |path: std::path::PathBuf| {
            File::open(&path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
        };
        let (kcore, memory) = (open(paths.kcore())?, open(paths.memory())?);
        let ram = core_segments(&|at, size| read_at(&kcore, at, size))?;
        Ok(Self { kcore, memory, ram })
    }

    /// Memory that is the kernel's.
    fn ram(&self, address: u64, size: u64) -> io::Result<Vec<u8>> {
        let place = |&(start, length, offset): &(u64, u64, u64)| {
            let skip = address.checked_sub(start)?;
            (skip.checked_add(size)? <= length).then(|| offset.checked_add(skip)).flatten()
        };
        let at = self.ram.iter().find_map(place).ok_or(io::ErrorKind::NotFound)?;
        read_at(&self.kcore, at, size)
    }

    /// The same, or memory that the kernel leaves to firmware.
    fn any(&self, address: u64, size: u64) -> io::Result<Vec<u8>> {
        match self.ram(address, size) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(physical::read(&self.memory, address, size)?)
            }
            read => read,
        }
    }
}

fn read_at(file: &File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(size.min(LARGEST_MAP)).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// The segments of an ELF core file of 64 bits that have a physical address: that, size, and offset in the file.
fn core_segments(read: Reader<'_>) -> io::Result<Vec<(u64, u64, u64)>> {
    const HEADER: u64 = 64;
    const SEGMENT: u16 = 56;
    const LOAD: u32 = 1;
    let header = read(0, HEADER)?;
    let u16_at =
        |at: usize| header.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map(u16::from_le_bytes);
    // ELFCLASS64, ELFDATA2LSB; e_phentsize
    if !header.starts_with(b"\x7fELF\x02\x01") || u16_at(54) != Some(SEGMENT) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let count = u16_at(56).unwrap_or(0);
    let table = read(u64_at(&header, 32), u64::from(count.min(4096)) * u64::from(SEGMENT))?;
    let segments = table.chunks_exact(SEGMENT.into()).filter(|segment| u32_at(segment, 0) == LOAD);
    let places = segments.map(|segment| (u64_at(segment, 24), u64_at(segment, 32), u64_at(segment, 8)));
    Ok(places.filter(|&(physical, ..)| physical != u64::MAX).collect())
}

#[cfg(test)]
pub(super) mod tests;
