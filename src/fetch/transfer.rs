//! One artifact: from its URLs into a memory file that is hashed and sealed.
//!
//! Transfers run on threads of their own and fill the file together ([`store`]); this directs them.
//! What broke is taken up where it ended, at any of the URLs and whether or not the server can tell
//! versions apart, because the hash decides in the end. If it does not match and the bytes came in more
//! than one answer, nobody knows whose fault it is: the file is fetched once more, from one server at a
//! time. Only what one server sent counts against its URL.

mod employ;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use crate::error::printable;
use crate::fetch::pace::{self, Pace};
use crate::fetch::pieces::Owner;
use crate::fetch::pull::{CHECK_PROVIDER, End, Outcome};
use crate::fetch::sources::Sources;
use crate::fetch::store::{self, News, Report, Store};
use crate::fetch::{Error, VerifiedArtifact};
use crate::log::bytes;
use crate::manifest::ArtifactSpec;
use crate::manifest::keys::hex;
use crate::provider::http::Client;

/// A round or a transfer that brings less than this was in vain, in bytes.
const FRUIT: u64 = 64 * 1024;
/// How often it is looked whether to go on, and progress is told.
const TICK: Duration = Duration::from_millis(200);
/// What a complete file waits for a server to show that it has no more.
const TAIL: Duration = Duration::from_secs(1);
const OVER: &str = "the time for this boot attempt is over";

/// Fetches the artifact `spec` from `urls`, the healthiest server first; `report` hears how many bytes
/// are there.
pub(super) fn fetch(
    spec: &ArtifactSpec,
    urls: &[String],
    client: &Client,
    cancelled: &AtomicBool,
    report: &dyn Fn(u64),
) -> Result<VerifiedArtifact, Error> {
    let name = spec.name;
    let (store, hasher) = Store::new(name, spec.size)?;
    let now = Instant::now();
    let mut transfer = Transfer {
        spec,
        client,
        sources: Sources::new(urls, client.mirrors()),
        store: Arc::clone(&store),
        active: Vec::new(),
        began: (now, 0),
        last_owner: 0,
        pace: Pace::new(spec.size, now),
        current: None,
        best: 0,
        before_round: 0,
        fruitless: 0,
        not_before: now,
        alone: false,
        answers: 0,
        mismatch: None,
        broken: None,
        received: 0,
    };
    let result = transfer.run(cancelled, report);
    // From here on nobody writes, whoever is still waiting for a server.
    let file = store.close();
    result?;
    let from = transfer.sources.contributors();
    join(hasher);
    let file = file.ok_or(Error::Cancelled { name })?;
    let sealed = store::seal(file).map_err(|errno| Error::MemoryFile { name, errno })?;
    let took = now.elapsed();
    let rate = pace::per_second(spec.size, took);
    info!("{name}: {} in {:.1} s ({}/s) from {from}", bytes(spec.size), took.as_secs_f64(), bytes(rate));
    Ok(VerifiedArtifact::new(name, sealed, spec.size))
}

/// The hasher holds the file open: sealed memory must not be open for writing.
fn join(hasher: JoinHandle<()>) {
    if hasher.join().is_err() {
        debug!("the hasher has died");
    }
}

/// Whether to go on.
enum Step {
    Go,
    Finished,
}

struct Transfer<'a> {
    spec: &'a ArtifactSpec,
    client: &'a Client,
    sources: Sources,
    store: Arc<Store<Outcome>>,
    /// Who is at it, with the place of their URL.
    active: Vec<(Owner, usize)>,
    /// When the first of them began, and the bytes that were there then.
    began: (Instant, u64),
    last_owner: Owner,
    pace: Pace,
    /// The URL that is asked next without choosing anew.
    current: Option<usize>,
    /// The most bytes that were there since the last mismatch, now and before this round.
    best: u64,
    before_round: u64,
    fruitless: u32,
    /// Nobody is asked before.
    not_before: Instant,
    /// The bytes have to come from one server: those of several did not match.
    alone: bool,
    /// How many answers the bytes have come in.
    answers: u32,
    mismatch: Option<Error>,
    broken: Option<Error>,
    received: u64,
}

