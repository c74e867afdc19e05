//! `phaseboot doctor`: can this machine start another kernel?

use std::path::{Path, PathBuf};

use super::{CommandError, json_log, limit, open, print, room, vouched};
use crate::cli;
use crate::doctor::{self, Facts, Image};
use crate::error::{Error, Exit};
use crate::image::{KernelImage, Part, Ramdisk};
use crate::kexec::admission::Needs;
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
    let report = doctor::judge(&facts, image.as_ref());
    print(&if arguments.json { format!("{}\n", report.as_json()) } else { report.to_string() })?;
    match report.blocker() {
        None => Ok(()),
        Some((check, exit)) => Err(CommandError::Unfit { check, exit }.into()),
    }
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
