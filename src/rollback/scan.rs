//! Which partitions are there to hold a record. Disks are asked on threads: one that hangs, and may
//! be nobody's cache, must not keep the machine from booting.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use log::warn;
use rustix::io::Errno;

use super::partition::Partition;
use super::superblock::{LENGTH, Superblock};
use super::{Error, gpt};
use crate::config::Cache;
use crate::paths::Paths;
use crate::time::Deadline;

/// The name in a partition table, and the labels, of a partition that is made for it.
const PART_NAME: &str = "Phase Cache";
const LABELS: [&str; 2] = ["PHASE_CACHE", "PHASECACHE"];
/// Until a partition that is named by hand is looked for again: USB is slow.
const PAUSE: Duration = Duration::from_millis(250);
/// Every one that matches counts: a second one must not take the place of the first.
const MOST: usize = 8;
/// Floppies, optical drives and raw flash hold no cache, and are slow to say so.
const PASSED_OVER: [&str; 3] = ["fd", "sr", "mtd"];

/// Looks for partitions, and says once what is wrong with one.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    /// What the policy names, and what the kernel command line adds.
    caches: [&'a Cache; 2],
    /// The record's name on each.
    file: String,
    paths: &'a Paths,
    /// How long disks may take to answer, and a partition that is named by hand to turn up.
    patience: Duration,
    /// Disks that have not answered yet.
    asked: Vec<String>,
    /// Where they do.
    answers: (Sender<Answer>, Receiver<Answer>),
    complained: Vec<String>,
}

/// What /sys says about a disk or partition.
struct Device {
    name: String,
    part_name: Option<String>,
    read_only: bool,
}

/// What it says itself.
#[derive(Debug)]
struct Start {
    superblock: Result<Option<Superblock>, Errno>,
    part_uuid: Option<String>,
}

/// A device and what it says.
type Answer = (String, Start);

