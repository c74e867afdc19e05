//! `phasectl keys`: key lists, by which the packed keys say which keys may sign manifests, so that
//! a signing key can be replaced or withdrawn without packing initramfs images again.
//!
//! A new list is made of the last one, which must be genuine: signed by the root keys that sign
//! the new one, or accepted under a trust folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Map, Value, json};

use super::document::{self, Document};
use super::files::{self, Pending};
use super::judge::{self, Judge};
use super::options::{self, Machines, Output};
use super::passphrase::PassphraseFiles;
use super::place::{self, Listed, Tree};
use super::signing::{self, Signing};
use super::{inspect, output};
use crate::manifest::keylist::FILE_NAME;
use crate::manifest::keys::{Limits, is_fingerprint};
use crate::manifest::{Trust, TrustedKey};
use crate::time::UnixTime;

/// The version of the key list format.
const FORMAT: &str = "0.1";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key list, or change which keys it names, how many must sign, and until when
    Rotate(Rotate),
    /// Withdraw keys: they count for nothing from then on, even where they are packed
    Revoke(Revoke),
    /// Say what a key list says
    Show(Show),
}

#[derive(Args, Debug)]
pub struct Rotate {
    /// Key to leave out, by its id, its fingerprint or its file; it may be named again later
    #[arg(long, value_name = "ID|PUB")]
    drop: Vec<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Args, Debug)]
pub struct Revoke {
    /// Key to revoke, by its id, its fingerprint or its file
    #[arg(value_name = "ID|PUB", required = true)]
    revoke: Vec<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("where").required(true).args(["into", "file"]))]
struct Change {
    /// Private half of a packed key, to sign the list with; several make several signatures
    #[arg(long, value_name = "FILE", required_unless_present = "draft")]
    root: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFiles,
    /// Public key that may sign manifests from now on, with the limits that its file gives it; one
    /// that is named already gets these limits
    #[arg(long, value_name = "PUB")]
    add: Vec<PathBuf>,
    /// How many of the keys must sign a manifest [default: as before, at first 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    threshold: Option<u64>,
    /// How long the list is valid: a number of minutes, hours, days or weeks (90m, 12h, 30d, 4w)
    /// [default: as long as before, at first for ever]
    #[arg(long, value_name = "TIME", value_parser = options::duration)]
    expires: Option<Duration>,
    /// Tree whose list is changed: DIR/keys.json, and beside every manifest
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// List to change
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The list that was made last, as you have kept it: the one that is changed must be that or an
    /// older one, which somebody may have put back
    #[arg(long, value_name = "FILE")]
    last: Option<PathBuf>,
    /// Leave the list as it is and put the new one into this file, for others to sign before
    /// `phasectl sign --key-list --into` makes it live
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,
    /// Make the list live although machines will refuse a manifest in the tree under it, a root has
    /// not signed it that signed the last one, or nothing tells of a key that is revoked
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    machines: Machines,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
pub struct Show {
    /// A key list, or the tree that has one
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    #[command(flatten)]
    output: Output,
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Rotate(Rotate { drop, change }) => change_list(change, |list, _, _| {
            drop.iter().try_for_each(|name| {
                let fingerprint = list.resolve(name)?;
                ensure!(list.remove(&fingerprint), "--drop {name}: the key list does not name it");
                Ok(())
            })
        }),
        Command::Revoke(Revoke { revoke, change }) => change_list(change, |list, roots, trust| {
            for name in revoke {
                let fingerprint = list.resolve(name)?;
                ensure!(
                    change.force || !is_fingerprint(name) || list.knows(name, trust),
                    "{name} is no key in the list{}; give its file, or --force",
                    if trust.is_some() {
                        " and none that is packed"
                    } else {
                        ", nor is one known from --trust"
                    }
                );
                ensure!(
                    roots.iter().all(|root| root.id() != fingerprint),
                    "{name} signs this list; a key cannot vouch for the list that revokes it"
                );
                list.remove(&fingerprint);
                list.revoked.insert(fingerprint);
            }
            Ok(())
        }),
        Command::Show(Show { path, output }) => {
            let path = if path.is_dir() { path.join(FILE_NAME) } else { path.clone() };
            let bytes = document::read_bytes(&path)?;
            Listed::parse(&bytes, &path)?;
            inspect::document(&path, &bytes, output.json)
        }
    }
}

/// A list that is being made.
struct List {
    keys_version: u64,
    threshold: u64,
    expires: Option<Duration>,
    keys: Vec<TrustedKey>,
    revoked: BTreeSet<String>,
}

impl List {
    /// The list after `last`, or the first one.
    fn after(last: Option<&Listed>) -> Result<Self> {
        let Some(Listed { document, content: last }) = last else {
            return Ok(Self {
                keys_version: 1,
                threshold: 1,
                expires: None,
                keys: Vec::new(),
                revoked: BTreeSet::new(),
            });
        };
        let created = document.value().get("created_at").and_then(Value::as_str);
        let lifetime = || {
            let end = last.expires_at?;
            Some(Duration::from_secs(end.0.saturating_sub(UnixTime::parse_rfc3339(created?)?.0)))
        };
        let keys_version = last.keys_version.checked_add(1);
        Ok(Self {
            keys_version: keys_version
                .ok_or_else(|| anyhow!("the key list's version leaves no higher one"))?,
            threshold: u64::try_from(last.threshold)?,
            expires: lifetime(),
            keys: last.keys.clone(),
            revoked: last.revoked.clone(),
        })
    }

