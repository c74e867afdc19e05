//! How the next kernel is going to be loaded: pure data, shown by `--dry-run`.

mod exposed;
mod preference;
mod show;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use super::aarch64::{self, Parts};
use super::admission::{self, Needs};
use super::attempt::{BUSY_PAUSE, first_that_loads};
use super::handoff::Loaded;
use super::{Call, Error, Kaslr, Lockdown, MemoryMap, Preflight, Untried, cmdline, x86_64};
use crate::arch::Arch;
use crate::devicetree::{self, Seeds};
use crate::image::{Arm64Image, BzImage, Header, KernelImage, Ramdisk};
use crate::log::bytes;
use crate::meminfo::Meminfo;
use crate::paths::Paths;
use crate::sys;
use crate::sys::arch::loads;
use exposed::{Exposed, exposed_tables};
use preference::Gain;

/// What to boot.
#[derive(Debug)]
pub struct Target {
    pub kernel: KernelImage,
    pub ramdisk: Option<Ramdisk>,
    /// As [`cmdline::compose`] made it.
    pub cmdline: String,
    /// In place of the tree that the running kernel was given.
    pub devicetree: Option<Vec<u8>>,
}

/// Where a segment's bytes come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// The kernel file from this byte on.
    Kernel {
        from: u64,
    },
    Initrd,
    /// x86's zero page, and what it points to: command line, setup_data.
    BootParams(Vec<u8>),
    DeviceTree(Vec<u8>),
    Trampoline(Vec<u8>),
}

/// One piece of memory of the next kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub content: Content,
    /// Bytes that are copied; the rest is zero.
    pub file: u64,
    /// Physical.
    pub address: u64,
    /// In bytes, whole pages.
    pub size: u64,
}

/// What kexec_load is going to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// Physical.
    pub entry: u64,
    pub segments: Vec<Segment>,
    /// It tells the next kernel of a screen, which kexec_file_load cannot.
    pub hands_on_screen: bool,
    /// What the kernel log alone tells (tables to keep clear of, encrypted memory) could all be read.
    pub log_was_whole: bool,
}

/// One call that is going to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    FileLoad { cmdline: CString },
    Load(LoadPlan),
}

impl Attempt {
    /// Which call it is.
    pub fn call(&self) -> Call {
        match self {
            Self::FileLoad { .. } => Call::FileLoad,
            Self::Load(_) => Call::Load,
        }
    }

    /// What its segments take, in bytes; of those that the kernel makes itself, the large ones.
    fn segments(&self, needs: &Needs) -> u64 {
        match self {
            Self::FileLoad { .. } => needs.segments(Call::FileLoad),
            Self::Load(plan) => plan.segments.iter().map(|segment| segment.size).fold(0, u64::saturating_add),
        }
    }
}

/// A target and the calls that are going to be tried for it, in order.
#[derive(Debug)]
pub struct Plan {
    target: Target,
    attempts: Vec<Attempt>,
    untried: Vec<Untried>,
    /// Why the second call is tried first if the first one would do it.
    gain: Option<Gain>,
    /// The bytes that kexec_file_load has hashed before the jump, if they are many.
    long_hash: Option<u64>,
    lockdown: Lockdown,
    paths: Paths,
}

