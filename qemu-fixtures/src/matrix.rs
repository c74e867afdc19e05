//! Every kernel by every call: which machine, which kernel, which call loads the next one, and in which form
//! that one is published.

use crate::arch::Arch;
use crate::disk::{Disk, Format};
use crate::e2e::UKI_PARTS;
use crate::kernels::{Form, Id};
use crate::machine::Firmware;
use crate::publish::Change;
use crate::scenarios::{Check, Expect, Initramfs, RELEASE, Scenario, Step, TRUSTED};

use Arch::{Aarch64, X86_64};
use Firmware::{Default, SecureBoot, Uefi};

const X86: Id = Id::Debian61(X86_64);
const ARM: Id = Id::Debian61(Aarch64);

/// Which call loads the next kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    File,
    Load,
    /// Either could, and kexec_load does better.
    Better,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Load => "load",
            Self::Better => "auto",
        }
    }

    fn cmdline(self) -> &'static str {
        match self {
            Self::File => "phase.kexec=file",
            Self::Load => "phase.kexec=load",
            Self::Better => "phase.kexec=auto",
        }
    }

    fn check(self) -> Check {
        match self {
            Self::File => Check::Says("loaded by kexec_file_load"),
            Self::Load | Self::Better => Check::Says("loaded by kexec_load"),
        }
    }
}

pub(crate) fn all() -> Vec<Scenario> {
    [
        matrix(),
        screens(),
        memory(),
        forms(),
        refusals(),
        signatures(),
        secure_boot(),
        chains(),
        commands(),
        handoff(),
    ]
    .concat()
}

/// Architecture, call, firmware, and every kernel that has the call, with 1 and 4 CPUs in turn.
fn matrix() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (turn, (arch, call, firmware)) in [
        (X86_64, Call::File, Default),
        (X86_64, Call::File, Uefi),
        (X86_64, Call::Load, Default),
        (X86_64, Call::Load, Uefi),
        // No arm64 kernel of Debian's has kexec_file_load.
        (Aarch64, Call::Load, Default),
        (Aarch64, Call::Load, Uefi),
    ]
    .into_iter()
    .enumerate()
    {
        for (index, kernel) in
            [Id::Debian61(arch), Id::Debian612(arch), Id::Debian7(arch)].into_iter().enumerate()
        {
            all.push(row(kernel, call, firmware, if (turn + index) % 2 == 0 { 4 } else { 1 }));
        }
    }
    for (firmware, cpus) in [(Default, 1), (Default, 4), (Uefi, 1), (Uefi, 4)] {
        all.push(row(Id::LabArm64, Call::File, firmware, cpus));
    }
    all
}

/// The kernel loads itself by this call.
fn row(kernel: Id, call: Call, firmware: Firmware, cpus: u32) -> Scenario {
    let (version, at) = match kernel {
        Id::Debian61(_) => ("6.1", "debian"),
        Id::Debian612(_) => ("6.12", "debian"),
        Id::Debian7(_) => ("7", "debian"),
        Id::LabArm64 | Id::LabX86 => ("6.12", "lab"),
    };
    let under = match (firmware, kernel.arch()) {
        (Default, X86_64) => "bios",
        (Default, Aarch64) => "tree",
        (Uefi | SecureBoot, _) => "uefi",
    };
    let name = format!("{}-{under}-{at}-{version}-{cpus}cpu", call.name());
    let mut scenario = boots(name, kernel, call);
    scenario.row = true;
    scenario.machine.cpus = cpus;
    if kernel == Id::Debian612(Aarch64) {
        // With addresses of 52 bits this kernel's kexec_load falls over its own page tables:
        // trans_pgd_create_copy of arch/arm64/mm/trans_pgd.c.
        scenario.machine.cpu = "max,pauth-impdef=on,lpa2=off";
    }
    scenario.also.push(Check::Cpus(if cpus == 1 { "0" } else { "0-3" }));
    if firmware == Uefi {
        under_uefi(&mut scenario);
        // arm64's kexec_file_load hands none on, and its kernels take one since 6.2.
        if kernel.arch() == X86_64 || (call == Call::Load && kernel != ARM) {
            has_screen(&mut scenario);
        }
    } else if kernel.arch() == Aarch64 {
        scenario.also.push(Check::FreshSeeds);
    }
    scenario
}