impl<'a> Scanner<'a> {
    pub(super) fn new(caches: [&'a Cache; 2], file: String, paths: &'a Paths, patience: Duration) -> Self {
        let (asked, complained) = (Vec::new(), Vec::new());
        Self { caches, file, paths, patience, asked, answers: mpsc::channel(), complained }
    }

    /// The partitions that are named. What is named by hand is waited for.
    pub(super) fn find(&mut self, deadline: Deadline) -> Result<Vec<Partition>, Error> {
        let until = Deadline::after(self.patience);
        let deadline = deadline.or_after(self.patience);
        loop {
            let (found, met) = self.look(until);
            if found.len() > MOST {
                return Err(Error::TooMany { most: MOST });
            }
            let missing = self.caches.into_iter().zip(met).filter_map(|(cache, met)| {
                let may_be_missing = met || matches!(cache, Cache::On | Cache::Off);
                (!may_be_missing).then(|| cache.to_string())
            });
            let missing: Vec<String> = missing.collect();
            if missing.is_empty() || deadline.passed() {
                for name in missing {
                    self.complain(&name, "there is no such partition");
                }
                return Ok(found);
            }
            thread::sleep(PAUSE);
        }
    }

    /// The partitions that are there now, and whether each of `caches` has named any device.
    fn look(&mut self, until: Deadline) -> (Vec<Partition>, [bool; 2]) {
        let devices = self.devices();
        let mut starts = self.ask(&devices, until);
        let (mut found, mut met) = (Vec::new(), [false; 2]);
        for device in devices {
            let unanswered = || Start { superblock: Err(Errno::TIMEDOUT), part_uuid: None };
            let answer = starts.iter().position(|(name, _)| *name == device.name);
            let start = answer.map_or_else(unanswered, |at| starts.swap_remove(at).1);
            let path = self.paths.device(&device.name);
            match start.superblock {
                // Not there yet, or a card reader without a card.
                Err(Errno::NOENT | Errno::NXIO | Errno::NOMEDIUM) => continue,
                Err(Errno::TIMEDOUT) => self.complain(&path.display().to_string(), "it does not answer"),
                Err(errno) => {
                    self.complain(&path.display().to_string(), &format!("it cannot be read: {errno}"));
                }
                Ok(_) => {}
            }
            let named = self.caches.map(|cache| is_named(cache, &device, Some(&start)));
            let [by_policy, by_line] = named;
            if !by_policy && !by_line {
                continue;
            }
            met = [met[0] || by_policy, met[1] || by_line];
            let superblock = match start.superblock {
                // phaseboot never wrote to such a one.
                Ok(None) => {
                    let why =
                        "it holds neither ext2, ext3, ext4, FAT16 nor FAT32, and keeps no rollback record";
                    self.complain(&path.display().to_string(), why);
                    continue;
                }
                Ok(Some(superblock)) => Ok(superblock),
                Err(errno) => Err(errno),
            };
            found.push(Partition {
                device: path,
                superblock,
                file: self.file.clone(),
                point: self.paths.cache(),
                read_only: device.read_only,
                by_policy,
            });
        }
        (found, met)
    }

    /// The devices that can be meant.
    fn devices(&self) -> Vec<Device> {
        let mut devices = Vec::new();
        for entry in fs::read_dir(self.paths.block_devices()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let folder = entry.path();
            // What something else is made of, as a RAID, is not mounted itself.
            let is_held = fs::read_dir(folder.join("holders")).is_ok_and(|mut all| all.next().is_some());
            if is_held || PASSED_OVER.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let read_only = fs::read_to_string(folder.join("ro")).is_ok_and(|text| text.trim() == "1");
            let device = Device { name, part_name: part_name(&folder), read_only };
            let is_candidate = |cache: &&Cache| match cache {
                Cache::On | Cache::Label(_) | Cache::Uuid(_) | Cache::PartUuid(_) => true,
                Cache::Off | Cache::Device(_) | Cache::PartLabel(_) => is_named(cache, &device, None),
            };
            if self.caches.iter().any(is_candidate) {
                devices.push(device);
            }
        }
        devices
    }

    /// Reads the start of each, all at a time. Those that answered; one that did not in time is not
    /// asked again, but may still answer.
    fn ask(&mut self, devices: &[Device], until: Deadline) -> Vec<(String, Start)> {
        let mut starts = Vec::new();
        let mut awaited = Vec::new();
        for Device { name, .. } in devices {
            if self.is_asked(name) {
                continue;
            }
            let by_part_uuid = self.caches.iter().any(|cache| matches!(cache, Cache::PartUuid(_)));
            let (device, paths) = (name.clone(), self.paths.clone());
            let answers = self.answers.0.clone();
            let read = move || {
                let superblock = superblock(&paths.device(&device));
                let part_uuid = by_part_uuid.then(|| gpt::uuid(&device, &paths)).flatten();
                // Nobody listens any more if it took too long.
                let _ = answers.send((device, Start { superblock, part_uuid }));
            };
            if thread::Builder::new().spawn(read).is_ok() {
                self.asked.push(name.clone());
                awaited.push(name);
            } else {
                starts.push((name.clone(), Start { superblock: Err(Errno::AGAIN), part_uuid: None }));
            }
        }
        loop {
            let is_awaited = awaited.iter().any(|name| self.is_asked(name));
            let wait = if is_awaited { until.remaining() } else { Duration::ZERO };
            let Ok(answer) = self.answers.1.recv_timeout(wait) else { return starts };
            self.asked.retain(|name| *name != answer.0);
            starts.push(answer);
        }
    }

    fn is_asked(&self, name: &str) -> bool {
        self.asked.iter().any(|asked| asked == name)
    }

    fn complain(&mut self, name: &str, why: &str) {
        if !self.complained.iter().any(|known| known == name) {
            warn!("{name}: {why}");
            self.complained.push(name.to_owned());
        }
    }
}

/// Whether `cache` names this device, as far as is known about it.
fn is_named(cache: &Cache, device: &Device, start: Option<&Start>) -> bool {
    let superblock = start.and_then(|start| start.superblock.as_ref().ok()?.as_ref());
    let is_called = |wanted: &str| device.part_name.as_deref() == Some(wanted);
    let is_labelled = |wanted: &str| superblock.is_some_and(|found| found.label == wanted);
    let is = |id: Option<&String>, wanted: &str| id.is_some_and(|id| id.eq_ignore_ascii_case(wanted));
    match cache {
        Cache::Off => false,
        Cache::On => is_called(PART_NAME) || LABELS.iter().any(|label| is_labelled(label)),
        Cache::Device(wanted) => device.name.replace('!', "/") == *wanted,
        Cache::PartLabel(wanted) => is_called(wanted),
        Cache::Label(wanted) => is_labelled(wanted),
        Cache::Uuid(wanted) => is(superblock.map(|found| &found.uuid), wanted),
        Cache::PartUuid(wanted) => is(start.and_then(|start| start.part_uuid.as_ref()), wanted),
    }
}

/// The name in the partition table: disk_uevent of block/partitions/core.c.
fn part_name(folder: &Path) -> Option<String> {
    let uevent = fs::read(folder.join("uevent")).ok()?;
    String::from_utf8_lossy(&uevent)
        .lines()
        .find_map(|line| line.strip_prefix("PARTNAME=").map(str::to_owned))
}

/// What the device begins with; None if that is no file system that is supported.
pub(super) fn superblock(device: &Path) -> Result<Option<Superblock>, Errno> {
    let mut start = Vec::with_capacity(LENGTH);
    let length = u64::try_from(LENGTH).unwrap_or(0);
    let read = File::open(device).and_then(|device| device.take(length).read_to_end(&mut start));
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(Superblock::parse(&start))
}

#[cfg(test)]
mod tests;
