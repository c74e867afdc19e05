//! One network for a command: the engine is started, its links are waited for, and the best is left up.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use super::choice::{Choice, Contender, State, choose, distrust};
use super::existing::Caller;
use super::files::Journal;
use super::lease::Lease;
use super::network::{Event, Network, Settings};
use super::uplink::Uplink;
use super::{BUDGET, Error, Transport, names};
use crate::paths::Paths;
use crate::time::Deadline;

/// Brings the network up: loopback, then every Ethernet link (or just the one named `only`), and leaves
/// the first good one up, with its servers for names in `resolv.conf`. What the last attempt has set is
/// taken away first.
pub fn up(paths: &Paths, only: Option<&str>, deadline: Deadline) -> Result<Uplink, Error> {
    up_over(Transport::Auto, paths, only, deadline)
}

/// [`up`] with a choice of transport.
pub fn up_over(
    transport: Transport,
    paths: &Paths,
    only: Option<&str>,
    deadline: Deadline,
) -> Result<Uplink, Error> {
    let settings = Settings { transport, only: only.map(str::to_owned), ..Settings::default() };
    up_with(paths, settings, Caller::Command, deadline)
}

/// Brings the network up as the settings say. For PID 1 the links over which its attempts went so far
/// come last, the latest last of all.
pub fn up_with(
    paths: &Paths,
    settings: Settings,
    caller: Caller,
    deadline: Deadline,
) -> Result<Uplink, Error> {
    let journal = Journal::read(paths);
    let winners = if caller == Caller::Init { journal.winners() } else { &[] };
    let (sender, events) = mpsc::channel();
    let mut network = Network::start_anew(paths, settings, caller, deadline, move |event| {
        // Nobody listens any more once the choice is made.
        let _ = sender.send(event);
    })?;
    let uplink = chosen(&events, winners, deadline)?;
    network.settle(&uplink.interface);
    network.hand_over();
    drop(names::for_uplink(paths, &uplink));
    Ok(uplink)
}

/// The best of the links that come up.
fn chosen(events: &mpsc::Receiver<Event>, winners: &[String], deadline: Deadline) -> Result<Uplink, Error> {
    let mut ups: Vec<(Uplink, Instant)> = Vec::new();
    let mut over = None;
    loop {
        let now = Instant::now();
        let contender = |(uplink, since): &(Uplink, Instant)| Contender {
            distrust: distrust(winners, &uplink.interface),
            state: if uplink.complete || uplink.ipv4.is_some() || has_router(uplink) && !uplink.dns.is_empty()
            {
                State::Granted { since: *since, default_route: leads_out(uplink) }
            } else {
                // IPv6 alone, and nobody to ask for names yet, or no way out.
                State::Asking
            },
        };
        let mut contenders: Vec<Contender> = ups.iter().map(contender).collect();
        if over.is_none() {
            contenders.push(Contender { distrust: 0, state: State::Asking });
        }
        let wake = match choose(&contenders, now, deadline.instant()) {
            Choice::Take(number) => {
                if let Some((uplink, _)) = ups.into_iter().nth(number) {
                    return Ok(uplink);
                }
                return Err(nothing(over));
            }
            Choice::Wait(until) => until,
            Choice::Nothing if over.is_some() => return Err(nothing(over)),
            // The engine says when it is over.
            Choice::Nothing => now + BUDGET,
        };
        match events.recv_timeout(wake.saturating_duration_since(now)) {
            Ok(Event::Up(uplink)) => ups.push((uplink, Instant::now())),
            Ok(Event::Changed(uplink)) => {
                let known = ups.iter_mut().find(|(known, _)| known.interface == uplink.interface);
                if let Some((known, _)) = known {
                    *known = uplink;
                }
            }
            Ok(Event::Down(name)) => ups.retain(|(known, _)| known.interface != name),
            Ok(Event::Exhausted(error)) => over = Some(error),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => over = Some(nothing(over)),
        }
    }
}

fn nothing(over: Option<Error>) -> Error {
    over.unwrap_or_else(|| Error::NoLease { links: "no link was left".to_owned() })
}

/// Whether the link leads out of its own network. IPv6 alone counts when IPv4 has had its time.
fn leads_out(uplink: &Uplink) -> bool {
    uplink.ipv4.as_ref().is_some_and(Lease::has_default_route) || (uplink.complete && has_router(uplink))
}

fn has_router(uplink: &Uplink) -> bool {
    uplink.ipv6.as_ref().is_some_and(|side| side.router.is_some())
}
