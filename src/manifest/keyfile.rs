//! Key files: trusted public keys in the forms people keep them in, with what limits them.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::error::printable;
use crate::manifest::keys::{self, Limits, TrustedKey, unhex};

/// Documents longer than this are no key files.
const MOST_BYTES: usize = 64 * 1024;
/// The DER that stands before the 32 key bytes in an Ed25519 SubjectPublicKeyInfo: RFC 8410, section 4.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The name and length fields before the key in an OpenSSH public key: RFC 8709, section 4.
const OPENSSH_PREFIX: &[u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// Reads every key of a file: 32 raw bytes, or text with PEM blocks (SubjectPublicKeyInfo) and lines
/// in hexadecimal, base64 or OpenSSH's form, in any mixture. Lines `id: NAME`, `channels: A, B` and
/// `not-after: TIME` (RFC 3339) are about the next key. Lines that are empty or start with `#` are
/// passed over; anything else is an error.
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
    let mut keys = Vec::new();
    let mut attributes = Attributes::default();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = attribute(line) {
            attributes.set(name, value)?;
            continue;
        }
        let bytes = if line == PEM_BEGIN { pem(&mut lines)? } else { key_line(line)? };
        let Attributes { id, limits } = std::mem::take(&mut attributes);
        keys.push(TrustedKey::from_bytes(&bytes)?.named(id, limits));
    }
    if attributes != Attributes::default() {
        return Err("no key follows the last id, channels or not-after".to_owned());
    }
    if keys.is_empty() {
        return Err("no key in it".to_owned());
    }
    Ok(keys)
}

/// What a file says about its next key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Attributes {
    id: Option<String>,
    limits: Limits,
}

impl Attributes {
    /// A name that is not known is an error: a misspelt limit must not loosen.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is_new = match name {
            "id" => self.id.replace(keys::parse_id(value)?).is_none(),
            "channels" => {
                let names = keys::parse_channels(value.split(',').map(str::trim))?;
                std::mem::replace(&mut self.limits.channels, names).is_empty()
            }
            "not-after" => self.limits.not_after.replace(keys::parse_not_after(value)?).is_none(),
            _ => return Err(format!("\"{name}:\" is not understood (known: id, channels, not-after)")),
        };
        if is_new { Ok(()) } else { Err(format!("{name} is given twice for one key")) }
    }
}

/// `name: value`, which no form of a key looks like.
fn attribute(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    (is_name && !name.starts_with('-')).then_some((name, value.trim()))
}

fn pem<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<[u8; 32], String> {
    let mut base64 = String::new();
    for line in lines {
        if line == PEM_END {
            let der = BASE64_STANDARD.decode(base64).map_err(|error| format!("PEM: {error}"))?;
            let key = der.strip_prefix(&SPKI_PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok());
            return key.ok_or_else(|| "PEM: not an Ed25519 public key".to_owned());
        }
        base64.push_str(line);
    }
    Err("PEM: a block does not end".to_owned())
}

fn key_line(line: &str) -> Result<[u8; 32], String> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let bytes = if first == "ssh-ed25519" {
        let blob = words.next().and_then(|blob| BASE64_STANDARD.decode(blob).ok());
        blob.and_then(|blob| <[u8; 32]>::try_from(blob.strip_prefix(OPENSSH_PREFIX)?).ok())
    } else if words.next().is_some() {
        None
    } else {
        unhex(first).or_else(|| from_base64(first))
    };
    bytes.ok_or_else(|| {
        format!("\"{}\" is no Ed25519 public key in hex, base64, PEM or OpenSSH form", printable(line))
    })
}

/// The 32 bytes of a key in base64.
pub(super) fn from_base64(text: &str) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixTime;
    use proptest::prelude::*;

    /// RFC 8032, section 7.1, test 1.
    const RAW: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn openssh() -> String {
        let blob = [OPENSSH_PREFIX, &unhex(RAW).unwrap()].concat();
        format!("ssh-ed25519 {} someone: at host", BASE64_STANDARD.encode(blob))
    }

    fn pem() -> String {
        let der = [&SPKI_PREFIX[..], &unhex(RAW).unwrap()].concat();
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64_STANDARD.encode(der))
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
            pem().replace('\n', "\r\n"),
            format!("# a: b\n\n{RAW}\n"),
        ] {
            assert_eq!(parse_file(text.as_bytes()).unwrap(), expected, "{text}");
        }
        assert_eq!(parse_file(format!("{}{RAW}\n{}", pem(), pem()).as_bytes()).unwrap().len(), 3);
        assert_eq!(parse_file(format!("{RAW}\n{}", openssh()).as_bytes()).unwrap().len(), 2);
    }

    #[test]
    fn attributes_are_about_the_next_key() {
        for form in [RAW.to_owned(), openssh(), pem()] {
            let text = format!(
                "id: release-2026\nchannels: stable, testing\n# until then\nnot-after: 2027-01-01T00:00:00Z\n{form}\n{RAW}\n"
            );
            let keys = parse_file(text.as_bytes()).unwrap();
            assert_eq!(keys[0].id(), "release-2026");
            assert_eq!(keys[0].limits().channels, ["stable", "testing"]);
            assert_eq!(keys[0].limits().not_after, Some(UnixTime(1_798_761_600)));
            assert_eq!((keys[1].id(), keys[1].limits()), ("21fe31dfa154a261", &Limits::default()));
        }
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
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "no Ed25519"),
            ("ssh-rsa AAAA x", "no Ed25519"),
            ("ssh-ed25519", "no Ed25519"),
        ] {
            let error = parse_file(text.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(parse_file(&[0xff; 33]).unwrap_err().contains("neither"));
        assert!(parse_file(&vec![b'#'; 100_000]).unwrap_err().contains("longer"));
    }

    #[test]
    fn misspelt_limits_are_refused() {
        for (lines, word) in [
            ("chanels: stable", "\"chanels:\" is not understood"),
            ("Channels: stable", "not understood"),
            ("channels:", "no channel name"),
            ("channels: a,,b", "no channel name"),
            ("channels: ../x", "no channel name"),
            ("channels: a\nchannels: b", "twice"),
            ("not-after: soon", "RFC 3339"),
            ("not-after: 2027-01-01", "RFC 3339"),
            ("id: a b", "id \"a b\""),
            ("id: a\nid: b", "twice"),
        ] {
            let error = parse_file(format!("{lines}\n{RAW}\n").as_bytes()).unwrap_err();
            assert!(error.contains(word), "{lines}: {error}");
        }
        let dangling = parse_file(format!("{RAW}\nchannels: beta\n").as_bytes()).unwrap_err();
        assert!(dangling.contains("no key follows"), "{dangling}");
    }

    proptest! {
        #[test]
        fn no_content_panics(content in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_file(&content);
        }

        #[test]
        fn no_text_panics(text in "((ssh-ed25519 |-----BEGIN PUBLIC KEY-----\n|id:|not-after: )?[A-Za-z0-9+/= \\n-]{0,90}\n?){1,3}") {
            let _ = parse_file(text.as_bytes());
        }
    }
}
