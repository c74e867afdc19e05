//! Every console the kernel writes to, opened so that none of them can hold up the boot; and the one
//! that people type at.

use std::fs::{File, OpenOptions};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{InputModes, OptionalActions};

use crate::paths::Paths;

/// More consoles than this are not written to.
const MOST: usize = 8;

/// Lets the log write to all of them and to the kernel log.
pub(super) fn take(paths: &Paths) {
    let kmsg = OpenOptions::new().write(true).open(paths.kmsg()).ok();
    crate::log::take_consoles(open_all(paths), kmsg);
}

/// Opens the active consoles, or /dev/console where the kernel does not name them.
fn open_all(paths: &Paths) -> Vec<File> {
    let active = std::fs::read_to_string(paths.active_consoles()).unwrap_or_default();
    let named: Vec<File> =
        active.split_whitespace().take(MOST).filter_map(|name| open(paths, name)).collect();
    if named.is_empty() { open(paths, "console").into_iter().collect() } else { named }
}

/// The console that people type at, as standard input, output and error output of a process. The last
/// of the active ones is what /dev/console stands for, which itself cannot be a controlling terminal
/// (show_cons_active and tty_open of drivers/tty).
pub(super) fn streams(paths: &Paths) -> Result<[File; 3], Errno> {
    let active = std::fs::read_to_string(paths.active_consoles()).unwrap_or_default();
    let name = active.split_whitespace().last().unwrap_or("console");
    // Without O_NONBLOCK, opening a serial line can wait for its carrier.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |name| rustix::fs::open(paths.device(name), flags, Mode::empty());
    let console = open(name).or_else(|_| open("console"))?;
    rustix::fs::fcntl_setfl(&console, rustix::fs::fcntl_getfl(&console)? - OFlags::NONBLOCK)?;
    let copy = || rustix::io::fcntl_dupfd_cloexec(&console, 3).map(File::from);
    Ok([copy()?, copy()?, copy()?])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_type_at_the_last_console() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let active = paths.active_consoles();
        std::fs::create_dir_all(active.parent().unwrap()).unwrap();
        std::fs::create_dir_all(paths.device("")).unwrap();
        assert_eq!(streams(&paths).unwrap_err(), Errno::NOENT);
        for name in ["console", "tty0", "ttyS0"] {
            std::fs::write(paths.device(name), name).unwrap();
        }
        let read = || std::io::read_to_string(&streams(&paths).unwrap()[0]).unwrap();
        assert_eq!(read(), "console");
        std::fs::write(&active, "tty0 ttyS0\n").unwrap();
        assert_eq!(read(), "ttyS0");
        std::fs::write(&active, "tty0 hvc0\n").unwrap();
        assert_eq!(read(), "console");
    }
}
