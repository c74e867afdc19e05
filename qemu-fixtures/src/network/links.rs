//! Which of the links it is: many cards, late ones, blocked ports, VLANs and bonds.

use super::{ARM, DHCP, DHCP_RANGE, X86, boots, boots_with, cards, wired};
use crate::faulty::Fault;
use crate::kernels::Id;
use crate::machine::{Machine, Nic};
use crate::qmp::{Event, What, When};
use crate::scenarios::Serve;
use crate::scenarios::{Check, Scenario};
use crate::wire::{self, Lan, Manners, Port, Protocol, SERVERS_VLAN, SpanningTree, Tagging};

const TRUNK: Port = Port { tagging: Tagging::Trunk(&[7, SERVERS_VLAN]), ..Port::USUAL };
const LEASES_ONLY: Port = Port { only_dhcp: true, ..Port::USUAL };
const OTHER_VLAN: Port = Port { tagging: Tagging::Access(7), ..Port::USUAL };
const MEMBER: Port = Port { aggregated: true, ..Port::USUAL };

/// Sixteen cards, one of which works.
pub(crate) const MANY: &str = "sixteen-nics";

pub(super) fn all() -> Vec<Scenario> {
    [many(), late(), stacked()].into_iter().flatten().collect()
}

fn many() -> Vec<Scenario> {
    use Nic::{Dead, User, Wire};
    const FOUR: &[Nic] = &[Dead, Dead, Wire(Port::USUAL), Dead];
    /// The twelfth works; the last four have no cable.
    const SIXTEEN: &[Nic] =
        &[Dead, Dead, Dead, Dead, Dead, Dead, Dead, Dead, Dead, Dead, Dead, User, Dead, Dead, Dead, Dead];
    const UNPLUGGED: &[Event] = &[
        Event { when: When::Start, what: What::Unplug(12) },
        Event { when: When::Start, what: What::Unplug(13) },
        Event { when: When::Start, what: What::Unplug(14) },
        Event { when: When::Start, what: What::Unplug(15) },
    ];
    // Two cards on one network, of which one gets no further than a lease.
    const FIRST_USELESS: &[Nic] = &[Wire(LEASES_ONLY), Wire(Port::USUAL)];
    const SECOND_USELESS: &[Nic] = &[Wire(Port::USUAL), Wire(LEASES_ONLY)];
    // Two networks with the same addresses: on the first nobody answers.
    const ELSEWHERE: &[Nic] = &[Wire(OTHER_VLAN), Wire(Port::USUAL)];
    const IN_TIME: &[Check] = &[Check::TriedAgain(0), Check::ExecWithin(45)];
    let two = |name, nics, dnsmasq| Scenario {
        machine: cards(X86, nics),
        ..wired(name, X86, dnsmasq, boots(IN_TIME))
    };
    const NO_CABLE: &[Event] = &[Event { when: When::Start, what: What::Unplug(0) }];
    const SECOND_USER: &[Nic] = &[Dead, User];
    vec![
        two("two-nics-first-useless", FIRST_USELESS, DHCP),
        two("two-nics-second-useless", SECOND_USELESS, DHCP),
        Scenario {
            lan: Some(Lan {
                dnsmasq: Some(&[DHCP_RANGE, "--host-record=provider.lab.test,10.77.0.1"]),
                dhcp: vec![Manners { vlan: 7, ..Manners::GOOD }],
            }),
            provider: Some("http://provider.lab.test:{port}"),
            ..two("two-networks-same-addresses", ELSEWHERE, DHCP)
        },
        // While there is hope for the card without a cable, a provider that comes back is found at once.
        Scenario {
            machine: Machine { events: NO_CABLE, ..cards(X86, SECOND_USER) },
            serve: Serve::Faulty(&[("manifest", Fault::AwayFor(6))]),
            ..Scenario::new(
                "provider-comes-back",
                X86,
                vec![boots(&[Check::TriedAgain(0), Check::ExecWithin(18)])],
            )
        },
        Scenario {
            machine: cards(X86, FOUR),
            ..wired("four-nics", X86, DHCP, boots(&[Check::Lease("eth2"), Check::ExecWithin(30)]))
        },
        Scenario {
            machine: Machine { events: UNPLUGGED, ..cards(X86, SIXTEEN) },
            timed: true,
            // One card has a lease after a third of a second; in turn, each of those before would cost a retry.
            ..Scenario::new(
                MANY,
                X86,
                vec![boots_with("phase.debug", &[Check::Lease("eth11"), Check::LeaseWithin(3000)])],
            )
        },
        // What the sixteen are compared with, and told in the same words.
        Scenario {
            timed: true,
            ..Scenario::new(
                "one-for-sixteen-nics",
                X86,
                vec![boots_with("phase.debug", &[Check::LeaseWithin(2000)])],
            )
        },
    ]
}

