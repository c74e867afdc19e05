use super::facts::{Cpus, Firmware, SecureBoot};
use super::*;
use crate::arch::Arch;
use crate::error::Error;
use crate::kexec::admission::Needs;
use crate::kexec::{self, Availability, Lockdown, Status};
use crate::meminfo::Meminfo;
use crate::paths::Paths;
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const EPERM: Availability = Availability::Refused(Errno::PERM);

/// A server in whose way nothing is.
fn server(arch: Arch) -> Facts {
    Facts {
        arch,
        may_boot: true,
        is_contained: false,
        disabled: Some(0),
        limit: Some(-1),
        file_load: Availability::Available,
        load: Availability::Available,
        config: None,
        lockdown: Some(Lockdown::None),
        secure_boot: None,
        ima_appraises: false,
        selinux_enforces: false,
        cpus: Cpus { several: true, hotplug: true, can_stop: true },
        memory_map: Ok(()),
        has_kmsg: true,
        firmware: Firmware { efi: false, runtime_map: false, acpi: true, devicetree: false },
        exposed: Ok(Vec::new()),
        memory: Some(Meminfo { total: 2 << 30, available: 1 << 30 }),
        status: Some(Status { kernel: false, crash_kernel: false }),
        watchdogs: Vec::new(),
        writable: Vec::new(),
        links: vec!["eth0".to_owned()],
        driverless: Vec::new(),
        is_routed: true,
    }
}

/// A kernel without a signature, and so many megabytes of ramdisk.
fn image(megabytes: u64) -> Image {
    let needs = Needs { here: 0, ..Needs::loading(14 << 20, 40 << 20, megabytes << 20) };
    Image { needs, is_signed: false }
}

fn x86(change: impl FnOnce(&mut Facts)) -> Report {
    let mut facts = server(Arch::X86_64);
    change(&mut facts);
    judge(&facts, None)
}

fn arm(change: impl FnOnce(&mut Facts)) -> Report {
    let mut facts = server(Arch::Aarch64);
    change(&mut facts);
    judge(&facts, None)
}

fn of<'a>(report: &'a Report, name: &str) -> &'a Check {
    report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name} in\n{report}"))
}

fn config(options: &str) -> Option<String> {
    Some(options.split_whitespace().map(|option| format!("CONFIG_{option}\n")).collect())
}

#[test]
fn nothing_is_in_the_way_of_a_healthy_machine() {
    for report in [x86(|_| ()), arm(|_| ())] {
        assert_eq!(report.blocker(), None);
        assert!(
            report.checks.iter().all(|check| check.state == State::Ok && check.cure.is_empty()),
            "{report}"
        );
    }
}

