//! Memory files: written once, sealed, then read or mapped, with no path that leads to them.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

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

/// A memory file that nobody can change any more.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl Sealed {
    /// Seals `file` against writing, growing, shrinking and unsealing, and keeps a read-only
    /// descriptor: kexec_file_load(2) answers ETXTBSY for a file that is open for writing.
    pub fn seal(file: File) -> Result<Self, Errno> {
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

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
}
