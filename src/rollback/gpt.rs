//! The identifier of a partition in a GPT: UEFI specification 2.10, section 5.3. sysfs has its
//! name, and on most kernels not this.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::superblock;
use crate::paths::Paths;

/// Larger entries and blocks are none.
const MOST_BYTES: u64 = 64 * 1024;

/// The identifier of the partition `name`, as blkid(8) shows it.
pub(super) fn uuid(name: &str, paths: &Paths) -> Option<String> {
    let folder = paths.block_devices().join(name);
    let number = |path: &str| fs::read_to_string(folder.join(path)).ok()?.trim().parse::<u64>().ok();
    let partition = number("partition")?;
    // A partition's folder lies in its disk's.
    let block = number("../queue/logical_block_size")?;
    let disk = fs::canonicalize(&folder).ok()?.parent()?.file_name()?.to_str()?.to_owned();
    read(&File::open(paths.device(&disk)).ok()?, block, partition)
}

fn read(disk: &File, block: u64, partition: u64) -> Option<String> {
    let within = |size: u64| (1..=MOST_BYTES).contains(&size).then_some(size);
    let mut header = [0; 88];
    disk.read_exact_at(&mut header, within(block)?).ok()?;
    header.starts_with(b"EFI PART").then_some(())?;
    let first = u64::from_le_bytes(*header.get(72..)?.first_chunk()?);
    let count = u32::from_le_bytes(*header.get(80..)?.first_chunk()?);
    let size = u32::from_le_bytes(*header.get(84..)?.first_chunk()?);
    let index = partition.checked_sub(1).filter(|&index| index < u64::from(count))?;
    let entry = index.checked_mul(within(u64::from(size))?)?;
    let mut id = [0; 16];
    disk.read_exact_at(&mut id, first.checked_mul(block)?.checked_add(entry)?.checked_add(16)?).ok()?;
    // The first three fields are little-endian: appendix A.
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    Some(superblock::uuid(order.map(|at: usize| id.get(at).copied().unwrap_or(0))))
}
