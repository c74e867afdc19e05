//! How addresses, names and the provider's URL are come by.

use super::{ARM, DHCP, DHCP_RANGE, X86, boots, boots_with, fails, leased, wired};
use crate::faulty::Fault;
use crate::scenarios::{Check, Scenario, Serve, Step};
use crate::wire::{self, Manners, Misdeed};

pub(super) fn all() -> Vec<Scenario> {
    [given(), ipv6(), named(), dhcp()].into_iter().flatten().collect()
}

/// What the command line gives.
fn given() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "static-ipv4",
            X86,
            vec![boots_with(
                "ip=10.0.2.77::10.0.2.2:255.255.255.0:machine:eth0:off",
                &[Check::Says("10.0.2.77")],
            )],
        ),
        Scenario {
            provider: Some("http://[fd77::1]:{port}"),
            ..wired(
                "static-ipv6",
                X86,
                &[],
                boots_with("ip=[fd77::77]::[fd77::1]:64:machine:eth0:none", &[Check::Says("fd77::77")]),
            )
        },
    ]
}

fn ipv6() -> Vec<Scenario> {
    const RA: &str = "--enable-ra";
    const STATELESS: &str = "--dhcp-range=::,constructor:lan0,ra-stateless";
    vec![
        Scenario {
            provider: Some("http://[fd77::1]:{port}"),
            ..wired("ipv6-only", X86, &[RA, STATELESS], boots(&[]))
        },
        Scenario {
            provider: Some("http://provider.lab.test:{port}"),
            ..wired(
                "ipv6-only-by-name",
                ARM,
                &[RA, STATELESS, "--host-record=provider.lab.test,fd77::1"],
                boots(&[]),
            )
        },
        Scenario {
            provider: Some(""),
            ..wired(
                "ipv6-boot-url",
                X86,
                &[
                    RA,
                    "--dhcp-range=fd77::100,fd77::1ff,64,1h",
                    "--dhcp-option=option6:bootfile-url,http://[fd77::1]:{port}",
                ],
                boots(&[Check::Log(wire::DNSMASQ, "DHCPREPLY(lan0)")]),
            )
        },
    ]
}

/// Names, and what names lead to.
fn named() -> Vec<Scenario> {
    const PROVIDER: &str = "--host-record=provider.lab.test,10.77.0.1";
    vec![
        Scenario {
            provider: Some(""),
            ..wired(
                "boot-url-of-dhcp",
                X86,
                &[DHCP_RANGE, "--dhcp-option=option:bootfile-name,http://10.77.0.1:{port}"],
                boots(&[Check::Says("option 67")]),
            )
        },
        Scenario {
            provider: Some(""),
            ..wired(
                "provider-by-dns",
                X86,
                &[
                    DHCP_RANGE,
                    PROVIDER,
                    "--srv-host=_phase-image._tcp.lab.test,provider.lab.test,{port}",
                    "--txt-record=_phase-image._tcp.lab.test,channel=stable,arch=x86_64,version=1,http_port={port}",
                ],
                boots(&[Check::Says("_phase-image._tcp")]),
            )
        },
        Scenario {
            provider: Some("http://provider:{port}"),
            timed: true,
            ..wired(
                "dead-first-dns",
                X86,
                &[DHCP_RANGE, PROVIDER, "--dhcp-option=option:dns-server,10.77.0.66,10.77.0.1"],
                // Resolvers that ask one server after the other take 2 s and more for the dead one; half a second is
                // what it takes where all of them answer.
                boots(&[Check::TriedAgain(0), Check::FoundWithin(1500)]),
            )
        },
        // dnsmasq has nobody to ask for an IPv6 address of this name, and says so with REFUSED.
        Scenario {
            provider: Some("http://provider.test:{port}"),
            timed: true,
            ..wired(
                "dns-refuses-ipv6",
                X86,
                &[DHCP_RANGE, "--host-record=provider.test,10.77.0.1"],
                boots(&[Check::TriedAgain(0), Check::FoundWithin(1500)]),
            )
        },
        // The provider has an IPv6 address at which nobody is.
        Scenario {
            provider: Some("http://provider.lab.test:{port}"),
            ..wired(
                "dead-ipv6-of-provider",
                X86,
                &[
                    DHCP_RANGE,
                    "--enable-ra",
                    "--dhcp-range=::,constructor:lan0,ra-stateless",
                    "--host-record=provider.lab.test,10.77.0.1,fd77::66",
                ],
                boots(&[Check::TriedAgain(0), Check::ExecWithin(30)]),
            )
        },
        Scenario {
            policy: Some("{\"leases\":\"release\"}"),
            ..wired("lease-given-back", X86, DHCP, boots(&[Check::Log(wire::DNSMASQ, "DHCPRELEASE")]))
        },
        // RFC 4361: type 255 before the identifier; leases are kept where nothing else is said.
        wired(
            "client-id-duid",
            X86,
            DHCP,
            Step { cmdline: "phase.clientid=duid", ..boots(&[Check::Log(wire::LEASES, " ff:")]) },
        ),
        // Who can block the provider that was named must not choose another.
        Scenario {
            provider: Some("http://10.77.0.66:{port}"),
            ..wired(
                "named-provider-is-final",
                X86,
                &[DHCP_RANGE, "--dhcp-option=option:bootfile-name,http://10.77.0.1:{port}"],
                Step { cmdline: "phase.timeout=20", ..fails(11, "10.77.0.66") },
            )
        },
        Scenario {
            mirrors: &["http://10.77.0.66:{port}", "http://10.77.0.1:{port}"],
            ..wired("dead-first-mirror", X86, DHCP, boots(&[Check::TriedAgain(0), Check::ExecWithin(45)]))
        },
    ]
}

