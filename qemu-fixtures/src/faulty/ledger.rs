//! What a server was asked for and what it has sent: bytes that a client fetches twice show here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Mutex;

/// The requests of one file.
#[derive(Clone, Debug, Default)]
struct File {
    requests: usize,
    /// The bytes that were sent, by request.
    sent: Vec<Range<usize>>,
}

impl File {
    /// How many bytes were sent more than once, counted as often as they were sent again.
    fn twice(&self) -> usize {
        let mut sorted = self.sent.clone();
        sorted.sort_by_key(|range| range.start);
        let (mut twice, mut end) = (0, 0);
        for range in sorted {
            twice += range.end.min(end).saturating_sub(range.start);
            end = end.max(range.end);
        }
        twice
    }
}

/// By the names of files.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<String, File>>);

impl Ledger {
    pub(super) fn asked(&self, name: &str) {
        self.change(name, |file| file.requests += 1);
    }

    pub(super) fn sent(&self, name: &str, range: Range<usize>) {
        self.change(name, |file| file.sent.push(range));
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut File)) {
        if let Ok(mut files) = self.0.lock() {
            change(files.entry(name.to_owned()).or_default());
        }
    }

    /// Requests of files with this in their names, and the bytes of them that were sent again.
    pub(crate) fn of(&self, part: &str) -> (usize, usize) {
        let Ok(files) = self.0.lock() else { return (0, 0) };
        let files = files.iter().filter(|(name, _)| name.contains(part)).map(|(_, file)| file);
        files.fold((0, 0), |(requests, twice), file| (requests + file.requests, twice + file.twice()))
    }

    /// For a person: a line a file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, file) in self.0.lock().iter().flat_map(|files| files.iter()) {
            let sent: usize = file.sent.iter().map(Range::len).sum();
            let _ = writeln!(
                text,
                "{name}: {} requests, {sent} bytes sent, {} of them again: {:?}",
                file.requests,
                file.twice(),
                file.sent
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_again_is_counted() {
        let ledger = Ledger::default();
        for range in [0..100, 90..200, 200..300, 0..10] {
            ledger.asked("a.kernel");
            ledger.sent("a.kernel", range);
        }
        assert_eq!(ledger.of("kernel"), (4, 20));
        assert_eq!(ledger.of("initramfs"), (0, 0));
        assert!(ledger.text().contains("320 bytes sent, 20 of them again"));
    }
}
