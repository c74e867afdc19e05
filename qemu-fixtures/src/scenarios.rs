//! The end-to-end scenarios: each a machine, what is published for it, and how its boots have to end.

use crate::arch::Arch;
use crate::faulty::{Fault, Faults};
use crate::kernels::{Form, Id};
use crate::machine::{Machine, Nic};
use crate::publish::Change;
use crate::wire::Lan;
use crate::{matrix, network, trust};

/// One machine, and its boots: its disk and the variables of its firmware stay from one to the next.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Below `e2e/ARCH/`.
    pub(crate) name: String,
    pub(crate) machine: Machine,
    /// The kernel that the machine starts with, and the one that is published where nothing else is said.
    pub(crate) kernel: Id,
    /// What of it QEMU starts.
    pub(crate) first: Form,
    /// What is published, if not that kernel as its package has it.
    pub(crate) next: Option<(Id, Form)>,
    /// How many times a kernel starts the next one. All but the last of them have the first one's initramfs.
    pub(crate) hops: usize,
    /// Modules of the published kernel in the published initramfs.
    pub(crate) target_modules: &'static [&'static str],
    /// More for the manifest's command line.
    pub(crate) more: String,
    /// Bytes of a useless file in the published initramfs.
    pub(crate) ballast: usize,
    /// A device tree for the machine is published, too: its own with the mark of [`Check::OwnTree`].
    pub(crate) dtb: bool,
    pub(crate) serve: Serve,
    /// Who else is on the lab's own network; without one the machine has QEMU's.
    pub(crate) lan: Option<Lan>,
    /// What `phase.provider` says, if not just where the server is; nothing: there is none. `{port}` is the
    /// server's.
    pub(crate) provider: Option<&'static str>,
    /// Where the manifests say that artifacts are, in the same form.
    pub(crate) mirrors: &'static [&'static str],
    /// Modules besides those of the machine's devices.
    pub(crate) modules: &'static [&'static str],
    pub(crate) initramfs: Initramfs,
    /// The keys that are packed into the first initramfs.
    pub(crate) keys: &'static [&'static str],
    /// The policy that is packed with them; `{pin}` in it is the pin of the server's certificate.
    pub(crate) policy: Option<&'static str>,
    pub(crate) steps: Vec<Step>,
    /// What every one of its boots that succeeds has to show besides.
    pub(crate) also: Vec<Check>,
    /// Its times count: nothing else runs beside it.
    pub(crate) timed: bool,
    /// `bench handover` holds how long it takes from kernel to kernel against a cold boot.
    pub(crate) row: bool,
}

/// One boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// What happens to the published tree before.
    pub(crate) publish: &'static [Change],
    /// More for the first kernel's command line, which asks for `phase.onfail=poweroff` before. `{port}` is the
    /// server's, `{proxy}` the proxy's.
    pub(crate) cmdline: &'static str,
    pub(crate) expect: Expect,
}

/// The key that machines trust where nothing else is said.
pub(crate) const TRUSTED: &[&str] = &["trusted"];
/// The network is somebody else's.
const AS_IT_IS: &[Check] = &[Check::Says("the network is used as it is"), Check::ExecWithin(30)];
/// A shell calls `phaseboot doctor` and `phaseboot kexec`, and says what came of it.
const BY_HAND: &[Check] = &[
    Check::Prints("doctor: exit code 0"),
    Check::Prints("nothing loaded: exit code 24"),
    Check::Prints("unloaded: exit code 24"),
    Check::Prints("\"calls\":["),
    Check::Prints("kernel: loaded"),
    Check::CmdlineOrder(&["lab.scenario=", "lab.appended=1"]),
];
/// dracut switches the machine off if its hooks have come to nothing.
const DRACUT: &str = "rd.shell=0 rd.emergency=poweroff";
/// A release signed by that key.
pub(crate) const RELEASE: &[Change] = &[Change::Release { version: 1, keys: TRUSTED }];

/// Who answers the machine's requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Serve {
    Phasectl,
    /// phasectl with a certificate of a private authority, which is in the first initramfs.
    Tls,
    /// phasectl, which only a proxy knows.
    Proxied,
    Faulty(Faults),
}

