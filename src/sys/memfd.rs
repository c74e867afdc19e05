//! Memory files: written once, sealed, then read or mapped, with no path that leads to them.

use std::ffi::c_int;
use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

/// Creates an empty, sealable memory file. `name` shows in /proc only. memfd_create(2)
pub fn create(name: &str) -> Result<File, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux before 6.3 does not know NOEXEC_SEAL and answers EINVAL.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
    .map(File::from)
}

/// The size of a large page where pages have 4 KiB, on x86_64 and aarch64, in bytes.
pub const LARGE_PAGE: usize = 2 << 20;

/// Has the kernel keep `LARGE_PAGE` bytes of `file` from `offset` on, a multiple of that, in one large
/// page, whatever is in them already: no byte changes, and what is written and read there costs a
/// fraction of what it costs page by page. All of it has to lie within the file's size.
/// madvise(2), MADV_COLLAPSE: since Linux 6.1, whatever /sys/kernel/mm/transparent_hugepage says.
///
/// EINVAL: this kernel cannot. ENOMEM: it has no large page left. Others: not now.
pub fn enlarge_page(file: &File, offset: u64) -> Result<(), Errno> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let end = offset.checked_add(LARGE_PAGE as u64).ok_or(Errno::OVERFLOW)?;
    if !offset.is_multiple_of(LARGE_PAGE as u64) || end > size {
        return Err(Errno::INVAL);
    }
    let window = Window::over(file, offset)?;
    // The kernel takes a range that begins with a hole for one that was cut off meanwhile.
    window.advise(Advice::PopulateRead, 1)?;
    window.advise(Advice::Collapse, LARGE_PAGE)
}

/// Advice that has the kernel do something at once, and that changes no byte:
/// include/uapi/asm-generic/mman-common.h.
#[derive(Clone, Copy)]
enum Advice {
    PopulateRead = 22,
    Collapse = 25,
}

/// A large page's worth of a file, mapped where a large page can be. Nobody reads or writes through it.
struct Window {
    /// Addresses of our own, twice as many as needed.
    reserved: *mut u8,
    /// The first that a large page can have.
    start: *mut u8,
}

impl Window {
    const RESERVED: usize = 2 * LARGE_PAGE;

    fn over(file: &File, offset: u64) -> Result<Self, Errno> {
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::OVERFLOW)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let reserved = unsafe { libc::mmap(ptr::null_mut(), Self::RESERVED, libc::PROT_NONE, flags, -1, 0) };
        if reserved == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let reserved: *mut u8 = reserved.cast();
        // A whole large page fits in behind: less than LARGE_PAGE is left out of twice that much.
        let start = reserved.map_addr(|address| address.next_multiple_of(LARGE_PAGE));
        let window = Self { reserved, start };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the range lies within `reserved`, which nobody else knows, so it replaces nothing that
        // is in use; the descriptor is open.
        let mapped =
            unsafe { libc::mmap(start.cast(), LARGE_PAGE, libc::PROT_READ, flags, file.as_raw_fd(), offset) };
        if mapped == libc::MAP_FAILED { Err(last_errno()) } else { Ok(window) }
    }

    /// madvise(2) for the first `length` bytes, at most all of them.
    fn advise(&self, advice: Advice, length: usize) -> Result<(), Errno> {
        let length = length.min(LARGE_PAGE);
        // SAFETY: the range is this mapping's own, and no such advice changes or drops what is in it.
        match unsafe { libc::madvise(self.start.cast(), length, advice as c_int) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: `reserved` is what mmap returned, with this length, and nothing refers to it.
        unsafe { libc::munmap(self.reserved.cast(), Self::RESERVED) };
    }
}

/// So long may pages of a file be held that is to be sealed.
const PAGES_HELD: Duration = Duration::from_secs(10);

