//! Ed25519 keys on the host: private keys from PKCS#8 PEM, public keys in every form that phaseboot
//! reads, key ids, and signatures.
//!
//! A signature is Ed25519 (RFC 8032) over the 32-byte SHA-256 digest of the signed bytes, in padded
//! standard base64, so that `openssl pkeyutl -rawin` can make and check it too.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::files;

/// No key file is larger.
const KEY_FILE_LIMIT: u64 = 64 * 1024;

/// The first 16 hexadecimal digits of the SHA-256 of the raw public key.
pub fn key_id(key: &VerifyingKey) -> String {
    let mut id = files::hex(&Sha256::digest(key.as_bytes()));
    id.truncate(16);
    id
}

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

    /// See [`key_id`].
    pub fn id(&self) -> String {
        key_id(&self.key.verifying_key())
    }

    /// The signature over `data`, as manifests carry it.
    pub fn sign(&self, data: &[u8]) -> String {
        STANDARD.encode(self.key.sign(&Sha256::digest(data)).to_bytes())
    }
}

/// Reads a public key file in one of the forms that phaseboot accepts: PEM (SPKI), OpenSSH
/// `ssh-ed25519`, 64 hexadecimal digits, base64, or 32 raw bytes.
pub fn read_public(path: &Path) -> Result<(VerifyingKey, Vec<u8>)> {
    let bytes = Zeroizing::new(files::read(path, KEY_FILE_LIMIT)?);
    if bytes.windows(11).any(|window| window == b"PRIVATE KEY") {
        bail!("{} is a private key; only public keys go into an initramfs", path.display());
    }
    let key =
        parse_public(&bytes).ok_or_else(|| anyhow!("{} is not an Ed25519 public key", path.display()))?;
    ensure!(!key.is_weak(), "the public key {} is weak: anybody can forge its signatures", path.display());
    Ok((key, bytes.to_vec()))
}

fn parse_public(bytes: &[u8]) -> Option<VerifyingKey> {
    if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
        return VerifyingKey::from_bytes(&raw).ok();
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if text.starts_with("-----BEGIN") {
        return VerifyingKey::from_public_key_pem(text).ok();
    }
    let raw = if let Some(rest) = text.strip_prefix("ssh-ed25519 ") {
        // RFC 8709, section 4: string "ssh-ed25519", string key; each string after its length.
        let blob = STANDARD.decode(rest.split_whitespace().next()?).ok()?;
        blob.strip_prefix(b"\0\0\0\x0bssh-ed25519\0\0\0\x20")?.to_vec()
    } else if text.len() == 64 {
        (0..32).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()).collect::<Option<_>>()?
    } else {
        STANDARD.decode(text).ok()?
    };
    VerifyingKey::from_bytes(&raw.try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_form_is_the_same_key() {
        let signing = Signing::generate().unwrap();
        let key = signing.key.verifying_key();
        let raw = key.to_bytes();
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend_from_slice(&raw);
        let forms = [
            raw.to_vec(),
            files::hex(&raw).into_bytes(),
            files::hex(&raw).to_uppercase().into_bytes(),
            format!("{}\n", STANDARD.encode(raw)).into_bytes(),
            signing.public_pem().unwrap().into_bytes(),
            format!("ssh-ed25519 {} somebody@somewhere\n", STANDARD.encode(blob)).into_bytes(),
        ];
        for form in forms {
            assert_eq!(parse_public(&form), Some(key), "{}", String::from_utf8_lossy(&form));
        }
        for wrong in [&b""[..], b"ssh-rsa AAAA", &[b'0'; 63], "\u{e9}".repeat(32).as_bytes()] {
            assert_eq!(parse_public(wrong), None);
        }
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
        assert!(read_public(&path).unwrap_err().to_string().contains("is a private key"));
    }
}