#[test]
fn each_blocker_has_its_exit_code_and_its_cure() {
    use Availability::{Available, Missing, Unknown};
    for (report, name, exit) in [
        (x86(|it| it.may_boot = false), "privilege", Exit::KexecUnavailable),
        (x86(|it| it.is_contained = true), "privilege", Exit::KexecUnavailable),
        (x86(|it| it.disabled = Some(1)), "kexec_load_disabled", Exit::KexecUnavailable),
        (x86(|it| it.limit = Some(0)), "kexec_load_limit", Exit::KexecUnavailable),
        (x86(|it| (it.file_load, it.load) = (Missing, Missing)), "kexec_file_load", Exit::KexecUnavailable),
        (x86(|it| (it.file_load, it.load) = (Missing, EPERM)), "kexec_load", Exit::KexecRefused),
        (x86(|it| (it.file_load, it.load) = (EPERM, EPERM)), "kexec_file_load", Exit::KexecRefused),
        (
            arm(|it| {
                (it.file_load, it.load, it.lockdown) = (Missing, EPERM, Some(Lockdown::Integrity));
            }),
            "kexec_load",
            Exit::KexecRefused,
        ),
        (arm(|it| it.cpus.hotplug = false), "cpus", Exit::LoadFailed),
        (arm(|it| it.cpus.can_stop = false), "cpus", Exit::LoadFailed),
        (
            arm(|it| (it.file_load, it.memory_map) = (Missing, Err(kexec::Error::IomemHidden))),
            "memory map",
            Exit::KexecUnavailable,
        ),
        (arm(|it| (it.load, it.exposed) = (Missing, Ok(vec![0x421a_0000]))), "gic", Exit::LoadFailed),
        (arm(|it| it.exposed = Err(kexec::Error::TablesUnknown)), "gic", Exit::LoadFailed),
        (x86(|it| (it.links.clear(), it.is_routed = false).1), "network", Exit::NoNetwork),
    ] {
        assert_eq!(report.blocker(), Some((name, exit)), "{report}");
        for check in &report.checks {
            let needs_cure = !matches!(check.state, State::Ok | State::Unknown);
            assert!(!needs_cure || !check.cure.is_empty(), "{check}");
        }
    }
    // Neither of these is known to be in the way.
    for report in [
        x86(|it| (it.file_load, it.load) = (Unknown, Unknown)),
        x86(|it| (it.file_load, it.load) = (Missing, Available)),
        x86(|it| (it.file_load, it.load) = (Available, EPERM)),
        x86(|it| it.memory_map = Err(kexec::Error::IomemHidden)),
        x86(|it| (it.cpus.hotplug, it.cpus.can_stop) = (false, false)),
        arm(|it| (it.cpus.several, it.cpus.hotplug, it.cpus.can_stop) = (false, false, false)),
        x86(|it| it.links.clear()),
        x86(|it| it.is_routed = false),
    ] {
        assert_eq!(report.blocker(), None, "{report}");
    }
}

#[test]
fn the_first_blocker_is_the_one_that_a_boot_meets_first() {
    let report = x86(|it| {
        it.disabled = Some(1);
        it.memory = Some(Meminfo { total: 0, available: 0 });
        it.links.clear();
        it.is_routed = false;
    });
    assert_eq!(report.blocker(), Some(("kexec_load_disabled", Exit::KexecUnavailable)));
    assert!(of(&report, "kexec_load_disabled").cure.contains("reboot"));
}

#[test]
fn without_privilege_a_call_that_is_refused_is_there() {
    let report = x86(|it| (it.may_boot, it.file_load, it.load) = (false, EPERM, Availability::Missing));
    assert_eq!(of(&report, "kexec_file_load").state, State::Unknown);
    assert_eq!(of(&report, "kexec_load").state, State::Ok);
    assert_eq!(report.blocker(), Some(("privilege", Exit::KexecUnavailable)));
    let blockers = report.checks.iter().filter(|check| matches!(check.state, State::Blocker(_)));
    assert_eq!(blockers.count(), 1, "{report}");
}

#[test]
fn a_call_that_is_built_in_and_missing_is_filtered() {
    let report = x86(|it| {
        (it.file_load, it.load) = (Availability::Missing, Availability::Missing);
        it.config = config("KEXEC=y KEXEC_FILE_X=y");
    });
    assert!(of(&report, "kexec_load").saw.contains("filters system calls"), "{report}");
    assert!(of(&report, "kexec_file_load").saw.contains("not built in"), "{report}");
}

