//! PID 1: mounts, consoles and modules, then the boot in a process of its own, and what happens
//! when that fails.
//!
//! The boot runs in a child because the kernel panics when PID 1 dies: whatever goes wrong there,
//! out of memory included, ends in one line and the failure policy.

mod child;
mod chores;
mod console;
mod failure;
mod hotplug;
mod modules;
mod mounts;
mod parameters;
mod watchdog;

use std::fs;
use std::time::{Duration, Instant};

use log::{error, warn};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::time::{ClockId, Timespec};

use crate::boot::{self, Ending};
use crate::config::network::Given;
use crate::config::{self, Config, OnFail};
use crate::error::{Error as StepError, Exit};
use crate::manifest::Trust;
use crate::net::Caller;
use crate::paths::Paths;
use crate::sys::process::{Fork, fork};
use crate::time::UnixTime;
use chores::Chores;
use failure::FailurePolicy;

/// What loading and the handoff may take after everything was fetched.
const GRACE: Duration = Duration::from_secs(120);

/// PID 1 cannot start a boot attempt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start a process for the boot: {0}")]
    Fork(Errno),
    #[error("the boot was killed by signal {0}")]
    Killed(i32),
    #[error("the boot did not end within {} s", .0.as_secs())]
    Hung(Duration),
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Fork(Errno::AGAIN | Errno::NOMEM) | Self::Killed(libc::SIGKILL) => Exit::NotEnoughMemory,
            Self::Fork(_) | Self::Killed(_) => Exit::Internal,
            Self::Hung(_) => Exit::LoadFailed,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Fork(Errno::AGAIN | Errno::NOMEM) | Self::Killed(libc::SIGKILL) => {
                "give the machine more memory; the kernel log has the details"
            }
            Self::Fork(Errno::BUSY) => {
                "PID 1 has no /proc, or more than one thread: report this with the lines above"
            }
            Self::Fork(_) => "the kernel log has the details",
            Self::Killed(_) => "this is a fault of phaseboot: report it with the lines above",
            Self::Hung(_) => "the kernel log has the details",
        }
    }
}

/// Runs as PID 1. It never returns: PID 1 must not end.
pub fn run() -> ! {
    let paths = Paths::default();
    mounts::mount_all();
    prepare_kernel();
    console::take(&paths);
    crate::log::keep_records(&paths);
    boot::configure_log(&paths, &paths.trust(), false);
    log::info!("phaseboot {} on Linux {}", env!("CARGO_PKG_VERSION"), release());
    let mut chores = Chores::start(&paths);

    let mut failures = FailurePolicy::default();
    loop {
        chores.hotplug.load_all();
        mounts::mount_variables();
        let (on_fail, exit) = match configure(&paths) {
            Ok((config, trust)) => {
                chores.hotplug.load_named(&link_modules(&config.network));
                if config.network.takes_names() {
                    chores.hotplug.load_network();
                }
                chores.watchdog.want(config.watchdog);
                (config.on_fail, attempt(&config, &trust, &paths, &mut chores))
            }
            Err((on_fail, error)) => {
                error!("{}", error.line());
                // Nothing in an initramfs changes by itself.
                (if on_fail == OnFail::Retry { OnFail::Reboot } else { on_fail }, error.exit())
            }
        };
        failures.act(on_fail, exit, &paths, &mut chores);
    }
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Settings of the running kernel that keep a machine from being stranded. Each is a convenience:
/// a kernel without it is used as it is.
fn prepare_kernel() {
    // A panic restarts the machine instead of stopping it, unless somebody chose otherwise.
    let panic = "/proc/sys/kernel/panic";
    if fs::read_to_string(panic).is_ok_and(|seconds| seconds.trim() == "0") {
        let _ = fs::write(panic, "30");
    }
    // Otherwise the kernel drops most of what is written to /dev/kmsg.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on");
}

/// Reads the trust folder and the kernel command line. An error comes with what they say about
/// failures, as far as they can be read.
fn configure(paths: &Paths) -> Result<(Config, Trust), (OnFail, StepError)> {
    let line = config::kernel_cmdline(paths).map_err(|error| (OnFail::Retry, error.into()))?;
    // A policy that cannot be read may have forbidden the shell that the command line asks for.
    let policy = Trust::read_policy(&paths.trust()).map_err(|error| (OnFail::Reboot, error.into()))?;
    let read = || -> Result<(Config, Trust), StepError> {
        let config = Config::from_kernel_cmdline(&line, &policy)?;
        crate::log::configure(config.log, config.debug);
        let trust = Trust::read(&paths.trust())?;
        raise_clock(&trust);
        Ok((config, trust))
    };
    read().map_err(|error| (Config::on_fail(&line, &policy), error))
}

/// The modules of the devices that the command line asks for.
fn link_modules(given: &Given) -> Vec<&'static str> {
    let vlan = (!given.vlans.is_empty()).then_some("8021q");
    let bond = (!given.bonds.is_empty()).then_some("bonding");
    vlan.into_iter().chain(bond).collect()
}

