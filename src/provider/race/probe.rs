//! Several providers asked for a manifest at once, each in a thread of its own.
//!
//! The order of preference is a head start: the next one is asked when the one before has failed for
//! the first time, or has not answered for [`HEAD_START`]. Then whoever answers first wins.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::watch::Watch;
use super::{Found, Message, Missed, Shared, Why, spawn};
use crate::manifest::{self, Expected, keylist};
use crate::provider::Candidates;
use crate::provider::http::{Client, HttpError};
use crate::provider::url;
use crate::sys::random;

const HEAD_START: Duration = Duration::from_millis(300);
/// A provider that does not answer is asked again after this and up to half as much, doubling each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const ROUNDS: u32 = 4;
/// After this, no provider is asked anew.
const LONGEST: Duration = Duration::from_secs(20);

enum Answer {
    FailedOnce,
    Ended,
}

/// Asks `providers`, in order of preference. Returns when all of them have failed for good, which is
/// reported, or the race is over.
pub(super) fn ask_all(
    shared: &Arc<Shared>,
    watch: &Arc<Watch>,
    providers: &[String],
    sender: &Sender<Message>,
) {
    let (tell, answers) = mpsc::channel();
    let mut waiting = providers.iter().peekable();
    let (mut running, mut next) = (0, Instant::now());
    while !shared.is_over() && !watch.is_gone() {
        if next <= Instant::now()
            && let Some(url) = waiting.next()
        {
            let (shared, uplink) = (shared.clone(), watch.clone());
            let (tell, sender, provider) = (tell.clone(), sender.clone(), url.clone());
            let work = move || {
                let missed = ask_often(&shared, &uplink, &provider, &sender, &tell);
                uplink.report().missed.extend(missed);
                drop(tell.send(Answer::Ended));
            };
            match spawn("provider", work) {
                Ok(()) => running += 1,
                Err(error) => {
                    let why = Why::Failed { reason: format!("no thread for it: {error}"), hint: None };
                    watch.report().missed.push(Missed { url: url.clone(), why });
                }
            }
            next = Instant::now() + HEAD_START;
        }
        let wait = match waiting.peek() {
            Some(_) => next.saturating_duration_since(Instant::now()),
            None if running == 0 => break,
            None => shared.search.deadline.remaining(),
        };
        match answers.recv_timeout(wait) {
            Ok(Answer::FailedOnce) => next = Instant::now(),
            Ok(Answer::Ended) => (running, next) = (running - 1, Instant::now()),
            Err(_) => {}
        }
    }
}

/// Asks one provider until it has a manifest that may boot, or has failed for good. What may not boot
/// is not asked for again.
fn ask_often(
    shared: &Shared,
    watch: &Watch,
    provider: &str,
    sender: &Sender<Message>,
    tell: &Sender<Answer>,
) -> Vec<Missed> {
    let search = &shared.search;
    let candidates = Candidates::new(provider, &search.config.channel, search.arch);
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut round = 1;
    loop {
        let (mut missed, mut lasts) = (Vec::new(), true);
        for url in candidates.urls() {
            if shared.is_over() || watch.is_gone() {
                return missed;
            }
            match ask(url, shared, watch, sender) {
                Ok(()) => return Vec::new(),
                Err(Miss::Refused(error)) => {
                    warn!("{error}");
                    missed.push(Missed { url: url.to_owned(), why: Why::Refused(error) });
                }
                Err(Miss::Failed(url, error)) => {
                    debug!("{url}: {error}");
                    lasts &= error.is_lasting();
                    let is_answer = matches!(error, HttpError::Status(_));
                    if !is_answer && round == 1 {
                        warn!("{url}: {error}");
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
        pause += jitter(pause / 2);
        let is_over =
            round == ROUNDS || started.elapsed() + pause > LONGEST || search.deadline.remaining() <= pause;
        if is_refused || lasts || is_over {
            return missed;
        }
        if round == 1 {
            drop(tell.send(Answer::FailedOnce));
        }
        debug!("{provider}: asking again in {} ms", pause.as_millis());
        thread::sleep(pause);
        pause *= 2;
        round += 1;
    }
}

/// Whether there is no server to speak of.
fn is_unreachable(error: &HttpError) -> bool {
    matches!(error, HttpError::Transport(_) | HttpError::Tls(_) | HttpError::Deadline | HttpError::Random)
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

/// Fetches the manifest at `url` and the key list beside it, and lets it win if it may boot.
fn ask(url: &str, shared: &Shared, watch: &Watch, sender: &Sender<Message>) -> Result<(), Miss> {
    let (client, uplink) = watch.client(&shared.search);
    let (bytes, found_at) = match client.get_small(url, manifest::MOST_BYTES) {
        Ok(found) => found,
        Err(HttpError::TooLarge(_)) => {
            return Err(Miss::Refused(manifest::Error::TooLarge { url: url.to_owned() }));
        }
        Err(error) => return Err(Miss::Failed(url.to_owned(), error)),
    };
    let list_url = url::resolve(&found_at, keylist::FILE_NAME).unwrap_or_default();
    let list = key_list(&client, &list_url)?;

    // From here to the decision nobody else can note a key list or win.
    let mut state = shared.state();
    if state.is_over || watch.is_gone() {
        return Ok(());
    }
    let search = &shared.search;
    let (trust, arch, channel, now) = (&search.trust, search.arch, &search.config.channel, search.now);
    let authority =
        trust.authority(list.as_deref(), &list_url, state.sightings.all(), now).map_err(Miss::Refused)?;
    if let Some(list) = &authority.list {
        info!("key list version {} speaks for {} keys", list.version(), authority.keyring.keys().len());
        state.sightings.add_keys(list.version(), list.revoked_roots());
    }
    let seen = state.sightings.all().lowest(channel, arch);
    let expected = Expected { arch, channel, now, seen };
    let manifest = manifest::verify(&bytes, &found_at, &authority.keyring, trust.policy(), expected)
        .map_err(Miss::Refused)?;
    info!("{found_at}: version {}, signed by {}", manifest.manifest().manifest_version, manifest.signed_by());
    state.found = Some(Found { manifest, client: client.clone(), uplink });
    state.is_over = true;
    // The lock comes first: who hears of it finds the winner.
    drop(state);
    drop(sender.send(Message::Won));
    Ok(())
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
