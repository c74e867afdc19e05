//! What a load costs in memory, counted before a byte is downloaded and again before the system call:
//! what does not fit ends in the out-of-memory killer, and there may be nobody to kill but PID 1.
//!
//! What is held at the peak of each call, by kernel/kexec.c, kernel/kexec_file.c, kernel/kexec_core.c
//! and fs/kernel_read_file.c:
//!
//! | | our memory files | buffers of the running kernel | pages for the segments |
//! |---|---|---|---|
//! | kexec_file_load | kernel, ramdisk | kernel, ramdisk: vmalloc, freed when the last segment is filled | kernel with its bss, ramdisk |
//! | kexec_load | kernel, ramdisk | none: each page is copied out of our mapping | the same; on x86 the kernel without its bss |
//!
//! While the kernel is unwrapped, the published file and what the decoder keeps are there beside our memory
//! files. A segment takes pages for all of its size, zeros too. A kernel that was loaded before stays until
//! the new one is whole: what it holds is not available, and so not counted here.

use super::{Call, Error};
use crate::image::{Demand, Header, KernelImage, MOST_UNPACKED};
use crate::log::bytes;
use crate::meminfo::Meminfo;
use crate::paths::Paths;

/// 16 MiB, on top of everything, while there is a download: TLS, sockets and their buffers, threads,
/// this program's own pages.
const WHILE_FETCHING: u64 = 16 << 20;
/// 2 MiB while there is none: device tree or boot parameters, purgatory, control pages, and what
/// others take meanwhile. Not more, for `MemAvailable` leaves a reserve of its own.
const WHILE_LOADING: u64 = 2 << 20;
/// One part in 128 of everything: a word for each page in the page tables of our mapping and of the
/// kernel's buffers, in the buffers' lists of pages, and in the list of source pages.
const WORDS_FOR_PAGES: u64 = 128;

/// What is going to be loaded, and what has to be in memory for that. In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The kernel file as it is loaded.
    pub kernel: u64,
    /// What that kernel occupies where it is placed: with its bss, or unpacked.
    pub placed: u64,
    /// What of that kexec_load is given: on x86 the file alone, see [`x86_64`](super::x86_64).
    pub copied: u64,
    /// All of the ramdisk.
    pub ramdisk: u64,
    /// The file that the kernel is unwrapped from; 0 if it is published as it is loaded.
    pub wrapper: u64,
    /// What the decoder keeps of the kernel while it unpacks it, at the most.
    pub buffer: u64,
    /// The largest of the archives that are joined to the ramdisk, which is there twice while it is
    /// copied; 0 if there is only one.
    pub part: u64,
    /// Whatever else is needed beside them.
    pub beside: u64,
    /// How much of this is in memory already, and not part of what is available.
    pub here: u64,
}

impl Needs {
    /// Before the download, when only the sizes of the published files are known. A wrapped kernel
    /// will need more: this is the least.
    pub fn published(kernel: u64, ramdisk: u64) -> Self {
        let (placed, copied) = (kernel, kernel);
        Self { kernel, placed, copied, ramdisk, beside: WHILE_FETCHING, ..Self::default() }
    }

    /// Before the system call, with both files in memory.
    pub fn loading(kernel: u64, placed: u64, ramdisk: u64) -> Self {
        let here = kernel.saturating_add(ramdisk);
        Self { kernel, placed, copied: placed, ramdisk, beside: WHILE_LOADING, here, ..Self::default() }
    }

    /// The same for `kernel`, and a ramdisk of this size.
    pub fn of(kernel: &KernelImage, ramdisk: u64) -> Self {
        let (placed, copied) = match kernel.header() {
            Header::BzImage(header) => (header.init_size, kernel.size()),
            Header::Arm64(header) => (header.memory, header.memory),
        };
        Self { copied, ..Self::loading(kernel.size(), placed, ramdisk) }
    }

    /// The segments that `call` makes of them, at the least.
    pub(super) fn segments(&self, call: Call) -> u64 {
        let placed = match call {
            Call::FileLoad => self.placed,
            Call::Load => self.copied,
        };
        placed.max(self.kernel).saturating_add(self.ramdisk)
    }

    /// What has to be available for `call`, from now to its end, if the segments take this many bytes.
    fn wanted(&self, call: Call, segments: u64) -> u64 {
        let files = self.kernel.saturating_add(self.ramdisk);
        let buffers = match call {
            Call::FileLoad => files,
            Call::Load => 0,
        };
        let unwrapping = files.saturating_add(self.wrapper).saturating_add(self.buffer.min(self.kernel));
        let joining = files.saturating_add(self.part);
        let loading = files.saturating_add(buffers).saturating_add(segments);
        let peak = unwrapping.max(joining).max(loading);
        let all = peak.saturating_add(peak / WORDS_FOR_PAGES).saturating_add(self.beside);
        all.saturating_sub(self.here)
    }
}

