//! The command line of `phaseboot`, parsed into plain data. Nothing is touched yet.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::config::Method;
use crate::error::Exit;

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
  phaseboot kexec  --kernel K [--initrd I]... [--cmdline C] [--dtb D] [--method auto|file|load]
                   [--load-only|--exec|--unload|--dry-run]
                   load and start a kernel that is already here
  phaseboot fdt    [--in FILE] [--out FILE] [--print]
                   copy the device tree with the seeds in /chosen zeroed
  phaseboot --help | --version

Without --provider and phase.provider=, the network may name one: DHCP, DNS, or with
phase.mode=local mDNS.

--record FILE holds the highest versions booted: older ones are refused, and boot keeps it up to
date. --no-expiry lets an expired manifest pass.

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
    pub kernel: Option<PathBuf>,
    /// Joined in this order.
    pub initrd: Vec<PathBuf>,
    pub cmdline: Option<String>,
    pub dtb: Option<PathBuf>,
    pub method: Method,
    pub action: KexecAction,
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
    #[error("--method takes auto, file or load")]
    Method,
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Arguments(_)
            | Self::UnknownCommand(_)
            | Self::Missing { .. }
            | Self::Conflict(_)
            | Self::Method => Exit::Usage,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Arguments(_)
            | Self::UnknownCommand(_)
            | Self::Missing { .. }
            | Self::Conflict(_)
            | Self::Method => "see phaseboot --help",
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

fn method(parser: &mut lexopt::Parser) -> Result<Method, Error> {
    parser.value()?.string()?.parse().map_err(|_| Error::Method)
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
    let mut actions = 0;
    let mut action = |chosen: KexecAction| {
        actions += 1;
        if actions > 1 {
            return Err(Error::Conflict("--load-only, --exec, --unload and --dry-run"));
        }
        Ok(chosen)
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("kernel") => kexec.kernel = Some(parser.value()?.into()),
            Long("initrd") => kexec.initrd.push(parser.value()?.into()),
            Long("cmdline") => kexec.cmdline = Some(parser.value()?.string()?),
            Long("dtb") => kexec.dtb = Some(parser.value()?.into()),
            Long("method") => kexec.method = method(parser)?,
            Long("load-only") => kexec.action = action(KexecAction::LoadOnly)?,
            Long("exec") => kexec.action = action(KexecAction::Exec)?,
            Long("unload") => kexec.action = action(KexecAction::Unload)?,
            Long("dry-run") => kexec.action = action(KexecAction::DryRun)?,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    let needs_kernel = match kexec.action {
        KexecAction::LoadAndExec | KexecAction::LoadOnly | KexecAction::DryRun => true,
        KexecAction::Exec | KexecAction::Unload => false,
    };
    match (&kexec.kernel, needs_kernel) {
        (None, true) => Err(Error::Missing { command: "kexec", what: "--kernel FILE" }),
        (Some(_), false) => Err(Error::Conflict("--kernel and --exec or --unload")),
        _ => Ok(Command::Kexec(kexec)),
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
            Long("kernel") => doctor.kernel = Some(parser.value()?.into()),
            Long("initrd") => doctor.initrd.push(parser.value()?.into()),
            Long("json") => doctor.json = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Doctor(doctor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn boot_takes_what_the_design_lists() {
        let Command::Boot(boot) = parsed(
            "boot --provider http://a --provider=http://b --channel c --append x --method file --trust /t --load-only --json",
        )
        .unwrap() else {
            panic!("not boot")
        };
        assert_eq!(boot.source.providers, ["http://a", "http://b"]);
        assert_eq!(boot.source.trust, Some("/t".into()));
        assert_eq!(boot.method, Some(Method::File));
        assert!(boot.load_only && boot.json && !boot.dry_run);
        assert_eq!((boot.source.record, boot.source.no_expiry), (None, false));
    }

    #[test]
    fn a_manifest_can_be_held_against_a_record_and_without_its_expiry() {
        for line in ["boot", "fetch --out o", "verify m"] {
            let line = format!("{line} --record r --no-expiry --channel c --trust t");
            let (Command::Boot(Boot { source, .. })
            | Command::Fetch { source, .. }
            | Command::Verify { source, .. }) = parsed(&line).unwrap()
            else {
                panic!("{line}")
            };
            let expected = Source {
                channel: Some("c".to_owned()),
                trust: Some("t".into()),
                record: Some("r".into()),
                no_expiry: true,
                ..Source::default()
            };
            assert_eq!(source, expected, "{line}");
        }
    }

    #[test]
    fn nothing_and_help_show_help() {
        for line in ["", "--help", "-h", "help", "boot --help", "kexec -h"] {
            assert_eq!(parsed(line).unwrap(), Command::Help, "{line}");
        }
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in [
            "bot",
            "--verbose",
            "boot --trust",
            "boot extra",
            "boot --metod auto",
            "boot --method both",
            "boot --load-only --dry-run",
            "fetch",
            "verify",
            "verify a b",
            "verify a --provider http://a",
            "verify a --record",
            "net --no-expiry",
            "kexec --kernel k --record r",
            "kexec",
            "kexec --exec --unload",
            "kexec --kernel k --exec",
            "fdt",
            "net down",
            "net up eth0 eth1",
        ] {
            assert_eq!(parsed(line).unwrap_err().exit(), Exit::Usage, "{line}");
        }
    }

    #[test]
    fn the_other_commands() {
        assert_eq!(
            parsed("net up eth1 --json").unwrap(),
            Command::Net { interface: Some("eth1".to_owned()), json: true }
        );
        assert_eq!(parsed("net").unwrap(), Command::Net { interface: None, json: false });
        let Command::Kexec(kexec) =
            parsed("kexec --kernel k --initrd i --initrd j --dtb d --load-only").unwrap()
        else {
            panic!("not kexec")
        };
        assert_eq!(kexec.action, KexecAction::LoadOnly);
        assert_eq!(kexec.initrd, [PathBuf::from("i"), PathBuf::from("j")]);
        assert_eq!(kexec.dtb, Some("d".into()));
    }
}
