//! The end-to-end scenarios of the network: cards and cables, leases and addresses, servers that are faulty.

mod addresses;
mod links;
mod servers;

use crate::arch::Arch;
use crate::kernels::Id;
use crate::machine::{Machine, Nic};
use crate::scenarios::{Check, Expect, RELEASE, Scenario, Step};
use crate::wire::{Lan, Manners, Port};

pub(crate) use links::MANY;

const X86: Id = Id::Debian61(Arch::X86_64);
const ARM: Id = Id::Debian61(Arch::Aarch64);

pub(crate) fn all() -> Vec<Scenario> {
    [links::all(), addresses::all(), servers::all()].into_iter().flatten().collect()
}

/// The release boots, and all of this holds.
fn boots(checks: &'static [Check]) -> Step {
    Step { publish: RELEASE, ..Step::new(Expect::Boots(checks)) }
}

/// The same, with this on the command line.
fn boots_with(cmdline: &'static str, checks: &'static [Check]) -> Step {
    Step { cmdline, ..boots(checks) }
}

/// It fails with this exit code, and the line says this.
fn fails(code: u8, says: &'static str) -> Step {
    Step { publish: RELEASE, ..Step::new(Expect::Fails { code, says }) }
}

/// A machine with these network cards.
fn cards(kernel: Id, nics: &'static [Nic]) -> Machine {
    Machine { nics, ..Machine::new(kernel.arch()) }
}

/// One card on the lab's own network, where dnsmasq runs with these arguments.
fn wired(name: &'static str, kernel: Id, dnsmasq: &'static [&'static str], step: Step) -> Scenario {
    const ONE: &[Nic] = &[Nic::Wire(Port::USUAL)];
    Scenario {
        machine: cards(kernel, ONE),
        lan: Some(Lan { dnsmasq: Some(dnsmasq), dhcp: Vec::new() }),
        ..Scenario::new(name, kernel, vec![step])
    }
}

/// The same, where these DHCP servers are.
fn leased(name: &'static str, dhcp: Vec<Manners>, step: Step) -> Scenario {
    Scenario { lan: Some(Lan { dnsmasq: None, dhcp }), ..wired(name, X86, &[], step) }
}

/// dnsmasq's arguments for plain DHCP.
const DHCP: &[&str] = &[DHCP_RANGE];
const DHCP_RANGE: &str = "--dhcp-range=10.77.0.50,10.77.0.99,255.255.255.0,1h";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::What;
    use crate::scenarios::Serve;

    #[test]
    fn cards_are_where_their_network_is() {
        for scenario in all() {
            let name = scenario.name;
            let nics = scenario.machine.nics;
            assert_eq!(nics.iter().any(|nic| nic.port().is_some()), scenario.lan.is_some(), "{name}");
            let later = nics.contains(&Nic::Later);
            assert!(!later || scenario.machine.arch == Arch::X86_64, "{name}");
            for event in scenario.machine.events {
                let (What::Plug(nic) | What::Unplug(nic) | What::Insert(nic)) = event.what;
                assert!(nic < nics.len(), "{name}");
            }
        }
    }

    #[test]
    fn what_is_sent_again_is_counted_by_a_server_that_counts() {
        let counts = |check: &Check| matches!(check, Check::SentAgain { .. });
        for scenario in all() {
            let asked = scenario.steps.iter().any(|step| match step.expect {
                Expect::Boots(checks) => checks.iter().any(counts),
                Expect::Fails { .. } | Expect::Stops(_) => false,
            });
            assert!(!asked || matches!(scenario.serve, Serve::Faulty(_)), "{}", scenario.name);
        }
    }
}
