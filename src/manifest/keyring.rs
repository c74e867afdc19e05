//! The keys whose signatures count at this moment, and how many of them have to sign.

use std::collections::BTreeSet;

use log::debug;

use crate::manifest::envelope::Signed;
use crate::manifest::keys::TrustedKey;
use crate::time::UnixTime;

/// Keys and their threshold: what was packed into the initramfs, or what a key list names in its
/// stead.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<TrustedKey>,
    threshold: usize,
    /// Keys that are known and count for nothing, each with the reason: for people.
    barred: Vec<(TrustedKey, &'static str)>,
    /// The fingerprints of keys that were revoked, known or not.
    revoked: BTreeSet<String>,
}

/// Whose signatures a document bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Count<'a> {
    /// The distinct keys that count.
    pub(super) signers: Vec<&'a TrustedKey>,
    /// What is to be said about known keys that signed and do not count.
    pub(super) uncounted: Vec<String>,
}

impl Keyring {
    pub(super) fn new(
        keys: Vec<TrustedKey>,
        threshold: usize,
        barred: Vec<(TrustedKey, &'static str)>,
        revoked: BTreeSet<String>,
    ) -> Self {
        Self { keys, threshold, barred, revoked }
    }

    /// The keys that may sign, each once.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// How many distinct keys have to sign; at least 1.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Counts the keys that signed, for `channel` at `now`; `None` for every channel, and where time
    /// does not matter. The `keyid` beside a signature is not signed and only for people, so every
    /// key is tried.
    pub(super) fn count(&self, signed: &Signed, channel: Option<&str>, now: Option<UnixTime>) -> Count<'_> {
        let digest = signed.digest();
        let signed_by = |key: &TrustedKey| {
            signed.signatures().iter().any(|signature| key.key().verify_strict(&digest, signature).is_ok())
        };
        let mut count = Count { signers: Vec::new(), uncounted: Vec::new() };
        for key in self.keys.iter().filter(|key| signed_by(key)) {
            match key.limits().bar(channel, now) {
                None => count.signers.push(key),
                Some(reason) => count.uncounted.push(format!("{} signed, but {reason}", key.id())),
            }
        }
        for (key, reason) in self.barred.iter().filter(|(key, _)| signed_by(key)) {
            count.uncounted.push(format!("{} signed, but {reason}", key.id()));
        }
        // A claim that nobody signed, but it explains what is missing.
        let is_barred = |id: &str| self.barred.iter().any(|(key, _)| key.fingerprint() == id);
        let claimed = self.revoked.iter().filter(|id| signed.keyids().contains(id) && !is_barred(id));
        count.uncounted.extend(claimed.map(|id| format!("{id} is revoked")));
        debug!("{} of {} keys signed, {} needed", count.signers.len(), self.keys.len(), self.threshold);
        count
    }
}
