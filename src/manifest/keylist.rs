//! Key lists: which keys may sign manifests, said by the keys that were packed into the initramfs,
//! so that a signing key can be replaced without packing again. Source: proto/MANIFEST.md.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::printable;
use crate::manifest::envelope::{self, Envelope, Fault, Kind};
use crate::manifest::keyfile::from_base64;
use crate::manifest::keys::{self, Limits, TrustedKey};
use crate::manifest::{Error, Keyring, Seen, Trust, schema};
use crate::time::UnixTime;

/// The name of a key list, in the folder of the manifest that it is for.
pub const FILE_NAME: &str = "keys.json";
/// More keys than this in a list are refused.
pub const MOST_KEYS: usize = 64;
/// More revoked keys than this in a list are refused.
pub const MOST_REVOKED: usize = 64;

/// What a key list says, checked field by field, signed by nobody yet.
#[derive(Clone, Debug)]
pub struct KeyListContent {
    /// Counts up with every change.
    pub keys_version: u64,
    /// How many of the keys have to sign a manifest.
    pub threshold: usize,
    pub expires_at: Option<UnixTime>,
    pub keys: Vec<TrustedKey>,
    /// The fingerprints of keys that count for nothing, wherever else they are trusted.
    pub revoked: BTreeSet<String>,
}

/// A key list that the packed keys have signed. Only [`KeyList::verify`] makes one.
#[derive(Clone, Debug)]
pub struct KeyList {
    version: u64,
    keyring: Keyring,
    revoked_roots: BTreeSet<String>,
}

impl KeyListContent {
    /// Reads the fields of a key list. The error is a reason for people.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let fields = value.as_object().ok_or("it is no JSON object")?;
        let number = |name: &str| fields.get(name).and_then(Value::as_u64).filter(|&number| number >= 1);
        let array = |name: &str, most: usize| {
            let items = fields.get(name).and_then(Value::as_array).filter(|items| items.len() <= most);
            items.ok_or_else(|| format!("{name} is no array of at most {most}"))
        };
        let keys_version = number("keys_version").ok_or("keys_version is no whole number from 1 up")?;
        let mut keys: Vec<TrustedKey> = Vec::new();
        for entry in array("keys", MOST_KEYS)? {
            let key = key(entry)?;
            let is_same = |other: &&TrustedKey| other.bytes() == key.bytes() || other.id() == key.id();
            if let Some(other) = keys.iter().find(is_same) {
                return Err(format!("the keys {} and {} are one, or named alike", other.id(), key.id()));
            }
            keys.push(key);
        }
        let mut revoked = BTreeSet::new();
        for id in array("revoked", MOST_REVOKED)? {
            let id = id.as_str().filter(|id| keys::is_fingerprint(id));
            revoked.insert(id.ok_or("revoked holds something that is no fingerprint")?.to_owned());
        }
        if let Some(key) = keys.iter().find(|key| revoked.contains(&key.fingerprint())) {
            return Err(format!("the key {} is both named and revoked", key.id()));
        }
        let threshold = number("threshold").and_then(|threshold| usize::try_from(threshold).ok());
        let threshold = threshold.filter(|&threshold| threshold <= keys.len()).ok_or_else(|| {
            format!("threshold is no whole number from 1 to {}, the number of keys", keys.len())
        })?;
        schema::time(fields, "created_at")?;
        let expires_at = schema::time(fields, "expires_at")?;
        Ok(Self { keys_version, threshold, expires_at, keys, revoked })
    }

    /// Whether the list revokes `key`.
    pub fn revokes(&self, key: &TrustedKey) -> bool {
        self.revoked.contains(&key.fingerprint())
    }
}

/// An entry of `keys`. Unlike elsewhere unknown fields are an error: a misspelt limit must not loosen.
fn key(entry: &Value) -> Result<TrustedKey, String> {
    let fields: &Map<String, Value> = entry.as_object().ok_or("keys holds something that is no object")?;
    if let Some(name) =
        fields.keys().find(|name| !["key", "id", "channels", "not_after"].contains(&name.as_str()))
    {
        return Err(format!("a key has the field \"{}\", which is not understood", printable(name)));
    }
    let text = |name: &str| match fields.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("a key's {name} is no string")),
    };
    let bytes = text("key")?.and_then(from_base64).ok_or("a key's key is not the base64 of 32 bytes")?;
    let id = text("id")?.map(keys::parse_id).transpose()?;
    let not_after = text("not_after")?.map(keys::parse_not_after).transpose()?;
    let channels = match fields.get("channels") {
        None => Vec::new(),
        Some(channels) => {
            let names: Option<Vec<&str>> =
                channels.as_array().and_then(|names| names.iter().map(Value::as_str).collect());
            keys::parse_channels(names.ok_or("a key's channels is no array of strings")?.into_iter())?
        }
    };
    Ok(TrustedKey::from_bytes(&bytes)?.named(id, Limits { channels, not_after }))
}

