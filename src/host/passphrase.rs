//! Passphrases of private keys: from a file, or from the terminal without showing them.

use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::{files, output};

/// No passphrase is longer, in bytes.
const MOST_BYTES: usize = 1024;

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

/// Asks on the terminal.
pub fn ask(question: &str) -> Result<Passphrase> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| {
        anyhow!("cannot ask for the {question}: there is no terminal; give it with --passphrase-file")
    })?;
    let silent = Silent::new(&terminal).context("cannot switch the terminal's echo off")?;
    write!(&terminal, "{question}: ").context("cannot write to the terminal")?;
    let line = first_line(&mut &terminal);
    drop(silent);
    let line = line.context("cannot read from the terminal")?;
    // An arrow, most likely, that was to correct something.
    ensure!(!line.iter().any(u8::is_ascii_control), "the {question} has a control character; type it again");
    Ok(line)
}

/// Asks twice for a new passphrase.
pub fn ask_new() -> Result<Passphrase> {
    let first = ask("new passphrase")?;
    ensure!(!first.is_empty(), "the passphrase is empty; leave --passphrase away for a key without one");
    ensure!(first == ask("the same again")?, "the two passphrases differ; try again");
    Ok(first)
}

/// The terminal that does not show what is typed, and how it was before.
static SILENCED: Mutex<Option<(File, Termios)>> = Mutex::new(None);

fn silenced() -> MutexGuard<'static, Option<(File, Termios)>> {
    SILENCED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A terminal that does not show what is typed, as long as this lives, and not a moment longer if a
/// signal ends the program.
struct Silent;

impl Silent {
    fn new(terminal: &File) -> io::Result<Self> {
        watch_signals()?;
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        silent.local_modes |= LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        // A program that is stopped gives nothing back: Ctrl-Z is for later. 0 is _POSIX_VDISABLE.
        silent.special_codes[SpecialCodeIndex::VSUSP] = 0;
        let mut silenced = silenced();
        *silenced = Some((terminal.try_clone()?, before));
        tcsetattr(terminal, OptionalActions::Drain, &silent)?;
        Ok(Self)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        restore(&mut silenced());
    }
}

fn restore(silenced: &mut Option<(File, Termios)>) {
    if let Some((terminal, before)) = silenced.take() {
        // Nothing can be done for a terminal that went away.
        let _ = tcsetattr(&terminal, OptionalActions::Drain, &before);
    }
}

/// From the first question on, signals that end the program restore the terminal first.
fn watch_signals() -> io::Result<()> {
    static IS_WATCHING: OnceLock<()> = OnceLock::new();
    if IS_WATCHING.get().is_some() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
    let mut signals =
        kinds.into_iter().map(|kind| Ok((kind, signal(kind)?))).collect::<io::Result<Vec<_>>>()?;
    drop(guard);
    std::thread::Builder::new().spawn(move || {
        let kind = runtime.block_on(poll_fn(|context| {
            let came = signals
                .iter_mut()
                .find_map(|(kind, signal)| signal.poll_recv(context).is_ready().then_some(*kind));
            came.map_or(Poll::Pending, Poll::Ready)
        }));
        let mut silenced = silenced();
        if let Some((terminal, _)) = silenced.as_mut() {
            let _ = writeln!(terminal);
        }
        restore(&mut silenced);
        output::note("interrupted");
        // As shells count the signals that end a program.
        std::process::exit(128 + kind.as_raw_value());
    })?;
    // Whoever was quicker watches as well: both do the same.
    let _ = IS_WATCHING.set(());
    Ok(())
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
