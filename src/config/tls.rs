//! Which TLS servers are trusted: the authorities and the pinned keys that the policy names.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::config::Policy;
use crate::time::UnixTime;

/// 1 MiB: larger than any bundle of authorities that is in use.
pub const MOST_BYTES: u64 = 1 << 20;
const PIN: &str = "sha256//";

/// The SHA-256 of a SubjectPublicKeyInfo: RFC 7469, section 2.4. Written as curl does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a key, from its DER encoding: RFC 5280, section 4.1.2.7.
    pub fn of(public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(public_key_info).into())
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hash = text.strip_prefix(PIN).and_then(|hash| BASE64_STANDARD.decode(hash).ok());
        hash.and_then(|hash| hash.try_into().ok()).map(Self).ok_or_else(|| {
            format!("\"{text}\" is no pin, which is {PIN} and the base64 of a SHA-256 of 32 bytes")
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PIN}{}", BASE64_STANDARD.encode(self.0))
    }
}

/// Which servers https believes. The default is any with a certificate that the public web accepts.
#[derive(Clone, Debug, Default)]
pub struct TlsTrust {
    roots: Option<Arc<RootCertStore>>,
    pins: Arc<[Pin]>,
    clock_floor: Option<UnixTime>,
}

impl TlsTrust {
    /// Reads the certificates that `policy` names from `folder`. An error names the file. It is never
    /// before `clock_floor`, whatever the clock says.
    pub fn read(
        folder: &Path,
        policy: &Policy,
        clock_floor: Option<UnixTime>,
    ) -> Result<Self, (PathBuf, String)> {
        let pins = policy.tls_pins.as_slice().into();
        if policy.tls_roots.is_empty() {
            return Ok(Self { roots: None, pins, clock_floor });
        }
        let mut roots = RootCertStore::empty();
        for name in &policy.tls_roots {
            let path = folder.join(name);
            let pem = read_bounded(&path).map_err(|reason| (path.clone(), reason))?;
            add_authorities(&mut roots, &pem).map_err(|reason| (path, reason))?;
        }
        Ok(Self { roots: Some(Arc::new(roots)), pins, clock_floor })
    }

    /// The authorities that count instead of the public ones, if the policy names any.
    pub fn roots(&self) -> Option<&Arc<RootCertStore>> {
        self.roots.as_ref()
    }

    /// The keys of which a server's chain must have one; any will do if there are none.
    pub fn pins(&self) -> &Arc<[Pin]> {
        &self.pins
    }

    /// The same authorities, and no pinned keys: for what is held against a signed hash anyway.
    pub fn without_pins(&self) -> Self {
        Self { pins: Arc::default(), ..self.clone() }
    }

    /// Whether the policy names servers at all: then an answer without TLS comes from none of them.
    pub fn names_servers(&self) -> bool {
        self.roots.is_some() || !self.pins.is_empty()
    }

    /// The time that certificates are held against: `clock`, but not before the initramfs was built.
    pub fn now(&self, clock: UnixTime) -> UnixTime {
        self.clock_floor.map_or(clock, |floor| clock.max(floor))
    }
}

/// Adds all authorities of a PEM file to `roots`.
pub fn add_authorities(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MOST_BYTES) {
        Ok(bytes)
    } else {
        Err(format!("it has more than {MOST_BYTES} bytes"))
    }
}

/// All certificates of a PEM file, at least one: RFC 7468.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("it holds no PEM certificate".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("it is damaged: {error}")),
    }
}

/// Whether `name` is one file in a folder, and not a way out of it.
pub(super) fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const CA: &str = include_str!("testdata/ca.pem");

    fn read(files: &[(&str, &[u8])], roots: &str) -> Result<TlsTrust, (PathBuf, String)> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let policy = Policy::parse(&format!("{{\"tls_roots\":{roots}}}")).unwrap();
        TlsTrust::read(folder.path(), &policy, None)
    }

    #[test]
    fn pins_are_canonical_base64_of_32_bytes() {
        let text = "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(Pin::try_from(text.to_owned()).unwrap(), Pin::of(b""));
        assert_eq!(Pin::of(b"").to_string(), text);
        for wrong in [
            "",
            "sha256//",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "SHA256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
            "sha256//47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= ",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hS",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUAAAAA",
        ] {
            let error = Pin::try_from(wrong.to_owned()).unwrap_err();
            assert!(error.contains("is no pin"), "{error}");
        }
    }

    #[test]
    fn named_roots_are_read_whole() {
        assert!(read(&[], "[]").unwrap().roots().is_none());
        let two = format!("an authority\n{CA}\n{CA}");
        let trust = read(&[("a.pem", CA.as_bytes()), ("b", two.as_bytes())], "[\"a.pem\",\"b\"]").unwrap();
        assert_eq!(trust.roots().unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let cut = &CA.as_bytes()[..CA.len() / 2];
        let junk = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let key = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let large = vec![b'\n'; 1 << 20 | 1];
        for (content, word) in [
            (&b""[..], "no PEM certificate"),
            (&b"\xff\x00"[..], "no PEM certificate"),
            (&key[..], "no PEM certificate"),
            (cut, "damaged"),
            (&junk[..], "invalid"),
            (&[CA.as_bytes(), junk].concat(), "invalid"),
            (&large, "more than 1048576 bytes"),
        ] {
            let (path, reason) = read(&[("a.pem", content)], "[\"a.pem\"]").unwrap_err();
            assert!(path.ends_with("a.pem") && reason.contains(word), "{word}: {reason}");
        }
        assert!(read(&[], "[\"a.pem\"]").unwrap_err().0.ends_with("a.pem"));
    }
}
