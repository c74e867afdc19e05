//! What DNS records announce: the TXT keys, which servers are meant for this machine, and in which
//! order they are asked: proto/DISCOVERY.md. Pure.

use std::mem::discriminant;
use std::net::IpAddr;

use super::Machine;
use super::message::{Data, Kind, Name, Record, Srv, Standing};
use crate::arch::Arch;

/// More providers than this are not asked.
pub(super) const MOST: usize = 8;
/// Instances of a service on a LAN that are looked at.
const MOST_INSTANCES: usize = 32;
/// What a noisy LAN may make us keep.
const MOST_RECORDS: usize = 1000;

/// The strings of one TXT record: RFC 6763, section 6.
type Strings = Vec<Vec<u8>>;

/// The value of a key, the first if there are several; keys are compared without case.
fn value<'a>(strings: &'a Strings, key: &str) -> Option<&'a str> {
    strings.iter().find_map(|string| {
        let (name, value) = std::str::from_utf8(string).ok()?.split_once('=')?;
        name.eq_ignore_ascii_case(key).then_some(value)
    })
}

/// Whether a server is for this machine. What it does not say it has nothing against.
fn fits(strings: &Strings, machine: Machine<'_>) -> bool {
    value(strings, "channel").is_none_or(|channel| channel == machine.channel)
        && value(strings, "arch")
            .is_none_or(|arch| arch.parse::<Arch>().is_ok_and(|arch| arch == machine.arch))
}

/// The provider URLs that a domain announces in its SRV and TXT records. A TXT record that is for
/// other machines does not count; if that leaves none, neither do the servers.
pub(super) fn of_domain(
    records: &[Record],
    machine: Machine<'_>,
    random: impl FnMut(u32) -> u32,
) -> Vec<String> {
    let texts: Vec<&Strings> = records.iter().filter_map(|record| record.data.as_txt()).collect();
    let nothing_said = Strings::new();
    let mut texts = if texts.is_empty() { vec![&nothing_said] } else { texts };
    texts.retain(|text| fits(text, machine));
    // Their order in an answer means nothing.
    texts.sort();
    let servers = records.iter().filter_map(|record| record.data.as_srv()).cloned().collect();
    let servers = in_order(servers, random);
    let urls = texts.iter().flat_map(|text| servers.iter().filter_map(|server| url_of(server, text)));
    urls.take(MOST).collect()
}

fn url_of(server: &Srv, text: &Strings) -> Option<String> {
    let scheme = value(text, "proto").unwrap_or("http");
    let path = value(text, "path").unwrap_or("/");
    if !matches!(scheme, "http" | "https") || !path.starts_with('/') {
        return None;
    }
    Some(format!("{scheme}://{}:{}{path}", server.target.as_host()?, server.port))
}

