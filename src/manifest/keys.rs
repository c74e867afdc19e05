//! Trusted public keys: their ids, and what limits them.

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

use crate::config::is_channel;
use crate::error::printable;
use crate::time::UnixTime;

const MOST_ID_BYTES: usize = 64;
const MOST_CHANNELS: usize = 64;

/// An Ed25519 public key whose signatures count, within its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    id: String,
    key: VerifyingKey,
    limits: Limits,
}

/// Where and how long the signatures of a key count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Only for these channels; none named means any.
    pub channels: Vec<String>,
    /// Not from this moment on.
    pub not_after: Option<UnixTime>,
}

impl TrustedKey {
    /// A key without limits, under its fingerprint.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, &'static str> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| "not a point of the curve Ed25519")?;
        if key.is_weak() {
            return Err("a weak key: anybody can sign for it");
        }
        // RFC 8032, section 5.1.3: one key has one spelling, and with it one fingerprint.
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err("not the canonical encoding of its point");
        }
        Ok(Self { id: key_id(bytes), key, limits: Limits::default() })
    }

    /// The same key under the id that its file or list gives it, if it gives one, and with its limits.
    pub fn named(self, id: Option<String>, limits: Limits) -> Self {
        Self { id: id.unwrap_or(self.id), key: self.key, limits }
    }

    /// The id that the key's file or list gives it, otherwise its fingerprint.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The first 16 hexadecimal digits of the SHA-256 of the 32 key bytes.
    pub fn fingerprint(&self) -> String {
        key_id(self.key.as_bytes())
    }

    /// The 32 key bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Where and how long its signatures count.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn key(&self) -> &VerifyingKey {
        &self.key
    }
}

impl Limits {
    /// Why signatures for `channel` do not count at `now`; `None` for `now` if time does not matter,
    /// for `channel` if they are for every channel.
    pub(super) fn bar(&self, channel: Option<&str>, now: Option<UnixTime>) -> Option<String> {
        if !self.channels.is_empty() && !channel.is_some_and(|name| self.channels.iter().any(|c| c == name)) {
            return Some(format!("may only sign for {}", self.channels.join(", ")));
        }
        let not_after = self.not_after.filter(|&end| now.is_some_and(|now| end <= now))?;
        Some(format!("its time ended at {not_after}"))
    }
}

/// Checks an id that a key's file or list gives it.
pub(crate) fn parse_id(id: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=MOST_ID_BYTES).contains(&id.len()) || !id.bytes().all(plain) {
        let id = printable(id);
        return Err(format!("id \"{id}\" is not 1 to {MOST_ID_BYTES} letters, digits, '.', '_' and '-'"));
    }
    // Otherwise one key could go by the fingerprint of another.
    if is_fingerprint(&id.to_ascii_lowercase()) {
        return Err(format!("id \"{id}\" looks like a fingerprint"));
    }
    Ok(id.to_owned())
}

/// Whether `text` can be the [`TrustedKey::fingerprint`] of a key.
pub fn is_fingerprint(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks the channels that limit a key. At least one: a key for no channel would be for nothing.
pub(super) fn parse_channels<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let mut channels = Vec::new();
    for name in names {
        if !is_channel(name) {
            return Err(format!("\"{}\" is no channel name", printable(name)));
        }
        if channels.len() == MOST_CHANNELS {
            return Err(format!("more than {MOST_CHANNELS} channels"));
        }
        channels.push(name.to_owned());
    }
    if channels.is_empty() { Err("channels is empty".to_owned()) } else { Ok(channels) }
}

/// Checks the end of a key's time.
pub(super) fn parse_not_after(text: &str) -> Result<UnixTime, String> {
    UnixTime::parse_rfc3339(text).ok_or_else(|| format!("\"{}\" is no RFC 3339 time", printable(text)))
}

/// The id of the key with these 32 bytes, where nothing else names it.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1.
    const RAW: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn ids() {
        let key = TrustedKey::from_bytes(&unhex(RAW).unwrap()).unwrap();
        assert_eq!(key.id(), "21fe31dfa154a261");
        let named = key.named(Some("release".into()), Limits::default());
        assert_eq!((named.id(), named.fingerprint().as_str()), ("release", "21fe31dfa154a261"));
        for wrong in ["", "a b", "21FE31dfa154a261", "a/b", "\u{e9}", &"a".repeat(65)] {
            assert!(parse_id(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn limits_bar_what_lies_outside() {
        let now = Some(UnixTime(100));
        let limits = Limits { channels: vec!["beta".into()], not_after: Some(UnixTime(100)) };
        assert!(limits.bar(Some("stable"), None).unwrap().contains("beta"));
        assert!(limits.bar(None, None).is_some());
        assert_eq!(limits.bar(Some("beta"), Some(UnixTime(99))), None);
        assert!(limits.bar(Some("beta"), now).unwrap().contains("ended"));
        assert_eq!(limits.bar(Some("beta"), None), None);
        assert_eq!(Limits::default().bar(None, now), None);
    }
}
