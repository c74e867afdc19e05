//! The race for a manifest: every uplink that comes up looks for providers ([`prospect`]), several of
//! which are asked at once ([`probe`]), and the first manifest that this machine may boot wins.
//!
//! Each works in a thread of its own and shares nothing with the boot but what is behind one lock. A
//! manifest is verified, and decided upon, while that is held: whoever comes later changes nothing, and
//! is left behind.

mod probe;
mod prospect;
mod watch;

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{debug, warn};

use crate::arch::Arch;
use crate::config::Config;
use crate::error::Error;
use crate::manifest::{self, Sightings, Trust, VerifiedManifest};
use crate::net::{self, Event, Ipv6, Origin6, Uplink};
use crate::paths::Paths;
use crate::provider;
use crate::provider::http::Client;
use crate::threads;
use crate::time::{Deadline, UnixTime};
use probe::Asking;
use watch::Watch;

/// What a thread of the race needs at most: a TLS handshake. In bytes.
const STACK: usize = 512 << 10;
/// Links that are looked at, and how often one is looked at anew because something about it changed.
const MOST_UPLINKS: usize = 64;
const MOST_TRIES: u32 = 4;
/// What the network gets beyond the deadline to say why nothing came up.
const LAST_WORDS: Duration = Duration::from_secs(1);
const CHECK_PROVIDER: &str = "check phase.provider= and phase.channel=, and that the provider runs";

/// What a manifest is looked for with.
#[derive(Clone, Debug)]
pub struct Search {
    pub config: Config,
    pub trust: Trust,
    pub paths: Paths,
    pub arch: Arch,
    /// The time that expiry counts against; `None` where nothing expires.
    pub now: Option<UnixTime>,
    pub deadline: Deadline,
}

/// The winner.
#[derive(Debug)]
pub struct Found {
    pub manifest: VerifiedManifest,
    /// The way to the provider that had it.
    pub client: Arc<Client>,
    pub uplink: Arc<Uplink>,
}

/// The uplinks of this machine, as the network tells of them.
#[derive(Debug)]
pub struct Uplinks {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    /// What came while the first uplink was waited for.
    heard: VecDeque<Event>,
}

#[derive(Debug)]
enum Message {
    Network(Box<Event>),
    /// A prospect has come to its end.
    Ended(Arc<Watch>),
    /// There is a winner.
    Won,
}

/// What became of an uplink on which no manifest was found.
#[derive(Debug, Default)]
struct Report {
    missed: Vec<Missed>,
    /// What each URL failed with the last time, for who is asking again when the time is over.
    before: Vec<Missed>,
    /// Why nobody names a provider, or no other.
    reasons: Vec<String>,
    /// Whether anybody does.
    named: bool,
}

/// A URL that has brought no manifest that may boot.
#[derive(Debug)]
struct Missed {
    url: String,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// Something is there that this machine may not boot.
    Refused(manifest::Error),
    Failed {
        reason: String,
        hint: Option<&'static str>,
    },
}

/// What the threads of a race share.
#[derive(Debug)]
struct Shared {
    search: Search,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sightings: Sightings,
    found: Option<Found>,
    is_over: bool,
    /// No further link is expected.
    is_last: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.state().is_over || self.search.deadline.passed()
    }

    fn is_last(&self) -> bool {
        self.state().is_last
    }
}

impl Default for Uplinks {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver, heard: VecDeque::new() }
    }
}

impl Uplinks {
    /// Where the network tells what happens, also when nobody is waiting for uplinks any more.
    pub fn sink(&self) -> impl Fn(Event) + Send + 'static + use<> {
        let sender = self.sender.clone();
        move |event| {
            let Err(SendError(Message::Network(event))) = sender.send(Message::Network(Box::new(event)))
            else {
                return;
            };
            if let Event::Down(name) = *event {
                warn!("{name} is down; transfers over it go on if it comes back in time");
            }
        }
    }

    /// Waits for the first one. An error if none can be expected by `deadline`.
    pub fn first(&mut self, deadline: Deadline) -> Result<(), net::Error> {
        let deadline = Deadline::after(deadline.remaining().saturating_add(LAST_WORDS));
        loop {
            let Ok(message) = self.receiver.recv_timeout(deadline.remaining()) else {
                return Err(net::Error::NoLease { links: "no link came up in time".to_owned() });
            };
            let is_up = match message {
                Message::Network(event) => match *event {
                    Event::Exhausted(error) => return Err(error),
                    event => {
                        let is_up = matches!(event, Event::Up(_));
                        self.heard.push_back(event);
                        is_up
                    }
                },
                Message::Ended(..) | Message::Won => false,
            };
            if is_up {
                return Ok(());
            }
        }
    }

    fn next(&mut self, within: Duration) -> Result<Message, RecvTimeoutError> {
        match self.heard.pop_front() {
            Some(event) => Ok(Message::Network(Box::new(event))),
            None => self.receiver.recv_timeout(within),
        }
    }
}

