//! Passphrases of private keys: from a file, or from the terminal without showing them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::files;

/// No passphrase is longer, in bytes.
const MOST_BYTES: usize = 1024;
/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// A passphrase; wiped from memory when it is no longer needed.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// Reads the first line of a file that nobody but its owner can read, or of standard input for `-`.
pub fn from_file(path: &Path) -> Result<Passphrase> {
    let passphrase = if path == Path::new("-") {
        first_line(&mut io::stdin().lock()).context("cannot read the passphrase from standard input")?
    } else {
        let mut file = files::open(path)?;
        private(&file, path, "passphrase file")?;
        first_line(&mut file).with_context(|| format!("cannot read {}", path.display()))?
    };
    ensure!(!passphrase.is_empty(), "the passphrase in {} is empty", path.display());
    Ok(passphrase)
}

/// Refuses a secret file that others than its owner can read.
pub fn private(file: &File, path: &Path, what: &str) -> Result<()> {
    let mode =
        file.metadata().with_context(|| format!("cannot stat {}", path.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        let path = path.display();
        bail!("{what} {path} is open to others (mode {:04o}); chmod 600 {path}", mode & 0o777);
    }
    Ok(())
}

/// Bytes up to the end of the line or of the input. One byte a read, so that nothing behind the line
/// is taken from whoever reads the same input next, and no buffer keeps a copy.
fn first_line(from: &mut impl Read) -> io::Result<Passphrase> {
    // Reserved at once: a vector that grows leaves copies behind.
    let mut line = Passphrase::new(Vec::with_capacity(MOST_BYTES));
    let mut byte = [0];
    loop {
        match from.read(&mut byte) {
            Ok(0) => return Ok(line),
            Ok(_) if byte == *b"\n" => return Ok(line),
            Ok(_) if line.len() == MOST_BYTES => {
                return Err(io::Error::other(format!("the first line has more than {MOST_BYTES} bytes")));
            }
            Ok(_) => line.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A terminal, whose lines also end with [`INTERRUPT`].
struct Typed<'a>(&'a File);

impl Read for Typed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(bytes)?;
        if bytes.get(..count).is_some_and(|bytes| bytes.contains(&INTERRUPT)) {
            return Err(io::Error::other("interrupted"));
        }
        Ok(count)
    }
}

/// Asks on the terminal.
pub fn ask(question: &str) -> Result<Passphrase> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| {
        anyhow!("cannot ask for the {question}: there is no terminal; give it with --passphrase-file")
    })?;
    let silent = Silent::new(&terminal).context("cannot switch the terminal's echo off")?;
    write!(&terminal, "{question}: ").context("cannot write to the terminal")?;
    let line = first_line(&mut Typed(&terminal));
    drop(silent);
    line.inspect_err(|_| drop(writeln!(&terminal))).context("cannot read from the terminal")
}

/// Asks twice for a new passphrase.
pub fn ask_new() -> Result<Passphrase> {
    let first = ask("new passphrase")?;
    ensure!(!first.is_empty(), "the passphrase is empty; leave --passphrase away for a key without one");
    ensure!(first == ask("the same again")?, "the two passphrases differ; try again");
    Ok(first)
}

/// A terminal that does not show what is typed, as long as this lives.
struct Silent<'a> {
    terminal: &'a File,
    before: rustix::termios::Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        // Ctrl-C must not end the program while the echo is off: it ends the line instead.
        silent.local_modes -= LocalModes::ECHO | LocalModes::ISIG;
        silent.local_modes |= LocalModes::ECHONL | LocalModes::ICANON;
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(terminal, OptionalActions::Drain, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that went away.
        let _ = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Where the passphrases of private keys come from.
#[derive(clap::Args, Debug)]
pub struct PassphraseFiles {
    /// File whose first line is the passphrase of an encrypted key, or - for standard input; of
    /// several, each key takes the one that fits [default: ask on the terminal]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Vec<PathBuf>,
}

impl PassphraseFiles {
    /// The passphrases to try, read when first asked for.
    pub fn passphrases(&self) -> Passphrases<'_> {
        Passphrases { files: &self.passphrase_file, read: None }
    }
}

/// See [`PassphraseFiles::passphrases`].
#[derive(Default)]
pub struct Passphrases<'a> {
    files: &'a [PathBuf],
    read: Option<Vec<Passphrase>>,
}

impl fmt::Debug for Passphrases<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passphrases").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Passphrases<'_> {
    /// Those to try for the key in `path`.
    pub fn of(&mut self, path: &Path) -> Result<Vec<Passphrase>> {
        if self.files.is_empty() {
            return Ok(vec![ask(&format!("passphrase of {}", path.display()))?]);
        }
        if self.read.is_none() {
            self.read = Some(self.files.iter().map(|path| from_file(path)).collect::<Result<_>>()?);
        }
        Ok(self.read.clone().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_line_counts() {
        let mut input = &b"open sesame\nrest"[..];
        assert_eq!(*first_line(&mut input).unwrap(), b"open sesame");
        assert_eq!(input, b"rest");
        assert_eq!(*first_line(&mut &b"no end"[..]).unwrap(), b"no end");
        assert_eq!(first_line(&mut &[b'x'; MOST_BYTES][..]).unwrap().len(), MOST_BYTES);
        assert!(first_line(&mut &[b'x'; MOST_BYTES + 1][..]).is_err());
    }
}
