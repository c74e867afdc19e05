//! The rollback record: what this machine has seen ([`Seen`]), kept from one boot to the next.
//!
//! It is kept in every place there is: the cache partition, a variable of the UEFI firmware, a file
//! that a command names. The highest of all of them counts, but only what this boot has verified is
//! written: a stick that claims too much must not make the others claim it when it is gone. One that
//! cannot be read is damage, which is never the same as having seen nothing.

mod efivar;
mod error;
mod file;
mod gpt;
mod partition;
mod place;
mod scan;
mod superblock;

use std::io::{self, ErrorKind};
use std::time::Duration;

use log::{debug, info, warn};
use rustix::io::Errno;

pub use error::Error;

use crate::arch::Arch;
use crate::config::{Cache, Config, DamagedRecord, Policy, RollbackRecord};
use crate::manifest::{Seen, Sightings, TrustedKey};
use crate::paths::Paths;
use crate::patience;
use crate::time::Deadline;
use place::Place;
use scan::Scanner;

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

/// What was seen, and the places that keep it.
#[derive(Debug)]
pub struct Memory<'a> {
    config: &'a Config,
    policy: &'a Policy,
    paths: &'a Paths,
    purpose: Purpose,
    scanner: Scanner<'a>,
    places: Vec<Kept>,
    sightings: Sightings,
}

#[derive(Debug)]
struct Kept {
    place: Place,
    stored: Seen,
    /// As it is written there; empty if nothing is.
    bytes: Vec<u8>,
    writes: bool,
}

impl<'a> Memory<'a> {
    /// Reads every place. Nothing is written yet.
    pub fn open(
        config: &'a Config,
        policy: &'a Policy,
        paths: &'a Paths,
        purpose: Purpose,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let caches = [&policy.cache, config.cache.as_ref().unwrap_or(&Cache::Off)];
        let scanner = Scanner::new(caches, file_name(policy), paths, patience::LONGEST);
        let (places, sightings) = (Vec::new(), Sightings::default());
        let mut memory = Self { config, policy, paths, purpose, scanner, places, sightings };
        if memory.is_required() && memory.boots() && !config.may_write() {
            return Err(Error::MayNotWrite);
        }
        memory.places = memory.look(deadline)?;
        let mut seen = Seen::default();
        for kept in &memory.places {
            seen.merge(&kept.stored);
        }
        memory.sightings = Sightings::new(seen);
        if memory.forgets() {
            warn!(
                "nothing keeps the versions that were seen once this machine is off: label a partition \
                 PHASE_CACHE, or boot by UEFI"
            );
        }
        Ok(memory)
    }

    /// Reads every place once more, when a manifest of this version is about to be booted: a disk may
    /// have appeared since. An error if one knows what the manifest, verified with these packed keys,
    /// was not held against.
    pub fn look_again(
        &mut self,
        channel: &str,
        arch: Arch,
        version: u64,
        keys: &[TrustedKey],
    ) -> Result<(), Error> {
        self.places = self.look(Deadline::after(Duration::ZERO))?;
        let known = self.sightings.all();
        let revokes = |stored: &Seen, fingerprint: &String| {
            stored.revoked.contains(fingerprint) && !known.revoked.contains(fingerprint)
        };
        let is_newer = |Kept { stored, .. }: &&Kept| {
            stored.lowest(channel, arch) > version
                || stored.keys_version > known.keys_version
                || keys.iter().any(|key| revokes(stored, &key.fingerprint()))
        };
        match self.places.iter().find(is_newer) {
            Some(newer) => Err(Error::Appeared { place: newer.place.to_string() }),
            None => Ok(()),
        }
    }

    /// What every place holds now.
    fn look(&mut self, deadline: Deadline) -> Result<Vec<Kept>, Error> {
        let wants = matches!(self.purpose, Purpose::Init | Purpose::Boot);
        let (mut all, mut serves) = (Vec::new(), false);
        for place in self.find(deadline)? {
            let name = place.to_string();
            let is_new = !self.places.iter().any(|old| old.place.to_string() == name);
            let may_write = place.may_be_written(self.config);
            let is_writable = place.is_writable();
            if is_new && place.reads_without_journal(may_write) {
                warn!(
                    "{name}: the disk was not unmounted and may not be changed: its newest record may not be visible"
                );
            }
            if is_new && wants && may_write && !is_writable {
                info!("rollback record {name} is only read: it cannot be written");
            }
            let read = place.read(may_write);
            let read = read.map_err(|error| unread(&place, &error)).and_then(|bytes| match bytes {
                Some(bytes) => {
                    let stored = Seen::parse(&bytes).map_err(|reason| damaged(&place, reason))?;
                    Ok((stored, bytes))
                }
                None => Ok((Seen::default(), Vec::new())),
            });
            let (stored, bytes) = match read {
                Ok(read) => read,
                Err(error @ (Error::Damaged { .. } | Error::NoDriver { .. }))
                    if self.policy.damaged_record == DamagedRecord::Replace =>
                {
                    if is_new {
                        warn!("{error}; as the policy says, it counts for nothing and is replaced");
                    }
                    (Seen::default(), Vec::new())
                }
                Err(error) => return Err(error),
            };
            if is_new && !bytes.is_empty() {
                info!("rollback record {name}");
            }
            serves |= place.serves() && (!self.boots() || (may_write && is_writable));
            all.push(Kept { place, stored, bytes, writes: wants && may_write && is_writable });
        }
        if self.is_required() && !serves {
            return Err(Error::NoPlace);
        }
        Ok(all)
    }

    /// The places that count. What the policy names is always read: the kernel command line only adds.
    fn find(&mut self, deadline: Deadline) -> Result<Vec<Place>, Error> {
        let mut places = Vec::new();
        if self.purpose == Purpose::Init {
            places.extend(self.scanner.find(deadline)?.into_iter().map(Place::Partition));
            places.push(Place::Volatile(self.paths.run().join(file_name(self.policy))));
        }
        if self.boots() {
            let variable = efivar::find(self.paths, self.policy.record_name.as_deref());
            places.extend(variable.map(Place::Variable));
        }
        places.extend(self.config.record.clone().map(Place::File));
        Ok(places)
    }

    /// Whether PID 1 could keep what was seen, and has no place for it that lasts.
    fn forgets(&self) -> bool {
        let keeps = self.places.iter().any(|kept| kept.writes && kept.place.lasts());
        self.purpose == Purpose::Init && self.config.may_write() && !keeps
    }

    fn is_required(&self) -> bool {
        self.policy.rollback_record == RollbackRecord::Required
    }

    fn boots(&self) -> bool {
        self.purpose != Purpose::Look
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
            kept |= place.serves();
        }
        match failure {
            Some(reason) if self.is_required() && !kept => Err(Error::NotKept { reason }),
            _ => Ok(()),
        }
    }
}

/// Why a place could not be read.
fn unread(place: &Place, error: &io::Error) -> Error {
    match place.driver() {
        Some(driver) if Errno::from_io_error(error) == Some(Errno::NODEV) => {
            Error::NoDriver { place: place.to_string(), driver }
        }
        None if error.kind() == ErrorKind::PermissionDenied => {
            Error::NoPermission { place: place.to_string() }
        }
        _ => damaged(place, error.to_string()),
    }
}

fn damaged(place: &Place, reason: String) -> Error {
    Error::Damaged { place: place.to_string(), reason }
}

/// Of the record, on a partition and in memory.
fn file_name(policy: &Policy) -> String {
    match &policy.record_name {
        Some(name) => format!("seen-{name}.json"),
        None => "seen.json".to_owned(),
    }
}

#[cfg(test)]
mod tests;
