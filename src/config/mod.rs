//! What this boot is asked to do: the kernel command line's `phase.*` parameters, or the arguments
//! of `phaseboot boot`, within what the [`Policy`] allows.

mod cache;
pub mod cmdline;
mod handoff;
pub mod network;
mod policy;
mod proxy;
pub mod tls;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use log::warn;
use serde::Deserialize;

pub use cache::Cache;
pub use handoff::{Handoff, Links, Reset};
pub use policy::{DamagedRecord, Leases, Policy, RollbackRecord};

use crate::error::{Exit, printable};
use crate::log::Format;
use crate::paths::Paths;

/// Every `phase.*` parameter there is.
pub const PARAMETERS: &[&str] = &[
    "phase.append",
    "phase.cache",
    "phase.channel",
    "phase.clientid",
    "phase.debug",
    "phase.kaslr",
    "phase.kexec",
    "phase.links",
    "phase.log",
    "phase.mode",
    "phase.nowrite",
    "phase.onfail",
    "phase.provider",
    "phase.proxy",
    "phase.reset",
    "phase.timeout",
    "phase.watchdog",
];

/// How long one attempt may take, from the first packet to the last verified byte.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// A day: what a longer `phase.timeout` is taken for a mistake.
const MOST_SECONDS: u64 = 86_400;
const MOST_PROVIDERS: usize = 16;
/// A watchdog must outlast what keeps PID 1 busy for a moment, as loading a driver does.
const WATCHDOG_SECONDS: std::ops::RangeInclusive<u32> = 10..=3600;

/// What to do, with every value checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Provider URLs, in order of preference.
    pub providers: Vec<String>,
    pub channel: String,
    pub on_fail: OnFail,
    /// Put after everything else on the next kernel's command line.
    pub append: String,
    pub method: Method,
    pub kaslr: Kaslr,
    /// The budget of one attempt.
    pub timeout: Duration,
    /// Where this machine's state is kept, besides where the policy says.
    pub cache: Option<Cache>,
    /// `phase.nowrite`: see [`Config::may_write`].
    pub nowrite: bool,
    /// `phase.mode=private`: see [`Config::may_write`].
    pub private: bool,
    /// `--record`: a file for the rollback record. The kernel command line cannot name one.
    pub record: Option<PathBuf>,
    /// `--no-expiry`: an expired manifest will do. The kernel command line cannot ask for it.
    pub no_expiry: bool,
    pub log: Format,
    pub debug: bool,
    /// `ip=` and its kin.
    pub network: network::Given,
    /// `phase.proxy`: the proxy for http and https, as an http:// URL.
    pub proxy: Option<String>,
    /// `phase.clientid`: by what DHCP servers know this machine.
    pub client_id: ClientId,
    /// `phase.mode=local`: providers may be looked for by mDNS.
    pub local: bool,
    /// `phase.links`, `phase.reset`
    pub handoff: Handoff,
    /// `phase.watchdog`: after how long without PID 1 a watchdog resets the machine, in seconds.
    pub watchdog: Option<u32>,
}

/// What a DHCPv4 client calls itself in option 61.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientId {
    /// The hardware address: RFC 2132, section 9.14.
    #[default]
    Mac,
    /// As in DHCPv6: RFC 4361.
    Duid,
}

/// What PID 1 does when a boot fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "host", derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum OnFail {
    /// Try again, ever more rarely; reboot if trying again cannot help.
    Retry,
    /// Start a shell from the initramfs; try again when it ends.
    Shell,
    Reboot,
    PowerOff,
}

/// Which system call loads the next kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// kexec_file_load, and kexec_load where the kernel has no kexec_file_load.
    #[default]
    Auto,
    /// Only kexec_file_load.
    File,
    /// Only kexec_load.
    Load,
}

/// Whether the next kernel is handed seeds for its address space layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kaslr {
    /// Fresh ones, where this kernel's generator is ready.
    #[default]
    Seed,
    /// None: the next kernel does not randomise its layout.
    Zero,
}

/// So many bytes tell where on a command line something is.
const WHERE: usize = 40;

