//! PID 1: mounts, consoles and modules, then the boot in a process of its own, and what happens
//! when that fails.
//!
//! The boot runs in a child because the kernel panics when PID 1 dies: whatever goes wrong there,
//! out of memory included, ends in one line and the failure policy.

mod console;
mod failure;
mod modules;
mod mounts;

use std::fs::{self, OpenOptions};
use std::time::Duration;

use log::{error, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use crate::boot::{self, Ending};
use crate::config::{self, Config, OnFail, Policy};
use crate::error::{Error as StepError, Exit};
use crate::manifest::Trust;
use crate::net::Caller;
use crate::paths::Paths;
use crate::sys::process::{Fork, fork};
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
            Self::Fork(_) | Self::Killed(libc::SIGKILL) => Exit::NotEnoughMemory,
            Self::Killed(_) => Exit::Internal,
            Self::Hung(_) => Exit::LoadFailed,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Fork(_) | Self::Killed(libc::SIGKILL) => {
                "give the machine more memory; the kernel log has the details"
            }
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
    let kmsg = OpenOptions::new().write(true).open(paths.kmsg()).ok();
    crate::log::take_consoles(console::open_all(&paths), kmsg);
    crate::log::keep_records(&paths);
    log::info!("phaseboot {} on Linux {}", env!("CARGO_PKG_VERSION"), release());
    modules::load_all(&paths);

    let mut failures = FailurePolicy::default();
    loop {
        let (on_fail, exit) = match configure(&paths) {
            Ok((config, trust)) => (config.on_fail, attempt(&config, &trust, &paths)),
            Err((on_fail, error)) => {
                error!("{}", error.line());
                // Nothing in an initramfs changes by itself.
                (if on_fail == OnFail::Retry { OnFail::Reboot } else { on_fail }, error.exit())
            }
        };
        failures.act(on_fail, exit);
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
    let policy = Trust::read_policy(&paths.trust())
        .map_err(|error| (Config::on_fail(&line, &Policy::default()), error.into()))?;
    let read = || -> Result<(Config, Trust), StepError> {
        let config = Config::from_kernel_cmdline(&line, &policy)?;
        crate::log::configure(config.log, config.debug);
        Ok((config, Trust::read(&paths.trust())?))
    };
    read().map_err(|error| (Config::on_fail(&line, &policy), error))
}

/// One boot attempt in a child process. Returns how it failed: success does not return.
fn attempt(config: &Config, trust: &Trust, paths: &Paths) -> Exit {
    let child = match fork() {
        Ok(Fork::Child) => {
            // Out of memory, this process goes first, and PID 1 lives to tell.
            let _ = fs::write("/proc/self/oom_score_adj", "1000");
            let exit = match boot::run(config, trust, paths, Caller::Init, Ending::Exec) {
                Ok(_) => Exit::ExecFailed,
                Err(error) => {
                    error!("{}", error.line());
                    error.exit()
                }
            };
            std::process::exit(i32::from(exit.code()));
        }
        Ok(Fork::Parent(child)) => child,
        Err(errno) => return report(Error::Fork(errno)),
    };
    let within = config.timeout + GRACE;
    match wait(child, within) {
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

/// Waits for `child`, at most for `within`, and reaps whatever else ends meanwhile. Linux hands
/// orphans to PID 1.
fn wait(child: Pid, within: Duration) -> Option<WaitStatus> {
    let timeout = Timespec { tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    match rustix::process::pidfd_open(child, PidfdFlags::empty()) {
        Ok(pidfd) => {
            if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) == Ok(0) {
                return None;
            }
        }
        Err(errno) => warn!("the boot cannot be given a time limit: {errno}"),
    }
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Some(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}
