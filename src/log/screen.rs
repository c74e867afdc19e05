//! One place where people look: a console, or standard error. Nothing waits long for it.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

/// A console may keep a line waiting this long; after that it is passed over until it takes bytes again.
/// A serial line with flow control and nobody at the other end would stop the boot for ever.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) struct Screen {
    pub(super) file: File,
    pub(super) terminal: bool,
    /// It did not take bytes in time.
    pub(super) stuck: bool,
}

impl Screen {
    pub(super) fn new(file: File) -> Self {
        Self { terminal: file.is_terminal(), file, stuck: false }
    }

    /// Writes without waiting longer than [`PATIENCE`] (files opened with `O_NONBLOCK`). A console that
    /// cannot be written to leaves nobody to tell, so nothing is returned.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        if self.stuck && !self.takes_bytes(Duration::ZERO) {
            return;
        }
        self.stuck = false;
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return,
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.takes_bytes(PATIENCE) {
                        self.stuck = true;
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// How many columns a line may take. A serial console does not say, and has the usual ones.
    pub(super) fn columns(&self) -> usize {
        match tcgetwinsize(&self.file) {
            Ok(size) if size.ws_col > 0 => usize::from(size.ws_col) - 1,
            _ => usize::MAX,
        }
    }

    fn takes_bytes(&self, within: Duration) -> bool {
        let mut descriptors = [PollFd::new(&self.file, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(within.subsec_nanos()) };
        poll(&mut descriptors, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }
}
