//! Documents as they are served, signed by keys that are made from a number.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A document as it is served, signed by one key.
pub(crate) fn signed(content: &Value, seed: u8) -> Vec<u8> {
    let data = content.to_string();
    let sig = key(seed).sign(&Sha256::digest(data.as_bytes()));
    let mut document = content.clone();
    document["signatures"] = json!([{"keyid": "k", "sig": BASE64_STANDARD.encode(sig.to_bytes())}]);
    document["signed"] = json!({"data": BASE64_STANDARD.encode(data)});
    document.to_string().into_bytes()
}
