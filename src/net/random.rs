//! Numbers for transaction ids and jitter, from a seed: nothing waits for the kernel's generator.

use std::time::Duration;

/// splitmix64 (Steele, Lea, Flood 2014): spreads a seed, no more is needed of it.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// The wait after the nth message, n from 1: doubled each time up to `longest`, and up to an eighth
    /// more, so that machines powered on together do not stay in step.
    pub(super) fn wait(&mut self, first: Duration, longest: Duration, n: u32) -> Duration {
        let doubled = first.saturating_mul(1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = doubled.min(longest);
        wait + self.part_of(wait / 8)
    }

    /// Something from nothing to less than `most`, in 256 steps.
    pub(super) fn part_of(&mut self, most: Duration) -> Duration {
        // Divided first: no duration overflows.
        most / 256 * (self.next() % 256)
    }
}