impl KeyList {
    /// Verifies the key list `bytes` found at `url`: signed by the packed keys, and not older than
    /// what was seen or what the policy wants. `now` is `None` where expiry does not matter.
    pub fn verify(
        bytes: &[u8],
        url: &str,
        trust: &Trust,
        seen: &Seen,
        now: Option<UnixTime>,
    ) -> Result<Self, Error> {
        let (list, expires_at) = Self::signed(bytes, url, trust, seen, now)?;
        if trust.policy().require_expiry && expires_at.is_none() {
            return Err(Error::KeysNoExpiry { url: url.to_owned() });
        }
        if let Some((expires_at, now)) = expires_at.zip(now).filter(|(end, now)| end <= now) {
            return Err(Error::KeysExpired { url: url.to_owned(), expires_at, now });
        }
        let lowest = trust.lowest_keys_version(seen);
        if list.version < lowest {
            return Err(Error::KeysRolledBack { url: url.to_owned(), version: list.version, lowest });
        }
        Ok(list)
    }

    /// The key list `bytes` and its expiry, if the packed keys signed it, however old it is.
    pub(super) fn signed(
        bytes: &[u8],
        url: &str,
        trust: &Trust,
        seen: &Seen,
        now: Option<UnixTime>,
    ) -> Result<(Self, Option<UnixTime>), Error> {
        let malformed = |reason: String| Error::KeysMalformed { url: url.to_owned(), reason };
        let not_trusted = |trusted: usize, uncounted: Vec<String>| {
            let (url, threshold) = (url.to_owned(), trust.policy().root_threshold());
            Error::KeysNotTrusted { url, trusted, threshold, uncounted }
        };
        let fault = |fault: Fault| match fault {
            Fault::Unsigned | Fault::ForeignSignature => not_trusted(0, Vec::new()),
            other => malformed(other.to_string()),
        };
        let envelope = Envelope::parse(bytes).map_err(fault)?;
        let roots = trust.roots(seen);
        let signed = envelope.signed().ok_or_else(|| fault(Fault::Unsigned))?;
        // It speaks of every channel, so a key that may only sign for some of them cannot sign it.
        let count = roots.count(signed, None, now);
        if count.signers.len() < roots.threshold() {
            return Err(not_trusted(count.signers.len(), count.uncounted));
        }
        let value = envelope.content().map_err(fault)?;
        if envelope::kind(&value).map_err(fault)? != Kind::Keys {
            return Err(malformed("it is a manifest, no key list".to_owned()));
        }
        let content = KeyListContent::from_value(&value).map_err(malformed)?;
        // A key cannot vouch for the list that revokes it.
        let (revoked, left): (Vec<&TrustedKey>, Vec<&TrustedKey>) =
            count.signers.into_iter().partition(|key| content.revokes(key));
        if left.len() < roots.threshold() {
            let reason = |key: &&TrustedKey| format!("{} signed, but is revoked by this list", key.id());
            return Err(not_trusted(left.len(), revoked.iter().map(reason).collect()));
        }
        let expires_at = content.expires_at;
        Ok((Self::new(content, trust), expires_at))
    }

    fn new(content: KeyListContent, trust: &Trust) -> Self {
        let is_listed = |key: &&TrustedKey| content.keys.iter().any(|listed| listed.bytes() == key.bytes());
        let reason = |key: &TrustedKey| {
            if content.revokes(key) { "is revoked" } else { "is not in the key list" }
        };
        let unlisted = trust.keys().iter().filter(|key| !is_listed(key));
        let barred = unlisted.map(|key| (key.clone(), reason(key))).collect();
        // What a provider serves must not lower what the policy asks for.
        let threshold = content.threshold.max(trust.policy().threshold);
        let keyring = Keyring::new(content.keys.clone(), threshold, barred, content.revoked.clone());
        let revoked = trust.keys().iter().filter(|key| content.revokes(key)).map(TrustedKey::fingerprint);
        Self { keyring, revoked_roots: revoked.collect(), version: content.keys_version }
    }