    /// The fingerprint of a key that people name by its id, its fingerprint or its file.
    fn resolve(&self, name: &str) -> Result<String> {
        if let Some(key) = self.keys.iter().find(|key| key.id() == name) {
            return Ok(key.fingerprint());
        }
        if is_fingerprint(name) {
            return Ok(name.to_owned());
        }
        let path = Path::new(name);
        ensure!(
            place::is_there(path)?,
            "{name} is no id in the key list, no fingerprint (16 hexadecimal digits) and no file"
        );
        match signing::read_public(&[path.to_owned()])?.as_slice() {
            [key] => Ok(key.fingerprint()),
            keys => bail!("{name} holds {} keys; name one of them", keys.len()),
        }
    }

    /// Whether a fingerprint is that of a key in the list, revoked or not, or of a packed one.
    fn knows(&self, fingerprint: &str, trust: Option<&Trust>) -> bool {
        let packed = trust.map(Trust::keys).unwrap_or_default();
        self.revoked.contains(fingerprint)
            || self.keys.iter().chain(packed).any(|key| key.fingerprint() == fingerprint)
    }

    /// Whether the key was named.
    fn remove(&mut self, fingerprint: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.fingerprint() != fingerprint);
        self.keys.len() < before
    }

    fn add(&mut self, key: TrustedKey) -> Result<()> {
        let fingerprint = key.fingerprint();
        ensure!(!self.revoked.contains(&fingerprint), "{fingerprint} is revoked; make a new key");
        self.remove(&fingerprint);
        self.keys.push(key);
        Ok(())
    }

    /// Refuses a list under which no manifest could boot, now or ever.
    fn is_usable(&self, trust: Option<&Trust>, now: UnixTime) -> Result<()> {
        let wanted = trust.map_or(1, |trust| trust.policy().threshold);
        let threshold = usize::try_from(self.threshold)?.max(wanted);
        let valid = |key: &&TrustedKey| key.limits().not_after.is_none_or(|end| end > now);
        let valid: Vec<&Limits> = self.keys.iter().filter(valid).map(TrustedKey::limits).collect();
        let may_sign = |channel: &String| {
            valid.iter().filter(|l| l.channels.is_empty() || l.channels.contains(channel)).count()
        };
        let everywhere = valid.iter().filter(|limits| limits.channels.is_empty()).count();
        let best =
            valid.iter().flat_map(|limits| &limits.channels).map(may_sign).fold(everywhere, usize::max);
        ensure!(
            best >= threshold,
            "nothing could boot under this key list: {threshold} keys must sign, but at most {best} may sign for one \
             channel; name more with --add"
        );
        Ok(())
    }

    fn document(&self, now: UnixTime) -> Result<Document> {
        let expires =
            self.expires.map(|lifetime| UnixTime(now.0.saturating_add(lifetime.as_secs())).to_string());
        let mut list = json!({
            "kind": "keys",
            "version": FORMAT,
            "keys_version": self.keys_version,
            "threshold": self.threshold,
            "created_at": now.to_string(),
            "expires_at": expires,
            "keys": self.keys.iter().map(entry).collect::<Vec<_>>(),
            "revoked": self.revoked,
        });
        if let Some(fields) = list.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        Ok(Document::new(list, "that is to be made")?)
    }
}

/// A key as lists name it.
fn entry(key: &TrustedKey) -> Value {
    let mut entry = Map::new();
    entry.insert("key".to_owned(), STANDARD.encode(key.bytes()).into());
    if key.id() != key.fingerprint() {
        entry.insert("id".to_owned(), key.id().into());
    }
    let Limits { channels, not_after } = key.limits();
    if !channels.is_empty() {
        entry.insert("channels".to_owned(), channels.clone().into());
    }
    if let Some(time) = not_after {
        entry.insert("not_after".to_owned(), time.to_string().into());
    }
    entry.into()
}

