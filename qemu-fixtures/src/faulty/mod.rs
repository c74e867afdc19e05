//! An HTTP server that serves a folder, spoils what it is told to spoil, and counts what it has sent.

mod answer;
mod ledger;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;

pub(crate) use self::ledger::Ledger;
use crate::listener::Listener;

/// A folder with a name of 230 bytes in front of a path is passed over.
pub(crate) const LONG_FOLDER: &str = concat!(
    "a-folder-with-a-long-name-",
    "0123456789012345678901234567890123456789012345678901234567890123456789",
    "01234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "012345678901234567890123456789012345678901234567890123"
);

/// What is wrong with a file. Places in it are given in hundredths of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The length is announced, half of it sent, the connection closed. Each time, also for a range.
    CloseHalfway,
    /// The last third is missing, and the announced length says so.
    Truncate,
    /// One bit in the middle is flipped.
    FlipBit,
    /// The same, but only in the first answer.
    FlipBitOnce,
    /// The first answer breaks off halfway. From then on only the rest is to be had: who asks for the whole
    /// again gets 404.
    CutOnce,
    /// The connection is closed at each of these places, once each.
    CutAt(&'static [usize]),
    /// The connection is reset at this place, once.
    ResetAt(usize),
    /// At this place nothing more comes, so many times, and the connection stays.
    StallAt(usize, usize),
    /// So many requests are answered with 404, then all is well.
    MissingAtFirst(usize),
    /// For so many seconds after the first request connections are closed without a word.
    AwayFor(u64),
    /// So many requests are answered with 503 and `Retry-After: 1`.
    Unavailable(usize),
    /// The announced length has a thousand bytes that do not come.
    AnnouncesMore,
    /// Half of the length is announced, all of it sent.
    AnnouncesLess,
    /// The first answer is cut at a third; from then on at most so many bytes a range.
    ShortRanges(usize),
    /// The first answer is cut halfway, and no range is ever answered with one.
    IgnoresRanges,
    /// It is somewhere else, and there too.
    Circles,
    /// Header fields without an end.
    EndlessHead,
    /// No HTTP.
    Garbage,
    /// So many bytes a second.
    Slow(usize),
}

/// Files with this in their name have the fault.
pub(crate) type Faults = &'static [(&'static str, Fault)];

/// What is served, and what has become of it.
#[derive(Debug)]
struct Site {
    folder: PathBuf,
    faults: Faults,
    /// How often a fault's file was asked for, and how often the fault has struck where that is counted.
    met: Vec<AtomicUsize>,
    struck: Vec<AtomicUsize>,
    /// The first request.
    first: OnceLock<Instant>,
    ledger: Arc<Ledger>,
}

/// A fault as a request meets it.
#[derive(Clone, Copy)]
struct Met<'a> {
    fault: Fault,
    /// So many requests met it before.
    before: usize,
    struck: &'a AtomicUsize,
}

impl Site {
    fn meet(&self, name: &str) -> Option<Met<'_>> {
        let index = self.faults.iter().position(|(part, _)| name.contains(part))?;
        let before = self.met[index].fetch_add(1, Ordering::Relaxed);
        Some(Met { fault: self.faults[index].1, before, struck: &self.struck[index] })
    }

    /// Since the first request of a file that is away.
    fn first(&self) -> Duration {
        self.first.get_or_init(Instant::now).elapsed()
    }

    /// A file below the folder.
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.strip_prefix('/')?;
        let path = path.strip_prefix(LONG_FOLDER).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path);
        let relative = Path::new(path);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return None;
        }
        std::fs::read(self.folder.join(relative)).ok()
    }
}

/// The server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Faulty {
    listener: Listener,
    ledger: Arc<Ledger>,
}

impl Faulty {
    /// Serves `folder` on a port of its own at this address.
    pub(crate) fn start(folder: PathBuf, faults: Faults, address: SocketAddr) -> Result<Self> {
        let count = || faults.iter().map(|_| AtomicUsize::new(0)).collect();
        let ledger = Arc::new(Ledger::default());
        let site = Site {
            folder,
            faults,
            met: count(),
            struck: count(),
            first: OnceLock::new(),
            ledger: Arc::clone(&ledger),
        };
        let listener = Listener::start(address, move |stream| {
            // A peer that goes away is a peer's business.
            let _ = answer::answer(stream, &site);
        })?;
        Ok(Self { listener, ledger })
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.port()
    }

    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}

/// Where servers listen inside a namespace: every address, of both families.
pub(crate) const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

#[cfg(test)]
mod tests;
