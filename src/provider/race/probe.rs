//! Several providers asked for a manifest at once, each in a thread of its own.
//!
//! The order of preference is a head start: the next one is asked when the one before has failed for
//! the first time, or has not answered for [`HEAD_START`]. Then whoever answers first wins. One from which
//! an attempt before could not boot comes after those that were named with it: they have equal rights.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::watch::Watch;
use super::{Found, Message, Missed, STACK, Shared, Why};
use crate::manifest::{self, Expected, keylist};
use crate::provider::Candidates;
use crate::provider::http::{Client, HttpError};
use crate::provider::url;
use crate::sys::random;
use crate::threads;

const HEAD_START: Duration = Duration::from_millis(300);
/// A provider that does not answer is asked again after this and up to half as much, doubling each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const ROUNDS: u32 = 4;
/// After this, no provider is asked anew.
const LONGEST: Duration = Duration::from_secs(20);

/// Who asks, and how.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) shared: Arc<Shared>,
    pub(super) watch: Arc<Watch>,
    pub(super) sender: Sender<Message>,
    /// Somebody of this machine's own has chosen the provider: the network has not.
    pub(super) is_given: bool,
    /// Nobody was asked before: each gets all its rounds, and lines that say what becomes of it.
    pub(super) is_first: bool,
}

enum Answer {
    FailedOnce,
    Ended,
}

/// Asks `providers`, in order of preference. Returns when all of them have failed for good, which is
/// reported, or the race is over.
pub(super) fn ask_all(asking: &Asking, providers: &[String]) {
    let (tell, answers) = mpsc::channel();
    let (client, _) = asking.watch.client(&asking.shared.search);
    let order = client.mirrors().order(providers, false);
    let mut waiting = order.into_iter().filter_map(|at| providers.get(at)).peekable();
    let (mut running, mut next) = (0, Instant::now());
    while !asking.is_over() {
        if next <= Instant::now()
            && let Some(url) = waiting.next()
        {
            let (prober, tell, provider) = (asking.clone(), tell.clone(), url.clone());
            let work = move || {
                let missed = prober.ask_often(&provider, &tell);
                prober.watch.report().missed.extend(missed);
                drop(tell.send(Answer::Ended));
            };
            match threads::spawn("provider", STACK, Box::new(work)) {
                Ok(()) => running += 1,
                Err(error) => {
                    let why = Why::Failed { reason: format!("no thread for it: {error}"), hint: None };
                    asking.watch.report().missed.push(Missed { url: url.clone(), why });
                }
            }
            next = Instant::now() + HEAD_START;
        }
        let wait = match waiting.peek() {
            Some(_) => next.saturating_duration_since(Instant::now()),
            None if running == 0 => break,
            None => asking.shared.search.deadline.remaining(),
        };
        match answers.recv_timeout(wait) {
            Ok(Answer::FailedOnce) => next = Instant::now(),
            Ok(Answer::Ended) => (running, next) = (running - 1, Instant::now()),
            Err(_) => {}
        }
    }
}

impl Asking {
    fn is_over(&self) -> bool {
        self.shared.is_over() || self.watch.is_gone()
    }

    /// Asks one provider until it has a manifest that may boot, or has failed for good. What may not
    /// boot is not asked for again.
    fn ask_often(&self, provider: &str, tell: &Sender<Answer>) -> Vec<Missed> {
        let search = &self.shared.search;
        let candidates = Candidates::new(provider, &search.config.channel, search.arch);
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let rounds = if self.is_first { ROUNDS } else { 1 };
        for round in 1.. {
            let seen = self.watch.generation();
            let (mut missed, mut lasts, mut after) = (Vec::new(), true, None);
            for url in candidates.urls() {
                if self.is_over() {
                    return missed;
                }
                match self.ask(url) {
                    Ok(()) => return Vec::new(),
                    Err(Miss::Refused(error)) => {
                        self.say(round, &error);
                        missed.push(Missed { url: url.to_owned(), why: Why::Refused(error) });
                    }
                    Err(Miss::Failed(url, error)) => {
                        lasts &= error.is_lasting();
                        after = after.max(error.after());
                        match &error {
                            HttpError::Status(_) => debug!("{url}: {error}"),
                            error => self.say(round, &format_args!("{url}: {error}")),
                        }
                        let why = Why::Failed { reason: error.to_string(), hint: error.hint() };
                        missed.push(Missed { url, why });
                        // The others are on the same server.
                        if is_unreachable(&error) {
                            break;
                        }
                    }
                }
            }
            let is_refused = missed.iter().any(|missed| matches!(missed.why, Why::Refused(_)));
            // A server that says when has said that it lives, too.
            let wait = after.unwrap_or_default().max(pause) + jitter(pause / 2);
            let longest = if after.is_some() { LONGEST + wait } else { LONGEST };
            let is_late = started.elapsed() + wait > longest || search.deadline.remaining() <= wait;
            if is_refused || lasts || is_late || round >= rounds {
                return missed;
            }
            if round == 1 {
                drop(tell.send(Answer::FailedOnce));
            }
            debug!("{provider}: asking again in {} ms", wait.as_millis());
            // What has failed may work over an uplink that has got better, or another one be named.
            let is_better = self.watch.pause(wait, seen, || self.shared.is_over());
            if is_better && !self.is_given {
                return missed;
            }
            self.watch.report().remember(missed);
            pause = if is_better { FIRST_PAUSE } else { pause * 2 };
        }
        Vec::new()
    }

