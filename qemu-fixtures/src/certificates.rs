//! Certificates of a private authority for a server of the lab, made by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::machine::HOST;
use crate::run;

/// What a server shows, and what tells it.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The authority's certificate.
    pub(crate) authority: PathBuf,
    /// The server's, for [`HOST`], and its key.
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// `sha256//BASE64` of the server's public key, as curl writes a pin.
    pub(crate) pin: String,
}

impl Certificates {
    /// Makes them in `folder`.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let [authority, authority_key, chain, key, public, digest] =
            ["ca.pem", "ca.key", "server.pem", "server.key", "server.spki", "server.pin"]
                .map(|name| folder.join(name));
        let mut root = request("phaseboot lab authority", &authority_key, &authority);
        root.args(["-addext", "keyUsage=critical,keyCertSign"]);
        run::quiet(&mut root)?;

        let mut leaf = request("phaseboot lab server", &key, &chain);
        leaf.arg("-CA").arg(&authority).arg("-CAkey").arg(&authority_key);
        leaf.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        leaf.args(["-addext", "extendedKeyUsage=serverAuth"]);
        leaf.args(["-addext", &format!("subjectAltName=IP:{HOST}")]);
        run::quiet(&mut leaf)?;

        let mut spki = Command::new("openssl");
        spki.args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&key).arg("-out").arg(&public);
        run::quiet(&mut spki)?;
        fs::write(&digest, Sha256::digest(fs::read(&public)?))?;
        let pin = run::text(Command::new("openssl").args(["base64", "-in"]).arg(&digest))?;
        Ok(Self { authority, chain, key, pin: format!("sha256//{}", pin.trim()) })
    }
}

/// A new key and a certificate of it.
fn request(name: &str, key: &Path, certificate: &Path) -> Command {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]);
    openssl.args(["-days", "30", "-subj", &format!("/CN={name}")]);
    openssl.arg("-keyout").arg(key).arg("-out").arg(certificate);
    openssl
}
