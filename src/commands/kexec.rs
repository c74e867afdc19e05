//! `phaseboot kexec`: a kernel that is already here.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use super::{CommandError, MOST_TREE_BYTES, print, read_bounded};
use crate::cli::{self, KexecAction};
use crate::config;
use crate::error::Error;
use crate::fetch::{VerifiedArtifact, operator};
use crate::image::KernelImage;
use crate::kexec::{self, Handoff, Plan, Target};
use crate::paths::Paths;
use crate::sys::arch::NATIVE;

/// 4 GiB: a larger kernel or ramdisk is taken for a mistake.
const MOST_FILE_BYTES: u64 = 4 << 30;
/// Loads, starts, forgets or shows a kernel.
pub(super) fn run(arguments: &cli::Kexec, paths: &Paths) -> Result<(), Error> {
    match arguments.action {
        KexecAction::Unload => return Ok(kexec::unload()?),
        KexecAction::Exec => match kexec::exec_loaded(paths, Handoff::default())? {},
        KexecAction::LoadAndExec | KexecAction::LoadOnly | KexecAction::DryRun => {}
    }
    let preflight = kexec::preflight(paths, arguments.method)?;
    let kernel = match &arguments.kernel {
        Some(path) => vouched("kernel", std::slice::from_ref(path))?,
        None => return Err(cli::Error::Missing { command: "kexec", what: "--kernel FILE" }.into()),
    };
    let initrd = match arguments.initrd.as_slice() {
        [] => None,
        paths => Some(vouched("initrd", paths)?),
    };
    let devicetree = arguments.dtb.as_deref().map(|path| read_bounded(path, MOST_TREE_BYTES)).transpose()?;
    let kernel = KernelImage::from_artifact(kernel, NATIVE)?;
    let line = arguments.cmdline.as_deref().unwrap_or_default();
    let cmdline = kexec::cmdline::compose(line, "", &[], "", kernel.cmdline_limit())?;
    let plan = Plan::new(
        Target { kernel, ramdisk: initrd.map(Into::into), cmdline, devicetree },
        &preflight,
        paths,
        config::Kaslr::default(),
    )?;
    if arguments.action == KexecAction::DryRun {
        return print(&format!("{plan}\n"));
    }
    let loaded = plan.load()?;
    if arguments.action == KexecAction::LoadOnly {
        return Ok(());
    }
    match loaded.exec(Handoff::default())? {}
}

/// Files that the operator names, one behind the other in sealed memory. Each begins at a multiple
/// of 4 bytes, as the kernel wants joined archives: Documentation/driver-api/early-userspace/buffer-format.rst.
fn vouched(name: &'static str, files: &[PathBuf]) -> Result<VerifiedArtifact, Error> {
    let mut joined: Box<dyn Read> = Box::new(io::empty());
    for path in files {
        let unreadable = |error| CommandError::Read { path: path.clone(), error };
        let file = fs::File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let padding = size.next_multiple_of(4).saturating_sub(size);
        joined =
            Box::new(joined.chain(file).chain(io::repeat(0).take(if files.len() > 1 { padding } else { 0 })));
    }
    Ok(operator::vouched(name, &mut joined, MOST_FILE_BYTES)?)
}
