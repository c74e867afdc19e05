//! Reads what there is to know: /proc, /sys, the firmware's variables, and the answers of the two
//! system calls to being asked for nothing. Whatever cannot be read stays unknown.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::facts::{Cpus, Facts, Firmware, SecureBoot};
use crate::arch::Arch;
use crate::error::printable;
use crate::image::gunzip;
use crate::kexec::{self, Availability, Lockdown, MemoryMap};
use crate::meminfo::Meminfo;
use crate::net;
use crate::paths::Paths;
use crate::sys;

/// 4 MiB: the text of a kernel's configuration has a few hundred kilobytes.
const MOST_CONFIG_BYTES: usize = 4 << 20;
/// Files of /proc and /sys that grow with the machine.
const MOST_TEXT_BYTES: u64 = 16 << 20;

impl Facts {
    /// Looks at the running machine, which is an `arch`. Loads nothing, changes nothing.
    pub fn read(paths: &Paths, arch: Arch) -> Self {
        let disabled = number(&paths.kexec_load_disabled());
        let limit = number(&paths.kexec_load_limit());
        // Each answer would count against the limit, and with a 1 or a 0 it is known.
        let is_asked = disabled != Some(1) && limit.is_none_or(|left| left < 0);
        let ask = |probe: fn() -> rustix::io::Errno| {
            if is_asked { probe().into() } else { Availability::Unknown }
        };
        let memory_map =
            text(&paths.iomem()).ok_or(kexec::Error::IomemHidden).and_then(|it| MemoryMap::parse(&it));
        let is_free = |map: &MemoryMap, table: &std::ops::Range<u64>| map.usable.contains(table);
        let exposed = match (&memory_map, arch) {
            (Ok(map), Arch::Aarch64) if sys::arch::loads(Arch::Aarch64) => {
                kexec::live_tables(paths).map(|live| {
                    live.into_iter().filter(|table| is_free(map, table)).map(|table| table.start).collect()
                })
            }
            _ => Ok(Vec::new()),
        };
        let efi = paths.efi().exists();
        Self {
            arch,
            may_boot: kexec::may_boot(),
            is_contained: kexec::is_contained(paths),
            disabled,
            limit,
            file_load: ask(sys::kexec::probe_file_load),
            load: ask(sys::kexec::probe_load),
            config: config(paths),
            lockdown: text(&paths.lockdown()).map(|modes| Lockdown::parse(&modes)),
            secure_boot: efi.then(|| secure_boot(&paths.efi_variables())),
            ima_appraises: text(&paths.ima_policy()).is_some_and(|policy| appraises_kernels(&policy)),
            selinux_enforces: number(&paths.selinux_enforce()) == Some(1),
            cpus: cpus(&paths.cpus()),
            memory_map: memory_map.map(drop),
            has_kmsg: File::open(paths.kmsg()).is_ok(),
            firmware: Firmware {
                efi,
                runtime_map: paths.efi().join("runtime-map").exists(),
                acpi: paths.acpi().exists(),
                devicetree: paths.devicetree().exists(),
            },
            exposed,
            memory: Meminfo::read(paths),
            status: kexec::status(paths).ok(),
            watchdogs: entries(&paths.watchdogs()).iter().filter_map(|dog| watchdog(dog)).collect(),
            writable: text(&paths.mountinfo()).map(|text| writable(&text)).unwrap_or_default(),
            links: entries(&paths.interfaces())
                .iter()
                .filter(|link| link.join("device").exists())
                .map(|link| name(link))
                .collect(),
            driverless: driverless(&paths.buses()),
            is_routed: net::is_routed(paths),
        }
    }
}

fn bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST_TEXT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn text(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&bytes(path)?).into_owned())
}

/// A file with one line.
fn line(path: &Path) -> Option<String> {
    text(path).map(|text| printable(text.trim()))
}

fn number(path: &Path) -> Option<i64> {
    text(path)?.trim().parse().ok()
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| printable(&name.to_string_lossy())).unwrap_or_default()
}

/// Of /proc/config.gz, else of /boot.
fn config(paths: &Paths) -> Option<String> {
    let packed = bytes(&paths.config_gz()).and_then(|packed| gunzip(&packed, MOST_CONFIG_BYTES));
    if let Some(config) = packed {
        return Some(String::from_utf8_lossy(&config).into_owned());
    }
    let release = line(&paths.sysctl("kernel/osrelease"))?;
    text(&paths.boot_config(&release))
}

