//! Why a machine does not boot for the sake of its record.

use crate::error::{Exit, printable};

/// Why a machine does not boot for the sake of its record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy requires a record, and there is nowhere to keep one.
    #[error("the policy requires a rollback record, and there is no place that can keep it")]
    NoPlace,
    /// The policy requires a record, and the parameters let nothing be written.
    #[error(
        "the policy requires a rollback record, and phase.nowrite or phase.mode=private lets none be written"
    )]
    MayNotWrite,
    /// What is there cannot be read, or is not what was written.
    #[error("the rollback record {place} cannot be relied on: {}", printable(reason))]
    Damaged { place: String, reason: String },
    /// It may be there, and this kernel cannot mount the file system.
    #[error("the rollback record {place} cannot be read: this kernel has no driver for {driver}")]
    NoDriver { place: String, driver: &'static str },
    /// It is there for somebody else.
    #[error("the rollback record {place} may not be read by this user")]
    NoPermission { place: String },
    /// None of them may be left out, and nobody needs so many.
    #[error("more than {most} partitions could hold the rollback record")]
    TooMany { most: usize },
    /// The policy requires a record, and writing it failed everywhere.
    #[error("the policy requires a rollback record, and it cannot be written: {}", printable(reason))]
    NotKept { reason: String },
    /// What was verified was not held against this one.
    #[error("a rollback record appeared during this attempt, and knows newer versions: {place}")]
    Appeared { place: String },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoPlace
            | Self::MayNotWrite
            | Self::Damaged { .. }
            | Self::NoDriver { .. }
            | Self::NoPermission { .. }
            | Self::TooMany { .. }
            | Self::NotKept { .. }
            | Self::Appeared { .. } => Exit::NotForUs,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPlace => {
                "label a partition PHASE_CACHE or name one in the policy (phase.cache does not count), boot by UEFI, or give the command --record FILE"
            }
            Self::MayNotWrite => "take the parameter away, or set rollback_record to optional in the policy",
            Self::Damaged { .. } => {
                "repair it, or delete it if this machine can be trusted, or set damaged_record to replace in the policy"
            }
            Self::NoDriver { .. } => {
                "pack the module: phasectl initramfs --module ext4, or vfat with nls_cp437 and nls_ascii"
            }
            Self::NoPermission { .. } => "run the command as root, or as a user who may read the file",
            Self::TooMany { .. } => {
                "take name and label off the others, or name the right one in the policy's cache"
            }
            Self::NotKept { .. } => {
                "make room there, or repair it; a full record is started afresh by deleting it, or with another record_name in the policy: docs/parameters.md#the-rollback-record"
            }
            Self::Appeared { .. } => "trying again takes it into account",
        }
    }
}
