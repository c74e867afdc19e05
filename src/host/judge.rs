//! What machines would say to a document: the library's own verification, under a trust folder, or
//! under what can be known without one.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::document::{Content, Document};
use super::place::Tree;
use crate::config::Policy;
use crate::manifest::{self, Error, Expected, KeyList, Seen, Trust, TrustedKey, VerifiedManifest};
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

    /// The machines that boot from `tree`. Without their trust folder they are taken to believe the
    /// tree's key list, and if there is none, to want a signature by each of `signers`.
    pub fn of_tree(tree: &Tree, trust: Option<Trust>, signers: Vec<TrustedKey>) -> Result<Self> {
        let (url, served) = (tree.key_list(), tree.read_key_list()?);
        Ok(match (trust, served) {
            (Some(trust), served) => Self::new(trust, served, &url),
            (None, Some(bytes)) => Self::new(Self::believe(&bytes, &url)?, None, &url),
            (None, None) => Self::new(trusting(signers.len().max(1), signers), None, &url),
        })
    }

    /// Trust in what a key list says, whoever signed it.
    pub fn believe(list: &[u8], url: &Path) -> Result<Trust, Error> {
        let url = url.display().to_string();
        match Document::parse_key_list(list, &url)?.content() {
            Content::Keys(list) => Ok(trusting(list.threshold, list.keys.clone())),
            Content::Manifest(_) => {
                Err(Error::KeysMalformed { url, reason: "it is a manifest, no key list".to_owned() })
            }
        }
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

/// Holds a new key list against the tree that it is for: no manifest that lives there may stop
/// booting, and the list that is there may not come back. Unless `force`, which only minds the list.
pub fn fits(tree: &Tree, list: &Document, trust: Option<&Trust>, now: UnixTime, force: bool) -> Result<()> {
    let bytes = list.bytes()?;
    let path = tree.key_list();
    if let Some(present) = tree.read_key_list()? {
        let present = Document::parse_key_list(&present, &path.display().to_string())?;
        if let (Content::Keys(new), Content::Keys(old)) = (list.content(), present.content()) {
            let (new, old) = (new.keys_version, old.keys_version);
            ensure!(
                new > old || (new == old && list.digest() == present.digest()),
                "key list version {new} is not newer than {}, which has version {old}",
                path.display()
            );
        }
    }
    let judge = match trust {
        Some(trust) => Judge::new(trust.clone(), Some(bytes), &path),
        None => Judge::new(Judge::believe(&bytes, &path)?, None, &path),
    };
    for path in tree.manifests()? {
        let document = Document::read(&path)?;
        let Content::Manifest(manifest) = document.content() else { continue };
        let Ok(arch) = manifest.arch.parse() else { continue };
        let expected = Expected { arch, channel: &manifest.channel, now: Some(now), seen: 0 };
        let verdict = judge.manifest(&document.bytes()?, &path.display().to_string(), expected);
        // Whatever else machines have against it, they had before.
        if let Err(error @ Error::NotTrusted { .. }) = verdict
            && !force
        {
            bail!(
                "under this key list machines would refuse what lives in the tree: {error}; sign it first, or give --force"
            );
        }
    }
    Ok(())
}

/// A machine that wants signatures by `threshold` of `keys`.
pub fn trusting(threshold: usize, keys: Vec<TrustedKey>) -> Trust {
    Trust::new(keys, Policy { threshold, ..Policy::default() })
}
