//! The firmware's memory map, as the boot protocol has it: `struct boot_e820_entry` of
//! Documentation/arch/x86/zero-page.rst, types of arch/x86/include/asm/e820/types.h.

use std::ops::Range;

use crate::kexec::Ranges;

const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Bytes of an entry: address, size, type.
pub(super) const ENTRY: usize = 20;

/// More than any kernel keeps: `E820_MAX_ENTRIES` with 1024 memory nodes.
pub(super) const MOST: usize = 3200;

/// A piece of the physical address space. Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: u32,
}

impl Entry {
    /// From `start` to `last`, both inclusive, of the kind that /sys/firmware/memmap calls `name`.
    pub(super) fn named(start: u64, last: u64, name: &str) -> Option<Self> {
        let kind = match name {
            "System RAM" => RAM,
            "ACPI Tables" => 3,
            "ACPI Non-volatile Storage" => 4,
            "Unusable memory" => 5,
            "Persistent Memory" => 7,
            "Persistent Memory (legacy)" => 12,
            "Soft Reserved" => 0xefff_ffff,
            // Whatever it is, it must be left alone.
            _ => RESERVED,
        };
        Some(Self { start, size: last.checked_sub(start)?.saturating_add(1), kind })
    }

    fn read(bytes: [u8; ENTRY]) -> Option<Self> {
        let (start, rest) = bytes.split_first_chunk::<8>()?;
        let (size, kind) = rest.split_first_chunk::<8>()?;
        Some(Self {
            start: u64::from_le_bytes(*start),
            size: u64::from_le_bytes(*size),
            kind: u32::from_le_bytes(kind.try_into().ok()?),
        })
    }
}

/// The entries of a table in memory, those without a byte left out.
pub(super) fn read(table: &[u8]) -> Vec<Entry> {
    let (entries, _) = table.as_chunks::<ENTRY>();
    entries.iter().filter_map(|bytes| Entry::read(*bytes)).filter(|entry| entry.size > 0).collect()
}

/// `entries` as a table in memory.
pub(super) fn write(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len().saturating_mul(ENTRY));
    for entry in entries {
        bytes.extend_from_slice(&entry.start.to_le_bytes());
        bytes.extend_from_slice(&entry.size.to_le_bytes());
        bytes.extend_from_slice(&entry.kind.to_le_bytes());
    }
    bytes
}

/// Reserves `room` in each piece of RAM that it begins in, and as much of that as it has.
pub(super) fn reserve(entries: &mut Vec<Entry>, room: &Range<u64>) {
    for index in 0..entries.len() {
        let Some(entry) = entries.get_mut(index).filter(|entry| entry.kind == RAM) else { continue };
        let end = entry.start.saturating_add(entry.size);
        if room.start < entry.start || room.start >= end {
            continue;
        }
        let last = room.end.min(end);
        entry.size = room.start.saturating_sub(entry.start);
        entries.push(Entry { start: room.start, size: last.saturating_sub(room.start), kind: RESERVED });
        entries.push(Entry { start: last, size: end.saturating_sub(last), kind: RAM });
    }
    entries.retain(|entry| entry.size > 0);
    entries.sort_by_key(|entry| entry.start);
}

