//! TLS for the server: its certificate and key, checked before anybody connects.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::config::tls::certificates;
use crate::host::{files, passphrase};

/// No certificate chain and no key is larger, in bytes.
const LIMIT: u64 = 1024 * 1024;

/// Reads the chain (PEM, the server's own certificate first) and its private key (PEM, PKCS#8,
/// PKCS#1 or SEC1), which nobody but its owner may be able to read.
pub(super) fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor> {
    let (chain_name, key_name) = (chain.display(), key.display());
    let pem = files::read(chain, LIMIT)?;
    let certificates = certificates(&pem).map_err(|reason| anyhow!("certificate {chain_name}: {reason}"))?;
    let private = private_key(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot start TLS")?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                anyhow!("private key {key_name} is not that of the first certificate in {chain_name}")
            }
            rustls::Error::InvalidCertificate(reason) => anyhow!("certificate {chain_name}: {reason}"),
            error => anyhow!("private key {key_name}: {error}"),
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let name = path.display();
    let file = files::open(path)?;
    passphrase::private(&file, path, "private key")?;
    let pem = Zeroizing::new(files::read_from(&file, path, LIMIT)?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        PemError::NoItemsFound => anyhow!("{name} holds no PEM private key without a passphrase"),
        error => anyhow!("private key {name} is damaged: {error}"),
    })
}
