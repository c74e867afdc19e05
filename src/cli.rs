//! The command line of `phaseboot`, parsed into plain data. Nothing is touched yet.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::arch::Arch;
use crate::config::{Handoff, Links, Method, Reset};
use crate::error::Exit;
use crate::sys;

/// What `phaseboot --help` prints.
pub const HELP: &str = "\
phaseboot boots the next, verified kernel over the network.

usage:
  phaseboot boot   [--provider URL]... [--channel C] [--append STR] [--method auto|file|load]
                   [--trust DIR] [--record FILE] [--no-expiry] [--load-only] [--dry-run] [--json]
                   find, verify, load and start the next kernel
  phaseboot net    [up [IFACE]] [--json]
                   bring the network up, as ip= and its kin on the kernel command line say, and
                   print the lease
  phaseboot fetch  --out DIR [--provider URL]... [--channel C] [--trust DIR] [--record FILE]
                   [--no-expiry] [--json]
                   the manifest and its artifacts, verified, into DIR
  phaseboot verify MANIFEST [--channel C] [--trust DIR] [--record FILE] [--no-expiry] [--json]
                   whether this machine would trust a manifest
  phaseboot kexec  --kernel K [--initrd I]... [--cmdline C|--reuse-cmdline] [--append STR] [--dtb D]
                   [--method auto|file|load] [--links keep|down] [--reset none|pci|xhci]
                   [--load-only | --dry-run [--json]]
                   load and start a kernel that is already here
  phaseboot kexec  --exec [--links keep|down] [--reset none|pci|xhci] | --unload | --status [--json]
                   start what is loaded, forget it, or say whether something is (0: yes, 24: no)
  phaseboot doctor [--kernel K] [--initrd I]... [--json]
                   whether this machine can start another kernel, and the cure for what is not so
  phaseboot inspect FILE [--json]
                   what a kernel, initramfs, unified image or manifest is
  phaseboot fdt    [--in FILE] [--out FILE] [--print]
                   copy the device tree with the seeds in /chosen zeroed
  phaseboot --help | --version

Without --provider and phase.provider=, the network may name one: DHCP, DNS, or with
phase.mode=local mDNS.

--record FILE holds the highest versions booted: older ones are refused, and boot keeps it up to
date. --no-expiry lets an expired manifest pass.

kexec also takes -l K (--kernel K --load-only), -e, -u, -S, -s, -c and -a as kexec-tools does;
docs/kexec.md compares the two. Several --initrd are joined in their order.

As PID 1, phaseboot does the whole boot, told by phase.* on the kernel command line. Commands
follow it, too; what their arguments say comes first.

exit codes: 0 done, 1 internal, 2 usage, 10 no network, 11 no provider answered,
12 manifest malformed, 13 not signed by a trusted key, 14 expired, rolled back or for another
arch or channel, 15 artifact does not match, 16 kernel image not usable, 20 kexec disabled or not
built in, 21 kexec refused by lockdown or signature policy, 22 not enough memory, 23 load failed,
24 exec failed
";

/// One invocation.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Version,
    Boot(Boot),
    Net { interface: Option<String>, json: bool },
    Fetch { out: PathBuf, source: Source, json: bool },
    Verify { manifest: PathBuf, source: Source, json: bool },
    Kexec(Kexec),
    Fdt { input: Option<PathBuf>, output: Option<PathBuf>, print: bool },
    Inspect { file: PathBuf, json: bool },
    Doctor(Doctor),
}

/// Where a manifest comes from and what it is held against.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub providers: Vec<String>,
    pub channel: Option<String>,
    pub trust: Option<PathBuf>,
    /// The file of the rollback record.
    pub record: Option<PathBuf>,
    /// An expired manifest will do.
    pub no_expiry: bool,
}

/// `phaseboot boot`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Boot {
    pub source: Source,
    pub append: Option<String>,
    pub method: Option<Method>,
    pub load_only: bool,
    pub dry_run: bool,
    pub json: bool,
}