/// A parameter or argument that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value outside what the parameter takes.
    #[error("{name}={}: {expected}", printable(value))]
    Value { name: &'static str, value: String, expected: &'static str },
    /// `phase.provider` is missing, and there is nobody else who could name one.
    #[error("no provider: neither phase.provider= on the kernel command line nor --provider is given")]
    NoProvider,
    /// `ip=` and its kin.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The kernel command line cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable { path: String, error: std::io::Error },
    /// The kernel takes any bytes; what is handed on here is text.
    #[error(
        "the running kernel's command line is not UTF-8 from byte {at} on, behind \"{}\"",
        printable(before)
    )]
    NotText { at: usize, before: String },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Value { .. } | Self::NoProvider | Self::Network(_) | Self::NotText { .. } => Exit::Usage,
            Self::Unreadable { .. } => Exit::Internal,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Value { .. } => "correct the parameter where the boot entry sets it",
            Self::Network(_) => {
                "correct it where the boot entry sets it: docs/network.md has what is accepted"
            }
            Self::NoProvider => {
                "add phase.provider=http://HOST/ where the boot entry sets the command line; the network may \
                 only name one where the policy lets the command line do so"
            }
            Self::Unreadable { .. } => "/proc must be mounted",
            Self::NotText { .. } => "say with --cmdline what the next kernel is to be told",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            channel: "stable".to_owned(),
            on_fail: OnFail::Retry,
            append: String::new(),
            method: Method::Auto,
            kaslr: Kaslr::Seed,
            timeout: DEFAULT_TIMEOUT,
            cache: None,
            nowrite: false,
            private: false,
            record: None,
            no_expiry: false,
            log: Format::Text,
            debug: false,
            network: network::Given::default(),
            proxy: None,
            client_id: ClientId::Mac,
            local: false,
            handoff: Handoff::default(),
            watchdog: None,
        }
    }
}

impl Config {
    /// Reads a kernel command line: what it gives of the network, and its `phase.*` parameters, as far as
    /// `policy` lets it set them. A parameter it may not set is reported and passed over; the policy's
    /// own value holds.
    pub fn from_kernel_cmdline(line: &str, policy: &Policy) -> Result<Self, Error> {
        let network = network::Given::parse(line)?;
        for parameter in cmdline::parameters(line).filter(|p| network::is_of_no_use(p.name())) {
            warn!("{} is passed over", printable(parameter.raw()));
        }
        Ok(Self { network, ..Self::without_network(line, policy)? })
    }

    /// The same without a look at what is given of the network: for a command in a system whose
    /// network is used as it is, whoever has set it up and by whichever parameters.
    pub fn without_network(line: &str, policy: &Policy) -> Result<Self, Error> {
        let mut config = Self { on_fail: policy.on_fail, ..Self::default() };
        for parameter in cmdline::parameters(line).filter(|p| p.name().starts_with("phase.")) {
            let Some(&name) = PARAMETERS.iter().find(|known| parameter.is(known)) else {
                warn!("unknown parameter {} is passed over", printable(parameter.raw()));
                continue;
            };
            if policy.may_set(name) {
                config.set(name, parameter.value())?;
            } else {
                warn!("the policy does not let the command line set {name}; it is passed over");
            }
        }
        Ok(config)
    }

    /// How `line` and `policy` want log lines to look, and whether debug lines are shown, even where the rest
    /// of `line` cannot be followed.
    pub fn log(line: &str, policy: &Policy) -> (Format, bool) {
        let mut config = Self::default();
        for name in ["phase.log", "phase.debug"] {
            for parameter in cmdline::parameters(line).filter(|p| p.is(name) && policy.may_set(name)) {
                // The error comes when all of the line is read.
                let _ = config.set(name, parameter.value());
            }
        }
        (config.log, config.debug)
    }

    /// What `line` and `policy` say about failures, even where the rest of `line` cannot be followed.
    pub fn on_fail(line: &str, policy: &Policy) -> OnFail {
        let mut config = Self { on_fail: policy.on_fail, ..Self::default() };
        for parameter in cmdline::parameters(line).filter(|p| p.is("phase.onfail")) {
            if policy.may_set("phase.onfail") && config.set("phase.onfail", parameter.value()).is_err() {
                break;
            }
        }
        config.on_fail
    }

