//! Every console the kernel writes to, opened so that none of them can hold up the boot.

use std::fs::File;

use rustix::fs::{Mode, OFlags};
use rustix::termios::{InputModes, OptionalActions};

use crate::paths::Paths;

/// More consoles than this are not written to.
const MOST: usize = 8;

/// Opens the active consoles, or /dev/console where the kernel does not name them.
pub(super) fn open_all(paths: &Paths) -> Vec<File> {
    let active = std::fs::read_to_string(paths.active_consoles()).unwrap_or_default();
    let named: Vec<File> =
        active.split_whitespace().take(MOST).filter_map(|name| open(paths, name)).collect();
    if named.is_empty() { open(paths, "console").into_iter().collect() } else { named }
}

fn open(paths: &Paths, name: &str) -> Option<File> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let console = rustix::fs::open(paths.device(name), flags, Mode::empty()).ok()?;
    // A stray XOFF from a serial line must not stop the output.
    if let Ok(mut settings) = rustix::termios::tcgetattr(&console) {
        settings.input_modes -= InputModes::IXON;
        let _ = rustix::termios::tcsetattr(&console, OptionalActions::Now, &settings);
    }
    Some(console.into())
}
