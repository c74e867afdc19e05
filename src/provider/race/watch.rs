//! One uplink while it is in the race: what is known of it, and the way to servers over it.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Report, Search};
use crate::net::Uplink;
use crate::provider::access::Access;
use crate::provider::http::Client;
use crate::time::Deadline;

pub(super) struct Watch {
    state: Mutex<State>,
    changed: Condvar,
    report: Mutex<Report>,
}

struct State {
    uplink: Arc<Uplink>,
    /// Made when it is needed, for the uplink as it is.
    client: Option<Arc<Client>>,
    /// The generation when the sources of providers were last asked.
    asked_at: Option<u64>,
    gone: bool,
    /// How often the way to servers has changed.
    generation: u64,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({})", self.latest().interface)
    }
}

impl Watch {
    pub(super) fn new(uplink: Uplink) -> Self {
        let state =
            State { uplink: Arc::new(uplink), client: None, asked_at: None, gone: false, generation: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), report: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come of it so far.
    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_report(&self) -> Report {
        std::mem::take(&mut *self.report())
    }

    pub(super) fn latest(&self) -> Arc<Uplink> {
        self.state().uplink.clone()
    }

    pub(super) fn update(&self, uplink: Uplink) {
        let mut state = self.state();
        if differ(&state.uplink, &uplink) {
            state.client = None;
            state.generation += 1;
        }
        state.uplink = Arc::new(uplink);
        self.changed.notify_all();
    }

    /// The link is down. If it comes up again, that is another uplink.
    pub(super) fn leave(&self) {
        self.state().gone = true;
        self.changed.notify_all();
    }

    /// Lets everybody who pauses look whether that still makes sense.
    pub(super) fn wake(&self) {
        drop(self.state());
        self.changed.notify_all();
    }

    /// The sources of providers are about to be asked.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state();
        state.asked_at = Some(state.generation);
        state.generation
    }

    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Waits, no longer than for another way to servers than there was at generation `seen`; true if
    /// there is one. `stop` ends it, too.
    pub(super) fn pause(&self, within: Duration, seen: u64, stop: impl Fn() -> bool) -> bool {
        let deadline = Deadline::after(within);
        let mut state = self.state();
        while state.generation == seen && !state.gone && !deadline.passed() && !stop() {
            let waited = self.changed.wait_timeout(state, deadline.remaining());
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        state.generation != seen
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Whether sources of providers might say something else now.
    pub(super) fn is_news(&self) -> bool {
        let state = self.state();
        !state.gone && state.asked_at != Some(state.generation)
    }

    /// The uplink as soon as `awaits` is false for it, or as it is after `within`.
    pub(super) fn ready(&self, awaits: impl Fn(&Uplink) -> bool, within: Duration) -> Arc<Uplink> {
        let deadline = Deadline::after(within);
        let mut state = self.state();
        while !state.gone && awaits(&state.uplink) && !deadline.passed() {
            let waited = self.changed.wait_timeout(state, deadline.remaining());
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        state.uplink.clone()
    }

    /// The client for requests over this uplink, and the uplink as the client knows it.
    pub(super) fn client(&self, search: &Search) -> (Arc<Client>, Arc<Uplink>) {
        let mut state = self.state();
        let uplink = state.uplink.clone();
        let make = || {
            // One without a name is the system's own way.
            let uplink = (!uplink.interface.is_empty()).then(|| uplink.clone());
            let access = Access { uplink, proxy: search.config.proxy.clone(), paths: search.paths.clone() };
            Arc::new(Client::new(search.deadline, search.trust.tls(), &access))
        };
        (state.client.get_or_insert_with(make).clone(), uplink)
    }
}

/// Whether servers are reached in another way, or other ones named. A renewed lease is no difference.
fn differ(a: &Uplink, b: &Uplink) -> bool {
    let ipv4 = |uplink: &Uplink| {
        uplink
            .ipv4
            .as_ref()
            .map(|lease| (lease.address, lease.prefix, lease.routes.clone(), lease.domain.clone()))
    };
    (ipv4(a), &a.ipv6, &a.dns, &a.search) != (ipv4(b), &b.ipv6, &b.dns, &b.search)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn uplink(search: &str) -> Uplink {
        Uplink { interface: "eth0".to_owned(), search: vec![search.to_owned()], ..Uplink::default() }
    }

    #[test]
    fn only_what_changes_the_way_is_news() {
        let watch = Watch::new(uplink("a"));
        assert!(watch.is_news());
        watch.begin();
        assert!(!watch.is_news());
        watch.update(Uplink { complete: true, ..uplink("a") });
        assert!(!watch.is_news());
        watch.update(uplink("b"));
        assert!(watch.is_news());
        watch.leave();
        assert!(!watch.is_news());
    }

    #[test]
    fn a_pause_ends_when_the_uplink_gets_better() {
        let watch = Arc::new(Watch::new(uplink("a")));
        let started = Instant::now();
        assert!(!watch.pause(Duration::from_millis(50), 0, || false));
        let other = watch.clone();
        std::thread::spawn(move || {
            other.update(Uplink { complete: true, ..uplink("a") });
            other.update(uplink("b"));
        });
        assert!(watch.pause(Duration::from_secs(60), 0, || false));
        assert!(!watch.pause(Duration::from_secs(60), watch.generation(), || true));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_complete_uplink_is_waited_for_but_not_for_ever() {
        let watch = Arc::new(Watch::new(uplink("a")));
        let started = Instant::now();
        let awaits = |uplink: &Uplink| !uplink.complete;
        assert!(!watch.ready(awaits, Duration::from_millis(50)).complete);
        let other = watch.clone();
        std::thread::spawn(move || other.update(Uplink { complete: true, ..uplink("a") }));
        assert!(watch.ready(awaits, Duration::from_secs(60)).complete);
        watch.update(uplink("a"));
        let other = watch.clone();
        std::thread::spawn(move || other.leave());
        assert!(!watch.ready(awaits, Duration::from_secs(60)).complete);
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