impl Plan {
    /// Plans each call that `preflight` found and that there is memory for. Reads the memory map and
    /// the device tree; changes nothing.
    pub fn new(
        mut target: Target,
        preflight: &Preflight,
        paths: &Paths,
        kaslr: Kaslr,
    ) -> Result<Self, Error> {
        // kexec_file_load takes no empty file: kernel_read_file() answers EINVAL.
        target.ramdisk = target.ramdisk.filter(|disk| disk.size() > 0).or_else(|| nothing(paths));
        let exposed = exposed_tables(&target, paths)?;
        let mut calls = preflight.calls().to_vec();
        if !exposed.is_empty() {
            // Only what we place ourselves is sure to stay clear of the tables.
            calls.sort_by_key(|&call| call == Call::FileLoad);
        }
        let needs = Needs::of(&target.kernel, target.ramdisk.as_ref().map_or(0, Ramdisk::size));
        let meminfo = Meminfo::read(paths);
        let mut attempts = Vec::new();
        let mut untried = preflight.untried().to_vec();
        let mut obstacle = Error::NoWay;
        for call in calls {
            let planned = match call {
                Call::FileLoad if target.devicetree.is_some() => Err(Error::TreeNotTaken),
                Call::FileLoad => file_load(&target, paths, kaslr, &exposed),
                Call::Load => load(&target, paths, kaslr),
            };
            let fits = |attempt: &Attempt| match meminfo {
                Some(memory) => admission::fits(call, &needs, attempt.segments(&needs), memory),
                None => Ok(()),
            };
            match planned.and_then(|attempt| fits(&attempt).map(|()| attempt)) {
                Ok(attempt) => attempts.push(attempt),
                Err(error) => {
                    log::info!("{call} is no way: {error}");
                    untried.push(Untried { call, reason: error.to_string() });
                    obstacle = admission::nearer(obstacle, error);
                }
            }
        }
        if attempts.is_empty() {
            return Err(obstacle);
        }
        let gain = preference::gain(&attempts, &needs, preflight, paths);
        let (long_hash, lockdown) = (preference::long_hash(&needs), preflight.lockdown);
        Ok(Self { target, attempts, untried, gain, long_hash, lockdown, paths: paths.clone() })
    }

    /// The calls, in the order they are tried unless there is a [preference](Self::preference).
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Whether kexec_load is tried before kexec_file_load if that one would load the files, and why.
    pub fn preference(&self) -> Option<String> {
        self.gain.map(|gain| format!("kexec_load goes first if kexec_file_load takes the files: {gain}"))
    }

    /// Those that were wanted and are not tried, each with the reason.
    pub fn untried(&self) -> &[Untried] {
        &self.untried
    }

    /// Loads the kernel by the first call that does it. Until then, and if none does, a kernel that was
    /// loaded before stays as it was: do_kexec_load() of kernel/kexec.c and its twin in
    /// kernel/kexec_file.c exchange the two when the new one is whole.
    pub fn load(mut self) -> Result<Loaded, Error> {
        self.prefer();
        let calls: Vec<Call> = self.attempts.iter().map(Attempt::call).collect();
        let ask = |index| match self.attempts.get(index) {
            Some(Attempt::FileLoad { cmdline }) => {
                let kernel = self.target.kernel.as_fd();
                let ramdisk = self.target.ramdisk.as_ref().map(AsFd::as_fd);
                Ok(sys::kexec::file_load(kernel, ramdisk, cmdline))
            }
            Some(Attempt::Load(plan)) => self.load_segments(plan),
            None => Err(Error::NoWay),
        };
        match first_that_loads(&calls, self.lockdown, ask, || thread::sleep(BUSY_PAUSE))? {
            Ok(call) => {
                log::info!("loaded by {call}");
                self.tell_of_hashing(call);
                Ok(Loaded::new(self.paths))
            }
            Err(attempts) => Err(Error::Load { attempts, untried: self.untried }),
        }
    }

    /// Puts kexec_load first where it does better and the running kernel has nothing against these files.
    fn prefer(&mut self) {
        if let Some(gain) = self.gain
            && preference::is_approved(&self.target, &self.paths)
        {
            log::info!("kexec_load goes first: {gain}");
            self.attempts.reverse();
        }
    }

    /// Says why nothing will be seen for seconds.
    fn tell_of_hashing(&self, call: Call) {
        if let (Call::FileLoad, Some(size)) = (call, self.long_hash) {
            let size = bytes(size);
            log::info!("the kernel hashes {size} once more before it jumps; kexec_load goes without");
        }
    }

