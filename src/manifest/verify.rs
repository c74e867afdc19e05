//! From bytes off the network to a [`VerifiedManifest`], in this order:
//!
//! 1. size, before anything is parsed;
//! 2. envelope: strict JSON, `signatures`, `signed.data`;
//! 3. signatures: distinct trusted keys reach the threshold, over SHA-256 of the decoded `signed.data`;
//! 4. only then the content of `signed.data` is looked at, and the outer copy must equal it;
//! 5. schema version, architecture, channel, expiry, rollback.

use crate::arch::Arch;
use crate::config::Policy;
use crate::error::without_controls;
use crate::manifest::envelope::{self, Envelope, Fault, Kind};
use crate::manifest::schema::Manifest;
use crate::manifest::{Error, Keyring};
use crate::time::UnixTime;

/// A manifest that this machine may boot. Only [`verify`] makes one.
#[derive(Clone, Debug)]
pub struct VerifiedManifest {
    manifest: Manifest,
    url: String,
    bytes: Vec<u8>,
    signers: Vec<String>,
}

impl VerifiedManifest {
    /// The file that was verified.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The content.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it was found: what its relative URLs are relative to.
    pub fn base(&self) -> &str {
        &self.url
    }

    /// The same for people, without a password.
    pub fn url(&self) -> String {
        without_controls(&self.url)
    }

    /// The ids of the trusted keys that signed it; none if the policy allows unsigned manifests.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// The same for people.
    pub fn signed_by(&self) -> String {
        match self.signers.as_slice() {
            [] => "nobody, which the policy allows".to_owned(),
            ids => ids.join(", "),
        }
    }
}

/// What a manifest must be for.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub arch: Arch,
    pub channel: &'a str,
    /// The time that expiry counts against; `None` where nothing expires.
    pub now: Option<UnixTime>,
    /// The highest version that this machine has seen for them; 0 if none.
    pub seen: u64,
}

/// Verifies the manifest `bytes` found at `url`.
pub fn verify(
    bytes: &[u8],
    url: &str,
    keyring: &Keyring,
    policy: &Policy,
    expected: Expected<'_>,
) -> Result<VerifiedManifest, Error> {
    let fault = |fault: Fault| Error::of_manifest(url, fault);
    let malformed = |reason: String| fault(Fault::Malformed(reason));
    let envelope = Envelope::parse(bytes).map_err(fault)?;
    let signers = match envelope.signed() {
        None if policy.allow_unsigned => Vec::new(),
        None => return Err(fault(Fault::Unsigned)),
        Some(signed) => {
            let count = keyring.count(signed, Some(expected.channel), expected.now);
            if count.signers.len() < keyring.threshold() {
                return Err(Error::NotTrusted {
                    url: url.to_owned(),
                    trusted: count.signers.len(),
                    threshold: keyring.threshold(),
                    signatures: signed.signatures().len(),
                    known: keyring.keys().len(),
                    uncounted: count.uncounted,
                });
            }
            count.signers.iter().map(|key| key.id().to_owned()).collect()
        }
    };
    let content = envelope.content().map_err(fault)?;
    if envelope::kind(&content).map_err(fault)? != Kind::Manifest {
        return Err(malformed("it is a key list, no manifest".to_owned()));
    }
    let manifest = Manifest::from_value(&content).map_err(malformed)?;
    check(&manifest, url, policy, expected)?;
    Ok(VerifiedManifest { manifest, url: url.to_owned(), bytes: bytes.to_owned(), signers })
}

