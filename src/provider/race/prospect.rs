//! One uplink's way to a manifest: the sources of providers in order, and whoever each of them names.

use std::time::{Duration, Instant};

use log::{debug, info};

use super::probe::{self, Asking};
use super::watch::Watch;
use super::{Shared, Why};
use crate::provider::discovery::{Answer, Source, sources};

/// How long more is hoped for on an uplink that is up in part, counted from when it came up.
const HOPE: Duration = Duration::from_secs(3);
/// How often everybody is asked anew while there is hope for a further link.
const PAUSE: Duration = Duration::from_secs(2);

/// Asks one source after the other; the next is asked where nobody that the one before names has a
/// manifest that may boot. While a further link may come, it is all asked again: a provider may come
/// back, or be named. It ends when none is expected, the race is over, or the link is down.
pub(super) fn explore(asking: &Asking) {
    let Asking { shared, watch, .. } = asking;
    let started = Instant::now();
    let mut asking = asking.clone();
    loop {
        let seen = watch.begin();
        watch.report().begin_again();
        pass(&asking, started, seen);
        // Only this pause is for hope: whoever was named has been asked often enough.
        watch.pause(PAUSE, seen, || shared.is_last());
        if watch.is_gone() {
            watch.report().reasons.push("the link went down".to_owned());
        }
        // What is new about the uplink is a reason to begin afresh.
        asking.is_first = watch.is_news();
        if is_over(shared, watch) || (shared.is_last() && !asking.is_first) {
            return;
        }
    }
}

fn is_over(shared: &Shared, watch: &Watch) -> bool {
    shared.is_over() || watch.is_gone()
}

fn pass(asking: &Asking, started: Instant, seen: u64) {
    let Asking { shared, watch, is_first, .. } = asking;
    for &source in sources(&shared.search.config) {
        let uplink = watch.ready(|uplink| source.awaits(uplink), HOPE.saturating_sub(started.elapsed()));
        if is_over(shared, watch) {
            return;
        }
        match source.ask(&shared.search, &uplink, *is_first) {
            Answer::Named { origin, providers } => {
                watch.report().named = true;
                if *is_first {
                    let why = watch.report().reasons.join(", ");
                    announce(&providers, &uplink.interface, &origin, source, &why);
                }
                let asking = Asking { is_given: source == Source::Given, ..asking.clone() };
                probe::ask_all(&asking, &providers);
                // Sources that come first may say something else now.
                if is_over(shared, watch) || watch.generation() != seen {
                    return;
                }
                watch.report().reasons.push(format!("nothing boots from {origin}"));
            }
            Answer::None(reason) => {
                debug!("{}: {reason}", uplink.interface);
                watch.report().reasons.push(reason);
            }
            Answer::NotAsked(reason) => {
                let mut report = watch.report();
                // Two options of one lease that is not there.
                if report.reasons.last().is_none_or(|last| last != reason) {
                    report.reasons.push(reason.to_owned());
                }
            }
        }
    }
}

/// Which provider is taken, and why.
fn announce(providers: &[String], interface: &str, origin: &str, source: Source, why: &str) {
    let first = providers.first().map(String::as_str).unwrap_or_default();
    let others = match providers.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let over = if interface.is_empty() { String::new() } else { format!(" over {interface}") };
    match (source, why) {
        (Source::Given, _) => info!("provider {first}{others}{over} from {origin}"),
        (_, "") => info!("provider {first}{others}{over} from {origin}: phase.provider= names none"),
        (_, why) => info!("provider {first}{others}{over} from {origin}: phase.provider= names none, {why}"),
    }
}

impl super::Report {
    /// A refusal is kept: it tells more than what comes after it.
    pub(super) fn begin_again(&mut self) {
        (self.reasons, self.named) = (Vec::new(), false);
        let missed = std::mem::take(&mut self.missed);
        let (refused, failed) = missed.into_iter().partition(|missed| matches!(missed.why, Why::Refused(_)));
        self.missed = refused;
        self.remember(failed);
    }

    /// Notes what failed and is tried again.
    pub(super) fn remember(&mut self, failed: Vec<super::Missed>) {
        self.before.retain(|known| failed.iter().all(|failed| failed.url != known.url));
        self.before.extend(failed);
    }
}
