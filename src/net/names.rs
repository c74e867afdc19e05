//! Whose servers resolve names: libc's resolver reads one `/etc/resolv.conf`, so lookups over several
//! links take turns.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::files::replace;
use super::linux::Ways;
use super::uplink::Uplink;
use crate::paths::Paths;

/// resolv.conf(5), MAXNS; musl has the same.
const MOST_NAMESERVERS: usize = 3;

/// resolv.conf(5), MAXDNSRCH before glibc 2.26; musl keeps 255 bytes of the line.
const MOST_DOMAINS: usize = 6;
const MOST_SEARCH_BYTES: usize = 255;

/// Tells our file from one of somebody else.
const HEADER: &str = "# phaseboot\n";

/// musl asks all servers at once, `timeout` is for all of it and `attempts` for how often they are asked
/// within (`res_msend.c`): 2 s a name, so that dead links do not keep the others waiting. glibc asks one
/// after the other, each for `timeout` (resolv.conf(5)).
const OPTIONS: &str = "options timeout:2 attempts:2\n";

static TURNS: Turns = Turns {
    state: Mutex::new(State { next: 0, serving: 0, settled: None, first: None, ways: None }),
    changed: Condvar::new(),
};

/// First come, first served: a mutex of std may let the same thread in again and again.
#[derive(Debug)]
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Tickets: of who comes next, and of whose turn it is.
    next: u64,
    serving: u64,
    /// The link that carries the boot.
    settled: Option<String>,
    /// The link that looked up first, and the ways that were set for the latest, if it is another.
    first: Option<String>,
    ways: Option<(String, Ways)>,
}

/// While it is held, names resolve by the servers of one link.
#[must_use]
#[derive(Debug)]
pub struct Guard {
    has_turn: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.has_turn {
            let mut state = TURNS.state();
            state.serving = state.serving.wrapping_add(1);
            drop(state);
            TURNS.changed.notify_all();
        }
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes lookups go over this link, where another has looked up, too.
    fn lead(&mut self, uplink: &Uplink) {
        let name = &uplink.interface;
        let alone = self.first.get_or_insert_with(|| name.clone()) == name && self.ways.is_none();
        if !uplink.bound || alone {
            return;
        }
        if let Some((_, ways)) = self.ways.take_if(|(latest, _)| latest != name) {
            ways.remove();
        }
        match Ways::set(uplink, MOST_NAMESERVERS) {
            Ok(ways) => self.ways = Some((name.clone(), ways)),
            Err(errno) => log::debug!("{name}: lookups go the system's way: {errno}"),
        }
    }
}

