//! The envelope that manifests and key lists share: signatures over `signed.data`, and a copy of it
//! for people. Taken apart here, with nothing in it believed. Source: proto/MANIFEST.md.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::Signature;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::printable;
use crate::manifest::json;

/// 1 MiB: a longer document is refused unread.
pub const MOST_BYTES: usize = 1 << 20;
/// More signatures than this are no document that people sign.
pub const MOST_SIGNATURES: usize = 32;
/// The schema's versions that are understood are 0.x.
const MAJOR: &str = "0";

/// What a document says it is. Both kinds are signed the same way, so each must be told from the
/// other by what was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A boot manifest; also a document that names no kind, as Phase's do.
    Manifest,
    /// A key list.
    Keys,
}

/// Why a document cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is larger than 1 MiB")]
    TooLarge,
    #[error("{0}")]
    Malformed(String),
    /// Neither a signature nor `signed`.
    #[error("it is not signed")]
    Unsigned,
    #[error("it is signed in plasmd's own way, which does not say which bytes are signed")]
    ForeignSignature,
    #[error("what stands outside signed.data differs from what was signed")]
    OuterDiffers,
    #[error("its version \"{}\" is not understood (known: 0.x)", printable(.0))]
    UnknownVersion(String),
}

/// A document taken apart.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The document without `signatures` and `signed`: a copy for people.
    outer: Value,
    signed: Option<Signed>,
}

/// The bytes that were signed, and who says to have signed them.
#[derive(Clone, Debug)]
pub struct Signed {
    data: Vec<u8>,
    signatures: Vec<Signature>,
    /// Whom the signatures say to be by; nobody has signed that.
    keyids: Vec<String>,
}

impl Envelope {
    /// Takes a document apart: its size first, before anything is parsed.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() > MOST_BYTES {
            return Err(Fault::TooLarge);
        }
        if bytes.trim_ascii().is_empty() {
            return Err(Fault::Malformed("it is empty".to_owned()));
        }
        let value = json::parse(bytes).map_err(|error| Fault::Malformed(error.to_string()))?;
        let Value::Object(mut outer) = value else {
            return Err(Fault::Malformed("it is no JSON object".to_owned()));
        };
        let listed = match outer.remove("signatures") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(signatures)) => signatures,
            Some(_) => return Err(Fault::Malformed("signatures is no array".to_owned())),
        };
        let signed = match outer.remove("signed") {
            Some(signed) => Some(Signed::parse(&signed, &listed).map_err(Fault::Malformed)?),
            // Whoever brings `signed` or a signature is held to it, even where nobody has to sign.
            None if listed.is_empty() => None,
            None if listed.iter().all(is_plasmds) => return Err(Fault::ForeignSignature),
            None => return Err(Fault::Malformed("signatures without signed.data".to_owned())),
        };
        Ok(Self { outer: Value::Object(outer), signed })
    }

    /// The copy for people; the document itself where nobody signed it.
    pub fn outer(&self) -> &Value {
        &self.outer
    }

    /// What was signed, if anything.
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }

    /// What the document says: what was signed, which the copy must equal. To be asked only when
    /// the signatures have been counted.
    pub fn content(&self) -> Result<Value, Fault> {
        let Some(signed) = &self.signed else { return Ok(self.outer.clone()) };
        let inner =
            json::parse(&signed.data).map_err(|error| Fault::Malformed(format!("signed.data: {error}")))?;
        if inner == self.outer { Ok(inner) } else { Err(Fault::OuterDiffers) }
    }
}

impl Signed {
    fn parse(signed: &Value, listed: &[Value]) -> Result<Self, String> {
        if listed.len() > MOST_SIGNATURES {
            return Err(format!("more than {MOST_SIGNATURES} signatures"));
        }
        let data = signed.get("data").and_then(Value::as_str).ok_or("signed.data is missing or no string")?;
        let data = BASE64_STANDARD.decode(data).map_err(|error| format!("signed.data: {error}"))?;
        let signatures = listed.iter().map(signature).collect::<Result<_, _>>()?;
        let keyids = listed.iter().filter_map(|signature| signature.get("keyid")?.as_str());
        Ok(Self { data, signatures, keyids: keyids.map(str::to_owned).collect() })
    }

    /// The bytes of `signed.data`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// What each signature signs: the SHA-256 of [`Self::data`].
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.data).into()
    }

    /// The `keyid` beside each signature that has one: a claim, for people.
    pub fn keyids(&self) -> &[String] {
        &self.keyids
    }

    /// The signatures, in their order.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }
}

