//! What machines would say to a document: the library's own verification, under a trust folder, or
//! under what can be known without one.

use std::path::Path;

use super::document::{Content, Document};
use super::place::Tree;
use crate::config::Policy;
use crate::manifest::{self, Envelope, Error, Expected, KeyList, Seen, Trust, TrustedKey, VerifiedManifest};
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
    pub fn of_tree(tree: &Tree, trust: Option<Trust>, signers: Vec<TrustedKey>) -> anyhow::Result<Self> {
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
        match Document::parse(list, &url)?.content() {
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
        // As long as a manifest is none, it does not matter who may sign one.
        Envelope::parse(bytes).map_err(|fault| Error::of_manifest(name, fault))?;
        let authority = self.trust.authority(self.served.as_deref(), &self.url, &seen, expected.now)?;
        manifest::verify(bytes, name, &authority.keyring, self.trust.policy(), expected)
    }

    /// Its verdict on a key list.
    pub fn keys(&self, bytes: &[u8], name: &str, now: Option<UnixTime>) -> Result<KeyList, Error> {
        KeyList::verify(bytes, name, &self.trust, &Seen::default(), now)
    }
}

fn trusting(threshold: usize, keys: Vec<TrustedKey>) -> Trust {
    Trust::new(keys, Policy { threshold, ..Policy::default() })
}
