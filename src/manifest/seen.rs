//! What this machine has seen of its publishers: the highest versions and the revoked keys. Pure.
//!
//! Its text is canonical, keys in order and no white space, and ends in a checksum:
//! `{"keys_version":3,"manifests":{"stable/x86_64":7},"revoked":["4ac8df01037dd2d3"],"sha256":"..."}`,
//! SHA-256 over the same text without `sha256`. Another text, even of the same meaning, is damaged:
//! damage must never read as "nothing was seen".

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::arch::Arch;
use crate::config::is_channel;
use crate::manifest::json;
use crate::manifest::json::MOST as MOST_VERSION;
use crate::manifest::keys::{hex, is_fingerprint};

/// 8 KiB: a longer record is damaged.
pub const MOST_SEEN_BYTES: usize = 8 << 10;
/// Channels of an architecture, and likewise revoked keys.
const MOST_ENTRIES: usize = 64;

/// The highest versions seen, and the keys seen revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `CHANNEL/ARCH` and the highest `manifest_version` that was booted.
    pub manifests: BTreeMap<String, u64>,
    /// The highest `keys_version` of a key list; 0 if none was seen.
    pub keys_version: u64,
    /// Fingerprints of keys that a key list revoked: once revoked, always revoked.
    pub revoked: BTreeSet<String>,
}

impl Seen {
    /// Reads what [`to_bytes`](Self::to_bytes) wrote, and nothing else. The error is a reason for people.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MOST_SEEN_BYTES {
            return Err(format!("it is longer than {MOST_SEEN_BYTES} bytes"));
        }
        let value = json::parse(bytes).map_err(|error| error.to_string())?;
        let seen = Self::from_value(&value).ok_or("it is no record of this form")?;
        if seen.to_bytes()? != bytes {
            return Err("its checksum is wrong".to_owned());
        }
        Ok(seen)
    }

    fn from_value(value: &Value) -> Option<Self> {
        let mut seen = Self { keys_version: value.get("keys_version")?.as_u64()?, ..Self::default() };
        for (name, version) in value.get("manifests")?.as_object()? {
            seen.manifests.insert(name.clone(), version.as_u64()?);
        }
        for id in value.get("revoked")?.as_array()? {
            seen.revoked.insert(id.as_str()?.to_owned());
        }
        Some(seen)
    }

    /// The canonical text. An error if there is more than a record may hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let fits = self.manifests.len() <= MOST_ENTRIES
            && self.revoked.len() <= MOST_ENTRIES
            && self.keys_version <= MOST_VERSION
            && self.manifests.iter().all(|(name, &version)| is_name(name) && version <= MOST_VERSION)
            && self.revoked.iter().all(|id| is_fingerprint(id));
        if !fits {
            return Err(format!(
                "it would hold more than {MOST_ENTRIES} channels, {MOST_ENTRIES} revoked keys or a version over \
                 {MOST_VERSION}"
            ));
        }
        // What fits is ASCII that needs no escapes, and at most MOST_SEEN_BYTES.
        let manifests = self.manifests.iter().map(|(name, version)| format!("\"{name}\":{version}"));
        let revoked = self.revoked.iter().map(|id| format!("\"{id}\""));
        let content = format!(
            "{{\"keys_version\":{},\"manifests\":{{{}}},\"revoked\":[{}]",
            self.keys_version,
            manifests.collect::<Vec<_>>().join(","),
            revoked.collect::<Vec<_>>().join(",")
        );
        let checksum = hex(&Sha256::digest(format!("{content}}}")));
        Ok(format!("{content},\"sha256\":\"{checksum}\"}}").into_bytes())
    }

    /// Takes what `other` has seen as well: of each version the higher, and every revoked key.
    pub fn merge(&mut self, other: &Self) {
        for (name, &version) in &other.manifests {
            self.raise(name.clone(), version);
        }
        self.add_keys(other.keys_version, &other.revoked);
    }

    /// A key list of this version, that revokes these keys, has been verified.
    pub fn add_keys(&mut self, version: u64, revoked: &BTreeSet<String>) {
        self.keys_version = self.keys_version.max(version);
        for id in revoked {
            self.revoked.insert(id.clone());
        }
    }

    /// A manifest of `channel` for `arch` has been booted.
    pub fn add_manifest(&mut self, channel: &str, arch: Arch, version: u64) {
        self.raise(name(channel, arch), version);
    }

    /// The lowest `manifest_version` of `channel` for `arch` that is no step back; 0 if none was seen.
    pub fn lowest(&self, channel: &str, arch: Arch) -> u64 {
        self.manifests.get(&name(channel, arch)).copied().unwrap_or(0)
    }

    fn raise(&mut self, name: String, version: u64) {
        let highest = self.manifests.entry(name).or_default();
        *highest = version.max(*highest);
    }
}

