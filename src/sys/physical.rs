//! Memory by its physical address: mem(4).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::io::Errno;

use super::kexec::page_size;
use super::memfd::last_errno;

/// The most that is read at once, in bytes.
const MOST: u64 = 1 << 20;

/// Reads `length` bytes at `address` of `device`, which is /dev/mem. In words of 64 bits, each of them once: what
/// the kernel itself has not mapped as memory is mapped here as a device's.
pub(crate) fn read(device: &File, address: u64, length: u64) -> Result<Vec<u8>, Errno> {
    const WORD: u64 = 8;
    let page = page_size();
    let start = address & !(page - 1);
    let skip = address - start;
    let wanted = skip.checked_add(length).filter(|&wanted| length <= MOST && wanted <= MOST + page);
    let size = wanted.and_then(|wanted| wanted.checked_next_multiple_of(page)).ok_or(Errno::INVAL)?;
    let offset = libc::off_t::try_from(start).map_err(|_| Errno::INVAL)?;
    let bytes = usize::try_from(size).map_err(|_| Errno::INVAL)?;
    if bytes == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing.
    let mapped = unsafe {
        libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, device.as_raw_fd(), offset)
    };
    if mapped == libc::MAP_FAILED {
        return Err(last_errno());
    }
    let words = mapped.cast::<u64>().cast_const();
    let (first, last) = (skip / WORD, (skip + length).div_ceil(WORD));
    let mut read = Vec::new();
    for word in (first..last).filter_map(|word| usize::try_from(word).ok()) {
        // SAFETY: `words` is aligned to a page, and `last` words are within the `size` bytes that are mapped there
        // until the call below; any bits are a u64.
        let value = unsafe { ptr::read_volatile(words.add(word)) };
        read.extend_from_slice(&value.to_ne_bytes());
    }
    // SAFETY: what mmap returned, with its length, and nothing refers to it.
    unsafe { libc::munmap(mapped, bytes) };
    let (skip, length) = (usize::try_from(skip % WORD), usize::try_from(length));
    let (skip, length) = (skip.map_err(|_| Errno::INVAL)?, length.map_err(|_| Errno::INVAL)?);
    read.drain(..skip.min(read.len()));
    read.truncate(length);
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn any_bytes_of_any_pages() {
        let page = usize::try_from(page_size()).unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(3 * page).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for (address, length) in [
            (0, 8),
            (1, 6),
            (3, 120),
            (page - 5, 13),
            (page, page),
            (page - 1, page + 2),
            (7, 0),
            (0, 3 * page),
        ] {
            let read = read(&file, address as u64, length as u64).unwrap();
            assert_eq!(read, content[address..address + length], "{address} {length}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(read(&file, 0, 8).unwrap_err(), Errno::NODEV);
        for (address, length) in [(u64::MAX, 8), (0, u64::MAX), (0, MOST + 1), (u64::MAX - 4096, 1)] {
            assert!(read(&file, address, length).is_err());
        }
    }
}
