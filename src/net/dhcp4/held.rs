//! A lease that is held, and when it has to be extended: RFC 2131, section 4.4.5.

use std::time::{Duration, Instant};

use super::FIRST_WAIT;
use crate::net::lease::Lease;
use crate::net::random::Random;

/// RFC 2131's least wait before a request is repeated.
const LEAST_WAIT: Duration = Duration::from_secs(60);

/// When a lease without end is looked at again, to no purpose.
const SOME_DAY: Duration = Duration::from_secs(365 * 86_400);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Bound,
    /// The link is back: whether the address still counts here is asked as in INIT-REBOOT.
    Confirming,
    /// The server that granted the lease is asked.
    Renewing,
    /// Any server is asked.
    Rebinding,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Box<Lease>,
    pub(super) phase: Phase,
    /// When this phase began.
    pub(super) since: Instant,
    /// None for ever.
    times: Option<Times>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    t1: Instant,
    t2: Instant,
    end: Instant,
    least_wait: Duration,
}

impl Held {
    /// The lease that was asked for at `asked` and granted at `now`.
    pub(super) fn new(lease: Box<Lease>, asked: Instant, now: Instant, random: &mut Random) -> Self {
        let seconds = |value: Option<u32>| value.map(|value| Duration::from_secs(value.into()));
        let times = match (seconds(lease.t1), seconds(lease.t2), seconds(lease.lease_seconds)) {
            (Some(t1), Some(t2), Some(all)) => {
                // Half and seven eighths, where whole seconds cannot say so.
                let (t1, t2) = if t2 < all { (t1, t2) } else { (all / 2, all / 8 * 7) };
                Some(Times {
                    // Up to a 32nd earlier, so that machines powered on together do not stay in step.
                    t1: asked + t1 - random.part_of(t1 / 32),
                    t2: asked + t2,
                    end: asked + all,
                    least_wait: LEAST_WAIT.min(all / 16).max(FIRST_WAIT),
                })
            }
            _ => None,
        };
        Self { lease, phase: Phase::Bound, since: now, times }
    }

    /// When it is over, if it ever is.
    pub(super) fn end(&self) -> Option<Instant> {
        self.times.map(|times| times.end)
    }

    /// The phase that `now` lies in; None when the lease is over.
    pub(super) fn phase_at(&self, now: Instant) -> Option<Phase> {
        match self.times {
            Some(times) if now >= times.end => None,
            Some(times) if now >= times.t2 => Some(Phase::Rebinding),
            Some(times) if now >= times.t1 => Some(Phase::Renewing),
            _ => Some(Phase::Bound),
        }
    }

    /// When there is something to do after `now`: half of what is left, but not too soon.
    pub(super) fn due_after(&self, now: Instant) -> Instant {
        let Some(times) = self.times else { return now + SOME_DAY };
        let until = match self.phase {
            Phase::Bound | Phase::Confirming => return times.t1,
            Phase::Renewing => times.t2,
            Phase::Rebinding => times.end,
        };
        let left = until.saturating_duration_since(now);
        until.min(now + times.least_wait.max(left / 2))
    }
}