#[test]
fn what_demands_a_signature_is_named_and_decides_over_an_unsigned_kernel() {
    let unsigned = image(0);
    let signed = Image { is_signed: true, ..unsigned };
    let locked = |facts: &mut Facts| (facts.lockdown, facts.load) = (Some(Lockdown::Integrity), EPERM);
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Facts), State, State);
    let cases: [Case<'_>; 7] = [
        ("none demanded", &|_| (), State::Ok, State::Ok),
        ("lockdown", &|it| locked(it), State::Warning, State::Blocker(Exit::KexecRefused)),
        // Nobody checks where nothing can be checked.
        (
            "none demanded",
            &|it| {
                locked(it);
                it.config = config("KEXEC_FILE=y");
            },
            State::Ok,
            State::Ok,
        ),
        // kexec_load asks for none.
        ("KEXEC_SIG_FORCE", &|it| it.config = config("KEXEC_SIG_FORCE=y"), State::Warning, State::Warning),
        (
            "KEXEC_SIG_FORCE",
            &|it| (it.config, it.load) = (config("KEXEC_SIG_FORCE=y"), Availability::Missing),
            State::Warning,
            State::Blocker(Exit::KexecRefused),
        ),
        (
            "Secure Boot",
            &|it| {
                (it.secure_boot, it.load) = (Some(SecureBoot::On), EPERM);
                it.config = config("KEXEC_SIG=y IMA_ARCH_POLICY=y");
            },
            State::Warning,
            State::Blocker(Exit::KexecRefused),
        ),
        (
            "IMA",
            &|it| (it.ima_appraises, it.load) = (true, Availability::Refused(Errno::ACCESS)),
            State::Warning,
            State::Blocker(Exit::KexecRefused),
        ),
    ];
    for (who, change, with_signature, without) in cases {
        let mut facts = server(Arch::X86_64);
        change(&mut facts);
        for (image, expected) in [(signed, with_signature), (unsigned, without)] {
            let report = judge(&facts, Some(&Ok(image)));
            let check = of(&report, "signature");
            assert_eq!(check.state, expected, "{who}: {report}");
            assert!(check.saw.contains(who), "{check}");
        }
        assert_eq!(judge(&facts, None).blocker(), None);
    }
}

#[test]
fn a_given_kernel_has_to_be_one_and_to_fit() {
    let facts = server(Arch::X86_64);
    let report = judge(&facts, Some(&Ok(image(100))));
    assert_eq!(report.blocker(), None);
    assert!(of(&report, "memory").saw.contains("enough for kexec_file_load and kexec_load"), "{report}");
    let frugal = judge(&facts, Some(&Ok(image(400))));
    assert!(of(&frugal, "memory").saw.ends_with("enough for kexec_load"), "{frugal}");
    for (huge, says) in [(image(900), "are missing"), (image(1 << 40), "half of the memory")] {
        let report = judge(&facts, Some(&Ok(huge)));
        assert_eq!(report.blocker(), Some(("memory", Exit::NotEnoughMemory)));
        assert!(of(&report, "memory").saw.contains(says), "{report}");
    }
    // What only the other call could do.
    let mut picky = server(Arch::X86_64);
    picky.load = Availability::Missing;
    assert_eq!(judge(&picky, Some(&Ok(image(400)))).blocker(), Some(("memory", Exit::NotEnoughMemory)));
    let bad = crate::image::Header::parse("kernel", b"<html>", Arch::X86_64).unwrap_err();
    let report = judge(&facts, Some(&Err(bad.into())));
    assert_eq!(report.blocker(), Some(("kernel", Exit::ImageUnusable)), "{report}");
    assert!(of(&report, "kernel").saw.contains("web page"));
    // A kernel that is here needs no network.
    let mut facts = server(Arch::X86_64);
    facts.links.clear();
    facts.is_routed = false;
    let report = judge(&facts, Some(&Ok(image(1))));
    assert_eq!((report.blocker(), of(&report, "network").state), (None, State::Warning));
}

#[test]
fn what_should_be_known_is_a_warning() {
    let report = arm(|it| {
        it.exposed = Ok(vec![0x421a_0000]);
        it.has_kmsg = false;
        it.status = Some(Status { kernel: true, crash_kernel: true });
        it.watchdogs = vec!["watchdog0 (SBSA, 60 s)".to_owned()];
        it.writable = (0..9).map(|number| format!("/{number}")).collect();
        it.selinux_enforces = true;
        it.lockdown = None;
    });
    assert_eq!(report.blocker(), None);
    for name in ["gic", "kernel log", "loaded", "watchdog", "mounts", "selinux"] {
        assert_eq!(of(&report, name).state, State::Warning);
    }
    assert!(of(&report, "gic").saw.contains("0x421a0000"));
    assert_eq!(of(&report, "mounts").saw, "writable: /0, /1, /2, /3, ...");
    assert_eq!(of(&report, "lockdown").state, State::Unknown);
    let uefi = |runtime_map| Firmware { efi: true, runtime_map, acpi: true, devicetree: false };
    let report = x86(|it| (it.firmware, it.secure_boot) = (uefi(false), Some(SecureBoot::Setup)));
    assert_eq!(of(&report, "firmware").state, State::Warning);
    assert!(of(&report, "secure boot").saw.contains("setup mode"));
    assert_eq!(of(&x86(|it| it.firmware = uefi(true)), "firmware").saw, "UEFI, ACPI");
}

