//! The rollback record: what this machine has seen ([`Seen`]), kept from one boot to the next.
//!
//! It is kept in every place there is: the cache partition, a variable of the UEFI firmware, a file
//! that a command names. The highest of all of them counts, but only what this boot has verified is
//! written: a stick that claims too much must not make the others claim it when it is gone. One that
//! cannot be read is damage, which is never the same as having seen nothing.

mod efivar;
mod file;
mod gpt;
mod partition;
mod superblock;

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use log::{debug, info, warn};
use rustix::fs::Access;

use crate::config::{Cache, Config, DamagedRecord, Policy, RollbackRecord};
use crate::error::{Exit, printable};
use crate::manifest::{MOST_SEEN_BYTES, Seen, Sightings};
use crate::paths::Paths;
use crate::time::Deadline;
use partition::Partition;

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
    /// The policy requires a record, and writing it failed everywhere.
    #[error("the policy requires a rollback record, and it cannot be written: {}", printable(reason))]
    NotKept { reason: String },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoPlace | Self::MayNotWrite | Self::Damaged { .. } | Self::NotKept { .. } => Exit::NotForUs,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPlace => {
                "label a partition PHASE_CACHE without phase.cache=off, boot by UEFI, or give the command --record FILE"
            }
            Self::MayNotWrite => "take the parameter away, or set rollback_record to optional in the policy",
            Self::Damaged { .. } => {
                "repair it, or delete it if this machine can be trusted, or set damaged_record to replace in the policy"
            }
            Self::NotKept { .. } => "make room there, or repair it",
        }
    }
}

/// What is about to be done, and so which places count and whether they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// PID 1 boots: the cache partition and the firmware.
    Init,
    /// `phaseboot boot`: the firmware and `--record`. Partitions are somebody else's there.
    Boot,
    /// `phaseboot boot --dry-run`: as [`Boot`](Self::Boot), without writing.
    DryRun,
    /// `phaseboot fetch` and `verify`: `--record`, without writing. What did not boot is no reason to
    /// refuse what does.
    Look,
}

/// Where a record is kept.
#[derive(Debug)]
enum Place {
    Partition(Partition),
    Variable(PathBuf),
    File(PathBuf),
    /// In memory, from one attempt of PID 1 to the next: each is a process of its own.
    Volatile(PathBuf),
}

/// What was seen, and the places that keep it.
#[derive(Debug)]
pub struct Memory {
    places: Vec<Kept>,
    sightings: Sightings,
    required: bool,
}

#[derive(Debug)]
struct Kept {
    place: Place,
    stored: Seen,
    /// As it is written there; empty if nothing is.
    bytes: Vec<u8>,
    writes: bool,
}

impl Memory {
    /// Reads every place. Nothing is written yet.
    pub fn open(
        config: &Config,
        policy: &Policy,
        paths: &Paths,
        purpose: Purpose,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let required = policy.rollback_record == RollbackRecord::Required;
        let boots = purpose != Purpose::Look;
        if required && boots && !config.may_write() {
            return Err(Error::MayNotWrite);
        }
        let (mut places, mut seen, mut serves) = (Vec::new(), Seen::default(), false);
        for place in find(config, policy, paths, purpose, deadline) {
            let may_write = place.may_be_written(config);
            let bytes = place.read(may_write).map_err(|error| error.to_string());
            let read = bytes.and_then(|bytes| match bytes {
                Some(bytes) => Ok((Seen::parse(&bytes)?, bytes)),
                None => Ok((Seen::default(), Vec::new())),
            });
            let (stored, bytes) = match read {
                Ok(read) => read,
                Err(reason) => {
                    damaged(policy, &place, reason)?;
                    (Seen::default(), Vec::new())
                }
            };
            if !bytes.is_empty() {
                info!("rollback record {place}");
                seen.merge(&stored);
            }
            serves |= place.lasts() && (!boots || (may_write && place.is_writable()));
            let writes = may_write && matches!(purpose, Purpose::Init | Purpose::Boot);
            places.push(Kept { place, stored, bytes, writes });
        }
        if required && !serves {
            return Err(Error::NoPlace);
        }
        Ok(Self { places, sightings: Sightings::new(seen), required })
    }