/// How the first initramfs differs from the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initramfs {
    Usual,
    NoDeviceNodes,
    /// Built when every release here has expired.
    BuiltLater,
    /// A shell is its init, brings the network up so, and calls `phaseboot boot`; with `doctor` and
    /// `kexec` it calls these.
    Shell(&'static str),
    /// A shell is its init, has phaseboot bring the network up, and runs this. In `$cmdline` is the next
    /// kernel's command line.
    Commands(&'static str),
    /// dracut has made it, and a hook of its calls phaseboot so.
    Dracut(&'static str),
}

/// How it has to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// In the second kernel, which sees all of this.
    Boots(&'static [Check]),
    /// With this exit code and the machine switched off or restarted; the line says this.
    Fails { code: u8, says: &'static str },
    /// Without a second kernel, after all of this.
    Stops(&'static [Check]),
}

/// What the second kernel, or the log of the way to it, has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Efi,
    Acpi,
    /// As /sys/devices/system/cpu/online has it.
    Cpus(&'static str),
    /// Its address layout is random again, and no seed of the first kernel is left in the device tree.
    FreshSeeds,
    /// The same, but its address layout is the linker's.
    NoSeeds,
    /// Its device tree is the published one.
    OwnTree,
    /// Its command line has parameters that begin so, in this order.
    CmdlineOrder(&'static [&'static str]),
    /// So many attempts failed before.
    TriedAgain(usize),
    /// phaseboot's log has these words.
    Says(&'static str),
    /// A line on the console has these words, whoever wrote it.
    Prints(&'static str),
    /// The network came up over this interface.
    Lease(&'static str),
    /// Milliseconds from PID 1 to the first lease.
    LeaseWithin(u32),
    /// Milliseconds from the first lease to the manifest that boots, the lookup of a name among them.
    FoundWithin(u32),
    /// Seconds from PID 1 to the jump.
    ExecWithin(u32),
    /// What phaseboot says is JSON, all of it.
    JsonOnly,
    /// It is this release.
    Release(u64),
    /// The record on the disk has these words.
    DiskKeeps(&'static str),
    /// The firmware has a variable of this name.
    FirmwareKeeps(&'static str),
    /// Its addresses were drawn anew.
    Kaslr,
    /// It draws into the framebuffer that the firmware has set up, as the first kernel found it.
    Framebuffer,
    /// It has none, and nobody has seen one.
    NoFramebuffer,
    /// The firmware lists its variables, and answers when it is asked for them.
    EfiVariables,
    /// The same, it says that Secure Boot is on, and this kernel is locked down for it.
    SecureBoot,
    /// Its ramdisk lies above 4 GiB. On x86_64.
    RamdiskAbove4G,
    /// So many kernels have started the next one.
    Hops(usize),
    /// Its initramfs has been joined of these parts.
    Parts(&'static [&'static str]),
    /// Not a byte of the disk is another than before this boot.
    DiskUntouched,
    /// A server's log has these words.
    Log(&'static str, &'static str),
    /// Files with this in their name were asked for more than once, and no more bytes of them sent again.
    SentAgain {
        file: &'static str,
        most: usize,
    },
}

impl Step {
    /// Publishes nothing.
    pub(crate) const fn new(expect: Expect) -> Self {
        Self { publish: &[], cmdline: "", expect }
    }

    /// phaseboot's last words when it has failed: what its failure policy does.
    pub(crate) fn ending(&self) -> &'static str {
        if self.cmdline.contains("phase.onfail=retry") { "restarting in 30 s" } else { "powering off" }
    }
}

impl Scenario {
    pub(crate) fn new(name: impl Into<String>, kernel: Id, steps: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            machine: Machine::new(kernel.arch()),
            kernel,
            first: Form::Plain,
            next: None,
            hops: 1,
            target_modules: &[],
            more: String::new(),
            ballast: 0,
            dtb: false,
            serve: Serve::Phasectl,
            lan: None,
            provider: None,
            mirrors: &[],
            modules: &[],
            initramfs: Initramfs::Usual,
            keys: TRUSTED,
            policy: None,
            steps,
            also: Vec::new(),
            timed: false,
            row: false,
        }
    }

    /// `e2e/ARCH/NAME`
    pub(crate) fn full_name(&self) -> String {
        format!("e2e/{}/{}", self.machine.arch, self.name)
    }

    /// Whether its full name has the parts of `filter` between asterisks, in their order.
    pub(crate) fn matches(&self, filter: &str) -> bool {
        let name = self.full_name();
        let mut rest = name.as_str();
        filter.split('*').all(|part| rest.split_once(part).map(|(_, after)| rest = after).is_some())
    }

    /// Whether its times are compared with those of the peer on this architecture.
    pub(crate) fn compares(&self, arch: Arch) -> bool {
        let told = self.steps.iter().any(|step| step.cmdline.contains("phase.debug"));
        self.timed
            && !told
            && self.kernel == Id::Debian61(arch)
            && self.machine.nics.len() == 1
            && self.lan.is_none()
    }

    /// The folder name of its remains.
    pub(crate) fn slug(&self) -> String {
        format!("{}-{}", self.machine.arch, self.name)
    }

    /// Every kernel that it needs.
    pub(crate) fn kernels(&self) -> Vec<Id> {
        vec![self.kernel, self.published_kernel()]
    }

    /// The kernel that the manifests name, and how it is published.
    pub(crate) fn published_kernel(&self) -> Id {
        self.published().0
    }

    pub(crate) fn published(&self) -> (Id, Form) {
        self.next.unwrap_or_else(|| (self.other_arch(), Form::Plain))
    }

    /// The kernel whose modules the published initramfs has, and whose architecture: this machine's, whatever
    /// is published.
    pub(crate) fn target(&self) -> Id {
        let published = self.published_kernel();
        if published.arch() == self.machine.arch { published } else { self.kernel }
    }

    fn other_arch(&self) -> Id {
        let mut changes = self.steps.iter().flat_map(|step| step.publish);
        match self.machine.arch {
            _ if !changes.any(|change| matches!(change, Change::OtherArch { .. })) => self.kernel,
            Arch::X86_64 => Id::Debian61(Arch::Aarch64),
            Arch::Aarch64 => Id::Debian61(Arch::X86_64),
        }
    }
}

/// Every scenario; those whose times count come first, then those that wait longest: beside them others run.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = limits();
    all.extend(matrix::all());
    all.extend(trust::all());
    all.extend(network::all());
    all.extend(boots());
    for arch in Arch::ALL {
        all.extend(refusals(Id::Debian61(arch)));
    }
    all.sort_by_key(|scenario| !scenario.timed);
    all
}

fn boots() -> Vec<Scenario> {
    const X86: Id = Id::Debian61(Arch::X86_64);
    const ARM: Id = Id::Debian61(Arch::Aarch64);
    const ORDER: &[Check] = &[Check::CmdlineOrder(&[
        "lab.scenario=",
        "console=",
        "phase.mode=lab",
        "lab.last=1",
        "lab.very=last",
    ])];
    const TREE: &[Check] = &[Check::FreshSeeds];
    let step = |checks| Step { publish: RELEASE, ..Step::new(Expect::Boots(checks)) };
    let boots = |name, kernel, checks| Scenario::new(name, kernel, vec![step(checks)]);
    let boots_with =
        |cmdline, name, kernel, checks| Scenario::new(name, kernel, vec![Step { cmdline, ..step(checks) }]);
    let with = |scenario: Scenario, change: fn(&mut Machine)| {
        let mut scenario = scenario;
        change(&mut scenario.machine);
        scenario
    };
    vec![
        Scenario { timed: true, ..boots("debian-6.1", X86, &[]) },
        Scenario { timed: true, ..boots("debian-6.1", ARM, TREE) },
        Scenario { timed: true, ..boots("lab-kernel", Id::LabArm64, TREE) },
        with(boots("gic-v3", ARM, TREE), |machine| machine.gic = Some(3)),
        with(boots("dead-first-nic", X86, &[Check::Lease("eth1"), Check::ExecWithin(30)]), |machine| {
            machine.nics = &[Nic::Dead, Nic::User];
        }),
        with(boots("dead-first-nic", ARM, &[Check::Lease("eth1"), Check::ExecWithin(30)]), |machine| {
            machine.nics = &[Nic::Dead, Nic::User];
        }),
        with(boots("256-mb", X86, &[]), |machine| machine.memory_mb = 256),
        with(boots("256-mb", ARM, TREE), |machine| machine.memory_mb = 256),
        with(boots("no-random-device", X86, &[Check::ExecWithin(30)]), |machine| {
            machine.cpu = "qemu64";
            machine.rng = false;
        }),
        Scenario { initramfs: Initramfs::NoDeviceNodes, ..boots("no-device-nodes", X86, &[]) },
        Scenario { initramfs: Initramfs::Shell("udhcpc"), ..boots("from-shell-init", X86, AS_IT_IS) },
        Scenario { initramfs: Initramfs::Shell("phaseboot"), ..boots("net-then-boot", X86, AS_IT_IS) },
        Scenario {
            initramfs: Initramfs::Shell("none"),
            ..boots("boot-brings-network-up", X86, &[Check::Lease("eth0")])
        },
        Scenario {
            initramfs: Initramfs::Shell("kexec"),
            ..boots_with("lab.scenario=x86_64-kexec-command", "kexec-command", X86, BY_HAND)
        },
        Scenario {
            initramfs: Initramfs::Shell("kexec"),
            ..boots_with("lab.scenario=aarch64-kexec-command", "kexec-command", ARM, BY_HAND)
        },
        examined(
            "sysctl.kernel.kexec_load_disabled=1",
            "doctor-kexec-disabled",
            &[
                Check::Prints("blocker  kexec_load_disabled 1; nothing but a reboot undoes it"),
                Check::Prints("doctor: exit code 20"),
            ],
        ),
        examined(
            "lockdown=integrity",
            "doctor-lockdown",
            &[
                Check::Prints("warning  lockdown            integrity; only kexec_file_load works"),
                Check::Prints("warning  kexec_load          EPERM: "),
                Check::Prints("warning  signature           demanded by lockdown"),
                Check::Prints("doctor: exit code 0"),
            ],
        ),
        Scenario {
            initramfs: Initramfs::Dracut("phaseboot boot"),
            ..boots_with(DRACUT, "from-dracut", X86, &[Check::ExecWithin(30)])
        },
        Scenario {
            initramfs: Initramfs::Dracut("phaseboot net && phaseboot boot"),
            ..boots_with(DRACUT, "dracut-net-then-boot", X86, AS_IT_IS)
        },
        Scenario { initramfs: Initramfs::NoDeviceNodes, ..boots("no-device-nodes", ARM, &[]) },
        Scenario { dtb: true, ..boots("own-tree", ARM, &[Check::OwnTree, Check::FreshSeeds]) },
        Scenario {
            dtb: true,
            ..boots_with(
                "phase.kexec=file",
                "own-tree-of-no-use",
                Id::LabArm64,
                &[Check::Says("device trees are of no use")],
            )
        },
        // A CPU with the RNDR instruction would give the kernel a seed of its own.
        with(boots_with("phase.kaslr=zero", "no-seeds", ARM, &[Check::NoSeeds]), |machine| {
            machine.cpu = "cortex-a72";
        }),
        boots_with(
            "phase.mode=lab phase.append=\"lab.last=1 lab.very=last\"",
            "inherit-and-append",
            X86,
            ORDER,
        ),
        Scenario {
            serve: Serve::Faulty(&[("manifest", Fault::MissingAtFirst(20))]),
            ..boots_with(
                "phase.onfail=retry",
                "manifest-comes-late",
                X86,
                &[Check::TriedAgain(1), Check::ExecWithin(30)],
            )
        },
        Scenario {
            serve: Serve::Faulty(&[("kernel", Fault::CutOnce)]),
            ..boots("cut-and-resumed", X86, &[Check::Says("the connection broke"), Check::TriedAgain(0)])
        },
    ]
}

/// A machine on which a shell calls `phaseboot doctor`, and no more.
fn examined(cmdline: &'static str, name: &'static str, shows: &'static [Check]) -> Scenario {
    let step = Step { cmdline, publish: RELEASE, ..Step::new(Expect::Stops(shows)) };
    Scenario {
        initramfs: Initramfs::Shell("doctor"),
        ..Scenario::new(name, Id::Debian61(Arch::X86_64), vec![step])
    }
}

/// What must not boot, each named for what is wrong.
fn refusals(kernel: Id) -> Vec<Scenario> {
    const BY_STRANGER: &[Change] = &[Change::Release { version: 1, keys: &["stranger"] }];
    const UNSIGNED: &[Change] = &[Change::Plasmd];
    const OTHER_ARCH: &[Change] = &[Change::OtherArch { key: "trusted" }];
    let step = |code, says| Step { publish: RELEASE, ..Step::new(Expect::Fails { code, says }) };
    let fails = |name, code, says| Scenario::new(name, kernel, vec![step(code, says)]);
    let fails_on =
        |publish, name, code, says| Scenario::new(name, kernel, vec![Step { publish, ..step(code, says) }]);
    let fails_with =
        |cmdline, name, code, says| Scenario::new(name, kernel, vec![Step { cmdline, ..step(code, says) }]);
    let mut no_dhcp = fails_with("phase.timeout=15", "no-dhcp", 10, "net failed");
    no_dhcp.machine.nics = &[Nic::Dead];
    let mut no_nic = fails_with("phase.timeout=15", "no-nic", 10, "no network link");
    no_nic.machine.nics = &[];
    vec![
        fails_on(BY_STRANGER, "signed-by-stranger", 13, "0 of 1 needed"),
        fails_on(UNSIGNED, "unsigned-manifest", 13, "is not signed"),
        fails_on(OTHER_ARCH, "wrong-architecture", 14, "this machine is "),
        Scenario { keys: &[], ..fails("no-key", 13, "key") },
        Scenario {
            serve: Serve::Faulty(&[("kernel", Fault::FlipBit)]),
            ..fails("flipped-bit-in-kernel", 15, "kernel")
        },
        Scenario {
            serve: Serve::Faulty(&[("initramfs", Fault::Truncate)]),
            ..fails("truncated-initramfs", 15, "initramfs")
        },
        Scenario {
            serve: Serve::Faulty(&[("kernel", Fault::CloseHalfway)]),
            ..fails("server-closes-halfway", 11, "kernel")
        },
        no_dhcp,
        no_nic,
        fails_with("sysctl.kernel.kexec_load_disabled=1", "kexec-disabled", 20, "kexec_load_disabled"),
    ]
}

/// What is too much, and a failure that trying again cannot mend: the same on both architectures.
fn limits() -> Vec<Scenario> {
    const RESTARTS: &str = "sysctl.kernel.kexec_load_disabled=1 phase.onfail=retry";
    let fails = |cmdline, name, code, says| {
        let step = Step { publish: RELEASE, cmdline, ..Step::new(Expect::Fails { code, says }) };
        Scenario::new(name, Id::Debian61(Arch::X86_64), vec![step])
    };
    let small = |ballast, name, says| {
        let mut small = fails("", name, 22, says);
        small.machine.memory_mb = 160;
        small.ballast = ballast;
        small
    };
    vec![
        fails(RESTARTS, "kexec-disabled-restarts", 20, "kexec_load_disabled"),
        small(40_000_000, "too-little-memory", " are missing"),
        small(60_000_000, "over-half-of-memory", "a kernel loads at most half of the memory"),
        Scenario {
            more: format!("lab.padding={}", "x".repeat(1900)),
            ..fails(APPEND_150, "command-line-too-long", 23, " bytes long, it reads at most 2047")
        },
    ]
}

/// `phase.append` of 150 bytes.
const APPEND_150: &str = concat!(
    "phase.append=lab.long=",
    "0123456789012345678901234567890123456789012345678901234567890123456789",
    "01234567890123456789012345678901234567890123456789012345678901234567890"
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_timed_runs_come_first() {
        let all = all();
        let names: BTreeSet<String> = all.iter().map(Scenario::full_name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.is_sorted_by_key(|scenario| !scenario.timed));
        assert!(all.iter().all(|scenario| scenario.kernel.arch() == scenario.machine.arch));
    }

    #[test]
    fn a_filter_is_a_part_of_the_name_or_several() {
        let scenario = Scenario::new("revoked-key", Id::Debian61(Arch::X86_64), Vec::new());
        for filter in ["", "revoked", "e2e/*/revoked-*", "e2e/*-key", "*"] {
            assert!(scenario.matches(filter), "{filter}");
        }
        for filter in ["arm", "revoked*x86", "e2e/*/rotated"] {
            assert!(!scenario.matches(filter), "{filter}");
        }
    }
}
