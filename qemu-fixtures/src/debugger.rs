//! The debugger's port of a machine, by which the lab has QEMU forget the code that it has translated.
//!
//! An emulator without KVM keeps the translation of every page that has run, and searches what it has of a page
//! with each write to it: where the next kernel is unpacked over the first one, memory is a hundred times as
//! slow as it was in a cold boot. No hardware does this. After a step for a debugger QEMU drops all of it.
//! Source: gdb's manual, "Remote Protocol"; QEMU's gdbstub, `gdb_vm_state_change`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, bail};

use crate::qmp;

/// Instructions that are stepped through: the first may still be the one that was interrupted.
const STEPS: usize = 3;
/// Of an answer, in bytes: all that are asked for are short.
const LONGEST: usize = 1000;

/// The socket on which QEMU looks for a debugger.
pub(crate) fn socket(name: &str) -> String {
    format!("{name}-debugger")
}

/// The connection to a QEMU that takes this for a debugger.
#[derive(Debug)]
pub(crate) struct Debugger(UnixStream);

impl Debugger {
    /// Waits for QEMU, which has been started with `-S`, and lets the machine run.
    pub(crate) fn begin(listener: &UnixListener) -> Result<Self> {
        let mut debugger = Self(qmp::accept(listener)?);
        debugger.send("?")?;
        debugger.answer()?;
        debugger.send("c")?;
        Ok(debugger)
    }

    /// Stops the machine, has everything forgotten, and lets it run on.
    pub(crate) fn forget_translations(&mut self) -> Result<()> {
        self.0.write_all(b"\x03").context("QEMU takes no interrupt")?;
        self.answer()?;
        for _ in 0..STEPS {
            self.send("s")?;
            self.answer()?;
        }
        self.send("c")
    }

    fn send(&mut self, command: &str) -> Result<()> {
        let sum = command.bytes().fold(0, u8::wrapping_add);
        write!(self.0, "${command}#{sum:02x}").with_context(|| format!("QEMU does not take {command:?}"))
    }

    /// Reads one answer, `$...#xx`, with the acknowledgements before it, and acknowledges it.
    fn answer(&mut self) -> Result<()> {
        let mut said = Vec::new();
        while !matches!(said.as_slice(), [.., b'#', _, _]) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).context("no answer from QEMU's debugger port")?;
            said.extend(byte);
            if said.len() > LONGEST {
                bail!("no end of an answer from QEMU's debugger port");
            }
        }
        self.0.write_all(b"+").context("QEMU takes no acknowledgement")
    }
}
