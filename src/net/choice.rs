//! Which lease of a race is taken, and how long a poor one waits for a better one.
//!
//! A link whose lease has led earlier attempts nowhere (a management network, a rogue server) comes
//! after the others, and a lease without a default route after one that has it.

use std::time::{Duration, Instant};

/// How long a lease on a link that has led nowhere waits for another link.
const SECOND_CHANCE: Duration = Duration::from_secs(3);

/// How long a lease without a default route waits for one that has it.
const ROUTER_WAIT: Duration = Duration::from_secs(1);

/// One link of the race.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contender {
    /// 0 for a link that has won no attempt yet; the later it has, the more.
    pub(super) distrust: usize,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Others may still get one.
    Asking,
    /// The lease is in hand.
    Granted { since: Instant, default_route: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// There is no lease yet.
    Nothing,
    /// The lease of this contender, counted from 0.
    Take(usize),
    /// A better one may come until then.
    Wait(Instant),
}

/// The best lease in hand, unless it is worth waiting for one of those still asking. Nothing waits
/// beyond `deadline`.
pub(super) fn choose(contenders: &[Contender], now: Instant, deadline: Instant) -> Choice {
    let in_hand = contenders.iter().enumerate().filter_map(|(number, contender)| match contender.state {
        State::Granted { since, default_route } => Some((contender.distrust, !default_route, since, number)),
        State::Asking => None,
    });
    let Some((distrust, no_router, since, number)) = in_hand.min() else { return Choice::Nothing };
    let asking = contenders.iter().filter(|contender| matches!(contender.state, State::Asking));
    let until = match asking.map(|contender| contender.distrust).min() {
        Some(hope) if hope < distrust => since + SECOND_CHANCE,
        Some(hope) if hope == distrust && no_router => since + ROUTER_WAIT,
        _ => since,
    };
    let until = until.min(deadline);
    if now < until { Choice::Wait(until) } else { Choice::Take(number) }
}

/// The distrust in the link `name`, when these have won earlier attempts, the latest first.
pub(super) fn distrust(winners: &[String], name: &str) -> usize {
    winners.iter().position(|winner| winner == name).map_or(0, |place| winners.len() - place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(distrust: usize) -> Contender {
        Contender { distrust, state: State::Asking }
    }

    fn granted(distrust: usize, default_route: bool, since: Instant) -> Contender {
        Contender { distrust, state: State::Granted { since, default_route } }
    }

    /// With a deadline that is far away.
    fn choose(contenders: &[Contender], now: Instant) -> Choice {
        super::choose(contenders, now, now + Duration::from_secs(60))
    }

    #[test]
    fn the_first_good_lease_is_taken_at_once() {
        let now = Instant::now();
        assert_eq!(choose(&[], now), Choice::Nothing);
        assert_eq!(choose(&[asking(0), asking(1)], now), Choice::Nothing);
        assert_eq!(choose(&[asking(0), granted(0, true, now)], now), Choice::Take(1));
        let later = now + Duration::from_millis(1);
        assert_eq!(choose(&[granted(0, true, later), granted(0, true, now)], later), Choice::Take(1));
    }

    #[test]
    fn a_lease_without_router_waits_a_second_for_another_link() {
        let now = Instant::now();
        let end = now + ROUTER_WAIT;
        let poor = granted(0, false, now);
        assert_eq!(choose(&[poor], now), Choice::Take(0));
        assert_eq!(choose(&[poor, asking(0)], now), Choice::Wait(end));
        assert_eq!(choose(&[poor, asking(1)], now), Choice::Take(0));
        assert_eq!(choose(&[poor, asking(0)], end), Choice::Take(0));
        assert_eq!(choose(&[poor, granted(0, true, end)], end), Choice::Take(1));
    }

    #[test]
    fn a_link_that_led_nowhere_waits_three_seconds_for_the_others() {
        let now = Instant::now();
        let end = now + SECOND_CHANCE;
        let last = granted(2, true, now);
        assert_eq!(choose(&[last], now), Choice::Take(0));
        assert_eq!(choose(&[last, asking(0)], now), Choice::Wait(end));
        assert_eq!(choose(&[last, asking(1)], now), Choice::Wait(end));
        assert_eq!(choose(&[last, asking(0)], end), Choice::Take(0));
        assert_eq!(choose(&[last, granted(1, false, now)], now), Choice::Take(1));
        assert_eq!(choose(&[last, granted(0, true, now), asking(1)], now), Choice::Take(1));
    }

    #[test]
    fn at_the_deadline_what_is_in_hand_is_taken() {
        let now = Instant::now();
        let contenders = [granted(1, true, now), asking(0)];
        let soon = now + Duration::from_millis(5);
        assert_eq!(super::choose(&contenders, now, soon), Choice::Wait(soon));
        assert_eq!(super::choose(&contenders, soon, soon), Choice::Take(0));
    }

    #[test]
    fn the_latest_winner_is_distrusted_most() {
        let winners = ["eth1".to_owned(), "eth0".to_owned()];
        assert_eq!(["eth0", "eth1", "eth2"].map(|name| distrust(&winners, name)), [1, 2, 0]);
    }
}
