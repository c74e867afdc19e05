//! Reads the machine from /proc and /sys. Everything there is bounded and checked.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::e820::{self, Entry};
use super::efi::{self, Efi, Region, number};
use super::machine::{Handover, Machine, SEED, Seed};
use super::{Error as X86, params};
use crate::image::at;
use crate::kexec::{Error, MemoryMap, kmsg};
use crate::paths::Paths;
use crate::sys;

/// A file of sysfs is not larger, in bytes.
const SYSFS_FILE: u64 = 4096;
/// /proc/cpuinfo is not larger, in bytes.
const PROC_FILE: u64 = 16 << 20;
/// Firmware has some dozens of regions.
const REGIONS: usize = 4096;

impl Machine {
    /// Reads it from /proc/iomem, /sys/firmware/memmap, /sys/kernel/boot_params and /sys/firmware/efi.
    pub(in crate::kexec) fn read(paths: &Paths) -> Result<Self, Error> {
        let mut memory = MemoryMap::read(paths)?.usable;
        let mut boot_params = Vec::new();
        if let Err(error) =
            open(&paths.boot_params(), SYSFS_FILE).and_then(|mut file| file.read_to_end(&mut boot_params))
        {
            log::info!("no framebuffer is handed on, the boot parameters cannot be read: {error}");
        }
        if boot_params.len() != params::ZERO_PAGE {
            boot_params.clear();
        }
        let mut e820 = e820(paths, &boot_params)?;
        let cpu = text(&paths.cpuinfo(), PROC_FILE).unwrap_or_default();
        let log = Told::read(&paths.kmsg());
        let log_is_whole = !log.has_gaps || !(paths.efi().exists() || has_flag(&cpu, "hypervisor"));
        if !log_is_whole {
            log::warn!("{GAPS}");
        }
        for table in &log.tables {
            e820::reserve(&mut e820, &efi::room(*table));
        }
        let mut outside = memory.clone();
        outside.remove_all(&e820::ram(&e820));
        memory.remove_all(&outside);

        let systab = paths.efi().join("systab");
        let systab = text(&systab, SYSFS_FILE).unwrap_or_default();
        let table = |name| efi::table(&systab, name);
        let told = at(&boot_params, params::ACPI_RSDP_ADDR).map_or(0, u64::from_le_bytes);
        let rsdp = match told {
            0 => table("ACPI20").or_else(|| table("ACPI")).unwrap_or(0),
            address => address,
        };
        let mut seed = Seed([0; SEED]);
        let drawn = sys::random::fill_if_ready(&mut seed.0);
        Ok(Self {
            memory,
            e820,
            rsdp,
            efi: efi(paths, &boot_params, table("SMBIOS").unwrap_or(0)),
            boot_params,
            five_level: has_flag(&cpu, "la57"),
            confidential: if has_flag(&cpu, "tdx_guest") { Some("TDX") } else { log.encryption },
            log_is_whole,
            seed: drawn.then_some(seed),
        })
    }
}

/// Whether the running kernel uses 5-level paging.
pub(super) fn has_five_levels(paths: &Paths) -> bool {
    text(&paths.cpuinfo(), PROC_FILE).is_ok_and(|cpu| has_flag(&cpu, "la57"))
}

fn open(path: &Path, most: u64) -> io::Result<io::Take<File>> {
    Ok(File::open(path)?.take(most))
}

fn text(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    open(path, most)?.read_to_string(&mut text)?;
    Ok(text)
}

/// The folders in `path` whose names are numbers, in their order, at most `most`.
fn numbered(path: &Path, most: usize) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let number = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path()));
    let mut found: Vec<_> = entries.flatten().filter_map(number).take(most).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, path)| path).collect()
}

/// The number in a file of sysfs.
fn number_in(folder: &Path, name: &str) -> Option<u64> {
    number(&text(&folder.join(name), SYSFS_FILE).ok()?)
}

/// The firmware's memory map as it came, else as the running kernel's boot parameters have it.
fn e820(paths: &Paths, boot_params: &[u8]) -> Result<Vec<Entry>, X86> {
    let entry = |folder: &PathBuf| {
        let kind = text(&folder.join("type"), SYSFS_FILE).ok()?;
        Entry::named(number_in(folder, "start")?, number_in(folder, "end")?, kind.trim_end())
    };
    let folders = numbered(&paths.firmware_memmap(), e820::MOST);
    let mut entries: Vec<Entry> = folders.iter().map_while(entry).collect();
    if entries.is_empty() || entries.len() < folders.len() {
        let count = boot_params.get(params::E820_ENTRIES).map_or(0, |count| usize::from(*count));
        let table = boot_params.get(params::E820_TABLE..).unwrap_or_default();
        entries = e820::read(table);
        entries.truncate(count.min(params::E820_MOST));
    }
    entries.sort_unstable_by_key(|entry| entry.start);
    if entries.is_empty() { Err(X86::NoFirmwareMap) } else { Ok(entries) }
}