#[test]
fn people_get_a_line_a_check_and_programs_an_object() {
    let report = x86(|it| it.disabled = Some(1));
    let line = report.to_string().lines().nth(1).unwrap().to_owned();
    assert!(line.starts_with("blocker  kexec_load_disabled 1; nothing but a reboot"), "{line}");
    let object: serde_json::Value = serde_json::from_str(&report.as_json()).unwrap();
    assert_eq!((&object["ok"], &object["exit"]), (&false.into(), &20.into()));
    let checks = object["checks"].as_array().unwrap();
    assert_eq!(checks.len(), report.checks.len());
    assert_eq!(checks[1]["name"], "kexec_load_disabled");
    assert_eq!((&checks[1]["state"], &checks[1]["saw"]), (&"blocker".into(), &"1".into()));
    let object: serde_json::Value = serde_json::from_str(&x86(|_| ()).as_json()).unwrap();
    assert_eq!((&object["ok"], &object["exit"]), (&true.into(), &0.into()));
}

/// A folder that looks like a machine. Its kernel counts loads, so that this machine's is not asked.
fn machine(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Paths) {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), &[("proc/sys/kernel/kexec_load_limit_reboot", b"5\n")]);
    put(root.path(), files);
    let paths = Paths::under(root.path());
    (root, paths)
}

