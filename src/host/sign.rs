//! `phasectl sign`: one more signature on a manifest or a key list, made here or by a machine that
//! gives no key away, so that several people can reach a threshold; and the way into the tree.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{ArgGroup, Args};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::json;

use super::document::{self, Content, Document};
use super::files::{self, Pending};
use super::judge::{self, Judge};
use super::options::{Machines, Output};
use super::passphrase::PassphraseFiles;
use super::place::{self, Place, Tree};
use super::signing::{self, Signing};
use super::{inspect, output};
use crate::manifest::keys::hex;
use crate::manifest::{Manifest, Trust, TrustedKey};
use crate::time::UnixTime;

/// A signature file is not larger: base64 of 64 bytes has 88.
const SIGNATURE_LIMIT: u64 = 1024;
/// For others who write into the same folder.
const LOCKED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("action").required(true).multiple(true)
    .args(["key", "detached", "digest_out", "into"]))]
pub struct Arguments {
    /// Manifest or key list; signed in place unless --out or --into is given
    #[arg(value_name = "FILE")]
    document: PathBuf,
    /// Private key to sign with; several make several signatures
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFiles,
    /// Add a signature that was made elsewhere: 64 bytes, or these in hexadecimal or base64
    #[arg(long, value_name = "SIG", requires = "public")]
    detached: Option<PathBuf>,
    /// Public key of the detached signature; further ones count towards --threshold
    #[arg(long, value_name = "PUB")]
    public: Vec<PathBuf>,
    /// Write the 32 bytes that a signature is made over, for a key that is elsewhere
    #[arg(long, value_name = "FILE")]
    digest_out: Option<PathBuf>,
    /// Sign a key list: who signs one decides who signs manifests
    #[arg(long)]
    key_list: bool,
    /// Put the signed document into its place in this tree, if machines would accept it there
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// For --into without --trust: how many of the keys given here must have signed
    #[arg(long, value_name = "N", conflicts_with = "trust", requires = "into")]
    threshold: Option<usize>,
    /// Put a key list into the tree although it makes machines refuse a manifest there
    #[arg(long, requires = "into")]
    force: bool,
    /// Write the signed document here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    machines: Machines,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.document;
    let mut document =
        if arguments.key_list { Document::read_key_list(path)? } else { Document::read(path)? };
    match (document.content(), arguments.key_list) {
        (Content::Keys(_), false) => Err(anyhow!(
            "{} is a key list, and who signs it decides who signs manifests; add --key-list if that is meant",
            path.display()
        )),
        (Content::Manifest(_), true) => Err(anyhow!("{} is a manifest, no key list", path.display())),
        _ => Ok(()),
    }?;
    // Before anybody is asked for a passphrase.
    let described = inspect::describe(&path.display().to_string(), document.value())?;
    let described = format!("{described}\n  digest     {}", hex(&document.digest()));
    if arguments.output.json {
        output::note(&described);
    } else {
        output::line(described)?;
    }
    let public = signing::read_public(&arguments.public)?;
    let mut added = Vec::new();
    let mut known = public.clone();
    if let Some(path) = &arguments.detached {
        added.extend(add_detached(&mut document, path, &public)?);
    }
    for key in Signing::read_all(&arguments.key, arguments.passphrase.passphrases())? {
        if document.sign(&key)? {
            added.push(key.id());
        }
        if known.iter().all(|known| known.fingerprint() != key.id()) {
            known.push(key.trusted()?);
        }
    }
    if let Some(path) = &arguments.digest_out {
        files::write(path, &document.digest())?;
    }
    let mut written = Vec::new();
    if let Some(root) = &arguments.into {
        written = put_live(&document, root, arguments, known)?;
    }
    match &arguments.out {
        Some(out) if !is_same(out, path) => {
            files::write(out, &document.bytes()?)?;
            written.push(out.clone());
        }
        None if !written.is_empty() => {}
        _ if added.is_empty() => {}
        _ => {
            write_in_place(&mut document, path)?;
            written.push(path.clone());
        }
    }
    print(&document, &added, &written, arguments)
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Writes a document in place of the file that it was read from, which others may have signed or
/// published anew in the meantime: somebody may have thought long about a passphrase.
fn write_in_place(document: &mut Document, path: &Path) -> Result<()> {
    // A link stays a link.
    let target = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
    let _lock = lock(files::folder(&target))?;
    ensure!(
        document.unite(&Document::read(&target)?)?,
        "{} changed meanwhile and was left as it is; look at it, then sign again",
        path.display()
    );
    files::write(&target, &document.bytes()?)
}

/// Locks a folder as publishers do. Other signers are soon done.
fn lock(folder: &Path) -> Result<File> {
    let since = Instant::now();
    loop {
        let locked = place::lock(folder, FlockOperation::NonBlockingLockExclusive);
        let is_held = |error: &anyhow::Error| {
            error.downcast_ref::<Errno>().is_some_and(|&why| why == Errno::WOULDBLOCK)
        };
        match locked {
            Err(error) if is_held(&error) && since.elapsed() < LOCKED_WITHIN => {
                std::thread::sleep(Duration::from_millis(20));
            }
            locked => return locked,
        }
    }
}

/// Adds a signature by whichever of `keys` made it.
fn add_detached(document: &mut Document, path: &Path, keys: &[TrustedKey]) -> Result<Option<String>> {
    let bytes = files::read(path, SIGNATURE_LIMIT)?;
    let signature =
        document::parse_signature(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let mut refused = anyhow!("no public key was given");
    for key in keys {
        match document.add(key, &signature) {
            Ok(is_new) => return Ok(is_new.then(|| key.fingerprint())),
            Err(error) => refused = error,
        }
    }
    Err(anyhow!("{}: {refused}", path.display()))
}

/// Puts a document into its place in a tree, where machines would have to accept it.
fn put_live(
    document: &Document,
    root: &Path,
    arguments: &Arguments,
    known: Vec<TrustedKey>,
) -> Result<Vec<PathBuf>> {
    let now = UnixTime::now();
    let trust = match (arguments.machines.trust()?, arguments.threshold) {
        (None, None) => Err(anyhow!("--into needs --trust DIR, or --threshold N of the keys given here")),
        (None, Some(threshold)) => {
            ensure!(
                (1..=known.len()).contains(&threshold),
                "--threshold {threshold}, but {} keys are given (--key, --public)",
                known.len()
            );
            Ok(judge::trusting(threshold, known))
        }
        (Some(trust), _) => Ok(trust),
    }?;
    match document.content() {
        Content::Manifest(_)
            if !arguments.machines.are_known() && Tree::share(root)?.read_key_list()?.is_some() =>
        {
            Err(anyhow!(
                "{} has a key list, which decides whose signatures count: give --trust DIR",
                root.display()
            ))
        }
        Content::Manifest(manifest) => put_manifest(document, manifest, &Tree::share(root)?, trust, now),
        Content::Keys(_) => {
            let tree = Tree::own(root)?;
            let name = arguments.document.display().to_string();
            let judge = Judge::new(trust, None, &tree.key_list());
            judge.keys(&document.bytes()?, &name, Some(now))?;
            let trust = arguments.machines.are_known().then(|| judge.trust());
            judge::fits(&tree, document, trust, now, arguments.force)?;
            let mut document = document.clone();
            if let Some(live) = tree.read_key_list()? {
                document.unite(&Document::parse_key_list(&live, &tree.key_list().display().to_string())?)?;
            }
            tree.prepare_key_list(&document.bytes()?)?.into_iter().try_for_each(Pending::commit)?;
            Ok(vec![tree.key_list()])
        }
    }
}

fn put_manifest(
    document: &Document,
    manifest: &Manifest,
    tree: &Tree,
    trust: Trust,
    now: UnixTime,
) -> Result<Vec<PathBuf>> {
    let arch = manifest.arch.parse()?;
    let place: Place = tree.place(&manifest.channel, arch)?;
    let (path, key_list) = (place.manifest(), tree.read_key_list()?);
    let mut document = document.clone();
    let judge = Judge::new(trust, key_list.clone(), &tree.key_list());
    judge.manifest(&document.bytes()?, &path.display().to_string(), place.expected(Some(now)))?;
    if let Some(last) = place.last()? {
        let (version, last_version) = (manifest.manifest_version, last.version);
        ensure!(
            version > last_version
                || (version == last_version && document.digest() == last.document.digest()),
            "manifest version {version} is not newer than {}, which has version {last_version}",
            path.display()
        );
        // Those who signed what lives there have signed this.
        document.unite(&last.document)?;
    }
    place::check_artifacts(manifest, place.folder())?;
    place.prepare(&document.bytes()?, key_list.as_deref())?.into_iter().try_for_each(Pending::commit)?;
    Ok(vec![path])
}

fn print(document: &Document, added: &[String], written: &[PathBuf], arguments: &Arguments) -> Result<()> {
    let signers = document.claimed_signers();
    if arguments.output.json {
        let kind = if arguments.key_list { "keys" } else { "manifest" };
        return output::json(&json!({
            "kind": kind,
            kind: document.value(),
            "digest": hex(&document.digest()),
            "added": added,
            "keyids": signers,
            "written": written,
        }));
    }
    let asked = !arguments.key.is_empty() || arguments.detached.is_some();
    if asked && added.is_empty() {
        output::line("  every one of these keys had signed it already")?;
    }
    let signers = if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") };
    output::line(format_args!("  signed by  {signers}"))?;
    for path in arguments.digest_out.iter().chain(written) {
        output::line(format_args!("wrote {}", path.display()))?;
    }
    Ok(())
}