    /// Sets one parameter. The last of several wins, as for the kernel's own.
    pub fn set(&mut self, name: &'static str, value: Option<&str>) -> Result<(), Error> {
        let text = value.unwrap_or_default();
        let wrong = |expected| Error::Value { name, value: text.to_owned(), expected };
        match name {
            "phase.provider" => {
                let urls: Vec<String> =
                    text.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect();
                if urls.len() > MOST_PROVIDERS {
                    return Err(wrong("at most 16 providers can be named"));
                }
                if !urls.iter().all(|url| url.starts_with("http://") || url.starts_with("https://")) {
                    return Err(wrong("each provider must be an http:// or https:// URL"));
                }
                self.providers = urls;
            }
            "phase.channel" => {
                if !is_channel(text) {
                    return Err(wrong(
                        "a channel is 1 to 64 letters, digits, '.', '-' or '_', and starts with no dot",
                    ));
                }
                self.channel = text.to_owned();
            }
            "phase.onfail" => {
                self.on_fail = match text {
                    "retry" => OnFail::Retry,
                    "shell" => OnFail::Shell,
                    "reboot" => OnFail::Reboot,
                    "poweroff" => OnFail::PowerOff,
                    _ => return Err(wrong("expected retry, shell, reboot or poweroff")),
                }
            }
            "phase.append" => self.append = text.to_owned(),
            "phase.kexec" => {
                self.method = text.parse().map_err(|UnknownMethod| wrong("expected auto, file or load"))?;
            }
            "phase.kaslr" => {
                self.kaslr = match text {
                    "seed" => Kaslr::Seed,
                    "zero" => Kaslr::Zero,
                    _ => return Err(wrong("expected seed or zero")),
                }
            }
            "phase.timeout" => {
                let seconds = text.parse().ok().filter(|seconds| (1..=MOST_SECONDS).contains(seconds));
                self.timeout =
                    Duration::from_secs(seconds.ok_or_else(|| wrong("expected 1 to 86400 seconds"))?);
            }
            "phase.log" => {
                self.log = match text {
                    "text" => Format::Text,
                    "json" => Format::Json,
                    _ => return Err(wrong("expected text or json")),
                }
            }
            "phase.debug" => self.debug = !matches!(text, "0" | "false" | "off"),
            "phase.cache" => self.cache = Some(value.unwrap_or("on").parse().map_err(wrong)?),
            "phase.nowrite" => {
                self.nowrite = match value.unwrap_or("true") {
                    "true" | "on" | "1" => true,
                    "false" | "off" | "0" => false,
                    _ => return Err(wrong("expected true or false")),
                }
            }
            // The other modes differ only in the next system.
            "phase.mode" => (self.private, self.local) = (text == "private", text == "local"),
            "phase.links" => {
                self.handoff.links = Links::parse(text).ok_or_else(|| wrong("expected keep or down"))?;
            }
            "phase.reset" => {
                self.handoff.reset = Reset::parse(text).ok_or_else(|| wrong("expected none, pci or xhci"))?;
            }
            "phase.watchdog" => {
                self.watchdog = match text {
                    "off" => None,
                    _ => {
                        let seconds = text.parse().ok().filter(|seconds| WATCHDOG_SECONDS.contains(seconds));
                        Some(seconds.ok_or_else(|| wrong("expected off, or 10 to 3600 seconds"))?)
                    }
                }
            }
            "phase.proxy" => {
                if !proxy::is_proxy(text) {
                    return Err(wrong("expected http://HOST or http://HOST:PORT"));
                }
                self.proxy = Some(text.to_owned());
            }
            "phase.clientid" => {
                self.client_id = match text {
                    "mac" => ClientId::Mac,
                    "duid" => ClientId::Duid,
                    _ => return Err(wrong("expected mac or duid")),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether anything may be written to a disk or into the firmware.
    pub fn may_write(&self) -> bool {
        !self.nowrite && !self.private
    }
}

/// The running kernel's command line, as far as it concerns phaseboot: bytes that are no UTF-8 can only be
/// in values that are not ours.
pub fn kernel_cmdline(paths: &Paths) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&cmdline_bytes(paths)?).into_owned())
}

/// All of the running kernel's command line, fit to be handed on.
pub fn whole_kernel_cmdline(paths: &Paths) -> Result<String, Error> {
    String::from_utf8(cmdline_bytes(paths)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(at.saturating_sub(WHERE)..at).unwrap_or_default();
        Error::NotText { at, before: String::from_utf8_lossy(before).into_owned() }
    })
}

