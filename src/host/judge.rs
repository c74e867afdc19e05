//! What machines would say to a document: the library's own verification, under a trust folder, or
//! under what can be known without one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::document::{Content, Document};
use super::output;
use super::place::{Listed, Tree};
use crate::config::Policy;
use crate::manifest::{
    self, Error, Expected, KeyList, KeyListContent, Seen, Trust, TrustedKey, VerifiedManifest,
};
use crate::time::UnixTime;

/// A machine that has seen nothing yet.
#[derive(Debug)]
pub struct Judge {
    trust: Trust,
    /// The key list beside the manifest.
    served: Option<Vec<u8>>,
    /// Where that is, or would be.
    url: String,
}

impl Judge {
    /// A machine with this trust folder.
    pub fn new(trust: Trust, served: Option<Vec<u8>>, url: &Path) -> Self {
        Self { trust, served, url: url.display().to_string() }
    }

    /// The machines that boot from `tree`, whose key list is `served`. Without their trust folder they are taken to believe the
    /// tree's key list, and if there is none, to want a signature by each of `signers`.
    pub fn of_tree(
        tree: &Tree,
        served: Option<Vec<u8>>,
        trust: Option<Trust>,
        signers: Vec<TrustedKey>,
    ) -> Result<Self> {
        let url = tree.key_list();
        Ok(match (trust, served) {
            (Some(trust), served) => Self::new(trust, served, &url),
            (None, Some(bytes)) => Self::new(Self::believe(&bytes, &url)?, None, &url),
            (None, None) => Self::new(trusting(signers.len().max(1), signers), None, &url),
        })
    }

    /// Trust in what a key list says, whoever signed it.
    pub fn believe(list: &[u8], url: &Path) -> Result<Trust, Error> {
        let KeyListContent { threshold, keys, .. } = Listed::parse(list, url)?.content;
        Ok(trusting(threshold, keys))
    }

    /// The trust it judges by.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Its verdict on a manifest.
    pub fn manifest(
        &self,
        bytes: &[u8],
        name: &str,
        expected: Expected<'_>,
    ) -> Result<VerifiedManifest, Error> {
        let seen = Seen::default();
        let authority = self.trust.authority(self.served.as_deref(), &self.url, &seen, expected.now)?;
        manifest::verify(bytes, name, &authority.keyring, self.trust.policy(), expected)
    }

    /// Its verdict on a key list.
    pub fn keys(&self, bytes: &[u8], name: &str, now: Option<UnixTime>) -> Result<KeyList, Error> {
        KeyList::verify(bytes, name, &self.trust, &Seen::default(), now)
    }
}

/// Holds a new key list, which follows `last`, against the tree that it is for: no manifest there
/// that machines accept may stop booting, and no root may be missing. Unless `force`.
pub fn fits(
    tree: &Tree,
    list: &Document,
    last: Option<&Document>,
    trust: Option<&Trust>,
    now: UnixTime,
    force: bool,
) -> Result<()> {
    if force {
        return Ok(());
    }
    if trust.is_none() {
        has_every_root(list, last)?;
    }
    let path = tree.key_list();
    let judge = |list: &Document| -> Result<Judge> {
        let bytes = list.bytes()?;
        Ok(match trust {
            Some(trust) => Judge::new(trust.clone(), Some(bytes), &path),
            None => Judge::new(Judge::believe(&bytes, &path)?, None, &path),
        })
    };
    let new = judge(list)?;
    let old = match (last, trust) {
        (Some(last), _) => Some(judge(last)?),
        (None, Some(trust)) => Some(Judge::new(trust.clone(), None, &path)),
        (None, None) => None,
    };
    for path in tree.manifests()? {
        let name = path.display().to_string();
        let document = match Document::read(&path) {
            Ok(document) => document,
            Err(error) => {
                output::note(&format!("passed over: {error:#}"));
                continue;
            }
        };
        let Content::Manifest(manifest) = document.content() else { continue };
        let Ok(arch) = manifest.arch.parse() else { continue };
        let expected = Expected { arch, channel: &manifest.channel, now: Some(now), seen: 0 };
        let bytes = document.bytes()?;
        let was_accepted = match old.as_ref().map(|old| old.manifest(&bytes, &name, expected)) {
            // A list that has expired is one to be replaced.
            None | Some(Ok(_) | Err(Error::KeysExpired { .. })) => true,
            Some(Err(_)) => false,
        };
        // Whatever else machines have against it, they had before.
        if was_accepted && let Err(error @ Error::NotTrusted { .. }) = new.manifest(&bytes, &name, expected) {
            bail!(
                "under this key list machines would refuse what lives in the tree: {error}; sign it first, or give --force"
            );
        }
    }
    Ok(())
}

/// Refuses a list that lacks a root of the last one: machines may want as many.
pub fn has_every_root(list: &Document, last: Option<&Document>) -> Result<()> {
    let signers = list.claimed_signers();
    let before = last.map(Document::claimed_signers).unwrap_or_default();
    let missing: BTreeSet<String> = before.into_iter().filter(|signer| !signers.contains(signer)).collect();
    ensure!(
        missing.is_empty(),
        "the last key list is signed by {} too, and machines may refuse one that is not; sign with every --root, or \
         give --trust DIR or --force",
        missing.into_iter().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// A machine that wants signatures by `threshold` of `keys`.
pub fn trusting(threshold: usize, keys: Vec<TrustedKey>) -> Trust {
    Trust::new(keys, Policy { threshold, ..Policy::default() })
}
