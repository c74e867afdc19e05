//! What PID 1 does when a boot attempt failed: try again, open a shell, restart, or power off.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use rustix::process::Pid;
use rustix::system::RebootCommand;

use super::chores::Chores;
use super::{child, console};
use crate::config::OnFail;
use crate::error::Exit;
use crate::paths::Paths;
use crate::sys::process::lead_session;

/// The pause before the second attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the reason stays on the screen before the machine restarts.
const READING_TIME: Duration = Duration::from_secs(30);
/// A shell that ends sooner had nobody in front of it; after so many of them there is no other.
const SHORT_SHELL: Duration = Duration::from_secs(5);
const MOST_SHORT_SHELLS: u32 = 3;
const SHELLS: [&str; 4] = ["/bin/sh", "/bin/bash", "/bin/ash", "/bin/busybox"];

/// What the attempts so far have come to.
#[derive(Debug)]
pub(super) struct FailurePolicy {
    /// Before the next attempt.
    pause: Duration,
    /// How many shells in a row ended at once.
    short_shells: u32,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self { pause: FIRST_PAUSE, short_shells: 0 }
    }
}

impl FailurePolicy {
    /// Acts on a failed attempt. Returns if the boot is to be attempted again.
    pub(super) fn act(&mut self, on_fail: OnFail, exit: Exit, paths: &Paths, chores: &mut Chores) {
        match on_fail {
            OnFail::Retry if exit.may_pass() => {
                pause(self.next_pause(), chores);
            }
            OnFail::Retry => {
                info!("trying again cannot help");
                restart(chores);
            }
            OnFail::Reboot => restart(chores),
            OnFail::PowerOff => {
                info!("powering off");
                end(RebootCommand::PowerOff);
            }
            OnFail::Shell => match shell(paths, chores) {
                Some(lived) if self.may_follow(lived) => pause(self.next_pause(), chores),
                Some(_) => {
                    warn!("the shell ended at once {MOST_SHORT_SHELLS} times");
                    restart(chores);
                }
                None => restart(chores),
            },
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// Whether the boot may be tried again, and another shell started, after one that lived so long.
    fn may_follow(&mut self, lived: Duration) -> bool {
        if lived >= SHORT_SHELL {
            *self = Self::default();
            return true;
        }
        self.short_shells += 1;
        self.short_shells < MOST_SHORT_SHELLS
    }
}

fn pause(pause: Duration, chores: &mut Chores) {
    info!("trying again in {} s", pause.as_secs());
    chores.rest(pause);
}

/// Restarts the machine when there was time to read why.
fn restart(chores: &mut Chores) -> ! {
    info!("restarting in {} s", READING_TIME.as_secs());
    chores.rest(READING_TIME);
    end(RebootCommand::Restart)
}

/// Runs the initramfs's shell on the console until it ends. Returns how long that took, or None if
/// there is no shell.
fn shell(paths: &Paths, chores: &mut Chores) -> Option<Duration> {
    let Some(shell) = SHELLS.iter().find(|shell| Path::new(shell).exists()) else {
        warn!("there is no shell in this initramfs ({})", SHELLS.join(", "));
        return None;
    };
    info!("starting {shell}; the boot is tried again when it ends");
    let mut command = Command::new(shell);
    if *shell == "/bin/busybox" {
        command.arg("sh");
    }
    command.env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin");
    match console::streams(paths) {
        Ok([input, output, errors]) => {
            command.stdin(input).stdout(output).stderr(errors);
        }
        Err(errno) => warn!("the console cannot be opened for the shell: {errno}"),
    }
    lead_session(&mut command);
    let started = Instant::now();
    match command.spawn() {
        Ok(process) => {
            child::wait(Pid::from_child(&process), None, chores);
            let lived = started.elapsed();
            // The end of a session hangs up its terminal for everybody: what was open gives EIO
            // (disassociate_ctty of drivers/tty/tty_jobctrl.c).
            console::take(paths);
            Some(lived)
        }
        Err(error) => {
            warn!("{shell} cannot be started: {error}");
            None
        }
    }
}

/// Restarts or powers off. If even that fails, PID 1 must not end: that would be a panic.
fn end(command: RebootCommand) -> ! {
    crate::patience::sync();
    crate::log::drain();
    if let Err(errno) = rustix::system::reboot(command) {
        error!("the kernel refuses to restart or power off: {errno}");
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute() {
        let mut policy = FailurePolicy::default();
        let pauses: Vec<u64> = (0..9).map(|_| policy.next_pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn shells_that_end_at_once_are_no_shells() {
        let mut policy = FailurePolicy::default();
        let (short, long) = (Duration::from_millis(3), Duration::from_secs(5));
        let follows = [short, short, long, short, short, short].map(|lived| policy.may_follow(lived));
        assert_eq!(follows, [true, true, true, true, true, false]);
    }

    #[test]
    fn a_shell_that_somebody_used_makes_pauses_short_again() {
        let mut policy = FailurePolicy::default();
        policy.next_pause();
        policy.next_pause();
        assert!(policy.may_follow(Duration::from_secs(60)));
        assert_eq!(policy.next_pause(), FIRST_PAUSE);
    }
}
