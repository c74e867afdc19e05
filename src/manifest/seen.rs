//! What this machine has seen of signed documents.

use std::collections::{BTreeMap, BTreeSet};

use crate::arch::Arch;
use crate::manifest::KeyList;

/// The highest versions that were seen; what is lower is a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The highest `manifest_version` for each `CHANNEL/ARCH`.
    pub manifests: BTreeMap<String, u64>,
    /// The highest `keys_version`; 0 if none was seen.
    pub keys_version: u64,
    /// The fingerprints of packed keys that a key list has revoked.
    pub revoked: BTreeSet<String>,
}

impl Seen {
    /// The highest version seen of the manifests of `channel` for `arch`; 0 if none was.
    pub fn lowest(&self, channel: &str, arch: Arch) -> u64 {
        self.manifests.get(&format!("{channel}/{arch}")).copied().unwrap_or(0)
    }

    /// Notes a key list that was verified.
    pub fn note_keys(&mut self, list: &KeyList) {
        if list.version() > self.keys_version {
            self.keys_version = list.version();
            self.revoked.clone_from(list.revoked_roots());
        }
    }
}