    fn load_segments(&self, plan: &LoadPlan) -> Result<rustix::io::Result<()>, Error> {
        let (kernel, ramdisk) = (&self.target.kernel, self.target.ramdisk.as_ref());
        let kernel = kernel.map().map_err(|errno| Error::Map { name: kernel.name(), errno })?;
        let map = |disk: &Ramdisk| disk.map().map_err(|errno| Error::Map { name: disk.name(), errno });
        let initrd = ramdisk.map(map).transpose()?;
        let segments: Vec<_> = plan
            .segments
            .iter()
            .map(|segment| sys::kexec::Segment {
                bytes: match &segment.content {
                    Content::Kernel { from } => {
                        usize::try_from(*from).ok().and_then(|from| kernel.get(from..)).unwrap_or_default()
                    }
                    Content::Initrd => initrd.as_deref().unwrap_or_default(),
                    Content::BootParams(bytes) | Content::DeviceTree(bytes) | Content::Trampoline(bytes) => {
                        bytes
                    }
                },
                address: segment.address,
                size: segment.size,
            })
            .collect();
        Ok(sys::kexec::load(plan.entry, &segments))
    }
}

/// The ramdisk for a kernel that is given none, where it would take another: the one that the firmware's
/// first kernel had, from a table of UEFI's (LINUX_EFI_INITRD_MEDIA_GUID), long after its memory is
/// something else's. That is efi_config_parse_tables() of drivers/firmware/efi/efi.c on arm64 and x86, and
/// whichever call loaded it.
fn nothing(paths: &Paths) -> Option<Ramdisk> {
    if !paths.efi().exists() {
        return None;
    }
    let page = usize::try_from(sys::kexec::page_size()).unwrap_or(4096);
    Ramdisk::empty(page).inspect_err(|error| log::warn!("no empty ramdisk: {error}")).ok()
}

/// Bytes of the command line that kexec_file_load keeps for itself on x86, whether it needs them or
/// not: `MAX_ELFCOREHDR_STR_LEN` of arch/x86/kernel/kexec-bzimage64.c.
const ELFCOREHDR: usize = 30;
/// It counts this one against `cmdline_size`, which does not.
const NUL: usize = 1;

/// The longest command line with which kexec_file_load loads a kernel with this header and the
/// kernel reads all of it, in bytes without the final NUL.
pub fn cmdline_limit(header: &Header) -> usize {
    match header {
        Header::BzImage(_) => header.cmdline_limit().saturating_sub(NUL + ELFCOREHDR),
        Header::Arm64(_) => header.cmdline_limit(),
    }
}

/// Plans kexec_file_load. The line reaches the next kernel as it is given here. On arm64 the running
/// kernel makes the tree from its own, with this line, this ramdisk and fresh seeds in place of what was
/// there: of_kexec_alloc_and_setup_fdt() of drivers/of/kexec.c. On x86 it draws the seed for its boot
/// parameters: bzImage64_load() of arch/x86/kernel/kexec-bzimage64.c.
fn file_load(target: &Target, paths: &Paths, kaslr: Kaslr, exposed: &[Exposed]) -> Result<Attempt, Error> {
    if let Some(table) = exposed.iter().find(|table| table.overwritten) {
        return Err(Error::LiveTable { address: table.address });
    }
    if let Some(table) = exposed.first() {
        log::warn!(
            "kexec_file_load leaves the interrupt controller's table at {:#x} unreserved",
            table.address
        );
    }
    let mut line = target.cmdline.clone();
    if kaslr == Kaslr::Zero && !cmdline::has(&line, "nokaslr") {
        log::info!("no KASLR is wanted and kexec_file_load makes its own seed: nokaslr added");
        line = cmdline::with(&line, "nokaslr");
    }
    let line = cmdline::within(line, cmdline_limit(target.kernel.header()))?;
    if let Header::BzImage(kernel) = target.kernel.header() {
        x86_64::by_file_load(kernel, paths)?;
    }
    let cmdline = CString::new(line).map_err(|error| Error::CmdlineCharacter {
        text: crate::error::printable(&String::from_utf8_lossy(&error.into_vec())),
    })?;
    Ok(Attempt::FileLoad { cmdline })
}

/// Plans kexec_load.
fn load(target: &Target, paths: &Paths, kaslr: Kaslr) -> Result<Attempt, Error> {
    match target.kernel.header() {
        Header::Arm64(kernel) if loads(Arch::Aarch64) => load_arm64(target, kernel, paths, kaslr),
        Header::BzImage(_) if target.devicetree.is_some() => Err(Error::TreeNotTaken),
        Header::BzImage(kernel) if loads(Arch::X86_64) => load_x86(target, kernel, paths, kaslr),
        // Refused when it was recognised.
        Header::Arm64(_) | Header::BzImage(_) => Err(Error::NoWay),
    }
}

