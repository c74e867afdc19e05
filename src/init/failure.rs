//! What PID 1 does when a boot attempt failed: try again, open a shell, restart, or power off.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use log::{error, info, warn};
use rustix::system::RebootCommand;

use crate::config::OnFail;
use crate::error::Exit;

/// The pause before the second attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the reason stays on the screen before the machine restarts.
const READING_TIME: Duration = Duration::from_secs(30);
const SHELLS: [&str; 4] = ["/bin/sh", "/bin/bash", "/bin/ash", "/bin/busybox"];

/// What the attempts so far have come to.
#[derive(Debug)]
pub(super) struct FailurePolicy {
    /// Before the next attempt.
    pause: Duration,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self { pause: FIRST_PAUSE }
    }
}

impl FailurePolicy {
    /// Acts on a failed attempt. Returns if the boot is to be attempted again.
    pub(super) fn act(&mut self, on_fail: OnFail, exit: Exit) {
        match on_fail {
            OnFail::Retry if exit.may_pass() => {
                info!("trying again in {} s", self.pause.as_secs());
                std::thread::sleep(self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            OnFail::Retry => {
                info!("trying again cannot help");
                restart();
            }
            OnFail::Reboot => restart(),
            OnFail::PowerOff => {
                info!("powering off");
                end(RebootCommand::PowerOff);
            }
            OnFail::Shell => {
                if !shell() {
                    restart();
                }
            }
        }
    }
}

/// Restarts the machine when there was time to read why.
fn restart() -> ! {
    info!("restarting in {} s", READING_TIME.as_secs());
    std::thread::sleep(READING_TIME);
    end(RebootCommand::Restart)
}

/// Runs the initramfs's shell on the console until it ends; false if there is none.
fn shell() -> bool {
    let Some(shell) = SHELLS.iter().find(|shell| Path::new(shell).exists()) else {
        warn!("there is no shell in this initramfs ({})", SHELLS.join(", "));
        return false;
    };
    info!("starting {shell}; the boot is tried again when it ends");
    let mut command = Command::new(shell);
    if *shell == "/bin/busybox" {
        command.arg("sh");
    }
    let status = command.env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").stdin(Stdio::inherit()).status();
    match status {
        Ok(_) => true,
        Err(error) => {
            warn!("{shell} cannot be started: {error}");
            false
        }
    }
}

/// Restarts or powers off. If even that fails, PID 1 must not end: that would be a panic.
fn end(command: RebootCommand) -> ! {
    rustix::fs::sync();
    crate::log::drain();
    if let Err(errno) = rustix::system::reboot(command) {
        error!("the kernel refuses to restart or power off: {errno}");
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