fn signature(value: &Value) -> Result<Signature, String> {
    let fields: &Map<String, Value> = value.as_object().ok_or("a signature is no object")?;
    let text =
        fields.get("sig").and_then(Value::as_str).ok_or("a signature's sig is missing or no string")?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| format!("a signature's sig: {error}"))?;
    Signature::from_slice(&bytes).map_err(|_| format!("a signature has {} bytes instead of 64", bytes.len()))
}

/// plasmd signs with `signature` in hexadecimal, where the protocol has `sig`.
fn is_plasmds(signature: &Value) -> bool {
    signature.get("sig").is_none() && signature.get("signature").is_some()
}

/// The kind of a document's content, whose schema version must be one that is understood.
pub fn kind(content: &Value) -> Result<Kind, Fault> {
    let version = content
        .get("version")
        .and_then(Value::as_str)
        .ok_or_else(|| Fault::Malformed("version is missing or no string".to_owned()))?;
    if version.split('.').next() != Some(MAJOR) {
        return Err(Fault::UnknownVersion(version.to_owned()));
    }
    match content.get("kind").map(Value::as_str) {
        None | Some(Some("manifest")) => Ok(Kind::Manifest),
        Some(Some("keys")) => Ok(Kind::Keys),
        Some(Some(other)) => {
            Err(Fault::Malformed(format!("kind \"{}\" is not understood", printable(other))))
        }
        Some(None) => Err(Fault::Malformed("kind is no string".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fault(document: &Value) -> Fault {
        Envelope::parse(document.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn what_is_no_envelope() {
        let malformed = |bytes: &[u8]| matches!(Envelope::parse(bytes), Err(Fault::Malformed(_)));
        for text in
            ["", " \n", "[]", "<html>", "null", "{\"signatures\":1}", "{\"a\":1,\"a\":2}", "\u{feff}{}"]
        {
            assert!(malformed(text.as_bytes()), "{text}");
        }
        assert!(malformed(b"{\"a\":\"\xff\"}"));
        let padded = |length: usize| {
            let mut bytes = b"{}".to_vec();
            bytes.resize(length, b' ');
            Envelope::parse(&bytes).map(drop)
        };
        assert_eq!(padded(MOST_BYTES), Ok(()));
        assert_eq!(padded(MOST_BYTES + 1), Err(Fault::TooLarge));
    }

    #[test]
    fn signatures_need_the_bytes_that_they_sign() {
        let sig = json!([{"keyid": "a", "sig": BASE64_STANDARD.encode([0; 64])}]);
        assert!(matches!(fault(&json!({"signatures": sig})), Fault::Malformed(_)));
        let plasmd = json!([{"algorithm": "ed25519", "key_id": "00", "signature": "00"}]);
        assert_eq!(fault(&json!({"signatures": plasmd})), Fault::ForeignSignature);
        assert!(matches!(
            fault(&json!({"signatures": plasmd, "signed": {"data": "e30="}})),
            Fault::Malformed(_)
        ));
        assert!(Envelope::parse(b"{\"signatures\":[]}").unwrap().signed().is_none());
        assert!(
            Envelope::parse(b"{\"signatures\":[],\"signed\":{\"data\":\"e30=\"}}")
                .unwrap()
                .signed()
                .is_some()
        );
    }

    #[test]
    fn base64_has_one_spelling() {
        for data in ["e30", "e3 0=", "e31=", "e30=\n", "e30==", "-_8="] {
            assert!(matches!(fault(&json!({"signed": {"data": data}})), Fault::Malformed(_)), "{data}");
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(kind(&json!({"version": "0.1"})), Ok(Kind::Manifest));
        assert_eq!(kind(&json!({"version": "0.1", "kind": "manifest"})), Ok(Kind::Manifest));
        assert_eq!(kind(&json!({"version": "0.9.1", "kind": "keys"})), Ok(Kind::Keys));
        assert_eq!(
            kind(&json!({"version": "1.0", "kind": "keys"})),
            Err(Fault::UnknownVersion("1.0".into()))
        );
        for content in [
            json!({}),
            json!({"version": 1}),
            json!({"version": "0.1", "kind": "Keys"}),
            json!({"version": "0.1", "kind": null}),
        ] {
            assert!(matches!(kind(&content), Err(Fault::Malformed(_))), "{content}");
        }
    }
}