/// A memory file that nobody can change any more.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl Sealed {
    /// Seals `file` against writing, growing, shrinking and unsealing, and keeps a read-only
    /// descriptor: kexec_file_load(2) answers ETXTBSY for a file that is open for writing.
    pub fn seal(file: File) -> Result<Self, Errno> {
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        let began = Instant::now();
        // Somebody holds one of its pages for a moment, the kernel itself as a rule: it moves pages.
        // It has waited for that, 75 ms long, and tells nobody when it is over: mm/memfd.c.
        while let Err(errno) = rustix::fs::fcntl_add_seals(&file, seals) {
            if errno != Errno::BUSY || began.elapsed() > PAGES_HELD {
                return Err(errno);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let reopened = rustix::fs::open(
            format!("/proc/self/fd/{}", file.as_raw_fd()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self(reopened))
    }

    /// Maps the whole file for reading.
    pub fn map(&self) -> Result<Mapping, Errno> {
        let size = rustix::fs::fstat(&self.0)?.st_size;
        let length = usize::try_from(size).map_err(|_| Errno::OVERFLOW)?;
        if length == 0 {
            return Ok(Mapping { start: ptr::dangling_mut(), length });
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours;
        // the descriptor is open and `length` is the file's size.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, self.0.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(last_errno());
        }
        Ok(Mapping { start: start.cast(), length })
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A read-only view of a sealed memory file.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping covers `length` readable bytes until drop, and the file's seals keep
        // anybody from changing them; an empty mapping has a dangling, aligned, non-null pointer.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: `start` and `length` are what mmap returned, and no slice outlives `self`.
            unsafe { libc::munmap(self.start.cast(), self.length) };
        }
    }
}

// SAFETY: the memory is read-only and never changes; any thread may read or unmap it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// The calling thread's errno, after a libc call that failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// How many pages of `file` are still to be written back. cachestat(2), since Linux 6.5.
#[cfg(test)]
pub(crate) fn dirty_pages(file: &File) -> Result<u64, Errno> {
    /// asm-generic/unistd.h, asm/unistd_64.h. `libc` has it for some targets only.
    const SYS_CACHESTAT: libc::c_long = 451;
    // `struct cachestat_range` and `struct cachestat` of linux/mman.h: all of the file; cached, dirty, ...
    let (range, mut found) = ([0u64; 2], [0u64; 5]);
    // SAFETY: the kernel reads one structure and writes the other, and both have the sizes that it expects.
    match unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0u32) }
    {
        0 => Ok(found[1]),
        _ => Err(last_errno()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sealed_file_reads_back_and_cannot_be_changed() {
        let mut file = create("test").unwrap();
        file.write_all(b"kernel").unwrap();
        let mut other = file.try_clone().unwrap();
        let sealed = Sealed::seal(file).unwrap();
        assert_eq!(&*sealed.map().unwrap(), b"kernel");
        assert_eq!(other.write_all(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(other.set_len(0).is_err());
        assert!(rustix::io::write(&sealed, b"x").is_err());
    }

    #[test]
    fn an_empty_file_maps_to_an_empty_slice() {
        let sealed = Sealed::seal(create("empty").unwrap()).unwrap();
        assert!(sealed.map().unwrap().is_empty());
    }

    /// Whether this kernel has large pages for it; says so if not.
    fn is_enlarged(result: Result<(), Errno>) -> bool {
        match result {
            Ok(()) => true,
            Err(errno @ (Errno::INVAL | Errno::NOMEM | Errno::AGAIN | Errno::BUSY)) => {
                println!("skipped in part: no large page is to be had here: {errno}");
                false
            }
            Err(errno) => panic!("{errno}"),
        }
    }

    /// How much of it is backed by memory, in bytes.
    fn backed(file: &File) -> u64 {
        u64::try_from(rustix::fs::fstat(file).unwrap().st_blocks).unwrap() * 512
    }

    #[test]
    fn a_large_page_keeps_what_is_in_it_and_can_be_sealed() {
        const LARGE: u64 = LARGE_PAGE as u64;
        let file = create("large").unwrap();
        file.set_len(3 * LARGE + 5).unwrap();
        // A hole, bytes in the middle of one, and its first byte.
        let parts = [(LARGE + 70_000, 200_000), (2 * LARGE - 3, 6)];
        let mut expected = vec![0; 3 * LARGE_PAGE + 5];
        for (at, length) in parts {
            let bytes: Vec<u8> = (1..=251).cycle().take(length).collect();
            file.write_all_at(&bytes, at).unwrap();
            expected[usize::try_from(at).unwrap()..][..length].copy_from_slice(&bytes);
        }
        for offset in [0, LARGE, 2 * LARGE] {
            if is_enlarged(enlarge_page(&file, offset)) {
                assert!(backed(&file) >= offset + LARGE, "{offset}");
                // Again, as after a fresh start.
                enlarge_page(&file, offset).unwrap();
            }
        }
        file.write_all_at(b"tail", 3 * LARGE).unwrap();
        expected[3 * LARGE_PAGE..][..4].copy_from_slice(b"tail");
        let sealed = Sealed::seal(file).unwrap();
        assert!(*sealed.map().unwrap() == *expected);
    }

    #[test]
    fn a_large_page_lies_within_the_file_and_begins_where_one_can() {
        const LARGE: u64 = LARGE_PAGE as u64;
        let file = create("small").unwrap();
        file.set_len(2 * LARGE - 1).unwrap();
        for offset in [1, 4096, LARGE, 2 * LARGE, u64::MAX, u64::MAX - LARGE + 1, 1 << 63] {
            assert!(enlarge_page(&file, offset).is_err(), "{offset}");
        }
        assert_eq!(backed(&file), 0);
    }

    #[test]
    fn pages_that_are_held_for_a_moment_are_waited_for() {
        let file = create("held").unwrap();
        file.set_len(LARGE_PAGE as u64).unwrap();
        let holder = file.try_clone().unwrap();
        let (held, is_held) = std::sync::mpsc::channel();
        let holder = std::thread::spawn(move || {
            let _window = Window::over(&holder, 0).unwrap();
            held.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        });
        is_held.recv().unwrap();
        assert_eq!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE), Err(Errno::BUSY));
        Sealed::seal(file).unwrap();
        holder.join().unwrap();
    }

    /// Reading there would end in SIGBUS.
    #[test]
    fn what_is_behind_the_end_of_a_file_is_an_error() {
        let file = create("cut off").unwrap();
        let window = Window::over(&file, 0).unwrap();
        assert_eq!(window.advise(Advice::PopulateRead, 1), Err(Errno::FAULT));
        assert!(window.advise(Advice::Collapse, LARGE_PAGE).is_err());
        assert_eq!(backed(&file), 0);
    }

    #[test]
    fn windows_are_aligned_and_go_away() {
        let file = create("window").unwrap();
        file.set_len(LARGE_PAGE as u64).unwrap();
        for _ in 0..3 {
            let window = Window::over(&file, 0).unwrap();
            assert_eq!(window.start.addr() % LARGE_PAGE, 0);
            let within = window.start.addr() - window.reserved.addr();
            assert!(within + LARGE_PAGE <= Window::RESERVED);
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("memfd:window"));
    }
}
