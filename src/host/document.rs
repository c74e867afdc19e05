//! Signed documents as people make them: a manifest or a key list, the bytes that are signed, and
//! signatures that are added one by one, maybe on several machines. proto/MANIFEST.md
//!
//! A document is a well-formed manifest or key list from the start: nothing else is ever signed.

use std::fmt;
use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::files;
use super::signing::Signing;
use crate::error::printable;
use crate::manifest::envelope::{self, Fault, Kind, MOST_SIGNATURES};
use crate::manifest::keys::hex;
use crate::manifest::{Envelope, Error, KeyListContent, MOST_BYTES, Manifest, TrustedKey};

/// What a document says.
#[derive(Clone, Debug)]
pub enum Content {
    Manifest(Box<Manifest>),
    Keys(KeyListContent),
}

/// A document and its signatures.
#[derive(Clone, Debug)]
pub struct Document {
    value: Value,
    content: Content,
    data: Vec<u8>,
    signatures: Vec<Value>,
}

impl Document {
    /// A document that nobody has signed yet; `name` is for messages.
    ///
    /// What will be signed is its canonical form: object keys sorted by their bytes, no white space,
    /// which is how `serde_json` writes a [`Value`].
    pub fn new(value: Value, name: &str) -> Result<Self, Error> {
        let content = content(&value, name, Error::of_manifest)?;
        Ok(Self::unsigned(value, content))
    }

    fn unsigned(value: Value, content: Content) -> Self {
        let data = value.to_string().into_bytes();
        Self { value, content, data, signatures: Vec::new() }
    }

    /// Takes a document apart, signed or not. What was signed stays as it is, to the byte.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, Error> {
        Self::parse_as(bytes, name, Error::of_manifest)
    }

    /// [`Self::parse`] of what is to be a key list: so are its faults.
    pub fn parse_key_list(bytes: &[u8], name: &str) -> Result<Self, Error> {
        Self::parse_as(bytes, name, of_key_list)
    }

    fn parse_as(bytes: &[u8], name: &str, of: fn(&str, Fault) -> Error) -> Result<Self, Error> {
        let fault = |fault| of(name, fault);
        let envelope = Envelope::parse(bytes).map_err(fault)?;
        let value = envelope.content().map_err(fault)?;
        let content = content(&value, name, of)?;
        let Some(signed) = envelope.signed() else { return Ok(Self::unsigned(value, content)) };
        let outer: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let signatures = outer.get("signatures").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Self { value, content, data: signed.data().to_owned(), signatures })
    }

    /// [`Self::parse`] of a file.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::parse(&read_bytes(path)?, &path.display().to_string())?)
    }

    /// [`Self::parse_key_list`] of a file.
    pub fn read_key_list(path: &Path) -> Result<Self> {
        Ok(Self::parse_key_list(&read_bytes(path)?, &path.display().to_string())?)
    }

    /// What it says.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// What it says, as JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// What a signature is made over: the SHA-256 of the bytes of `signed.data`.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.data).into()
    }

    /// The ids that stand beside its signatures, which nobody has verified.
    pub fn claimed_signers(&self) -> Vec<String> {
        let id =
            |signature: &Value| signature.get("keyid").and_then(Value::as_str).map_or("-".into(), printable);
        self.signatures.iter().map(id).collect()
    }

    /// Whether `key` has signed it.
    pub fn is_signed_by(&self, key: &TrustedKey) -> bool {
        self.signatures.iter().any(|signature| {
            let bytes =
                signature.get("sig").and_then(Value::as_str).and_then(|sig| STANDARD.decode(sig).ok());
            bytes.is_some_and(|bytes| is_by(key, &self.digest(), &bytes))
        })
    }

    /// Signs it, unless `key` has done so before. Returns whether it was added.
    pub fn sign(&mut self, key: &Signing) -> Result<bool> {
        self.add(&key.trusted()?, &key.sign(&self.digest()))
    }

    /// Adds a signature that was made elsewhere, if it is one by `key` over this document.
    pub fn add(&mut self, key: &TrustedKey, signature: &[u8]) -> Result<bool> {
        ensure!(
            is_by(key, &self.digest(), signature),
            "the signature is none by {} over this document, whose digest is {}",
            key.id(),
            hex(&self.digest())
        );
        if self.is_signed_by(key) {
            return Ok(false);
        }
        ensure!(self.signatures.len() < MOST_SIGNATURES, "there are {MOST_SIGNATURES} signatures already");
        self.signatures.push(json!({ "keyid": key.fingerprint(), "sig": STANDARD.encode(signature) }));
        Ok(true)
    }

    /// Takes over the signatures that `other` has too, if what is signed is the same to the byte.
    /// Returns whether it is.
    pub fn unite(&mut self, other: &Self) -> Result<bool> {
        if self.data != other.data {
            return Ok(false);
        }
        let is_in = |all: &[Value], one: &Value| all.iter().any(|known| known.get("sig") == one.get("sig"));
        let mut signatures = other.signatures.clone();
        signatures.extend(self.signatures.iter().filter(|ours| !is_in(&other.signatures, ours)).cloned());
        ensure!(signatures.len() <= MOST_SIGNATURES, "there are {MOST_SIGNATURES} signatures already");
        self.signatures = signatures;
        Ok(true)
    }

    /// The file.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut fields: Map<String, Value> = self.value.as_object().cloned().unwrap_or_default();
        fields.insert("signatures".to_owned(), self.signatures.clone().into());
        fields.insert("signed".to_owned(), json!({ "data": STANDARD.encode(&self.data) }));
        let mut text = serde_json::to_string_pretty(&fields)?;
        text.push('\n');
        ensure!(text.len() <= MOST_BYTES, "the document would be larger than 1 MiB");
        Ok(text.into_bytes())
    }
}

