//! Artifacts of a verified manifest, streamed into memory and hashed on the way.

mod artifact;
pub mod operator;
mod pace;
mod pages;
mod pieces;
mod pull;
mod sources;
mod store;
mod transfer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::io::Errno;

pub use artifact::VerifiedArtifact;

use crate::error::Exit;
use crate::log::{Progress, bytes};
use crate::manifest::{ArtifactSpec, VerifiedManifest};
use crate::meminfo::Meminfo;
use crate::paths::Paths;
use crate::provider::http::Client;
use crate::provider::url;

/// What a machine needs besides the artifacts: page tables, buffers, this program. In bytes.
const HEADROOM: u64 = 16 << 20;

/// Why an artifact is not here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every URL failed, and trying again brought no further byte.
    #[error("{name}: {got} of {size} bytes arrived from {url}: {reason}")]
    NotDelivered { name: &'static str, url: String, got: u64, size: u64, reason: String, hint: &'static str },
    /// Something arrived that is not what was signed.
    #[error("{name} from {url} does not match the manifest: {reason}")]
    Mismatch { name: &'static str, url: String, reason: String },
    /// A URL of the manifest leads nowhere that is followed.
    #[error("{name}: \"{url}\" is no http or https URL, nor relative to one")]
    Url { name: &'static str, url: String },
    /// What is fetched would not fit.
    #[error("what is fetched needs about {} of memory, {} are available", bytes(*.needed), bytes(*.available))]
    Memory { needed: u64, available: u64 },
    /// Memory for an artifact cannot be had or sealed.
    #[error("{name}: memory file: {errno}")]
    MemoryFile { name: &'static str, errno: Errno },
    /// No thread for a transfer.
    #[error("cannot start a thread for {name}: {error}")]
    Thread { name: &'static str, error: std::io::Error },
    /// The other transfer failed first.
    #[error("{name} was given up")]
    Cancelled { name: &'static str },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotDelivered { .. } => Exit::NoProvider,
            Self::Mismatch { .. } => Exit::ArtifactMismatch,
            Self::Url { .. } => Exit::ManifestMalformed,
            Self::Memory { .. } | Self::MemoryFile { errno: Errno::NOMEM | Errno::NOSPC, .. } => {
                Exit::NotEnoughMemory
            }
            Self::MemoryFile { .. } | Self::Thread { .. } | Self::Cancelled { .. } => Exit::Internal,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotDelivered { hint, .. } => hint,
            Self::Mismatch { .. } => "publish again: the file is not the one that was signed",
            Self::Url { .. } => "publish again with a correct URL",
            Self::Memory { .. } | Self::MemoryFile { errno: Errno::NOMEM | Errno::NOSPC, .. } => {
                "give the machine more memory, or publish smaller files"
            }
            Self::MemoryFile { .. } | Self::Thread { .. } | Self::Cancelled { .. } => "",
        }
    }
}

/// What boots: the kernel and its ramdisk.
#[derive(Debug)]
pub struct Artifacts {
    pub kernel: VerifiedArtifact,
    pub initramfs: VerifiedArtifact,
}

/// Fetches kernel and initramfs at the same time. If one fails for good, the other is given up.
pub fn artifacts(manifest: &VerifiedManifest, client: &Client, paths: &Paths) -> Result<Artifacts, Error> {
    let (kernel, initramfs) = (&manifest.manifest().kernel, &manifest.manifest().initramfs);
    check_memory(kernel.size.saturating_add(initramfs.size), paths)?;
    let kernel_urls = urls(kernel, manifest.base())?;
    let initramfs_urls = urls(initramfs, manifest.base())?;

    let progress = Progress::new(&[(kernel.name, kernel.size), (initramfs.name, initramfs.size)]);
    let cancelled = AtomicBool::new(false);
    let transfer = |spec: &ArtifactSpec, urls: &[String], index: usize| {
        let result = transfer::fetch(spec, urls, client, &cancelled, &|done| progress.set(index, done));
        if result.is_err() {
            cancelled.store(true, Ordering::Relaxed);
        }
        result
    };
    let (kernel, initramfs) = thread::scope(|scope| {
        let other = thread::Builder::new()
            .name("initramfs".to_owned())
            .spawn_scoped(scope, || transfer(initramfs, &initramfs_urls, 1))
            .map_err(|error| Error::Thread { name: initramfs.name, error })?;
        let kernel = transfer(kernel, &kernel_urls, 0);
        let initramfs = other.join().unwrap_or(Err(Error::Cancelled { name: initramfs.name }));
        Ok((kernel, initramfs))
    })?;
    let fetched = match (kernel, initramfs) {
        (Ok(kernel), Ok(initramfs)) => Ok(Artifacts { kernel, initramfs }),
        // The one that was given up is not the reason.
        (Err(Error::Cancelled { .. }), Err(error)) | (Err(error), _) | (_, Err(error)) => Err(error),
    };
    leave(fetched.as_ref().err(), manifest, client, paths);
    fetched
}

/// Leaves what was learned for the next attempt. A manifest whose files are not to be had is a fault of
/// its provider, wherever they are.
fn leave(error: Option<&Error>, manifest: &VerifiedManifest, client: &Client, paths: &Paths) {
    if let Some(Error::NotDelivered { .. } | Error::Mismatch { .. }) = error {
        client.mirrors().failed(manifest.base());
    }
    client.mirrors().write(paths);
}

/// Fetches one artifact of a manifest.
pub fn artifact(
    spec: &ArtifactSpec,
    manifest: &VerifiedManifest,
    client: &Client,
    paths: &Paths,
) -> Result<VerifiedArtifact, Error> {
    check_memory(spec.size, paths)?;
    let progress = Progress::new(&[(spec.name, spec.size)]);
    let urls = urls(spec, manifest.base())?;
    let fetched =
        transfer::fetch(spec, &urls, client, &AtomicBool::new(false), &|done| progress.set(0, done));
    leave(fetched.as_ref().err(), manifest, client, paths);
    fetched
}

/// The absolute URLs of an artifact, relative ones resolved against the manifest's own.
fn urls(spec: &ArtifactSpec, manifest: &str) -> Result<Vec<String>, Error> {
    let absolute = |reference: &String| {
        url::resolve(manifest, reference)
            .ok_or_else(|| Error::Url { name: spec.name, url: reference.clone() })
    };
    spec.urls.iter().map(absolute).collect()
}

/// Refuses before the first byte what would end in the kernel's out-of-memory killer. Whoever loads
/// what is fetched needs more, and has asked for that before.
fn check_memory(artifacts: u64, paths: &Paths) -> Result<(), Error> {
    let Some(Meminfo { available, .. }) = Meminfo::read(paths) else { return Ok(()) };
    let needed = artifacts.saturating_add(HEADROOM);
    if needed > available { Err(Error::Memory { needed, available }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_fetched() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/meminfo"), "MemTotal: 262144 kB\nMemAvailable:  102400 kB\n")
            .unwrap();
        let paths = Paths::under(root.path());
        assert!(check_memory(84 << 20, &paths).is_ok());
        let error = check_memory(85 << 20, &paths).unwrap_err();
        assert_eq!(error.exit(), Exit::NotEnoughMemory);
        assert!(check_memory(u64::MAX, &paths).is_err());
        assert!(check_memory(u64::MAX, &Paths::under("/nonexistent")).is_ok());
    }
}
