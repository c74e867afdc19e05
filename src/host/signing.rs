//! Private Ed25519 keys, which only the host has: PKCS#8 PEM files, public halves, and signatures.
//!
//! A signature is Ed25519 (RFC 8032) over the 32-byte SHA-256 digest of the signed bytes, so that
//! `openssl pkeyutl -rawin` can make and check it too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ed25519_dalek::pkcs8::KeypairBytes;
use ed25519_dalek::{Signer, SigningKey};
use pkcs8::pkcs5::{self, pbes2};
use pkcs8::{
    DecodePrivateKey, EncodePrivateKey, EncodePublicKey, EncryptedPrivateKeyInfoRef, LineEnding,
    PrivateKeyInfoRef, SecretDocument,
};
use zeroize::Zeroizing;

use super::files;
use super::passphrase::{self, Passphrase, Passphrases};
use crate::manifest::{TrustedKey, keyfile, keys};

/// No key file is larger.
pub const KEY_FILE_LIMIT: u64 = 64 * 1024;
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// What guessing a passphrase costs: scrypt with N = 2^14, r = 8, p = 5, of OWASP's equal choices
/// (Password Storage Cheat Sheet) the one for which OpenSSL 3 does not refuse the memory (32 MiB).
const SCRYPT_LOG_N: u8 = 14;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 5;
/// A key file that asks for more work is damaged: N times r times p of scrypt, rounds of PBKDF2.
const MOST_SCRYPT: u64 = 1 << 27;
const MOST_ROUNDS: u32 = 100_000_000;

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
        Ok(Self { key: SigningKey::from_bytes(&*random()?) })
    }

    /// Reads a private key that nobody but its owner can read. `passphrases` are for an encrypted one.
    pub fn read(path: &Path, passphrases: &mut Passphrases<'_>) -> Result<Self> {
        let file = files::open(path)?;
        let bytes = Zeroizing::new(files::read_from(&file, path, KEY_FILE_LIMIT)?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        // Before anything is said about who can read it: everybody may.
        if text.contains("PUBLIC KEY") || keyfile::parse_file(&bytes).is_ok() {
            bail!("{} is a public key; signing needs the private one", path.display());
        }
        passphrase::private(&file, path, "private key")?;
        let key = if text.contains(ENCRYPTED) {
            let (_, document) = SecretDocument::from_pem(text)
                .map_err(|error| anyhow!("{} is damaged: {error}", path.display()))?;
            let der = decrypt(document.as_bytes(), path, passphrases)?;
            SigningKey::from_pkcs8_der(der.as_bytes())
        } else {
            SigningKey::from_pkcs8_pem(text)
        };
        let key = key.map_err(|error| {
            anyhow!("{} is not an Ed25519 private key (PKCS#8 PEM): {error}", path.display())
        })?;
        Ok(Self { key })
    }

    /// All keys, each once: a signature made twice counts once.
    pub fn read_all(paths: &[PathBuf], mut passphrases: Passphrases<'_>) -> Result<Vec<Self>> {
        let mut seen = BTreeSet::new();
        let mut keys = Vec::new();
        for path in paths {
            let key = Self::read(path, &mut passphrases)?;
            ensure!(
                seen.insert(key.id()),
                "{} is the key {}, which was given already",
                path.display(),
                key.id()
            );
            keys.push(key);
        }
        Ok(keys)
    }

    /// The private key as PKCS#8 PEM: version 1 without the public key, which every OpenSSL reads.
    pub fn private_pem(&self) -> Result<Zeroizing<String>> {
        self.pair()
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| anyhow!("cannot encode the private key: {error}"))
    }

    /// [`Self::private_pem`], encrypted: PBES2 of scrypt and AES-256-CBC (RFC 8018, RFC 7914).
    pub fn encrypted_pem(&self, passphrase: &Passphrase) -> Result<Zeroizing<String>> {
        let (salt, iv) = (random::<16>()?, random::<16>()?);
        let encrypted = || -> pkcs8::Result<Zeroizing<String>> {
            let cost = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P)
                .map_err(|_| pkcs8::Error::ParametersMalformed)?;
            let parameters = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &*salt, *iv)?;
            let plain = self.pair().to_pkcs8_der()?;
            let document =
                PrivateKeyInfoRef::try_from(plain.as_bytes())?.encrypt_with_params(parameters, passphrase)?;
            Ok(document.to_pem(ENCRYPTED, LineEnding::LF)?)
        };
        encrypted().map_err(|error| anyhow!("cannot encrypt the private key: {error}"))
    }

    fn pair(&self) -> KeypairBytes {
        KeypairBytes { secret_key: self.key.to_bytes(), public_key: None }
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

    /// The signature over a document's digest.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; 64] {
        self.key.sign(digest).to_bytes()
    }
}