/// Sets a clock that is before the build of the initramfs to that: certificates would not be valid
/// yet, and nothing expired.
fn raise_clock(trust: &Trust) {
    let clock = UnixTime::now();
    let Some(floor) = trust.clock_floor().filter(|&floor| clock < floor) else { return };
    let seconds = i64::try_from(floor.0).unwrap_or(i64::MAX);
    match rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: 0 }) {
        Ok(()) => warn!("the clock said {clock}, the initramfs was built at {floor}: set to that"),
        Err(errno) => warn!("the clock says {clock} and cannot be set: {errno}"),
    }
}

/// One boot attempt in a child process, while this one loads the drivers of network cards, and those for
/// devices that appear: what the first card leads to need not wait for the driver of the last.
/// Returns how it failed: success does not return.
fn attempt(config: &Config, trust: &Trust, paths: &Paths, chores: &mut Chores) -> Exit {
    crate::log::flush();
    let drivers = chores.hotplug.watch();
    let child = match fork() {
        Ok(Fork::Child) => {
            chores.hotplug.leave();
            // Out of memory, this process goes first, and PID 1 lives to tell.
            let _ = fs::write("/proc/self/oom_score_adj", "1000");
            let exit = match boot::run(config, trust, paths, Caller::Init, Ending::Exec, drivers) {
                Ok(_) => Exit::ExecFailed,
                Err(error) => {
                    error!("{}", error.line());
                    error.exit()
                }
            };
            crate::log::flush();
            std::process::exit(i32::from(exit.code()));
        }
        Ok(Fork::Parent(child)) => {
            drop(drivers);
            child
        }
        Err(errno) => return report(Error::Fork(errno)),
    };
    let within = config.timeout + GRACE;
    match child::wait(child, Instant::now().checked_add(within), chores) {
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::from_code(code),
            (None, signal) => report(Error::Killed(signal.unwrap_or(0))),
        },
        None => {
            let _ = rustix::process::kill_process(child, Signal::KILL);
            report(Error::Hung(within))
        }
    }
}

fn report(error: Error) -> Exit {
    let error = StepError::from(error);
    error!("{}", error.line());
    error.exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_need_not_be_given() {
        const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let root = tempfile::tempdir().unwrap();
        for (folder, file, text) in
            [("proc", "cmdline", "console=ttyS0 phase.onfail=poweroff"), ("etc/phaseboot/keys", "a.pub", KEY)]
        {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join(file), text).unwrap();
        }
        let (config, _) = configure(&Paths::under(root.path())).unwrap();
        assert_eq!((config.on_fail, config.providers.len()), (OnFail::PowerOff, 0));
    }

    #[test]
    fn a_network_that_cannot_be_followed_is_refused_before_anything_is_set() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        for (line, named) in [("ip=ibft", "ip=ibft"), ("phase.debug team=team0:eth0", "team=team0:eth0")] {
            fs::write(root.path().join("proc/cmdline"), line).unwrap();
            let (_, error) = configure(&Paths::under(root.path())).unwrap_err();
            let text = error.line().to_string();
            assert!(error.exit() == Exit::Usage && text.contains(named), "{text}");
            assert!(!error.exit().may_pass());
        }
    }

    #[test]
    fn a_broken_policy_lets_the_command_line_choose_nothing() {
        let root = tempfile::tempdir().unwrap();
        for (folder, file, text) in [
            ("proc", "cmdline", "phase.provider=http://a phase.onfail=shell"),
            ("etc/phaseboot", "policy.json", "{\"treshold\":2}"),
        ] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join(file), text).unwrap();
        }
        let (on_fail, error) = configure(&Paths::under(root.path())).unwrap_err();
        assert_eq!((on_fail, error.exit()), (OnFail::Reboot, Exit::NotTrusted));
    }

    #[test]
    fn only_a_lack_of_memory_is_called_one() {
        for errno in [Errno::AGAIN, Errno::NOMEM] {
            assert_eq!(Error::Fork(errno).exit(), Exit::NotEnoughMemory);
            assert!(Error::Fork(errno).hint().contains("memory"));
        }
        for errno in [Errno::BUSY, Errno::NOSYS] {
            assert_eq!(Error::Fork(errno).exit(), Exit::Internal);
            assert!(!Error::Fork(errno).hint().contains("memory"));
        }
    }
}
