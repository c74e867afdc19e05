//! The end-to-end scenarios of trust: who may sign, what an old document is worth, and what a machine
//! remembers from one boot to the next.

use crate::arch::Arch;
use crate::disk::{Disk, Format};
use crate::kernels::Id;
use crate::machine::{Firmware, Machine};
use crate::publish::Change::{self, Add, Plasmd, Release, ReplayKeys, ReplayManifest, Revoke, Sign};
use crate::scenarios::{Check, Expect, Initramfs, Scenario, Serve, Step, TRUSTED};

const X86: Id = Id::Debian61(Arch::X86_64);
const ARM: Id = Id::Debian61(Arch::Aarch64);

const RELEASE_1: Change = Release { version: 1, keys: TRUSTED };
const RELEASE_2: Change = Release { version: 2, keys: TRUSTED };
const RELEASE_3: Change = Release { version: 3, keys: TRUSTED };
/// Signed by keys that only key lists name.
const RELEASE_BY_NEW: Change = Release { version: 1, keys: &["new"] };
const RELEASE_BY_NEWER: Change = Release { version: 2, keys: &["newer"] };
const ADD_NEW: Change = Add { root: "trusted", keys: &["new"] };
const ADD_NEWER: Change = Add { root: "trusted", keys: &["newer"] };
const REVOKE_NEW: Change = Revoke { root: "trusted", key: "new" };

const CLOCK_RAISED: Check = Check::Says("the clock said 1970-01-01T00:0");
const ROLLED_BACK: &str = "has version 1; this machine has seen version 2";
const IN_FIRMWARE: Check = Check::FirmwareKeeps("PhasebootSeen");

pub(crate) fn all() -> Vec<Scenario> {
    [memory(), key_lists(), signatures()].into_iter().flatten().collect()
}

/// Boots if all of this holds.
fn boots(publish: &'static [Change], checks: &'static [Check]) -> Step {
    Step { publish, ..Step::new(Expect::Boots(checks)) }
}

/// Fails with this exit code, and the line says this.
fn fails(publish: &'static [Change], code: u8, says: &'static str) -> Step {
    Step { publish, ..Step::new(Expect::Fails { code, says }) }
}

/// A machine without firmware variables, with this disk.
fn disk(kernel: Id, disk: Disk) -> Machine {
    Machine { disk: Some(disk), ..Machine::new(kernel.arch()) }
}

fn uefi(kernel: Id) -> Machine {
    Machine { firmware: Firmware::Uefi, ..Machine::new(kernel.arch()) }
}