    /// The keys that may sign manifests under this list.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Its `keys_version`.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The fingerprints of the packed keys that it revokes.
    pub fn revoked_roots(&self) -> &BTreeSet<String> {
        &self.revoked_roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;
    use serde_json::json;
    use sha2::{Digest, Sha256};

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public(seed: u8) -> TrustedKey {
        TrustedKey::from_bytes(key(seed).verifying_key().as_bytes()).unwrap()
    }

    fn base64(seed: u8) -> String {
        BASE64_STANDARD.encode(key(seed).verifying_key().as_bytes())
    }

    /// Version 3 names the keys 11 and 12.
    fn list() -> Value {
        json!({
            "kind": "keys", "version": "0.1", "keys_version": 3, "threshold": 1,
            "keys": [{"key": base64(11), "id": "release"}, {"key": base64(12), "channels": ["beta"]}],
            "revoked": [],
        })
    }

    fn signed(content: &Value, seeds: &[u8]) -> Vec<u8> {
        let data = content.to_string();
        let digest = Sha256::digest(data.as_bytes());
        let sig = |&seed: &u8| json!({"keyid": "any", "sig": BASE64_STANDARD.encode(key(seed).sign(&digest).to_bytes())});
        let mut document = content.clone();
        document["signatures"] = seeds.iter().map(sig).collect();
        document["signed"] = json!({"data": BASE64_STANDARD.encode(data)});
        document.to_string().into_bytes()
    }

    fn trust(seeds: &[u8], policy: &str) -> Trust {
        Trust::new(seeds.iter().map(|&seed| public(seed)).collect(), Policy::parse(policy).unwrap())
    }

    fn verdict(bytes: &[u8], trust: &Trust, seen: &Seen) -> &'static str {
        KeyList::verify(bytes, "keys.json", trust, seen, Some(NOW))
            .map_or_else(|e| e.verdict(), |_| "accepted")
    }

    fn with(field: &str, value: Value) -> Value {
        let mut content = list();
        content[field] = value;
        content
    }

    #[test]
    fn only_listed_keys_count_under_a_list() {
        let list =
            KeyList::verify(&signed(&list(), &[1]), "u", &trust(&[1], "{}"), &Seen::default(), Some(NOW))
                .unwrap();
        let ids: Vec<&str> = list.keyring().keys().iter().map(TrustedKey::id).collect();
        assert_eq!(ids, ["release", &public(12).fingerprint()]);
        assert_eq!((list.version(), list.keyring().threshold()), (3, 1));
    }