/// Reads a document's file; of one that is too large a byte more than is allowed, which says so.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    files::read_start(path, u64::try_from(MOST_BYTES)?.saturating_add(1))
}

/// What the document is, for people to know what they sign.
impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expires = match &self.content {
            Content::Manifest(manifest) => {
                let Manifest { channel, arch, manifest_version, .. } = &**manifest;
                write!(f, "manifest {channel}/{} version {manifest_version}", printable(arch))?;
                manifest.expires_at
            }
            Content::Keys(list) => {
                let KeyListContent { keys_version, threshold, keys, revoked, .. } = list;
                let ids: Vec<&str> = keys.iter().map(TrustedKey::id).collect();
                write!(f, "key list version {keys_version}, {threshold} of {}", ids.join(", "))?;
                if !revoked.is_empty() {
                    write!(f, ", {} revoked", revoked.len())?;
                }
                list.expires_at
            }
        };
        match expires {
            Some(time) => write!(f, ", expires {time}"),
            None => f.write_str(", never expires"),
        }
    }
}

/// Strict, as phaseboot is: RFC 8032 without the points of small order.
fn is_by(key: &TrustedKey, digest: &[u8; 32], signature: &[u8]) -> bool {
    let Ok(signature) = Signature::from_slice(signature) else { return false };
    VerifyingKey::from_bytes(key.bytes()).is_ok_and(|key| key.verify_strict(digest, &signature).is_ok())
}

/// A fault of what is to be a key list.
pub fn of_key_list(name: &str, fault: Fault) -> Error {
    Error::KeysMalformed { url: name.to_owned(), reason: fault.to_string() }
}

fn content(value: &Value, name: &str, of: fn(&str, Fault) -> Error) -> Result<Content, Error> {
    let fault = |fault| of(name, fault);
    match envelope::kind(value).map_err(fault)? {
        Kind::Manifest => Manifest::from_value(value)
            .map(|manifest| Content::Manifest(Box::new(manifest)))
            .map_err(|reason| fault(Fault::Malformed(reason))),
        Kind::Keys => KeyListContent::from_value(value)
            .map(Content::Keys)
            .map_err(|reason| Error::KeysMalformed { url: name.to_owned(), reason }),
    }
}

/// A signature as HSMs and openssl write it: 64 bytes, or these in hexadecimal or base64.
pub fn parse_signature(bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.len() == 64 {
        return Ok(bytes.to_owned());
    }
    let text: String = String::from_utf8_lossy(bytes).split_ascii_whitespace().collect();
    let from_hex = || -> Option<Vec<u8>> {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let digits: Vec<u8> = text.as_bytes().iter().map(digit).collect::<Option<_>>()?;
        Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
    };
    let decoded = if text.len() == 128 { from_hex() } else { STANDARD.decode(&text).ok() };
    decoded
        .filter(|bytes| bytes.len() == 64)
        .ok_or_else(|| anyhow!("no signature: neither 64 bytes nor these in hexadecimal or base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Value {
        let artifact =
            json!({ "hash": format!("sha256:{}", "00".repeat(32)), "size": 5, "urls": ["a\u{e9}"] });
        json!({
            "version": "0.1", "manifest_version": 1, "channel": "stable", "arch": "x86_64",
            "artifacts": { "kernel": artifact, "initramfs": artifact }, "b": [1, { "d": null, "c": true }],
        })
    }

    fn ascii() -> Value {
        serde_json::from_str(&manifest().to_string().replace('\u{e9}', "e")).unwrap()
    }

    #[test]
    fn only_well_formed_documents_come_to_be() {
        let refused = |value: Value| Document::new(value, "it").unwrap_err().verdict();
        assert_eq!(refused(json!({})), "malformed");
        assert_eq!(refused(manifest()), "malformed", "a URL that is none");
        assert_eq!(refused(json!({ "version": "1.0" })), "unknown-version");
        assert_eq!(refused(json!({ "version": "0.1", "kind": "keys" })), "keys-malformed");
        assert_eq!(Document::parse(b"{", "it").unwrap_err().verdict(), "malformed");
    }

    #[test]
    fn what_is_signed_is_canonical_and_stays() {
        let mut document = Document::new(ascii(), "it").unwrap();
        let text = String::from_utf8(document.data.clone()).unwrap();
        assert!(text.starts_with("{\"arch\":\"x86_64\",\"artifacts\":{\"initramfs\":{\"hash\":"), "{text}");
        assert!(text.contains("\"b\":[1,{\"c\":true,\"d\":null}]"), "{text}");
        // Signed elsewhere, in other words.
        document.data = format!(" {text}\n").into_bytes();
        let key = Signing::generate().unwrap();
        assert!(document.sign(&key).unwrap());
        assert!(!document.sign(&key).unwrap(), "once is enough");
        let again = Document::parse(&document.bytes().unwrap(), "it").unwrap();
        assert_eq!(again.data, document.data);
        assert_eq!(again.claimed_signers(), [key.id()]);
        assert!(again.is_signed_by(&key.trusted().unwrap()));
        assert!(!again.is_signed_by(&Signing::generate().unwrap().trusted().unwrap()));
    }

    #[test]
    fn signatures_come_in_three_forms() {
        let bytes: Vec<u8> = (100..164).collect();
        for text in [
            bytes.clone(),
            hex(&bytes).to_uppercase().into(),
            format!("{}\n", STANDARD.encode(&bytes)).into(),
        ] {
            assert_eq!(parse_signature(&text).unwrap(), bytes);
        }
        for text in [&b""[..], &[7; 63], &[b'x'; 128], b"AAAA"] {
            assert!(parse_signature(text).is_err());
        }
    }
}
