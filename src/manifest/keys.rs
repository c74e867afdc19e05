//! Trusted public keys, in the forms people keep them in.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

/// Documents longer than this are no key files.
const MOST_BYTES: usize = 64 * 1024;
/// The DER that stands before the 32 key bytes in an Ed25519 SubjectPublicKeyInfo: RFC 8410, section 4.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The name and length fields before the key in an OpenSSH public key: RFC 8709, section 4.
const OPENSSH_PREFIX: &[u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";

/// An Ed25519 public key whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    id: String,
    key: VerifyingKey,
}

impl TrustedKey {
    /// The first 16 hexadecimal digits of the SHA-256 of the 32 key bytes.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn key(&self) -> &VerifyingKey {
        &self.key
    }

    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Result<Self, &'static str> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| "not a point of the curve Ed25519")?;
        if key.is_weak() {
            return Err("a weak key: anybody can sign for it");
        }
        Ok(Self { id: key_id(bytes), key })
    }
}

/// The id of the key with these 32 bytes.
pub fn key_id(key: &[u8; 32]) -> String {
    hex(&Sha256::digest(key)).chars().take(16).collect()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads 32 bytes from 64 lower- or upper-case hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        // from_str_radix would take a sign.
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Reads every key of a file: 32 raw bytes, PEM blocks (SubjectPublicKeyInfo), or lines in
/// hexadecimal, base64 or OpenSSH's form. Lines that are empty or start with `#` are passed over.
pub fn parse_file(content: &[u8]) -> Result<Vec<TrustedKey>, String> {
    if content.len() > MOST_BYTES {
        return Err(format!("longer than {MOST_BYTES} bytes"));
    }
    if let Ok(raw) = <&[u8; 32]>::try_from(content) {
        return Ok(vec![TrustedKey::from_bytes(raw)?]);
    }
    let text = std::str::from_utf8(content).map_err(|_| "neither 32 raw bytes nor text")?;
    if text.contains("PRIVATE KEY-----") {
        return Err("it holds a private key; only the public one belongs here".to_owned());
    }
    let keys = if text.contains("-----BEGIN") {
        parse_pem(text)?
    } else {
        text.lines().filter_map(parse_line).collect::<Result<_, _>>()?
    };
    if keys.is_empty() {
        return Err("no key in it".to_owned());
    }
    Ok(keys)
}

fn parse_pem(text: &str) -> Result<Vec<TrustedKey>, String> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN PUBLIC KEY-----") {
        let (body, next) = after.split_once("-----END PUBLIC KEY-----").ok_or("a PEM block does not end")?;
        let base64: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = BASE64_STANDARD.decode(base64).map_err(|error| format!("PEM: {error}"))?;
        let key = der
            .strip_prefix(&SPKI_PREFIX)
            .and_then(|key| <&[u8; 32]>::try_from(key).ok())
            .ok_or("PEM: not an Ed25519 public key")?;
        keys.push(TrustedKey::from_bytes(key)?);
        rest = next;
    }
    if keys.is_empty() {
        return Err("PEM: no block named PUBLIC KEY".to_owned());
    }
    Ok(keys)
}

fn parse_line(line: &str) -> Option<Result<TrustedKey, String>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    let bytes = if first == "ssh-ed25519" {
        let blob = words.next().and_then(|blob| BASE64_STANDARD.decode(blob).ok());
        blob.and_then(|blob| <[u8; 32]>::try_from(blob.strip_prefix(OPENSSH_PREFIX)?).ok())
    } else if words.next().is_some() {
        None
    } else {
        unhex(first).or_else(|| BASE64_STANDARD.decode(first).ok()?.try_into().ok())
    };
    Some(match bytes {
        Some(bytes) => TrustedKey::from_bytes(&bytes).map_err(str::to_owned),
        None => Err(format!(
            "\"{}\" is no Ed25519 public key in hex, base64, PEM or OpenSSH form",
            crate::error::printable(line)
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 8032, section 7.1, test 1.
    const RAW: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn openssh() -> String {
        let blob = [OPENSSH_PREFIX, &unhex(RAW).unwrap()].concat();
        format!("ssh-ed25519 {} someone@host", BASE64_STANDARD.encode(blob))
    }

    fn pem() -> String {
        let der = [&SPKI_PREFIX[..], &unhex(RAW).unwrap()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(der))
    }

    #[test]
    fn every_form_gives_the_same_key() {
        let raw = unhex(RAW).unwrap();
        let expected = parse_file(&raw).unwrap();
        assert_eq!(expected[0].id(), "21fe31dfa154a261");
        for text in [
            RAW.to_owned(),
            RAW.to_uppercase(),
            BASE64_STANDARD.encode(raw),
            openssh(),
            pem(),
            format!("# a\n\n{RAW}\n"),
        ] {
            assert_eq!(parse_file(text.as_bytes()).unwrap(), expected, "{text}");
        }
        assert_eq!(parse_file(format!("{}{}", pem(), pem()).as_bytes()).unwrap().len(), 2);
        assert_eq!(parse_file(format!("{RAW}\n{}", openssh()).as_bytes()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let small_order = "0100000000000000000000000000000000000000000000000000000000000000";
        for (text, word) in [
            ("", "no key"),
            ("# only a comment\n", "no key"),
            ("hello", "no Ed25519 public key"),
            (small_order, "weak"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "not an Ed25519"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA", "does not end"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "private"),
            ("ssh-rsa AAAA x", "no Ed25519"),
            ("ssh-ed25519", "no Ed25519"),
        ] {
            let error = parse_file(text.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(parse_file(&[0xff; 33]).unwrap_err().contains("neither"));
        assert!(parse_file(&vec![b'#'; 100_000]).unwrap_err().contains("longer"));
    }

    proptest! {
        #[test]
        fn no_content_panics(content in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_file(&content);
        }

        #[test]
        fn no_text_panics(text in "(ssh-ed25519 |-----BEGIN PUBLIC KEY-----)?[A-Za-z0-9+/= \\n-]{0,90}") {
            let _ = parse_file(text.as_bytes());
        }
    }
}
