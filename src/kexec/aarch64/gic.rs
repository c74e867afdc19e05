//! Memory that a GICv3 keeps using when the next kernel runs: drivers/irqchip/irq-gic-v3-its.c.
//!
//! Once a redistributor delivers LPIs its tables cannot be moved until the machine is reset. The
//! next kernel finds their addresses in the hardware, clears them and goes on using them, so they
//! must neither hold anything of it nor be free memory to it. With UEFI the running kernel has told
//! the firmware; with a device tree alone nobody has, and only the kernel log says where they are.

use std::ops::Range;
use std::path::Path;

use crate::kexec::kmsg;

/// The size and alignment of a table, in bytes: the kernel uses 16 bits of LPI number, which makes
/// 64 KiB of configuration; pending bits take less, but are aligned to as much.
pub(in crate::kexec) const TABLE: u64 = 64 * 1024;

/// The LPI table that a line of the kernel log tells of.
fn table(text: &str) -> Option<Range<u64>> {
    let (what, address) = text.strip_prefix("GICv3: ")?.split_once(" @0x")?;
    if !what.ends_with("LPI property table") && !what.ends_with("LPI pending table") {
        return None;
    }
    let start = u64::from_str_radix(address, 16).ok().filter(|start| start.is_multiple_of(TABLE))?;
    Some(start..start.checked_add(TABLE)?)
}

/// The tables that the kernel log tells of.
pub(in crate::kexec) fn live_tables(kmsg: &Path) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    kmsg::each(kmsg, |text| found.extend(table(text)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_record_panics_and_every_table_is_whole(
            which in prop_oneof!["using LPI property table", "CPU[0-9]{1,4}: using (reserved|allocated) LPI pending table", ".{0,40}"],
            address in any::<u64>(),
            noise in any::<String>(),
        ) {
            let _ = table(&noise);
            let found = table(&format!("GICv3: {which} @{address:#018x}"));
            if let Some(table) = &found {
                prop_assert_eq!((table.start, table.end - table.start), (address, TABLE));
                prop_assert!(address.is_multiple_of(TABLE));
            }
            let said = which.ends_with(" table") && which.contains("LPI p");
            if said && address < u64::MAX - TABLE {
                prop_assert_eq!(found.is_some(), address.is_multiple_of(TABLE));
            }
            let aligned = address & !(2 * TABLE - 1);
            if said {
                let text = format!("GICv3: {which} @{aligned:#018x}");
                prop_assert_eq!(table(&text), Some(aligned..aligned + TABLE));
            }
        }
    }

    #[test]
    fn the_kernels_own_lines_are_read() {
        let property = "GICv3: using LPI property table @0x00000000421a0000";
        assert_eq!(table(property), Some(0x421a_0000..0x421b_0000));
        let pending = "GICv3: CPU1: using allocated LPI pending table @0x00000000421c0000";
        assert_eq!(table(pending), Some(0x421c_0000..0x421d_0000));
        for other in [
            "GICv3: using LPI property table @0x00000000421a1000",
            "GICv3: using LPI property table @0xffffffffffff0000",
            "GICv3: CPU0: found redistributor 0 region 0:0x00000000080a0000",
            "using LPI property table @0x00000000421a0000",
            "",
        ] {
            assert_eq!(table(other), None, "{other}");
        }
    }

    #[test]
    fn the_log_is_read_and_others_are_not_believed() {
        let log = tempfile::NamedTempFile::new().unwrap();
        for (priority, expected) in [(6, vec![0x421a_0000..0x421b_0000]), (14, vec![])] {
            let record = format!("{priority},67,0,-;GICv3: using LPI property table @0x00000000421a0000\n");
            std::fs::write(log.path(), record).unwrap();
            assert_eq!(live_tables(log.path()), expected);
        }
    }

    #[test]
    fn without_a_log_nothing_is_known() {
        assert_eq!(live_tables(Path::new("/nonexistent")), []);
    }
}