/// The first manifest that this machine may boot, from any provider over any uplink. One that it may
/// not boot does not keep others from being asked, but if none is better, it is the answer, because it
/// tells more than silence elsewhere. Key lists that were met until then are noted in `sightings`,
/// whatever became of their manifests.
pub fn run(search: Search, mut uplinks: Uplinks, sightings: &mut Sightings) -> Result<Found, Error> {
    let deadline = search.deadline;
    let state = State { sightings: sightings.clone(), ..State::default() };
    let shared = Arc::new(Shared { search, state: Mutex::new(state) });
    let mut field = Field { shared: shared.clone(), entrants: Vec::new() };
    let mut exhausted = None;
    loop {
        let is_idle = exhausted.is_some() && !field.entrants.iter().any(|entrant| entrant.runs);
        let within = if is_idle { Duration::ZERO } else { deadline.remaining() };
        match uplinks.next(within) {
            Ok(Message::Network(event)) => match *event {
                Event::Up(uplink) | Event::Changed(uplink) => field.consider(uplink, &uplinks.sender),
                Event::Down(name) => field.drop(&name),
                Event::Exhausted(error) => {
                    debug!("no further uplink: {error}");
                    exhausted = Some(error);
                    field.last();
                }
            },
            Ok(Message::Ended(watch)) => field.ended(&watch, &uplinks.sender),
            Ok(Message::Won) | Err(_) => break,
        }
    }
    let mut state = shared.state();
    state.is_over = true;
    sightings.clone_from(&state.sightings);
    let found = state.found.take();
    drop(state);
    // Whoever pauses is to see that it is over.
    field.entrants.iter().for_each(|entrant| entrant.watch.wake());
    found.ok_or_else(|| field.failure(exhausted))
}

/// The uplinks that are in the race.
struct Field {
    shared: Arc<Shared>,
    entrants: Vec<Entrant>,
}

struct Entrant {
    watch: Arc<Watch>,
    runs: bool,
    tries: u32,
}

impl Field {
    /// An uplink is new, or has changed.
    fn consider(&mut self, uplink: Uplink, sender: &Sender<Message>) {
        let is_full = self.entrants.iter().filter(|entrant| !entrant.watch.is_gone()).count() >= MOST_UPLINKS;
        let known = self
            .entrants
            .iter_mut()
            .find(|entrant| !entrant.watch.is_gone() && entrant.watch.latest().interface == uplink.interface);
        match known {
            Some(entrant) => {
                entrant.watch.update(uplink);
                entrant.try_again(&self.shared, sender);
            }
            None if !is_full => {
                let watch = Arc::new(Watch::new(uplink));
                let mut entrant = Entrant { watch, runs: false, tries: 0 };
                entrant.start(&self.shared, sender);
                self.entrants.push(entrant);
            }
            None => debug!("{} is one uplink too many", uplink.interface),
        }
    }

    /// Nobody need go on for the sake of another link.
    fn last(&self) {
        self.shared.state().is_last = true;
        self.entrants.iter().for_each(|entrant| entrant.watch.wake());
    }

    fn drop(&mut self, name: &str) {
        for entrant in self.entrants.iter().filter(|entrant| entrant.watch.latest().interface == name) {
            entrant.watch.leave();
        }
    }

    fn ended(&mut self, watch: &Arc<Watch>, sender: &Sender<Message>) {
        if let Some(entrant) = self.entrants.iter_mut().find(|entrant| Arc::ptr_eq(&entrant.watch, watch)) {
            entrant.runs = false;
            entrant.try_again(&self.shared, sender);
        }
    }