fn late() -> Vec<Scenario> {
    const PLUGGED_LATE: &[Event] = &[
        Event { when: When::Start, what: What::Unplug(0) },
        Event { when: When::After(8), what: What::Plug(0) },
    ];
    const INSERTED_LATE: &[Event] = &[Event { when: When::After(8), what: What::Insert(0) }];
    const LATER: &[Nic] = &[Nic::Later];
    const LEASED: &[Check] = &[Check::Lease("eth0"), Check::TriedAgain(0)];
    let late_link = |kernel: Id| Scenario {
        machine: Machine { events: PLUGGED_LATE, ..Machine::new(kernel.arch()) },
        ..Scenario::new("late-link", kernel, vec![boots(LEASED)])
    };
    let blocked = |name, nics, forwards: &'static [Check]| Scenario {
        machine: cards(X86, nics),
        ..wired(name, X86, DHCP, boots(forwards))
    };
    // Longer than an answer is waited for on a port that forwards, and as long as the standard has it.
    const STP: &[Nic] = &[blocked_by(Protocol::Stp, 30)];
    const RSTP: &[Nic] = &[blocked_by(Protocol::Rstp, 10)];
    const LATE: &[Check] = &[
        Check::Log(wire::JOURNAL, "port 0: forwards after 30 s"),
        Check::TriedAgain(0),
        Check::ExecWithin(65),
    ];
    const FORWARDS: &[Check] = &[
        Check::Log(wire::JOURNAL, "port 0: forwards after 10 s"),
        Check::TriedAgain(0),
        Check::ExecWithin(45),
    ];
    vec![
        late_link(X86),
        late_link(ARM),
        Scenario {
            machine: Machine { events: INSERTED_LATE, ..cards(X86, LATER) },
            ..Scenario::new("late-nic", X86, vec![boots(LEASED)])
        },
        blocked("blocked-by-stp", STP, LATE),
        blocked("blocked-by-rstp", RSTP, FORWARDS),
    ]
}

const fn blocked_by(protocol: Protocol, blocks: u64) -> Nic {
    Nic::Wire(Port { spanning_tree: Some(SpanningTree { protocol, blocks }), ..Port::USUAL })
}

/// Links on links.
fn stacked() -> Vec<Scenario> {
    const TRUNKED: &[Nic] = &[Nic::Wire(TRUNK)];
    const TWO: &[Nic] = &[Nic::Wire(Port::USUAL), Nic::Wire(Port::USUAL)];
    const MEMBERS: &[Nic] = &[Nic::Wire(MEMBER), Nic::Wire(MEMBER)];
    const FIRST_CUT: &[Event] =
        &[Event { when: When::Says(": version 1, signed by "), what: What::Unplug(0) }];
    const IN_SYNC: &[Check] = &[
        Check::Lease("bond0"),
        Check::Log(wire::JOURNAL, "port 0: in sync with its partner"),
        Check::Log(wire::JOURNAL, "port 1: in sync with its partner"),
    ];
    let stacked = |name, nics, modules, cmdline, checks| Scenario {
        machine: cards(X86, nics),
        modules,
        ..wired(name, X86, DHCP, boots_with(cmdline, checks))
    };
    let bond = |name, nics, cmdline, checks| stacked(name, nics, &["bonding"], cmdline, checks);
    let backup = bond(
        "bond-active-backup",
        TWO,
        "bond=bond0:eth0,eth1:mode=active-backup,miimon=100 ip=bond0:dhcp",
        &[Check::Lease("bond0"), Check::Log(wire::JOURNAL, "port 1: first frame")],
    );
    vec![
        stacked(
            "vlan",
            TRUNKED,
            &["8021q"],
            "vlan=eth0.100:eth0 ip=eth0.100:dhcp",
            &[Check::Lease("eth0.100")],
        ),
        Scenario { machine: Machine { events: FIRST_CUT, ..backup.machine.clone() }, ..backup },
        // The first attempt leaves a bond with two members, over which the second goes.
        Scenario {
            serve: Serve::Faulty(&[("manifest", Fault::MissingAtFirst(12))]),
            ..bond(
                "bond-second-attempt",
                TWO,
                "phase.onfail=retry bond=bond0:eth0,eth1:mode=active-backup,miimon=100 ip=bond0:dhcp",
                &[Check::Lease("bond0"), Check::TriedAgain(1)],
            )
        },
        bond(
            "bond-802.3ad",
            MEMBERS,
            "bond=bond0:eth0,eth1:mode=802.3ad,miimon=100,lacp_rate=fast ip=bond0:dhcp",
            IN_SYNC,
        ),
        // As a kernel has one that has `bonding` built in: one of balance-rr, which knows no partner.
        bond(
            "bond-there-already",
            MEMBERS,
            "bonding.max_bonds=1 bond=bond0:eth0,eth1:mode=802.3ad,miimon=100,lacp_rate=fast ip=bond0:dhcp",
            IN_SYNC,
        ),
    ]
}