/// A file of public keys.
#[derive(Debug)]
pub struct PublicFile {
    pub bytes: Vec<u8>,
    pub keys: Vec<TrustedKey>,
}

/// Reads files of public keys in any of the forms that phaseboot knows, each key once: two of one
/// would be taken for two voices, and two that are named alike for one.
pub fn read_public_files(paths: &[PathBuf]) -> Result<Vec<PublicFile>> {
    let mut known: Vec<TrustedKey> = Vec::new();
    let mut read = Vec::new();
    for path in paths {
        let bytes = files::read(path, KEY_FILE_LIMIT)?;
        let keys =
            keyfile::parse_file(&bytes).map_err(|reason| anyhow!("key {}: {reason}", path.display()))?;
        for key in &keys {
            let same = known.iter().find(|known| known.bytes() == key.bytes() || known.id() == key.id());
            if let Some(same) = same {
                let (path, id) = (path.display(), key.id());
                ensure!(same.bytes() == key.bytes(), "key {path}: another key is named {id} as well");
                bail!("key {path}: {id} was given already");
            }
            known.push(key.clone());
        }
        read.push(PublicFile { bytes, keys });
    }
    Ok(read)
}

/// The keys of [`read_public_files`].
pub fn read_public(paths: &[PathBuf]) -> Result<Vec<TrustedKey>> {
    Ok(read_public_files(paths)?.into_iter().flat_map(|file| file.keys).collect())
}

/// Bytes from the kernel's random generator; waits until that is ready.
fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    let filled = rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
        .context("cannot get random bytes: getrandom")?;
    ensure!(filled == N, "getrandom gave {filled} bytes instead of {N}");
    Ok(bytes)
}

/// Decrypts the key in `path` with the first of `passphrases` that fits.
fn decrypt(der: &[u8], path: &Path, passphrases: &mut Passphrases<'_>) -> Result<SecretDocument> {
    let unsupported = |error: pkcs8::Error| {
        anyhow!(
            "cannot decrypt {}: {error}; convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc",
            path.display()
        )
    };
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(der).map_err(unsupported)?;
    ensure!(
        is_affordable(&encrypted.encryption_algorithm),
        "{} is damaged: it asks for more work than anybody would wait for",
        path.display()
    );
    let passphrases = passphrases.of(path)?;
    for passphrase in &passphrases {
        match encrypted.decrypt(passphrase) {
            Ok(document) => return Ok(document),
            Err(
                error @ pkcs8::Error::EncryptedPrivateKey(
                    pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::NoPbes1CryptSupport,
                ),
            ) => return Err(unsupported(error)),
            Err(_) => {}
        }
    }
    match passphrases.len() {
        1 => bail!("wrong passphrase for private key {}", path.display()),
        count => bail!("none of the {count} passphrases fits private key {}", path.display()),
    }
}

/// Whether trying one passphrase takes seconds at most.
fn is_affordable(scheme: &pkcs5::EncryptionScheme) -> bool {
    let Some(parameters) = scheme.pbes2() else { return true };
    match &parameters.kdf {
        pbes2::Kdf::Scrypt(scrypt) => [scrypt.block_size, scrypt.parallelization]
            .iter()
            .try_fold(scrypt.cost_parameter, |work, &factor| work.checked_mul(factor.into()))
            .is_some_and(|work| (1..=MOST_SCRYPT).contains(&work)),
        pbes2::Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count <= MOST_ROUNDS,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        let read = |path: &Path| Signing::read(path, &mut Passphrases::default());
        assert_eq!(read(&path).unwrap().id(), signing.id());

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path).unwrap_err().to_string();
        assert!(refused.contains("mode 0640") && refused.contains("chmod 600"), "{refused}");
    }
}