    /// What was seen, all places together, and what this boot adds to it.
    pub fn sightings(&mut self) -> &mut Sightings {
        &mut self.sightings
    }

    /// Writes what was verified wherever less than that is kept. Where the policy does not require a
    /// record, a failure is a warning.
    pub fn keep(&mut self) -> Result<(), Error> {
        if *self.sightings.verified() == Seen::default() {
            return Ok(());
        }
        let (mut kept, mut failure) = (false, None);
        for Kept { place, stored, bytes, .. } in self.places.iter_mut().filter(|kept| kept.writes) {
            stored.merge(self.sightings.verified());
            let written = stored.to_bytes().and_then(|wanted| {
                if wanted != *bytes {
                    place.write(&wanted).map_err(|error| error.to_string())?;
                    debug!("rollback record {place} is written");
                    *bytes = wanted;
                }
                Ok(())
            });
            if let Err(reason) = written {
                let reason = format!("{place}: {reason}");
                warn!("the rollback record cannot be written: {reason}");
                failure = Some(reason);
                continue;
            }
            kept |= place.lasts();
        }
        match failure {
            Some(reason) if self.required && !kept => Err(Error::NotKept { reason }),
            _ => Ok(()),
        }
    }
}

/// Refuses, or goes on as if there were no record in this place.
fn damaged(policy: &Policy, place: &Place, reason: String) -> Result<(), Error> {
    let error = Error::Damaged { place: place.to_string(), reason };
    match policy.damaged_record {
        DamagedRecord::Refuse => Err(error),
        DamagedRecord::Replace => {
            warn!("{error}; as the policy says, it counts for nothing and is replaced");
            Ok(())
        }
    }
}

/// The places that count. What the policy names is always read: the kernel command line only adds.
fn find(config: &Config, policy: &Policy, paths: &Paths, purpose: Purpose, deadline: Deadline) -> Vec<Place> {
    let mut places = Vec::new();
    if purpose == Purpose::Init {
        let caches: Vec<&Cache> = std::iter::once(&policy.cache).chain(&config.cache).collect();
        places.extend(partition::find(&caches, paths, deadline).into_iter().map(Place::Partition));
        places.push(Place::Volatile(paths.seen()));
    }
    if purpose != Purpose::Look {
        places.extend(efivar::find(paths).map(Place::Variable));
    }
    places.extend(config.record.clone().map(Place::File));
    places
}

impl Place {
    fn read(&self, may_write: bool) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Partition(partition) => partition.read(MOST_SEEN_BYTES, may_write),
            Self::Variable(path) => efivar::read(path, MOST_SEEN_BYTES),
            Self::File(path) | Self::Volatile(path) => file::read(path, MOST_SEEN_BYTES),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Partition(partition) => partition.write(bytes),
            Self::Variable(path) => efivar::write(path, bytes),
            Self::File(path) => file::write(path, bytes),
            Self::Volatile(path) => {
                fs::create_dir_all(file::folder(path))?;
                file::write(path, bytes)
            }
        }
    }

    /// Whether the parameters let it be written.
    fn may_be_written(&self, config: &Config) -> bool {
        match self {
            Self::Partition(_) => config.may_write() && config.cache != Some(Cache::Off),
            Self::Variable(_) | Self::File(_) => config.may_write(),
            Self::Volatile(_) => true,
        }
    }

    /// Whether a write can be expected to work.
    fn is_writable(&self) -> bool {
        match self {
            Self::Partition(partition) => partition.is_writable(),
            Self::Variable(path) | Self::File(path) => {
                rustix::fs::access(file::folder(path), Access::WRITE_OK).is_ok()
            }
            Self::Volatile(_) => true,
        }
    }

    /// Whether it is there after the machine was off.
    fn lasts(&self) -> bool {
        !matches!(self, Self::Volatile(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => partition.fmt(f),
            Self::Variable(path) | Self::File(path) | Self::Volatile(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