/// `phaseboot kexec`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kexec {
    pub action: KexecAction,
    /// There is one if and only if the action loads or plans one.
    pub kernel: Option<PathBuf>,
    /// Joined in this order.
    pub initrd: Vec<PathBuf>,
    pub line: Line,
    /// Put behind the line.
    pub append: String,
    pub dtb: Option<PathBuf>,
    pub method: Method,
    /// `--links`, `--reset`
    pub handoff: Handoff,
    pub json: bool,
}

/// Where the next kernel's command line comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// From nowhere: it is empty, but for what is appended.
    #[default]
    Empty,
    /// `--cmdline`
    Given(String),
    /// `--reuse-cmdline`: the running kernel's.
    Reused,
}

/// `phaseboot doctor`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Doctor {
    /// Also: would this one fit, and load?
    pub kernel: Option<PathBuf>,
    pub initrd: Vec<PathBuf>,
    pub json: bool,
}

/// What `phaseboot kexec` ends in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KexecAction {
    /// Load the kernel and start it.
    #[default]
    LoadAndExec,
    /// `--load-only`
    LoadOnly,
    /// `--exec`: start what is loaded.
    Exec,
    /// `--unload`: forget what is loaded.
    Unload,
    /// `--status`: say whether something is loaded.
    Status,
    /// `--dry-run`: print the plan.
    DryRun,
}

/// The arguments make no command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Arguments(#[from] lexopt::Error),
    #[error("unknown command \"{0}\"")]
    UnknownCommand(String),
    #[error("{command} needs {what}")]
    Missing { command: &'static str, what: &'static str },
    #[error("{0} cannot be given together")]
    Conflict(&'static str),
    #[error("{0} has no use here: {1}")]
    Useless(&'static str, &'static str),
    #[error("{option} takes {expected}")]
    Value { option: &'static str, expected: &'static str },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Arguments(_)
            | Self::UnknownCommand(_)
            | Self::Missing { .. }
            | Self::Conflict(_)
            | Self::Useless(..)
            | Self::Value { .. } => Exit::Usage,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Arguments(_)
            | Self::UnknownCommand(_)
            | Self::Missing { .. }
            | Self::Conflict(_)
            | Self::Useless(..)
            | Self::Value { .. } => "see phaseboot --help",
        }
    }
}

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let name = match parser.next()? {
        None | Some(Long("help") | Short('h')) => return Ok(Command::Help),
        Some(Long("version") | Short('V')) => return Ok(Command::Version),
        Some(Value(name)) => name.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    match name.as_str() {
        "help" => Ok(Command::Help),
        "boot" => boot(&mut parser),
        "net" => net(&mut parser),
        "fetch" => fetch(&mut parser),
        "verify" => verify(&mut parser),
        "kexec" => kexec(&mut parser),
        "fdt" => fdt(&mut parser),
        "inspect" => inspect(&mut parser),
        "doctor" => doctor(&mut parser),
        _ => Err(Error::UnknownCommand(crate::error::printable(&name))),
    }
}

/// The value of an option that takes one of a few words.
fn word<T>(
    parser: &mut lexopt::Parser,
    option: &'static str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Error> {
    parse(&parser.value()?.string()?).ok_or(Error::Value { option, expected })
}

fn method(parser: &mut lexopt::Parser) -> Result<Method, Error> {
    word(parser, "--method", "auto, file or load", |text| text.parse().ok())
}

