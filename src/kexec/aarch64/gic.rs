//! Memory that a GICv3 keeps using when the next kernel runs: drivers/irqchip/irq-gic-v3-its.c.
//!
//! Once a redistributor delivers LPIs its tables cannot be moved until the machine is reset. The
//! next kernel finds their addresses in the hardware, clears them and goes on using them, so they
//! must neither hold anything of it nor be free memory to it. With UEFI the running kernel has told
//! the firmware; with a device tree alone nobody has, and only the kernel log says where they are.

use std::fs::OpenOptions;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The size and alignment of a table, in bytes: the kernel uses 16 bits of LPI number, which makes
/// 64 KiB of configuration; pending bits take less, but are aligned to as much.
pub(in crate::kexec) const TABLE: u64 = 64 * 1024;

/// The LPI tables in a line of the kernel log, a record of /dev/kmsg: `prefix;text`.
fn table(record: &str) -> Option<Range<u64>> {
    let (prefix, text) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    // From 8 on it is somebody else's message than the kernel's: syslog(2), facilities.
    let text = text.strip_prefix("GICv3: ").filter(|_| priority < 8)?;
    let (what, address) = text.lines().next()?.split_once(" @0x")?;
    if !what.ends_with("LPI property table") && !what.ends_with("LPI pending table") {
        return None;
    }
    let start = u64::from_str_radix(address, 16).ok().filter(|start| start.is_multiple_of(TABLE))?;
    Some(start..start.checked_add(TABLE)?)
}

/// The tables that the kernel log tells of. Empty where there is no such log: then there is nothing
/// to be known.
pub(in crate::kexec) fn live_tables(kmsg: &Path) -> Vec<Range<u64>> {
    /// The log is read from its start, once, as long as it does not grow for ever.
    const RECORDS: usize = 100_000;
    /// No record is larger: CONSOLE_EXT_LOG_MAX of the kernel.
    const RECORD: usize = 8192;
    let flags = i32::from_ne_bytes(OFlags::NONBLOCK.bits().to_ne_bytes());
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(flags).open(kmsg) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut buffer = [0; RECORD];
    for _ in 0..RECORDS {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                let record = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
                found.extend(table(&record));
            }
            // Records were overwritten while we read.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => {}
            Err(_) => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_record_panics_and_every_table_is_whole(
            priority in any::<u32>(),
            which in prop_oneof!["using LPI property table", "CPU[0-9]{1,4}: using (reserved|allocated) LPI pending table", ".{0,40}"],
            address in any::<u64>(),
            noise in any::<String>(),
        ) {
            let _ = table(&noise);
            let found = table(&format!("{priority},1,2,-;GICv3: {which} @{address:#018x}\n KEY={noise}"));
            if let Some(table) = &found {
                prop_assert_eq!((table.start, table.end - table.start), (address, TABLE));
                prop_assert!(priority < 8 && address.is_multiple_of(TABLE));
            }
            let said = which.ends_with(" table") && which.contains("LPI p");
            if said && priority < 8 && address < u64::MAX - TABLE {
                prop_assert_eq!(found.is_some(), address.is_multiple_of(TABLE));
            }
            let aligned = address & !(2 * TABLE - 1);
            if said {
                let record = format!("{},1,2,-;GICv3: {which} @{aligned:#018x}", priority % 8);
                prop_assert_eq!(table(&record), Some(aligned..aligned + TABLE));
            }
        }
    }

    #[test]
    fn the_kernels_own_lines_are_read() {
        let property = "6,67,0,-;GICv3: using LPI property table @0x00000000421a0000\n";
        assert_eq!(table(property), Some(0x421a_0000..0x421b_0000));
        let pending =
            "6,98,9,-;GICv3: CPU1: using allocated LPI pending table @0x00000000421c0000\n SUBSYSTEM=x";
        assert_eq!(table(pending), Some(0x421c_0000..0x421d_0000));
        for other in [
            "14,67,0,-;GICv3: using LPI property table @0x00000000421a0000\n",
            "6,67,0,-;GICv3: using LPI property table @0x00000000421a1000\n",
            "6,67,0,-;GICv3: using LPI property table @0xffffffffffff0000\n",
            "6,67,0,-;GICv3: CPU0: found redistributor 0 region 0:0x00000000080a0000\n",
            "GICv3: using LPI property table @0x00000000421a0000",
            "",
        ] {
            assert_eq!(table(other), None, "{other}");
        }
    }

    #[test]
    fn without_a_log_nothing_is_known() {
        assert_eq!(live_tables(Path::new("/nonexistent")), []);
    }
}