/// The global variables of the UEFI specification; four bytes of attributes come first:
/// Documentation/filesystems/efivarfs.rst.
fn secure_boot(variables: &Path) -> SecureBoot {
    let value = |variable: &str| {
        let file = variables.join(format!("{variable}-8be4df61-93ca-11d2-aa0d-00e098032b8c"));
        let mut bytes = [0; 5];
        File::open(file).ok()?.read_exact(&mut bytes).ok()?;
        bytes.last().copied()
    };
    match (value("SecureBoot"), value("SetupMode")) {
        (Some(1), _) => SecureBoot::On,
        (Some(_), Some(1)) => SecureBoot::Setup,
        (Some(_), _) => SecureBoot::Off,
        (None, _) => SecureBoot::Unreadable,
    }
}

/// Documentation/ABI/testing/ima_policy
fn appraises_kernels(policy: &str) -> bool {
    policy.lines().any(|rule| {
        let mut words = rule.split_whitespace();
        words.next() == Some("appraise") && words.any(|word| word == "func=KEXEC_KERNEL_CHECK")
    })
}

/// Documentation/ABI/testing/sysfs-devices-system-cpu
fn cpus(folder: &Path) -> Cpus {
    Cpus {
        several: text(&folder.join("possible")).is_some_and(|list| list.contains(['-', ','])),
        hotplug: folder.join("hotplug").exists(),
        can_stop: entries(folder).iter().any(|cpu| cpu.join("online").is_file()),
    }
}

/// A watchdog that is running: Documentation/ABI/testing/sysfs-class-watchdog.
fn watchdog(folder: &Path) -> Option<String> {
    let of = |file: &str| line(&folder.join(file));
    if of("state").as_deref() != Some("active") {
        return None;
    }
    let word = |file: &str| of(file).unwrap_or_else(|| "?".to_owned());
    Some(format!("{} ({}, {} s)", name(folder), word("identity"), word("timeout")))
}

/// Where something on a disk or a server is mounted writable, each file system once: proc(5).
fn writable(mountinfo: &str) -> Vec<String> {
    const SERVERS: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs"];
    let mut devices = Vec::new();
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mut mount = mount.split(' ').skip(2);
        let (Some(device), Some(point)) = (mount.next(), mount.nth(1)) else { continue };
        let mut file_system = file_system.split(' ');
        let (Some(kind), Some(source)) = (file_system.next(), file_system.next()) else { continue };
        let is_writable = file_system.next().is_some_and(|options| options.split(',').any(|one| one == "rw"));
        let lasts = source.starts_with("/dev/") || SERVERS.contains(&kind);
        if is_writable && lasts && !devices.contains(&device) {
            devices.push(device);
            found.push(printable(point));
        }
    }
    found
}

/// Network devices that no driver has taken: of PCI by their class, of virtio by their kind, of USB by
/// the class of an interface. What else there is does not say what it is.
fn driverless(buses: &Path) -> Vec<String> {
    let is_card = |bus: &str, device: &Path| {
        let of = |file: &str| line(&device.join(file)).unwrap_or_default();
        match bus {
            // Base class 02h of the PCI Code and ID Assignment Specification.
            "pci" => of("class").starts_with("0x02"),
            // virtio, section 5.1: Network Device.
            "virtio" => of("device") == "0x0001",
            // CDC: Ethernet Control Model, Network Control Model, Mobile Broadband.
            _ => {
                of("bInterfaceClass") == "02"
                    && ["06", "0d", "0e"].contains(&of("bInterfaceSubClass").as_str())
            }
        }
    };
    let mut found = Vec::new();
    for bus in ["pci", "virtio", "usb"] {
        for device in entries(&buses.join(bus).join("devices")) {
            if is_card(bus, &device) && !device.join("driver").exists() {
                let of = |file: &str| {
                    line(&device.join(file))
                        .map_or("?".to_owned(), |id| id.trim_start_matches("0x").to_owned())
                };
                let id =
                    if bus == "usb" { String::new() } else { format!(" {}:{}", of("vendor"), of("device")) };
                found.push(format!("{bus} {}{id} ({})", name(&device), of("modalias")));
            }
        }
    }
    found
}
