//! One request for a piece of a file, from its first byte to how it ended.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::fetch::pace::Floor;
use crate::fetch::pieces::Owner;
use crate::fetch::store::{Store, Written};
use crate::provider::http::{BUFFER, Client, Download, HttpError, Wanted, broken_body};

pub(super) const CHECK_PROVIDER: &str = "check the provider and the way to it";

/// What is to be brought, from where.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) owner: Owner,
    /// Which of the URLs it is.
    pub(super) source: usize,
    pub(super) url: String,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Of the whole file, in bytes.
    pub(super) size: u64,
    pub(super) validator: Option<String>,
    /// The server is known not to honour ranges.
    pub(super) without_range: bool,
    /// What comes before the piece may be read and thrown away, if the server sends it.
    pub(super) may_skip: bool,
}

/// What a request ended in, and what was learned on the way.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) source: usize,
    pub(super) end: End,
    /// What arrived and was kept, in bytes.
    pub(super) brought: u64,
    pub(super) took: Duration,
    /// With what the transfer can be resumed.
    pub(super) validator: Option<String>,
}

#[derive(Debug)]
pub(super) enum End {
    /// The piece is complete, or somebody else's by now.
    Done,
    /// The server answered with less than was asked for, and in order.
    Short,
    /// It has another file than the one that was signed.
    Mismatch(String),
    /// It says that the file is not the one that it sent before.
    Changed,
    /// It does not honour ranges, or says so wrongly.
    NoRanges(String),
    /// The transfer ended early; what arrived is kept.
    Broken {
        reason: String,
        hint: &'static str,
        /// Asking the same URL again would bring the same.
        lasting: bool,
        /// How long the server wants not to be asked.
        after: Option<Duration>,
    },
    MemoryFile(Errno),
}

impl End {
    fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { reason: reason.into(), hint: CHECK_PROVIDER, lasting: false, after: None }
    }
}

impl From<HttpError> for End {
    fn from(error: HttpError) -> Self {
        if let HttpError::Range(_) = error {
            return Self::NoRanges(error.to_string());
        }
        Self::Broken {
            reason: error.to_string(),
            hint: error.hint().unwrap_or(CHECK_PROVIDER),
            lasting: error.is_lasting(),
            after: error.after(),
        }
    }
}

/// Does `job`, and reports to `store`.
pub(super) fn run(job: &Job, client: &Client, store: &Arc<Store<Outcome>>) {
    let started = Instant::now();
    let mut pull = Pull { job, store, brought: 0, validator: None };
    let end = pull.run(client);
    let Pull { brought, validator, .. } = pull;
    let outcome = Outcome { source: job.source, end, brought, took: started.elapsed(), validator };
    store.report(job.owner, outcome);
}

struct Pull<'a> {
    job: &'a Job,
    store: &'a Store<Outcome>,
    brought: u64,
    validator: Option<String>,
}

impl Pull<'_> {
    fn run(&mut self, client: &Client) -> End {
        let job = self.job;
        let to = Some(job.to).filter(|&to| to < job.size);
        let whole = job.without_range || (job.from == 0 && to.is_none());
        let wanted = Wanted { from: job.from, to, validator: job.validator.as_deref(), whole };
        let mut download = match client.download(&job.url, wanted) {
            Ok(download) => download,
            Err(HttpError::NoSuchRange(Some(total))) if total != job.size => {
                return other_size(total, job.size);
            }
            Err(error @ HttpError::NoSuchRange(_)) => return End::NoRanges(error.to_string()),
            Err(error) => return error.into(),
        };
        if let Some(total) = download.total.filter(|&total| total != job.size) {
            return other_size(total, job.size);
        }
        // Some send a part of another version with it, in spite of If-Range: RFC 9110, section 15.3.7.3.
        let has_changed = match (&job.validator, &download.validator) {
            (Some(before), Some(now)) => !whole && is_other(before, now),
            _ => false,
        };
        if has_changed {
            return End::Changed;
        }
        let skip = job.from.saturating_sub(download.offset);
        if skip > 0 && !job.may_skip {
            return End::NoRanges("the server sends all of it when asked for a part".to_owned());
        }
        self.validator = download.validator.take();
        self.receive(&mut download, skip, client)
    }

    fn receive(&mut self, download: &mut Download, mut skip: u64, client: &Client) -> End {
        let (job, end, is_delimited) = (self.job, download.end, download.is_delimited);
        let mut reader = download.reader();
        let mut buffer = vec![0u8; BUFFER];
        let mut floor = Floor::new(Instant::now());
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return self.ended(end, is_delimited.then_some(skip)),
                Ok(count) => count,
                Err(error) => return End::broken(format!("the connection broke: {}", broken_body(&error))),
            };
            if client.deadline().passed() {
                return End::broken(HttpError::Deadline.to_string());
            }
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
            skip -= u64::try_from(skipped).unwrap_or(0);
            let chunk = buffer.get(skipped..count).unwrap_or_default();
            match self.store.write(job.owner, chunk) {
                Written::All => self.brought += u64::try_from(chunk.len()).unwrap_or(0),
                Written::Complete { excess } => {
                    self.brought += u64::try_from(chunk.len().saturating_sub(excess)).unwrap_or(0);
                    let at = job.from.saturating_add(self.brought);
                    let is_last = at == job.size;
                    // One read more: it gives the connection back for the next request, and shows
                    // whether a server that promised no length has more.
                    let is_over = end.map_or(is_last, |end| end == at);
                    let more = excess > 0 || is_over && reader.read(&mut buffer).is_ok_and(|more| more > 0);
                    return if is_last && more { longer(job.size) } else { End::Done };
                }
                Written::NotYours => return End::Done,
                Written::Failed(errno) => return End::MemoryFile(errno),
            }
            if let Some(slow) = floor.note(count, Instant::now()) {
                return End::broken(slow);
            }
        }
    }

    /// The body is over, and the piece is not complete. `unskipped`: it is over as the server wants it,
    /// whatever its size, and so many bytes before the piece are missing, too. What it has brought may be
    /// continued all the same: a gateway can take a broken connection for an end.
    fn ended(&self, end: Option<u64>, unskipped: Option<u64>) -> End {
        let at = self.job.from.saturating_add(self.brought);
        match (self.store.pieces(|pieces| pieces.of(self.job.owner)), unskipped) {
            (None, _) => End::Done,
            (Some(_), _) if end == Some(at) && self.brought > 0 => End::Short,
            (Some(_), Some(unskipped)) if self.brought == 0 => {
                other_size(at.saturating_sub(unskipped), self.job.size)
            }
            (Some(_), _) => End::broken("the connection was closed"),
        }
    }
}

/// Whether these validators, entity tags or dates, tell two versions apart.
fn is_other(before: &str, now: &str) -> bool {
    before != now && before.starts_with('"') == now.starts_with('"')
}

fn other_size(total: u64, size: u64) -> End {
    End::Mismatch(format!("it has {total} bytes, signed were {size}"))
}

fn longer(size: u64) -> End {
    End::Mismatch(format!("it is longer than the {size} bytes that were signed"))
}
