//! The URLs of one artifact, and how each has done in this attempt.

use std::time::{Duration, Instant};

use crate::error::printable;
use crate::provider::http::Mirrors;

/// How often a URL may send something else than what was signed.
const CHANCES: u32 = 2;

/// One URL.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) url: String,
    chances: u32,
    /// It was asked in this round.
    asked: bool,
    /// It does not want to be asked before.
    not_before: Option<Instant>,
    /// Asking it again brings nothing in this attempt.
    hopeless: bool,
    /// It is not known to ignore ranges.
    pub(super) ranges: bool,
    /// With what a transfer from it can be resumed.
    pub(super) validator: Option<String>,
    /// How often it has said that its file is another one.
    changes: u32,
    contributed: bool,
}

/// All URLs of an artifact, the healthiest server first.
#[derive(Debug)]
pub(super) struct Sources {
    list: Vec<Source>,
    last_contributor: usize,
}

impl Sources {
    pub(super) fn new(urls: &[String], mirrors: &Mirrors) -> Self {
        let source = |url: &String| Source {
            url: url.clone(),
            chances: CHANCES,
            asked: false,
            not_before: None,
            hopeless: false,
            ranges: true,
            validator: None,
            changes: 0,
            contributed: false,
        };
        let order = mirrors.order(urls, true);
        Self { list: order.iter().filter_map(|&at| urls.get(at)).map(source).collect(), last_contributor: 0 }
    }

    pub(super) fn get(&self, at: usize) -> Option<&Source> {
        self.list.get(at)
    }

    pub(super) fn url(&self, at: usize) -> &str {
        self.get(at).map_or("", |source| &source.url)
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut Source)) {
        if let Some(source) = self.list.get_mut(at) {
            change(source);
        }
    }

    /// The next to be asked in this round.
    pub(super) fn next(&self, now: Instant) -> Option<usize> {
        self.list.iter().position(|source| source.can_be_asked(now))
    }

    /// Whether one of the others can be asked for a part.
    pub(super) fn is_other_with_ranges(&self, at: usize, now: Instant) -> bool {
        let mut others = self.list.iter().enumerate().filter(|&(index, _)| index != at);
        others.any(|(_, other)| other.ranges && other.can_be_asked(now))
    }

    /// Whether there is anybody to ask at all.
    pub(super) fn has_any(&self) -> bool {
        self.list.iter().any(Source::is_alive)
    }

    /// All may be asked again.
    pub(super) fn next_round(&mut self) {
        self.list.iter_mut().for_each(|source| source.asked = false);
    }

    /// How long all of them want to be left alone.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let alive = self.list.iter().filter(|source| source.is_alive());
        let wait = |source: &Source| source.not_before.map_or(Duration::ZERO, |at| at - now.min(at));
        alive.map(wait).min().unwrap_or_default()
    }

    /// It was asked, and did not get on.
    pub(super) fn pass_over(&mut self, at: usize) {
        self.change(at, |source| source.asked = true);
    }

    /// A transfer from it broke. `lasting`: it would again; `after`: how long it wants to be left alone.
    pub(super) fn broke(&mut self, at: usize, lasting: bool, after: Option<Duration>, now: Instant) {
        self.change(at, |source| {
            source.asked = true;
            source.hopeless |= lasting;
            source.not_before = after.map(|after| now + after);
        });
    }

    /// It sends all of a file, whatever it is asked for, or not what it is asked for.
    pub(super) fn no_ranges(&mut self, at: usize) {
        self.change(at, |source| (source.asked, source.ranges) = (true, false));
    }

    /// What it sent was not what was signed.
    pub(super) fn blame(&mut self, at: usize) {
        self.change(at, |source| {
            source.asked = true;
            source.chances = source.chances.saturating_sub(1);
        });
    }

    /// With what a transfer from it can be resumed.
    pub(super) fn learn(&mut self, at: usize, validator: Option<String>) {
        // One that has changed twice has servers behind it that do not agree; the hash will tell.
        self.change(at, |source| {
            source.validator = validator.or(source.validator.take()).filter(|_| source.changes < 2);
        });
    }

    /// It says that its file is another one than before. Whether that is so for the first time.
    pub(super) fn changed(&mut self, at: usize) -> bool {
        self.change(at, |source| {
            source.changes += 1;
            source.validator = None;
        });
        self.get(at).is_some_and(|source| source.changes == 1)
    }

    /// Some of the bytes that are there are from it.
    pub(super) fn contributed(&mut self, at: usize) {
        self.last_contributor = at;
        self.change(at, |source| source.contributed = true);
    }

    pub(super) fn last_contributor(&self) -> usize {
        self.last_contributor
    }

    /// The one that all bytes are from.
    pub(super) fn only_contributor(&self) -> Option<usize> {
        let count = self.list.iter().filter(|source| source.contributed).count();
        (count == 1).then_some(self.last_contributor)
    }

    /// All that the bytes are from, for people.
    pub(super) fn contributors(&self) -> String {
        let urls = self.list.iter().filter(|source| source.contributed);
        urls.map(|source| printable(&source.url)).collect::<Vec<_>>().join(", ")
    }

    /// The bytes have been thrown away.
    pub(super) fn forget_contributions(&mut self) {
        self.list.iter_mut().for_each(|source| source.contributed = false);
    }
}

impl Source {
    fn is_alive(&self) -> bool {
        self.chances > 0 && !self.hopeless
    }

    fn can_be_asked(&self, now: Instant) -> bool {
        self.is_alive() && !self.asked && self.not_before.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(count: usize) -> Sources {
        let urls: Vec<String> = (0..count).map(|n| format!("http://{n}/")).collect();
        Sources::new(&urls, &Mirrors::default())
    }

    #[test]
    fn rounds_and_chances() {
        let (mut sources, now) = (sources(3), Instant::now());
        assert_eq!(sources.next(now), Some(0));
        sources.broke(0, false, None, now);
        sources.broke(1, true, None, now);
        assert_eq!(sources.next(now), Some(2));
        sources.blame(2);
        assert_eq!((sources.next(now), sources.wait(now)), (None, Duration::ZERO));
        sources.next_round();
        assert_eq!(sources.next(now), Some(0));
        sources.broke(0, true, None, now);
        assert_eq!(sources.next(now), Some(2));
        sources.blame(2);
        assert!(!sources.has_any());
    }

    #[test]
    fn who_wants_to_be_left_alone_is() {
        let (mut sources, now) = (sources(2), Instant::now());
        let (short, long) = (Duration::from_secs(2), Duration::from_secs(9));
        sources.broke(0, false, Some(long), now);
        sources.broke(1, false, Some(short), now);
        sources.next_round();
        assert_eq!((sources.next(now), sources.wait(now)), (None, short));
        assert_eq!(sources.next(now + short), Some(1));
    }

    #[test]
    fn validators_of_servers_that_do_not_agree_are_not_used() {
        let mut sources = sources(1);
        let validator = |sources: &Sources| sources.get(0).unwrap().validator.clone();
        sources.learn(0, Some("\"a\"".to_owned()));
        sources.learn(0, None);
        assert_eq!(validator(&sources).as_deref(), Some("\"a\""));
        assert!(sources.changed(0));
        sources.learn(0, Some("\"b\"".to_owned()));
        assert_eq!(validator(&sources).as_deref(), Some("\"b\""));
        assert!(!sources.changed(0));
        sources.learn(0, Some("\"a\"".to_owned()));
        assert_eq!(validator(&sources), None);
    }
}
