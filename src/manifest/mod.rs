//! The signed manifest: what it says, who may sign it, and whether this machine may boot it. Pure,
//! except for reading the trust folder. The protocol is proto/MANIFEST.md.

pub mod envelope;
mod json;
pub mod keyfile;
pub mod keylist;
mod keyring;
pub mod keys;
mod schema;
mod seen;
mod trust;
mod verify;

use std::path::PathBuf;

pub use envelope::{Envelope, MOST_BYTES};
pub use keylist::{KeyList, KeyListContent};
pub use keyring::Keyring;
pub use keys::TrustedKey;
pub use schema::{ArtifactSpec, Manifest, is_dtb_name};
pub use seen::{MOST_SEEN_BYTES, Seen, Sightings};
pub use trust::{MOST_KEYS, Trust};
pub use verify::{Expected, VerifiedManifest, verify};

use envelope::Fault;

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
    #[error("manifest {url} has version \"{}\", which is not understood (known: 0.x)", printable(version))]
    UnknownVersion { url: String, version: String },
    #[error("manifest {url} is malformed: what stands outside signed.data differs from what was signed")]
    OuterDiffers { url: String },
    #[error("manifest {url} is not signed")]
    Unsigned { url: String },
    #[error("manifest {url} is signed in plasmd's own way, which does not say which bytes are signed")]
    ForeignSignature { url: String },
    #[error(
        "manifest {url} is not signed by a trusted key: {trusted} of {threshold} needed ({signatures} signatures, \
         {known} trusted keys{})",
        also(uncounted)
    )]
    NotTrusted {
        url: String,
        trusted: usize,
        threshold: usize,
        signatures: usize,
        known: usize,
        uncounted: Vec<String>,
    },
    #[error("manifest {url} is for {}, this machine is {wanted}", printable(is))]
    OtherArch { url: String, is: String, wanted: Arch },
    #[error("manifest {url} is for channel {is}, not {wanted}")]
    OtherChannel { url: String, is: String, wanted: String },
    #[error("manifest {url} is for channel {channel}, which the policy does not allow")]
    ChannelNotAllowed { url: String, channel: String },
    #[error("manifest {url} expired at {expires_at}; the clock says {now}")]
    Expired { url: String, expires_at: UnixTime, now: UnixTime },
    #[error("manifest {url} does not say when it expires, which the policy wants")]
    NoExpiry { url: String },
    #[error("manifest {url} has version {version}; the policy wants {lowest} or newer")]
    RolledBack { url: String, version: u64, lowest: u64 },
    #[error("manifest {url} has version {version}; this machine has seen version {seen}")]
    Replayed { url: String, version: u64, seen: u64 },
    #[error("key list {url} is malformed: {}", printable(reason))]
    KeysMalformed { url: String, reason: String },
    #[error(
        "key list {url} is not signed by the packed keys: {trusted} of {threshold} needed{}",
        also(uncounted)
    )]
    KeysNotTrusted { url: String, trusted: usize, threshold: usize, uncounted: Vec<String> },
    #[error("key list {url} expired at {expires_at}; the clock says {now}")]
    KeysExpired { url: String, expires_at: UnixTime, now: UnixTime },
    #[error("key list {url} does not say when it expires, which the policy wants")]
    KeysNoExpiry { url: String },
    #[error("key list {url} has version {version}; {lowest} or newer is wanted or was seen")]
    KeysRolledBack { url: String, version: u64, lowest: u64 },
    #[error("there is no key list {url}; version {lowest} or newer is wanted or was seen")]
    KeysMissing { url: String, lowest: u64 },
}

/// `; A; B` for known keys whose signatures do not count.
fn also(uncounted: &[String]) -> String {
    uncounted.iter().map(|reason| format!("; {reason}")).collect()
}

