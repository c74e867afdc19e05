//! TLS for the HTTP client: rustls, with the authorities and pinned keys of the trust policy.
//!
//! A chain is verified as usual. Where keys are pinned, one of them must also be in the path that
//! was verified, from the server's certificate to the authority. Certificates that a server merely
//! presents prove nothing: anybody can append the certificate of somebody else's authority.

use std::fmt;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, KeyProvider, WebPkiSupportedAlgorithms, ring};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{self, CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::SigningKey;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError};
use rustls::{RootCertStore, SignatureScheme, StreamOwned};
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::config::tls::{Pin, TlsTrust};
use crate::error::printable;
use crate::time::UnixTime;

/// Why no TLS connection came about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("a certificate of the server is not valid before {not_before}; the clock says {now}")]
    NotYetValid { not_before: UnixTime, now: UnixTime },
    #[error("a certificate of the server expired at {not_after}; the clock says {now}")]
    Expired { not_after: UnixTime, now: UnixTime },
    #[error("the server's certificate is not for {}, but for {}", printable(wanted), printable(presented))]
    Name { wanted: String, presented: String },
    #[error("no trusted authority issued the server's certificate")]
    UnknownIssuer,
    #[error("the server's certificate is valid, but its key {server} and its issuers' are not in tls_pins")]
    NotPinned { server: Pin },
    #[error("the server's certificate is not acceptable: {}", printable(.0))]
    Certificate(String),
    #[error("the TLS handshake failed: {}", printable(.0))]
    Handshake(String),
}

impl TlsError {
    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotYetValid { .. } => {
                "set the clock, or pack a newer initramfs: its build time is the earliest that counts"
            }
            Self::Expired { .. } => "renew the certificate, or set the clock if it is wrong",
            Self::Name { .. } => "use a name in the URL that the certificate has",
            Self::UnknownIssuer => {
                "name its authority in the policy's tls_roots, and let the server send its intermediates"
            }
            Self::NotPinned { .. } => "if this is the right server, put its key into the policy's tls_pins",
            Self::Certificate(_) => "give the server a certificate that an authority issued for TLS servers",
            Self::Handshake(_) => "check that the server speaks TLS 1.2 or 1.3 on this port",
        }
    }

    /// Whether it is the server's certificate that was refused.
    pub(super) fn is_about_certificate(&self) -> bool {
        !matches!(self, Self::Handshake(_))
    }

    /// The reason of rustls within an error of ureq, if there is one.
    pub(super) fn within(error: &ureq::Error) -> Option<Self> {
        match error {
            ureq::Error::Io(error) => error.get_ref()?.downcast_ref().map(Self::from_rustls),
            ureq::Error::Tls(reason) => Some(Self::Handshake((*reason).to_owned())),
            _ => None,
        }
    }

    fn from_rustls(error: &rustls::Error) -> Self {
        let time = |time: &pki_types::UnixTime| UnixTime(time.as_secs());
        match error {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::NotValidYetContext { time: now, not_before } => {
                    Self::NotYetValid { not_before: time(not_before), now: time(now) }
                }
                CertificateError::ExpiredContext { time: now, not_after } => {
                    Self::Expired { not_after: time(not_after), now: time(now) }
                }
                CertificateError::NotValidForNameContext { expected, presented } => {
                    Self::Name { wanted: expected.to_str().into_owned(), presented: names(presented) }
                }
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                CertificateError::Other(OtherError(error)) => match error.downcast_ref() {
                    Some(&NotPinned(server)) => Self::NotPinned { server },
                    None => Self::Certificate(error.to_string()),
                },
                other => Self::Certificate(other.to_string()),
            },
            other => Self::Handshake(other.to_string()),
        }
    }
}