/// By priority, and within one at random, each as often as its weight says: RFC 2782. `random` gives a
/// number from 0 up to and including the one it is given.
fn in_order(mut servers: Vec<Srv>, mut random: impl FnMut(u32) -> u32) -> Vec<Srv> {
    // Those without weight come first, so that they have a small chance.
    servers.sort_by_key(|server| (server.priority, server.weight));
    let mut ordered = Vec::with_capacity(servers.len());
    while let Some(priority) = servers.first().map(|server| server.priority) {
        let equals = servers.iter().take_while(|server| server.priority == priority);
        let total = equals.clone().map(|server| u32::from(server.weight)).sum();
        let (mut sum, limit) = (0, random(total));
        let chosen = equals.clone().position(|server| {
            sum += u32::from(server.weight);
            sum >= limit
        });
        ordered.push(servers.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// Adds what one message says to what was heard before it, the latest last.
pub(super) fn hear(known: &mut Vec<Record>, heard: Vec<Record>) {
    for new in &heard {
        let replaces = |old: &Record| {
            new.name == old.name
                && (new.data == old.data
                    || (new.standing == Standing::Instead
                        && discriminant(&new.data) == discriminant(&old.data)))
        };
        while let Some(at) = known.iter().position(replaces) {
            known.remove(at);
        }
    }
    for record in heard {
        if record.standing != Standing::Gone && known.len() < MOST_RECORDS {
            known.push(record);
        }
    }
}

/// What of a LAN's announcements is there, and what is still to be asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// Provider URLs, the highest version first.
    pub(super) urls: Vec<String>,
    pub(super) missing: Vec<(Name, Kind)>,
}

/// The instances of `service` among `records` that are for this machine.
pub(super) fn of_lan(service: &Name, records: &[Record], machine: Machine<'_>) -> Announced {
    let mut instances: Vec<&Name> = Vec::new();
    for record in records.iter().filter(|record| record.name == *service) {
        if let Data::Ptr(instance) = &record.data
            && !instances.contains(&instance)
            && instances.len() < MOST_INSTANCES
        {
            instances.push(instance);
        }
    }
    let mut announced = Announced::default();
    let mut offers = Vec::new();
    for instance in instances {
        let Some(text) = of(records, instance).find_map(Data::as_txt) else {
            announced.missing.push((instance.clone(), Kind::Txt));
            continue;
        };
        if !fits(text, machine) {
            continue;
        }
        let Some(server) = of(records, instance).find_map(Data::as_srv) else {
            announced.missing.push((instance.clone(), Kind::Srv));
            continue;
        };
        let mut addresses: Vec<IpAddr> = of(records, &server.target).filter_map(Data::address).collect();
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            announced.missing.push((server.target.clone(), Kind::A));
            announced.missing.push((server.target.clone(), Kind::Aaaa));
        }
        let port = value(text, "http_port").and_then(|port| port.parse().ok()).unwrap_or(server.port);
        let version = version(value(text, "version").unwrap_or_default());
        offers.extend(addresses.into_iter().map(|address| (version.clone(), address, port)));
    }
    offers.sort_by(|(a, ..), (b, ..)| b.cmp(a));
    let url = |(_, address, port)| match address {
        IpAddr::V4(address) => format!("http://{address}:{port}/"),
        IpAddr::V6(address) => format!("http://[{address}]:{port}/"),
    };
    announced.urls = offers.into_iter().map(url).take(MOST).collect();
    announced
}

/// What is said of `name`, the latest first.
fn of<'a>(records: &'a [Record], name: &'a Name) -> impl Iterator<Item = &'a Data> {
    records.iter().rev().filter(move |record| record.name == *name).map(|record| &record.data)
}

/// The numbers of a version, so that 0.10 is higher than 0.9.
fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).take(8).collect()
}

impl Data {
    fn as_txt(&self) -> Option<&Strings> {
        if let Self::Txt(strings) = self { Some(strings) } else { None }
    }

    fn as_srv(&self) -> Option<&Srv> {
        if let Self::Srv(server) = self { Some(server) } else { None }
    }

