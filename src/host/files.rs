//! Files: read with a limit, written so that nobody ever sees half of one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::output::Progress;
use crate::manifest::keys::hex;

/// Published files and archives are for everybody to read.
const PUBLIC_MODE: u32 = 0o644;
/// Until they are complete they are nobody else's.
const UNFINISHED_MODE: u32 = 0o600;
/// Of files that are being written.
const PREFIX: &str = ".phasectl-";
/// In so many bytes from a file's start a private key in it shows.
const PRIVATE_KEY_WITHIN: u64 = 64 * 1024;

/// Opens a regular file (or a pipe, which has no size) for reading.
pub fn open(path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?;
    ensure!(!metadata.is_dir(), "{} is a directory", path.display());
    Ok(file)
}

/// Reads a file, but not more than `limit` bytes of it.
pub fn read_start(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(limit).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// Reads all of a file that may have at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_from(&open(path)?, path, limit)
}

/// [`read`] of what may be large, with a progress bar.
pub fn read_showing(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?.len();
    is_within(limit, size, path)?;
    let mut bytes = Vec::new();
    copy(&mut file.take(limit.saturating_add(1)), size, "reading", |chunk| {
        bytes.extend_from_slice(chunk);
        Ok(())
    })
    .with_context(|| format!("cannot read {}", path.display()))?;
    within(limit, bytes, path)
}

/// [`read`], from a file that is open already.
pub fn read_from(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>> {
    is_within(limit, file.metadata().map_or(0, |about| about.len()), path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    within(limit, bytes, path)
}

fn within(limit: u64, bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    is_within(limit, u64::try_from(bytes.len()).unwrap_or(u64::MAX), path)?;
    Ok(bytes)
}

fn is_within(limit: u64, size: u64, path: &Path) -> Result<()> {
    ensure!(size <= limit, "{} has more than {limit} bytes", path.display());
    Ok(())
}

/// A new file that takes its name only when it is complete and on the disk.
#[derive(Debug)]
pub struct Pending {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Pending {
    /// Starts a file that will be `path`, under a hidden name in the same folder.
    pub fn new(path: &Path) -> Result<Self> {
        // Its own errors name the temporary file, which nobody asked for.
        let mut cause = None;
        let open = |path: &Path| {
            let opened =
                File::options().read(true).write(true).create_new(true).mode(UNFINISHED_MODE).open(path);
            opened.inspect_err(|error| cause = error.raw_os_error())
        };
        let temporary = tempfile::Builder::new()
            .prefix(PREFIX)
            .make_in(folder(path), open)
            .map_err(|error| cause.map_or(error, io::Error::from_raw_os_error))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { temporary, path: path.to_owned() })
    }

    /// Gives the file its name, in place of what had that name before.
    pub fn commit(self) -> Result<()> {
        let path = self.path;
        spare_private_key(&path)?;
        let file = self.temporary.as_file();
        file.set_permissions(fs::Permissions::from_mode(PUBLIC_MODE))
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.temporary
            .persist(&path)
            .map_err(|refused| refused.error)
            .with_context(|| format!("cannot rename a file to {}", path.display()))?;
        sync_folder(folder(&path))
    }

    /// A file that has all its `bytes` already.
    pub fn whole(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut pending = Self::new(path)?;
        pending.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
        pending.sync(path)?;
        Ok(pending)
    }

    /// The same file, to be `path` in the same folder.
    pub fn named(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Brings what was written to the disk, so that a full one is noticed while nothing has changed.
    pub fn sync(&self, path: &Path) -> Result<()> {
        self.temporary.as_file().sync_all().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes what programs that were killed have left in `folder`.
    pub fn sweep(folder: &Path) -> Result<()> {
        let listed = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in listed.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                let path = entry.path();
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Refuses to replace a private key: a slip in the name of an output must not cost one.
fn spare_private_key(path: &Path) -> Result<()> {
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    let start = Zeroizing::new(read_start(path, PRIVATE_KEY_WITHIN)?);
    let begins = |line: &[u8]| {
        let line = line.trim_ascii_end();
        line.starts_with(b"-----BEGIN ") && line.ends_with(b"PRIVATE KEY-----")
    };
    ensure!(
        !start.split(|&byte| byte == b'\n').any(begins),
        "{} holds a private key, which is never overwritten; choose another name",
        path.display()
    );
    Ok(())
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.as_file_mut().flush()
    }
}

/// Writes `bytes` to `path`, atomically.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Pending::whole(path, bytes)?.commit()
}

/// The size in bytes and the SHA-256 of what was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    pub sha256: [u8; 32],
}

impl Content {
    /// The hash in lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.sha256)
    }
}

/// Copies `from` into `to` and hashes what it copies, in one pass: the hash is that of the bytes
/// that were written, whatever happens to the source meanwhile.
///
/// `size` is what to expect, for the progress bar.
pub fn copy_hashed(from: &mut impl Read, size: u64, to: &mut impl Write, label: &str) -> io::Result<Content> {
    let mut content = Content { size: 0, sha256: [0; 32] };
    let mut hasher = Sha256::new();
    copy(from, size, label, |chunk| {
        hasher.update(chunk);
        content.size = content.size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        to.write_all(chunk)
    })?;
    content.sha256 = hasher.finalize().into();
    Ok(content)
}

/// Gives `to` everything that can be read, piece by piece, with a progress bar.
fn copy(
    from: &mut impl Read,
    size: u64,
    label: &str,
    mut to: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let progress = Progress::new(label, size);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        to(chunk)?;
        progress.add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Size and hash of a file that stays where it is.
pub fn content(path: &Path, label: &str) -> Result<Content> {
    let mut file = open(path)?;
    file.metadata()
        .and_then(|metadata| copy_hashed(&mut file, metadata.len(), &mut io::sink(), label))
        .with_context(|| format!("cannot read {}", path.display()))
}

/// A reader of what `bytes` hold when they are decompressed, whichever of the kernel's usual formats
/// they have; of the bytes themselves if they have none.
pub fn decompress(bytes: &[u8]) -> Result<Box<dyn Read + '_>> {
    Ok(if bytes.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(bytes))
    } else if bytes.starts_with(b"\xfd7zXZ\0") {
        Box::new(lzma_rust2::XzReader::new(bytes, true))
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
        Box::new(decoder.map_err(|error| anyhow::anyhow!("damaged zstd data: {error}"))?)
    } else {
        Box::new(bytes)
    })
}

/// The folder a path lies in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes names that were given in a folder survive a power cut.
pub fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot sync the folder {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_at_the_limit_is_read_and_one_over_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap().len(), 10);
        assert!(read(&path, 9).unwrap_err().to_string().contains("more than 9 bytes"));
        assert!(read(folder.path(), 10).unwrap_err().to_string().ends_with("is a directory"));
    }

    #[test]
    fn a_pending_file_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut pending = Pending::new(&path).unwrap();
        pending.write_all(b"half").unwrap();
        drop(pending);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PUBLIC_MODE);
    }
}
