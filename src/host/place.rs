//! The places of a tree of releases: DIR/keys.json, and in each DIR/CHANNEL/ARCH a manifest, the key
//! list that goes with it, and artifacts under names that never change their content.
//!
//! Whoever changes a place has it for itself: publishers of different places share the tree, a
//! change of the key list has all of it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::document::{Content, Document};
use super::files::{self, Pending};
use super::output;
use crate::arch::Arch;
use crate::error::{Exit, printable};
use crate::manifest::keylist::FILE_NAME as KEY_LIST;
use crate::manifest::{ArtifactSpec, Error, Expected, KeyListContent, MOST_BYTES, Manifest};
use crate::time::UnixTime;

/// The manifest's name in its folder.
pub const MANIFEST: &str = "manifest.signed.json";
/// The name of one that nobody signed, made by others.
const UNSIGNED: &str = "manifest.json";
/// How long another phasectl may keep a lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// The root of a tree, locked.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    _lock: Lock,
}

impl Tree {
    /// For changes of single places.
    pub fn share(root: &Path) -> Result<Self> {
        Self::open(root, FlockOperation::NonBlockingLockShared)
    }

    /// For changes of the key list, which every place has.
    pub fn own(root: &Path) -> Result<Self> {
        let tree = Self::open(root, FlockOperation::NonBlockingLockExclusive)?;
        // What a change of the list that was killed has left.
        Pending::sweep(root)?;
        tree.places()?.iter().try_for_each(|place| Pending::sweep(place))?;
        Ok(tree)
    }

    fn open(root: &Path, how: FlockOperation) -> Result<Self> {
        Ok(Self { root: root.to_owned(), _lock: Lock::new(root, how)? })
    }

    /// Where the tree's key list is.
    pub fn key_list(&self) -> PathBuf {
        self.root.join(KEY_LIST)
    }

    /// The tree's key list, if there is one and it is the latest here.
    pub fn read_key_list(&self) -> Result<Option<Vec<u8>>> {
        let path = self.key_list();
        let bytes =
            if is_there(&path)? { Some(files::read(&path, u64::try_from(MOST_BYTES)?)?) } else { None };
        let list = bytes.as_deref().map(|bytes| Listed::parse(bytes, &path)).transpose()?;
        self.is_latest(list.as_ref(), &path)?;
        Ok(bytes)
    }

    /// Refuses `list` of the file `name`, or that there is none, if the tree holds a list that is no
    /// older: whoever put an old one back would have the next one made of it, under a version that
    /// machines have seen and without the revocations in between.
    pub fn is_latest(&self, list: Option<&Listed>, name: &Path) -> Result<()> {
        if let (Some(list), Some(present)) = (list, Listed::read(&self.key_list())?) {
            list.succeeds(name, &present, &self.key_list())?;
        }
        for path in self.places()?.into_iter().map(|place| place.join(KEY_LIST)) {
            match (list, Listed::read(&path)) {
                (_, Ok(None)) => {}
                (Some(list), Ok(Some(other))) => list.covers(name, &other, &path)?,
                (None, Ok(Some(_))) => bail!(
                    "{} is there, but {} is gone; put it back (keys rotate and revoke take it as --last FILE)",
                    path.display(),
                    self.key_list().display()
                ),
                // Machines make nothing of it either.
                (_, Err(error)) => output::note(&format!("passed over: {error:#}")),
            }
        }
        Ok(())
    }

    /// The folder of a channel and an architecture, made and locked.
    pub fn place(&self, channel: &str, arch: Arch) -> Result<Place> {
        let relative = Path::new(channel).join(arch.name());
        let folder = self.root.join(&relative);
        let hides = arch == Arch::Aarch64 && !folder.exists() && folder.with_file_name("aarch64").is_dir();
        let _lock = Lock::new(&folder, FlockOperation::NonBlockingLockExclusive)?;
        // What a publisher that was killed has left.
        Pending::sweep(&folder)?;
        Ok(Place { folder, relative, channel: channel.to_owned(), arch, hides, _lock })
    }

    /// Every folder that can be a place.
    fn places(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for channel in folders(&self.root)? {
            found.append(&mut folders(&channel)?);
        }
        found.sort();
        Ok(found)
    }

    /// Every manifest of the tree.
    pub fn manifests(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for path in self.places()?.into_iter().map(|place| place.join(MANIFEST)) {
            if is_there(&path)? {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Starts the files that put a key list into the root of the tree and beside every manifest. The
    /// root's comes first: were it left behind, the copies would be newer than the list.
    pub fn prepare_key_list(&self, bytes: &[u8]) -> Result<Vec<Pending>> {
        let mut pending = vec![Pending::whole(&self.key_list(), bytes)?];
        for place in self.places()? {
            if is_there(&place.join(MANIFEST))? || is_there(&place.join(UNSIGNED))? {
                pending.push(Pending::whole(&place.join(KEY_LIST), bytes)?);
            }
        }
        Ok(pending)
    }
}

/// A key list as it lies in a file.
#[derive(Debug)]
pub struct Listed {
    pub document: Document,
    pub content: KeyListContent,
}

impl Listed {
    /// Takes the key list of the file `path` apart.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        Self::new(Document::parse_key_list(bytes, &path.display().to_string())?, path)
    }

    /// [`Self::parse`] of a file, if it is there.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        if !is_there(path)? {
            return Ok(None);
        }
        Ok(Some(Self::new(Document::read_key_list(path)?, path)?))
    }