fn put(root: &Path, files: &[(&str, &[u8])]) {
    for (file, text) in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packer, text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_laptop_with_secure_boot() {
    let (root, paths) = machine(&[
        ("proc/sys/kernel/kexec_load_disabled", b"0\n"),
        ("proc/config.gz", &gzip("CONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG=y\n# CONFIG_KEXEC is not set\n")),
        ("sys/kernel/security/lockdown", b"none [integrity] confidentiality\n"),
        ("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\x01"),
        ("sys/firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\0"),
        ("sys/firmware/efi/runtime-map/0/attribute", b"0x0\n"),
        ("sys/firmware/acpi/pm_profile", b"2\n"),
        ("sys/kernel/security/ima/policy", b"measure func=KEXEC_KERNEL_CHECK\nappraise func=MODULE_CHECK\n"),
        ("sys/kernel/kexec_loaded", b"1\n"),
        ("sys/fs/selinux/enforce", b"1"),
        ("proc/meminfo", b"MemTotal: 16384 kB\nMemAvailable:   8192 kB\n"),
        ("proc/iomem", b"00000000-00000000 : System RAM\n"),
        ("dev/kmsg", b""),
        ("sys/class/watchdog/watchdog0/state", b"active\n"),
        ("sys/class/watchdog/watchdog0/identity", b"iTCO_wdt\n"),
        ("sys/class/watchdog/watchdog0/timeout", b"30\n"),
        ("sys/class/watchdog/watchdog1/state", b"inactive\n"),
        (
            "proc/self/mountinfo",
            b"21 1 0:2 / / rw - rootfs none rw\n\
              22 21 259:2 / /home rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
              23 21 259:2 /sub /srv rw - ext4 /dev/nvme0n1p2 rw\n\
              24 21 259:3 / /boot ro - vfat /dev/nvme0n1p3 ro\n\
              25 21 0:40 / /net rw - nfs4 10.0.0.1:/x rw,vers=4.2\n\
              26 21 0:41 / /tmp rw - tmpfs tmpfs rw\n\
              broken\n",
        ),
        ("sys/class/net/lo/type", b"772\n"),
        ("sys/class/net/wlan0/device/vendor", b"0x8086\n"),
        ("sys/bus/pci/devices/0000:00:1f.6/class", b"0x020000\n"),
        ("sys/bus/pci/devices/0000:00:1f.6/vendor", b"0x8086\n"),
        ("sys/bus/pci/devices/0000:00:1f.6/device", b"0x15fb\n"),
        ("sys/bus/pci/devices/0000:00:1f.6/modalias", b"pci:v00008086d000015FB\n"),
        ("sys/bus/pci/devices/0000:00:14.3/class", b"0x028000\n"),
        ("sys/bus/pci/devices/0000:00:14.3/driver/bind", b""),
        ("sys/bus/pci/devices/0000:00:02.0/class", b"0x030000\n"),
        ("sys/bus/usb/devices/1-1:2.0/bInterfaceClass", b"02\n"),
        ("sys/bus/usb/devices/1-1:2.0/bInterfaceSubClass", b"06\n"),
        ("sys/bus/usb/devices/1-2:1.0/bInterfaceClass", b"02\n"),
        ("sys/bus/usb/devices/1-2:1.0/bInterfaceSubClass", b"02\n"),
    ]);
    fs::create_dir_all(root.path().join("proc/self/ns")).unwrap();
    symlink("pid:[4026531836]", root.path().join("proc/self/ns/pid")).unwrap();
    let mut facts = Facts::read(&paths, Arch::X86_64);
    assert_eq!((facts.disabled, facts.limit, facts.is_contained), (Some(0), Some(5), false));
    assert_eq!((facts.file_load, facts.load), (Availability::Unknown, Availability::Unknown));
    assert_eq!((facts.is_built("KEXEC_FILE"), facts.is_built("KEXEC")), (Some(true), Some(false)));
    assert_eq!((facts.lockdown, facts.secure_boot), (Some(Lockdown::Integrity), Some(SecureBoot::On)));
    assert_eq!((facts.ima_appraises, facts.selinux_enforces), (false, true));
    assert!(facts.firmware.runtime_map && facts.firmware.acpi && !facts.firmware.devicetree);
    assert_eq!(facts.memory, Some(Meminfo { total: 16 << 20, available: 8 << 20 }));
    assert!(matches!(facts.memory_map, Err(kexec::Error::IomemHidden)));
    assert_eq!(facts.status, Some(Status { kernel: true, crash_kernel: false }));
    assert_eq!(facts.watchdogs, ["watchdog0 (iTCO_wdt, 30 s)"]);
    assert_eq!(facts.writable, ["/home", "/net"]);
    assert_eq!(facts.links, ["wlan0"]);
    assert_eq!(facts.driverless, ["pci 0000:00:1f.6 8086:15fb (pci:v00008086d000015FB)", "usb 1-1:2.0 (?)"]);
    facts.may_boot = true;
    let report = judge(&facts, Some(&Ok(image(0))));
    assert_eq!(report.blocker(), Some(("signature", Exit::KexecRefused)), "{report}");
    symlink("user:[4026532000]", root.path().join("proc/self/ns/user")).unwrap();
    assert!(Facts::read(&paths, Arch::X86_64).is_contained);
}

#[test]
fn a_board_without_psci() {
    let table = b"6,67,0,-;GICv3: using LPI property table @0x00000000421a0000\n";
    let (root, paths) = machine(&[
        ("sys/devices/system/cpu/possible", b"0-3\n"),
        ("sys/devices/system/cpu/hotplug/states", b""),
        ("sys/devices/system/cpu/cpu0/topology/core_id", b"0\n"),
        ("sys/devices/system/cpu/online", b"0-3\n"),
        ("sys/firmware/fdt", b"\xd0\x0d\xfe\xed"),
        ("proc/iomem", include_bytes!("../kexec/testdata/iomem-qemu-virt-gicv3.txt")),
        ("dev/kmsg", table),
        ("boot/config-6.1.0-arm64", b"CONFIG_KEXEC=y\n"),
        ("proc/sys/kernel/osrelease", b"6.1.0-arm64\n"),
        ("sys/bus/virtio/devices/virtio0/device", b"0x0001\n"),
        ("sys/bus/virtio/devices/virtio0/vendor", b"0x1af4\n"),
        ("sys/bus/virtio/devices/virtio0/modalias", b"virtio:d00000001v00001AF4\n"),
        ("sys/bus/virtio/devices/virtio1/device", b"0x0002\n"),
    ]);
    let mut facts = Facts::read(&paths, Arch::Aarch64);
    assert_eq!(facts.cpus, Cpus { several: true, hotplug: true, can_stop: false });
    assert_eq!((facts.lockdown, facts.secure_boot, facts.memory), (None, None, None));
    assert_eq!(facts.is_built("KEXEC"), Some(true));
    assert_eq!(facts.driverless, ["virtio virtio0 1af4:0001 (virtio:d00000001v00001AF4)"]);
    assert_eq!(facts.exposed.as_ref().unwrap(), &[0x421a_0000], "{:?}", facts.memory_map);
    assert!(facts.firmware.devicetree && !facts.firmware.efi);
    facts.may_boot = true;
    let report = judge(&facts, None);
    assert_eq!(report.blocker(), Some(("cpus", Exit::LoadFailed)), "{report}");
    put(root.path(), &[("sys/devices/system/cpu/cpu1/online", b"1\n")]);
    let mut facts = Facts::read(&paths, Arch::Aarch64);
    facts.may_boot = true;
    assert_eq!(judge(&facts, None).blocker(), Some(("network", Exit::NoNetwork)));
    // What told of the tables has been overwritten.
    put(
        root.path(),
        &[
            ("dev/kmsg", b"6,67,0,-;noise\n"),
            ("sys/firmware/fdt", include_bytes!("../devicetree/testdata/qemu-virt-gicv3.dtb")),
        ],
    );
    let mut facts = Facts::read(&paths, Arch::Aarch64);
    facts.may_boot = true;
    let report = judge(&facts, None);
    assert_eq!(report.blocker(), Some(("gic", Exit::LoadFailed)));
    assert!(of(&report, "gic").cure.contains("log_buf_len="), "{report}");
}

#[test]
fn a_plan_that_fails_stops_a_boot() {
    let mut report = x86(|_| ());
    let error = kexec::Error::NoPlace { what: "the kernel", size: 1 << 32, largest: 1 << 30 };
    report.add_plan(&Err(error.into()));
    assert_eq!(report.blocker(), Some(("plan", Exit::NotEnoughMemory)));
    let check = of(&report, "plan");
    assert!(check.saw.starts_with("no place for the kernel") && !check.cure.is_empty(), "{check}");
}

#[test]
fn a_machine_that_shows_nothing_is_unknown_and_never_a_panic() {
    let (_root, paths) = machine(&[]);
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let mut facts = Facts::read(&paths, arch);
        facts.may_boot = true;
        let report = judge(&facts, None);
        assert_eq!(of(&report, "lockdown").state, State::Unknown);
        assert_eq!(of(&report, "memory").state, State::Unknown);
        assert_eq!(report.blocker(), Some(("network", Exit::NoNetwork)), "{report}");
    }
    let (_root, paths) = machine(&[
        ("proc/config.gz", b"\x1f\x8b\x08 cut"),
        ("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0"),
        ("proc/meminfo", b"MemAvailable: many kB\n"),
        ("proc/iomem", b"\xff\xff"),
        ("proc/self/mountinfo", b" - \n1 2 - a\n - - -\n"),
        ("sys/kernel/security/lockdown", b"["),
        ("sys/bus/pci/devices/x/class", b"0x02\x1b[2J"),
    ]);
    let facts = Facts::read(&paths, Arch::X86_64);
    assert_eq!((facts.config.as_ref(), facts.memory), (None, None));
    assert_eq!(facts.secure_boot, Some(SecureBoot::Unreadable));
    assert_eq!(facts.driverless, ["pci x ?:? (?)"]);
    let report = judge(&facts, Some(&Err(Error::Kexec(kexec::Error::NoRam))));
    assert!(!report.to_string().contains('\x1b') && report.blocker().is_some());
}
