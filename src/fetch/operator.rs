//! The one other way to an artifact: a file that the operator of this machine names on the command
//! line of `phaseboot kexec`, and so vouches for.

use std::io::{self, Read, Write};

use rustix::io::Errno;

use super::VerifiedArtifact;
use crate::error::Exit;
use crate::sys::memfd::{self, Sealed};

/// Why a file the operator named cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no memory file to keep it in.
    #[error("create a memory file for {name}: {errno}")]
    Create { name: &'static str, errno: Errno },
    /// The copy stopped.
    #[error("read {name} after {done} bytes: {source}")]
    Copy { name: &'static str, done: u64, source: io::Error },
    /// It goes on after `limit` bytes.
    #[error("{name} is larger than the limit of {limit} bytes")]
    TooLarge { name: &'static str, limit: u64 },
    /// It would fill the memory.
    #[error("{name} has {size} bytes, and there is memory for {available}")]
    NoRoom { name: &'static str, size: u64, available: u64 },
    /// The memory file cannot be sealed.
    #[error("seal {name}: {errno}")]
    Seal { name: &'static str, errno: Errno },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Create { .. } | Self::Seal { .. } => Exit::Internal,
            Self::Copy { .. } | Self::TooLarge { .. } => Exit::Usage,
            Self::NoRoom { .. } => Exit::NotEnoughMemory,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            // Opened again through /proc/self/fd.
            Self::Seal { errno: Errno::NOENT, .. } => "/proc is needed: mount -t proc proc /proc",
            Self::Create { .. } | Self::Seal { .. } => "",
            Self::Copy { .. } => "check the file, and that it fits into memory",
            Self::TooLarge { .. } => "check that this is the right file",
            Self::NoRoom { .. } => "check that this is the right file, or give the machine more memory",
        }
    }
}

/// Copies `source`, at most `limit` bytes, into sealed memory under the artifact's `name`. Nothing
/// is verified: the caller answers for it that the operator chose this file.
pub fn vouched(name: &'static str, source: &mut impl Read, limit: u64) -> Result<VerifiedArtifact, Error> {
    let mut file = memfd::create(name).map_err(|errno| Error::Create { name, errno })?;
    let mut buffer = vec![0; 64 * 1024];
    let mut done = 0u64;
    loop {
        let copy = |source| Error::Copy { name, done, source };
        let read = match source.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(copy)?,
        };
        if read == 0 {
            break;
        }
        if done.saturating_add(read as u64) > limit {
            return Err(Error::TooLarge { name, limit });
        }
        file.write_all(buffer.get(..read).unwrap_or_default()).map_err(copy)?;
        done = done.saturating_add(read as u64);
    }
    let sealed = Sealed::seal(file).map_err(|errno| Error::Seal { name, errno })?;
    Ok(VerifiedArtifact::new(name, sealed, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let bytes = vec![7; 200_000];
        let artifact = vouched("kernel", &mut bytes.as_slice(), 200_000).unwrap();
        assert_eq!(artifact.size(), 200_000);
        assert_eq!(&*artifact.map().unwrap(), bytes.as_slice());
        let error = vouched("kernel", &mut bytes.as_slice(), 199_999).unwrap_err();
        assert_eq!(error.to_string(), "kernel is larger than the limit of 199999 bytes");
    }
}
