//! Whom to ask next, and for which piece.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{FRUIT, Transfer};
use crate::fetch::Error;
use crate::fetch::pace;
use crate::fetch::pull::{self, CHECK_PROVIDER, Job};

/// How many rounds in a row over all URLs may be in vain.
const FRUITLESS_ROUNDS: u32 = 4;
/// A piece that nobody has added to for this long is given to a connection that is free.
const IDLE: Duration = Duration::from_secs(3);
const TOO_SLOW: &str = "the server is too slow for the time that is left";

impl Transfer<'_> {
    /// Sees to it that as many are at it as should be.
    pub(super) fn employ(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.active.is_empty() {
            if now < self.not_before {
                return Ok(());
            }
            let Some(source) = self.choose(now)? else { return Ok(()) };
            let last = self.sources.last_contributor();
            if self.alone && self.received > 0 && last != source {
                self.restart();
            }
            self.began = (now, self.received);
            return self.start(source, now);
        }
        if self.alone {
            return Ok(());
        }
        let wanted = self.pace.wanted(self.received, self.spec.size, now);
        while self.active.len() < wanted {
            let before = self.active.len();
            let source = self.active.first().map_or(0, |&(_, source)| source);
            self.start(source, now)?;
            if self.active.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// Leaves a server that will not bring the rest in the time that is left, if another one can go on
    /// where it is.
    pub(super) fn relieve(&mut self, now: Instant) {
        let Some(&(_, source)) = self.active.first() else { return };
        let missing = self.spec.size.saturating_sub(self.received);
        let left = self.client.deadline().remaining().as_secs();
        if self.alone || !self.sources.is_other_with_ranges(source, now) {
            return;
        }
        if self.note_rate(source, now).is_none_or(|rate| rate.saturating_mul(left) >= missing) {
            return;
        }
        for (owner, _) in std::mem::take(&mut self.active) {
            self.store.pieces(|pieces| pieces.release(owner));
            self.answers += 1;
        }
        self.sources.contributed(source);
        self.sources.pass_over(source);
        self.pace.again(self.received, now);
        let url = self.sources.url(source).to_owned();
        self.note_broken(url, TOO_SLOW.to_owned(), CHECK_PROVIDER);
    }

    /// The URL to ask now. None while there is a pause.
    fn choose(&mut self, now: Instant) -> Result<Option<usize>, Error> {
        if let Some(source) = self.current.take() {
            return Ok(Some(source));
        }
        if let Some(source) = self.sources.next(now) {
            return Ok(Some(source));
        }
        // Every URL was asked, or wants to be left alone for a while.
        let is_fruitful = self.best >= self.before_round.saturating_add(FRUIT);
        self.fruitless = if is_fruitful { 0 } else { self.fruitless + 1 };
        self.before_round = self.best;
        if self.fruitless >= FRUITLESS_ROUNDS {
            return Err(self.failed());
        }
        self.sources.next_round();
        let pause = match self.fruitless {
            0 => Duration::ZERO,
            round => pace::backoff(round, random()),
        };
        let asked_for = self.sources.wait(now);
        self.not_before = now + pause.max(asked_for);
        Ok(None)
    }

    /// Starts a transfer from a URL, for a piece that nobody has or for a part of somebody else's.
    fn start(&mut self, source: usize, now: Instant) -> Result<(), Error> {
        let name = self.spec.name;
        let owner = self.last_owner.wrapping_add(1);
        let is_extra = !self.active.is_empty();
        let piece = self.store.pieces(|pieces| {
            let free = pieces.take(owner, now);
            if !is_extra || free.is_some() {
                return free;
            }
            pieces.split(owner, pace::LEAST_PIECE, now).or_else(|| pieces.seize(owner, IDLE, now))
        });
        let (Some((from, to)), Some(known)) = (piece, self.sources.get(source)) else { return Ok(()) };
        self.last_owner = owner;
        let job = Job {
            owner,
            source,
            url: known.url.clone(),
            from,
            to,
            size: self.spec.size,
            validator: known.validator.clone().filter(|_| from > 0),
            without_range: !known.ranges,
            may_skip: !is_extra && !self.sources.is_other_with_ranges(source, now),
        };
        self.active.push((owner, source));
        let (client, store) = (self.client.clone(), Arc::clone(&self.store));
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || pull::run(&job, &client, &store))
            .map(drop)
            .map_err(|error| Error::Thread { name, error })
    }
}

/// For jitter; zero if the kernel has nothing.
fn random() -> u16 {
    let mut bytes = [0; 2];
    crate::sys::random::fill_insecure(&mut bytes);
    u16::from_ne_bytes(bytes)
}
