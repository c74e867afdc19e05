//! `phaseboot kexec`: a kernel that is already here.

use log::warn;
use serde_json::{Value, json};

use super::{MOST_TREE_BYTES, json_log, open, print, read_bounded, vouched};
use crate::boot;
use crate::cli::{self, KexecAction, Line};
use crate::config::cmdline::{Parameter, words};
use crate::config::{self, Kaslr};
use crate::error::Error;
use crate::image::Ramdisk;
use crate::kexec::{self, Attempt, Method, Plan, Preflight, Target, Untried, admission};
use crate::paths::Paths;

/// Parameters that tell of the boot that is over: where the boot loader found the files, and what only
/// a crash kernel or a kernel to be returned to is told. `phase.*` goes with them.
const OF_THIS_BOOT: [&str; 5] = ["BOOT_IMAGE", "initrd", "initrdmem", "elfcorehdr", "kexec_jump_back_entry"];

/// Loads, starts, forgets or shows a kernel.
pub(super) fn run(arguments: &cli::Kexec, paths: &Paths) -> Result<(), Error> {
    json_log(arguments.json);
    match arguments.action {
        KexecAction::Unload => return Ok(kexec::unload()?),
        KexecAction::Exec => match kexec::exec_loaded(paths, arguments.handoff)? {},
        KexecAction::Status => return status(arguments.json, paths),
        KexecAction::LoadAndExec | KexecAction::LoadOnly | KexecAction::DryRun => {}
    }
    let is_dry = arguments.action == KexecAction::DryRun;
    let preflight = match kexec::preflight(paths, arguments.method) {
        Err(kexec::Error::NotPermitted { .. }) if is_dry && !kexec::may_boot() => {
            unprivileged(arguments.method, paths)?
        }
        other => other?,
    };
    let target = target(arguments, &preflight, paths)?;
    let about = json!({
        "kernel": target.kernel.size(),
        "initrd": target.ramdisk.as_ref().map(Ramdisk::size),
        "cmdline": target.cmdline,
    });
    let plan = Plan::new(target, &preflight, paths, Kaslr::default())?;
    match arguments.action {
        KexecAction::DryRun if arguments.json => return print(&format!("{}\n", as_json(&plan, about))),
        KexecAction::DryRun => return print(&format!("{plan}\n")),
        _ => {}
    }
    let loaded = plan.load()?;
    if arguments.action == KexecAction::LoadOnly {
        return Ok(());
    }
    match loaded.exec(arguments.handoff)? {}
}

/// For who may not ask: whatever the kernel does not lack.
fn unprivileged(method: Method, paths: &Paths) -> Result<Preflight, kexec::Error> {
    warn!("not root: whether this kernel would load another one is not known");
    kexec::presume(paths, method)
}

/// What the arguments name, with what a unified kernel image brings along: its ramdisks come first, its
/// command line and its device tree count where none is given.
pub(super) fn target(arguments: &cli::Kexec, preflight: &Preflight, paths: &Paths) -> Result<Target, Error> {
    let Some(path) = &arguments.kernel else {
        return Err(cli::Error::Missing { command: "kexec", what: "--kernel FILE" }.into());
    };
    let mut sizes = 0u64;
    for path in &arguments.initrd {
        sizes = sizes.saturating_add(open(path)?.1);
    }
    // Before the files are copied into memory.
    admission::before_download(preflight.calls(), open(path)?.1, sizes, paths)?;
    let archives =
        arguments.initrd.iter().map(|path| vouched("initrd", path, paths)).collect::<Result<Vec<_>, _>>()?;
    let (mut kernel, ramdisk) =
        boot::recognise(vouched("kernel", path, paths)?, archives, preflight.calls(), paths)?;
    let devicetree = match &arguments.dtb {
        Some(path) => Some(read_bounded(path, MOST_TREE_BYTES)?),
        None => boot::brought_tree(&mut kernel, preflight.calls(), paths),
    };
    let given = match &arguments.line {
        Line::Given(line) => line.clone(),
        Line::Reused => reused(&config::kernel_cmdline(paths)?),
        Line::Empty => String::new(),
    };
    let line = kexec::cmdline::base(&given, kernel.cmdline());
    if line.is_empty() && arguments.line == Line::Empty && arguments.append.is_empty() {
        warn!("neither --cmdline nor --reuse-cmdline: the next kernel's command line is empty");
    }
    let cmdline = kexec::cmdline::compose(line, "", &[], &arguments.append, kernel.cmdline_limit())?;
    Ok(Target { kernel, ramdisk, cmdline, devicetree })
}

