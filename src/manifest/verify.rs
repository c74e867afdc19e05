//! From bytes off the network to a [`VerifiedManifest`], in this order:
//!
//! 1. size, before anything is parsed;
//! 2. envelope: strict JSON, `signatures`, `signed.data`;
//! 3. signatures: distinct trusted keys reach the threshold, over SHA-256 of the decoded `signed.data`;
//! 4. only then the content of `signed.data` is looked at, and the outer copy must equal it;
//! 5. architecture, channel, expiry, version.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::Signature;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::arch::Arch;
use crate::manifest::schema::Manifest;
use crate::manifest::trust::Trust;
use crate::manifest::{Error, json};
use crate::time::UnixTime;

/// 1 MiB: a longer manifest is refused unread.
pub const MOST_BYTES: usize = 1 << 20;
const MOST_SIGNATURES: usize = 32;

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
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The ids of the trusted keys that signed it; none if the policy allows unsigned manifests.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }
}

/// What a manifest must be for.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub arch: Arch,
    pub channel: &'a str,
    /// The time that expiry counts against.
    pub now: UnixTime,
}

/// Verifies the manifest `bytes` found at `url`.
pub fn verify(
    bytes: &[u8],
    url: &str,
    trust: &Trust,
    expected: Expected<'_>,
) -> Result<VerifiedManifest, Error> {
    if bytes.len() > MOST_BYTES {
        return Err(Error::TooLarge { url: url.to_owned() });
    }
    let malformed = |reason: String| Error::Malformed { url: url.to_owned(), reason };
    let envelope = Envelope::parse(bytes).map_err(malformed)?;
    let (content, signers) = match envelope.signed {
        None if trust.policy().allow_unsigned => (envelope.outer, Vec::new()),
        None => return Err(Error::Unsigned { url: url.to_owned() }),
        Some(signed) => {
            let signers = signers(&signed, trust);
            if signers.len() < trust.policy().threshold {
                return Err(Error::NotTrusted {
                    url: url.to_owned(),
                    trusted: signers.len(),
                    threshold: trust.policy().threshold,
                    signatures: signed.signatures.len(),
                    known: trust.keys().len(),
                });
            }
            let inner =
                json::parse(&signed.data).map_err(|error| malformed(format!("signed.data: {error}")))?;
            if inner != envelope.outer {
                return Err(malformed(
                    "what stands outside signed.data differs from what was signed".to_owned(),
                ));
            }
            (inner, signers)
        }
    };
    let manifest = Manifest::from_value(&content).map_err(malformed)?;
    check(&manifest, url, trust, expected)?;
    Ok(VerifiedManifest { manifest, url: url.to_owned(), bytes: bytes.to_owned(), signers })
}

/// A manifest taken apart, with nothing in it believed.
struct Envelope {
    /// The manifest without `signatures` and `signed`: a copy for people.
    outer: Value,
    signed: Option<Signed>,
}

struct Signed {
    data: Vec<u8>,
    signatures: Vec<Signature>,
}

impl Envelope {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Value::Object(mut outer) = json::parse(bytes).map_err(|error| error.to_string())? else {
            return Err("it is no JSON object".to_owned());
        };
        let listed = match outer.remove("signatures") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(signatures)) => signatures,
            Some(_) => return Err("signatures is no array".to_owned()),
        };
        let data = outer.remove("signed");
        // Whoever brings `signed` or a signature is held to it, even where nobody has to sign.
        if listed.is_empty() && data.is_none() {
            return Ok(Self { outer: Value::Object(outer), signed: None });
        }
        if listed.len() > MOST_SIGNATURES {
            return Err(format!("more than {MOST_SIGNATURES} signatures"));
        }
        let data = data
            .as_ref()
            .and_then(|signed| signed.get("data"))
            .and_then(Value::as_str)
            .ok_or("signed.data is missing or no string")?;
        let data = BASE64_STANDARD.decode(data).map_err(|error| format!("signed.data: {error}"))?;
        let signatures = listed.iter().map(signature).collect::<Result<_, _>>()?;
        Ok(Self { outer: Value::Object(outer), signed: Some(Signed { data, signatures }) })
    }
}

fn signature(value: &Value) -> Result<Signature, String> {
    let fields: &Map<String, Value> = value.as_object().ok_or("a signature is no object")?;
    let text =
        fields.get("sig").and_then(Value::as_str).ok_or("a signature's sig is missing or no string")?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| format!("a signature's sig: {error}"))?;
    Signature::from_slice(&bytes).map_err(|_| format!("a signature has {} bytes instead of 64", bytes.len()))
}

/// The ids of the distinct trusted keys that signed. The `keyid` beside a signature is for people:
/// it is not signed, so every trusted key is tried.
fn signers(signed: &Signed, trust: &Trust) -> Vec<String> {
    let digest = Sha256::digest(&signed.data);
    trust
        .keys()
        .iter()
        .filter(|key| {
            signed.signatures.iter().any(|signature| key.key().verify_strict(&digest, signature).is_ok())
        })
        .map(|key| key.id().to_owned())
        .collect()
}

