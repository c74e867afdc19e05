//! What can go wrong on the way into the next kernel.

use std::io;

use rustix::io::Errno;

use super::attempt::telling;
use super::errno::explain;
use super::{Attempted, Call, Lockdown, Method, Untried, x86_64};
use crate::devicetree;
use crate::error::Exit;
use crate::log::bytes;

/// Every call that was tried, then those that were not.
fn report(attempts: &[Attempted], untried: &[Untried]) -> String {
    let tried: Vec<String> = attempts.iter().map(ToString::to_string).collect();
    let mut report = tried.join("; then ");
    for untried in untried {
        report.push_str(&format!("; {untried}"));
    }
    report
}

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sysctl is set.
    #[error("kernel.kexec_load_disabled is 1: this kernel loads no other one until it is rebooted")]
    Disabled,
    /// The sysctl has counted down.
    #[error("kernel.kexec_load_limit_reboot is 0: this kernel loads no other one until it is rebooted")]
    Exhausted,
    /// Neither call is built in, or not the one that was asked for.
    #[error("this kernel was built without {}", missing(*method))]
    Missing { method: Method },
    /// kernel_lockdown(7)
    #[error("the kernel is locked down ({mode}) and refuses kexec_load")]
    LockedDown { mode: &'static str },
    /// Not by lockdown.
    #[error("{call} is not permitted ({errno})")]
    NotPermitted { call: Call, errno: Errno },
    /// Over what the next kernel reads.
    #[error("the command line for the next kernel is {length} bytes long, it reads at most {limit}")]
    CmdlineTooLong { length: usize, limit: usize },
    /// The kernel would stop reading there.
    #[error("control characters in the command line \"{text}\"")]
    CmdlineCharacter { text: String },
    /// It would swallow what follows.
    #[error("a quote that is not closed in the command line \"{text}\"")]
    CmdlineQuote { text: String },
    /// A file of the running system.
    #[error("read {path}: {source}")]
    Read { path: String, source: io::Error },
    /// Not as the kernel writes it.
    #[error("/proc/iomem line {number} is malformed: \"{line}\"")]
    Iomem { number: usize, line: String },
    /// All addresses are zero.
    #[error("/proc/iomem hides all addresses")]
    IomemHidden,
    /// No line says System RAM.
    #[error("/proc/iomem shows no usable memory")]
    NoRam,
    /// Memory is too small or too fragmented.
    #[error("no place for {what}: {} wanted, {} is the largest piece of usable memory", bytes(*size), bytes(*largest))]
    NoPlace { what: &'static str, size: u64, largest: u64 },
    /// The files and the copies that loading makes would not fit.
    #[error(
        "kernel and initramfs need about {} of memory while they are loaded, {} are available, {} are missing",
        bytes(*.needed),
        bytes(*.available),
        bytes(needed.saturating_sub(*available))
    )]
    Memory { needed: u64, available: u64 },
    /// The kernel answers EINVAL to this, however much is free.
    #[error(
        "kernel and initramfs need {} once they are unpacked and placed, a kernel loads at most half of the memory: {}",
        bytes(*.size),
        bytes(*.half)
    )]
    OverHalf { size: u64, half: u64 },
    /// kexec_file_load places things itself, and knows nothing of these tables.
    #[error(
        "kexec_file_load would load over the interrupt controller's live table at {address:#x}, which destroys the next kernel"
    )]
    LiveTable { address: u64 },
    /// The kernel log has wrapped, or cannot be read.
    #[error(
        "the kernel log alone tells where the interrupt controller's live tables are, and its beginning cannot be read"
    )]
    TablesUnknown,
    /// The tree for the next kernel.
    #[error(transparent)]
    DeviceTree(#[from] devicetree::Error),
    /// The verified memory cannot be mapped.
    #[error("map {name}: {errno}")]
    Map { name: &'static str, errno: Errno },
    /// The plan has no way that suits this kernel image.
    #[error("no kexec call is left for this kernel image")]
    NoWay,
    /// Every call of the plan that was worth a try was refused.
    #[error("{}", report(attempts, untried))]
    Load { attempts: Vec<Attempted>, untried: Vec<Untried> },
    /// /sys/kernel/kexec_loaded does not say 1; nothing was touched.
    #[error("no kernel is loaded")]
    NothingLoaded,
    /// reboot(2) would refuse; nothing was touched.
    #[error("this process may not start another kernel: {reason}")]
    MayNotStart { reason: &'static str },
    /// A device tree was given, but no call that takes one can be used.
    #[error("a device tree can only be given to kexec_load on arm64")]
    TreeNotTaken,
    /// reboot(2) came back.
    #[error("reboot(LINUX_REBOOT_CMD_KEXEC) came back: {errno}")]
    Exec { errno: Errno },
    /// The loaded kernel is still there.
    #[error("unload: {}", Attempted { call: Call::Load, errno: *errno, lockdown: Lockdown::None })]
    Unload { errno: Errno },
    /// kexec_load of an x86_64 kernel.
    #[error(transparent)]
    X86(#[from] x86_64::Error),
}

const MORE_MEMORY: &str = "give the machine more memory, or use smaller images";

fn missing(method: Method) -> &'static str {
    match method {
        Method::Auto => "kexec_file_load and without kexec_load",
        Method::File => "kexec_file_load",
        Method::Load => "kexec_load",
    }
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotPermitted { errno: Errno::ACCESS, .. } | Self::LockedDown { .. } => Exit::KexecRefused,
            Self::Disabled
            | Self::Exhausted
            | Self::Missing { .. }
            | Self::NotPermitted { .. }
            | Self::MayNotStart { .. }
            | Self::IomemHidden => Exit::KexecUnavailable,
            Self::NoPlace { .. } | Self::Map { .. } | Self::Memory { .. } | Self::OverHalf { .. } => {
                Exit::NotEnoughMemory
            }
            Self::CmdlineTooLong { .. }
            | Self::CmdlineCharacter { .. }
            | Self::CmdlineQuote { .. }
            | Self::Read { .. }
            | Self::Iomem { .. }
            | Self::NoRam
            | Self::LiveTable { .. }
            | Self::TablesUnknown
            | Self::NoWay => Exit::LoadFailed,
            Self::DeviceTree(error) => error.exit(),
            Self::Load { attempts, .. } => {
                telling(attempts).map_or(Exit::LoadFailed, |answer| explain(answer.call, answer.errno).exit)
            }
            Self::Unload { errno } => explain(Call::Load, *errno).exit,
            Self::NothingLoaded | Self::Exec { .. } => Exit::ExecFailed,
            Self::TreeNotTaken => Exit::KexecUnavailable,
            Self::X86(error) => error.exit(),
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Disabled | Self::Exhausted => {
                "it cannot be undone: reboot, and take the sysctl out of the start-up files"
            }
            Self::Missing { method: Method::Auto } => {
                "start from a kernel with CONFIG_KEXEC_FILE or CONFIG_KEXEC"
            }
            Self::Missing { .. } => "use --method auto, or start from a kernel that has it",
            Self::LockedDown { .. } => {
                "start from a kernel with CONFIG_KEXEC_FILE and load a kernel it trusts, or turn lockdown off"
            }
            Self::NotPermitted { errno: Errno::ACCESS, .. } => {
                "a security module forbids it: IMA's or SELinux' policy decides what may be loaded"
            }
            Self::NotPermitted { .. } | Self::MayNotStart { .. } => "run as root, outside containers",
            Self::CmdlineTooLong { .. } => {
                "shorten it: the manifest's cmdline, phase.append and what is inherited, or --cmdline and --append"
            }
            Self::CmdlineCharacter { .. } | Self::CmdlineQuote { .. } => {
                "correct it: the manifest's cmdline and phase.append, or --cmdline and --append"
            }
            Self::Read { .. } => {
                "are /proc and /sys mounted? mount -t proc proc /proc; mount -t sysfs sysfs /sys"
            }
            Self::Iomem { .. } | Self::NoRam | Self::NoWay => "try --method file",
            Self::LiveTable { .. } => {
                "start this machine with irqchip.gicv3_nolpi=1 on the first kernel's command line, by UEFI, or from a kernel with CONFIG_KEXEC"
            }
            Self::TablesUnknown => {
                "kexec soon after the boot, give the first kernel a larger log_buf_len=, or start it by UEFI"
            }
            Self::IomemHidden => "run as root: CAP_SYS_ADMIN shows the addresses",
            Self::NoPlace { .. } | Self::Map { .. } | Self::Memory { .. } | Self::OverHalf { .. } => {
                MORE_MEMORY
            }
            Self::DeviceTree(error) => error.hint(),
            Self::Load { .. } if self.exit() == Exit::KexecRefused => {
                "under lockdown, Secure Boot or IMA only a kernel signed with a key that this one trusts can be loaded"
            }
            Self::Load { .. } if self.exit() == Exit::NotEnoughMemory => MORE_MEMORY,
            Self::Load { .. } => "the kernel log may say more",
            Self::Unload { .. } => "",
            Self::NothingLoaded => "load one first: phaseboot kexec --load-only --kernel FILE",
            Self::TreeNotTaken => "leave --dtb out: kexec_file_load hands on the running kernel's tree",
            Self::Exec { .. } => "the kernel log may say more; the running system goes on",
            Self::X86(error) => error.hint(),
        }
    }
}