impl Source {
    /// Takes `--provider` and what [`take_held_against`](Self::take_held_against) takes; false if the
    /// option is another.
    fn take(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<bool, Error> {
        match option {
            "provider" => self.providers.push(parser.value()?.string()?),
            _ => return self.take_held_against(option, parser),
        }
        Ok(true)
    }

    /// Takes `--channel`, `--trust`, `--record` and `--no-expiry`; false if the option is another.
    fn take_held_against(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<bool, Error> {
        match option {
            "channel" => self.channel = Some(parser.value()?.string()?),
            "trust" => self.trust = Some(parser.value()?.into()),
            "record" => self.record = Some(parser.value()?.into()),
            "no-expiry" => self.no_expiry = true,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn boot(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let mut boot = Boot::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("append") => boot.append = Some(parser.value()?.string()?),
            Long("method") => boot.method = Some(method(parser)?),
            Long("load-only") => boot.load_only = true,
            Long("dry-run") => boot.dry_run = true,
            Long("json") => boot.json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Long(option) => {
                let option = option.to_owned();
                if !boot.source.take(&option, parser)? {
                    return Err(Long(&option).unexpected().into());
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if boot.load_only && boot.dry_run {
        return Err(Error::Conflict("--load-only and --dry-run"));
    }
    Ok(Command::Boot(boot))
}

fn net(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let (mut words, mut json) = (Vec::new(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(word) if words.len() < 2 => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let mut words = words.into_iter();
    match words.next().as_deref() {
        None | Some("up") => Ok(Command::Net { interface: words.next(), json }),
        Some(other) => Err(Error::UnknownCommand(format!("net {}", crate::error::printable(other)))),
    }
}

fn fetch(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let (mut out, mut source, mut json) = (None, Source::default(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("out") => out = Some(parser.value()?.into()),
            Long("json") => json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Long(option) => {
                let option = option.to_owned();
                if !source.take(&option, parser)? {
                    return Err(Long(&option).unexpected().into());
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let out = out.ok_or(Error::Missing { command: "fetch", what: "--out DIR" })?;
    Ok(Command::Fetch { out, source, json })
}

fn verify(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let (mut manifest, mut source, mut json) = (None, Source::default(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Long(option) => {
                let option = option.to_owned();
                if !source.take_held_against(&option, parser)? {
                    return Err(Long(&option).unexpected().into());
                }
            }
            Value(path) if manifest.is_none() => manifest = Some(path.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    let manifest = manifest.ok_or(Error::Missing { command: "verify", what: "the path of a manifest" })?;
    Ok(Command::Verify { manifest, source, json })
}

fn kexec(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let mut kexec = Kexec::default();
    let (mut action, mut methods, mut is_like_tools) = (None, 0, false);
    // What belongs to a kernel that is to be loaded, and what belongs to the jump.
    let (mut loads, mut jumps) = (false, false);
    while let Some(argument) = parser.next()? {
        let mut chosen = None;
        match argument {
            Long("kernel") => once(&mut kexec.kernel, parser.value()?, "two of --kernel")?,
            // kexec-tools has the kernel's file anywhere behind it.
            Short('l') => (chosen, is_like_tools) = (Some(KexecAction::LoadOnly), true),
            Value(path) if is_like_tools && kexec.kernel.is_none() => kexec.kernel = Some(path.into()),
            Long("initrd") => kexec.initrd.push(parser.value()?.into()),
            Long("cmdline") => given(&mut kexec.line, Line::Given(parser.value()?.string()?))?,
            Long("reuse-cmdline") => given(&mut kexec.line, Line::Reused)?,
            Long("append") => {
                let more = parser.value()?.string()?;
                let space = if kexec.append.is_empty() { "" } else { " " };
                kexec.append = format!("{}{space}{more}", kexec.append);
                loads = true;
            }
            Long("dtb") => once(&mut kexec.dtb, parser.value()?, "two of --dtb")?,
            Long("method") => (kexec.method, methods) = (method(parser)?, methods + 1),
            Short('s') => (kexec.method, methods) = (Method::File, methods + 1),
            Short('c') => (kexec.method, methods) = (Method::Load, methods + 1),
            Short('a') => (kexec.method, methods) = (Method::Auto, methods + 1),
            Long("links") => {
                kexec.handoff.links = word(parser, "--links", "keep or down", Links::parse)?;
                jumps = true;
            }
            Long("reset") => {
                kexec.handoff.reset = word(parser, "--reset", "none, pci or xhci", Reset::parse)?;
                jumps = true;
            }
            Long("load-only") => chosen = Some(KexecAction::LoadOnly),
            Long("exec") | Short('e') => chosen = Some(KexecAction::Exec),
            Long("unload") | Short('u') => chosen = Some(KexecAction::Unload),
            Long("status") | Short('S') => chosen = Some(KexecAction::Status),
            Long("dry-run") => chosen = Some(KexecAction::DryRun),
            Long("json") => kexec.json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
        if chosen.is_some() && action.is_some() {
            return Err(Error::Conflict("two of --load-only (-l), --exec, --unload, --status and --dry-run"));
        }
        action = action.or(chosen);
    }
    kexec.action = action.unwrap_or_default();
    loads |= methods > 0
        || kexec.kernel.is_some()
        || !kexec.initrd.is_empty()
        || kexec.line != Line::Empty
        || kexec.dtb.is_some();
    let is_loading = match kexec.action {
        KexecAction::LoadAndExec | KexecAction::LoadOnly | KexecAction::DryRun => true,
        KexecAction::Exec | KexecAction::Unload | KexecAction::Status => false,
    };
    let is_jumping = match kexec.action {
        KexecAction::LoadAndExec | KexecAction::Exec | KexecAction::DryRun => true,
        KexecAction::LoadOnly | KexecAction::Unload | KexecAction::Status => false,
    };
    let is_shown = matches!(kexec.action, KexecAction::Status | KexecAction::DryRun);
    if loads && !is_loading {
        return Err(Error::Useless(
            "what is to be loaded (--kernel, --initrd, --cmdline, --append, --dtb, --method)",
            "--exec, --unload and --status load nothing",
        ));
    }
    if is_loading && kexec.kernel.is_none() {
        return Err(Error::Missing { command: "kexec", what: "--kernel FILE" });
    }
    if jumps && !is_jumping {
        return Err(Error::Useless("--links or --reset", "no kernel is started; give it with --exec"));
    }
    if kexec.json && !is_shown {
        return Err(Error::Useless("--json", "it goes with --status and --dry-run"));
    }
    if methods > 1 {
        return Err(Error::Conflict("two of --method, -s, -c and -a"));
    }
    if kexec.dtb.is_some() && kexec.method == Method::File {
        return Err(Error::Useless("--dtb", "kexec_file_load takes no device tree"));
    }
    if kexec.dtb.is_some() && !sys::arch::loads(Arch::Aarch64) {
        return Err(Error::Useless("--dtb", "kernels of this architecture take no device tree"));
    }
    Ok(Command::Kexec(kexec))
}

/// A command line is given once.
fn given(line: &mut Line, as_this: Line) -> Result<(), Error> {
    if *line != Line::Empty {
        return Err(Error::Conflict("two of --cmdline and --reuse-cmdline"));
    }
    *line = as_this;
    Ok(())
}

/// Of what is there once, the second is a mistake, not a correction.
fn once(place: &mut Option<PathBuf>, value: OsString, twice: &'static str) -> Result<(), Error> {
    match place.replace(value.into()) {
        None => Ok(()),
        Some(_) => Err(Error::Conflict(twice)),
    }
}

fn fdt(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let (mut input, mut output, mut print) = (None, None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("in") => input = Some(parser.value()?.into()),
            Long("out") => output = Some(parser.value()?.into()),
            Long("print") => print = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    if output.is_none() && !print {
        return Err(Error::Missing { command: "fdt", what: "--out FILE or --print" });
    }
    Ok(Command::Fdt { input, output, print })
}

fn inspect(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let (mut file, mut json) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(path) if file.is_none() => file = Some(path.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    let file = file.ok_or(Error::Missing { command: "inspect", what: "the path of a file" })?;
    Ok(Command::Inspect { file, json })
}

fn doctor(parser: &mut lexopt::Parser) -> Result<Command, Error> {
    let mut doctor = Doctor::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("kernel") => once(&mut doctor.kernel, parser.value()?, "two of --kernel")?,
            Long("initrd") => doctor.initrd.push(parser.value()?.into()),
            Long("json") => doctor.json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    if doctor.kernel.is_none() && !doctor.initrd.is_empty() {
        return Err(Error::Missing { command: "doctor --initrd", what: "--kernel FILE" });
    }
    Ok(Command::Doctor(doctor))
}

#[cfg(test)]
mod tests;
