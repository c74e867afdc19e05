use super::*;
use proptest::prelude::*;

/// As the kernel sees the machine: a memory map at MAP, firmware's system table at TABLE and its configuration
/// tables behind it, mapped at 512 MiB.
const MAP: u64 = 0x7a00_0018;
const TABLE: u64 = 0x7c3f_0018;
const ENTRIES: u64 = 0x7c3f_1018;
const FIRMWARE: u64 = 0x7c3f_0000;
const MAPPED: u64 = 0x2000_0000;
const SCREEN: [u8; SCREEN_INFO] = [0x5a; SCREEN_INFO];
const KNOWN: &str = "ACPI20=0x7bf20018\nSMBIOS3=0x7c300000\n";

fn uefi() -> Uefi {
    Uefi { system_table: TABLE, map: MAP, map_size: 3 * 48, descriptor_size: 48 }
}

#[derive(Clone)]
struct Machine(Vec<(u64, Vec<u8>)>);

impl Machine {
    fn new(entries: &[(u8, u64)]) -> Self {
        let descriptor = |start: u64, mapped: u64, pages: u64, attributes: u64| {
            let words = [0, start, mapped, pages, attributes, 0];
            words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        let map = [
            descriptor(0x4000_0000, 0, 0x3_0000, 0xf),
            descriptor(FIRMWARE, MAPPED, 16, RUNTIME | 0xf),
            descriptor(0x900_0000, MAPPED + 0x10_0000, 1, RUNTIME | 1),
        ]
        .concat();
        let mut system = vec![0; SYSTEM_TABLE];
        put(&mut system, 0, &SIGNATURE.to_le_bytes());
        put(&mut system, HEADER_SIZE, &120u32.to_le_bytes());
        put(&mut system, 88, &0x2000_4000u64.to_le_bytes());
        put(&mut system, TABLES, &(entries.len() as u64).to_le_bytes());
        put(&mut system, TABLES_AT, &(ENTRIES - FIRMWARE + MAPPED).to_le_bytes());
        let mut machine = Self(vec![(MAP, map), (TABLE, system), (ENTRIES, Self::entries(entries))]);
        machine.sign();
        machine
    }

    fn entries(entries: &[(u8, u64)]) -> Vec<u8> {
        entries.iter().flat_map(|(guid, at)| [&[*guid; GUID][..], &at.to_le_bytes()].concat()).collect()
    }

    fn usual() -> Self {
        Self::new(&[(1, 0x7bf2_0018), (2, 0x7c30_0000), (3, 0x7a11_0018)])
    }

    fn sign(&mut self) {
        let sum = checksum(&self.0[1].1);
        put(&mut self.0[1].1, CHECKSUM.start, &sum.to_le_bytes());
    }

    fn read(&self, address: u64, size: u64) -> io::Result<Vec<u8>> {
        let found = self.0.iter().find_map(|(start, bytes)| {
            let skip = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(skip..skip.checked_add(usize::try_from(size).ok()?)?)
        });
        found.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn compose(&self) -> Result<Tables, String> {
        let read = |address, size| self.read(address, size);
        compose(&uefi(), SCREEN, KNOWN, &read, &read)
    }
}

/// The configuration tables of what was written for `at`: as a kernel reads them.
fn read_back(bytes: &[u8], at: u64) -> Vec<([u8; GUID], u64)> {
    assert_eq!(
        (u64_at(bytes, 0), u32_at(bytes, CHECKSUM.start)),
        (SIGNATURE, checksum(&bytes[..SYSTEM_TABLE]))
    );
    let start = usize::try_from(u64_at(bytes, TABLES_AT) - at).unwrap();
    let count = usize::try_from(u64_at(bytes, TABLES)).unwrap();
    let entries = &bytes[start..start + count * ENTRY];
    entries.chunks(ENTRY).map(|entry| (entry[..GUID].try_into().unwrap(), u64_at(entry, GUID))).collect()
}

#[test]
fn the_screen_is_one_more_table() {
    let tables = Machine::usual().compose().unwrap();
    let at = 0x4200_0040;
    let bytes = tables.write(at).unwrap();
    assert_eq!(bytes.len(), tables.size());
    let found = read_back(&bytes, at);
    let firmwares = [([1; GUID], 0x7bf2_0018), ([2; GUID], 0x7c30_0000), ([3; GUID], 0x7a11_0018)];
    let ([.., (guid, address)], 4) = (&found[..], found.len()) else { panic!("{found:x?}") };
    assert_eq!((&found[..3], *guid), (&firmwares[..], SCREEN_GUID));
    let screen = usize::try_from(address - at).unwrap();
    assert_eq!(bytes[screen..screen + SCREEN_INFO], SCREEN);
    // The runtime services are where they were.
    assert_eq!(u64_at(&bytes, 88), 0x2000_4000);
    assert!(at.is_multiple_of(8) && address.is_multiple_of(8));
}

/// Those of a usual machine, for the tests of whole plans.
pub(in crate::kexec::aarch64) fn usual() -> Tables {
    Machine::usual().compose().unwrap()
}

#[test]
fn one_that_was_handed_on_before_is_replaced() {
    let mut machine = Machine::usual();
    let (_, entries) = &mut machine.0[2];
    entries[..GUID].copy_from_slice(&SCREEN_GUID);
    let read = |address, size| machine.read(address, size);
    let tables = compose(&uefi(), SCREEN, "SMBIOS3=0x7c300000\n", &read, &read).unwrap();
    let found = read_back(&tables.write(0x4200_0040).unwrap(), 0x4200_0040);
    assert_eq!(found.len(), 3);
    assert_eq!(found.iter().filter(|(guid, _)| *guid == SCREEN_GUID).count(), 1);
}

#[test]
fn addresses_that_the_kernel_would_translate_are_not_used() {
    let tables = Machine::usual().compose().unwrap();
    let size = tables.size() as u64;
    for at in [MAPPED, MAPPED - size + 1, MAPPED + 0xfff8, MAPPED + 0x10_0000, u64::MAX - 8] {
        assert_eq!(tables.write(at), None, "{at:#x}");
    }
    assert!(tables.write(MAPPED - size).is_some() && tables.write(MAPPED + 0x1_0000).is_some());
}

#[test]
fn firmware_that_was_told_no_addresses_names_physical_ones() {
    let mut machine = Machine::usual();
    let map = &mut machine.0[0].1;
    put(map, 48 + VIRTUAL, &[0; 8]);
    put(&mut machine.0[1].1, TABLES_AT, &ENTRIES.to_le_bytes());
    machine.sign();
    assert!(machine.compose().unwrap().write(MAPPED).is_some());
}

#[test]
fn what_is_not_whole_costs_the_screen() {
    let refused = |says: &str, change: &dyn Fn(&mut Machine)| {
        let mut machine = Machine::usual();
        change(&mut machine);
        let reason = machine.compose().unwrap_err();
        assert!(reason.contains(says), "{reason}, not {says}");
    };
    let system = |machine: &mut Machine, at: usize, value: &[u8]| {
        put(&mut machine.0[1].1, at, value);
        machine.sign();
    };
    refused("not whole", &|machine| machine.0[1].1[90] ^= 1);
    refused("not whole", &|machine| system(machine, 0, b"X"));
    refused("not whole", &|machine| system(machine, HEADER_SIZE, &[121]));
    refused("0 configuration tables", &|machine| system(machine, TABLES, &[0; 8]));
    refused("configuration tables", &|machine| system(machine, TABLES, &[0xff; 8]));
    refused("not in its memory", &|machine| system(machine, TABLES_AT, &[0xff; 8]));
    // It is not memory: a device of firmware's.
    let device = MAPPED + 0x10_0000;
    refused("not in its memory", &|machine| system(machine, TABLES_AT, &device.to_le_bytes()));
    refused("not those", &|machine| machine.0[2].1[GUID] ^= 1);
    refused("cannot read UEFI's configuration tables", &|machine| machine.0[2].1.truncate(71));
    refused("cannot read UEFI's system table", &|machine| machine.0[1].1.truncate(119));
    refused("cannot read UEFI's memory map", &|machine| machine.0[0].1.truncate(143));
    refused("not in its memory", &|machine| machine.0[0].1.fill(0));
    refused("not in its memory", &|machine| machine.0[0].1.fill(0xff));

    let machine = Machine::usual();
    let read = |address, size| machine.read(address, size);
    for known in ["", "nothing\n", "ACPI20=0xzz", "ACPI20=0x1\nSMBIOS3=0x7c300000\n"] {
        let reason = compose(&uefi(), SCREEN, known, &read, &read).unwrap_err();
        assert!(reason.contains("not those"), "{known:?}: {reason}");
    }
    for wrong in [
        Uefi { map_size: u64::MAX, ..uefi() },
        Uefi { descriptor_size: 0, ..uefi() },
        Uefi { descriptor_size: 39, ..uefi() },
        Uefi { descriptor_size: u64::MAX, ..uefi() },
        Uefi { system_table: u64::MAX, ..uefi() },
        Uefi { system_table: 0, ..uefi() },
    ] {
        assert!(compose(&wrong, SCREEN, KNOWN, &read, &read).is_err(), "{wrong:x?}");
    }
}

#[test]
fn the_checksum_is_the_usual_one() {
    let mut table = vec![0; SYSTEM_TABLE];
    table[..9].copy_from_slice(b"123456789");
    let mut known = flate2::Crc::new();
    known.update(&table);
    assert_eq!(checksum(&table), known.sum());
    // Its own field does not count.
    table[CHECKSUM].fill(0xff);
    assert_eq!(checksum(&table), known.sum());
}

/// A core file with a segment that has no physical address, and one of memory.
fn core() -> Vec<u8> {
    let mut core = vec![0; 64];
    core[..6].copy_from_slice(b"\x7fELF\x02\x01");
    put(&mut core, 32, &64u64.to_le_bytes());
    put(&mut core, 54, &56u16.to_le_bytes());
    put(&mut core, 56, &3u16.to_le_bytes());
    for (kind, offset, physical, size) in
        [(4u32, 232u64, 0u64, 8u64), (1, 232, u64::MAX, 8), (1, 240, 0x4000_0000, 16)]
    {
        let mut segment = vec![0; 56];
        put(&mut segment, 0, &kind.to_le_bytes());
        put(&mut segment, 8, &offset.to_le_bytes());
        put(&mut segment, 24, &physical.to_le_bytes());
        put(&mut segment, 32, &size.to_le_bytes());
        core.extend_from_slice(&segment);
    }
    core.resize(240, 0);
    core.extend_from_slice(b"memory of ours!!");
    core
}

#[test]
fn memory_is_read_where_it_is() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    assert!(Physical::open(&paths).err().unwrap().to_string().contains("proc/kcore"));
    for folder in ["proc", "dev"] {
        fs::create_dir(root.path().join(folder)).unwrap();
    }
    fs::write(paths.kcore(), core()).unwrap();
    assert!(Physical::open(&paths).err().unwrap().to_string().contains("dev/mem"));
    fs::write(paths.memory(), vec![7; 0x2000]).unwrap();
    let memory = Physical::open(&paths).unwrap();
    assert_eq!(memory.ram(0x4000_0000, 16).unwrap(), b"memory of ours!!");
    assert_eq!(memory.any(0x4000_000a, 4).unwrap(), b"ours");
    for (address, size) in [(0x4000_0000, 17), (0x3fff_ffff, 2), (u64::MAX, 1), (0x1000, 8)] {
        assert_eq!(memory.ram(address, size).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    assert_eq!(memory.any(0x1001, 3).unwrap(), [7; 3]);
    fs::write(paths.kcore(), &core()[..100]).unwrap();
    assert!(Physical::open(&paths).is_err());
    fs::write(paths.kcore(), b"").unwrap();
    assert!(Physical::open(&paths).is_err());
}

proptest! {
    #[test]
    fn no_memory_panics(
        flips in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sign in any::<bool>(), at in any::<u64>(),
    ) {
        let mut machine = Machine::usual();
        for (which, index, value) in flips {
            let bytes = &mut machine.0[which].1;
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if sign {
            machine.sign();
        }
        if let Ok(tables) = machine.compose()
            && let Some(bytes) = tables.write(at & !7)
        {
            prop_assert_eq!(read_back(&bytes, at & !7).last().unwrap().0, SCREEN_GUID);
        }
    }

    #[test]
    fn no_core_file_panics(flips in prop::collection::vec((0usize..232, any::<u8>()), 1..6), cut in 0usize..300) {
        let mut core = core();
        for (at, value) in flips {
            core[at] = value;
        }
        core.truncate(cut);
        let read = |at: u64, size: u64| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let end = at.saturating_add(usize::try_from(size).unwrap());
            core.get(at..end).map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        let _ = core_segments(&read);
    }
}
