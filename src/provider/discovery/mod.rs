//! Where to boot from: the sources of provider URLs on one uplink, in order of preference.
//!
//! `phase.provider=`, what DHCPv4 names (options 67 and 66), what DHCPv6 names (option 59), SRV and TXT
//! records of the uplink's domains, and on a LAN multicast DNS: proto/DISCOVERY.md. Whatever they name
//! is untrusted; only a manifest that the keys have signed boots from there.

mod dns;
mod mdns;
mod message;
mod offers;
mod sockets;

use log::{Level, log};

use super::race::Search;
use super::url;
use crate::arch::Arch;
use crate::config::Config;
use crate::error::printable;
use crate::net::{Lease, Uplink, boot_url};

/// The service that providers announce themselves as.
const SERVICE: &str = "_phase-image._tcp";

/// What a provider has to serve to be of use here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    pub(super) channel: &'a str,
    pub(super) arch: Arch,
}

/// Who may name providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The kernel command line, or the command's arguments.
    Given,
    /// Option 67 of DHCPv4.
    BootFile,
    /// Option 66 of DHCPv4.
    BootServer,
    /// Option 59 of DHCPv6.
    BootUrl,
    Dns,
    Mdns,
}

/// What a source says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These providers, in order of preference. `origin` ends the sentence "provider URL from".
    Named { origin: String, providers: Vec<String> },
    /// It was asked and names none; the reason ends a line.
    None(String),
    /// It cannot be asked on this uplink, or is not to be.
    NotAsked(&'static str),
}

/// Who is asked, the one that counts most first. What is given is final: whoever could keep a machine
/// from the provider that somebody chose would otherwise choose the next one.
pub(super) fn sources(config: &Config) -> &'static [Source] {
    if config.providers.is_empty() {
        &[Source::BootFile, Source::BootServer, Source::BootUrl, Source::Dns, Source::Mdns]
    } else {
        &[Source::Given]
    }
}

impl Source {
    /// Whether `uplink` may still get what this source reads.
    pub(super) fn awaits(self, uplink: &Uplink) -> bool {
        !uplink.complete
            && match self {
                Self::Given => false,
                Self::BootFile | Self::BootServer => uplink.ipv4.is_none(),
                Self::BootUrl => uplink.ipv6.as_ref().is_none_or(|ipv6| ipv6.boot_url.is_none()),
                Self::Dns => uplink.dns.is_empty() || uplink.search.is_empty(),
                Self::Mdns => false,
            }
    }

    /// Asks it on `uplink`. DNS and multicast DNS take seconds, and no longer. Where it is asked for the
    /// first time, a line says what is passed over.
    pub(super) fn ask(self, search: &Search, uplink: &Uplink, is_first: bool) -> Answer {
        let (config, policy) = (&search.config, search.trust.policy());
        let machine = Machine { channel: &config.channel, arch: search.arch };
        let answer = match self {
            Self::Given => {
                let origin = "phase.provider= or --provider".to_owned();
                return Answer::Named { origin, providers: config.providers.clone() };
            }
            Self::BootFile => option(uplink, "option 67", |lease| lease.boot_file.as_ref()),
            Self::BootServer => option(uplink, "option 66", |lease| lease.boot_server.as_ref()),
            Self::BootUrl => option_59(uplink),
            Self::Dns => dns::ask(machine, uplink, &search.paths),
            Self::Mdns if !config.local => Answer::NotAsked("phase.mode=local is not set"),
            Self::Mdns if !policy.may_set("phase.mode") => {
                Answer::NotAsked("the policy does not let phase.mode ask for mDNS")
            }
            Self::Mdns => mdns::ask(machine, uplink),
        };
        let level = if is_first { Level::Info } else { Level::Debug };
        usable(answer, uplink, search.trust.tls().names_servers(), level)
    }
}

fn option(uplink: &Uplink, name: &str, of: impl Fn(&Lease) -> Option<&String>) -> Answer {
    let Some(lease) = &uplink.ipv4 else { return Answer::NotAsked("there is no DHCPv4 lease") };
    let server = lease.server.map(|server| format!(" of {server}")).unwrap_or_default();
    match of(lease) {
        Some(url) => Answer::Named { origin: format!("DHCP {name}{server}"), providers: vec![url.clone()] },
        None => Answer::None(format!("DHCP {name} names none")),
    }
}

fn option_59(uplink: &Uplink) -> Answer {
    let Some(ipv6) = &uplink.ipv6 else { return Answer::NotAsked("there is no DHCPv6") };
    let server = ipv6.server.map(|server| format!(" of {server}")).unwrap_or_default();
    match &ipv6.boot_url {
        Some(url) => {
            Answer::Named { origin: format!("DHCPv6 option 59{server}"), providers: vec![url.clone()] }
        }
        None => Answer::None("DHCPv6 option 59 names none".to_owned()),
    }
}

/// Without what no provider is to be looked for at.
fn usable(answer: Answer, uplink: &Uplink, https_only: bool, level: Level) -> Answer {
    let Answer::Named { origin, mut providers } = answer else { return answer };
    let mut reason = None;
    providers.retain(|text| {
        let checked = match boot_url::check(text, uplink) {
            Ok(()) if https_only && !url::is_https(text) => Err("is not https, which the policy wants"),
            checked => checked,
        };
        if let Err(why) = checked {
            let said = format!("{origin} names {}, which {why}", printable(text));
            log!(level, "{said}: it is passed over");
            reason = Some(said);
        }
        checked.is_ok()
    });
    match reason {
        Some(reason) if providers.is_empty() => Answer::None(reason),
        _ => Answer::Named { origin, providers },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Ipv6;

    #[test]
    fn what_is_given_is_final() {
        let mut config = Config::default();
        assert_eq!(sources(&config).len(), 5);
        assert_eq!((sources(&config)[0], sources(&config)[4]), (Source::BootFile, Source::Mdns));
        config.providers.push("http://a/".to_owned());
        assert_eq!(sources(&config), [Source::Given]);
    }

    #[test]
    fn what_a_network_names_is_checked() {
        let uplink = |url: &str| {
            let ipv6 = Ipv6 {
                boot_url: Some(url.to_owned()),
                server: Some("fe80::1".parse().unwrap()),
                ..Ipv6::default()
            };
            Uplink { ipv6: Some(ipv6), ..Uplink::default() }
        };
        let answer =
            |url: &str, https_only| usable(option_59(&uplink(url)), &uplink(url), https_only, Level::Info);
        let origin = "DHCPv6 option 59 of fe80::1".to_owned();
        let named = |url: &str| Answer::Named { origin: origin.clone(), providers: vec![url.to_owned()] };
        assert_eq!(answer("http://a/", false), named("http://a/"));
        assert_eq!(answer("https://a/", true), named("https://a/"));
        for (url, https_only, words) in [
            ("http://a/", true, "is not https"),
            ("http://a/x.efi", false, "boot loader"),
            ("x", false, "URL"),
        ] {
            let Answer::None(reason) = answer(url, https_only) else { panic!("{url}") };
            assert!(reason.starts_with(&origin) && reason.contains(words), "{reason}");
        }
        assert_eq!(option_59(&Uplink::default()), Answer::NotAsked("there is no DHCPv6"));
    }
}
