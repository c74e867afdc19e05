//! A record in a file: there whole or not at all, whenever the power fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The content, as far as one byte beyond `most`; None if there is no such file.
pub(super) fn read(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    // Opening a FIFO would otherwise wait for somebody to write to it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Replaces the file, and returns when the disk has it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // A part that is there is from a write that was broken off; create_new follows no link.
    let _ = fs::remove_file(&part);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
        return written;
    }
    File::open(folder(path))?.sync_all()
}

/// The folder that `path` lies in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_was_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("seen.json");
        assert_eq!(read(&path, 9).unwrap(), None);
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(read(&path, 9).unwrap().unwrap(), b"second");
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"seco");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "no part is left");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_content() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("seen.json");
        write(&path, b"old").unwrap();
        fs::create_dir(root.path().join("seen.json.part")).unwrap();
        assert!(write(&path, b"new").is_err());
        assert_eq!(read(&path, 9).unwrap().unwrap(), b"old");
        assert!(write(Path::new("/nonexistent/seen.json"), b"new").is_err());
        assert!(write(Path::new("/proc/seen.json"), b"new").is_err());
    }

    #[test]
    fn a_part_that_is_a_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (path, other) = (root.path().join("seen.json"), root.path().join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, root.path().join("seen.json.part")).unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"other");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_is_no_file_is_an_error_at_once() {
        let root = tempfile::tempdir().unwrap();
        assert!(read(root.path(), 9).is_err());
        let fifo = root.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        assert!(read(&fifo, 9).is_err());
        assert!(read(Path::new("/dev/zero"), 9).is_err());
    }

    #[test]
    fn a_name_alone_lies_in_this_folder() {
        assert_eq!(folder(Path::new("seen.json")), Path::new("."));
        assert_eq!(folder(Path::new("/a/b")), Path::new("/a"));
    }
}
