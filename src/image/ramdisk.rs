//! The ramdisk of the next kernel: verified files in sealed memory.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::part::Draft;
use super::{Error, Part, archive};
use crate::fetch::VerifiedArtifact;
use crate::sys::memfd::Mapping;

/// The kernel looks for the next archive at multiples of 4 bytes, and passes over zeros before it:
/// Documentation/driver-api/early-userspace/buffer-format.rst.
const ALIGNMENT: usize = 4;

/// The bytes that the next kernel unpacks.
#[derive(Debug)]
pub struct Ramdisk(Part);

impl Ramdisk {
    /// Joins `parts` in their order; what is certainly no ramdisk is refused. A single one is taken
    /// as it is. Several are copied, and the memory of each is given back when it has been.
    pub fn join<P: Into<Part>>(parts: Vec<P>) -> Result<Option<Self>, Error> {
        Self::join_parts(parts.into_iter().map(Into::into).collect())
    }

    fn join_parts(parts: Vec<Part>) -> Result<Option<Self>, Error> {
        for part in &parts {
            archive::judge(part.name(), &part.mapped()?)?;
        }
        let is_single = parts.len() == 1;
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { return Ok(None) };
        if is_single {
            return Ok(Some(Self(first)));
        }
        let mut joined = Draft::new(first.name())?;
        for part in std::iter::once(first).chain(parts) {
            let padding = joined.size().next_multiple_of(ALIGNMENT as u64) - joined.size();
            let padding = usize::try_from(padding).unwrap_or(0);
            joined.write([0; ALIGNMENT].get(..padding).unwrap_or_default())?;
            joined.write(&part.mapped()?)?;
        }
        Ok(Some(Self(joined.seal()?)))
    }

    /// One with nothing in it: `size` zeros, which the next kernel passes over.
    pub fn empty(size: usize) -> Result<Self, Error> {
        let mut zeros = Draft::new("initramfs")?;
        zeros.write(&vec![0; size])?;
        Ok(Self(zeros.seal()?))
    }

    /// What the first one is called in the manifest.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// Maps it for reading.
    pub fn map(&self) -> Result<Mapping, Errno> {
        self.0.map()
    }
}

impl From<VerifiedArtifact> for Ramdisk {
    fn from(archive: VerifiedArtifact) -> Self {
        Self(archive.into())
    }
}

impl AsFd for Ramdisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::arch::Arch;
    use crate::image::archive;
    use crate::image::testing::{X86, artifact, bzimage, cpio, gzip, uki};
    use crate::image::{KernelImage, Part};

    #[test]
    fn one_is_passed_on_and_none_is_none() {
        let part = Part::from(artifact("initramfs", b"an archive"));
        let descriptor = part.as_fd().as_raw_fd();
        let ramdisk = Ramdisk::join(vec![part]).unwrap().unwrap();
        assert_eq!(ramdisk.as_fd().as_raw_fd(), descriptor, "not copied");
        assert_eq!((ramdisk.size(), ramdisk.name()), (10, "initramfs"));
        assert!(Ramdisk::join(Vec::<Part>::new()).unwrap().is_none());
    }

    #[test]
    fn several_begin_at_multiples_of_four() {
        for (first, padding) in [(&b"1234"[..], 0), (b"12345", 3), (b"123456", 2), (b"1234567", 1), (b"", 0)]
        {
            let ramdisk = Ramdisk::join(vec![
                artifact("one", first),
                artifact("two", b"second"),
                artifact("three", b"3"),
            ]);
            let joined = [first, &[0; 3][..padding], b"second\0\0", b"3"].concat();
            assert_eq!(&*ramdisk.unwrap().unwrap().map().unwrap(), joined.as_slice());
        }
    }

    #[test]
    fn a_unified_kernel_images_own_come_first() {
        let image = artifact("kernel", &uki(X86, &bzimage()));
        let mut kernel = KernelImage::from_artifact(image, Arch::X86_64).unwrap();
        let mut parts = kernel.take_ramdisks();
        parts.push(artifact("initramfs", &gzip(&cpio(&[("etc/x", b"y")]))).into());
        let ramdisk = Ramdisk::join(parts).unwrap().unwrap();
        let pieces = archive::survey(&ramdisk.map().unwrap());
        let formats: Vec<_> = pieces.iter().map(|piece| (&*piece.format, piece.microcode)).collect();
        assert_eq!(formats, [("cpio", true), ("cpio", false), ("gzip", false)]);
        assert!(pieces.iter().all(|piece| piece.fault.is_none() && piece.offset % 4 == 0));
    }

    #[test]
    fn a_kernel_is_not_joined() {
        let parts = vec![artifact("initrd", &cpio(&[])), artifact("initrd", &bzimage())];
        assert_eq!(Ramdisk::join(parts).unwrap_err().to_string(), "initrd is a kernel, not a ramdisk");
    }
}