fn cmdline_bytes(paths: &Paths) -> Result<Vec<u8>, Error> {
    let path = paths.kernel_cmdline();
    let mut line = std::fs::read(&path)
        .map_err(|error| Error::Unreadable { path: path.display().to_string(), error })?;
    // /proc ends the line; an open quote would go on over it.
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}

/// `--method` and `phase.kexec` name no method.
#[derive(Debug)]
pub struct UnknownMethod;

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        match name {
            "auto" => Ok(Self::Auto),
            "file" => Ok(Self::File),
            "load" => Ok(Self::Load),
            _ => Err(UnknownMethod),
        }
    }
}

/// Whether `name` can be a channel: it becomes a folder in provider URLs.
pub fn is_channel(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(line: &str) -> Result<Config, Error> {
        Config::from_kernel_cmdline(line, &Policy::default())
    }

    #[test]
    fn a_line_that_is_handed_on_is_taken_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert!(matches!(whole_kernel_cmdline(&paths), Err(Error::Unreadable { .. })));
        std::fs::create_dir(root.path().join("proc")).unwrap();
        for (line, expected) in
            [(&b"a=\xc3\xa9 b=\"c d\n"[..], "a=\u{e9} b=\"c d"), (b"a\n\n", "a\n"), (b"\n", ""), (b"", "")]
        {
            std::fs::write(paths.kernel_cmdline(), line).unwrap();
            assert_eq!(whole_kernel_cmdline(&paths).unwrap(), expected);
            assert_eq!(kernel_cmdline(&paths).unwrap(), expected);
        }
        let mut line = vec![b'x'; 60];
        line.extend(b" name=caf\xe9 y\n");
        std::fs::write(paths.kernel_cmdline(), &line).unwrap();
        let error = whole_kernel_cmdline(&paths).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("from byte 69 on, behind \"xxx") && text.ends_with(" name=caf\""), "{text}");
        assert_eq!(error.exit(), Exit::Usage);
        assert!(kernel_cmdline(&paths).unwrap().contains("name=caf\u{fffd} y"));
    }

    #[test]
    fn the_log_is_as_asked_for_whatever_else_is_wrong() {
        let log = |line: &str, policy: &str| Config::log(line, &Policy::parse(policy).unwrap());
        assert_eq!(log("quiet", "{}"), (Format::Text, false));
        assert_eq!(log("phase.log=json phase.timeout=never phase.debug", "{}"), (Format::Json, true));
        assert_eq!(
            log("phase.log=json phase.debug", r#"{"settable":["phase.debug"]}"#),
            (Format::Text, true)
        );
        assert_eq!(log("phase.log=xml", "{}"), (Format::Text, false));
    }

    #[test]
    fn every_parameter_is_read() {
        let config = config(
            "console=ttyS0 phase.provider=http://a/,https://b phase.channel=testing phase.onfail=shell \
             phase.append=\"x y=1\" phase.kexec=load phase.kaslr=zero phase.timeout=15 phase.log=json phase.debug \
             phase.cache=LABEL=x phase.mode=lab phase.nowrite \
             phase.proxy=http://proxy:3128 phase.clientid=duid ip=eth0:dhcp \
             phase.links=down phase.reset=xhci phase.watchdog=30",
        )
        .unwrap();
        assert_eq!(config.providers, ["http://a/", "https://b"]);
        assert_eq!(config.channel, "testing");
        assert_eq!(config.on_fail, OnFail::Shell);
        assert_eq!(config.append, "x y=1");
        assert_eq!(config.method, Method::Load);
        assert_eq!(config.kaslr, Kaslr::Zero);
        assert_eq!(config.timeout, Duration::from_secs(15));
        assert_eq!(config.log, Format::Json);
        assert!(config.debug);
        assert_eq!(config.cache, Some(Cache::Label("x".to_owned())));
        assert!(config.nowrite && !config.private && !config.local);
        assert_eq!(config.proxy.as_deref(), Some("http://proxy:3128"));
        assert_eq!(config.client_id, ClientId::Duid);
        assert_eq!(config.network.assignments.len(), 1);
        assert_eq!(config.handoff, Handoff { links: Links::Down, reset: Reset::Xhci });
        assert_eq!(config.watchdog, Some(30));
    }

    #[test]
    fn modes() {
        let modes = |line: &str| config(line).map(|config| (config.private, config.local)).unwrap();
        assert_eq!(modes("phase.mode=private"), (true, false));
        assert_eq!(modes("phase.mode=local"), (false, true));
        assert_eq!(modes("phase.mode=internet"), (false, false));
        assert_eq!(modes("phase.mode=local phase.mode=private"), (true, false));
    }

    #[test]
    fn a_broken_network_parameter_is_an_error_whatever_the_policy_says() {
        let policy = Policy::parse(r#"{"settable":[]}"#).unwrap();
        let error = Config::from_kernel_cmdline("phase.proxy=x ip=eth0:dchp", &policy).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().starts_with("ip=eth0:dchp: dchp is no way to get an address"), "{error}");
        let config = Config::from_kernel_cmdline("phase.proxy=x phase.clientid=x ip=dhcp", &policy).unwrap();
        assert_eq!((config.proxy, config.client_id), (None, ClientId::Mac));
        let config =
            Config::without_network("phase.debug team=team0:eth0 ip=ibft", &Policy::default()).unwrap();
        assert!(config.debug && config.network == network::Given::default());
    }

    #[test]
    fn what_may_write() {
        let may_write = |line: &str| config(line).unwrap().may_write();
        assert!(may_write("phase.mode=internet phase.cache=on"));
        assert!(may_write("phase.nowrite phase.nowrite=false"));
        assert!(!may_write("phase.mode=private phase.nowrite=false"));
        assert!(!may_write("phase.nowrite=true phase.mode=local"));
    }

    #[test]
    fn what_only_arguments_can_ask_for() {
        let config = config("phase.record=/x phase.no_expiry --record=/x --no-expiry record=/x").unwrap();
        assert_eq!((config.record, config.no_expiry), (None, false));
    }

    #[test]
    fn the_policy_decides_what_the_command_line_may_set() {
        let policy = Policy::parse(r#"{"settable":["phase.provider"],"on_fail":"reboot"}"#).unwrap();
        let line = "phase.provider=http://a phase.append=init=/bin/sh phase.onfail=shell phase.cache=off";
        let config = Config::from_kernel_cmdline(line, &policy).unwrap();
        assert_eq!(config.providers, ["http://a"]);
        assert_eq!(config.append, "");
        assert_eq!(config.on_fail, OnFail::Reboot);
        assert_eq!(config.cache, None);
    }

    #[test]
    fn values_that_cannot_be_followed_are_named() {
        for line in [
            "phase.provider=ftp://a",
            "phase.provider=http://a,b",
            "phase.channel=../x",
            "phase.channel=",
            "phase.onfail=panic",
            "phase.kexec=both",
            "phase.timeout=0",
            "phase.timeout=99999999999999999999",
            "phase.timeout=-1",
            "phase.timeout",
            "phase.log=xml",
            "phase.kaslr=1",
            "phase.clientid=uuid",
            "phase.proxy=https://proxy",
            "phase.cache=",
            "phase.cache=maybe",
            "phase.cache=/dev/../etc",
            "phase.nowrite=maybe",
            "phase.links=up",
            "phase.reset=usb",
            "phase.watchdog",
            "phase.watchdog=9",
            "phase.watchdog=4294967326",
        ] {
            let error = config(line).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{line}");
            assert!(error.to_string().starts_with(line.split('=').next().unwrap()), "{line}: {error}");
        }
    }

    #[test]
    fn every_parameter_is_explained() {
        let page = include_str!("../../docs/parameters.md");
        for name in PARAMETERS {
            let row = format!("| `{name}");
            assert!(page.lines().any(|line| line.starts_with(&row)), "{name}");
        }
    }

    #[test]
    fn unknown_parameters_are_passed_over() {
        assert!(config("phase.colour=blue phasex=1 phase").is_ok());
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(phase\\.[a-z]{3,8}=?[\\PC]{0,10} ?){0,4}") {
            let _ = config(&line);
        }
    }
}
