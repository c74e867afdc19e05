//! /etc/phaseboot of an archive: keys, policy and key list, held against what phaseboot itself will
//! say of them on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::archive::{Archive, Node};
use crate::config::{Policy, tls};
use crate::host::files;
use crate::host::policy;
use crate::host::signing;
use crate::manifest::{self, MOST_BYTES, MOST_KEYS, Seen, Trust, keylist};
use crate::time::UnixTime;

const FOLDER: &str = "etc/phaseboot";

/// The files that a machine will trust, under their names in /etc/phaseboot.
#[derive(Debug, Default)]
pub(super) struct TrustFiles {
    files: Vec<(String, Vec<u8>)>,
    /// The ids of all keys.
    pub(super) keys: Vec<String>,
    pub(super) policy: Option<Policy>,
}

impl TrustFiles {
    /// Takes key files as they are, to be keys/NAME.pub.
    pub(super) fn add_keys(&mut self, paths: &[PathBuf]) -> Result<()> {
        let mut ids = BTreeSet::new();
        for (path, file) in paths.iter().zip(signing::read_public_files(paths)?) {
            ids.extend(file.keys.iter().map(|key| key.id().to_owned()));
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| anyhow!("the name of {} is not text", path.display()))?;
            self.files.push((format!("keys/{name}.pub"), file.bytes));
        }
        ensure!(ids.len() <= MOST_KEYS, "{} keys; phaseboot trusts at most {MOST_KEYS}", ids.len());
        self.keys = ids.into_iter().collect();
        Ok(())
    }

    /// Takes a policy as it is, to be policy.json. `are_keys_here` is false if they are added later.
    pub(super) fn add_policy(&mut self, path: &Path, are_keys_here: bool) -> Result<()> {
        let (bytes, policy) = policy::read(path)?;
        let (have, threshold) = (self.keys.len(), policy.root_threshold());
        if are_keys_here && have < threshold && !policy.allow_unsigned {
            let error = manifest::Error::TooFewKeys { have, threshold };
            bail!("policy {}: {error}; {}", path.display(), error.hint());
        }
        self.files.push(("policy.json".to_owned(), bytes));
        self.policy = Some(policy);
        Ok(())
    }

    /// Takes a key list as it is, to be keys.json.
    pub(super) fn add_key_list(&mut self, path: &Path) -> Result<()> {
        let bytes = files::read(path, u64::try_from(MOST_BYTES)?)?;
        self.files.push((keylist::FILE_NAME.to_owned(), bytes));
        Ok(())
    }

    /// Takes authorities for https as they are, to be tls/NAME: those that the policy names, all of
    /// which must be there in the end.
    pub(super) fn add_tls_roots(&mut self, paths: &[PathBuf], archive: &Archive) -> Result<()> {
        let named = self.policy.as_ref().map_or(&[][..], |policy| policy.tls_roots.as_slice());
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| anyhow!("the name of {} is not text", path.display()))?;
            ensure!(named.iter().any(|named| named == name), "the policy's tls_roots do not name {name}");
            self.files.push((format!("tls/{name}"), files::read(path, tls::MOST_BYTES)?));
        }
        let is_here = |name: &str| {
            let name = format!("tls/{name}");
            self.files.iter().any(|(file, _)| *file == name)
                || archive.file(&format!("{FOLDER}/{name}")).is_some()
        };
        if let Some(name) = named.iter().find(|name| !is_here(name)) {
            bail!("the policy's tls_roots name {name}: give it with --tls-root");
        }
        Ok(())
    }

    /// Adds one more file.
    pub(super) fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.push((name.to_owned(), bytes));
    }

    /// Puts the files into the archive.
    pub(super) fn pack(self, archive: &mut Archive) -> Result<()> {
        archive.add(&format!("{FOLDER}/keys"), 0o755, Node::Directory)?;
        for (name, bytes) in self.files {
            archive.add(&format!("{FOLDER}/{name}"), 0o644, Node::File(bytes))?;
        }
        Ok(())
    }
}

/// Lets phaseboot's own code read what the archive makes a machine trust, as on a machine at `built`.
pub(super) fn check(archive: &Archive, built: UnixTime) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    for (name, bytes) in archive.files_below(FOLDER) {
        let path = folder.path().join(name);
        fs::create_dir_all(files::folder(&path))
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let prefix = format!("{}/", folder.path().display());
    let refused = |error: manifest::Error| {
        let (text, hint) = (error.to_string().replace(&prefix, ""), error.hint());
        anyhow!("phaseboot would refuse what it is to trust: {text}; {hint}")
    };
    let trust = Trust::read(folder.path()).map_err(refused)?;
    if folder.path().join(keylist::FILE_NAME).exists() {
        trust.authority(None, keylist::FILE_NAME, &Seen::default(), Some(built)).map_err(refused)?;
    }
    Ok(())
}
