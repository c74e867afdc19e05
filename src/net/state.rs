//! What is known of one link, and what follows: whether servers can be reached over it, whether more
//! is to be expected, whether it is worth waiting for. Pure.

use std::time::{Duration, Instant};

use super::stp::{Bpdu, PortState};

/// How long carrier may take: autonegotiation needs up to 10 s, and no longer is waited for a first link.
pub(super) const CARRIER_WAIT: Duration = Duration::from_secs(15);

/// How long a link that forwards is asked before it is given up.
pub(super) const DISCOVERY: Duration = Duration::from_secs(25);

/// How long a port may be blocked: twice the longest forward delay (IEEE 802.1D, 17.14), less what the
/// whole network has left for an answer.
const BLOCKED_WAIT: Duration = Duration::from_secs(50);

/// Routers answer a solicitation within half a second, and one may be lost: RFC 4861, section 10.
const ROUTER_WAIT: Duration = Duration::from_secs(3);

/// What a router has announced is there by then: duplicate address detection, DHCPv6.
const ADDRESS_WAIT: Duration = Duration::from_secs(8);

/// Servers that look whether an address is free before they offer it need one to three seconds.
const LEASE_WAIT: Duration = Duration::from_secs(5);

/// How far one address family of a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Nothing is asked for, or nothing can come.
    Off,
    /// Nothing has come so far.
    Asking,
    /// IPv6: a router was heard, and something is missing.
    Advertised,
    /// IPv6: servers on the link can be reached, and no others so far.
    Near,
    /// Servers can be reached, and something is missing.
    Usable,
    /// All is there.
    Settled,
}

/// One link at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// When it appeared, or lost its carrier.
    pub(super) idle_since: Instant,
    /// When carrier came, if it is there.
    pub(super) carrier: Option<Instant>,
    /// Since when it forwards, as far as that is known.
    pub(super) forwarding: Option<Instant>,
    pub(super) ipv4: Family,
    pub(super) ipv6: Family,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Servers can be reached.
    pub(super) usable: bool,
    /// Nothing more is waited for.
    pub(super) complete: bool,
    /// Nobody should wait for this link.
    pub(super) hopeless: bool,
    /// When this changes by itself.
    pub(super) until: Option<Instant>,
}

impl View {
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let Some(carrier) = self.carrier else {
            return Standing::waiting(self.idle_since + CARRIER_WAIT, now);
        };
        let usable = [self.ipv4, self.ipv6].into_iter().any(Family::is_usable);
        if !usable {
            if self.ipv4 == Family::Off && self.ipv6 == Family::Off {
                return Standing::waiting(now, now);
            }
            let given_up = self.forwarding.map_or(carrier + BLOCKED_WAIT, |since| since + DISCOVERY);
            return Standing::waiting(given_up, now);
        }
        // What is usable has forwarded.
        let since = self.forwarding.unwrap_or(carrier);
        // What leads nowhere else shortens no wait for what does.
        let lease_wait = if self.ipv6 == Family::Near { DISCOVERY } else { LEASE_WAIT };
        let waits = [self.ipv4.patience(lease_wait), self.ipv6.patience(ROUTER_WAIT)];
        let until = waits.into_iter().flatten().max().map(|wait| since + wait).filter(|&until| now < until);
        Standing { usable, complete: until.is_none(), hopeless: false, until }
    }
}

impl Standing {
    /// Of no use yet, and none any more from `end` on.
    fn waiting(end: Instant, now: Instant) -> Self {
        let hopeless = now >= end;
        Self { usable: false, complete: false, hopeless, until: (!hopeless).then_some(end) }
    }
}

impl Family {
    fn is_usable(self) -> bool {
        matches!(self, Self::Near | Self::Usable | Self::Settled)
    }

    /// How long it is waited for beside another that is usable.
    fn patience(self, unheard: Duration) -> Option<Duration> {
        match self {
            Self::Off | Self::Settled => None,
            Self::Asking => Some(unheard),
            Self::Advertised | Self::Near | Self::Usable => Some(ADDRESS_WAIT),
        }
    }
}

