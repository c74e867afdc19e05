//! Memory that a GICv3 keeps using when the next kernel runs: drivers/irqchip/irq-gic-v3-its.c.
//!
//! Once a redistributor delivers LPIs its tables cannot be moved until the machine is reset. The
//! next kernel finds their addresses in the hardware, clears them and goes on using them, so they
//! must neither hold anything of it nor be free memory to it. With UEFI the running kernel has told
//! the firmware; with a device tree alone nobody has, and only the kernel log says where they are.

use std::ops::Range;

use crate::config::{self, cmdline::parameters};
use crate::devicetree;
use crate::kexec::{Error, kmsg};
use crate::paths::Paths;

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

/// The tables that the kernel log tells of. An error if there are some, and what it told of them is not there.
pub(in crate::kexec) fn live_tables(paths: &Paths) -> Result<Vec<Range<u64>>, Error> {
    let mut found = Vec::new();
    let mut is_known = true;
    kmsg::each(&paths.kmsg(), &mut |text| {
        // Of all tables the one with the properties is told of first.
        is_known = text.is_some_and(|text| is_known || text.contains(" LPI property table @"));
        found.extend(text.and_then(table));
    });
    if is_known || !has_lpis(paths) { Ok(found) } else { Err(Error::TablesUnknown) }
}

/// Whether LPIs are delivered, and their tables not reserved by way of the firmware: irq-gic-v3-its.c takes a
/// device tree's ITS, and none if the command line says so.
fn has_lpis(paths: &Paths) -> bool {
    let is_off = config::kernel_cmdline(paths).is_ok_and(|line| {
        let mut own = parameters(&line).filter(|parameter| parameter.is("irqchip.gicv3_nolpi"));
        own.any(|parameter| {
            parameter.value().is_some_and(|value| value.starts_with(['1', 'y', 'Y', 't', 'T']))
        })
    });
    let has_its = || {
        devicetree::read(&paths.devicetree())
            .is_ok_and(|tree| devicetree::has_device(&tree, b"arm,gic-v3-its"))
    };
    !is_off && !paths.efi().exists() && has_its()
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

    /// What is known on a machine with this device tree and this log, and what else there is.
    fn known(tree: &[u8], log: &str, more: &str, text: &str) -> Result<Vec<u64>, Error> {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        put("sys/firmware/fdt", tree);
        put("dev/kmsg", log.as_bytes());
        put(more, text.as_bytes());
        let tables = live_tables(&Paths::under(root.path()))?;
        Ok(tables.into_iter().map(|table| table.start).collect())
    }

    const GICV3: &[u8] = include_bytes!("../../devicetree/testdata/qemu-virt-gicv3.dtb");
    const PROPERTY: &str = "GICv3: using LPI property table @0x00000000421a0000";
    const PENDING: &str = "GICv3: CPU1: using allocated LPI pending table @0x00000000421c0000";

    #[test]
    fn the_log_is_read_and_others_are_not_believed() {
        for (record, expected) in [
            (format!("6,0,0,-;{PROPERTY}\n"), Some(vec![0x421a_0000])),
            // What came before does not matter.
            (format!("6,67,0,-;{PROPERTY}\n"), Some(vec![0x421a_0000])),
            (format!("6,0,0,-;{PENDING}\n"), Some(vec![0x421c_0000])),
            (format!("6,67,0,-;{PENDING}\n"), None),
            (format!("14,0,0,-;{PROPERTY}\n"), Some(vec![])),
            (format!("14,67,0,-;{PROPERTY}\n"), None),
            ("6,67,0,-;noise\n".to_owned(), None),
            (String::new(), None),
        ] {
            let found = known(GICV3, &record, "unused", "");
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{record}: {found:?}");
            assert!(found.is_ok() || matches!(found, Err(Error::TablesUnknown)));
        }
    }

    #[test]
    fn a_log_that_has_wrapped_matters_only_where_there_are_tables() {
        let wrapped = "6,67,0,-;noise\n";
        let is_known = |tree: &[u8], more, text| known(tree, wrapped, more, text).is_ok();
        let its = b"arm,gic-v3-its";
        let at = GICV3.windows(its.len()).position(|window| window == its).unwrap();
        let mut gicv2 = GICV3.to_vec();
        gicv2[at..at + its.len()].copy_from_slice(b"arm,gic-v2m-xx");
        assert!(
            !is_known(GICV3, "unused", "") && is_known(&gicv2, "unused", "") && is_known(b"", "unused", "")
        );
        assert!(is_known(GICV3, "sys/firmware/efi/systab", ""));
        for (line, expected) in [
            ("quiet irqchip.gicv3_nolpi=1", true),
            ("irqchip.gicv3-nolpi=y", true),
            ("irqchip.gicv3_nolpi=0", false),
            ("irqchip.gicv3_nolpi", false),
            ("quiet", false),
        ] {
            assert_eq!(is_known(GICV3, "proc/cmdline", line), expected, "{line}");
        }
    }

    #[test]
    fn without_a_log_there_is_nothing_on_a_machine_that_shows_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(live_tables(&Paths::under(root.path())).unwrap(), []);
    }
}
