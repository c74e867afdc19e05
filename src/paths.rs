//! Every path of the running system that phaseboot reads or writes, under a root that tests can move.

use std::path::{Path, PathBuf};

/// The file system as phaseboot sees it: `/`, or a folder that looks like one.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self::under("/")
    }
}

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
        impl Paths {
            $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.at($path) })*
        }
    };
}

impl Paths {
    /// The same paths below `root`.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The folder `/lib/modules/RELEASE`.
    pub fn modules(&self, release: &str) -> PathBuf {
        self.at("lib/modules").join(release)
    }

    /// `/dev/NAME`, where /sys writes `!` for a slash in NAME: device_get_devnode of drivers/base/core.c.
    pub fn device(&self, name: &str) -> PathBuf {
        self.at("dev").join(name.replace('!', "/"))
    }

    /// A setting of the running kernel, as sysctl(8) names it with slashes.
    pub fn sysctl(&self, name: &str) -> PathBuf {
        self.at("proc/sys").join(name)
    }

    /// Where distributions keep the configuration of the kernel RELEASE.
    pub fn boot_config(&self, release: &str) -> PathBuf {
        self.at("boot").join(format!("config-{release}"))
    }

    /// `/sys/class/net/INTERFACE`
    pub fn interface(&self, interface: &str) -> PathBuf {
        self.at("sys/class/net").join(interface)
    }
}

paths! {
    /// The running kernel's command line.
    kernel_cmdline = "proc/cmdline";
    /// Physical address space: proc(5). Addresses are zero without CAP_SYS_ADMIN.
    iomem = "proc/iomem";
    /// One 64-bit flag word for each page frame: Documentation/admin-guide/mm/pagemap.rst.
    kpageflags = "proc/kpageflags";
    /// Memory figures in kB: proc(5).
    meminfo = "proc/meminfo";
    /// What is mounted: proc(5).
    mountinfo = "proc/self/mountinfo";
    /// `1` when the kernel refuses to load another one, until it reboots.
    kexec_load_disabled = "proc/sys/kernel/kexec_load_disabled";
    /// How many more loads the kernel allows, -1 for any number. Linux 6.3 and newer.
    kexec_load_limit = "proc/sys/kernel/kexec_load_limit_reboot";
    /// `1` when a kernel is loaded.
    kexec_loaded = "sys/kernel/kexec_loaded";
    /// The lockdown mode, the active one in brackets: kernel_lockdown(7).
    lockdown = "sys/kernel/security/lockdown";
    /// The flattened device tree this kernel was given.
    devicetree = "sys/firmware/fdt";
    /// Where every bus lists its devices.
    buses = "sys/bus";
    /// Disks and their partitions.
    block_devices = "sys/class/block";
    /// The firmware's variables: Documentation/filesystems/efivarfs.rst.
    efi_variables = "sys/firmware/efi/efivars";
    /// The machine's UUID, as SMBIOS has it.
    product_uuid = "sys/class/dmi/id/product_uuid";
    /// Watchdogs: Documentation/ABI/testing/sysfs-class-watchdog.
    watchdogs = "sys/class/watchdog";
    /// Network interfaces.
    interfaces = "sys/class/net";
    /// The names of the consoles the kernel writes to.
    active_consoles = "sys/class/tty/console/active";
    /// The IPv4 routing table: proc_pid_net(5).
    routes = "proc/net/route";
    /// What the kernel's own configuration learnt: Documentation/admin-guide/nfs/nfsroot.rst.
    pnp = "proc/net/pnp";
    /// The IPv6 routing table: proc_pid_net(5).
    routes6 = "proc/net/ipv6_route";
    /// The kernel log.
    kmsg = "dev/kmsg";
    /// Trusted keys, policy.
    trust = "etc/phaseboot";
    /// The resolver's configuration: resolv.conf(5).
    resolv_conf = "etc/resolv.conf";
    /// State of this boot.
    run = "run/phaseboot";
    /// Where the cache partition is mounted while it is read or written.
    cache = "run/phaseboot/cache";
    /// The link this boot runs on.
    lease = "run/phaseboot/lease.json";
    /// What was set on the links of this machine.
    links = "run/phaseboot/links.json";
    /// How servers have done so far.
    mirrors = "run/phaseboot/mirrors.json";
    /// x86's memory map as the firmware gave it: Documentation/ABI/testing/sysfs-firmware-memmap.
    firmware_memmap = "sys/firmware/memmap";
    /// x86's zero page as this kernel was given it: Documentation/ABI/testing/sysfs-kernel-boot_params.
    boot_params = "sys/kernel/boot_params/data";
    /// EFI, on machines that have it: Documentation/ABI/testing/sysfs-firmware-efi.
    efi = "sys/firmware/efi";
    /// Some of what EFI's configuration tables are, each as `NAME=0xADDRESS`:
    /// Documentation/ABI/testing/sysfs-firmware-efi.
    efi_systab = "sys/firmware/efi/systab";
    /// Framebuffers.
    framebuffers = "sys/class/graphics";
    /// Physical memory: mem(4).
    memory = "dev/mem";
    /// The kernel's memory as an ELF core file: proc(5).
    kcore = "proc/kcore";
    /// The CPUs and their features: proc(5).
    cpuinfo = "proc/cpuinfo";
    /// Every log record of this boot, a JSON object a line.
    log_jsonl = "run/phaseboot/log.jsonl";
    /// `1` when a kernel is loaded for the case of a panic.
    kexec_crash_loaded = "sys/kernel/kexec_crash_loaded";
    /// This process's namespaces: namespaces(7).
    namespaces = "proc/self/ns";
    /// The running kernel's configuration, with CONFIG_IKCONFIG_PROC.
    config_gz = "proc/config.gz";
    /// IMA's policy, with CONFIG_IMA_READ_POLICY: Documentation/ABI/testing/ima_policy.
    ima_policy = "sys/kernel/security/ima/policy";
    /// The security modules' file system: securityfs.
    security = "sys/kernel/security";
    /// The kernel's symbols, their addresses zero for whoever may not see them: proc(5).
    kallsyms = "proc/kallsyms";
    /// How many entries the list of IMA has: security/integrity/ima/ima_fs.c.
    ima_measurements = "sys/kernel/security/ima/runtime_measurements_count";
    /// `1` when SELinux does more than to write a log.
    selinux_enforce = "sys/fs/selinux/enforce";
    /// Documentation/ABI/testing/sysfs-devices-system-cpu
    cpus = "sys/devices/system/cpu";
    /// There only with ACPI.
    acpi = "sys/firmware/acpi";
}