    /// An address that a URL can hold: none of those that hold on one link alone.
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::A(address) => Some((*address).into()),
            Self::Aaaa(address) if !address.is_unicast_link_local() => Some((*address).into()),
            Self::Aaaa(_) | Self::Ptr(_) | Self::Srv(_) | Self::Txt(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const MACHINE: Machine<'_> = Machine { channel: "stable", arch: Arch::Aarch64 };

    fn named(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn record(name: &str, data: Data) -> Record {
        Record { name: named(name), data, standing: Standing::Beside }
    }

    fn text(name: &str, strings: &[&str]) -> Record {
        record(name, Data::Txt(strings.iter().map(|string| string.as_bytes().to_vec()).collect()))
    }

    fn server(name: &str, priority: u16, weight: u16, port: u16, target: &str) -> Record {
        record(name, Data::Srv(Srv { priority, weight, port, target: named(target) }))
    }

    #[test]
    fn a_domain_names_its_servers_by_priority() {
        let mut records = vec![server("s", 20, 0, 80, "b.lab"), server("s", 10, 0, 8080, "a.lab")];
        let urls = |records: &[Record]| of_domain(records, MACHINE, |_| 0);
        assert_eq!(urls(&records), ["http://a.lab:8080/", "http://b.lab:80/"]);
        records.push(text("s", &["arch=x86_64", "path=/x86/"]));
        assert_eq!(urls(&records), [""; 0]);
        records.push(text("s", &["Arch=aarch64", "channel=stable", "path=/arm/", "proto=https"]));
        assert_eq!(urls(&records), ["https://a.lab:8080/arm/", "https://b.lab:80/arm/"]);
    }

    #[test]
    fn what_cannot_be_followed_names_nothing() {
        for strings in [["channel=beta"], ["arch=riscv64"], ["proto=tftp"], ["path=x"]] {
            let records = [server("s", 0, 0, 80, "a.lab"), text("s", &strings)];
            assert_eq!(of_domain(&records, MACHINE, |_| 0), [""; 0], "{strings:?}");
        }
        // A service that is decidedly not available: RFC 2782.
        let root = Srv { priority: 0, weight: 0, port: 0, target: Name::root() };
        assert_eq!(of_domain(&[record("s", Data::Srv(root))], MACHINE, |_| 0), [""; 0]);
    }

    #[test]
    fn weights_are_chances() {
        let servers = |random: fn(u32) -> u32| {
            let of = |weight| Srv { priority: 1, weight, port: weight, target: named("a") };
            in_order(vec![of(60), of(0), of(40)], random).iter().map(|s| s.port).collect::<Vec<_>>()
        };
        assert_eq!(servers(|_| 0), [0, 40, 60]);
        assert_eq!(servers(|most| most), [60, 40, 0]);
        assert_eq!(servers(|most| most.min(40)), [40, 60, 0]);
    }

    #[test]
    fn a_lan_names_the_highest_version_first() {
        const SERVICE: &str = "_phase-image._tcp.local";
        let mut records = Vec::new();
        let mut announce = |n: u8, strings: &[&str]| {
            let (instance, host) = (format!("plasmd-{n}.{SERVICE}"), format!("h{n}.local"));
            records.push(record(SERVICE, Data::Ptr(named(&instance))));
            records.push(server(&instance, 0, 0, 80, &host));
            records.push(text(&instance, strings));
            records.push(record(&host, Data::A(Ipv4Addr::new(10, 0, 0, n))));
        };
        announce(1, &["channel=stable", "arch=arm64", "version=0.9.1", "http_port=8080"]);
        announce(2, &["channel=stable", "arch=aarch64", "version=0.10.0", "http_port=8081"]);
        announce(3, &["channel=beta", "arch=arm64", "version=9", "http_port=8082"]);
        announce(4, &["channel=stable", "arch=x86_64", "version=9", "http_port=8083"]);
        announce(5, &["channel=stable", "arch=arm64", "http_port=none"]);
        let found = of_lan(&named(SERVICE), &records, MACHINE);
        assert_eq!(found.urls, ["http://10.0.0.2:8081/", "http://10.0.0.1:8080/", "http://10.0.0.5:80/"]);
        assert_eq!(found.missing, []);
    }

    #[test]
    fn what_an_announcement_leaves_out_is_asked_for() {
        const SERVICE: &str = "_phase-image._tcp.local";
        let instance = format!("p.{SERVICE}");
        let mut records = vec![record(SERVICE, Data::Ptr(named(&instance)))];
        let missing = |records: &[Record]| of_lan(&named(SERVICE), records, MACHINE).missing;
        assert_eq!(missing(&records), [(named(&instance), Kind::Txt)]);
        records.push(text(&instance, &[]));
        assert_eq!(missing(&records), [(named(&instance), Kind::Srv)]);
        records.push(server(&instance, 0, 0, 80, "h.local"));
        assert_eq!(missing(&records), [(named("h.local"), Kind::A), (named("h.local"), Kind::Aaaa)]);
        records.push(record("h.local", Data::Aaaa("fe80::1".parse().unwrap())));
        assert_eq!(missing(&records).len(), 2);
        records.push(record("h.local", Data::Aaaa("fd00::1".parse().unwrap())));
        assert_eq!(of_lan(&named(SERVICE), &records, MACHINE).urls, ["http://[fd00::1]:80/"]);
    }

    /// One provider, as a message has it.
    fn announced(n: u8, port: u16, standing: Standing) -> Vec<Record> {
        const SERVICE: &str = "_phase-image._tcp.local";
        let (instance, host) = (format!("plasmd-{n}.{SERVICE}"), format!("h{n}.local"));
        let pointer = match standing {
            Standing::Gone => Standing::Gone,
            _ => Standing::Beside,
        };
        let record = |name: &str, data, standing| Record { name: named(name), data, standing };
        let server = Srv { priority: 0, weight: 0, port, target: named(&host) };
        let text = vec![format!("http_port={port}").into_bytes()];
        vec![
            record(SERVICE, Data::Ptr(named(&instance)), pointer),
            record(&instance, Data::Srv(server), standing),
            record(&instance, Data::Txt(text), standing),
            record(&host, Data::A(Ipv4Addr::new(10, 0, 0, n)), standing),
        ]
    }

    /// What is left of these messages.
    fn heard(messages: impl IntoIterator<Item = Vec<Record>>) -> Vec<String> {
        let mut known = Vec::new();
        messages.into_iter().for_each(|message| hear(&mut known, message));
        of_lan(&named("_phase-image._tcp.local"), &known, MACHINE).urls
    }

    #[test]
    fn who_says_goodbye_is_gone() {
        use Standing::{Beside, Gone, Instead};
        let there = || announced(1, 80, Instead);
        assert_eq!(heard([there()]), ["http://10.0.0.1:80/"]);
        assert_eq!(heard([announced(1, 80, Gone)]), [""; 0]);
        assert_eq!(heard([there(), announced(1, 80, Gone)]), [""; 0]);
        assert_eq!(
            heard([there(), announced(1, 80, Gone).drain(..1).collect()]),
            [""; 0],
            "one record will do"
        );
        assert_eq!(heard([there(), announced(1, 80, Gone), there()]), ["http://10.0.0.1:80/"]);
        // Others stay, and what was never said cannot be taken back.
        let other = || announced(2, 80, Beside);
        assert_eq!(heard([other(), there(), announced(1, 80, Gone)]), ["http://10.0.0.2:80/"]);
        assert_eq!(heard([other(), announced(2, 81, Gone).drain(1..3).collect()]), ["http://10.0.0.2:80/"]);
    }

    #[test]
    fn who_comes_back_on_another_port_is_asked_there() {
        use Standing::{Beside, Gone, Instead};
        let after = ["http://10.0.0.1:81/"];
        assert_eq!(heard([announced(1, 80, Instead), announced(1, 81, Instead)]), after);
        assert_eq!(
            heard([announced(1, 80, Instead), announced(1, 80, Gone), announced(1, 81, Instead)]),
            after
        );
        // A goodbye that comes late is one to the old port.
        let late = announced(1, 80, Gone).drain(1..3).collect();
        assert_eq!(heard([announced(1, 80, Instead), announced(1, 81, Instead), late]), after);
        // Who answers us alone sets no flag: RFC 6762, section 6.7.
        assert_eq!(heard([announced(1, 80, Beside), announced(1, 81, Beside)]), after);
    }

    #[test]
    fn what_replaces_leaves_its_own_message_and_other_names_alone() {
        let both = || {
            let mut both = announced(1, 80, Standing::Instead);
            let other = Data::A(Ipv4Addr::new(10, 0, 1, 1));
            both.push(Record { name: named("h1.local"), data: other, standing: Standing::Instead });
            both
        };
        assert_eq!(heard([both(), both()]), ["http://10.0.0.1:80/", "http://10.0.1.1:80/"]);
        assert_eq!(heard([both(), announced(1, 80, Standing::Instead)]), ["http://10.0.0.1:80/"]);
        assert_eq!(heard([both(), announced(2, 80, Standing::Instead)]).len(), 3);
    }

    #[test]
    fn a_noisy_lan_fills_no_memory() {
        let mut known = Vec::new();
        for n in 0..=255 {
            for port in 0..8 {
                hear(&mut known, announced(n, port, Standing::Beside));
            }
        }
        assert_eq!(known.len(), MOST_RECORDS);
    }

    proptest! {
        #[test]
        fn every_server_is_kept_once(
            servers in prop::collection::vec((0u16..3, any::<u16>()), 0..20),
            seed in any::<u32>(),
        ) {
            let all: Vec<Srv> = servers
                .iter()
                .zip(0u16..)
                .map(|(&(priority, weight), port)| Srv { priority, weight, port, target: named("a") })
                .collect();
            let ordered = in_order(all, |most| seed % (most + 1));
            prop_assert!(ordered.is_sorted_by_key(|server| server.priority));
            let mut ports: Vec<u16> = ordered.iter().map(|server| server.port).collect();
            ports.sort_unstable();
            prop_assert!(ports.into_iter().eq((0u16..).take(servers.len())));
        }
    }
}
