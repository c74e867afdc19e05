//! The places of a tree of releases: DIR/keys.json, and in each DIR/CHANNEL/ARCH a manifest, the key
//! list that goes with it, and artifacts under names that never change their content.
//!
//! Whoever changes a place has it for itself: publishers of different places share the tree, a
//! change of the key list has all of it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::document::{Content, Document};
use super::files::{self, Pending};
use super::output;
use crate::arch::Arch;
use crate::error::Exit;
use crate::manifest::keylist::FILE_NAME as KEY_LIST;
use crate::manifest::{ArtifactSpec, Expected, MOST_BYTES, Manifest};
use crate::time::UnixTime;

/// The manifest's name in its folder.
pub const MANIFEST: &str = "manifest.signed.json";

/// The root of a tree, locked.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    _lock: File,
}

impl Tree {
    /// For changes of single places.
    pub fn share(root: &Path) -> Result<Self> {
        Self::open(root, FlockOperation::NonBlockingLockShared)
    }

    /// For changes of the key list, which every place has.
    pub fn own(root: &Path) -> Result<Self> {
        Self::open(root, FlockOperation::NonBlockingLockExclusive)
    }

    fn open(root: &Path, how: FlockOperation) -> Result<Self> {
        Ok(Self { root: root.to_owned(), _lock: lock(root, how)? })
    }

    /// Where the tree's key list is.
    pub fn key_list(&self) -> PathBuf {
        self.root.join(KEY_LIST)
    }

    /// The tree's key list, if there is one.
    pub fn read_key_list(&self) -> Result<Option<Vec<u8>>> {
        let path = self.key_list();
        if is_there(&path)? { files::read(&path, u64::try_from(MOST_BYTES)?).map(Some) } else { Ok(None) }
    }

    /// The folder of a channel and an architecture, made and locked.
    pub fn place(&self, channel: &str, arch: Arch) -> Result<Place> {
        let relative = Path::new(channel).join(arch.name());
        let folder = self.root.join(&relative);
        if arch == Arch::Aarch64 && !folder.exists() && folder.with_file_name("aarch64").is_dir() {
            let folder = folder.display();
            output::note(&format!(
                "{folder} is new: plasmd will no longer list what is in aarch64 beside it"
            ));
        }
        let _lock = lock(&folder, FlockOperation::NonBlockingLockExclusive)?;
        // What a publisher that was killed has left.
        Pending::sweep(&folder)?;
        Ok(Place { folder, relative, channel: channel.to_owned(), arch, _lock })
    }