fn change_list(
    change: &Change,
    edit: impl FnOnce(&mut List, &[Signing], Option<&Trust>) -> Result<()>,
) -> Result<()> {
    let now = UnixTime::now();
    let trust = change.machines.trust()?;
    // Before the lock: nobody else waits while somebody types a passphrase.
    let roots = Signing::read_all(&change.root, change.passphrase.passphrases())?;
    let tree = change.into.as_deref().map(Tree::own).transpose()?;
    let path = match (&tree, &change.file) {
        (Some(tree), _) => tree.key_list(),
        (None, Some(file)) => file.clone(),
        (None, None) => bail!("neither --into nor --file"),
    };
    let (name, last) = last(change, &path)?;
    if let Some(Listed { document, .. }) = &last {
        is_genuine(document, name, &roots, trust.as_ref())?;
    }
    if let Some(tree) = &tree {
        tree.is_latest(last.as_ref(), name)?;
    }
    let mut list = List::after(last.as_ref())?;
    for key in signing::read_public(&change.add)? {
        list.add(key)?;
    }
    edit(&mut list, &roots, trust.as_ref())?;
    list.threshold = change.threshold.unwrap_or(list.threshold);
    list.expires = change.expires.or(list.expires);
    list.is_usable(trust.as_ref(), now)?;

    let mut document = list.document(now).context("cannot make this key list")?;
    for root in &roots {
        document.sign(root)?;
    }
    let bytes = document.bytes()?;
    let written = match (&change.draft, &tree) {
        (Some(draft), _) => draft,
        (None, _) => {
            if let Some(trust) = trust.clone() {
                Judge::new(trust, None, &path).keys(&bytes, "that is to be made", Some(now))?;
            }
            &path
        }
    };
    match &tree {
        Some(tree) if change.draft.is_none() => {
            let last = last.as_ref().map(|last| &last.document);
            judge::fits(tree, &document, last, trust.as_ref(), now, change.force)?;
            tree.prepare_key_list(&bytes)?.into_iter().try_for_each(Pending::commit)?;
        }
        _ => {
            if change.draft.is_none() && trust.is_none() && !change.force {
                judge::has_every_root(&document, last.as_ref().map(|last| &last.document))?;
            }
            files::write(written, &bytes)?;
        }
    }
    if change.output.json {
        return output::json(&json!({
            "file": written,
            "live": change.draft.is_none(),
            "keyids": document.claimed_signers(),
            "keys": document.value(),
        }));
    }
    inspect::document(written, &bytes, false)?;
    output::line(format_args!("wrote {}", written.display()))?;
    output::line(format_args!(
        "keep a copy of this list (version {}): --last wants it when the next one is made",
        list.keys_version
    ))
}

/// The list that the new one is made of, and its file: `path`, unless that may be an old one.
fn last<'a>(change: &'a Change, path: &'a Path) -> Result<(&'a Path, Option<Listed>)> {
    let Some(kept) = &change.last else { return Ok((path, Listed::read(path)?)) };
    let last = Listed::parse(&document::read_bytes(kept)?, kept)?;
    if let Some(present) = Listed::read(path)? {
        last.succeeds(kept, &present, path)?;
    }
    Ok((kept, Some(last)))
}

/// Whoever could change the last list could otherwise have the roots sign a key of theirs.
fn is_genuine(document: &Document, path: &Path, roots: &[Signing], trust: Option<&Trust>) -> Result<()> {
    if let Some(trust) = trust {
        // A list that has expired is one to be replaced.
        let judge = Judge::new(trust.clone(), None, path);
        judge.keys(&document.bytes()?, &path.display().to_string(), None)?;
        return Ok(());
    }
    // By all of them: a thief of one must not have the others sign what they did not make.
    let mut keys = roots.iter().map(Signing::trusted).collect::<Result<Vec<_>>>()?.into_iter();
    let has_signed = |key: &TrustedKey| document.is_signed_by(key);
    ensure!(
        !roots.is_empty() && keys.all(|key| has_signed(&key)),
        "cannot tell whether {} is genuine: it is not signed by every --root key; give --trust DIR",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::document::Content;

    fn key(limits: Limits) -> TrustedKey {
        Signing::generate().unwrap().trusted().unwrap().named(None, limits)
    }

    fn for_channel(name: &str) -> Limits {
        Limits { channels: vec![name.to_owned()], not_after: None }
    }

    fn list(threshold: u64, keys: Vec<TrustedKey>) -> List {
        List { threshold, keys, ..List::after(None).unwrap() }
    }

    #[test]
    fn a_list_must_let_something_boot() {
        let now = UnixTime(1_000);
        let is_usable = |threshold, limits: Vec<Limits>| {
            list(threshold, limits.into_iter().map(key).collect()).is_usable(None, now).is_ok()
        };
        let expired = Limits { channels: Vec::new(), not_after: Some(now) };
        assert!(!is_usable(1, vec![]));
        assert!(is_usable(1, vec![Limits::default()]));
        assert!(!is_usable(1, vec![expired.clone()]));
        assert!(!is_usable(2, vec![Limits::default(), expired]));
        assert!(is_usable(2, vec![for_channel("a"), Limits::default()]));
        assert!(!is_usable(2, vec![for_channel("a"), for_channel("b")]));
        assert!(is_usable(2, vec![for_channel("a"), for_channel("b"), for_channel("b")]));
    }

    #[test]
    fn a_key_keeps_its_name_and_limits() {
        let limits = Limits { channels: vec!["beta".to_owned()], not_after: Some(UnixTime(2_000_000_000)) };
        let named = key(Limits::default()).named(Some("release-2026".to_owned()), limits);
        let made = list(1, vec![named.clone()]).document(UnixTime(1_000)).unwrap();
        let Content::Keys(content) = made.content() else { panic!("no list") };
        assert_eq!(content.keys, [named]);
        assert_eq!(content.expires_at, None);
    }
}