/// The names of a certificate, which rustls gives as `DnsName("a.example")` and the like.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, name)| name.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    };
    match presented {
        [] => "no name".to_owned(),
        names => names.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

/// No key of a verified path is pinned; this is the server's own.
#[derive(Debug, thiserror::Error)]
#[error("the key {0} is not pinned")]
struct NotPinned(Pin);

/// The verification of rustls's `WebPkiServerVerifier`, and pins. It knows of no revocation lists:
/// nobody could hand it any, and the code that reads them would be in every payload.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    pins: Arc<[Pin]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// The path is built once more, and only a pinned one is accepted: where several lead to an
    /// authority (cross-signed intermediates), the pin may be on another than the first.
    fn check_pins(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: pki_types::UnixTime,
    ) -> Result<(), CertificateError> {
        let server = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let is_pinned = |public_key_info: &[u8]| self.pins.contains(&Pin::of(public_key_info));
        let accept = |path: &VerifiedPath<'_>| {
            let pinned = is_pinned(&path.end_entity().subject_public_key_info())
                || path
                    .intermediate_certificates()
                    .any(|issuer| is_pinned(&issuer.subject_public_key_info()))
                || is_pinned(&sequence(&path.anchor().subject_public_key_info));
            if pinned { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
        };
        let algorithms = self.algorithms.all;
        let (roots, usage) = (&self.roots.roots, KeyUsage::server_auth());
        match server.verify_for_usage(algorithms, roots, intermediates, now, usage, None, Some(&accept)) {
            Ok(_) => Ok(()),
            Err(_) => {
                let error = NotPinned(Pin::of(&server.subject_public_key_info()));
                Err(CertificateError::Other(OtherError(Arc::new(error))))
            }
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        verify_server_name(&certificate, server_name)?;
        if !self.pins.is_empty() {
            self.check_pins(end_entity, intermediates, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// No machine presents a certificate of its own, so private keys are never read.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("private keys are not used here".to_owned()))
    }
}

/// The DER encoding of a SEQUENCE with this content: an authority's key is kept without its outer
/// tag and length. Empty if there is too much of it, which is no key that anybody pinned.
fn sequence(content: &[u8]) -> Vec<u8> {
    let Ok(length) = u16::try_from(content.len()) else { return Vec::new() };
    let [high, low] = length.to_be_bytes();
    let head: &[u8] = match length {
        0..0x80 => &[0x30, low],
        0x80..0x100 => &[0x30, 0x81, low],
        _ => &[0x30, 0x82, high, low],
    };
    [head, content].concat()
}

/// The clock, as [`TlsTrust::now`] takes it.
#[derive(Debug)]
struct Clock(TlsTrust);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<pki_types::UnixTime> {
        let UnixTime(seconds) = self.0.now(UnixTime::now());
        Some(pki_types::UnixTime::since_unix_epoch(time::Duration::from_secs(seconds)))
    }
}

/// Puts TLS over the connection of an https URL; that of an http URL stays as it is. Clones share the
/// configuration.
#[derive(Clone, Debug)]
pub(super) struct TlsConnector {
    trust: TlsTrust,
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl TlsConnector {
    pub(super) fn new(trust: TlsTrust) -> Self {
        Self { trust, config: Arc::default() }
    }

    /// Made when it is needed: http alone has no use for it.
    fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(client_config(&self.trust)?);
        Ok(Arc::clone(self.config.get_or_init(|| config)))
    }
}

fn client_config(trust: &TlsTrust) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(CryptoProvider { key_provider: &NoKeys, ..ring::default_provider() });
    let public = || Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    let roots = trust.roots().map_or_else(public, Arc::clone);
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Verifier { roots, pins: Arc::clone(trust.pins()), algorithms };
    let config = ClientConfig::builder_with_details(provider, Arc::new(Clock(trust.clone())))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let transport = match chained {
            Some(transport) if details.needs_tls() => transport,
            other => return Ok(other.map(Either::A)),
        };
        let name = server_name(details.uri.host().unwrap_or_default())
            .ok_or(ureq::Error::Tls("the host of the URL is neither a name nor an address"))?;
        let in_io = |error| ureq::Error::Io(std::io::Error::other(error));
        let mut connection = ClientConnection::new(self.config().map_err(in_io)?, name).map_err(in_io)?;
        let mut socket = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(handshake_timeout(details));
        if let Err(error) = connection.complete_io(&mut socket) {
            // complete_io writes once, which need not reach the alert that tells the server why.
            while connection.wants_write() && connection.write_tls(&mut socket).is_ok_and(|sent| sent > 0) {}
            return Err(error.into());
        }
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(connection, socket) })))
    }
}

/// What a certificate has to be for. An IPv6 address stands in brackets in a URL: RFC 3986,
/// section 3.2.2.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<IpAddr>().ok().map(ServerName::from),
        None => ServerName::try_from(host.to_owned()).ok(),
    }
}

/// What connecting has left of its time.
fn handshake_timeout(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Duration::Exact(limit), Instant::Exact(since)) = (timeout.after, details.now) {
        timeout.after = Duration::Exact(limit.saturating_sub(since.elapsed()));
    }
    timeout
}

/// A TLS connection, as ureq reads and writes it.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output();
        self.stream.write_all(output.get(..amount).unwrap_or_default())?;
        Ok(())
    }

    /// A record has to be here whole within the time of one read: bytes of it are no sign of life.
    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout.for_read());
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Whether nothing is left of what came: on the connection, before rustls, or behind it.
    fn is_open(&mut self) -> bool {
        let has_none = self.stream.conn.wants_read();
        let tcp = self.stream.sock.get_mut();
        has_none && tcp.buffers().input().is_empty() && tcp.is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_have_the_shortest_length() {
        assert_eq!(sequence(b""), [0x30, 0]);
        assert_eq!(sequence(&[7; 0x7f])[..3], [0x30, 0x7f, 7]);
        assert_eq!(sequence(&[7; 0x80])[..4], [0x30, 0x81, 0x80, 7]);
        assert_eq!(sequence(&[7; 0xff])[..4], [0x30, 0x81, 0xff, 7]);
        assert_eq!(sequence(&[7; 0x100])[..5], [0x30, 0x82, 1, 0, 7]);
        assert_eq!(sequence(&[7; 0xffff]).len(), 0x1_0003);
        assert_eq!(sequence(&[7; 0x1_0000]), b"");
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for (host, name) in
            [("boot.example", "boot.example"), ("192.0.2.1", "192.0.2.1"), ("[2001:db8::1]", "2001:db8::1")]
        {
            assert_eq!(server_name(host).unwrap().to_str(), name);
        }
        for host in ["", "[boot.example]", "[::1", "a b", "..", "fe80::1%eth0]"] {
            assert_eq!(server_name(host), None, "{host}");
        }
    }
}