    /// Every manifest of the tree.
    pub fn manifests(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for channel in folders(&self.root)? {
            for place in folders(&channel)? {
                let path = place.join(MANIFEST);
                if is_there(&path)? {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Tree {
    /// Starts the files that put a key list into the root of the tree and beside every manifest.
    pub fn prepare_key_list(&self, bytes: &[u8]) -> Result<Vec<Pending>> {
        let beside = self.manifests()?.into_iter().map(|path| path.with_file_name(KEY_LIST));
        beside.chain([self.key_list()]).map(|path| Pending::whole(&path, bytes)).collect()
    }
}

/// A folder of the tree, locked. The lock goes with the process; the folder itself is the lock
/// file, so nothing stays behind.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    relative: PathBuf,
    channel: String,
    arch: Arch,
    _lock: File,
}

impl Place {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// CHANNEL/ARCH.
    pub fn relative(&self) -> &Path {
        &self.relative
    }

    /// What machines that look here want of a manifest.
    pub fn expected(&self, now: Option<UnixTime>) -> Expected<'_> {
        Expected { arch: self.arch, channel: &self.channel, now, seen: 0 }
    }

    /// Where its manifest is.
    pub fn manifest(&self) -> PathBuf {
        self.folder.join(MANIFEST)
    }

    /// What was published last.
    pub fn last(&self) -> Result<Option<Last>> {
        let path = self.manifest();
        if !is_there(&path)? {
            return Ok(None);
        }
        if let Ok(document) = Document::read(&path)
            && let Content::Manifest(manifest) = document.content()
        {
            return Ok(Some(Last { version: manifest.manifest_version, document }));
        }
        bail!(
            "cannot tell which version was published last: {} is damaged; move it away and give --manifest-version",
            path.display()
        )
    }

    /// Starts the files that put `manifest` and the tree's key list into their place.
    pub fn prepare(&self, manifest: &[u8], key_list: Option<&[u8]>) -> Result<Vec<Pending>> {
        let mut pending = Vec::new();
        // The list first: a manifest may need the keys that it names.
        for (name, bytes) in key_list.map(|bytes| (KEY_LIST, bytes)).into_iter().chain([(MANIFEST, manifest)])
        {
            pending.push(Pending::whole(&self.folder.join(name), bytes)?);
        }
        Ok(pending)
    }
}

/// What was published last in a place.
#[derive(Debug)]
pub struct Last {
    pub version: u64,
    pub document: Document,
}

impl Last {
    /// Refuses a release that machines would take for a replay, or for this one with other content.
    pub fn permits(&self, version: u64, release: &Value) -> Result<()> {
        let last = self.version;
        ensure!(
            version >= last,
            "manifest version {version} is lower than {last}, which was published before"
        );
        let published = self.document.value();
        let same = ["channel", "arch", "artifacts", "cmdline"]
            .iter()
            .all(|name| published.get(name) == release.get(name));
        ensure!(
            version > last || same,
            "manifest version {version} is published already, with other content; publish a higher one"
        );
        Ok(())
    }
}

/// What became of an artifact's file beside its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Matches,
    /// It is not here: its URLs lead elsewhere.
    Elsewhere,
}

/// An artifact that is not what the manifest says.
#[derive(Debug, thiserror::Error)]
#[error("artifact {name}: {why}")]
pub struct Mismatch {
    name: String,
    why: String,
}

impl Mismatch {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        Exit::ArtifactMismatch
    }
}

/// Holds the artifacts that lie beside a manifest against what it says of them. Those with a URL
/// relative to the manifest must be there.
pub fn check_artifacts(manifest: &Manifest, folder: &Path) -> Result<Vec<(String, Found)>> {
    let dtbs = manifest.dtbs.iter().map(|(name, spec)| (name.as_str(), spec));
    let others = [&manifest.kernel, &manifest.initramfs].into_iter().chain(&manifest.rootfs);
    others
        .map(|spec| (spec.name, spec))
        .chain(dtbs)
        .map(|(name, spec)| Ok((name.to_owned(), check_artifact(name, spec, folder)?)))
        .collect()
}

fn check_artifact(name: &str, spec: &ArtifactSpec, folder: &Path) -> Result<Found> {
    let mismatch = |why: String| Mismatch { name: name.to_owned(), why };
    let mut found = Found::Elsewhere;
    for url in &spec.urls {
        let is_relative = !url.contains("://") && !url.starts_with('/');
        let local = if is_relative { url } else { url.rsplit('/').next().unwrap_or_default() };
        let is_inside = !local.is_empty() && local.split('/').all(|part| !["", ".", ".."].contains(&part));
        let path = folder.join(local);
        if !is_inside || !is_there(&path)? {
            if is_relative {
                return Err(mismatch(format!("{} is missing", path.display())).into());
            }
            continue;
        }
        let content = files::content(&path, name)?;
        if (content.size, content.sha256) != (spec.size, spec.sha256) {
            let (is, wanted) = (output::bytes(content.size), output::bytes(spec.size));
            let why =
                format!("{} ({is}) has not the size ({wanted}) and hash of the manifest", path.display());
            return Err(mismatch(why).into());
        }
        found = Found::Matches;
    }
    Ok(found)
}

/// An artifact that has no name in the tree yet.
#[derive(Debug)]
pub struct Stored {
    /// `kernel`, `initramfs`, `rootfs`, or the name of a device tree.
    pub label: String,
    pub name: String,
    pub content: files::Content,
    /// None if the very file is there already.
    pub pending: Option<Pending>,
}

impl Stored {
    /// Copies an artifact of about `size` bytes into a place, under a name made of its hash and its
    /// kind, which stands last: plasmd takes names that begin with `initramfs`, `vmlinuz` and the like
    /// for artifacts of its own manifest.
    pub fn copy(
        source: &Path,
        from: &mut impl Read,
        size: u64,
        kind: &str,
        label: &str,
        place: &Place,
    ) -> Result<Self> {
        let folder = place.folder();
        let mut pending = Pending::new(&folder.join(kind))?;
        let content = files::copy_hashed(from, size, &mut pending, label)
            .with_context(|| format!("cannot copy {} to {}", source.display(), folder.display()))?;
        ensure!(content.size > 0, "{label} {} is empty", source.display());
        let name = format!("{}.{kind}", content.hex().get(..16).unwrap_or_default());
        let path = folder.join(&name);
        // A file that is there already stays, so that nobody who is fetching it has to start again.
        pending.sync(&path)?;
        let is_present = files::content(&path, label).is_ok_and(|present| present == content);
        let pending = (!is_present).then(|| pending.named(&path));
        Ok(Self { label: label.to_owned(), name, content, pending })
    }

    /// How it is described in JSON.
    pub fn describe(&self) -> Value {
        json!({ "file": self.name, "size": self.content.size, "hash": format!("sha256:{}", self.content.hex()) })
    }
}

/// Makes `folder` and locks it.
pub(super) fn lock(folder: &Path, how: FlockOperation) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    flock(&lock, how)
        .with_context(|| format!("another phasectl publishes into {} at this moment", folder.display()))?;
    Ok(lock)
}

/// Whether a path is there; that one cannot tell is an error.
pub fn is_there(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot stat {}", path.display())),
    }
}

fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let listed = listed.with_context(|| format!("cannot list {}", path.display()))?;
    Ok(listed.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}
