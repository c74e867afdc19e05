//! Where to boot from: the sources of provider URLs on one uplink, in order of preference.
//!
//! `phase.provider=`, what DHCPv4 names (options 67 and 66), what DHCPv6 names (option 59), SRV and TXT
//! records of the uplink's domains, and on a LAN multicast DNS: proto/DISCOVERY.md. Whatever they name
//! is untrusted; only a manifest that the keys have signed boots from there.

mod boot_url;
mod dns;
mod mdns;
mod message;
mod offers;

use log::info;

use crate::arch::Arch;
use crate::config::Config;
use crate::error::printable;
use crate::net::{Lease, Uplink};
use crate::paths::Paths;

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
    Dhcp4,
    Dhcp6,
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

impl Source {
    /// The one that counts most comes first.
    pub(super) const ORDER: [Self; 5] = [Self::Given, Self::Dhcp4, Self::Dhcp6, Self::Dns, Self::Mdns];

    /// Whether `uplink` may still get what this source reads, if that is not all it gets.
    pub(super) fn awaits(self, uplink: &Uplink) -> bool {
        if uplink.complete {
            return false;
        }
        match self {
            Self::Given => false,
            Self::Dhcp4 => uplink.ipv4.is_none(),
            Self::Dhcp6 => uplink.ipv6.as_ref().is_none_or(|ipv6| ipv6.boot_url.is_none()),
            Self::Dns | Self::Mdns => false,
        }
    }

    /// Asks it on `uplink`. DNS and multicast DNS take seconds, and no longer.
    pub(super) fn ask(self, config: &Config, arch: Arch, uplink: &Uplink, paths: &Paths) -> Answer {
        let machine = Machine { channel: &config.channel, arch };
        match self {
            Self::Given if config.providers.is_empty() => Answer::NotAsked("phase.provider= names none"),
            Self::Given => Answer::Named {
                origin: "phase.provider= or --provider".to_owned(),
                providers: config.providers.clone(),
            },
            Self::Dhcp4 => dhcp4(uplink),
            Self::Dhcp6 => dhcp6(uplink),
            Self::Dns => dns::ask(machine, uplink, paths),
            Self::Mdns if !config.local => Answer::NotAsked("phase.mode=local is not set"),
            Self::Mdns => mdns::ask(machine, uplink),
        }
    }
}

fn dhcp4(uplink: &Uplink) -> Answer {
    let Some(lease) = &uplink.ipv4 else { return Answer::NotAsked("there is no DHCPv4 lease") };
    let server = lease.server.map(|server| format!(" of {server}")).unwrap_or_default();
    match boot_url(lease) {
        Some((url, option)) => named(&format!("DHCP {option}{server}"), &url),
        None => Answer::None("DHCPv4 names none".to_owned()),
    }
}

/// The http(s) URL of option 67 or 66, and which of them it is.
fn boot_url(_lease: &Lease) -> Option<(String, &'static str)> {
    None
}

fn dhcp6(uplink: &Uplink) -> Answer {
    let Some(ipv6) = &uplink.ipv6 else { return Answer::NotAsked("there is no DHCPv6") };
    let server = ipv6.server.map(|server| format!(" of {server}")).unwrap_or_default();
    match &ipv6.boot_url {
        Some(url) => named(&format!("DHCPv6 option 59{server}"), url),
        None => Answer::None("DHCPv6 names none".to_owned()),
    }
}

fn named(origin: &str, url: &str) -> Answer {
    if boot_url::is_usable(url) {
        Answer::Named { origin: origin.to_owned(), providers: vec![url.to_owned()] }
    } else {
        let reason = format!("{origin} names \"{}\", which is no provider", printable(url));
        info!("{reason}: it is passed over");
        Answer::None(reason)
    }
}
