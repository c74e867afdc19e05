//! Private Ed25519 keys, which only the host has: PKCS#8 PEM files, public halves, and signatures.
//!
//! A signature is Ed25519 (RFC 8032) over the 32-byte SHA-256 digest of the signed bytes, in padded
//! standard base64, so that `openssl pkeyutl -rawin` can make and check it too.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::files;
use crate::manifest::keys::{self, TrustedKey};

/// No key file is larger.
pub const KEY_FILE_LIMIT: u64 = 64 * 1024;

/// A private key that may sign.
pub struct Signing {
    key: SigningKey,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signing({})", self.id())
    }
}

impl Signing {
    /// A new key from the kernel's random generator; waits until that is ready.
    pub fn generate() -> Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        let filled = rustix::rand::getrandom(secret.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
            .context("cannot get random bytes: getrandom")?;
        ensure!(filled == secret.len(), "getrandom gave {filled} bytes instead of {}", secret.len());
        Ok(Self { key: SigningKey::from_bytes(&secret) })
    }

    /// Reads a private key that nobody but its owner can read.
    pub fn read(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.display();
            bail!("private key {path} is open to others (mode {mode:04o}); chmod 600 {path}");
        }
        let bytes = Zeroizing::new(files::read_from(&file, path, KEY_FILE_LIMIT)?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        if text.contains("ENCRYPTED PRIVATE KEY") {
            bail!("private key {} is protected by a passphrase, which is not supported", path.display());
        }
        if text.contains("PUBLIC KEY") {
            bail!("{} is a public key; signing needs the private one", path.display());
        }
        let key = SigningKey::from_pkcs8_pem(text).map_err(|error| {
            anyhow!("{} is not an Ed25519 private key (PKCS#8 PEM): {error}", path.display())
        })?;
        Ok(Self { key })
    }

    /// The private key as PKCS#8 PEM: version 1 without the public key, which every OpenSSL reads.
    pub fn private_pem(&self) -> Result<Zeroizing<String>> {
        use ed25519_dalek::pkcs8::EncodePrivateKey;
        let pair = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).map_err(|error| anyhow!("cannot encode the private key: {error}"))
    }

    /// The public key as SPKI PEM (RFC 8410).
    pub fn public_pem(&self) -> Result<String> {
        self.key
            .verifying_key()
            .to_public_key_pem(LineEnding::LF)
            .map_err(|error| anyhow!("cannot encode the public key: {error}"))
    }

    /// The public half, as machines trust it.
    pub fn trusted(&self) -> Result<TrustedKey> {
        TrustedKey::from_bytes(self.key.verifying_key().as_bytes()).map_err(|reason| anyhow!("{reason}"))
    }

    /// See [`keys::key_id`].
    pub fn id(&self) -> String {
        keys::key_id(self.key.verifying_key().as_bytes())
    }

    /// The signature over `data`, as manifests carry it.
    pub fn sign(&self, data: &[u8]) -> String {
        STANDARD.encode(self.key.sign(&Sha256::digest(data)).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::keyfile;

    #[test]
    fn phaseboot_knows_the_public_half() {
        let signing = Signing::generate().unwrap();
        let trusted = signing.trusted().unwrap();
        assert_eq!(trusted.id(), signing.id());
        assert_eq!(keyfile::parse_file(signing.public_pem().unwrap().as_bytes()).unwrap(), [trusted]);
    }

    #[test]
    fn the_private_key_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let signing = Signing::generate().unwrap();
        std::fs::write(&path, signing.private_pem().unwrap().as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Signing::read(&path).unwrap().id(), signing.id());

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Signing::read(&path).unwrap_err().to_string();
        assert!(refused.contains("mode 0640") && refused.contains("chmod 600"), "{refused}");
    }
}
