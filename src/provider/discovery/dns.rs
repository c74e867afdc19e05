//! SRV and TXT records `_phase-image._tcp` of the uplink's domains, by libc's resolver.

use std::ffi::CString;
use std::fs;
use std::time::Duration;

use log::debug;

use super::message::{Kind, Record, records};
use super::{Answer, Machine, SERVICE, offers};
use crate::net::{Uplink, names};
use crate::paths::Paths;
use crate::patience;
use crate::sys::{random, resolver};

/// How long all questions may take, other uplinks' turns with the resolver included.
const BUDGET: Duration = Duration::from_secs(10);
const MOST_DOMAINS: usize = 4;

pub(super) fn ask(machine: Machine<'_>, uplink: &Uplink, paths: &Paths) -> Answer {
    let domains = domains(uplink, paths);
    if domains.is_empty() {
        return Answer::NotAsked("no domain is known");
    }
    let all = domains.join(", ");
    let (uplink, paths) = (uplink.clone(), paths.clone());
    // libc's resolver cannot be told when to stop.
    let looked_up = patience::within(BUDGET, move || {
        let _turn = names::for_uplink(&paths, &uplink);
        domains.into_iter().find_map(|domain| look_up(&domain).transpose().map(|found| (domain, found)))
    });
    match looked_up {
        None => Answer::None(format!("DNS does not answer for {all}")),
        Some(None) => Answer::None(format!("DNS names none in {all}")),
        Some(Some((domain, Err(resolver::NoAnswer)))) => {
            Answer::None(format!("DNS does not answer for {domain}"))
        }
        Some(Some((domain, Ok(records)))) => match offers::of_domain(&records, machine, up_to) {
            providers if providers.is_empty() => {
                Answer::None(format!("DNS names none for {} {} in {domain}", machine.channel, machine.arch))
            }
            providers => {
                Answer::Named { origin: format!("the DNS record SRV {SERVICE}.{domain}"), providers }
            }
        },
    }
}

/// The SRV and TXT records of one domain. None if it has no server.
fn look_up(domain: &str) -> Result<Option<Vec<Record>>, resolver::NoAnswer> {
    let name = format!("{SERVICE}.{domain}.");
    // What a name cannot hold is in no domain.
    let Ok(question) = CString::new(name) else { return Ok(None) };
    let servers = resolver::query(&question, Kind::Srv as u16);
    debug!("{}: {}", question.to_string_lossy(), if servers.is_ok() { "answered" } else { "no answer" });
    let Some(servers) = servers? else { return Ok(None) };
    let mut all = records(&servers);
    if all.is_empty() {
        return Ok(None);
    }
    // Without a TXT record, a server is as it usually is; without an answer, nobody knows how it is.
    if let Some(texts) = resolver::query(&question, Kind::Txt as u16)? {
        all.extend(records(&texts));
    }
    Ok(Some(all))
}

/// Those of the uplink, or if another init has brought it up, those of its resolv.conf(5).
fn domains(uplink: &Uplink, paths: &Paths) -> Vec<String> {
    let mut domains = uplink.search.clone();
    domains.extend(uplink.ipv4.as_ref().and_then(|lease| lease.domain.clone()));
    if domains.is_empty() {
        let text = fs::read_to_string(paths.resolv_conf()).unwrap_or_default();
        domains = of_resolv_conf(&text);
    }
    let mut kept: Vec<String> = Vec::new();
    for domain in domains {
        let domain = domain.trim_end_matches('.');
        if !domain.is_empty() && !kept.iter().any(|known| known.eq_ignore_ascii_case(domain)) {
            kept.push(domain.to_owned());
        }
    }
    kept.truncate(MOST_DOMAINS);
    kept
}

/// The last of `search` and `domain` counts.
fn of_resolv_conf(text: &str) -> Vec<String> {
    let mut lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        matches!(words.next()?, "search" | "domain").then(|| words.map(str::to_owned).collect())
    });
    lines.next_back().unwrap_or_default()
}

/// A number from 0 to `most`; 0 where the kernel has no random number at once.
fn up_to(most: u32) -> u32 {
    let mut bytes = [0; 8];
    random::fill_insecure(&mut bytes);
    let number = u64::from_ne_bytes(bytes) % (u64::from(most) + 1);
    u32::try_from(number).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_the_uplinks_or_the_systems() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(paths.resolv_conf(), "domain a\nsearch b.example c.example # x\nnameserver 10.0.0.1\n")
            .unwrap();
        let search = ["lab.example.org.", "LAB.example.org", "", ".", "1", "2", "3", "4"];
        let uplink = Uplink { search: search.map(str::to_owned).into(), ..Uplink::default() };
        assert_eq!(domains(&uplink, &paths), ["lab.example.org", "1", "2", "3"]);
        assert_eq!(domains(&Uplink::default(), &paths)[..2], ["b.example", "c.example"]);
        assert_eq!(domains(&Uplink::default(), &Paths::under("/nonexistent")), [""; 0]);
    }
}