/// The running kernel's command line without what was meant for its own boot.
fn reused(running: &str) -> String {
    let mut is_for_init = false;
    let kept = words(running).filter(|word| {
        is_for_init |= *word == "--";
        let parameter = Parameter::new(word);
        let is_over =
            parameter.name().starts_with("phase.") || OF_THIS_BOOT.iter().any(|name| parameter.is(name));
        is_for_init || !is_over
    });
    kept.collect::<Vec<_>>().join(" ")
}

/// Says whether a kernel is loaded. That none is, is an error for whoever looks at the exit code alone.
fn status(json: bool, paths: &Paths) -> Result<(), Error> {
    let status = kexec::status(paths)?;
    let text = if json {
        json!({ "loaded": status.kernel, "crash_loaded": status.crash_kernel }).to_string()
    } else {
        let word = |is_loaded| if is_loaded { "loaded" } else { "none" };
        format!("kernel: {}\ncrash kernel: {}", word(status.kernel), word(status.crash_kernel))
    };
    print(&format!("{text}\n"))?;
    if status.kernel { Ok(()) } else { Err(kexec::Error::NothingLoaded.into()) }
}

/// The plan for programs: addresses and sizes in bytes.
fn as_json(plan: &Plan, mut about: Value) -> Value {
    let call = |attempt: &Attempt| match attempt {
        Attempt::FileLoad { cmdline } => {
            json!({ "call": "kexec_file_load", "cmdline": cmdline.to_string_lossy() })
        }
        Attempt::Load(plan) => {
            let segments = plan.segments.iter().map(|segment| {
                json!({
                    "what": segment.content.to_string(),
                    "address": segment.address,
                    "size": segment.size,
                    "file": segment.file,
                })
            });
            json!({ "call": "kexec_load", "entry": plan.entry, "segments": segments.collect::<Vec<_>>() })
        }
    };
    if let Some(fields) = about.as_object_mut() {
        let untried =
            |untried: &Untried| json!({ "call": untried.call.to_string(), "reason": untried.reason });
        fields.insert("calls".to_owned(), plan.attempts().iter().map(call).collect());
        fields.insert("untried".to_owned(), plan.untried().iter().map(untried).collect());
    }
    about
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_line_has_nothing_of_the_boot_that_is_over() {
        for (running, expected) in [
            ("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet\n", "root=/dev/sda1 ro quiet"),
            ("initrd=\\a.img initrd=\\b.img root=UUID=1 crashkernel=256M", "root=UUID=1 crashkernel=256M"),
            ("phase.provider=http://a phase.append=\"x y\" console=ttyS0,115200", "console=ttyS0,115200"),
            ("console=tty0 foo=\"a b\" \"bar=c d\"", "console=tty0 foo=\"a b\" \"bar=c d\""),
            (
                "root=/dev/nfs BOOTIF=01-52-54-00-12-34-56 -- initrd=x single",
                "root=/dev/nfs BOOTIF=01-52-54-00-12-34-56 -- initrd=x single",
            ),
            ("elfcorehdr=0x1000 initrdmem=0x1,2 rd.initrd=3", "rd.initrd=3"),
            ("BOOT-IMAGE=x", ""),
            ("", ""),
            ("\n", ""),
        ] {
            assert_eq!(reused(running), expected, "{running}");
        }
    }
}