/// What can be handed on of EFI.
fn efi(paths: &Paths, boot_params: &[u8], smbios: u64) -> Handover {
    let folder = paths.efi();
    match at(boot_params, params::EFI_LOADER_SIGNATURE) {
        Some(efi::LOADER_64) => {}
        Some(efi::LOADER_32) => return Handover::Lost("the firmware is a 32-bit one"),
        Some(_) if !folder.exists() => return Handover::None,
        _ => return Handover::Lost("the boot parameters do not have it"),
    }
    let region = |folder: &PathBuf| {
        Some(Region {
            kind: u32::try_from(number_in(folder, "type")?).ok()?,
            physical: number_in(folder, "phys_addr")?,
            r#virtual: number_in(folder, "virt_addr")?,
            pages: number_in(folder, "num_pages")?,
            attribute: number_in(folder, "attribute")?,
        })
    };
    let folders = numbered(&folder.join("runtime-map"), REGIONS);
    let map: Vec<Region> = folders.iter().map_while(region).collect();
    let (fw_vendor, tables) = (number_in(&folder, "fw_vendor"), number_in(&folder, "config_table"));
    match (fw_vendor, tables) {
        _ if map.is_empty() || map.len() < folders.len() => {
            Handover::Lost("the running kernel shows no runtime map (noefi, efi=noruntime?)")
        }
        (Some(fw_vendor), Some(tables)) => Handover::Whole(Efi { fw_vendor, tables, smbios, map }),
        _ => Handover::Lost("the running kernel does not show where its tables are"),
    }
}

/// Whether the first CPU has `flag`: proc(5).
fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.trim_start().strip_prefix(':'));
    flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|word| word == flag))
}

/// What the kernel log alone tells.
#[derive(Default)]
struct Told {
    /// What encrypts this guest: arch/x86/mm/mem_encrypt.c.
    encryption: Option<&'static str>,
    tables: Vec<u64>,
    /// Some of it is not there.
    has_gaps: bool,
}

/// kexec_file_load knows nothing of such tables either, and encrypted guests can be told by nothing else that
/// every kernel shows.
const GAPS: &str = "the beginning of the kernel log cannot be read: what the firmware left in free memory (memory \
                    attributes, TPM log) is not kept clear of, and an encrypted guest (SEV) is not recognised";

impl Told {
    fn read(kmsg: &Path) -> Self {
        let mut told = Self::default();
        kmsg::each(kmsg, &mut |text| {
            let Some(text) = text else {
                told.has_gaps = true;
                return;
            };
            told.encryption = told.encryption.or_else(|| encryption(text));
            told.tables.extend(efi::tables(text));
        });
        told
    }
}