fn boots(name: impl Into<String>, kernel: Id, call: Call) -> Scenario {
    let step = Step { publish: RELEASE, cmdline: call.cmdline(), expect: Expect::Boots(&[]) };
    let mut scenario = Scenario::new(name, kernel, vec![step]);
    scenario.also = vec![Check::Kaslr, call.check()];
    scenario
}

fn under_uefi(scenario: &mut Scenario) {
    scenario.machine.firmware = Uefi;
    scenario.also.extend([Check::Efi, Check::Acpi, Check::EfiVariables]);
    scenario.target_modules = &["efivarfs"];
}

fn has_screen(scenario: &mut Scenario) {
    scenario.machine.screen = true;
    scenario.also.push(Check::Framebuffer);
}

/// UEFI on aarch64 beside the matrix: a machine that a device tree describes, and one without a screen.
fn screens() -> Vec<Scenario> {
    let mut tree = boots("screen-and-tree", ARM, Call::Load);
    tree.next = Some((Id::Debian612(Aarch64), Form::Plain));
    under_uefi(&mut tree);
    has_screen(&mut tree);
    tree.machine.acpi = false;
    tree.also.retain(|check| *check != Check::Acpi);
    let mut none = boots("no-screen", ARM, Call::Load);
    under_uefi(&mut none);
    none.also.push(Check::NoFramebuffer);
    let mut better = boots("screen-kept-by-auto", Id::LabArm64, Call::Better);
    better.machine.firmware = Uefi;
    better.also.push(Check::Says("the next kernel keeps the screen"));
    has_screen(&mut better);
    vec![tree, none, better]
}

/// Little of it, much of it, and much to put into it.
fn memory() -> Vec<Scenario> {
    let with = |name, kernel, call, memory_mb| {
        let mut scenario = boots(name, kernel, call);
        scenario.machine.memory_mb = memory_mb;
        scenario.row = true;
        scenario
    };
    let mut above = with("load-5-gb", X86, Call::Load, 5 * 1024);
    above.also.push(Check::RamdiskAbove4G);
    let large = |name, kernel, call| {
        let mut scenario = with(name, kernel, call, 2 * 1024);
        scenario.ballast = 200_000_000;
        match call {
            Call::File => scenario.also.push(Check::Says("once more before it jumps")),
            Call::Load => {}
            Call::Better => {
                scenario.also.push(Check::Says("kexec_load goes first: with it the kernel does not hash"))
            }
        }
        scenario
    };
    vec![
        with("load-160-mb", X86, Call::Load, 160),
        above,
        with("load-5-gb", ARM, Call::Load, 5 * 1024),
        large("auto-200-mb-initramfs", X86, Call::Better),
        large("file-200-mb-initramfs", X86, Call::File),
        large("load-200-mb-initramfs", ARM, Call::Load),
    ]
}

/// Kernels inside of something.
fn forms() -> Vec<Scenario> {
    let published = |name, kernel, call, next, form| {
        let mut scenario = boots(name, kernel, call);
        scenario.next = Some((next, form));
        scenario.row = true;
        if form == Form::Uki {
            scenario.also.push(Check::Parts(&UKI_PARTS));
        }
        scenario
    };
    const LAB: Id = Id::LabArm64;
    vec![
        published("zboot-gzip", ARM, Call::Load, LAB, Form::ZbootGzip),
        published("zboot-zstd", LAB, Call::File, LAB, Form::ZbootZstd),
        published("image-gzip", LAB, Call::File, LAB, Form::Gzip),
        published("image-zstd", ARM, Call::Load, Id::Debian612(Aarch64), Form::Zstd),
        published("uki", ARM, Call::Load, ARM, Form::Uki),
        published("uki", X86, Call::File, X86, Form::Uki),
        published("uki-load", X86, Call::Load, X86, Form::Uki),
    ]
}