    fn new(document: Document, path: &Path) -> Result<Self, Error> {
        match document.content().clone() {
            Content::Keys(content) => Ok(Self { document, content }),
            Content::Manifest(_) => {
                let (url, reason) = (path.display().to_string(), "it is a manifest, no key list".to_owned());
                Err(Error::KeysMalformed { url, reason })
            }
        }
    }

    /// Refuses this list, of the file `name`, if it is neither `other`, of `path`, nor could come after.
    pub fn succeeds(&self, name: &Path, other: &Self, path: &Path) -> Result<()> {
        let version = self.content.keys_version;
        ensure!(
            version != other.content.keys_version || self.document.digest() == other.document.digest(),
            "{}: key list version {version} is not newer than {}, which has version {version} and says something else",
            name.display(),
            path.display()
        );
        self.covers(name, other, path)
    }

    /// Refuses this list if `other` is newer, or revokes what it does not.
    fn covers(&self, name: &Path, other: &Self, path: &Path) -> Result<()> {
        let (is, was) = (self.content.keys_version, other.content.keys_version);
        let (name, path) = (name.display(), path.display());
        ensure!(is >= was, "{name}: key list version {is} is not newer than {path}, which has version {was}");
        if let Some(key) = other.content.revoked.difference(&self.content.revoked).next() {
            bail!("{name}: key list version {is} does not revoke {key}, which {path}, version {was}, does");
        }
        Ok(())
    }
}

/// A folder of the tree, locked.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    relative: PathBuf,
    channel: String,
    arch: Arch,
    /// Whether it stands before a folder that plasmd has listed so far.
    hides: bool,
    _lock: Lock,
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
            let is_ours = manifest.channel == self.channel && manifest.arch.parse().ok() == Some(self.arch);
            ensure!(
                is_ours,
                "{} is for {}/{}: is the folder a link to that of another channel?",
                path.display(),
                manifest.channel,
                printable(&manifest.arch)
            );
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

    /// Says what became of others by what was put here.
    pub fn announce(&self) {
        if self.hides {
            let folder = self.folder.display();
            output::note(&format!(
                "{folder} is new: plasmd will no longer list what is in aarch64 beside it"
            ));
        }
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

fn is_relative(url: &str) -> bool {
    !url.contains("://") && !url.starts_with('/')
}

/// What the file of a URL is called beside its manifest.
fn local(url: &str) -> &str {
    if is_relative(url) { url } else { url.rsplit('/').next().unwrap_or_default() }
}

fn is_beside(url: &str, folder: &Path) -> Result<bool> {
    let local = local(url);
    let is_inside = !local.is_empty() && local.split('/').all(|part| !["", ".", ".."].contains(&part));
    Ok(is_inside && is_there(&folder.join(local))?)
}

/// The file of an artifact, if it lies beside its manifest.
pub fn find_artifact(spec: &ArtifactSpec, folder: &Path) -> Result<Option<PathBuf>> {
    for url in &spec.urls {
        if is_beside(url, folder)? {
            return Ok(Some(folder.join(local(url))));
        }
    }
    Ok(None)
}

fn check_artifact(name: &str, spec: &ArtifactSpec, folder: &Path) -> Result<Found> {
    let mismatch = |why: String| Mismatch { name: name.to_owned(), why };
    let mut found = Found::Elsewhere;
    for url in &spec.urls {
        let is_relative = is_relative(url);
        let path = folder.join(local(url));
        if !is_beside(url, folder)? {
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

/// A folder that others have to wait for. The lock goes with the process; the folder itself is the
/// lock file, so nothing stays behind: not even the folder, if it was made for this and is empty.
#[derive(Debug)]
pub(super) struct Lock {
    /// Folders that are new, the innermost first.
    made: Vec<PathBuf>,
    _file: File,
}

impl Lock {
    /// Makes `folder` and locks it.
    pub(super) fn new(folder: &Path, how: FlockOperation) -> Result<Self> {
        let made: Vec<PathBuf> = folder
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .map(Path::to_owned)
            .collect();
        let started = Instant::now();
        loop {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
            let file = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
            match flock(&file, how) {
                // Not one that was removed meanwhile.
                Ok(()) if is_same(&file, folder) => return Ok(Self { made, _file: file }),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => ensure!(
                    started.elapsed() < PATIENCE,
                    "another phasectl is at work in {}, for more than {} s",
                    folder.display(),
                    PATIENCE.as_secs()
                ),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}", folder.display()));
                }
            }
            thread::sleep(PATIENCE / 200);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        for path in &self.made {
            // Fails where something was put, as it should.
            if fs::remove_dir(path).is_err() {
                break;
            }
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(id).is_some_and(|is| fs::metadata(path).ok().map(id) == Some(is))
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
