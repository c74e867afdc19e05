//! One uplink's way to a manifest: the sources of providers in order, and whoever each of them names.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use log::{debug, info};

use super::watch::Watch;
use super::{Message, Shared, probe};
use crate::provider::discovery::{Answer, Source};

/// How long more is hoped for on an uplink that is up in part, counted from when it came up.
const HOPE: Duration = Duration::from_secs(3);

/// Asks one source after the other; the next is asked where nobody that the one before names has a
/// manifest that may boot. It ends early when the race is over or the link is down.
pub(super) fn explore(shared: &Arc<Shared>, watch: &Arc<Watch>, sender: &Sender<Message>) {
    let started = Instant::now();
    let search = &shared.search;
    for source in Source::ORDER {
        let uplink = watch.ready(|uplink| source.awaits(uplink), HOPE.saturating_sub(started.elapsed()));
        if shared.is_over() {
            break;
        }
        if watch.is_gone() {
            watch.report().reasons.push("the link went down".to_owned());
            break;
        }
        match source.ask(&search.config, search.arch, &uplink, &search.paths) {
            Answer::Named { origin, providers } => {
                watch.report().asked = true;
                let first = providers.first().map(String::as_str).unwrap_or_default();
                let others = match providers.len() {
                    0 | 1 => String::new(),
                    count => format!(" and {} more", count - 1),
                };
                let over = match uplink.interface.as_str() {
                    "" => String::new(),
                    name => format!(" over {name}"),
                };
                let why = watch.report().reasons.join(", ");
                let separator = if why.is_empty() { "" } else { ": " };
                info!("provider {first}{others}{over} from {origin}{separator}{why}");
                probe::ask_all(shared, watch, &providers, sender);
                watch.report().reasons.push(format!("nothing boots from {origin}"));
            }
            Answer::None(reason) => {
                debug!("{}: {reason}", uplink.interface);
                let mut report = watch.report();
                report.asked = true;
                report.reasons.push(reason);
            }
            Answer::NotAsked(reason) => watch.report().reasons.push(reason.to_owned()),
        }
    }
}