    /// The best explanation. Where no link leads beyond its own network, what the network says of that is part of
    /// it: a link that is up so hides that DHCPv4 was silent.
    fn failure(self, network: Option<net::Error>) -> Error {
        let is_near = self.entrants.iter().all(|entrant| is_near(&entrant.watch.latest()));
        let names = self.entrants.len() > 1;
        let (mut refused, mut reasons, mut hint) = (None, Vec::new(), None);
        let mut named = false;
        for Entrant { watch, runs, .. } in self.entrants {
            let uplink = watch.latest();
            let mut report = watch.take_report();
            named |= runs || report.named;
            let mut failures: Vec<(String, String)> = Vec::new();
            if runs && report.missed.is_empty() {
                report.missed = report.before;
            }
            for Missed { url, why } in report.missed {
                match why {
                    Why::Refused(error) => {
                        refused.get_or_insert(error);
                    }
                    Why::Failed { reason, hint: better } => {
                        hint = hint.or(better);
                        failures.push((url, reason));
                    }
                }
            }
            // Who was asking when the time was over has said nothing.
            if runs || (failures.is_empty() && report.reasons.is_empty()) {
                report.reasons.push("the time for this boot attempt is over".to_owned());
            }
            let of_uplink = if failures.is_empty() { report.reasons.join(", ") } else { summary(&failures) };
            if !of_uplink.is_empty() {
                reasons.push((uplink.interface.clone(), of_uplink));
            }
        }
        let mut reasons = match reasons.as_slice() {
            [(_, only)] if !names => only.clone(),
            all => by_link(all),
        };
        if let Some(error) = network.filter(|_| is_near) {
            reasons.push_str(&format!("; {error}"));
        }
        match refused {
            Some(error) => error.into(),
            None if named => {
                provider::Error::NoAnswer { reasons, hint: hint.unwrap_or(CHECK_PROVIDER) }.into()
            }
            None => provider::Error::NotNamed { reasons }.into(),
        }
    }
}

impl Entrant {
    fn start(&mut self, shared: &Arc<Shared>, sender: &Sender<Message>) {
        self.tries += 1;
        let (shared, watch, sender) = (shared.clone(), self.watch.clone(), sender.clone());
        let asking = Asking { shared, watch, sender, is_given: false, is_first: self.tries == 1 };
        let work = move || {
            prospect::explore(&asking);
            drop(asking.sender.send(Message::Ended(asking.watch)));
        };
        match threads::spawn("uplink", STACK, Box::new(work)) {
            Ok(()) => self.runs = true,
            Err(error) => self.watch.report().reasons.push(format!("no thread for it: {error}")),
        }
    }

    /// Where it has ended in vain, and something else is known since.
    fn try_again(&mut self, shared: &Arc<Shared>, sender: &Sender<Message>) {
        if !self.runs && self.tries < MOST_TRIES && self.watch.is_news() {
            debug!("{} has changed: it is tried again", self.watch.latest().interface);
            self.start(shared, sender);
        }
    }
}

/// Whether only its own network is reached over it: a router told of that, and leads nowhere else.
fn is_near(uplink: &Uplink) -> bool {
    let told = |side: &Ipv6| {
        side.router.is_none() && side.addresses.iter().any(|known| known.origin == Origin6::Slaac)
    };
    uplink.ipv4.is_none() && uplink.ipv6.as_ref().is_some_and(told)
}

/// URLs that failed the same way are named up to this many, and links on which different things came out.
const MOST_NAMED: usize = 3;

