//! Why there is no network, from what became of each link. Pure.

use std::time::Duration;

use super::Error;

/// The most fitting error. `links` are names and what became of them, `missing` what was asked for and is
/// not there, `seen` the names of all devices.
pub(super) fn failure(
    mut links: Vec<(String, String)>,
    missing: Vec<String>,
    had_carrier: bool,
    waited: Duration,
    seen: &[&str],
) -> Error {
    if links.is_empty() {
        let seen = seen.join(", ");
        return match missing.is_empty() {
            false => Error::NoSuchLink { name: missing.join(", "), waited, seen },
            true => Error::NoLink { waited, seen },
        };
    }
    links.extend(missing.into_iter().map(|name| (name, "there is no such link".to_owned())));
    let told: Vec<String> =
        grouped(links).into_iter().map(|(names, story)| format!("{names}: {story}")).collect();
    let links = told.join("; ");
    if had_carrier { Error::NoLease { links } } else { Error::NoCarrier { links } }
}

/// Links of the same fate share a line: a machine has sixteen ports, and one cable.
fn grouped(links: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, story) in links {
        match found.iter_mut().find(|(_, known)| *known == story) {
            Some((names, _)) => {
                names.push_str(", ");
                names.push_str(&name);
            }
            None => found.push((name, story)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(links: &[(&str, &str)], had_carrier: bool) -> Error {
        let links = links.iter().map(|(name, story)| ((*name).to_owned(), (*story).to_owned())).collect();
        failure(links, Vec::new(), had_carrier, Duration::from_secs(15), &["lo"])
    }

    #[test]
    fn one_line_tells_of_every_link() {
        let error = line(&[("eth0", "no carrier"), ("eth1", "no answer"), ("eth2", "no carrier")], true);
        assert_eq!(error.to_string(), "eth0, eth2: no carrier; eth1: no answer");
        assert!(matches!(error, Error::NoLease { .. }));
        assert!(matches!(line(&[("eth0", "no carrier")], false), Error::NoCarrier { .. }));
        assert_eq!(line(&[], false).to_string(), "no network link found in 15 s, only lo");
        let missing = || vec!["eth7".to_owned()];
        let error = failure(Vec::new(), missing(), false, Duration::from_secs(1), &["lo", "eth0"]);
        assert_eq!(error.to_string(), "no network link \"eth7\" in 1 s, only lo, eth0");
        let links = vec![("eth0".to_owned(), "no carrier".to_owned())];
        let error = failure(links, missing(), false, Duration::from_secs(1), &[]);
        assert_eq!(error.to_string(), "eth0: no carrier; eth7: there is no such link");
    }
}