fn check(manifest: &Manifest, url: &str, trust: &Trust, expected: Expected<'_>) -> Result<(), Error> {
    let url = url.to_owned();
    if manifest.arch != expected.arch {
        return Err(Error::OtherArch { url, is: manifest.arch, wanted: expected.arch });
    }
    if manifest.channel != expected.channel {
        let (is, wanted) = (manifest.channel.clone(), expected.channel.to_owned());
        return Err(Error::OtherChannel { url, is, wanted });
    }
    if !trust.policy().allows_channel(&manifest.channel) {
        return Err(Error::ChannelNotAllowed { url, channel: manifest.channel.clone() });
    }
    if let Some(expires_at) = manifest.expires_at.filter(|&expires_at| expires_at <= expected.now) {
        return Err(Error::Expired { url, expires_at, now: expected.now });
    }
    let lowest = trust.policy().min_manifest_version;
    if manifest.manifest_version < lowest {
        return Err(Error::RolledBack { url, version: manifest.manifest_version, lowest });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::error::Exit;
    use crate::manifest::keys::{hex, parse_file};
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const URL: &str = "http://127.0.0.1/manifest.json";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn trust(seeds: &[u8], policy: &str) -> Trust {
        let keys = seeds
            .iter()
            .flat_map(|&seed| parse_file(hex(key(seed).verifying_key().as_bytes()).as_bytes()).unwrap())
            .collect();
        Trust::new(keys, Policy::parse(policy).unwrap())
    }

    fn content() -> Value {
        let artifact =
            |name: &str| json!({"hash": format!("sha256:{}", "ab".repeat(32)), "size": 5, "urls": [name]});
        json!({
            "version": "0.1", "manifest_version": 7, "channel": "stable", "arch": "x86_64",
            "created_at": "2026-11-01T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z",
            "artifacts": {"kernel": artifact("kernel"), "initramfs": artifact("initramfs")},
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
        let expected = Expected { arch: Arch::X86_64, channel: "stable", now: NOW };
        verify(envelope.to_string().as_bytes(), URL, trust, expected)
    }

    fn exit(envelope: &Value, trust: &Trust) -> Exit {
        verdict(envelope, trust).unwrap_err().exit()
    }

    #[test]
    fn a_manifest_signed_by_a_trusted_key_is_verified() {
        let verified = verdict(&signed(&content(), &[1]), &trust(&[1], "{}")).unwrap();
        assert_eq!(verified.manifest().manifest_version, 7);
        assert_eq!(verified.manifest().kernel.size, 5);
        assert_eq!(verified.signers().len(), 1);
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
    fn unsigned_forms_need_the_policy() {
        let artifact = |name: &str| {
            json!({"download_url": format!("/stable/x86_64/{name}"), "filename": name, "size_bytes": 1,
                   "hash": format!("sha256:{}", "00".repeat(32))})
        };
        let plasmd = json!({
            "arch": "x86_64", "artifacts": {"kernel": artifact("kernel"), "initramfs": artifact("initramfs")},
            "channel": "stable", "created_at": "2026-11-01T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z",
            "manifest_version": 1, "signatures": [], "version": "0.1.0",
        });
        assert_eq!(exit(&plasmd, &trust(&[1], "{}")), Exit::NotTrusted);
        let lax = trust(&[1], r#"{"allow_unsigned":true}"#);
        let verified = verdict(&plasmd, &lax).unwrap();
        assert_eq!(verified.manifest().kernel.urls, ["/stable/x86_64/kernel"]);
        assert!(verified.signers().is_empty());
        assert_eq!(exit(&signed(&content(), &[9]), &lax), Exit::NotTrusted);
        assert_eq!(exit(&signed(&content(), &[]), &lax), Exit::NotTrusted);
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
        assert_eq!(exit(&with("channel", json!("beta")), &trust("{}")), Exit::NotForUs);
        assert_eq!(exit(&with("expires_at", json!("2026-01-01T00:00:00Z")), &trust("{}")), Exit::NotForUs);
        assert_eq!(
            exit(&with("manifest_version", json!(1)), &trust(r#"{"min_manifest_version":2}"#)),
            Exit::NotForUs
        );
        assert_eq!(exit(&signed(&content(), &[1]), &trust(r#"{"channels":["lts"]}"#)), Exit::NotForUs);
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
            ("/arch", json!("riscv64")),
            ("/expires_at", json!("soon")),
            ("/cmdline", json!("a\nb")),
            ("/cmdline", json!("x".repeat(5000))),
            ("/artifacts", json!([])),
            ("/artifacts/kernel", json!(null)),
            ("/artifacts/kernel/hash", json!("sha256:00")),
            ("/artifacts/kernel/hash", json!("md5:00")),
            ("/artifacts/kernel/size", json!(0)),
            ("/artifacts/kernel/size", json!(u64::MAX)),
            ("/artifacts/kernel/urls", json!([])),
            ("/artifacts/kernel/urls", json!("kernel")),
            ("/artifacts/kernel/urls", json!(["a b"])),
            ("/artifacts/kernel/urls", json!(vec!["a"; 33])),
        ] {
            let mut content = content();
            *content.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(exit(&signed(&content, &[1]), &trust), Exit::ManifestMalformed, "{pointer} {value}");
        }
    }

    #[test]
    fn envelopes_that_are_none() {
        let trust = trust(&[1], "{}");
        let expected = Expected { arch: Arch::X86_64, channel: "stable", now: NOW };
        let code = |bytes: &[u8]| verify(bytes, URL, &trust, expected).unwrap_err().exit();
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
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let expected = Expected { arch: Arch::X86_64, channel: "stable", now: NOW };
            let trust = trust(&[1], "{}");
            prop_assert!(verify(&bytes, URL, &trust, expected).is_err());
        }
    }
}
