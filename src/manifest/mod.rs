//! The signed manifest: what it says, who may sign it, and whether this machine may boot it. Pure,
//! except for reading the trust folder. The protocol is proto/MANIFEST.md.

mod json;
pub mod keys;
mod schema;
mod seen;
mod trust;
mod verify;

use std::path::PathBuf;

pub use schema::{ArtifactSpec, Manifest};
pub use seen::{MOST_SEEN_BYTES, Seen};
pub use trust::{MOST_KEYS, Trust};
pub use verify::{Expected, MOST_BYTES, VerifiedManifest, verify};

use crate::arch::Arch;
use crate::error::{Exit, printable};
use crate::time::UnixTime;

/// Why a manifest is not booted, or nothing could ever be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no trusted key: {} holds no *.pub", folder.display())]
    NoKey { folder: PathBuf },
    #[error("the policy asks for {threshold} signatures, but only {have} keys are trusted")]
    TooFewKeys { have: usize, threshold: usize },
    #[error("{}: {}", path.display(), printable(reason))]
    UnreadableTrust { path: PathBuf, reason: String },
    #[error("manifest {url} is larger than 1 MiB")]
    TooLarge { url: String },
    #[error("manifest {url} is malformed: {}", printable(reason))]
    Malformed { url: String, reason: String },
    #[error("manifest {url} is not signed")]
    Unsigned { url: String },
    #[error(
        "manifest {url} is not signed by a trusted key: {trusted} of {threshold} needed ({signatures} signatures, \
         {known} trusted keys)"
    )]
    NotTrusted { url: String, trusted: usize, threshold: usize, signatures: usize, known: usize },
    #[error("manifest {url} is for {is}, this machine is {wanted}")]
    OtherArch { url: String, is: Arch, wanted: Arch },
    #[error("manifest {url} is for channel {is}, not {wanted}")]
    OtherChannel { url: String, is: String, wanted: String },
    #[error("manifest {url} is for channel {channel}, which the policy does not allow")]
    ChannelNotAllowed { url: String, channel: String },
    #[error("manifest {url} expired at {expires_at}; the clock says {now}")]
    Expired { url: String, expires_at: UnixTime, now: UnixTime },
    #[error("manifest {url} has version {version}; the policy wants {lowest} or newer")]
    RolledBack { url: String, version: u64, lowest: u64 },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoKey { .. }
            | Self::TooFewKeys { .. }
            | Self::UnreadableTrust { .. }
            | Self::Unsigned { .. }
            | Self::NotTrusted { .. } => Exit::NotTrusted,
            Self::TooLarge { .. } | Self::Malformed { .. } => Exit::ManifestMalformed,
            Self::OtherArch { .. }
            | Self::OtherChannel { .. }
            | Self::ChannelNotAllowed { .. }
            | Self::Expired { .. }
            | Self::RolledBack { .. } => Exit::NotForUs,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoKey { .. } => "pack a public key into the initramfs: phasectl initramfs --key KEY.pub",
            Self::TooFewKeys { .. } => "pack more public keys into the initramfs, or lower the threshold",
            Self::UnreadableTrust { .. } => "correct the file and pack the initramfs again",
            Self::TooLarge { .. } => "the provider must serve the manifest that phasectl publish wrote",
            Self::Malformed { .. } => "publish it again with phasectl publish",
            Self::Unsigned { .. } => {
                "sign it with phasectl publish, or set allow_unsigned in the policy if nobody has to be trusted"
            }
            Self::NotTrusted { .. } => "sign it with a key whose public half is in the initramfs",
            Self::OtherArch { .. } => "publish one for this architecture",
            Self::OtherChannel { .. } => "correct phase.channel= or publish to that channel",
            Self::ChannelNotAllowed { .. } => "name the channel in the policy's channels",
            Self::Expired { .. } => "publish a new one, and check this machine's clock",
            Self::RolledBack { .. } => "publish a newer one",
        }
    }
}