impl Error {
    pub(crate) fn of_manifest(url: &str, fault: Fault) -> Self {
        let url = url.to_owned();
        match fault {
            Fault::TooLarge => Self::TooLarge { url },
            Fault::Malformed(reason) => Self::Malformed { url, reason },
            Fault::Unsigned => Self::Unsigned { url },
            Fault::ForeignSignature => Self::ForeignSignature { url },
            Fault::OuterDiffers => Self::OuterDiffers { url },
            Fault::UnknownVersion(version) => Self::UnknownVersion { url, version },
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoKey { .. }
            | Self::TooFewKeys { .. }
            | Self::UnreadableTrust { .. }
            | Self::Unsigned { .. }
            | Self::ForeignSignature { .. }
            | Self::NotTrusted { .. }
            | Self::KeysNotTrusted { .. } => Exit::NotTrusted,
            Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::UnknownVersion { .. }
            | Self::OuterDiffers { .. }
            | Self::KeysMalformed { .. } => Exit::ManifestMalformed,
            Self::OtherArch { .. }
            | Self::OtherChannel { .. }
            | Self::ChannelNotAllowed { .. }
            | Self::Expired { .. }
            | Self::NoExpiry { .. }
            | Self::RolledBack { .. }
            | Self::Replayed { .. }
            | Self::KeysExpired { .. }
            | Self::KeysNoExpiry { .. }
            | Self::KeysRolledBack { .. }
            | Self::KeysMissing { .. } => Exit::NotForUs,
        }
    }

    /// The verdict on a document as proto/MANIFEST.md and the test vectors name it.
    pub fn verdict(&self) -> &'static str {
        match self {
            Self::NoKey { .. } | Self::TooFewKeys { .. } | Self::UnreadableTrust { .. } => "no-trust",
            Self::TooLarge { .. } => "too-large",
            Self::Malformed { .. } => "malformed",
            Self::UnknownVersion { .. } => "unknown-version",
            Self::OuterDiffers { .. } => "outer-differs",
            Self::Unsigned { .. } => "unsigned",
            Self::ForeignSignature { .. } => "foreign-signature",
            Self::NotTrusted { .. } => "not-trusted",
            Self::OtherArch { .. } => "other-arch",
            Self::OtherChannel { .. } => "other-channel",
            Self::ChannelNotAllowed { .. } => "channel-not-allowed",
            Self::Expired { .. } | Self::NoExpiry { .. } => "expired",
            Self::RolledBack { .. } | Self::Replayed { .. } => "rolled-back",
            Self::KeysMalformed { .. } => "keys-malformed",
            Self::KeysNotTrusted { .. } => "keys-not-trusted",
            Self::KeysExpired { .. } | Self::KeysNoExpiry { .. } => "keys-expired",
            Self::KeysRolledBack { .. } => "keys-rolled-back",
            Self::KeysMissing { .. } => "keys-missing",
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoKey { .. } => "pack a public key into the initramfs: phasectl initramfs --key KEY.pub",
            Self::TooFewKeys { .. } => "pack more public keys into the initramfs, or lower the threshold",
            Self::UnreadableTrust { .. } => "correct the file and pack the initramfs again",
            Self::TooLarge { .. } => "the provider must serve the manifest that phasectl publish wrote",
            Self::Malformed { .. } | Self::OuterDiffers { .. } => "publish it again with phasectl publish",
            Self::UnknownVersion { .. } => "publish it with a phasectl of this machine's age",
            Self::Unsigned { .. } => {
                "sign it with phasectl publish, or set allow_unsigned in the policy if nobody has to be trusted"
            }
            Self::ForeignSignature { .. } => "publish beside it with phasectl publish --into",
            Self::NotTrusted { .. } => {
                "sign it with a key whose public half is in the initramfs, or in the key list if there is one"
            }
            Self::OtherArch { .. } => "publish one for this architecture",
            Self::OtherChannel { .. } => "correct phase.channel= or publish to that channel",
            Self::ChannelNotAllowed { .. } => "name the channel in the policy's channels",
            Self::Expired { .. } => "publish a new one, and check this machine's clock",
            Self::NoExpiry { .. } => "publish it again with --expires",
            Self::KeysNoExpiry { .. } => "make it again with phasectl keys rotate --expires",
            Self::RolledBack { .. } | Self::Replayed { .. } => "publish a newer one",
            Self::KeysMalformed { .. } => "make it again with phasectl keys rotate",
            Self::KeysNotTrusted { .. } => "sign it with keys whose public halves are in the initramfs",
            Self::KeysExpired { .. } => {
                "make a new one with phasectl keys rotate, and check this machine's clock"
            }
            Self::KeysRolledBack { .. } => "serve the newest key list",
            Self::KeysMissing { .. } => "serve the newest key list beside the manifest",
        }
    }
}
