//! `phaseboot doctor`: can this machine start another kernel?

use std::path::{Path, PathBuf};

use super::{CommandError, json_log, limit, open, print, room, vouched};
use crate::cli::{self, Line};
use crate::doctor::{self, Facts, Image};
use crate::error::{Error, Exit};
use crate::image::{KernelImage, Part, Ramdisk};
use crate::kexec::admission::Needs;
use crate::kexec::{self, Kaslr, Plan};
use crate::paths::Paths;
use crate::sys::arch::NATIVE;

/// Examines the machine. What stops a boot is an error with the exit code that the boot would have had.
pub(super) fn run(arguments: &cli::Doctor, paths: &Paths) -> Result<(), Error> {
    json_log(arguments.json);
    let facts = Facts::read(paths, NATIVE);
    let image = match &arguments.kernel {
        None => None,
        // A file that is not there is a mistake on the command line, one that is no kernel a finding.
        Some(kernel) => match look(kernel, &arguments.initrd, paths) {
            Err(error @ (Error::Command(_) | Error::Operator(_)))
                if error.exit() != Exit::NotEnoughMemory =>
            {
                return Err(error);
            }
            found => Some(found),
        },
    };
    let mut report = doctor::judge(&facts, image.as_ref());
    // Whoever is stopped already learns nothing from a plan.
    if let (Some(kernel), None) = (&arguments.kernel, report.blocker()) {
        report.add_plan(&plan(kernel, &arguments.initrd, paths));
    }
    print(&if arguments.json { format!("{}\n", report.as_json()) } else { report.to_string() })?;
    match report.blocker() {
        None => Ok(()),
        Some((check, exit)) => Err(CommandError::Unfit { check, exit }.into()),
    }
}

/// What `phaseboot kexec --dry-run` would show of them.
fn plan(kernel: &Path, initrd: &[PathBuf], paths: &Paths) -> Result<Plan, Error> {
    let arguments = cli::Kexec {
        kernel: Some(kernel.to_owned()),
        initrd: initrd.to_vec(),
        line: Line::Given(String::new()),
        ..cli::Kexec::default()
    };
    let preflight = kexec::preflight(paths, arguments.method)?;
    let target = super::kexec::target(&arguments, &preflight, paths)?;
    Ok(Plan::new(target, &preflight, paths, Kaslr::default())?)
}

/// What there is to know of a kernel and its ramdisks before they are loaded.
fn look(path: &Path, initrd: &[PathBuf], paths: &Paths) -> Result<Image, Error> {
    let published = open(path)?.1;
    let mut ramdisk = 0u64;
    for path in initrd {
        let size = open(path)?.1;
        ramdisk = ramdisk.saturating_add(size);
        // Of what memory does not hold, that is all there is to be said.
        if room(paths).is_none_or(|room| size <= room) {
            Ramdisk::join(vec![vouched("initrd", path, paths)?])?;
        }
    }
    let kernel = vouched("kernel", path, paths)?;
    let mut kernel = KernelImage::within(kernel, NATIVE, &limit(paths))?;
    ramdisk = kernel.take_ramdisks().iter().map(Part::size).fold(ramdisk, u64::saturating_add);
    let wrapper = if kernel.wrappings().is_empty() { 0 } else { published };
    let buffer = kernel.wrappings().iter().map(|wrapping| wrapping.buffer).max().unwrap_or(0);
    // What is in memory now is not when a boot begins.
    let needs = Needs { wrapper, buffer, here: 0, ..Needs::of(&kernel, ramdisk) };
    Ok(Image { needs, is_signed: kernel.is_signed() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::image::testing::bzimage;
    use std::fs;

    /// What a plan for a kernel with this in its header comes to on a PC with 512 MiB and 5-level paging, whose
    /// kernel counts loads so that this machine's is not asked.
    fn planned(patch: (usize, &[u8]), size: Option<u64>) -> Result<Plan, Error> {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("proc/sys/kernel/kexec_load_limit_reboot", b"5\n");
        put("proc/iomem", include_bytes!("../kexec/testdata/iomem-qemu-pc.txt"));
        put("proc/meminfo", b"MemTotal: 500000 kB\nMemAvailable: 400000 kB\n");
        put("proc/cpuinfo", b"flags\t\t: fpu la57\n");
        put("proc/self/mountinfo", b"");
        for (name, text) in [("start", "0x100000"), ("end", "0x1ffdffff"), ("type", "System RAM")] {
            put(&format!("sys/firmware/memmap/0/{name}"), text.as_bytes());
        }
        let mut kernel = bzimage();
        kernel[patch.0..patch.0 + patch.1.len()].copy_from_slice(patch.1);
        put("kernel", &kernel);
        put("initrd", &[0; 4096]);
        let kernel = root.path().join("kernel");
        if let Some(size) = size {
            fs::OpenOptions::new().write(true).open(&kernel).unwrap().set_len(size).unwrap();
        }
        plan(&kernel, &[root.path().join("initrd")], &Paths::under(root.path()))
    }

    #[test]
    fn a_kernel_that_no_call_can_load_is_known() {
        if NATIVE != Arch::X86_64 {
            return;
        }
        assert_eq!(planned((0, b""), None).unwrap().attempts().len(), 2);
        // XLF_5LEVEL, init_size, kernel_alignment.
        for (patch, exit, says) in [
            ((0x236, &[0x1f, 0][..]), Exit::LoadFailed, "5-level paging"),
            ((0x260, &[0, 0, 0, 0xf0]), Exit::NotEnoughMemory, "no place for the kernel"),
            ((0x230, &[0, 0, 0, 0x80]), Exit::NotEnoughMemory, "no place for the kernel"),
        ] {
            let error = planned(patch, None).unwrap_err();
            assert!(error.exit() == exit && error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_kernel_by_its_size_asks_for_no_memory() {
        let error = planned((0, b""), Some(4 << 40)).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage, "{error}");
        assert!(error.to_string().contains("kernel is larger than the limit of 4294967296 bytes"), "{error}");
        assert_eq!(error.hint(), "check that this is the right file");
    }
}
