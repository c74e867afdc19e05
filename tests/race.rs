//! The race for a manifest, against servers on loopback that are well, slow, dead, hang or serve what
//! may not boot. The network's events are the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may fail in any way"
)]

#[path = "common/port.rs"]
mod port;
#[path = "common/provider.rs"]
mod provider;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use phaseboot::boot;
use phaseboot::config::Config;
use phaseboot::error::{Error, Exit};
use phaseboot::manifest::{Sightings, Trust};
use phaseboot::net::{self, Caller, Event, Ipv6, Uplink};
use phaseboot::paths::Paths;
use phaseboot::provider::{Found, Search, Uplinks, race};
use phaseboot::rollback::Purpose;
use phaseboot::sys::arch::NATIVE;
use phaseboot::time::Deadline;
use port::Port;
use provider::{Manner, OURS, Server, after, content, good, key_list, trust_folder};

/// Set inside a namespace of the test's own, where servers have an address that is not loopback's: no
/// network may name a provider on this machine itself.
const INSIDE: &str = "PHASEBOOT_TEST_RACE";

fn host() -> &'static str {
    if std::env::var_os(INSIDE).is_some() { "10.99.0.1" } else { "127.0.0.1" }
}

fn serve(manner: Manner) -> Server {
    Server::start(TcpListener::bind((host(), 0)).unwrap(), manner)
}

/// Runs `inside` in a network namespace. Without root or iproute2 it says so and does nothing.
fn in_namespace(test: &str, inside: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let name = format!("pb-{}-{}", std::process::id(), test.len());
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let usable = rustix::process::geteuid().is_root()
        && ip(&format!("netns add {name}"))
        && ip(&format!("-n {name} link set lo up"))
        && ip(&format!("-n {name} addr add 10.99.0.1/32 dev lo"))
        && ip(&format!("netns exec {name} true"));
    if usable {
        let status = Command::new("ip")
            .args(["netns", "exec", &name])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        ip(&format!("netns del {name}"));
        assert!(status.success(), "inside the namespace: {status}");
    } else {
        ip(&format!("netns del {name}"));
        println!("{test} skipped: no network namespaces here");
    }
}

/// A port on which nobody listens.
fn dead() -> (Port, String) {
    let port = Port::on(host().parse().unwrap());
    let url = format!("http://{}/", port.address);
    (port, url)
}