    #[test]
    fn a_list_cannot_lower_the_threshold_of_the_policy() {
        let trust = trust(&[1, 2, 3], r#"{"threshold":2,"root_threshold":3}"#);
        let verify =
            |seeds: &[u8]| KeyList::verify(&signed(&list(), seeds), "u", &trust, &Seen::default(), Some(NOW));
        assert_eq!(verify(&[1, 2]).unwrap_err().verdict(), "keys-not-trusted");
        assert_eq!(verify(&[1, 2, 3]).unwrap().keyring().threshold(), 2);
    }

    #[test]
    fn packed_keys_sign_it_and_no_others() {
        let trust = trust(&[1, 2], r#"{"root_threshold":2}"#);
        let seen = Seen::default();
        for (seeds, expected) in [
            (&[1, 2][..], "accepted"),
            (&[1], "keys-not-trusted"),
            (&[1, 1], "keys-not-trusted"),
            (&[1, 11], "keys-not-trusted"),
            (&[], "keys-not-trusted"),
        ] {
            assert_eq!(verdict(&signed(&list(), seeds), &trust, &seen), expected, "{seeds:?}");
        }
        let revoked = Seen { revoked: [public(1).fingerprint()].into(), ..Seen::default() };
        assert_eq!(verdict(&signed(&list(), &[1, 2]), &trust, &revoked), "keys-not-trusted");
    }

    #[test]
    fn a_key_for_some_channels_is_no_root() {
        let limits = Limits { channels: vec!["beta".to_owned()], not_after: None };
        let trust = Trust::new(vec![public(1).named(None, limits)], Policy::default());
        assert_eq!(verdict(&signed(&list(), &[1]), &trust, &Seen::default()), "keys-not-trusted");
    }

    #[test]
    fn a_key_cannot_vouch_for_the_list_that_revokes_it() {
        let content = with("revoked", json!([public(1).fingerprint()]));
        let trust = trust(&[1, 2], "{}");
        assert_eq!(verdict(&signed(&content, &[1]), &trust, &Seen::default()), "keys-not-trusted");
        let list =
            KeyList::verify(&signed(&content, &[1, 2]), "u", &trust, &Seen::default(), Some(NOW)).unwrap();
        assert_eq!(list.revoked_roots().iter().collect::<Vec<_>>(), [&public(1).fingerprint()]);
    }

    #[test]
    fn a_list_that_was_seen_or_packed_cannot_be_withheld() {
        let authority = |trust: &Trust, served: Option<&[u8]>, seen: &Seen| {
            trust
                .authority(served, "u", seen, Some(NOW))
                .map(|authority| authority.list.map(|list| list.version()))
        };
        let verdict = |result: Result<Option<u64>, Error>| result.unwrap_err().verdict();
        let (none, seen) = (Seen::default(), Seen { keys_version: 3, ..Seen::default() });
        let (old, new) = (signed(&with("keys_version", json!(2)), &[1]), signed(&list(), &[1]));

        let free = trust(&[1], "{}");
        assert_eq!(authority(&free, None, &none).unwrap(), None);
        assert_eq!(authority(&free, Some(&new), &none).unwrap(), Some(3));
        assert_eq!(verdict(authority(&free, None, &seen)), "keys-missing");
        assert_eq!(
            verdict(authority(&trust(&[1], r#"{"min_keys_version":1}"#), None, &none)),
            "keys-missing"
        );

        let packed = free.clone().with_packed_list("packed", new.clone());
        assert_eq!(authority(&packed, None, &seen).unwrap(), Some(3));
        assert_eq!(verdict(authority(&packed, Some(&old), &none)), "keys-rolled-back");
        let stale = free.with_packed_list("packed", old);
        assert_eq!(authority(&stale, Some(&new), &none).unwrap(), Some(3));
        assert_eq!(verdict(authority(&stale, None, &seen)), "keys-rolled-back");
    }

    #[test]
    fn older_and_expired_lists_are_refused() {
        let seen = |keys_version| Seen { keys_version, ..Seen::default() };
        let bytes = signed(&list(), &[1]);
        assert_eq!(verdict(&bytes, &trust(&[1], "{}"), &seen(3)), "accepted");
        assert_eq!(verdict(&bytes, &trust(&[1], "{}"), &seen(4)), "keys-rolled-back");
        assert_eq!(verdict(&bytes, &trust(&[1], r#"{"min_keys_version":4}"#), &seen(0)), "keys-rolled-back");
        assert_eq!(verdict(&bytes, &trust(&[1], r#"{"require_expiry":true}"#), &seen(0)), "keys-expired");
        let ended = signed(&with("expires_at", json!(NOW.to_string())), &[1]);
        assert_eq!(verdict(&ended, &trust(&[1], "{}"), &seen(0)), "keys-expired");
        assert!(KeyList::verify(&ended, "u", &trust(&[1], "{}"), &seen(0), None).is_ok());
    }

    #[test]
    fn fields_out_of_bounds_are_malformed() {
        let entry = |field: &str, value: Value| {
            let mut entry = json!({"key": base64(11)});
            entry[field] = value;
            json!([entry])
        };
        for (field, value) in [
            ("kind", json!("manifest")),
            ("kind", json!("key")),
            ("version", json!("1.0")),
            ("keys_version", json!(0)),
            ("threshold", json!(0)),
            ("threshold", json!(3)),
            ("expires_at", json!("soon")),
            ("keys", json!([])),
            ("keys", json!({})),
            ("keys", entry("key", json!("AAAA"))),
            ("keys", entry("key", json!(BASE64_STANDARD.encode([0; 32])))),
            ("keys", entry("chanels", json!(["beta"]))),
            ("keys", entry("channels", json!([]))),
            ("keys", entry("channels", json!("beta"))),
            ("keys", entry("channels", json!(null))),
            ("keys", entry("not_after", json!(5))),
            ("keys", entry("id", json!("../x"))),
            ("keys", entry("id", json!(public(12).fingerprint()))),
            ("keys", json!([{"key": base64(11)}, {"key": base64(11), "id": "other"}])),
            ("keys", json!([{"key": base64(11), "id": "a"}, {"key": base64(12), "id": "a"}])),
            ("keys", json!(vec![json!({"key": base64(11)}); 65])),
            ("revoked", json!(["release"])),
            ("revoked", json!([public(11).fingerprint()])),
            ("revoked", json!([public(11).fingerprint().to_uppercase()])),
            ("revoked", json!(null)),
        ] {
            let bytes = signed(&with(field, value.clone()), &[1]);
            assert_eq!(
                verdict(&bytes, &trust(&[1], "{}"), &Seen::default()),
                "keys-malformed",
                "{field} {value}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(at in 0usize..10_000, flip in 1u8..=255) {
            let mut bytes = signed(&list(), &[1]);
            // The keyid is for people.
            let keyid = String::from_utf8(bytes.clone()).unwrap().find("\"keyid\"").unwrap();
            let at = at % bytes.len();
            prop_assume!(!(keyid..keyid + 13).contains(&at));
            bytes[at] ^= flip;
            prop_assert_ne!(verdict(&bytes, &trust(&[1], "{}"), &Seen::default()), "accepted");
        }
    }
}