/// What the next kernel takes for memory: RAM that is nothing else, too.
pub(super) fn ram(entries: &[Entry]) -> Ranges {
    let mut ram = Ranges::default();
    let range = |entry: &Entry| entry.start..entry.start.saturating_add(entry.size);
    for entry in entries.iter().filter(|entry| entry.kind == RAM) {
        ram.add(range(entry));
    }
    for entry in entries.iter().filter(|entry| entry.kind != RAM) {
        ram.remove(&range(entry));
    }
    ram
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_have_the_kernels_names() {
        let kind = |name| Entry::named(0x1000, 0x1fff, name).unwrap().kind;
        assert_eq!(kind("System RAM"), 1);
        assert_eq!(kind("Reserved"), 2);
        assert_eq!(kind("reserved"), 2);
        assert_eq!(kind("ACPI Tables"), 3);
        assert_eq!(kind("ACPI Non-volatile Storage"), 4);
        assert_eq!(kind("Unusable memory"), 5);
        assert_eq!(kind("Persistent Memory"), 7);
        assert_eq!(kind("Persistent Memory (legacy)"), 12);
        assert_eq!(kind("Soft Reserved"), 0xefff_ffff);
        assert_eq!(kind("something new"), 2);
        assert_eq!(Entry::named(0x1000, 0x1fff, "").unwrap().size, 0x1000);
        assert_eq!(Entry::named(2, 1, "System RAM"), None);
        assert_eq!(Entry::named(0, u64::MAX, "System RAM").unwrap().size, u64::MAX);
    }

    #[test]
    fn what_is_reserved_is_no_memory() {
        let entry = |start, size, kind| Entry { start, size, kind };
        let ram = ram(&[entry(0, 0x9000, 1), entry(0x2000, 0x1000, 2), entry(u64::MAX, 9, 1)]);
        assert!(ram.iter().eq([&(0..0x2000), &(0x3000..0x9000)]));
    }

    #[test]
    fn what_begins_in_memory_is_reserved_and_the_rest_stays_as_it_was() {
        let entry = |start, size, kind| Entry { start, size, kind };
        let before = vec![entry(0, 0x9000, 1), entry(0x9000, 0x1000, 3), entry(0xa000, 0x1000, 1)];
        let after = |room: Range<u64>| {
            let mut entries = before.clone();
            reserve(&mut entries, &room);
            entries
        };
        let middle = [entry(0, 0x2000, 1), entry(0x2000, 0x1000, 2), entry(0x3000, 0x6000, 1)];
        assert_eq!(after(0x2000..0x3000), [&middle[..], &before[1..]].concat());
        let to_the_end = [entry(0, 0x8000, 1), entry(0x8000, 0x1000, 2)];
        assert_eq!(after(0x8000..0xb000), [&to_the_end[..], &before[1..]].concat());
        assert_eq!(after(0xa000..0xb000), [&before[..2], &[entry(0xa000, 0x1000, 2)]].concat());
        for elsewhere in [0x9000..0xb000, 0xb000..0xc000] {
            assert_eq!(after(elsewhere), before);
        }
    }

    proptest! {
        #[test]
        fn a_reservation_loses_and_wins_no_byte(
            parts in prop::collection::vec((0u64..1 << 20, 1u64..1 << 16), 0..12),
            start in 0u64..1 << 20,
            length in 1u64..1 << 16,
        ) {
            let mut entries: Vec<_> =
                parts.into_iter().map(|(start, size)| Entry { start, size, kind: RAM }).collect();
            let mut expected = ram(&entries);
            let inside = expected.contains(&(start..start + 1));
            let total = entries.iter().map(|entry| entry.size).sum::<u64>();
            reserve(&mut entries, &(start..start + length));
            prop_assert_eq!(entries.iter().map(|entry| entry.size).sum::<u64>(), total);
            prop_assert!(entries.is_sorted_by_key(|entry| entry.start));
            for entry in entries.iter().filter(|entry| entry.kind == RESERVED) {
                prop_assert!(entry.start == start && entry.size <= length && inside);
                expected.remove(&(entry.start..entry.start + entry.size));
            }
            prop_assert_eq!(ram(&entries), expected);
        }

        #[test]
        fn a_table_is_read_as_it_was_written(
            parts in prop::collection::vec((any::<u64>(), 1u64.., any::<u32>()), 0..20),
            rest in 0usize..ENTRY,
        ) {
            let entries: Vec<_> =
                parts.into_iter().map(|(start, size, kind)| Entry { start, size, kind }).collect();
            let mut bytes = write(&entries);
            bytes.resize(bytes.len() + rest, 1);
            prop_assert_eq!(&read(&bytes), &entries);
            let _ = ram(&entries);
        }
    }
}