impl Transfer<'_> {
    fn run(&mut self, cancelled: &AtomicBool, report: &dyn Fn(u64)) -> Result<(), Error> {
        let name = self.spec.name;
        self.employ()?;
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Cancelled { name });
            }
            if self.client.deadline().passed() {
                self.note_late();
                return Err(self.out_of_time());
            }
            let limit = TICK.min(self.client.deadline().remaining());
            let news = self.store.news(limit, false);
            if let Some(errno) = news.fault {
                return Err(Error::MemoryFile { name, errno });
            }
            self.received = news.received;
            self.best = self.best.max(news.received);
            report(news.received);
            if let Step::Finished = self.direct(news)? {
                report(self.spec.size);
                return Ok(());
            }
        }
    }

    fn direct(&mut self, news: News<Outcome>) -> Result<Step, Error> {
        if self.settle_all(news.reports)? {
            return Ok(Step::Go);
        }
        if let Some(digest) = news.digest {
            return self.judge(digest);
        }
        if !news.complete {
            self.relieve(Instant::now());
            self.employ()?;
        }
        Ok(Step::Go)
    }

    /// Whether the file has to be fetched afresh.
    fn settle_all(&mut self, reports: Vec<Report<Outcome>>) -> Result<bool, Error> {
        for report in reports {
            let known = self.active.len();
            self.active.retain(|&(owner, _)| owner != report.owner);
            // One that a fresh start has left behind has nothing to say.
            if self.active.len() < known && self.settle(report.outcome)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The file is complete, and this is its hash.
    fn judge(&mut self, digest: [u8; 32]) -> Result<Step, Error> {
        let until = Instant::now() + TAIL;
        while !self.active.is_empty() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            let reports = self.store.news(left, true).reports;
            if self.settle_all(reports)? {
                return Ok(Step::Go);
            }
        }
        // Who still waits for the end of an answer has brought what there is of it.
        for (_, source) in std::mem::take(&mut self.active) {
            self.sources.contributed(source);
            self.answers += 1;
        }
        if digest == self.spec.sha256 {
            return Ok(Step::Finished);
        }
        let reason = format!("SHA-256 is {}, signed was {}", hex(&digest), hex(&self.spec.sha256));
        match self.sources.only_contributor() {
            Some(source) if self.answers <= 1 || self.alone => self.blame(source, reason),
            _ => {
                let (name, from) = (self.spec.name, self.sources.contributors());
                warn!("{name}, in {} answers from {from}, does not match: {reason}", self.answers);
                self.mismatch(self.sources.last_contributor(), reason);
                self.sources.next_round();
                self.alone = true;
            }
        }
        self.again().map(|()| Step::Go)
    }

    /// Nothing that is there counts.
    fn again(&mut self) -> Result<(), Error> {
        self.restart();
        self.best = 0;
        self.before_round = 0;
        if self.sources.has_any() { Ok(()) } else { Err(self.failed()) }
    }

    fn restart(&mut self) {
        self.store.restart(self.spec.size);
        self.sources.forget_contributions();
        self.answers = 0;
        self.received = 0;
        self.current = None;
        self.active.clear();
    }

    /// What the end of a transfer means for its URL and for the others.
    /// Whether what is there was thrown away.
    fn settle(&mut self, outcome: Outcome) -> Result<bool, Error> {
        let Outcome { source, end, brought, took, validator } = outcome;
        let name = self.spec.name;
        let url = self.sources.url(source).to_owned();
        self.sources.learn(source, validator);
        if brought > 0 {
            self.sources.contributed(source);
            self.answers += 1;
        }
        if brought >= FRUIT && took >= Duration::from_millis(50) {
            self.client.mirrors().delivered(&url, pace::per_second(brought, took));
        }
        self.pace.again(self.received, Instant::now());
        let is_extra = !self.active.is_empty();
        let is_foreign = brought > 0 && matches!(end, End::Mismatch(_));
        match end {
            // Where others go on, one that does not is only one too many; unless it brought what is not
            // the file's.
            End::NoRanges(reason) | End::Mismatch(reason) | End::Broken { reason, .. }
                if is_extra && !is_foreign =>
            {
                debug!("{name}: a further connection to {}: {reason}", printable(&url));
                self.pace.settle(self.active.len());
            }
            End::Done => self.current = Some(source),
            End::Short => {
                self.current = Some(source);
                if brought < FRUIT {
                    self.sources.pass_over(source);
                    self.current = None;
                }
            }
            End::NoRanges(reason) => {
                self.current = None;
                self.sources.no_ranges(source);
                self.note_broken(url, reason, CHECK_PROVIDER);
            }
            End::Changed => {
                info!("{name} from {}: the server says that the file has changed", printable(&url));
                let is_first = self.sources.changed(source);
                let restarts = is_first && !is_extra && self.sources.only_contributor() == Some(source);
                if restarts {
                    self.restart();
                }
                self.current = Some(source);
                return Ok(restarts);
            }
            End::Mismatch(reason) => {
                self.current = None;
                self.blame(source, reason);
                if brought > 0 {
                    return self.again().map(|()| true);
                }
                if !self.sources.has_any() {
                    return Err(self.failed());
                }
            }
            End::MemoryFile(errno) => return Err(Error::MemoryFile { name, errno }),
            End::Broken { reason, hint, lasting, after } => {
                self.current = None;
                self.client.mirrors().failed(&url);
                self.sources.broke(source, lasting, after, Instant::now());
                self.note_broken(url, reason, hint);
                if !self.sources.has_any() {
                    return Err(self.failed());
                }
            }
        }
        Ok(false)
    }

    fn note_broken(&mut self, url: String, reason: String, hint: &'static str) {
        let (name, got, size) = (self.spec.name, self.received, self.spec.size);
        warn!("{name} from {}: {reason} after {got} of {size} bytes", printable(&url));
        self.broken = Some(Error::NotDelivered { name, url, got, size, reason, hint });
    }

    /// What this URL sends is not the file. It is asked once more: a cable can corrupt what a server
    /// has right.
    fn blame(&mut self, source: usize, reason: String) {
        let url = self.sources.url(source);
        warn!("{} from {} does not match the manifest: {reason}", self.spec.name, printable(url));
        self.client.mirrors().corrupted(url);
        self.sources.blame(source);
        self.mismatch(source, reason);
    }

    fn mismatch(&mut self, source: usize, reason: String) {
        let url = self.sources.url(source).to_owned();
        self.mismatch = Some(Error::Mismatch { name: self.spec.name, url, reason });
    }

    fn out_of_time(&mut self) -> Error {
        let (name, got, size) = (self.spec.name, self.received, self.spec.size);
        let (url, reason, hint) = match self.broken.take() {
            Some(Error::NotDelivered { url, reason, hint, .. }) => {
                (url, format!("{OVER}; before that: {reason}"), hint)
            }
            _ => {
                let source = self.active.first().map_or(0, |&(_, source)| source);
                (self.sources.url(source).to_owned(), OVER.to_owned(), CHECK_PROVIDER)
            }
        };
        self.mismatch.take().unwrap_or(Error::NotDelivered { name, url, got, size, reason, hint })
    }

    /// The next attempt begins elsewhere.
    fn note_late(&self) {
        let Some(&(_, source)) = self.active.first() else { return };
        self.client.mirrors().failed(self.sources.url(source));
        self.note_rate(source, Instant::now());
    }

    /// Notes what those who are at it, all at `source`, bring in bytes a second, once it says something.
    fn note_rate(&self, source: usize, now: Instant) -> Option<u64> {
        let (since, before) = self.began;
        let took = now.saturating_duration_since(since);
        let rate = pace::per_second(self.received.saturating_sub(before), took);
        let is_known = took >= pace::PROOF;
        if is_known {
            self.client.mirrors().delivered(self.sources.url(source), rate);
        }
        is_known.then_some(rate)
    }

    /// Why it is given up.
    fn failed(&mut self) -> Error {
        let known = self.mismatch.take().or(self.broken.take());
        known.unwrap_or_else(|| self.out_of_time())
    }
}