    /// Says what has become of a provider, the first time; who has lost is silent.
    fn say(&self, round: u32, what: &dyn fmt::Display) {
        if self.is_first && round == 1 && !self.is_over() {
            warn!("{what}");
        } else {
            debug!("{what}");
        }
    }

    /// Fetches the manifest at `url` and the key list beside it, and lets it win if it may boot.
    fn ask(&self, url: &str) -> Result<(), Miss> {
        let Self { shared, watch, sender, is_given, .. } = self;
        let search = &shared.search;
        let (client, uplink) = watch.client(search);
        let (bytes, found_at) = match client.get_small(url, manifest::MOST_BYTES) {
            Ok(found) => found,
            Err(HttpError::TooLarge(_)) => {
                return Err(Miss::Refused(manifest::Error::TooLarge { url: url.to_owned() }));
            }
            Err(error) => return Err(Miss::Failed(url.to_owned(), error)),
        };
        let list_url = url::beside(&found_at, keylist::FILE_NAME).unwrap_or_default();
        let list = key_list(&client, &list_url)?;

        if watch.is_gone() {
            return Ok(());
        }
        // From here to the decision nobody else can note a key list or win.
        let mut state = shared.state();
        if state.is_over {
            return Ok(());
        }
        let (trust, arch, channel, now) = (&search.trust, search.arch, &search.config.channel, search.now);
        let authority =
            trust.authority(list.as_deref(), &list_url, state.sightings.all(), now).map_err(Miss::Refused)?;
        if let Some(list) = &authority.list {
            info!("key list version {} speaks for {} keys", list.version(), authority.keyring.keys().len());
            state.sightings.add_keys(list.version(), list.revoked_roots());
        }
        let mut policy = trust.policy().clone();
        // Whoever is on the network may name a provider; what nobody signed would be theirs to choose.
        policy.allow_unsigned &= is_given;
        let seen = state.sightings.all().lowest(channel, arch);
        let expected = Expected { arch, channel, now, seen };
        let manifest = manifest::verify(&bytes, &found_at, &authority.keyring, &policy, expected)
            .map_err(Miss::Refused)?;
        let version = manifest.manifest().manifest_version;
        let over = if uplink.bound { format!(" over {}", uplink.interface) } else { String::new() };
        info!("{found_at}{over}: version {version}, signed by {}", manifest.signed_by());
        state.found = Some(Found { manifest, client: client.clone(), uplink });
        state.is_over = true;
        // The lock comes first: who hears of it finds the winner.
        drop(state);
        drop(sender.send(Message::Won));
        Ok(())
    }
}

/// Whether there is no server to speak of, or one that wants to be left alone.
fn is_unreachable(error: &HttpError) -> bool {
    matches!(
        error,
        HttpError::Transport(_)
            | HttpError::Tls(_)
            | HttpError::Deadline
            | HttpError::Random
            | HttpError::Later { .. }
    )
}

/// At most `most`.
fn jitter(most: Duration) -> Duration {
    let mut byte = [0];
    random::fill_insecure(&mut byte);
    most * u32::from(u8::from_ne_bytes(byte)) / 255
}

/// Why a URL brought no manifest that may boot.
enum Miss {
    Refused(manifest::Error),
    /// The URL that did not answer, and how.
    Failed(String, HttpError),
}

/// The key list at `url`, if there is one.
fn key_list(client: &Client, url: &str) -> Result<Option<Vec<u8>>, Miss> {
    match client.get_small(url, manifest::MOST_BYTES) {
        Ok((bytes, _)) => Ok(Some(bytes)),
        Err(HttpError::Status(403 | 404 | 410)) => Ok(None),
        Err(HttpError::TooLarge(_)) => {
            let reason = "it is larger than 1 MiB".to_owned();
            Err(Miss::Refused(manifest::Error::KeysMalformed { url: url.to_owned(), reason }))
        }
        Err(error) => Err(Miss::Failed(url.to_owned(), error)),
    }
}