/// Waits for its turn and writes `resolv.conf` for this link, unless it says that already. Once another
/// link carries the boot, nothing is written: whoever looks up then has lost.
pub fn for_uplink(paths: &Paths, uplink: &Uplink) -> Guard {
    let mut state = TURNS.state();
    let ticket = state.next;
    state.next = state.next.wrapping_add(1);
    while state.serving != ticket {
        state = TURNS.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    let lost = state.settled.as_ref().is_some_and(|settled| *settled != uplink.interface);
    if !lost {
        state.lead(uplink);
        write(paths, uplink);
    }
    drop(state);
    Guard { has_turn: true }
}

/// From now on names resolve by the servers of this link alone.
pub(super) fn settle(interface: &str) {
    TURNS.state().settled = Some(interface.to_owned());
}

/// Another network begins.
pub(super) fn unsettle() {
    let mut state = TURNS.state();
    (state.settled, state.first, state.ways) = (None, None, None);
}

/// A link without servers for names empties what another link has left, and leaves alone what
/// somebody else wrote; a network that is used as it is leaves what the command wrote that has brought it
/// up. Failure is a warning: a provider may be named by address.
fn write(paths: &Paths, uplink: &Uplink) {
    let path = paths.resolv_conf();
    let now = std::fs::read_to_string(&path);
    let ours = now.as_ref().is_ok_and(|text| text.starts_with(HEADER));
    let wanted = text(uplink);
    if (uplink.dns.is_empty() && !(ours && uplink.bound)) || now.is_ok_and(|text| text == wanted) {
        return;
    }
    match replace(&path, wanted.as_bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && uplink.dns.is_empty() => {}
        Err(error) => log::warn!("cannot write {}: {error}; names will not resolve", path.display()),
    }
}

/// See resolv.conf(5).
fn text(uplink: &Uplink) -> String {
    let mut text = HEADER.to_owned();
    if uplink.dns.is_empty() {
        return text;
    }
    let mut room = MOST_SEARCH_BYTES;
    let fits = |domain: &&String| {
        room = room.saturating_sub(domain.len().saturating_add(1));
        room > 0
    };
    let domains: Vec<&str> =
        uplink.search.iter().take(MOST_DOMAINS).take_while(fits).map(String::as_str).collect();
    if !domains.is_empty() {
        let _ = writeln!(text, "search {}", domains.join(" "));
    }
    for server in uplink.dns.iter().take(MOST_NAMESERVERS) {
        let _ = match server {
            // A router that names itself by its link-local address: RFC 8106, section 5.1.
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                writeln!(text, "nameserver {address}%{}", uplink.interface)
            }
            other => writeln!(text, "nameserver {other}"),
        };
    }
    text.push_str(OPTIONS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(dns: &[&str], search: &[&str]) -> Uplink {
        Uplink {
            interface: "eth0".into(),
            dns: dns.iter().map(|server| server.parse().unwrap()).collect(),
            search: search.iter().map(|&domain| domain.to_owned()).collect(),
            ..Uplink::default()
        }
    }

    #[test]
    fn a_resolver_configuration_has_three_servers_at_most() {
        let text =
            text(&uplink(&["10.0.2.1", "fe80::1", "2001:db8::53", "10.0.2.4"], &["example.org", "lab"]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "# phaseboot",
                "search example.org lab",
                "nameserver 10.0.2.1",
                "nameserver fe80::1%eth0",
                "nameserver 2001:db8::53"
            ]
        );
        assert!(lines[5].starts_with("options timeout:") && lines.len() == 6);
    }

    #[test]
    fn the_search_list_is_cut_where_resolvers_cut_it() {
        let long: Vec<String> = (0..9).map(|n| format!("{n}{}", "a".repeat(98))).collect();
        let domains: Vec<&str> = long.iter().map(String::as_str).collect();
        let text = text(&uplink(&["10.0.2.1"], &domains));
        assert_eq!(text.lines().nth(1).unwrap(), format!("search {} {}", domains[0], domains[1]));
    }

    #[test]
    fn what_somebody_else_wrote_stays_without_anything_better() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let content = || std::fs::read_to_string(paths.resolv_conf());
        drop(for_uplink(&paths, &uplink(&[], &[])));
        assert!(content().is_err());
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(paths.resolv_conf(), "somebody else's").unwrap();
        drop(for_uplink(&paths, &uplink(&[], &["example.org"])));
        assert_eq!(content().unwrap(), "somebody else's");
        drop(for_uplink(&paths, &uplink(&["10.0.2.1"], &[])));
        assert!(content().unwrap().contains("nameserver 10.0.2.1\n"));
        drop(for_uplink(&paths, &uplink(&[], &[])));
        assert!(content().unwrap().contains("nameserver 10.0.2.1\n"));
        drop(for_uplink(&paths, &Uplink { bound: true, ..uplink(&[], &[]) }));
        assert_eq!(content().unwrap(), HEADER);
    }

    #[test]
    fn a_file_is_replaced_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let real = folder.path().join("stub.conf");
        std::fs::write(&real, "old").unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(&real, paths.resolv_conf()).unwrap();
        drop(for_uplink(&paths, &uplink(&["10.0.2.3"], &[])));
        assert!(std::fs::read_to_string(&real).unwrap().contains("nameserver 10.0.2.3"));
        assert!(paths.resolv_conf().is_symlink());
    }
}