/// One entry for neighbours that failed the same way.
fn summary(failures: &[(String, String)]) -> String {
    let parts: Vec<String> = failures
        .chunk_by(|(_, one), (_, other)| one == other)
        .filter_map(|alike| {
            let (_, reason) = alike.first()?;
            let urls: Vec<&str> = alike.iter().map(|(url, _)| url.as_str()).take(MOST_NAMED).collect();
            let others = match alike.len() - urls.len() {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            Some(format!("{}{others}: {reason}", urls.join(", ")))
        })
        .collect();
    parts.join("; ")
}

/// One entry for neighbouring links on which the same came out, and no more than fit on a line.
fn by_link(reasons: &[(String, String)]) -> String {
    let groups: Vec<_> = reasons.chunk_by(|(_, one), (_, other)| one == other).collect();
    let part = |alike: &&[(String, String)]| {
        let (_, reason) = alike.first()?;
        let links: Vec<&str> = alike.iter().map(|(link, _)| link.as_str()).collect();
        Some(format!("{}: {reason}", links.join(", ")))
    };
    let mut parts: Vec<String> = groups.iter().take(MOST_NAMED).filter_map(part).collect();
    match groups.iter().skip(MOST_NAMED).map(|alike| alike.len()).sum::<usize>() {
        0 => {}
        1 => parts.push("no better on another link".to_owned()),
        count => parts.push(format!("no better on {count} other links")),
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address6;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// A field of one uplink, whose time is over.
    fn field(uplink: Uplink) -> Field {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("keys")).unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        std::fs::write(root.path().join("keys/k.pub"), key.as_bytes()).unwrap();
        let search = Search {
            config: Config::default(),
            trust: Trust::read(root.path()).unwrap(),
            paths: Paths::under(root.path()),
            arch: Arch::X86_64,
            now: None,
            deadline: Deadline::after(Duration::ZERO),
        };
        let shared = Arc::new(Shared { search, state: Mutex::default() });
        let watch = Arc::new(Watch::new(uplink));
        watch.report().named = true;
        Field { shared, entrants: vec![Entrant { watch, runs: false, tries: 1 }] }
    }

    #[test]
    fn whoever_is_cut_off_has_a_reason() {
        let line = field(Uplink::default()).failure(None).line().to_string();
        assert!(line.contains("with a manifest: the time for this boot attempt is over; "), "{line}");
    }

    #[test]
    fn who_is_asking_again_has_said_something_before() {
        let failed = |url: &str, reason: &str| Missed {
            url: url.to_owned(),
            why: Why::Failed { reason: reason.to_owned(), hint: None },
        };
        let mut field = field(Uplink::default());
        for entrant in &mut field.entrants {
            entrant.runs = true;
            let mut report = entrant.watch.report();
            report.remember(vec![failed("http://a/", "HTTP status 503"), failed("http://b/", "refused")]);
            report.missed.push(failed("http://b/", "reset"));
            report.begin_again();
        }
        let line = field.failure(None).line().to_string();
        assert!(line.contains("HTTP status 503") && line.contains("reset"), "{line}");
        assert!(!line.contains("refused"), "{line}");
    }

    /// A router of sensors, say, has announced a network of its own, and DHCPv4 is silent.
    #[test]
    fn a_link_that_leads_nowhere_hides_no_story_of_the_network() {
        let address = "fd00::7".parse().unwrap();
        let near = Ipv6 {
            addresses: vec![Address6 { address, prefix: 64, origin: Origin6::Slaac }],
            ..Ipv6::default()
        };
        let beyond = Ipv6 { router: Some(address), ..near.clone() };
        for (ipv6, told) in [(near, true), (beyond, false)] {
            let uplink = Uplink { ipv6: Some(ipv6), ..Uplink::default() };
            let network = net::Error::NoLease { links: "eth0: no answer to 8 DHCP discovers".to_owned() };
            let line = field(uplink).failure(Some(network)).line().to_string();
            let told_of = "this boot attempt is over; eth0: no answer to 8 DHCP discovers; ";
            assert_eq!(line.contains(told_of), told, "{line}");
        }
    }

    #[test]
    fn many_failures_fit_on_a_line() {
        let failures = [("a", "dead"), ("b", "dead"), ("c", "404"), ("d", "dead")];
        assert_eq!(summary(&pairs(&failures)), "a, b: dead; c: 404; d: dead");
        assert_eq!(summary(&pairs(&[("a", "dead"); 16])), "a, a, a and 13 more: dead");
        let links = [("eth0", "dead"), ("eth1", "dead"), ("eth2", "the link went down")];
        assert_eq!(by_link(&pairs(&links)), "eth0, eth1: dead; eth2: the link went down");
        let links = ["a", "b", "c", "d", "e"].map(|name| (name, name));
        assert_eq!(by_link(&pairs(&links)), "a: a; b: b; c: c; no better on 2 other links");
    }
}