/// A server that accepts and never says a word.
fn hanging() -> (TcpListener, String) {
    let listener = TcpListener::bind((host(), 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

fn exhausted() -> Event {
    Event::Exhausted(net::Error::NoLease { links: "no other link".to_owned() })
}

/// An uplink that DHCPv6 has given this boot URL. It is not bound to its link, so that loopback serves.
fn uplink(url: Option<&str>) -> Uplink {
    let ipv6 = Ipv6 { boot_url: url.map(str::to_owned), ..Ipv6::default() };
    Uplink { ipv6: Some(ipv6), complete: true, ..Uplink::default() }
}

struct Race {
    uplinks: Uplinks,
    search: Search,
    sightings: Sightings,
    started: Instant,
    folder: tempfile::TempDir,
}

impl Race {
    fn new(providers: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        trust_folder(folder.path());
        let providers = providers.iter().map(|&url| url.to_owned()).collect();
        let search = Search {
            config: Config { providers, ..Config::default() },
            trust: Trust::read(folder.path()).unwrap(),
            paths: Paths::under(folder.path()),
            arch: NATIVE,
            now: None,
            deadline: Deadline::after(Duration::from_secs(30)),
        };
        let (uplinks, sightings) = (Uplinks::default(), Sightings::default());
        Self { uplinks, search, sightings, started: Instant::now(), folder }
    }

    /// With this policy.
    fn under(mut self, policy: &str) -> Self {
        std::fs::write(self.folder.path().join("policy.json"), policy).unwrap();
        self.search.trust = Trust::read(self.folder.path()).unwrap();
        self
    }

    fn run(mut self, events: Vec<Event>) -> (Result<Found, Error>, Duration, Sightings) {
        let tell = self.uplinks.sink();
        events.into_iter().for_each(tell);
        let found = race::run(self.search, self.uplinks, &mut self.sightings);
        (found, self.started.elapsed(), self.sightings)
    }
}

/// Over one uplink: the version that wins, and after which time.
fn winner(providers: &[&str]) -> (u64, Duration) {
    let (found, time, _) = Race::new(providers).run(vec![Event::Up(uplink(None)), exhausted()]);
    (found.unwrap().manifest.manifest().manifest_version, time)
}

fn failure(providers: &[&str]) -> (Exit, String, Duration) {
    let (found, time, _) = Race::new(providers).run(vec![Event::Up(uplink(None)), exhausted()]);
    let error = found.unwrap_err();
    (error.exit(), error.line().to_string(), time)
}

#[test]
fn the_preferred_provider_wins_if_it_answers_in_time() {
    let wins = |_| {
        let (slow, quick) = (serve(after(60, good(1, OURS))), serve(good(2, OURS)));
        winner(&[&slow.url, &quick.url]).0 == 1 && quick.requests() == 0
    };
    // A busy machine may need longer than its head start.
    assert!((0..3).any(wins));
}

#[test]
fn a_preferred_provider_that_is_too_slow_loses() {
    let (slow, quick) = (serve(after(2500, good(1, OURS))), serve(good(2, OURS)));
    let (version, time) = winner(&[&slow.url, &quick.url]);
    assert_eq!(version, 2);
    assert!(time >= Duration::from_millis(300) && time < Duration::from_secs(2), "{time:?}");
}

#[test]
fn one_that_is_dead_or_hangs_or_has_nothing_that_boots_holds_nobody_up() {
    let (_listener, hanging) = hanging();
    let stranger = serve(good(9, 8));
    let empty = serve(Manner { manifest: None, ..good(9, OURS) });
    let quick = serve(good(2, OURS));
    let (_dead, dead) = dead();
    for first in [&dead, &stranger.url, &empty.url] {
        let time = |_| {
            let (version, time) = winner(&[first, &quick.url]);
            assert_eq!(version, 2);
            time
        };
        // A busy machine may need longer than its head start.
        let is_at_once = (0..3).map(time).any(|time| time < Duration::from_millis(280));
        assert!(is_at_once, "{first}: the next one is asked at once");
    }
    let (version, time) = winner(&[&hanging, &dead, &stranger.url, &hanging, &quick.url]);
    assert_eq!(version, 2);
    assert!(time < Duration::from_secs(2), "{time:?}");
}

#[test]
fn a_provider_that_recovers_is_asked_again() {
    let server = serve(Manner { failures: 4, ..good(3, OURS) });
    assert_eq!(winner(&[&server.url]).0, 3);
}

#[test]
fn a_provider_that_says_when_is_left_alone_until_then() {
    let server = serve(Manner { failures: 1, later: Some(3), ..good(3, OURS) });
    let (version, time) = winner(&[&server.url]);
    assert_eq!((version, server.requests()), (3, 3), "one refusal, the manifest, no key list");
    assert!(time > Duration::from_secs(3) && time < Duration::from_secs(5), "{time:?}");
    // Beyond the deadline there is nothing to wait for.
    let server = serve(Manner { failures: 100, later: Some(30), ..good(3, OURS) });
    let mut race = Race::new(&[&server.url]);
    race.search.deadline = Deadline::after(Duration::from_secs(10));
    let (found, time, _) = race.run(vec![Event::Up(uplink(None)), exhausted()]);
    let line = found.unwrap_err().line().to_string();
    assert!(line.contains("HTTP status 503, to be asked again in 30 s"), "{line}");
    assert!(time < Duration::from_secs(3) && server.requests() == 1, "{time:?}");
}

#[test]
fn half_a_minute_is_waited_for_whoever_says_so() {
    let server = serve(Manner { failures: 1, later: Some(25), ..good(3, OURS) });
    let mut race = Race::new(&[&server.url]);
    race.search.deadline = Deadline::after(Duration::from_secs(40));
    let (found, time, _) = race.run(vec![Event::Up(uplink(None)), exhausted()]);
    assert_eq!(found.unwrap().manifest.manifest().manifest_version, 3);
    assert!((25..28).contains(&time.as_secs()) && server.requests() == 3, "{time:?}");
}

#[test]
fn a_refusal_explains_more_than_silence() {
    let stranger = serve(good(9, 8));
    let (_dead, dead) = dead();
    for providers in [[dead.as_str(), &stranger.url], [&stranger.url, &dead]] {
        let (exit, line, _) = failure(&providers);
        assert_eq!(exit, Exit::NotTrusted, "{line}");
        assert!(line.contains(&stranger.url), "{line}");
    }
}

#[test]
fn everybody_who_failed_is_named_once() {
    let ((_one, one), (_other, other)) = (dead(), dead());
    let (exit, line, time) = failure(&[&one, &other]);
    assert_eq!(exit, Exit::NoProvider, "{line}");
    assert_eq!((line.matches(&one).count(), line.matches(&other).count()), (1, 1), "{line}");
    assert!(time < Duration::from_secs(15), "{time:?}");
}

#[test]
fn who_names_nobody_is_told_how() {
    let (found, ..) = Race::new(&[]).run(vec![Event::Up(uplink(None)), exhausted()]);
    let error = found.unwrap_err();
    let line = error.line().to_string();
    assert_eq!(error.exit(), Exit::NoProvider, "{line}");
    for way in ["phase.provider=", "option 67", "option 59", "DNS", "phase.mode=local"] {
        assert!(line.contains(way), "{way}: {line}");
    }
}

#[test]
fn what_is_given_is_final() {
    in_namespace("what_is_given_is_final", || {
        let rogue = serve(good(2, OURS));
        let (_dead, dead) = dead();
        let (found, ..) = Race::new(&[&dead]).run(vec![Event::Up(uplink(Some(&rogue.url))), exhausted()]);
        assert_eq!(found.unwrap_err().exit(), Exit::NoProvider);
        assert_eq!(rogue.requests(), 0);
    });
}

#[test]
fn what_the_network_names_is_not_this_machine_and_is_signed() {
    in_namespace("what_the_network_names_is_not_this_machine_and_is_signed", || {
        let unsigned = serve(Manner { manifest: Some(content(1).to_string().into_bytes()), ..good(1, OURS) });
        let run = |providers: &[&str], url: &str| {
            let race = Race::new(providers).under(r#"{"allow_unsigned":true}"#);
            let (found, ..) = race.run(vec![Event::Up(uplink(Some(url))), exhausted()]);
            found.map(drop).map_err(|error| (error.exit(), error.line().to_string()))
        };
        assert_eq!(run(&[&unsigned.url], &unsigned.url), Ok(()));
        assert_eq!(run(&[], &unsigned.url).unwrap_err().0, Exit::NotTrusted);
        let (exit, line) = run(&[], "http://127.0.0.1:80/").unwrap_err();
        assert_eq!(exit, Exit::NoProvider);
        assert!(line.contains("this machine itself"), "{line}");
    });
}

/// A network may not do what the kernel command line may not.
#[test]
fn the_policy_decides_whether_a_network_may_name_providers() {
    // Refused before anything is raised.
    let Race { search, folder: _folder, .. } = Race::new(&[]).under(r#"{"settable":["phase.mode"]}"#);
    let Search { config, trust, paths, deadline, .. } = &search;
    let found = boot::find(config, trust, paths, Caller::Command, Purpose::Look, *deadline, None).map(drop);
    assert_eq!(found.unwrap_err().exit(), Exit::Usage);
    for (settable, is_asked) in
        [(r#"["phase.provider"]"#, false), (r#"["phase.provider","phase.mode"]"#, true)]
    {
        let mut race = Race::new(&[]).under(&format!(r#"{{"settable":{settable}}}"#));
        race.search.config.local = true;
        let (found, ..) = race.run(vec![Event::Up(uplink(None)), exhausted()]);
        let line = found.unwrap_err().line().to_string();
        assert_eq!(line.contains("the policy does not let phase.mode ask for mDNS"), !is_asked, "{line}");
        assert_eq!(
            line.contains("mDNS names none") || line.contains("mDNS cannot be asked"),
            is_asked,
            "{line}"
        );
    }
}

#[test]
fn the_second_uplink_wins_where_the_first_leads_nowhere() {
    in_namespace("the_second_uplink_wins_where_the_first_leads_nowhere", || {
        let ((_dead, dead), (_listener, hanging)) = (dead(), hanging());
        let good = serve(good(5, OURS));
        for first in [dead, hanging] {
            let race = Race::new(&[]);
            let tell = race.uplinks.sink();
            let other = Uplink { interface: "lo".to_owned(), ..uplink(Some(&good.url)) };
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(100));
                tell(Event::Up(other));
                tell(exhausted());
            });
            let (found, time, _) = race.run(vec![Event::Up(uplink(Some(&first)))]);
            assert_eq!(found.unwrap().uplink.interface, "lo");
            assert!(time < Duration::from_secs(2), "{time:?}");
        }
    });
}

#[test]
fn an_uplink_that_changes_is_tried_again() {
    in_namespace("an_uplink_that_changes_is_tried_again", || {
        let good = serve(good(5, OURS));
        let (_dead, dead) = dead();
        // While everybody pauses, and while one is asked.
        for first in [uplink(None), uplink(Some(&dead))] {
            let race = Race::new(&[]);
            let tell = race.uplinks.sink();
            let changed = uplink(Some(&good.url));
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                tell(Event::Changed(changed));
                tell(exhausted());
            });
            let (found, ..) = race.run(vec![Event::Up(first)]);
            assert_eq!(found.unwrap().manifest.manifest().manifest_version, 5);
        }
    });
}

#[test]
fn what_is_still_to_come_of_an_uplink_is_waited_for() {
    in_namespace("what_is_still_to_come_of_an_uplink_is_waited_for", || {
        let good = serve(good(5, OURS));
        let race = Race::new(&[]);
        let tell = race.uplinks.sink();
        let first = Uplink { complete: false, ..uplink(None) };
        let then = uplink(Some(&good.url));
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            tell(Event::Changed(then));
        });
        let (found, time, _) = race.run(vec![Event::Up(first), exhausted()]);
        assert_eq!(found.unwrap().manifest.manifest().manifest_version, 5);
        assert!(time < Duration::from_secs(2), "{time:?}");
    });
}

#[test]
fn a_provider_that_comes_back_is_found_while_a_link_is_hoped_for() {
    // The rounds of a first pass take 3.5 s and more: four requests, each with a single URL.
    let server = serve(Manner { failures: 5, ..good(5, OURS) });
    let url = format!("{}stable/{NATIVE}/manifest.signed.json", server.url);
    let (found, time, _) = Race::new(&[&url]).run(vec![Event::Up(uplink(None))]);
    assert_eq!(found.unwrap().manifest.manifest().manifest_version, 5);
    assert!(time > Duration::from_secs(3) && time < Duration::from_secs(15), "{time:?}");
}

#[test]
fn a_link_that_goes_down_is_out() {
    let server = serve(after(500, good(5, OURS)));
    let race = Race::new(&[&server.url]);
    let down = Event::Down(String::new());
    let (found, ..) = race.run(vec![Event::Up(uplink(None)), down, exhausted()]);
    let line = found.unwrap_err().line().to_string();
    assert!(line.contains("the link went down"), "{line}");
}

#[test]
fn nobody_who_comes_late_changes_what_was_seen() {
    let winner = serve(Manner { keys: Some(key_list(3, OURS)), ..good(1, OURS) });
    let late = serve(after(700, Manner { keys: Some(key_list(9, OURS)), ..good(2, OURS) }));
    let race = Race::new(&[&late.url, &winner.url]);
    let (found, _, sightings) = race.run(vec![Event::Up(uplink(None)), exhausted()]);
    assert_eq!(found.unwrap().manifest.manifest().manifest_version, 1);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(sightings.all().keys_version, 3);
}

#[test]
fn key_lists_of_losers_count_until_then() {
    let stranger = serve(Manner { keys: Some(key_list(4, 8)), ..good(1, OURS) });
    let older = serve(Manner { keys: Some(key_list(3, OURS)), ..good(2, OURS) });
    let race = Race::new(&[&stranger.url, &older.url]);
    let (found, _, sightings) = race.run(vec![Event::Up(uplink(None)), exhausted()]);
    assert_eq!(found.unwrap_err().exit(), Exit::NotTrusted);
    assert_eq!(sightings.all().keys_version, 4);
}

#[test]
fn without_an_uplink_the_network_says_why() {
    let mut uplinks = Uplinks::default();
    uplinks.sink()(exhausted());
    let error = uplinks.first(Deadline::after(Duration::from_secs(5))).unwrap_err();
    assert_eq!(error.exit(), Exit::NoNetwork);
    let error = Uplinks::default().first(Deadline::after(Duration::ZERO)).unwrap_err();
    assert_eq!(error.exit(), Exit::NoNetwork);
}

#[test]
fn the_deadline_ends_every_race() {
    let (_listener, hanging) = hanging();
    let mut race = Race::new(&[&hanging]);
    race.search.deadline = Deadline::after(Duration::from_secs(1));
    let (found, time, _) = race.run(vec![Event::Up(uplink(None))]);
    let error = found.unwrap_err();
    assert_eq!(error.exit(), Exit::NoProvider);
    assert!(!error.line().to_string().contains("with a manifest: ;"), "{}", error.line());
    assert!(time < Duration::from_secs(2), "{time:?}");
}
