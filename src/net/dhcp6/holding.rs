//! What is held: taken, renewed, rebound, lost. RFC 8415, section 18.2.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use dhcproto::v6::Status;

use super::reply::{Reply, words};
use super::{Client6, LATER, Reaction6, Step, addresses};
use crate::net::lease6::{FOR_EVER, Lease6, MOST_ADDRESSES};

/// What has been granted, by whom and when.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Lease6,
    pub(super) server: Vec<u8>,
    since: Instant,
}

impl Client6 {
    /// An answer to Renew or Rebind: RFC 8415, section 18.2.10.1.
    pub(super) fn extended(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        server: Vec<u8>,
        mut reply: Reply,
    ) -> Reaction6 {
        let Some(held) = &self.held else { return Reaction6::Nothing };
        let withdrawn = std::mem::take(&mut reply.association.withdrawn);
        if !reply.association.addresses.is_empty() && reply.status.is_none() {
            let mut lease = reply.lease(source);
            // Those that it does not name are left as they were.
            let passed = now.saturating_duration_since(held.since).as_millis().div_ceil(1000);
            let passed = u32::try_from(passed).unwrap_or(FOR_EVER);
            let left = |time: u32| if time == FOR_EVER { time } else { time.saturating_sub(passed) };
            for &(address, preferred, valid) in &held.lease.addresses {
                let is_named = lease.addresses.iter().any(|(named, ..)| *named == address);
                if !is_named
                    && !withdrawn.contains(&address)
                    && left(valid) > 0
                    && lease.addresses.len() < MOST_ADDRESSES
                {
                    lease.addresses.push((address, left(preferred), left(valid)));
                }
            }
            return self.bind(now, lease, server);
        }
        let refusal = reply.refusal();
        match refusal.map(|refusal| refusal.status) {
            None if held.lease.addresses.iter().all(|(address, ..)| withdrawn.contains(address)) => {
                self.lose(now, format!("{source} has withdrawn the addresses"))
            }
            Some(Status::NotOnLink) => {
                let reason = words(source, refusal);
                self.lose(now, reason)
            }
            Some(Status::NoBinding) => {
                let addresses = addresses(&held.lease).unwrap_or_default();
                self.refused(source, refusal);
                self.begin(Step::Request { server, source, addresses }, now);
                self.send(now)
            }
            _ => {
                self.refused(source, refusal);
                Reaction6::Nothing
            }
        }
    }

    pub(super) fn bind(&mut self, now: Instant, lease: Lease6, server: Vec<u8>) -> Reaction6 {
        let told = Box::new(lease.clone());
        let before = self.held.replace(Held { lease, server, since: now });
        self.tally.refusals = 0;
        self.tally.trouble = None;
        self.begin(Step::Rest, now);
        self.rest(now);
        if before.is_some() { Reaction6::Renewed(told) } else { Reaction6::Bound(told) }
    }

    pub(super) fn lose(&mut self, now: Instant, reason: String) -> Reaction6 {
        self.held = None;
        self.tally.trouble = Some(reason.clone());
        self.again(now);
        Reaction6::Lost(reason)
    }

    pub(super) fn rest(&mut self, now: Instant) {
        let next = [self.times().map(|(t1, _)| t1), self.end()].into_iter().flatten().min();
        self.due = next.unwrap_or(now + LATER).max(now);
    }

    /// T1 and T2 of what is held.
    pub(super) fn times(&self) -> Option<(Instant, Instant)> {
        let held = self.held.as_ref()?;
        Some((after(held.since, held.lease.t1), after(held.since, held.lease.t2)))
    }

    /// The end of the last address, if there is one and it has an end.
    pub(super) fn end(&self) -> Option<Instant> {
        let held = self.held.as_ref()?;
        let valid = held.lease.valid();
        (valid != FOR_EVER).then(|| after(held.since, valid))
    }
}

fn after(since: Instant, seconds: u32) -> Instant {
    since + Duration::from_secs(seconds.into())
}
