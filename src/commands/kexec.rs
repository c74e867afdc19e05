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
use crate::kexec::{self, Attempt, Method, Plan, Preflight, Target, Untried, admission, cmdline};
use crate::paths::Paths;

/// Parameters that tell of the boot that is over: where the boot loader found the files, and what only
/// a crash kernel or a kernel to be returned to is told. `phase.*` goes with them.
const OF_THIS_BOOT: [&str; 5] = ["BOOT_IMAGE", "initrd", "initrdmem", "elfcorehdr", "kexec_jump_back_entry"];

/// Loads, starts, forgets or shows a kernel.
pub(super) fn run(arguments: &cli::Kexec, paths: &Paths) -> Result<(), Error> {
    json_log(arguments.json);
    match arguments.action {
        KexecAction::Unload => return Ok(kexec::unload(paths)?),
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
    if arguments.action == KexecAction::LoadAndExec {
        kexec::may_start(paths)?;
    }
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
        Line::Reused => reused(&config::whole_kernel_cmdline(paths)?),
        Line::Empty => String::new(),
    };
    let line = cmdline::base(&given, kernel.cmdline());
    if line.is_empty() && arguments.line == Line::Empty && arguments.append.is_empty() {
        warn!("neither --cmdline nor --reuse-cmdline: the next kernel's command line is empty");
    }
    let limit = kernel.cmdline_limit();
    let cmdline = match arguments.line {
        // Nothing stands behind it that an open quote could swallow.
        Line::Reused if arguments.append.is_empty() && !line.contains(char::is_control) => {
            cmdline::within(line.to_owned(), limit)?
        }
        _ => cmdline::compose(line, "", &[], &arguments.append, limit)?,
    };
    Ok(Target { kernel, ramdisk, cmdline, devicetree })
}

/// The running kernel's command line without what was meant for its own boot. An open quote runs to the end
/// of the line, and is closed where that changes nothing.
fn reused(running: &str) -> String {
    let mut is_for_init = false;
    let kept = words(running).filter(|word| {
        is_for_init |= *word == "--";
        let parameter = Parameter::new(word);
        let is_over =
            parameter.name().starts_with("phase.") || OF_THIS_BOOT.iter().any(|name| parameter.is(name));
        is_for_init || !is_over
    });
    let kept: Vec<&str> = kept.collect();
    let line = kept.join(" ");
    match kept.last() {
        Some(last) if cmdline::has_open_quote(&line) && can_be_closed(last) => line + "\"",
        _ => line,
    }
}

/// Whether `last`, in which a quote is open, means the same to the kernel with the quote closed, and lets
/// more follow: next_arg() of lib/cmdline.c takes the quotes around a value or a parameter away, and no others.
fn can_be_closed(last: &str) -> bool {
    let inner = last.strip_prefix('"').unwrap_or(last);
    // A name has at least one byte there, though it be the sign itself.
    let sign = inner.bytes().skip(1).position(|byte| byte == b'=');
    let value = sign.and_then(|at| inner.get(at + 2..)).unwrap_or_default();
    let begins = |text: &str| text.strip_prefix('"').is_some_and(|rest| !rest.ends_with('"'));
    begins(last) || begins(value)
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
        if let Some(preference) = plan.preference() {
            fields.insert("preference".to_owned(), preference.into());
        }
        fields.insert("untried".to_owned(), plan.untried().iter().map(untried).collect());
    }
    about
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parameters and values as next_arg() of lib/cmdline.c takes them apart.
    fn next_args(line: &str) -> Vec<(String, Option<String>)> {
        let mut rest = line.trim_start().as_bytes();
        let mut found = Vec::new();
        while !rest.is_empty() {
            let is_quoted = rest[0] == b'"';
            rest = &rest[usize::from(is_quoted)..];
            let (mut in_quote, mut equals, mut end) = (is_quoted, 0, 0);
            while end < rest.len() && (in_quote || rest[end] != b' ') {
                if equals == 0 && rest[end] == b'=' {
                    equals = end;
                }
                in_quote ^= rest[end] == b'"';
                end += 1;
            }
            let (mut text, after) = rest.split_at(end);
            let mut begin = equals + 1;
            if equals > 0 && text.get(begin) == Some(&b'"') {
                begin += 1;
                if text[end - 1] == b'"' {
                    text = &text[..end - 1];
                }
            }
            if is_quoted && end > 0 && text.len() == end && text[end - 1] == b'"' {
                text = &text[..end - 1];
            }
            let word = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            found.push(match equals {
                0 => (word(text), None),
                _ => (word(&text[..equals]), Some(word(text.get(begin..).unwrap_or_default()))),
            });
            rest = after.trim_ascii_start();
        }
        found
    }

    #[test]
    fn an_open_quote_is_closed_where_that_changes_nothing() {
        for (open, expected) in [
            ("quiet a=\"b c", "quiet a=\"b c\""),
            ("quiet \"a=b c", "quiet \"a=b c\""),
            ("\"", "\"\""),
            ("a=b\"c d", "a=b\"c d"),
            ("=\"==", "=\"=="),
            ("a=\"b\"\"", "a=\"b\"\""),
            ("a=\"b c\" d", "a=\"b c\" d"),
            ("", ""),
        ] {
            assert_eq!(reused(open), expected);
        }
    }

    proptest! {
        #[test]
        fn closing_a_quote_changes_nothing_to_the_kernel(line in "[ ab=\"]{0,16}") {
            let line = words(&line).collect::<Vec<_>>().join(" ");
            let closed = reused(&line);
            prop_assert_eq!(next_args(&line), next_args(&closed));
            if closed != line {
                let mut more = next_args(&line);
                more.push(("z".to_owned(), None));
                prop_assert_eq!(next_args(&format!("{closed} z")), more);
            }
        }
    }

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
            ("a=\"b c initrd=x", "a=\"b c initrd=x\""),
            ("BOOT-IMAGE=x", ""),
            ("", ""),
            ("\n", ""),
        ] {
            assert_eq!(reused(running), expected, "{running}");
        }
    }
}