/// Plans kexec_load of an x86 kernel.
fn load_x86(target: &Target, kernel: &BzImage, paths: &Paths, kaslr: Kaslr) -> Result<Attempt, Error> {
    let image = target.kernel.map().map_err(|errno| Error::Map { name: target.kernel.name(), errno })?;
    let parts = x86_64::Parts {
        kernel,
        image: &image,
        initrd_file: target.ramdisk.as_ref().map(Ramdisk::size),
        cmdline: &target.cmdline,
        seed: kaslr == Kaslr::Seed,
        page: sys::kexec::page_size(),
    };
    Ok(Attempt::Load(x86_64::plan(&x86_64::Machine::read(paths)?, parts)?))
}

/// Plans kexec_load of an arm64 kernel.
fn load_arm64(target: &Target, kernel: &Arm64Image, paths: &Paths, kaslr: Kaslr) -> Result<Attempt, Error> {
    cmdline::within(target.cmdline.clone(), target.kernel.cmdline_limit())?;
    let page = sys::kexec::page_size();
    let live = aarch64::live_tables(paths)?;
    let initrd = target.ramdisk.as_ref().map(Ramdisk::size);
    let wanted = kernel.memory.saturating_add(initrd.unwrap_or(0));
    let mut memory = memory(paths, page, wanted.saturating_mul(4).saturating_add(SPARE))?;
    for table in &live {
        log::debug!("GICv3 table at {:#x} kept clear of and reserved for the next kernel", table.start);
        memory.usable.remove(table);
    }
    let tree = paths.devicetree();
    let running = devicetree::read(&tree).map_err(|source| read(&tree, source))?;
    let tree = match &target.devicetree {
        Some(given) => devicetree::complete(given, &running)?,
        None => running,
    };
    let tables = aarch64::tables(paths, &tree);
    let plan = aarch64::plan(
        &memory,
        Parts {
            kernel,
            kernel_file: target.kernel.size(),
            initrd_file: initrd,
            tree: &tree,
            cmdline: &target.cmdline,
            seeds: seeds(&target.cmdline, kaslr),
            live: &live,
            tables: tables.as_ref(),
            page,
        },
    )?;
    Ok(Attempt::Load(plan))
}

/// 4 GiB: how much memory is looked at beyond a few times what is placed.
const SPARE: u64 = 4 << 30;

/// Where the next kernel may go on this machine: the lowest `enough` bytes of it.
fn memory(paths: &Paths, page: u64, enough: u64) -> Result<MemoryMap, Error> {
    let mut memory = MemoryMap::read(paths)?;
    memory.keep_lowest(enough);
    let flags = paths.kpageflags();
    match File::open(&flags) {
        Ok(mut file) => {
            let avoided =
                memory.avoid_kernel_owned(&mut file, page).map_err(|source| read(&flags, source))?;
            log::debug!("{} of memory in use by the kernel kept clear of", bytes(avoided));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            log::debug!("no {}: memory in use by the kernel cannot be told from the rest", flags.display());
        }
        Err(source) => return Err(read(&flags, source)),
    }
    Ok(memory)
}

fn read(path: &Path, source: io::Error) -> Error {
    Error::Read { path: path.display().to_string(), source }
}

/// Fresh seeds, unless nobody wants them or the generator is not ready. Nothing waits for it.
fn seeds(line: &str, kaslr: Kaslr) -> Option<Seeds> {
    if kaslr == Kaslr::Zero || cmdline::has(line, "nokaslr") {
        log::debug!("no seeds for the next kernel: KASLR is not wanted");
        return None;
    }
    let mut drawn = [0; 72];
    if !sys::random::fill_if_ready(&mut drawn) {
        log::info!("no seeds for the next kernel: this kernel's random generator is not ready");
        return None;
    }
    let (kaslr, rng) = drawn.split_first_chunk::<8>()?;
    Some(Seeds { kaslr: u64::from_ne_bytes(*kaslr), rng: rng.try_into().ok()? })
}

#[cfg(test)]
mod tests;
