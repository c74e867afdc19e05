//! Sets of physical addresses.

use std::ops::Range;

/// A set of addresses: sorted ranges, none empty, none touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// Whether there is no address in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of addresses, in bytes.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add)
    }

    /// Whether all of `wanted` is in it.
    pub fn contains(&self, wanted: &Range<u64>) -> bool {
        self.0.iter().any(|range| range.start <= wanted.start && wanted.end <= range.end)
    }

    /// Adds `new`.
    pub fn add(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let first = self.0.partition_point(|range| range.end < new.start);
        let after = self.0.partition_point(|range| range.start <= new.end);
        let merged = self
            .0
            .get(first..after)
            .unwrap_or_default()
            .iter()
            .fold(new, |sum, range| sum.start.min(range.start)..sum.end.max(range.end));
        self.0.splice(first..after, [merged]);
    }

    /// Takes `gone` away.
    pub fn remove(&mut self, gone: &Range<u64>) {
        if gone.is_empty() {
            return;
        }
        let cut = std::mem::take(&mut self.0);
        self.0 = cut
            .into_iter()
            .flat_map(|range| [range.start..range.end.min(gone.start), range.start.max(gone.end)..range.end])
            .filter(|range| !range.is_empty())
            .collect();
    }

    /// Takes everything in `gone` away.
    pub fn remove_all(&mut self, gone: &Self) {
        for range in gone.iter() {
            self.remove(range);
        }
    }

    /// Keeps only what lies in `bounds`.
    pub fn clip(&mut self, bounds: &Range<u64>) {
        self.remove(&(0..bounds.start));
        self.remove(&(bounds.end..u64::MAX));
    }

    /// Makes every range smaller until it begins and ends at a multiple of `page`.
    pub fn shrink_to(&mut self, page: u64) {
        let whole = |range: Range<u64>| {
            let start = range.start.checked_next_multiple_of(page)?;
            let end = range.end - range.end % page;
            (start < end).then_some(start..end)
        };
        self.0 = std::mem::take(&mut self.0).into_iter().filter_map(whole).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_addresses(steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 0..40)) {
            let mut ranges = Ranges::default();
            let mut model = [false; 80];
            for (add, start, length) in steps {
                let range = start..start + length;
                if add { ranges.add(range) } else { ranges.remove(&range) }
                for slot in &mut model[usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap()] {
                    *slot = add;
                }
            }
            for (address, &inside) in (0u64..).zip(&model) {
                prop_assert_eq!(ranges.contains(&(address..address + 1)), inside);
            }
            for pair in ranges.0.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            prop_assert_eq!(ranges.total(), model.iter().filter(|&&inside| inside).count() as u64);
        }
    }

    #[test]
    fn only_whole_pages_stay() {
        let mut ranges = Ranges::default();
        ranges.add(5..9);
        ranges.add(10..31);
        ranges.shrink_to(8);
        assert!(ranges.iter().eq([&(16..24)]));
        ranges.clip(&(0..20));
        assert!(ranges.iter().eq([&(16..20)]));
    }
}
