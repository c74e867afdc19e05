//! How fast is fast enough, and when another connection pays. Pure.

use std::time::{Duration, Instant};

use crate::log::bytes;

/// A transfer that brings less than this over [`WINDOW`] is given up for the next server.
const LEAST_RATE: u64 = 4_000;
const WINDOW: Duration = Duration::from_secs(15);

/// The floor on the speed of one transfer.
#[derive(Debug)]
pub(super) struct Floor {
    since: Instant,
    count: u64,
}

impl Floor {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, count: 0 }
    }

    /// So many more bytes have arrived. Says it if that was too slow.
    pub(super) fn note(&mut self, count: usize, now: Instant) -> Option<String> {
        self.count = self.count.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let elapsed = now.duration_since(self.since);
        if elapsed < WINDOW {
            return None;
        }
        let rate = per_second(self.count, elapsed);
        *self = Self::new(now);
        (rate < LEAST_RATE).then(|| {
            let (rate, least) = (bytes(rate), bytes(LEAST_RATE));
            format!("the server is too slow: {rate}/s over {} s, {least}/s is the least", elapsed.as_secs())
        })
    }
}

/// After this, the rate of a transfer says whether the rest can come in time.
pub(super) const PROOF: Duration = Duration::from_secs(5);

pub(super) fn per_second(count: u64, elapsed: Duration) -> u64 {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / millis
}

/// Files that are smaller come over one connection, and pieces are no smaller than an eighth of it.
pub(super) const LARGE: u64 = 32 << 20;
pub(super) const LEAST_PIECE: u64 = LARGE / 8;
const MOST_CONNECTIONS: usize = 4;
/// How long a number of connections is measured, after the last change has settled.
const MEASURE: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_millis(500);
/// With less than this to go, another connection is not worth its beginning.
const WORTH: Duration = Duration::from_secs(4);

/// How many connections a file gets: another one as long as the last one made it clearly faster.
#[derive(Debug)]
pub(super) struct Pace {
    wanted: usize,
    /// What the last number of connections brought, in bytes a second.
    before: Option<u64>,
    /// The beginning of the present measurement, and the bytes that were there then.
    since: Instant,
    received: u64,
    /// No more are tried.
    settled: bool,
}

impl Pace {
    pub(super) fn new(size: u64, now: Instant) -> Self {
        Self { wanted: 1, before: None, since: now, received: 0, settled: size < LARGE }
    }

    /// How many connections there should be, now that so much of the file is there.
    pub(super) fn wanted(&mut self, received: u64, size: u64, now: Instant) -> usize {
        // Before the end of SETTLE this is zero, and nothing is measured.
        let elapsed = now.saturating_duration_since(self.since);
        if self.settled || elapsed < MEASURE {
            if elapsed.is_zero() {
                self.received = received;
            }
            return self.wanted;
        }
        let rate = per_second(received.saturating_sub(self.received), elapsed);
        // By a quarter: measurements vary by less.
        let paid = self.before.is_none_or(|before| rate > before.saturating_add(before / 4));
        let left = Duration::from_secs(size.saturating_sub(received) / rate.max(1));
        if !paid || left < WORTH || self.wanted == MOST_CONNECTIONS {
            self.settled = true;
            return self.wanted;
        }
        log::debug!("{}/s over {} connections: one more is tried", bytes(rate), self.wanted);
        self.wanted += 1;
        self.before = Some(rate);
        (self.since, self.received) = (now + SETTLE, received);
        self.wanted
    }

    /// A further connection is not to be had: it stays at this many.
    pub(super) fn settle(&mut self, connections: usize) {
        self.wanted = connections.max(1);
        self.settled = true;
    }

    /// A transfer ended and another begins: what was measured so far does not count.
    pub(super) fn again(&mut self, received: u64, now: Instant) {
        (self.since, self.received) = (now, received);
    }
}

/// How long to wait before the `round`th further try: from 300 ms, doubling, to 5 s, and up to half of it
/// less, so that machines that were switched on together do not come back together. `random` is any number.
pub(super) fn backoff(round: u32, random: u16) -> Duration {
    const FIRST: Duration = Duration::from_millis(300);
    const MOST: Duration = Duration::from_secs(5);
    let full = FIRST.saturating_mul(1 << round.saturating_sub(1).min(10)).min(MOST);
    full - full / 2 * u32::from(random) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowness_is_said_with_its_rate() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut floor = Floor::new(start);
        assert_eq!(floor.note(100_000, at(16)), None);
        assert_eq!(floor.note(100, at(20)), None);
        assert_eq!(
            floor.note(47_900, at(32)).unwrap(),
            "the server is too slow: 3.0 kB/s over 16 s, 4.0 kB/s is the least"
        );
    }

    /// Rates for one, two, ... connections; the numbers of connections over 20 seconds.
    fn connections(size: u64, rates: [u64; 4]) -> Vec<usize> {
        let start = Instant::now();
        let mut pace = Pace::new(size, start);
        let (mut received, mut wanted, mut seen) = (0, 1, vec![]);
        for tick in 1..80 {
            received += rates[wanted - 1] / 4;
            wanted = pace.wanted(received, size, start + Duration::from_millis(250) * tick);
            if seen.last() != Some(&wanted) {
                seen.push(wanted);
            }
        }
        seen
    }

    #[test]
    fn connections_are_added_while_they_pay() {
        const MB: u64 = 1_000_000;
        assert_eq!(connections(1000 * MB, [MB, 2 * MB, 3 * MB, 4 * MB]), [1, 2, 3, 4]);
        assert_eq!(connections(1000 * MB, [MB, 2 * MB, 2 * MB, 2 * MB]), [1, 2, 3]);
        assert_eq!(connections(1000 * MB, [10 * MB; 4]), [1, 2]);
        assert_eq!(connections(30 * MB, [MB, 2 * MB, 3 * MB, 4 * MB]), [1], "small");
        assert_eq!(connections(100 * MB, [50 * MB; 4]), [1], "soon over");
        let mut pace = Pace::new(1000 * MB, Instant::now());
        pace.settle(0);
        assert_eq!(pace.wanted(0, 1000 * MB, Instant::now() + MEASURE), 1);
    }

    #[test]
    fn pauses_grow_and_vary() {
        assert_eq!(backoff(1, 0), Duration::from_millis(300));
        assert_eq!(backoff(1, u16::MAX), Duration::from_millis(150));
        assert_eq!(backoff(3, 0), Duration::from_millis(1200));
        assert_eq!(backoff(u32::MAX, 0), Duration::from_secs(5));
    }
}
