//! The memory file of an artifact while it fills, and the thread that hashes after it.
//!
//! Bytes are written under the lock, and only by the owner of the piece that they belong to
//! ([`Pieces`]), so a transfer that was given up cannot change anything afterwards, however late it
//! wakes. The hash is taken from the file itself, in order, of bytes before the first gap: those are
//! written once. What was hashed is what is sealed.
//!
//! Bytes come and go by pwrite(2) and pread(2) rather than by a mapping: they say when memory is short,
//! and a transfer that is given up holds no part of the file that would have to be taken back from it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::fetch::Error;
use crate::fetch::pages::Pages;
use crate::fetch::pieces::{Owner, Pieces};
use crate::sys::memfd::{self, Sealed};

/// The hash follows in steps of this many bytes, so that it reads from the CPU's cache what has just
/// been written; it reads so many at once that they are still in the nearest cache when they are hashed.
const STEP: u64 = 256 * 1024;
const READ: u64 = 64 * 1024;
/// It looks after so many bytes whether they still count.
const LOOK: u64 = 1024 * 1024;

/// What became of bytes that were handed in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All of them are there, and more are wanted.
    All,
    /// The piece is complete; so many of them were left over.
    Complete {
        excess: usize,
    },
    /// The piece belongs to somebody else by now.
    NotYours,
    Failed(Errno),
}

/// How a transfer ended.
#[derive(Debug)]
pub(super) struct Report<T> {
    pub(super) owner: Owner,
    pub(super) outcome: T,
}

struct State<T> {
    /// None when it has been sealed or given up.
    file: Option<File>,
    pages: Pages,
    pieces: Pieces,
    /// Counts fresh starts: the hash starts over too.
    epoch: u32,
    /// The hash of the whole file.
    digest: Option<[u8; 32]>,
    /// Reading the file back failed.
    fault: Option<Errno>,
    reports: Vec<Report<T>>,
    /// The hasher sleeps until this much is there without a gap.
    hasher_wants: u64,
}

/// The file that transfers fill together; `T` is what they report in the end.
pub(super) struct Store<T> {
    state: Mutex<State<T>>,
    /// For the hasher: there are more bytes, or nothing more is to be done.
    bytes: Condvar,
    /// For the one who directs: a transfer ended, the hash is known.
    events: Condvar,
}

/// What the one who directs is told.
#[derive(Debug)]
pub(super) struct News<T> {
    pub(super) reports: Vec<Report<T>>,
    pub(super) received: u64,
    pub(super) complete: bool,
    pub(super) digest: Option<[u8; 32]>,
    pub(super) fault: Option<Errno>,
}