/// A host that encrypts for itself (SME) stops doing so before it jumps.
fn encryption(text: &str) -> Option<&'static str> {
    let (_, features) = text.split_once("emory Encryption Features active: ")?;
    let has = |kind| features.contains(kind);
    if has("TDX") {
        Some("TDX")
    } else if has("SEV") {
        Some("SEV")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMEM: &str = include_str!("../testdata/iomem-qemu-pc.txt");

    fn write(root: &Path, name: &str, contents: impl AsRef<[u8]>) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn memmap(root: &Path, entries: &[(&str, &str, &str)]) {
        for (number, (start, end, kind)) in entries.iter().enumerate() {
            for (name, value) in [("start", start), ("end", end), ("type", kind)] {
                write(root, &format!("sys/firmware/memmap/{number}/{name}"), format!("{value}\n"));
            }
        }
    }

    const MAP: [(&str, &str, &str); 3] = [
        ("0x100000", "0x1ffdffff", "System RAM"),
        ("0x0", "0x9fbff", "System RAM"),
        ("0x9fc00", "0x9ffff", "Reserved"),
    ];

    /// A machine in a folder.
    fn machine() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/iomem", IOMEM);
        memmap(root.path(), &MAP);
        let mut page = vec![0; 4096];
        page[0x70..0x78].copy_from_slice(&0xf_5270u64.to_le_bytes());
        page[0x1e8] = 1;
        page[0x2d0..0x2d0 + 20].copy_from_slice(&e820::write(&[Entry {
            start: 0x10_0000,
            size: 1 << 24,
            kind: 1,
        }]));
        write(root.path(), "sys/kernel/boot_params/data", page);
        write(root.path(), "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu la57 sme\nflags\t\t: tdx_guest\n");
        let paths = Paths::under(root.path());
        (root, paths)
    }

    /// And what EFI adds to it.
    fn with_efi(root: &Path) {
        let params = root.join("sys/kernel/boot_params/data");
        let mut page = fs::read(&params).unwrap();
        page[0x1c0..0x1c4].copy_from_slice(b"EL64");
        page[0x70..0x78].fill(0);
        fs::write(params, page).unwrap();
        write(root, "sys/firmware/efi/systab", "SMBIOS3=0x1\nSMBIOS=0x7f9d2000\nACPI20=0x7fb7e014\n");
        write(root, "sys/firmware/efi/fw_vendor", "0x7feb0018\n");
        write(root, "sys/firmware/efi/config_table", "0x7fe9ed98\n");
        for (number, kind) in [(10, "0x5"), (9, "0x6")] {
            let folder = format!("sys/firmware/efi/runtime-map/{number}");
            for (name, value) in [
                ("type", kind),
                ("phys_addr", "0x7f8ee000"),
                ("virt_addr", "0xfffffffeff800000"),
                ("num_pages", "0x100"),
                ("attribute", "0x800000000000000f"),
            ] {
                write(root, &format!("{folder}/{name}"), value);
            }
        }
    }

    #[test]
    fn a_pc_with_a_bios() {
        let (_root, paths) = machine();
        let machine = Machine::read(&paths).unwrap();
        let starts: Vec<u64> = machine.e820.iter().map(|entry| entry.start).collect();
        assert_eq!(starts, [0, 0x9_fc00, 0x10_0000]);
        assert!(machine.memory.iter().eq([&(0x1000..0x9_fc00), &(0x10_0000..0x1ffe_0000)]));
        assert_eq!(machine.rsdp, 0xf_5270);
        assert_eq!(machine.efi, Handover::None);
        assert!(machine.five_level);
        assert_eq!(machine.confidential, None);
        let seed = machine.seed.as_ref().unwrap();
        assert!(seed.0 != [0; SEED] && !format!("{machine:?}").contains(&format!("{:?}", seed.0)));
    }

    #[test]
    fn memory_the_next_kernel_would_not_know_is_not_used() {
        let (root, paths) = machine();
        memmap(root.path(), &[("0x100000", "0x1fffff", "System RAM")]);
        assert!(
            Machine::read(&paths).unwrap().memory.iter().eq([&(0x1000..0x9_fc00), &(0x10_0000..0x20_0000)])
        );
    }

    #[test]
    fn a_map_that_is_missing_or_broken_is_taken_from_the_boot_parameters() {
        let (root, paths) = machine();
        let first = |paths: &Paths| Machine::read(paths).map(|machine| machine.e820[0].start);
        for broken in ["", "0x", "fff", "-1"] {
            write(root.path(), "sys/firmware/memmap/1/end", broken);
            assert_eq!(first(&paths).unwrap(), 0x10_0000, "{broken}");
        }
        fs::remove_dir_all(root.path().join("sys/firmware/memmap")).unwrap();
        assert_eq!(first(&paths).unwrap(), 0x10_0000);
        // Cut off, it says nothing.
        write(root.path(), "sys/kernel/boot_params/data", [1; 4095]);
        assert!(matches!(first(&paths), Err(Error::X86(X86::NoFirmwareMap))));
        fs::remove_file(paths.boot_params()).unwrap();
        assert!(matches!(first(&paths), Err(Error::X86(X86::NoFirmwareMap))));
        memmap(root.path(), &MAP);
        assert_eq!(first(&paths).unwrap(), 0);
        fs::remove_file(paths.iomem()).unwrap();
        assert!(first(&paths).unwrap_err().to_string().contains("proc/iomem"));
    }

    #[test]
    fn efi_with_its_runtime_map() {
        let (root, paths) = machine();
        with_efi(root.path());
        let machine = Machine::read(&paths).unwrap();
        let Handover::Whole(efi) = machine.efi else { panic!("{machine:?}") };
        assert_eq!((efi.fw_vendor, efi.tables, efi.smbios), (0x7feb_0018, 0x7fe9_ed98, 0x7f9d_2000));
        assert_eq!(efi.map.iter().map(|region| region.kind).collect::<Vec<_>>(), [6, 5]);
        assert_eq!(efi.map[0].attribute, 0x8000_0000_0000_000f);
        assert_eq!(machine.rsdp, 0x7fb7_e014);
    }

    #[test]
    fn efi_that_is_not_whole_is_not_handed_on_but_acpi_is() {
        let lost = |change: fn(&Path)| {
            let (root, paths) = machine();
            with_efi(root.path());
            change(root.path());
            let machine = Machine::read(&paths).unwrap();
            assert_eq!(machine.rsdp, 0x7fb7_e014);
            let Handover::Lost(reason) = machine.efi else { panic!("{machine:?}") };
            reason
        };
        assert!(
            lost(|root| fs::remove_dir_all(root.join("sys/firmware/efi/runtime-map")).unwrap())
                .contains("runtime map")
        );
        assert!(
            lost(|root| write(root, "sys/firmware/efi/runtime-map/9/num_pages", "many"))
                .contains("runtime map")
        );
        assert!(
            lost(|root| write(root, "sys/firmware/efi/runtime-map/9/type", "0x100000000"))
                .contains("runtime map")
        );
        assert!(
            lost(|root| fs::remove_file(root.join("sys/firmware/efi/fw_vendor")).unwrap()).contains("tables")
        );
        assert!(
            lost(|root| {
                let params = root.join("sys/kernel/boot_params/data");
                let mut page = fs::read(&params).unwrap();
                page[0x1c0..0x1c4].copy_from_slice(b"EL32");
                fs::write(params, page).unwrap();
            })
            .contains("32-bit")
        );
        assert!(
            lost(|root| fs::remove_file(root.join("sys/kernel/boot_params/data")).unwrap())
                .contains("boot parameters")
        );
    }

    #[test]
    fn tables_that_the_firmware_left_in_ordinary_memory_are_not_overwritten() {
        let (root, paths) = machine();
        let line = "efi: ACPI=0xf5270 MEMATTR=0x10000018 RNG=0x1ffd0018 TPMEventLog=0x12345678 ESRT=0x1";
        write(root.path(), "dev/kmsg", format!("6,9,0,-;{line} \n"));
        let left =
            [0x1000..0x9_fc00, 0x10_0000..0x1000_0000, 0x1004_0000..0x1234_5000, 0x1238_5000..0x1ffd_0000];
        let memory = Machine::read(&paths).unwrap().memory;
        assert!(memory.iter().eq(&left), "{memory:x?}");
        // Nor by the next kernel.
        let e820 = Machine::read(&paths).unwrap().e820;
        let reserved = e820.iter().filter(|entry| entry.kind == 2).map(|entry| (entry.start, entry.size));
        let expected =
            [(0x9_fc00, 0x400), (0x1000_0000, 0x4_0000), (0x1234_5000, 0x4_0000), (0x1ffd_0000, 0x1_0000)];
        assert!(reserved.eq(expected), "{e820:x?}");
        // Anybody can say so.
        write(root.path(), "dev/kmsg", format!("14,9,0,-;{line} \n"));
        assert!(Machine::read(&paths).unwrap().memory.contains(&(0x10_0000..0x1ffe_0000)));
    }

    #[test]
    fn a_log_that_has_lost_its_beginning_is_known() {
        let (root, paths) = machine();
        for (record, has_gaps) in [("6,0,0,-;a\n", false), ("6,9,0,-;a\n", true)] {
            write(root.path(), "dev/kmsg", record);
            assert_eq!(Told::read(&paths.kmsg()).has_gaps, has_gaps);
        }
        // Without firmware that tells there, or a hypervisor, nothing is missed.
        assert!(Machine::read(&paths).unwrap().log_is_whole);
        with_efi(root.path());
        assert!(!Machine::read(&paths).unwrap().log_is_whole);
        write(root.path(), "dev/kmsg", "6,0,0,-;a\n");
        assert!(Machine::read(&paths).unwrap().log_is_whole);
    }

    #[test]
    fn encrypted_guests_are_known_by_their_log() {
        let says = |features| encryption(&format!("Memory Encryption Features active: {features}"));
        assert_eq!(says("AMD SEV"), Some("SEV"));
        assert_eq!(says("AMD SEV SEV-ES SEV-SNP"), Some("SEV"));
        assert_eq!(says("Intel TDX"), Some("TDX"));
        assert_eq!(says("AMD SME"), None);
        assert_eq!(encryption("x86/mm: Memory block size: 128MB"), None);
        let old = "AMD Memory Encryption Features active: SEV";
        assert_eq!(encryption(old), Some("SEV"));
        let (root, paths) = machine();
        write(root.path(), "dev/kmsg", "6,9,0,-;Memory Encryption Features active: AMD SEV\n");
        assert_eq!(Machine::read(&paths).unwrap().confidential, Some("SEV"));
        write(root.path(), "proc/cpuinfo", "flags\t\t: fpu tdx_guest\n");
        let machine = Machine::read(&paths).unwrap();
        assert_eq!((machine.confidential, machine.five_level), (Some("TDX"), false));
    }
}