/// Whether the running kernel has the memory for `call` with segments of this many bytes. Segments over
/// half of all RAM are refused whatever is free: sanity_check_segment_list() of kernel/kexec_core.c.
pub(super) fn fits(call: Call, needs: &Needs, segments: u64, memory: Meminfo) -> Result<(), Error> {
    let half = memory.total / 2;
    if segments > half {
        return Err(Error::OverHalf { size: segments, half });
    }
    let needed = needs.wanted(call, segments);
    let available = memory.available;
    if needed > available { Err(Error::Memory { needed, available }) } else { Ok(()) }
}

/// Those of `calls` that have enough memory, in their order; one that has not is left out with a line
/// in the log. If none has: what the most frugal one lacks.
pub fn admit(calls: &[Call], needs: &Needs, memory: Meminfo) -> Result<Vec<Call>, Error> {
    let mut admitted = Vec::new();
    let mut obstacle = Error::NoWay;
    for &call in calls {
        match fits(call, needs, needs.segments(call), memory) {
            Ok(()) => admitted.push(call),
            Err(error) => {
                log::info!("{call} is no way: {error}");
                obstacle = nearer(obstacle, error);
            }
        }
    }
    if admitted.is_empty() { Err(obstacle) } else { Ok(admitted) }
}

/// Of the reasons against two calls, the one to tell: the lower need for memory, since it is sooner
/// met; what says something of this machine rather than of the call; else the later one.
pub(super) fn nearer(first: Error, second: Error) -> Error {
    match (&first, &second) {
        (Error::Memory { needed: one, .. }, Error::Memory { needed: other, .. }) if one > other => second,
        (Error::NoWay, _) => second,
        (Error::Memory { .. }, _) | (_, Error::TreeNotTaken) => first,
        _ => second,
    }
}

/// Asks before the download whether a kernel and a ramdisk of these sizes could be loaded at all.
pub fn before_download(calls: &[Call], kernel: u64, ramdisk: u64, paths: &Paths) -> Result<(), Error> {
    let needs = Needs::published(kernel, ramdisk);
    let Some(memory) = Meminfo::read(paths) else { return Ok(()) };
    let admitted = admit(calls, &needs, memory)?;
    log::debug!(
        "{} available, enough for {} of {} calls",
        bytes(memory.available),
        admitted.len(),
        calls.len()
    );
    Ok(())
}

/// The largest kernel that can be unwrapped from a file of `wrapper` bytes and then loaded, while that
/// file and a ramdisk are in memory, of which `memory` knows. What is missing, if that is less than what
/// comes out at the least.
pub fn most_unpacked(
    calls: &[Call],
    wrapper: u64,
    ramdisk: u64,
    demand: Demand,
    memory: Option<Meminfo>,
) -> Result<u64, Error> {
    let Some(memory) = memory else { return Ok(MOST_UNPACKED) };
    let here = wrapper.saturating_add(ramdisk);
    let obstacle = |kernel| {
        let needs = Needs { wrapper, buffer: demand.buffer, here, ..Needs::loading(kernel, kernel, ramdisk) };
        let mut obstacle = Error::NoWay;
        for &call in calls {
            match fits(call, &needs, needs.segments(call), memory) {
                Ok(()) => return None,
                Err(error) => obstacle = nearer(obstacle, error),
            }
        }
        Some(obstacle)
    };
    if let Some(obstacle) = obstacle(demand.size) {
        return Err(obstacle);
    }
    // What fits and what does not meet at one size.
    let (mut most, mut step) = (0, MOST_UNPACKED);
    while step > 0 {
        if most + step <= MOST_UNPACKED && obstacle(most + step).is_none() {
            most += step;
        }
        step /= 2;
    }
    Ok(most)
}

/// Asks before archives of these sizes, which are in memory as `kernel` is, are joined to one ramdisk.
pub fn before_joining(
    calls: &[Call],
    kernel: &KernelImage,
    parts: impl Iterator<Item = u64> + Clone,
    paths: &Paths,
) -> Result<(), Error> {
    let part = if parts.clone().count() > 1 { parts.clone().max().unwrap_or(0) } else { 0 };
    let needs = Needs { part, ..Needs::of(kernel, parts.fold(0, u64::saturating_add)) };
    let Some(memory) = Meminfo::read(paths) else { return Ok(()) };
    admit(calls, &needs, memory).map(drop)
}

#[cfg(test)]
mod tests;
