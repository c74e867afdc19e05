//! What a client has tried and heard, in one phrase.

use std::fmt::Write as _;
use std::time::Instant;

use super::held::Phase;
use super::{Client, State};

/// What has happened since the client began, or began anew after a lease.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) discovers: u32,
    pub(super) refusals: u32,
    /// The last thing that a server said, if it was not what we needed.
    pub(super) trouble: Option<String>,
}

impl Client {
    /// What has been tried until `now`, without the name of the link.
    pub(in crate::net) fn story(&self, now: Instant) -> String {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        let mut tried = format!("{} DHCP discovers in {seconds} s", self.tally.discovers);
        if self.proxy_text.is_some() {
            tried.push_str(", only a boot server without addresses");
        }
        match &self.state {
            State::Held(held) => {
                let mut story = format!("lease {}", held.lease.address);
                if let Some(server) = held.lease.server {
                    let _ = write!(story, " from {server}");
                }
                if held.phase != Phase::Bound {
                    let whom = if held.phase == Phase::Renewing { "that server" } else { "any server" };
                    let _ = write!(story, ", no answer to {} requests for it to {whom}", self.sent);
                }
                story
            }
            State::Rebooting(address) => {
                format!("no answer to {} DHCP requests for {address}, which was held before", self.sent)
            }
            State::Requesting(offer) if self.tally.trouble.is_none() => {
                format!("offer from {}, but no answer to {} DHCP requests", offer.server, self.sent)
            }
            State::Choosing(offer) => format!("offer of {} from {}", offer.lease.address, offer.server),
            State::Selecting | State::Requesting(_) => match &self.tally.trouble {
                Some(trouble) => format!("{trouble}, after {tried}"),
                None => format!("no answer to {tried}"),
            },
        }
    }
}
