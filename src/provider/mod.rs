//! From uplinks to a verified manifest: where to boot from ([`discovery`]), and who answers first
//! ([`race`]).

pub mod access;
mod candidates;
mod connect;
mod discovery;
pub mod http;
pub mod race;
pub mod tls;
pub mod url;

pub use candidates::Candidates;
pub use race::{Found, Search, Uplinks};

use crate::error::Exit;

/// No provider had a manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every provider that somebody named was asked in vain.
    #[error("no provider answered with a manifest: {reasons}")]
    NoAnswer { reasons: String, hint: &'static str },
    /// Whoever could name a provider was asked, and names none.
    #[error("nobody names a provider: {reasons}")]
    NotNamed { reasons: String },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoAnswer { .. } | Self::NotNamed { .. } => Exit::NoProvider,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoAnswer { hint, .. } => hint,
            Self::NotNamed { .. } => {
                "give phase.provider=URL, DHCP option 67, DHCPv6 option 59 or a DNS record SRV \
                 _phase-image._tcp.DOMAIN, or phase.mode=local where providers announce themselves by mDNS"
            }
        }
    }
}
