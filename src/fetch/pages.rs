//! Large pages for a file in memory, as long as they pay.
//!
//! The cost of a fast transfer is memory: a page that is allocated and charged for every 4 KiB costs
//! more than the copy from the socket, and reading it back for the hash a third more than from large
//! pages. They can cost more than they save too: where the kernel has to make room first, or
//! where the host of a virtual machine has taken free memory back: 4 ms each instead of 0.3 ms
//! were measured there. So their time is counted, and small files go without: the few milliseconds that
//! they could save are no more than what one large page takes on a bad day.

use std::fs::File;
use std::time::{Duration, Instant};

use log::debug;
use rustix::io::Errno;

use crate::fetch::pace;
use crate::sys::memfd;

const LARGE: u64 = memfd::LARGE_PAGE as u64;
/// What pages of 4 KiB take for as many bytes: measured 1.2 ms, and 0.3 ms more when they are read.
const SMALL_PAGES: Duration = Duration::from_millis(1);
/// So much longer may all of them take.
const MOST_LOSS: Duration = Duration::from_millis(20);
/// More than this counts for none: on a busy machine it is waiting as a rule.
const MOST_OF_ONE: Duration = Duration::from_millis(8);

/// Whether a file gets large pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// How much longer they have taken than small ones would have.
    loss: Duration,
    is_over: bool,
}

impl Pages {
    /// `count` bytes are about to be written to `file` from `from` on: has the kernel take a large page
    /// for those that come now. Whether it does or not, `file` is as it was.
    pub(super) fn prepare(&mut self, file: &File, from: u64, count: u64, size: u64) {
        if self.is_over || size < pace::LARGE {
            return;
        }
        let Some(start) = reached(from, count, size) else { return };
        let began = Instant::now();
        let result = memfd::enlarge_page(file, start);
        self.note(result, began.elapsed());
    }

    /// `took` is the clock's time and not the thread's, which is without what a host takes to give memory.
    fn note(&mut self, result: Result<(), Errno>, took: Duration) {
        let saved = if result.is_ok() { SMALL_PAGES } else { Duration::ZERO };
        self.loss = (self.loss + took.min(MOST_OF_ONE)).saturating_sub(saved);
        // Something else was at one of the small pages: the next one may do.
        let is_to_be_had = matches!(result, Ok(()) | Err(Errno::AGAIN | Errno::BUSY));
        self.is_over = !is_to_be_had || self.loss > MOST_LOSS;
        if self.is_over {
            let why = result.err().map_or(String::new(), |errno| format!("{errno}, "));
            debug!("no more large pages for this file: {why}{} ms lost", self.loss.as_millis());
        }
    }
}

/// The large page whose first byte is among `count` bytes from `from` on, of a file of `size` bytes. What is
/// left over at the end of a file is not worth one.
fn reached(from: u64, count: u64, size: u64) -> Option<u64> {
    let start = from.checked_next_multiple_of(LARGE)?;
    (start - from < count && start.checked_add(LARGE)? <= size).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn they_are_given_up_when_they_cost_more_than_they_save() {
        let quick = Duration::from_micros(300);
        let mut pages = Pages::default();
        for _ in 0..1000 {
            pages.note(Ok(()), quick);
        }
        // One that took long is made up for by those that did not.
        for _ in 0..10 {
            pages.note(Ok(()), Duration::from_millis(90));
            (0..12).for_each(|_| pages.note(Ok(()), quick));
        }
        assert!(!pages.is_over);
        // Memory that a host has taken back: 4 ms each. And a wait for room with each third one.
        let often = [Duration::from_millis(100), quick, quick];
        for (times, expected) in [(&[Duration::from_millis(4)][..], 7), (&often, 10)] {
            let mut pages = Pages::default();
            let mut times = times.iter().cycle();
            let last = (1..).find(|_| {
                pages.note(Ok(()), *times.next().unwrap());
                pages.is_over
            });
            assert_eq!(last, Some(expected));
        }
        // What is not to be had saves nothing.
        let mut pages = Pages::default();
        (0..100).for_each(|_| pages.note(Err(Errno::AGAIN), quick));
        assert!(pages.is_over);
        for errno in [Errno::INVAL, Errno::NOMEM] {
            let mut pages = Pages::default();
            pages.note(Err(errno), quick);
            assert!(pages.is_over);
        }
    }

    #[test]
    fn a_file_that_cannot_have_them_is_left_as_it_is() {
        let file = memfd::create("short").unwrap();
        let mut pages = Pages::default();
        pages.prepare(&file, 0, 1, pace::LARGE - 1);
        assert!(!pages.is_over, "a small one does not ask");
        pages.prepare(&file, 0, 1, pace::LARGE);
        assert!(pages.is_over, "the file is shorter than it was said to be");
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    proptest! {
        /// In whatever portions a file is written, each of its large pages is reached once.
        #[test]
        fn each_once(size in 0..5 * LARGE, portions in prop::collection::vec(1..3 * LARGE / 2, 1..40)) {
            let (mut at, mut seen) = (0, vec![]);
            for portion in portions.into_iter().cycle() {
                let count = portion.min(size - at).min(LARGE);
                seen.extend(reached(at, count, size));
                at += count;
                if at == size {
                    break;
                }
            }
            prop_assert_eq!(seen, (0..size / LARGE).map(|page| page * LARGE).collect::<Vec<_>>());
        }
    }
}