/// When no further link can be hoped for, if that is known: there is none, or one that is `missing` has
/// not appeared, or all are decided and drivers have had the time `settling` to make others appear.
pub(super) fn exhausted(
    standings: &[Standing],
    missing: bool,
    started: Instant,
    settling: Duration,
) -> Option<Instant> {
    let decided = |standing: &Standing| standing.complete || standing.hopeless;
    if standings.is_empty() || missing {
        return standings.iter().all(decided).then_some(started + CARRIER_WAIT);
    }
    standings.iter().all(decided).then_some(started + settling)
}

/// Whether the switch port at the other end forwards: IEEE 802.1D and 802.1w.
///
/// Without a word of spanning tree it is taken to do so since carrier came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forwarding {
    carrier: Instant,
    state: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// Nothing speaks against it.
    Presumed,
    /// It is blocked; it will forward then, if that is known.
    Blocked(Option<Instant>),
    /// Something came through, or the port said so.
    Since(Instant),
}

impl Forwarding {
    pub(super) fn new(carrier: Instant) -> Self {
        Self { carrier, state: Port::Presumed }
    }

    pub(super) fn carrier(&self) -> Instant {
        self.carrier
    }

    pub(super) fn since(&self) -> Option<Instant> {
        match self.state {
            Port::Presumed => Some(self.carrier),
            Port::Blocked(_) => None,
            Port::Since(since) => Some(since),
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.state, Port::Blocked(_))
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            Port::Blocked(until) => until,
            Port::Presumed | Port::Since(_) => None,
        }
    }

    /// True if the port has just begun to forward.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now) && self.heard(now)
    }

    /// Something has come through. True if the port was blocked until now.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        let was_blocked = self.is_blocked();
        if was_blocked {
            self.state = Port::Since(now);
        } else if self.state == Port::Presumed {
            self.state = Port::Since(self.carrier);
        }
        was_blocked
    }

    /// What a BPDU says. True if the port was blocked until now.
    pub(super) fn bpdu(&mut self, bpdu: Bpdu, now: Instant) -> bool {
        match (bpdu.state, self.state) {
            (PortState::Forwarding, _) => return self.heard(now),
            (_, Port::Since(_)) | (PortState::Unknown, Port::Blocked(Some(_))) => {}
            (PortState::Discarding, _) => self.state = Port::Blocked(None),
            (PortState::Learning, _) => self.state = Port::Blocked(Some(now + bpdu.longest_wait())),
            (PortState::Unknown, Port::Presumed | Port::Blocked(None)) => {
                // Listening, then learning: IEEE 802.1D-1998, 8.4.
                let until = self.carrier + bpdu.longest_wait();
                self.state = if now < until { Port::Blocked(Some(until)) } else { Port::Since(until) };
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn view(start: Instant, ipv4: Family, ipv6: Family) -> View {
        View { idle_since: start, carrier: Some(start), forwarding: Some(start), ipv4, ipv6 }
    }

    #[test]
    fn a_link_is_usable_with_one_family_and_complete_with_both_or_after_a_while() {
        use Family::{Advertised, Asking, Near, Off, Settled, Usable};
        for (ipv4, ipv6, complete_after) in [
            (Settled, Settled, Some(0)),
            (Settled, Off, Some(0)),
            (Off, Settled, Some(0)),
            (Settled, Asking, Some(3)),
            (Settled, Advertised, Some(8)),
            (Settled, Usable, Some(8)),
            (Asking, Settled, Some(5)),
            (Asking, Usable, Some(8)),
            (Settled, Near, Some(8)),
            (Off, Near, Some(8)),
            (Asking, Near, Some(25)),
            (Asking, Asking, None),
            (Asking, Advertised, None),
            (Off, Off, None),
        ] {
            let start = Instant::now();
            let view = view(start, ipv4, ipv6);
            let Some(seconds) = complete_after else {
                assert!(!view.standing(start).usable, "{ipv4:?} {ipv6:?}");
                continue;
            };
            let end = start + seconds * S;
            if seconds > 0 {
                let before = view.standing(end - S);
                assert_eq!((before.usable, before.complete, before.until), (true, false, Some(end)));
            }
            let after = view.standing(end);
            assert_eq!((after.usable, after.complete, after.until), (true, true, None), "{ipv4:?} {ipv6:?}");
        }
    }

    #[test]
    fn hope_ends_by_what_a_link_lacks() {
        use Family::{Asking, Off};
        let start = Instant::now();
        let asking = view(start, Asking, Asking);
        for (what, view, seconds) in [
            ("no carrier", View { carrier: None, forwarding: None, ..asking }, 15),
            ("no answer", asking, 25),
            ("forwarding later", View { forwarding: Some(start + 20 * S), ..asking }, 45),
            ("blocked", View { forwarding: None, ..asking }, 50),
            ("nothing to ask for", view(start, Off, Off), 0),
        ] {
            let end = start + seconds * S;
            if seconds > 0 {
                let before = view.standing(end - S);
                assert_eq!((before.hopeless, before.until), (false, Some(end)), "{what}");
            }
            let after = view.standing(end);
            assert_eq!((after.hopeless, after.until), (true, None), "{what}");
        }
    }

    #[test]
    fn spanning_tree_tells_when_a_port_forwards() {
        let start = Instant::now();
        let said = |state| Bpdu { state, forward_delay: 15 * S };
        let unknown = said(PortState::Unknown);
        let mut quiet = Forwarding::new(start);
        assert_eq!((quiet.since(), quiet.due()), (Some(start), None));
        assert!(!quiet.heard(start + S) && quiet.since() == Some(start));

        let mut classic = Forwarding::new(start);
        assert!(!classic.bpdu(unknown, start + S));
        assert_eq!((classic.since(), classic.due()), (None, Some(start + 30 * S)));
        assert!(!classic.bpdu(unknown, start + 3 * S) && !classic.tick(start + 29 * S));
        assert!(classic.tick(start + 30 * S) && !classic.tick(start + 31 * S));
        assert_eq!(classic.since(), Some(start + 30 * S));
        assert!(!classic.bpdu(unknown, start + 32 * S) && !classic.is_blocked());

        let mut earlier = Forwarding::new(start);
        earlier.bpdu(unknown, start + S);
        assert!(earlier.heard(start + 4 * S) && !earlier.heard(start + 5 * S));
        assert_eq!(earlier.since(), Some(start + 4 * S));

        let mut rapid = Forwarding::new(start);
        assert!(!rapid.bpdu(said(PortState::Discarding), start + S) && rapid.is_blocked());
        assert_eq!(rapid.due(), None);
        assert!(!rapid.bpdu(said(PortState::Learning), start + 2 * S));
        assert_eq!(rapid.due(), Some(start + 17 * S));
        assert!(rapid.bpdu(said(PortState::Forwarding), start + 3 * S));
        assert_eq!(rapid.since(), Some(start + 3 * S));
        assert!(!rapid.bpdu(said(PortState::Discarding), start + 4 * S) && !rapid.is_blocked());

        let mut long_up = Forwarding::new(start);
        long_up.bpdu(unknown, start + 40 * S);
        assert!(!long_up.is_blocked());
    }

    #[test]
    fn hope_for_a_network_ends_when_every_link_is_decided() {
        let start = Instant::now();
        let undecided = Standing { usable: false, complete: false, hopeless: false, until: None };
        let (done, lost) = (
            Standing { usable: true, complete: true, ..undecided },
            Standing { hopeless: true, ..undecided },
        );
        for (standings, missing, settling, end) in [
            (&[][..], false, S, Some(15)),
            (&[undecided], false, S, None),
            (&[done, undecided], false, S, None),
            (&[done], false, Duration::ZERO, Some(0)),
            (&[done, lost], false, 5 * S, Some(5)),
            (&[lost], true, Duration::ZERO, Some(15)),
        ] {
            assert_eq!(exhausted(standings, missing, start, settling), end.map(|end| start + end * S));
        }
    }
}