/// DHCP servers with bad manners.
fn dhcp() -> Vec<Scenario> {
    const LEASED: &[Check] = &[Check::TriedAgain(0), Check::ExecWithin(45)];
    const URL: Option<&str> = Some("http://10.77.0.1:{port}");
    const LONG_URL: Option<&str> = Some("http://10.77.0.1:{port}/{long}");
    let unnamed = |scenario| Scenario { provider: Some(""), ..scenario };
    vec![
        leased("dhcp-silent-at-first", vec![Manners::at_first(3, Misdeed::Silent)], boots(LEASED)),
        leased("dhcp-naks", vec![Manners::at_first(2, Misdeed::Naks)], boots(LEASED)),
        // The one good offer comes last, and three times.
        leased(
            "dhcp-bad-company",
            vec![
                Manners::always(Misdeed::Malformed),
                Manners::always(Misdeed::ForeignXid),
                Manners::always(Misdeed::UselessAddress),
                Manners { delay: 300, ..Manners::always(Misdeed::Duplicates) },
            ],
            boots(LEASED),
        ),
        unnamed(Scenario {
            serve: Serve::Faulty(&[]),
            ..leased(
                "dhcp-overlong",
                vec![Manners { boot_url: LONG_URL, ..Manners::always(Misdeed::Overlong) }],
                boots(LEASED),
            )
        }),
        // The second offer is the better one.
        unnamed(leased(
            "dhcp-two-servers",
            vec![Manners::GOOD, Manners { boot_url: URL, delay: 50, ..Manners::GOOD }],
            boots(&[Check::Log(wire::JOURNAL, "dhcp 10.77.0.3: ACK"), Check::TriedAgain(0)]),
        )),
        // A router is needed neither for the provider nor for the server that renews, which extends nothing that is
        // over: the second renewal shows that the first came in time.
        Scenario {
            serve: Serve::Faulty(&[("kernel", Fault::Slow(1_500_000))]),
            ..leased(
                "dhcp-renewal",
                vec![Manners { lease: 6, ..Manners::always(Misdeed::NoRouter) }],
                boots(&[Check::Log(wire::JOURNAL, "renewing REQUEST 3"), Check::TriedAgain(0)]),
            )
        },
    ]
}