impl<T: Send + 'static> Store<T> {
    /// An empty memory file for `size` bytes, and its hasher.
    pub(super) fn new(name: &'static str, size: u64) -> Result<(Arc<Self>, JoinHandle<()>), Error> {
        let no_file = |errno| Error::MemoryFile { name, errno };
        let file = memfd::create(name).map_err(no_file)?;
        // Large pages lie within a file's size. Memory is taken as it is written to.
        file.set_len(size).map_err(|error| no_file(errno(&error)))?;
        let reader = file.try_clone().map_err(|error| no_file(errno(&error)))?;
        let state = State {
            file: Some(file),
            pages: Pages::default(),
            pieces: Pieces::new(size, Instant::now()),
            epoch: 0,
            digest: None,
            fault: None,
            reports: Vec::new(),
            hasher_wants: 0,
        };
        let store =
            Arc::new(Self { state: Mutex::new(state), bytes: Condvar::new(), events: Condvar::new() });
        let hashed = Arc::clone(&store);
        let hasher = std::thread::Builder::new()
            .name(format!("hash-{name}"))
            .spawn(move || hashed.hash(&reader, size))
            .map_err(|error| Error::Thread { name, error })?;
        Ok((store, hasher))
    }

    /// Changes what belongs to whom.
    pub(super) fn pieces<R>(&self, change: impl FnOnce(&mut Pieces) -> R) -> R {
        change(&mut self.lock().pieces)
    }

    /// Writes what comes next in the piece of `owner`.
    pub(super) fn write(&self, owner: Owner, bytes: &[u8]) -> Written {
        let mut state = self.lock();
        let State { file: Some(file), pieces, pages, .. } = &mut *state else { return Written::NotYours };
        let Some((next, end)) = pieces.of(owner) else { return Written::NotYours };
        let room = usize::try_from(end.saturating_sub(next)).unwrap_or(usize::MAX);
        let wanted = bytes.get(..room).unwrap_or(bytes);
        let count = u64::try_from(wanted.len()).unwrap_or(0);
        pages.prepare(file, next, count, pieces.size());
        if let Err(error) = file.write_all_at(wanted, next) {
            return Written::Failed(errno(&error));
        }
        pieces.advance(owner, count, Instant::now());
        if pieces.prefix() >= state.hasher_wants {
            state.hasher_wants = u64::MAX;
            self.bytes.notify_one();
        }
        match bytes.len() - wanted.len() {
            0 if wanted.len() < room => Written::All,
            excess => Written::Complete { excess },
        }
    }

    /// A transfer has ended: what it did not bring is free again.
    pub(super) fn report(&self, owner: Owner, outcome: T) {
        let mut state = self.lock();
        state.pieces.release(owner);
        state.reports.push(Report { owner, outcome });
        self.events.notify_one();
    }

    /// Waits until something has happened, at most for `limit`. That the hash is known is no news to who
    /// `knows` it.
    pub(super) fn news(&self, limit: Duration, knows: bool) -> News<T> {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let is_hashed = state.digest.is_some() && !knows;
            let is_news = !state.reports.is_empty() || is_hashed || state.fault.is_some();
            if is_news || left.is_zero() {
                return News {
                    reports: std::mem::take(&mut state.reports),
                    received: state.pieces.received(),
                    complete: state.pieces.is_complete(),
                    digest: state.digest,
                    fault: state.fault,
                };
            }
            state = self.events.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Nothing of what is there is believed any more. The memory is used again.
    pub(super) fn restart(&self, size: u64) {
        let mut state = self.lock();
        state.pieces = Pieces::new(size, Instant::now());
        state.epoch = state.epoch.wrapping_add(1);
        state.digest = None;
        self.bytes.notify_one();
    }

    /// Ends it: from now on nobody writes. The file can be sealed when the hasher has ended.
    pub(super) fn close(&self) -> Option<File> {
        let file = self.lock().file.take();
        self.bytes.notify_one();
        file
    }

    /// Hashes what lies before the first gap, until the store is closed.
    fn hash(&self, file: &File, size: u64) {
        let mut buffer = vec![0; usize::try_from(READ).unwrap_or(0)];
        let (mut hash, mut done, mut epoch) = (Sha256::new(), 0, 0);
        let mut state = self.lock();
        while state.file.is_some() && state.fault.is_none() {
            if state.epoch != epoch {
                (hash, done, epoch) = (Sha256::new(), 0, state.epoch);
            }
            let available = state.pieces.prefix().saturating_sub(done);
            if done == size && state.digest.is_none() {
                state.digest = Some(hash.clone().finalize().into());
                self.events.notify_one();
            }
            if available < READ && (available == 0 || done.saturating_add(available) < size) {
                state.hasher_wants =
                    if done == size { u64::MAX } else { size.min(done.saturating_add(STEP)) };
                state = self.bytes.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            let until = done.saturating_add(available.min(LOOK));
            let mut read = Ok(());
            while done < until && read.is_ok() {
                let count = usize::try_from(READ.min(until - done)).unwrap_or(0);
                let part = buffer.get_mut(..count).unwrap_or_default();
                read = file.read_exact_at(part, done);
                hash.update(&*part);
                done = done.saturating_add(u64::try_from(count).unwrap_or(0));
            }
            state = self.lock();
            if let Err(error) = read {
                // What a fresh start overwrites meanwhile is hashed for nothing; that is no fault.
                state.fault = Some(errno(&error)).filter(|_| state.epoch == epoch).or(state.fault);
                self.events.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing is left half-done by a thread that died: a piece is shortened after its bytes are there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seals a file that nobody writes to any more.
pub(super) fn seal(file: File) -> Result<Sealed, Errno> {
    Sealed::seal(file)
}

pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    fn digest(store: &Store<()>) -> Option<[u8; 32]> {
        store.news(Duration::from_secs(10), false).digest
    }

    #[test]
    fn halves_that_are_written_in_turn_are_hashed_in_order() {
        let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
        let (store, hasher) = Store::<()>::new("test", 4_000_000).unwrap();
        let now = Instant::now();
        store.pieces(|pieces| {
            pieces.take(1, now);
            pieces.split(2, 1, now);
        });
        let (first, second) = bytes.split_at(2_000_000);
        for (one, other) in first.chunks(70_000).zip(second.chunks(70_000)) {
            store.write(2, other);
            store.write(1, one);
        }
        assert_eq!(digest(&store), Some(hash(&bytes)));
        let file = store.close().unwrap();
        hasher.join().unwrap();
        assert_eq!(&*Sealed::seal(file).unwrap().map().unwrap(), bytes.as_slice());
        assert_eq!(store.write(1, b"late"), Written::NotYours);
    }

    #[test]
    fn who_was_left_behind_writes_nothing() {
        let (store, hasher) = Store::<()>::new("test", 10).unwrap();
        let now = Instant::now();
        store.pieces(|pieces| pieces.take(1, now));
        assert_eq!(store.write(1, b"wrong"), Written::All);
        store.restart(10);
        assert_eq!(store.write(1, b"wrong"), Written::NotYours);
        store.pieces(|pieces| pieces.take(2, now));
        assert_eq!(store.write(2, b"right bytes"), Written::Complete { excess: 1 });
        assert_eq!(store.write(2, b"more"), Written::NotYours);
        assert_eq!(digest(&store), Some(hash(b"right byte")));
        store.restart(10);
        assert_eq!(store.news(Duration::from_millis(50), false).digest, None);
        store.pieces(|pieces| pieces.take(3, now));
        store.report(3, ());
        assert_eq!(store.news(Duration::from_secs(5), false).reports.len(), 1);
        store.close();
        hasher.join().unwrap();
    }

    /// The first half arrives last, so that the large page in the middle is taken when it is half full.
    #[test]
    fn large_pages_keep_what_is_there() {
        const SIZE: u64 = 35 << 20;
        let bytes: Vec<u8> = (0..u32::try_from(SIZE / 4).unwrap()).flat_map(u32::to_le_bytes).collect();
        let (store, hasher) = Store::<()>::new("test", SIZE).unwrap();
        let now = Instant::now();
        store.pieces(|pieces| pieces.take(1, now));
        let (middle, _) = store.pieces(|pieces| pieces.split(2, 1, now)).unwrap();
        let (first, second) = bytes.split_at(usize::try_from(middle).unwrap());
        for (owner, half) in [(2, second), (1, first)] {
            half.chunks(100_000).for_each(|chunk| {
                store.write(owner, chunk);
            });
        }
        assert_eq!(digest(&store), Some(hash(&bytes)));
        // The second time they are there already.
        store.restart(SIZE);
        store.pieces(|pieces| pieces.take(3, now));
        bytes.chunks(100_000).for_each(|chunk| {
            store.write(3, chunk);
        });
        assert_eq!(digest(&store), Some(hash(&bytes)));
        let file = store.close().unwrap();
        hasher.join().unwrap();
        assert!(*Sealed::seal(file).unwrap().map().unwrap() == *bytes);
    }

    #[test]
    fn a_size_that_no_file_can_have_is_refused() {
        let refused = Store::<()>::new("test", u64::MAX).map(drop);
        assert!(matches!(refused, Err(Error::MemoryFile { name: "test", .. })));
    }

    #[test]
    fn an_empty_file_has_a_hash() {
        let (store, _) = Store::<()>::new("test", 0).unwrap();
        assert_eq!(digest(&store), Some(hash(b"")));
        store.close();
    }
}