/// What a kernel that is locked down lets nobody do. No call is tried in another one's place.
fn refusals() -> Vec<Scenario> {
    let refused = |name, kernel, cmdline, form| {
        let expect = Expect::Fails { code: 21, says: "lockdown" };
        let mut scenario = Scenario::new(name, kernel, vec![Step { publish: RELEASE, cmdline, expect }]);
        scenario.next = Some((kernel, form));
        scenario
    };
    vec![
        refused("lockdown-load", X86, "lockdown=integrity phase.kexec=load", Form::Plain),
        refused("lockdown-load", ARM, "lockdown=integrity", Form::Plain),
        refused("lockdown-unsigned", X86, "lockdown=integrity", Form::Unsigned),
    ]
}

/// A kernel that demands signatures, and is not locked down: kexec_load asks for none.
fn signatures() -> Vec<Scenario> {
    const LAB: Id = Id::LabX86;
    let on = |name, form, expect, also: &[Check]| {
        let step = Step { publish: RELEASE, ..Step::new(expect) };
        let mut scenario = Scenario::new(name, LAB, vec![step]);
        scenario.next = Some((LAB, form));
        scenario.also = also.to_vec();
        scenario
    };
    let falls_back =
        |name, form, answer| on(name, form, Expect::Boots(&[]), &[Check::Says(answer), Call::Load.check()]);
    let expect = Expect::Fails { code: 21, says: "kexec_load is left out: the policy" };
    let mut keyring = on("signature-demanded-by-policy", Form::Tampered, expect, &[]);
    keyring.policy = Some(r#"{"require_kernel_keyring":true}"#);
    vec![
        on("signature-demanded", Form::Enrolled, Expect::Boots(&[]), &[Call::File.check()]),
        falls_back("signature-missing", Form::Plain, "kexec_file_load answered ENODATA"),
        falls_back("signature-rejected", Form::Tampered, "kexec_file_load answered EKEYREJECTED"),
        falls_back("signature-garbled", Form::Garbled, "kexec_file_load answered EBADMSG"),
        keyring,
    ]
}

/// Firmware that starts only what is signed with its key, and kernels that do as it does.
fn secure_boot() -> Vec<Scenario> {
    let on = |name, kernel, form, expect| {
        let mut scenario = Scenario::new(name, kernel, vec![Step { publish: RELEASE, ..Step::new(expect) }]);
        scenario.machine.firmware = SecureBoot;
        scenario.first = Form::Enrolled;
        scenario.next = Some((kernel, form));
        scenario.target_modules = &["efivarfs"];
        scenario
    };
    let starts = |name, kernel, form| {
        let mut scenario = on(name, kernel, form, Expect::Boots(&[Check::Efi, Check::SecureBoot]));
        scenario.also = vec![Check::Kaslr, Call::File.check()];
        scenario.row = true;
        scenario
    };
    let refused = |name, kernel, form, says| on(name, kernel, form, Expect::Fails { code: 21, says });
    vec![
        starts("secure-boot-enrolled-key", X86, Form::Enrolled),
        starts("secure-boot-enrolled-key-7", Id::Debian7(X86_64), Form::Enrolled),
        refused("secure-boot-unsigned", X86, Form::Unsigned, "sign"),
        // Debian's kernels know Debian's key from shim, which is not here: its authority is not built in.
        refused("secure-boot-unknown-key", X86, Form::Plain, "trusted key"),
        refused("secure-boot-load", ARM, Form::Enrolled, "lockdown"),
    ]
}

/// Kernels that start kernels that start kernels.
fn chains() -> Vec<Scenario> {
    const CHAIN: &[Change] = &[Change::Chain { keys: TRUSTED }];
    let chain = |name: &str, kernel, call: Call| {
        let mut scenario = boots(format!("three-in-a-row-{name}"), kernel, call);
        scenario.steps = vec![Step { publish: CHAIN, cmdline: call.cmdline(), expect: Expect::Boots(&[]) }];
        scenario.hops = 3;
        scenario.policy = Some(r#"{"channels":["stable","second","third"]}"#);
        scenario.also.push(Check::Hops(3));
        scenario.row = true;
        scenario
    };
    let mut with_screen = chain("uefi", Id::Debian7(Aarch64), Call::Load);
    under_uefi(&mut with_screen);
    has_screen(&mut with_screen);
    vec![
        chain("file", X86, Call::File),
        chain("load", X86, Call::Load),
        chain("load", ARM, Call::Load),
        chain("file", Id::LabArm64, Call::File),
        with_screen,
    ]
}

/// What the machine is asked to do before the jump.
fn handoff() -> Vec<Scenario> {
    let boots = |name, kernel, cmdline| {
        let step = Step { publish: RELEASE, cmdline, ..Step::new(Expect::Boots(&[])) };
        Scenario::new(name, kernel, vec![step])
    };
    let quiet = |kernel| {
        let mut scenario = boots("links-down-and-devices-reset", kernel, "phase.links=down phase.reset=pci");
        scenario.also = vec![Check::Says("2 PCI devices are taken from their drivers and reset")];
        scenario
    };
    // The next system stays, and feeds no watchdog: nothing else ends this machine. Beside others on a slow
    // host it takes 10 s to its init.
    let mut watched =
        boots("watchdog-handed-over", Id::Debian612(X86_64), "phase.watchdog=30 watchdog.stop_on_reboot=0");
    watched.machine.watchdog = true;
    watched.modules = &["i6300esb"];
    watched.more = "lab.stays".to_owned();
    watched.also = vec![
        Check::Says("watchdog0 resets this machine after 30 s"),
        Check::Says("watchdog0 runs on, 30 s after it was last fed"),
    ];
    vec![quiet(X86), quiet(ARM), watched]
}

/// `phaseboot kexec` in somebody else's script.
fn commands() -> Vec<Scenario> {
    const BROKEN: &str = r#"
phaseboot fetch --out /run/files
cd /run/files
phaseboot kexec --load-only --kernel kernel --initrd initramfs --cmdline "$cmdline"
[ "$(busybox cat /sys/kernel/kexec_loaded)" = 1 ]
phaseboot kexec --status
busybox head -c 100000 kernel >truncated
code=0
phaseboot kexec --kernel truncated --initrd initramfs --cmdline "$cmdline" || code=$?
[ $code = 16 ]
phaseboot kexec --status
[ "$(busybox cat /sys/kernel/kexec_loaded)" = 1 ]
phaseboot kexec --exec
"#;
    const SEVERAL: &str = r#"
phaseboot fetch --out /run/files
cd /run/files
mkdir -p x/target-parts
for name in first second; do
    echo >x/target-parts/$name
    (cd x && busybox find . | busybox cpio -o -H newc) >$name
    busybox rm x/target-parts/$name
done
# Its length is no multiple of 4 now.
printf '\0' >>first
phaseboot kexec --kernel kernel --initrd first --initrd initramfs --initrd second --cmdline "$cmdline"
"#;
    // More than the kernel log holds.
    const WRAPPED: &str = r#"
phaseboot fetch --out /run/files
cd /run/files
phaseboot kexec --dry-run --kernel kernel --initrd initramfs --cmdline "$cmdline"
echo on >/proc/sys/kernel/printk_devkmsg
noise=$(printf '%0900d' 0)
for number in $(busybox seq 2000); do
    echo "<7>$number $noise" >/dev/kmsg
done
phaseboot doctor --kernel kernel --initrd initramfs || echo "doctor: exit code $?"
phaseboot kexec --kernel kernel --initrd initramfs --cmdline "$cmdline" || echo "kexec: exit code $?"
"#;
    let mut wrapped = Scenario::new(
        "gic-v3-log-wrapped",
        ARM,
        vec![Step {
            publish: RELEASE,
            ..Step::new(Expect::Stops(&[
                Check::Prints("blocker  gic                 the kernel log alone tells where"),
                Check::Prints("doctor: exit code 23"),
                Check::Prints("kexec: exit code 23"),
            ]))
        }],
    );
    wrapped.machine.gic = Some(3);
    wrapped.initramfs = Initramfs::Commands(WRAPPED);
    // Nothing is loaded, so that reboot(2) comes back, whatever the file says.
    const REFUSED: &str = r#"
phaseboot fetch --out /run/files
cd /run/files
busybox modprobe virtio_blk
busybox modprobe ext4
mkdir -p /disk
echo 1 >loaded
mount --bind loaded /sys/kernel/kexec_loaded
mount -t ext4 -o nosuid,noatime /dev/vda /disk
[ ! -e /disk/cached ] || echo "kept: $(busybox cat /disk/cached)"
echo >/disk/held
before=$(busybox cat /proc/mounts)
for held in /dev/null /disk/held; do
    exec 7<$held
    code=0
    phaseboot kexec --exec || code=$?
    [ $code = 24 ]
    [ "$(busybox cat /proc/mounts)" = "$before" ]
    echo >/disk/writable
done
exec 7<&-
code=0
busybox unshare -p -f sh -c 'phaseboot kexec --exec; exit $?' || code=$?
[ $code = 20 ]
[ "$(busybox cat /proc/mounts)" = "$before" ]
busybox umount /sys/kernel/kexec_loaded
# Neither unmounted nor made read-only.
exec 8>/disk/cached
echo to-the-last >&8
phaseboot kexec --kernel kernel --initrd initramfs --cmdline "$cmdline"
"#;
    // IMA is to know of the ramdisk, too.
    const MEASURED: &str = r#"
mount -t securityfs securityfs /sys/kernel/security || true
echo measure func=KEXEC_INITRAMFS_CHECK >/sys/kernel/security/ima/policy
phaseboot fetch --out /run/files
cd /run/files
busybox dd if=/dev/zero bs=1M count=128 >>initramfs
phaseboot kexec --kernel kernel --initrd initramfs --cmdline "$cmdline" --load-only
[ "$(busybox grep -c memfd:initrd /sys/kernel/security/ima/ascii_runtime_measurements)" = 1 ]
phaseboot kexec --exec
"#;
    // IMA is to have the last word on the ramdisk, too: kexec_load would ask for none.
    const APPRAISED: &str = r#"
mount -t securityfs securityfs /sys/kernel/security || true
echo appraise func=KEXEC_INITRAMFS_CHECK >/sys/kernel/security/ima/policy
phaseboot fetch --out /run/files
cd /run/files
busybox dd if=/dev/zero bs=1M count=128 >>initramfs
phaseboot kexec --kernel kernel --initrd initramfs --cmdline "$cmdline" --dry-run
phaseboot kexec --kernel kernel --initrd initramfs --cmdline "$cmdline" || echo "kexec: exit code $?"
"#;
    let refused_by_ima = Expect::Stops(&[
        Check::Prints("kexec_load goes first if kexec_file_load takes the files"),
        Check::Prints("kexec_file_load answered EACCES"),
        Check::Prints("kexec: exit code 21"),
    ]);
    let mut appraised = Scenario::new(
        "ima-appraises-ramdisk",
        X86,
        vec![Step { publish: RELEASE, ..Step::new(refused_by_ima) }],
    );
    appraised.initramfs = Initramfs::Commands(APPRAISED);
    let shell = |name, kernel: Id, commands, also: Vec<Check>| {
        let step = Step { publish: RELEASE, ..Step::new(Expect::Boots(&[])) };
        let mut scenario = Scenario::new(name, kernel, vec![step]);
        scenario.initramfs = Initramfs::Commands(commands);
        scenario.also = also;
        scenario
    };
    let mut refused = shell("refused-jumps-leave-disks-alone", X86, REFUSED, vec![]);
    refused.machine.disk = Some(Disk::new(Format::Ext4));
    refused.modules = &["ext4"];
    let again = Expect::Boots(&[Check::Prints("kept: to-the-last")]);
    refused.steps.push(Step { publish: &[], ..Step::new(again) });
    vec![
        shell("broken-kernel-after-good-one", X86, BROKEN, vec![]),
        shell("broken-kernel-after-good-one", ARM, BROKEN, vec![]),
        refused,
        appraised,
        shell("file-if-ima-measures", X86, MEASURED, vec![Check::Says("IMA measures"), Call::File.check()]),
        shell("several-initrds", X86, SEVERAL, vec![Check::Parts(&UKI_PARTS)]),
        wrapped,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn each_way_is_gone_with_one_cpu_and_with_several() {
        let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for scenario in matrix() {
            let (way, _) = scenario.name.split_at("file-bios".len());
            seen.entry(format!("{} {way}", scenario.machine.arch)).or_default().push(scenario.machine.cpus);
        }
        assert_eq!(seen.len(), 8);
        assert!(seen.values().all(|cpus| cpus.contains(&1) && cpus.contains(&4)), "{seen:?}");
    }
}