/// What was seen stays seen, wherever the machine can keep it.
fn memory() -> Vec<Scenario> {
    const EXT4: Disk = Disk::new(Format::Ext4);
    const DAMAGED: Disk = Disk { record: Some("{\"keys_version\":0,\"manifests\":{}}"), ..EXT4 };
    const REQUIRED: Option<&str> = Some(r#"{"rollback_record":"required"}"#);
    // The newest release, the one before it put back by the mirror while somebody at the console adds
    // `cmdline`, the newest again.
    let rollback = |name, machine: Machine, cmdline, kept: &'static [Check]| Scenario {
        machine,
        ..Scenario::new(
            name,
            X86,
            vec![
                boots(&[RELEASE_1, RELEASE_2], kept),
                Step { cmdline, ..fails(&[ReplayManifest(1)], 14, ROLLED_BACK) },
                boots(&[ReplayManifest(2)], &[Check::Release(2)]),
            ],
        )
    };
    let damaged = |name, policy, steps| Scenario {
        machine: disk(X86, DAMAGED),
        policy,
        ..Scenario::new(name, X86, steps)
    };
    vec![
        Scenario {
            machine: uefi(ARM),
            ..Scenario::new(
                "rollback-firmware",
                ARM,
                vec![
                    boots(&[RELEASE_1, RELEASE_2], &[Check::Release(2), IN_FIRMWARE]),
                    fails(&[ReplayManifest(1)], 14, ROLLED_BACK),
                ],
            )
        },
        rollback("rollback-firmware", uefi(X86), "phase.cache=off", &[Check::Release(2), IN_FIRMWARE]),
        rollback(
            "rollback-cache-ext4",
            disk(X86, EXT4),
            "",
            &[Check::Release(2), Check::DiskKeeps("\"stable/x86_64\":2")],
        ),
        rollback(
            "rollback-cache-gpt",
            disk(X86, Disk::new(Format::GptName)),
            "phase.cache=off",
            &[Check::Release(2), Check::DiskKeeps("\"stable/x86_64\":2")],
        ),
        rollback(
            "rollback-cache-fat",
            disk(X86, Disk::new(Format::Fat)),
            "phase.nowrite",
            &[Check::Release(2)],
        ),
        damaged("damaged-record", None, vec![fails(&[RELEASE_1], 14, "cannot be relied on")]),
        damaged(
            "damaged-record-replaced",
            Some(r#"{"damaged_record":"replace","min_manifest_version":1}"#),
            vec![
                boots(
                    &[RELEASE_1, RELEASE_2],
                    &[Check::Says("cannot be relied on"), Check::DiskKeeps("\"stable/x86_64\":2")],
                ),
                fails(&[ReplayManifest(1)], 14, ROLLED_BACK),
            ],
        ),
        Scenario {
            policy: REQUIRED,
            ..Scenario::new(
                "no-place-for-record",
                X86,
                vec![fails(&[RELEASE_1], 14, "there is no place that can keep it")],
            )
        },
        Scenario {
            machine: disk(X86, EXT4),
            policy: REQUIRED,
            ..Scenario::new(
                "nowrite-in-spite-of-required",
                X86,
                vec![Step { cmdline: "phase.nowrite", ..fails(&[RELEASE_1], 14, "lets none be written") }],
            )
        },
        // Reading a file system that needs its journal is a write, if nobody takes care.
        Scenario {
            machine: disk(X86, Disk { unclean: true, ..EXT4 }),
            ..Scenario::new(
                "nowrite",
                X86,
                vec![
                    Step {
                        cmdline: "phase.nowrite",
                        ..boots(&[RELEASE_1, RELEASE_2], &[Check::Release(2), Check::DiskUntouched])
                    },
                    boots(&[RELEASE_3], &[Check::Release(3), Check::DiskKeeps("\"stable/x86_64\":3")]),
                    Step {
                        cmdline: "phase.nowrite",
                        ..fails(&[ReplayManifest(2)], 14, "has version 2; this machine has seen version 3")
                    },
                ],
            )
        },
    ]
}

/// Keys that came after the initramfs was packed, and keys that have gone.
fn key_lists() -> Vec<Scenario> {
    const EXT4: Disk = Disk::new(Format::Ext4);
    let scenario = |name, kernel, steps| Scenario::new(name, kernel, steps);
    let with_disk = |name, steps| Scenario { machine: disk(X86, EXT4), ..Scenario::new(name, X86, steps) };
    vec![
        scenario("rotated-key", X86, vec![boots(&[ADD_NEW, RELEASE_BY_NEW], &[Check::Release(1)])]),
        scenario("rotated-key", ARM, vec![boots(&[ADD_NEW, RELEASE_BY_NEW], &[Check::Release(1)])]),
        scenario(
            "revoked-key",
            X86,
            vec![fails(&[ADD_NEW, RELEASE_BY_NEW, ADD_NEWER, REVOKE_NEW], 13, "0 of 1 needed")],
        ),
        // One of two packed keys was stolen, and the other says so.
        Scenario {
            keys: &["trusted", "second"],
            ..scenario(
                "revoked-packed-key",
                X86,
                vec![fails(
                    &[
                        RELEASE_1,
                        Add { root: "second", keys: &["new"] },
                        Revoke { root: "second", key: "trusted" },
                    ],
                    13,
                    "signed, but",
                )],
            )
        },
        scenario(
            "tampered-keys",
            X86,
            vec![fails(
                &[ADD_NEW, RELEASE_BY_NEW, Change::TamperKeys],
                13,
                "is not signed by the packed keys: 0 of 1",
            )],
        ),
        // The mirror and the thief of a key together, after the owner has revoked it.
        with_disk(
            "replayed-keys",
            vec![
                boots(
                    &[ADD_NEW, RELEASE_BY_NEW, ADD_NEWER, REVOKE_NEW, RELEASE_BY_NEWER],
                    &[Check::Release(2), Check::DiskKeeps("\"keys_version\":3")],
                ),
                fails(&[ReplayKeys(1), ReplayManifest(1)], 14, "keys.json has version 1; 3 or newer"),
                boots(&[ReplayKeys(3), ReplayManifest(2)], &[Check::Release(2)]),
            ],
        ),
        with_disk(
            "withheld-keys",
            vec![
                boots(&[ADD_NEW, RELEASE_BY_NEW], &[Check::DiskKeeps("\"keys_version\":1")]),
                fails(&[Change::WithholdKeys], 14, "there is no key list"),
            ],
        ),
    ]
}

/// Signatures and servers, the clock they count against, and plasmd beside us.
fn signatures() -> Vec<Scenario> {
    const IN_1970: &str = "1970-01-01T00:00:00";
    let in_1970 = |name, kernel: Id, step| Scenario {
        machine: Machine { clock: Some(IN_1970), ..Machine::new(kernel.arch()) },
        ..Scenario::new(name, kernel, vec![step])
    };
    let tls = |name, policy, step| Scenario {
        serve: Serve::Tls,
        policy: Some(policy),
        ..Scenario::new(name, X86, vec![step])
    };
    let beside_plasmd = |kernel| {
        Scenario::new("beside-plasmd", kernel, vec![boots(&[Plasmd, RELEASE_1], &[Check::Release(1)])])
    };
    vec![
        Scenario {
            keys: &["first", "second", "third"],
            policy: Some(r#"{"threshold":2}"#),
            ..Scenario::new(
                "threshold-2-of-3",
                X86,
                vec![
                    fails(&[Release { version: 1, keys: &["first"] }], 13, "1 of 2 needed"),
                    boots(&[Sign { key: "third" }], &[Check::Release(1)]),
                ],
            )
        },
        in_1970("clock-in-1970", ARM, boots(&[RELEASE_1], &[CLOCK_RAISED])),
        in_1970("clock-in-1970", X86, boots(&[RELEASE_1], &[CLOCK_RAISED])),
        Scenario {
            initramfs: Initramfs::BuiltLater,
            ..in_1970("expired-in-1970", X86, fails(&[RELEASE_1], 14, "expired at"))
        },
        beside_plasmd(X86),
        beside_plasmd(ARM),
        Scenario {
            policy: Some(r#"{"allow_unsigned":true}"#),
            ..Scenario::new(
                "unsigned-allowed",
                X86,
                vec![Step {
                    // Its manifest has no command line.
                    cmdline: "phase.append=\"lab.scenario=x86_64-unsigned-allowed panic=-1\"",
                    ..boots(&[Plasmd], &[Check::Says("signed by nobody")])
                }],
            )
        },
        tls(
            "private-authority-and-pin",
            r#"{"tls_roots":["ca.pem"],"tls_pins":["{pin}"]}"#,
            boots(&[RELEASE_1], &[Check::Release(1)]),
        ),
        Scenario {
            policy: Some(r#"{"tls_pins":["sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}"#),
            ..Scenario::new(
                "http-in-spite-of-pin",
                X86,
                vec![fails(&[RELEASE_1], 11, "only taken over https")],
            )
        },
        tls(
            "wrong-pin",
            r#"{"tls_roots":["ca.pem"],"tls_pins":["sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}"#,
            fails(&[RELEASE_1], 11, "not in tls_pins"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_published_is_replayed() {
        for scenario in all() {
            let (mut releases, mut lists) = (Vec::new(), 0);
            for change in scenario.steps.iter().flat_map(|step| step.publish) {
                match change {
                    Release { version, .. } => releases.push(*version),
                    Add { .. } | Revoke { .. } => lists += 1,
                    ReplayManifest(version) => assert!(releases.contains(version), "{}", scenario.name),
                    ReplayKeys(version) => assert!((1..=lists).contains(version), "{}", scenario.name),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn what_a_machine_keeps_is_looked_at_where_it_can_be() {
        for scenario in all() {
            for step in &scenario.steps {
                let Expect::Boots(checks) = step.expect else { continue };
                let disk =
                    checks.iter().any(|check| matches!(check, Check::DiskKeeps(_) | Check::DiskUntouched));
                assert!(!disk || scenario.machine.disk.is_some(), "{}", scenario.name);
                let firmware = checks.iter().any(|check| matches!(check, Check::FirmwareKeeps(_)));
                assert!(!firmware || scenario.machine.firmware == Firmware::Uefi, "{}", scenario.name);
            }
        }
    }
}
