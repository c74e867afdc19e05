//! What is known of a machine. What could not be read is None.

use crate::arch::Arch;
use crate::kexec::admission::Needs;
use crate::kexec::{self, Availability, Lockdown, Status};
use crate::meminfo::Meminfo;

/// A machine, as it was found.
#[derive(Debug)]
pub struct Facts {
    pub arch: Arch,
    /// CAP_SYS_BOOT
    pub may_boot: bool,
    /// In a process namespace or user namespace of its own.
    pub is_contained: bool,
    /// kernel.kexec_load_disabled
    pub disabled: Option<i64>,
    /// kernel.kexec_load_limit_reboot
    pub limit: Option<i64>,
    pub file_load: Availability,
    pub load: Availability,
    /// The running kernel's configuration, as its build wrote it.
    pub config: Option<String>,
    pub lockdown: Option<Lockdown>,
    /// None: no UEFI.
    pub secure_boot: Option<SecureBoot>,
    /// IMA's policy appraises kernels that are loaded.
    pub ima_appraises: bool,
    pub selinux_enforces: bool,
    pub cpus: Cpus,
    /// Why the map of memory cannot be used.
    pub memory_map: Result<(), kexec::Error>,
    pub has_kmsg: bool,
    pub firmware: Firmware,
    /// Physical addresses of live interrupt controller tables in memory that is not reserved, or why they are
    /// not known.
    pub exposed: Result<Vec<u64>, kexec::Error>,
    pub memory: Option<Meminfo>,
    pub status: Option<Status>,
    /// Running ones: name, identity, timeout.
    pub watchdogs: Vec<String>,
    /// Where file systems on disks or servers are mounted writable.
    pub writable: Vec<String>,
    /// Network devices that have a driver.
    pub links: Vec<String>,
    /// Those that have none: address, vendor, device, modalias.
    pub driverless: Vec<String>,
    /// There is a route to elsewhere.
    pub is_routed: bool,
}

/// As the firmware's variables have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    On,
    Off,
    /// Off until somebody enrols a key: `SetupMode`.
    Setup,
    /// The variables cannot be read.
    Unreadable,
}

/// What the kernel asks about processors before it loads another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// There can be more than one.
    pub several: bool,
    /// CONFIG_HOTPLUG_CPU
    pub hotplug: bool,
    /// Some of them can be taken offline: the firmware has a way (PSCI).
    pub can_stop: bool,
}

/// How the machine describes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    pub efi: bool,
    /// /sys/firmware/efi/runtime-map
    pub runtime_map: bool,
    pub acpi: bool,
    pub devicetree: bool,
}

/// A kernel that is to be started, and its ramdisks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub needs: Needs,
    /// It carries a signature.
    pub is_signed: bool,
}

impl Facts {
    /// Whether the kernel was built with CONFIG_`name`; None if its configuration is not known.
    pub(super) fn is_built(&self, name: &str) -> Option<bool> {
        let config = self.config.as_ref()?;
        let is_set = |line: &str| {
            line.strip_prefix("CONFIG_")
                .and_then(|line| line.strip_prefix(name))
                .is_some_and(|end| end == "=y")
        };
        Some(config.lines().any(is_set))
    }
}
