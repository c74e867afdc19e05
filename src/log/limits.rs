//! What keeps records within bounds: long lines are cut, repeated records counted.

use std::borrow::Cow;
use std::time::Duration;

use log::Level;

/// A record that keeps coming is shown again after this.
const SHOW_AGAIN: Duration = Duration::from_secs(10);

/// `text` in at most `most` bytes, with "..." in place of what was cut off.
pub(super) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    const MARK: &str = "...";
    if text.len() <= most {
        return text.into();
    }
    let end = text.floor_char_boundary(most.saturating_sub(MARK.len()));
    format!("{}{MARK}", text.get(..end).unwrap_or_default()).into()
}

/// One record without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) level: Level,
    pub(super) step: String,
    /// Without control characters.
    pub(super) message: String,
}

/// The record shown last, and how often it came again.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    last: Option<Entry>,
    shown: Duration,
    count: u64,
}

impl Repeats {
    /// Whether `entry` is to be shown at time `t`; if not, it was counted. Before one that is shown
    /// comes [`take`](Self::take).
    pub(super) fn admits(&mut self, entry: &Entry, t: Duration) -> bool {
        if self.last.as_ref() == Some(entry) && t.saturating_sub(self.shown) < SHOW_AGAIN {
            self.count += 1;
            return false;
        }
        true
    }

    /// Notes that `entry` is shown at time `t`.
    pub(super) fn shown(&mut self, entry: Entry, t: Duration) {
        *self = Self { last: Some(entry), shown: t, count: 0 };
    }

    /// Forgets the last record. Returns one that says how often it came again, if it did.
    pub(super) fn take(&mut self) -> Option<Entry> {
        let Self { last, count, .. } = std::mem::take(self);
        let message = match count {
            0 => return None,
            1 => "last message repeated once".to_owned(),
            more => format!("last message repeated {more} times"),
        };
        last.map(|last| Entry { message, ..last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(message: &str) -> Entry {
        Entry { level: Level::Warn, step: "net".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn a_repeated_record_is_counted_and_now_and_then_shown() {
        let mut repeats = Repeats::default();
        let seconds = Duration::from_secs;
        assert!(repeats.admits(&entry("a"), seconds(1)));
        assert_eq!(repeats.take(), None);
        repeats.shown(entry("a"), seconds(1));
        for _ in 0..3 {
            assert!(!repeats.admits(&entry("a"), seconds(2)));
        }
        assert!(repeats.admits(&entry("b"), seconds(2)));
        assert!(repeats.admits(&Entry { level: Level::Error, ..entry("a") }, seconds(2)));
        assert!(repeats.admits(&entry("a"), seconds(11)));
        assert_eq!(repeats.take(), Some(entry("last message repeated 3 times")));
        assert!(repeats.admits(&entry("a"), seconds(2)));
    }

    proptest! {
        #[test]
        fn a_cut_line_fits_and_is_a_beginning(text in "\\PC{0,40}", most in 3usize..60) {
            let shown = cut(&text, most);
            prop_assert!(shown.len() <= most);
            match shown.strip_suffix("...") {
                Some(start) if text.len() > most => prop_assert!(text.starts_with(start)),
                _ => prop_assert_eq!(&*shown, &text),
            }
        }
    }
}