fn check(manifest: &Manifest, url: &str, policy: &Policy, expected: Expected<'_>) -> Result<(), Error> {
    let url = url.to_owned();
    if manifest.arch.parse().ok() != Some(expected.arch) {
        return Err(Error::OtherArch { url, is: manifest.arch.clone(), wanted: expected.arch });
    }
    if manifest.channel != expected.channel {
        let (is, wanted) = (manifest.channel.clone(), expected.channel.to_owned());
        return Err(Error::OtherChannel { url, is, wanted });
    }
    if !policy.allows_channel(&manifest.channel) {
        return Err(Error::ChannelNotAllowed { url, channel: manifest.channel.clone() });
    }
    if policy.require_expiry && manifest.expires_at.is_none() {
        return Err(Error::NoExpiry { url });
    }
    if let Some((expires_at, now)) = manifest.expires_at.zip(expected.now).filter(|(end, now)| end <= now) {
        return Err(Error::Expired { url, expires_at, now });
    }
    let version = manifest.manifest_version;
    if version < policy.min_manifest_version {
        return Err(Error::RolledBack { url, version, lowest: policy.min_manifest_version });
    }
    if version < expected.seen {
        return Err(Error::Replayed { url, version, seen: expected.seen });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::manifest::envelope::MOST_BYTES;
    use crate::manifest::keys::Limits;
    use crate::manifest::{Seen, Trust, TrustedKey};
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const URL: &str = "http://127.0.0.1/manifest.json";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn trust(seeds: &[u8], policy: &str) -> Trust {
        let trusted = |&seed: &u8| TrustedKey::from_bytes(key(seed).verifying_key().as_bytes()).unwrap();
        let keys = seeds.iter().map(trusted).collect();
        Trust::new(keys, Policy::parse(policy).unwrap())
    }

    fn content() -> Value {
        let artifact = |name: &str| json!({"hash": format!("sha256:{}", "ab".repeat(32)), "size": 5, "urls": [name], "ipfs": "QmX"});
        json!({
            "version": "0.1", "manifest_version": 7, "channel": "stable", "arch": "x86_64",
            "created_at": "2026-11-01T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z",
            "artifacts": {
                "kernel": artifact("kernel"), "initramfs": artifact("initramfs"),
                "rootfs": artifact("rootfs"), "dtbs": {"a.dtb": artifact("dtb")},
            },
            "cmdline": "quiet",
        })
    }

    fn signed(content: &Value, seeds: &[u8]) -> Value {
        let data = content.to_string();
        let digest = Sha256::digest(data.as_bytes());
        let signatures: Vec<Value> = seeds
            .iter()
            .map(|&seed| json!({"keyid": "any", "sig": BASE64_STANDARD.encode(key(seed).sign(&digest).to_bytes())}))
            .collect();
        let mut envelope = content.clone();
        envelope["signatures"] = json!(signatures);
        envelope["signed"] = json!({"data": BASE64_STANDARD.encode(data)});
        envelope
    }

    fn verdict(envelope: &Value, trust: &Trust) -> Result<VerifiedManifest, Error> {
        verify_bytes(envelope.to_string().as_bytes(), trust)
    }

    fn verify_bytes(bytes: &[u8], trust: &Trust) -> Result<VerifiedManifest, Error> {
        let expected = Expected { arch: Arch::X86_64, channel: "stable", now: Some(NOW), seen: 5 };
        verify(bytes, URL, &trust.roots(&Seen::default()), trust.policy(), expected)
    }

    fn exit(envelope: &Value, trust: &Trust) -> Exit {
        verdict(envelope, trust).unwrap_err().exit()
    }

    #[test]
    fn a_manifest_signed_by_a_trusted_key_is_verified() {
        let verified = verdict(&signed(&content(), &[1]), &trust(&[1], "{}")).unwrap();
        assert_eq!(verified.manifest().manifest_version, 7);
        assert_eq!(verified.manifest().kernel.size, 5);
        let names: Vec<&str> = verified.manifest().artifacts().map(|spec| spec.name).collect();
        assert_eq!(names, ["kernel", "initramfs", "rootfs", "dtb"]);
        assert_eq!(verified.signers().len(), 1);
    }

    #[test]
    fn the_password_of_a_provider_is_for_requests_alone() {
        let (trust, url) = (trust(&[1], "{}"), "http://us:pw@a/m.json");
        let expected = Expected { arch: Arch::X86_64, channel: "stable", now: Some(NOW), seen: 5 };
        let bytes = signed(&content(), &[1]).to_string();
        let keyring = trust.roots(&Seen::default());
        let verified = verify(bytes.as_bytes(), url, &keyring, trust.policy(), expected).unwrap();
        assert_eq!((verified.base(), verified.url().as_str()), (url, "http://a/m.json"));
    }

    #[test]
    fn strangers_do_not_count() {
        assert_eq!(exit(&signed(&content(), &[2]), &trust(&[1], "{}")), Exit::NotTrusted);
        assert!(verdict(&signed(&content(), &[2, 1]), &trust(&[1], "{}")).is_ok());
    }

    #[test]
    fn the_threshold_counts_distinct_keys() {
        let two_of_three = trust(&[1, 2, 3], r#"{"threshold":2}"#);
        assert!(verdict(&signed(&content(), &[1, 3]), &two_of_three).is_ok());
        assert_eq!(exit(&signed(&content(), &[1]), &two_of_three), Exit::NotTrusted);
        assert_eq!(exit(&signed(&content(), &[1, 1]), &two_of_three), Exit::NotTrusted);
        assert_eq!(exit(&signed(&content(), &[1, 9]), &two_of_three), Exit::NotTrusted);
    }

    #[test]
    fn limits_of_a_key_hold() {
        let limited = |channels: &[&str], not_after| {
            let channels = channels.iter().map(|&name| name.to_owned()).collect();
            let key = TrustedKey::from_bytes(key(1).verifying_key().as_bytes()).unwrap();
            let trust = Trust::new(
                vec![key.named(Some("ci".to_owned()), Limits { channels, not_after })],
                Policy::default(),
            );
            verdict(&signed(&content(), &[1]), &trust)
        };
        assert!(limited(&["beta", "stable"], None).is_ok());
        let error = limited(&["beta"], None).unwrap_err();
        assert_eq!(error.exit(), Exit::NotTrusted);
        assert!(error.to_string().contains("ci signed, but may only sign for beta"), "{error}");
        assert!(limited(&[], Some(UnixTime(NOW.0 + 1))).is_ok());
        let error = limited(&[], Some(NOW)).unwrap_err().to_string();
        assert!(error.contains("ci signed, but its time ended"), "{error}");
    }

    #[test]
    fn unsigned_forms_need_the_policy() {
        let artifact = |name: &str| {
            json!({"download_url": format!("/stable/x86_64/{name}"), "filename": name, "size_bytes": 1,
                   "hash": format!("sha256:{}", "00".repeat(32))})
        };
        let plasmd = json!({
            "arch": "x86_64", "artifacts": {"kernel": artifact("kernel"), "initramfs": artifact("initramfs")},
            "channel": "stable", "created_at": "2026-11-01T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z",
            "manifest_version": 5, "signatures": [], "version": "0.1.0",
        });
        assert_eq!(exit(&plasmd, &trust(&[1], "{}")), Exit::NotTrusted);
        let lax = trust(&[1], r#"{"allow_unsigned":true}"#);
        let verified = verdict(&plasmd, &lax).unwrap();
        assert_eq!(verified.manifest().kernel.urls, ["/stable/x86_64/kernel"]);
        assert!(verified.signers().is_empty());
        assert_eq!(exit(&signed(&content(), &[9]), &lax), Exit::NotTrusted);
        assert_eq!(exit(&signed(&content(), &[]), &lax), Exit::NotTrusted);
        let mut own = plasmd.clone();
        own["signatures"] =
            json!([{"algorithm": "ed25519", "key_id": "00", "signature": "00", "signed_at": "x"}]);
        assert_eq!(verdict(&own, &lax).unwrap_err().verdict(), "foreign-signature");
    }

    #[test]
    fn the_outer_copy_must_be_what_was_signed() {
        let trust = trust(&[1], "{}");
        for (field, value) in
            [("cmdline", json!("init=/bin/sh")), ("extra", json!(1)), ("channel", json!("x"))]
        {
            let mut envelope = signed(&content(), &[1]);
            envelope[field] = value;
            assert_eq!(exit(&envelope, &trust), Exit::ManifestMalformed, "{field}");
        }
        let mut envelope = signed(&content(), &[1]);
        envelope.as_object_mut().unwrap().remove("cmdline");
        assert_eq!(exit(&envelope, &trust), Exit::ManifestMalformed);
    }

    #[test]
    fn not_for_this_machine() {
        let with = |field: &str, value: Value| {
            let mut content = content();
            content[field] = value;
            signed(&content, &[1])
        };
        let trust = |policy| trust(&[1], policy);
        assert_eq!(exit(&with("arch", json!("arm64")), &trust("{}")), Exit::NotForUs);
        assert_eq!(exit(&with("arch", json!("riscv64")), &trust("{}")), Exit::NotForUs);
        assert_eq!(
            exit(&with("expires_at", json!(null)), &trust(r#"{"require_expiry":true}"#)),
            Exit::NotForUs
        );
        assert_eq!(exit(&with("channel", json!("beta")), &trust("{}")), Exit::NotForUs);
        assert_eq!(exit(&with("expires_at", json!("2026-01-01T00:00:00Z")), &trust("{}")), Exit::NotForUs);
        assert_eq!(
            exit(&with("manifest_version", json!(1)), &trust(r#"{"min_manifest_version":2}"#)),
            Exit::NotForUs
        );
        assert_eq!(exit(&signed(&content(), &[1]), &trust(r#"{"channels":["lts"]}"#)), Exit::NotForUs);
        let replayed = verdict(&with("manifest_version", json!(4)), &trust("{}")).unwrap_err();
        assert!(matches!(replayed, Error::Replayed { version: 4, seen: 5, .. }), "{replayed}");
        assert!(verdict(&with("manifest_version", json!(5)), &trust("{}")).is_ok());
        let key_list = verdict(&with("kind", json!("keys")), &trust("{}")).unwrap_err();
        assert!(key_list.to_string().contains("key list"), "{key_list}");
        let newer = verdict(&with("version", json!("1.0")), &trust("{}")).unwrap_err();
        assert!(matches!(newer, Error::UnknownVersion { .. }), "{newer}");
    }

    #[test]
    fn fields_out_of_bounds_are_malformed() {
        let trust = trust(&[1], "{}");
        for (pointer, value) in [
            ("/version", json!("1.0")),
            ("/version", json!(1)),
            ("/manifest_version", json!(0)),
            ("/manifest_version", json!(-1)),
            ("/manifest_version", json!(1.5)),
            ("/channel", json!("../..")),
            ("/arch", json!(64)),
            ("/expires_at", json!("soon")),
            ("/cmdline", json!("a\nb")),
            ("/cmdline", json!("x".repeat(5000))),
            ("/artifacts", json!([])),
            ("/artifacts/kernel", json!(null)),
            ("/artifacts/kernel/hash", json!("sha256:00")),
            ("/artifacts/kernel/hash", json!("md5:00")),
            ("/artifacts/kernel/hash", json!(format!("sha256:{}", "AB".repeat(32)))),
            ("/artifacts/kernel/size", json!(0)),
            ("/artifacts/kernel/size", json!(u64::MAX)),
            ("/artifacts/kernel/urls", json!([])),
            ("/artifacts/kernel/urls", json!("kernel")),
            ("/artifacts/kernel/urls", json!(["a b"])),
            ("/artifacts/kernel/urls", json!(vec!["a"; 33])),
            ("/artifacts/kernel/ipfs", json!("a b")),
            ("/artifacts/rootfs", json!({})),
            ("/artifacts/dtbs", json!([])),
            ("/artifacts/dtbs/a.dtb", json!({})),
        ] {
            let mut content = content();
            *content.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(exit(&signed(&content, &[1]), &trust), Exit::ManifestMalformed, "{pointer} {value}");
        }
    }

    #[test]
    fn envelopes_that_are_none() {
        let trust = trust(&[1], "{}");
        let code = |bytes: &[u8]| verify_bytes(bytes, &trust).unwrap_err().exit();
        for text in ["", "[]", "<html>", "{\"signatures\":1}", "{\"a\":1,\"a\":2}", "null"] {
            assert_eq!(code(text.as_bytes()), Exit::ManifestMalformed, "{text}");
        }
        assert_eq!(code(&vec![b' '; MOST_BYTES + 1]), Exit::ManifestMalformed);
        for (pointer, value) in [
            ("/signed", json!({})),
            ("/signed/data", json!("e30")),
            ("/signed/data", json!("e3 0=")),
            ("/signatures/0", json!("x")),
            ("/signatures/0/sig", json!("AAAA")),
            ("/signatures/0/sig", json!(7)),
        ] {
            let mut envelope = signed(&content(), &[1]);
            *envelope.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(exit(&envelope, &trust), Exit::ManifestMalformed, "{pointer} {value}");
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_of_what_was_signed_is_refused(at in 0usize..10_000, flip in 1u8..=255) {
            let mut envelope = signed(&content(), &[1]);
            let mut data = BASE64_STANDARD.decode(envelope["signed"]["data"].as_str().unwrap()).unwrap();
            let at = at % data.len();
            data[at] ^= flip;
            envelope["signed"]["data"] = json!(BASE64_STANDARD.encode(data));
            prop_assert_eq!(exit(&envelope, &trust(&[1], "{}")), Exit::NotTrusted);
        }

        #[test]
        fn any_changed_byte_of_a_signature_is_refused(at in 0usize..64, flip in 1u8..=255) {
            let mut envelope = signed(&content(), &[1]);
            let mut sig = BASE64_STANDARD.decode(envelope["signatures"][0]["sig"].as_str().unwrap()).unwrap();
            sig[at] ^= flip;
            envelope["signatures"][0]["sig"] = json!(BASE64_STANDARD.encode(sig));
            prop_assert_eq!(exit(&envelope, &trust(&[1], "{}")), Exit::NotTrusted);
        }

        #[test]
        fn any_changed_byte_of_a_key_is_refused(at in 0usize..32, flip in 1u8..=255) {
            let mut bytes = *key(1).verifying_key().as_bytes();
            bytes[at] ^= flip;
            // Half of all strings are no point of the curve, which is refused when the key is read.
            if let Ok(changed) = TrustedKey::from_bytes(&bytes) {
                let trust = Trust::new(vec![changed], Policy::default());
                prop_assert_eq!(exit(&signed(&content(), &[1]), &trust), Exit::NotTrusted);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let trust = trust(&[1], "{}");
            prop_assert!(verify_bytes(&bytes, &trust).is_err());
        }
    }
}
