//! Live tables of an interrupt controller in the way of kexec_file_load, which places things itself and
//! knows nothing of them.

use super::Target;
use crate::arch::Arch;
use crate::image::{Header, Ramdisk};
use crate::kexec::aarch64::{self, Pieces};
use crate::kexec::{Error, MemoryMap};
use crate::paths::Paths;
use crate::sys;
use crate::sys::arch::loads;

/// The interrupt controller's live tables that the running kernel takes for ordinary memory, and
/// what kexec_file_load would do to each. Where UEFI or an earlier [`Plan`] reserved them, there are
/// none. An error if there are some, and nobody knows where.
pub(super) fn exposed_tables(target: &Target, paths: &Paths) -> Result<Vec<Exposed>, Error> {
    let kernel = match target.kernel.header() {
        Header::Arm64(kernel) if loads(Arch::Aarch64) => kernel,
        _ => return Ok(Vec::new()),
    };
    let live = aarch64::live_tables(paths)?;
    let Ok(memory) = MemoryMap::read(paths) else { return Ok(Vec::new()) };
    let places = aarch64::by_file_load(
        &memory.free(),
        &Pieces {
            text_offset: kernel.text_offset,
            kernel: kernel.memory,
            anywhere: kernel.anywhere,
            initrd: target.ramdisk.as_ref().map(Ramdisk::size),
            tree: 0,
            trampoline: 0,
            page: sys::kexec::page_size(),
        },
    );
    let exposed = live
        .into_iter()
        .filter(|table| memory.usable.contains(table))
        .map(|table| Exposed {
            address: table.start,
            overwritten: places.iter().any(|place| place.start < table.end && table.start < place.end),
        })
        .collect();
    Ok(exposed)
}

/// A live table in memory that is not reserved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exposed {
    pub(super) address: u64,
    /// By kexec_file_load.
    pub(super) overwritten: bool,
}