fn name(channel: &str, arch: Arch) -> String {
    format!("{channel}/{arch}")
}

fn is_name(name: &str) -> bool {
    let is_arch = |arch: &str| arch.parse::<Arch>().is_ok_and(|known| known.name() == arch);
    name.split_once('/').is_some_and(|(channel, arch)| is_channel(channel) && is_arch(arch))
}

/// What this machine has seen, and which of it this boot has verified itself: only that is to be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    all: Seen,
    verified: Seen,
}

impl Sightings {
    /// Nothing is verified yet.
    pub fn new(before: Seen) -> Self {
        Self { all: before, verified: Seen::default() }
    }

    /// Everything that was seen.
    pub fn all(&self) -> &Seen {
        &self.all
    }

    /// What this boot has verified.
    pub fn verified(&self) -> &Seen {
        &self.verified
    }

    /// See [`Seen::add_keys`].
    pub fn add_keys(&mut self, version: u64, revoked: &BTreeSet<String>) {
        self.verified.add_keys(version, revoked);
        self.all.add_keys(version, revoked);
    }

    /// See [`Seen::add_manifest`].
    pub fn add_manifest(&mut self, channel: &str, arch: Arch, version: u64) {
        self.verified.add_manifest(channel, arch, version);
        self.all.add_manifest(channel, arch, version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(manifests: &[(&str, u64)], keys_version: u64, revoked: &[&str]) -> Seen {
        Seen {
            manifests: manifests.iter().map(|&(name, version)| (name.to_owned(), version)).collect(),
            keys_version,
            revoked: revoked.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    #[test]
    fn the_text_is_what_the_protocol_says() {
        let seen = seen(&[("stable/x86_64", 7)], 3, &["4ac8df01037dd2d3"]);
        let text = String::from_utf8(seen.to_bytes().unwrap()).unwrap();
        let rest = r#"{"keys_version":3,"manifests":{"stable/x86_64":7},"revoked":["4ac8df01037dd2d3"]}"#;
        let sum = hex(&Sha256::digest(rest));
        assert_eq!(text, format!("{},\"sha256\":\"{sum}\"}}", rest.trim_end_matches('}')));
        assert_eq!(Seen::parse(text.as_bytes()), Ok(seen));
    }

    #[test]
    fn what_is_no_record_is_an_error_and_not_an_empty_one() {
        let good = String::from_utf8(seen(&[("stable/arm64", 7)], 0, &[]).to_bytes().unwrap()).unwrap();
        for text in [
            "",
            "{}",
            "null",
            "\0\0\0\0",
            &good.replace('7', "6"),
            &good.replace("arm64", "aarch64"),
            &good.replacen('{', "{ ", 1),
            &format!("{good}\n"),
            &format!("{good}{good}"),
            &good.replacen("{\"keys", "{\"a\":1,\"keys", 1),
            &good.replacen("{\"keys", "{\"keys_version\":0,\"keys", 1),
            &format!("{good}{}", " ".repeat(MOST_SEEN_BYTES)),
        ] {
            assert!(Seen::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_record_is_bounded() {
        let many = |count: u32| Seen {
            manifests: (0..count).map(|n| (format!("{n:064}/x86_64"), MOST_VERSION)).collect(),
            keys_version: MOST_VERSION,
            revoked: (0..count).map(|n| format!("{n:016}")).collect(),
        };
        assert!(many(64).to_bytes().unwrap().len() <= MOST_SEEN_BYTES);
        assert!(many(65).to_bytes().is_err());
        for name in ["stable", "../x86_64", "stable/riscv64", "stable/aarch64", "a/b/x86_64", ""] {
            assert!(seen(&[(name, 1)], 0, &[]).to_bytes().is_err(), "{name}");
        }
        for id in ["", "\n", "release-2026", "4AC8DF01037DD2D3", "4ac8df01037dd2d34"] {
            assert!(seen(&[], 0, &[id]).to_bytes().is_err(), "{id}");
        }
        assert!(seen(&[("stable/x86_64", MOST_VERSION + 1)], 0, &[]).to_bytes().is_err());
        assert!(seen(&[], MOST_VERSION + 1, &[]).to_bytes().is_err());
    }

    #[test]
    fn the_highest_counts_for_each_channel_and_architecture() {
        let mut all = seen(&[("stable/x86_64", 7), ("stable/arm64", 2)], 3, &["a"]);
        all.merge(&seen(&[("stable/x86_64", 5), ("beta/x86_64", 9)], 4, &["b"]));
        assert_eq!(
            all,
            seen(&[("stable/x86_64", 7), ("stable/arm64", 2), ("beta/x86_64", 9)], 4, &["a", "b"])
        );
        assert_eq!(all.lowest("stable", Arch::X86_64), 7);
        assert_eq!(all.lowest("stable", Arch::Aarch64), 2);
        assert_eq!(all.lowest("beta", Arch::Aarch64), 0);
        all.add_manifest("stable", Arch::X86_64, 6);
        assert_eq!(all.lowest("stable", Arch::X86_64), 7);
        all.add_manifest("stable", Arch::X86_64, 8);
        assert_eq!(all.lowest("stable", Arch::X86_64), 8);
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        let name = ("[a-z0-9_-][a-z0-9._-]{0,9}", prop::bool::ANY)
            .prop_map(|(channel, x86)| name(&channel, if x86 { Arch::X86_64 } else { Arch::Aarch64 }));
        let manifests = prop::collection::btree_map(name, 0..=MOST_VERSION, 0..5);
        let revoked = prop::collection::btree_set("[0-9a-f]{16}", 0..4);
        (manifests, 0..=MOST_VERSION, revoked).prop_map(|(manifests, keys_version, revoked)| Seen {
            manifests,
            keys_version,
            revoked,
        })
    }

    proptest! {
        #[test]
        fn writing_and_reading_are_inverse(seen in any_seen()) {
            prop_assert_eq!(Seen::parse(&seen.to_bytes().unwrap()), Ok(seen));
        }

        #[test]
        fn any_changed_byte_is_noticed(seen in any_seen(), at in any::<prop::sample::Index>(), flip in 1u8..=255) {
            let mut bytes = seen.to_bytes().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Seen::parse(&bytes).is_err());
        }

        #[test]
        fn any_lost_end_is_noticed(seen in any_seen(), length in any::<prop::sample::Index>()) {
            let bytes = seen.to_bytes().unwrap();
            prop_assert!(Seen::parse(&bytes[..length.index(bytes.len())]).is_err());
        }

        #[test]
        fn merging_never_goes_back(a in any_seen(), b in any_seen()) {
            let mut merged = a.clone();
            merged.merge(&b);
            for part in [&a, &b] {
                prop_assert!(part.manifests.iter().all(|(name, version)| merged.manifests[name] >= *version));
                prop_assert!(merged.keys_version >= part.keys_version);
                prop_assert!(merged.revoked.is_superset(&part.revoked));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Seen::parse(&bytes);
        }
    }
}
