//! Which bytes of a file are still to come, and who brings them. Pure.
//!
//! A piece is a run of missing bytes, `next..end`; every byte is either in the file already or in
//! exactly one piece. A piece has at most one owner, and only its owner shortens it from the front, by
//! what it has written. So no byte is written twice, and what lies before the first piece is final.

use std::time::{Duration, Instant};

/// A transfer that may own a piece. Each has its own.
pub(super) type Owner = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    next: u64,
    end: u64,
    owner: Option<Owner>,
    /// When its owner wrote last, or got it.
    touched: Instant,
}

/// What is missing of one file, in order.
#[derive(Debug)]
pub(super) struct Pieces {
    size: u64,
    list: Vec<Piece>,
}

impl Pieces {
    /// A file of `size` bytes of which nothing is there.
    pub(super) fn new(size: u64, now: Instant) -> Self {
        let whole = Piece { next: 0, end: size, owner: None, touched: now };
        Self { size, list: if size > 0 { vec![whole] } else { Vec::new() } }
    }

    /// How large the whole file is, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes from the beginning are there without a gap. They do not change any more.
    pub(super) fn prefix(&self) -> u64 {
        self.list.first().map_or(self.size, |piece| piece.next)
    }

    /// How many bytes are there.
    pub(super) fn received(&self) -> u64 {
        self.size.saturating_sub(self.list.iter().map(|piece| piece.end - piece.next).sum())
    }

    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.list.is_empty()
    }

    /// Gives `owner` the first piece that nobody has: its first byte and the one after its last.
    pub(super) fn take(&mut self, owner: Owner, now: Instant) -> Option<(u64, u64)> {
        let piece = self.list.iter_mut().find(|piece| piece.owner.is_none())?;
        (piece.owner, piece.touched) = (Some(owner), now);
        Some((piece.next, piece.end))
    }

    /// Gives `owner` the second half of the largest piece, if both halves have at least `least` bytes.
    pub(super) fn split(&mut self, owner: Owner, least: u64, now: Instant) -> Option<(u64, u64)> {
        let places = self.list.iter_mut().enumerate();
        let (index, piece) = places.max_by_key(|(_, piece)| piece.end - piece.next)?;
        let (half, end) = ((piece.end - piece.next) / 2, piece.end);
        if half < least {
            return None;
        }
        let middle = piece.next + half;
        piece.end = middle;
        self.list.insert(index + 1, Piece { next: middle, end, owner: Some(owner), touched: now });
        Some((middle, end))
    }

    /// Gives `owner` what another one has not touched for `idle`.
    pub(super) fn seize(&mut self, owner: Owner, idle: Duration, now: Instant) -> Option<(u64, u64)> {
        let is_idle = |piece: &&mut Piece| piece.owner.is_some() && now.duration_since(piece.touched) >= idle;
        let piece = self.list.iter_mut().find(is_idle)?;
        (piece.owner, piece.touched) = (Some(owner), now);
        Some((piece.next, piece.end))
    }

    /// What `owner` still has to bring: the next byte and the one after its last. None if its piece is
    /// complete, or was taken from it.
    pub(super) fn of(&self, owner: Owner) -> Option<(u64, u64)> {
        let piece = self.list.iter().find(|piece| piece.owner == Some(owner))?;
        Some((piece.next, piece.end))
    }

    /// `count` bytes of the piece of `owner` have been written. No more than the piece has count.
    pub(super) fn advance(&mut self, owner: Owner, count: u64, now: Instant) {
        let Some(index) = self.list.iter().position(|piece| piece.owner == Some(owner)) else { return };
        let Some(piece) = self.list.get_mut(index) else { return };
        piece.touched = now;
        piece.next = piece.next.saturating_add(count).min(piece.end);
        if piece.next == piece.end {
            self.list.remove(index);
        }
    }

    /// `owner` brings nothing more. A piece that goes on where the one before it ends becomes part of
    /// that one again.
    pub(super) fn release(&mut self, owner: Owner) {
        let Some(index) = self.list.iter().position(|piece| piece.owner == Some(owner)) else { return };
        let Some(piece) = self.list.get_mut(index) else { return };
        piece.owner = None;
        let (next, end) = (piece.next, piece.end);
        let before = index.checked_sub(1).and_then(|before| self.list.get_mut(before));
        if let Some(before) = before.filter(|before| before.end == next) {
            before.end = end;
            self.list.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_after_the_other() {
        let now = Instant::now();
        let mut pieces = Pieces::new(100, now);
        assert_eq!(pieces.take(1, now), Some((0, 100)));
        assert_eq!(pieces.take(2, now), None);
        pieces.advance(1, 30, now);
        assert_eq!((pieces.prefix(), pieces.received()), (30, 30));
        pieces.release(1);
        pieces.advance(1, 30, now);
        assert_eq!(pieces.take(2, now), Some((30, 100)));
        pieces.advance(2, 1000, now);
        assert!(pieces.is_complete());
        assert_eq!((pieces.prefix(), pieces.received()), (100, 100));
        assert!(Pieces::new(0, now).is_complete());
    }

    #[test]
    fn halves() {
        let now = Instant::now();
        let mut pieces = Pieces::new(100, now);
        pieces.take(1, now);
        assert_eq!(pieces.split(2, 51, now), None);
        assert_eq!(pieces.split(2, 50, now), Some((50, 100)));
        assert_eq!(pieces.of(1), Some((0, 50)));
        pieces.advance(2, 10, now);
        assert_eq!((pieces.prefix(), pieces.received()), (0, 10));
        assert_eq!(pieces.split(3, 20, now), Some((25, 50)));
        // A second connection that brought nothing leaves everything as it was.
        pieces.release(3);
        assert_eq!(pieces.of(1), Some((0, 50)));
        pieces.advance(1, 50, now);
        assert_eq!((pieces.prefix(), pieces.of(1)), (60, None));
        pieces.release(2);
        assert_eq!(pieces.take(4, now), Some((60, 100)));
        let later = now + Duration::from_secs(3);
        assert_eq!(pieces.seize(5, Duration::from_secs(4), later), None);
        assert_eq!(pieces.seize(5, Duration::from_secs(3), later), Some((60, 100)));
        assert_eq!(pieces.of(4), None);
    }

    proptest! {
        /// Every byte is there once or missing once, whatever is done.
        #[test]
        fn nothing_is_lost(size in 1u64..1000, steps in prop::collection::vec((0u8..5, 1u32..5, 1u64..300), 0..60)) {
            let now = Instant::now();
            let mut pieces = Pieces::new(size, now);
            let mut there = vec![false; usize::try_from(size).unwrap()];
            let mut fresh = 100;
            for (what, owner, count) in steps {
                match what {
                    0 => { if pieces.of(owner).is_none() { pieces.take(owner, now); } }
                    1 => { if pieces.of(owner).is_none() { pieces.split(owner, count, now); } }
                    2 => { fresh += 1; pieces.seize(fresh, Duration::ZERO, now); pieces.release(fresh); }
                    3 => pieces.release(owner),
                    _ => if let Some((next, end)) = pieces.of(owner) {
                        for byte in next..end.min(next + count) {
                            let byte = &mut there[usize::try_from(byte).unwrap()];
                            prop_assert!(!*byte);
                            *byte = true;
                        }
                        pieces.advance(owner, count, now);
                    }
                }
                prop_assert_eq!(pieces.received(), there.iter().filter(|there| **there).count() as u64);
                let prefix = there.iter().take_while(|there| **there).count() as u64;
                prop_assert_eq!(pieces.prefix(), prefix);
                let mut owners: Vec<_> = pieces.list.iter().filter_map(|piece| piece.owner).collect();
                owners.sort_unstable();
                let count = owners.len();
                owners.dedup();
                prop_assert_eq!(owners.len(), count);
            }
        }
    }
}
