//! What each fact means for starting another kernel. No I/O.

use super::facts::{Facts, Image, SecureBoot};
use super::{Report, State};
use crate::arch::Arch;
use crate::error::{Error, Exit};
use crate::image;
use crate::kexec::{Availability, Call, Lockdown, admission, explain};
use crate::log::bytes;

const START_ELSEWHERE: &str = "start from a kernel with CONFIG_KEXEC_FILE or CONFIG_KEXEC";
const AS_ROOT: &str = "run as root, outside containers";
const REBOOT: &str = "nothing but a reboot undoes it; take the sysctl out of the start-up files";

/// Judges a machine, and `candidate` on it if there is one; one that cannot be used is an error.
pub fn judge(facts: &Facts, candidate: Option<&Result<Image, Error>>) -> Report {
    let mut report = Report::default();
    privilege(facts, &mut report);
    sysctls(facts, &mut report);
    call(facts, Call::FileLoad, &mut report);
    call(facts, Call::Load, &mut report);
    lockdown(facts, &mut report);
    processors(facts, &mut report);
    machine(facts, &mut report);
    let usable = match candidate {
        Some(Err(error)) => {
            let name = match error {
                Error::Image(image::Error::NotRamdisk { .. }) => "ramdisk",
                _ => "kernel",
            };
            report.add(name, State::Blocker(error.exit()), error.to_string(), error.hint());
            None
        }
        Some(Ok(image)) => Some(image),
        None => None,
    };
    signature(facts, usable, &mut report);
    memory(facts, usable, &mut report);
    network(facts, candidate.is_some(), &mut report);
    before_the_jump(facts, &mut report);
    report
}

impl Facts {
    fn availability(&self, call: Call) -> Availability {
        match call {
            Call::FileLoad => self.file_load,
            Call::Load => self.load,
        }
    }

    /// It is not known not to work.
    fn may_work(&self, call: Call) -> bool {
        match self.availability(call) {
            Availability::Available | Availability::Unknown => true,
            Availability::Missing => false,
            // Without the right to ask, every call that there is answers so.
            Availability::Refused(_) => !self.may_boot && self.lockdown() == Lockdown::None,
        }
    }

    fn lockdown(&self) -> Lockdown {
        self.lockdown.unwrap_or(Lockdown::None)
    }
}

fn privilege(facts: &Facts, report: &mut Report) {
    let (state, saw, cure) = match (facts.is_contained, facts.may_boot) {
        (true, _) => (
            State::Blocker(Exit::KexecUnavailable),
            "in a container: its namespaces are not the machine's",
            AS_ROOT,
        ),
        (_, false) => (State::Blocker(Exit::KexecUnavailable), "no CAP_SYS_BOOT", AS_ROOT),
        _ => (State::Ok, "CAP_SYS_BOOT", ""),
    };
    report.add("privilege", state, saw, cure);
}

fn sysctls(facts: &Facts, report: &mut Report) {
    for (name, value, is_final) in [
        ("kexec_load_disabled", facts.disabled, facts.disabled == Some(1)),
        ("kexec_load_limit", facts.limit, facts.limit == Some(0)),
    ] {
        // -1: no limit.
        let Some(value) = value.filter(|&value| value >= 0) else { continue };
        let (state, cure) =
            if is_final { (State::Blocker(Exit::KexecUnavailable), REBOOT) } else { (State::Ok, "") };
        report.add(name, state, value.to_string(), cure);
    }
}

fn call(facts: &Facts, call: Call, report: &mut Report) {
    let (name, other, option) = match call {
        Call::FileLoad => ("kexec_file_load", Call::Load, "KEXEC_FILE"),
        Call::Load => ("kexec_load", Call::FileLoad, "KEXEC"),
    };
    let is_last = !facts.may_work(other);
    // That the other one is refused says more than that this one is missing.
    let both_missing = facts.availability(other) == Availability::Missing;
    let (state, saw, cure) = match facts.availability(call) {
        Availability::Available => (State::Ok, "there, and allowed".to_owned(), ""),
        Availability::Unknown => {
            (State::Unknown, "not asked: that would count as a load, or is refused".to_owned(), "")
        }
        Availability::Missing if facts.is_built(option) == Some(true) => (
            if both_missing { State::Blocker(Exit::KexecUnavailable) } else { State::Warning },
            format!("ENOSYS, although the kernel has CONFIG_{option}: something filters system calls"),
            "run outside the container or service that does",
        ),
        Availability::Missing if both_missing => (
            State::Blocker(Exit::KexecUnavailable),
            format!("not built in (CONFIG_{option})"),
            START_ELSEWHERE,
        ),
        Availability::Missing => (State::Ok, format!("not built in (CONFIG_{option}); {other} is left"), ""),
        Availability::Refused(_) if !facts.may_boot => {
            (State::Unknown, "there; refused without CAP_SYS_BOOT".to_owned(), "")
        }
        Availability::Refused(errno) => {
            let meaning = explain(call, errno);
            let cure = match facts.lockdown() {
                Lockdown::None => "the kernel log says who refuses: lockdown, a security module, or IMA",
                _ => "use kexec_file_load with a signed kernel, or turn lockdown off",
            };
            let state = if is_last { State::Blocker(Exit::KexecRefused) } else { State::Warning };
            (state, format!("{}: {}", meaning.name, meaning.text), cure)
        }
    };
    report.add(name, state, saw, cure);
}

fn lockdown(facts: &Facts, report: &mut Report) {
    let (state, saw, cure) = match facts.lockdown {
        None => (
            State::Unknown,
            "no /sys/kernel/security/lockdown: not built in, or securityfs is not mounted",
            "mount -t securityfs securityfs /sys/kernel/security",
        ),
        Some(Lockdown::None) => (State::Ok, "none", ""),
        Some(mode) => (
            State::Warning,
            mode.mode().unwrap_or_default(),
            "only kexec_file_load works, and only with a kernel signed by a key that this one trusts; \
             otherwise switch Secure Boot or lockdown= off",
        ),
    };
    report.add("lockdown", state, saw, cure);
    let Some(secure_boot) = facts.secure_boot else { return };
    let (state, saw, cure) = match secure_boot {
        SecureBoot::On => (State::Ok, "on", ""),
        SecureBoot::Off => (State::Ok, "off", ""),
        SecureBoot::Setup => (State::Ok, "off: no key is enrolled (setup mode)", ""),
        SecureBoot::Unreadable => (
            State::Unknown,
            "the firmware's variables cannot be read",
            "mount -t efivarfs efivarfs /sys/firmware/efi/efivars",
        ),
    };
    report.add("secure boot", state, saw, cure);
}

/// cpus_are_stuck_in_kernel() of arch/arm64/kernel/smp.c: EBUSY, whichever call it is.
fn processors(facts: &Facts, report: &mut Report) {
    if facts.arch != Arch::Aarch64 {
        return;
    }
    let stuck = State::Blocker(Exit::LoadFailed);
    let (state, saw, cure) = match facts.cpus {
        cpus if !cpus.several => (State::Ok, "one", ""),
        cpus if !cpus.hotplug => (
            stuck,
            "several, and the kernel was built without CONFIG_HOTPLUG_CPU",
            "start from a kernel with CONFIG_HOTPLUG_CPU, or with maxcpus=1 nr_cpus=1",
        ),
        cpus if !cpus.can_stop => (
            stuck,
            "several, and none can be stopped: the firmware has no PSCI",
            "update the firmware, or start the first kernel with nr_cpus=1",
        ),
        _ => (State::Ok, "several, and they can be stopped", ""),
    };
    report.add("cpus", state, saw, cure);
}

fn machine(facts: &Facts, report: &mut Report) {
    let (state, saw, cure) = match &facts.memory_map {
        Ok(()) => (State::Ok, "/proc/iomem shows it".to_owned(), ""),
        Err(error) if !facts.may_boot => (State::Unknown, error.to_string(), ""),
        Err(error) => {
            let is_needed = !facts.may_work(Call::FileLoad);
            (
                if is_needed { State::Blocker(error.exit()) } else { State::Warning },
                error.to_string(),
                error.hint(),
            )
        }
    };
    report.add("memory map", state, saw, cure);
    match facts.exposed.as_deref() {
        Ok([]) => {}
        Ok([first, ..]) => {
            // What kexec_file_load happens not to overwrite, the next kernel takes for free memory.
            let is_in_the_way = !facts.may_work(Call::Load);
            report.add(
                "gic",
                if is_in_the_way { State::Blocker(Exit::LoadFailed) } else { State::Warning },
                format!("the interrupt controller's live table at {first:#x} is not reserved"),
                "kexec_load keeps clear of it; for kexec_file_load start the first kernel by UEFI, or with \
                 irqchip.gicv3_nolpi=1",
            );
        }
        Err(error) => report.add("gic", State::Blocker(error.exit()), error.to_string(), error.hint()),
    }
    let firmware = facts.firmware;
    let mut parts = vec![if firmware.efi { "UEFI" } else { "no UEFI" }];
    parts.extend(firmware.acpi.then_some("ACPI"));
    parts.extend(firmware.devicetree.then_some("device tree"));
    let lacks_map = firmware.efi && !firmware.runtime_map && facts.arch == Arch::X86_64;
    if lacks_map {
        parts.push("no runtime map");
    }
    let (state, cure) = if lacks_map {
        (
            State::Warning,
            "the next kernel has no EFI variables unless this one has CONFIG_EFI_RUNTIME_MAP and no efi=noruntime",
        )
    } else {
        (State::Ok, "")
    };
    report.add("firmware", state, parts.join(", "), cure);
    if !facts.has_kmsg && facts.may_boot {
        report.add("kernel log", State::Warning, "no /dev/kmsg", "mount -t devtmpfs dev /dev");
    }
}

/// Who demands a signature of kexec_file_load, if anybody does.
fn demands(facts: &Facts) -> Option<&'static str> {
    let is_checked = facts.is_built("KEXEC_SIG");
    if facts.lockdown() != Lockdown::None && is_checked != Some(false) {
        return Some("lockdown");
    }
    if facts.is_built("KEXEC_SIG_FORCE") == Some(true) {
        return Some("CONFIG_KEXEC_SIG_FORCE");
    }
    let by_arch = facts.is_built("IMA_ARCH_POLICY") == Some(true) && is_checked == Some(true);
    if by_arch && facts.secure_boot == Some(SecureBoot::On) {
        return Some("Secure Boot (CONFIG_IMA_ARCH_POLICY)");
    }
    facts.ima_appraises.then_some("IMA's policy")
}

fn signature(facts: &Facts, image: Option<&Image>, report: &mut Report) {
    const SIGN: &str = "sign it with a key that this kernel trusts: sbsign, and mokutil --import for the key";
    let Some(who) = demands(facts) else {
        let saw = image.map_or("none demanded", |image| {
            if image.is_signed {
                "none demanded; the kernel has one"
            } else {
                "none demanded; the kernel has none"
            }
        });
        return report.add("signature", State::Ok, saw, "");
    };
    let (state, has, cure) = match image {
        None => (State::Warning, "", "boot a signed kernel"),
        Some(image) if image.is_signed => (
            State::Warning,
            "; the kernel has one",
            "whether its key is trusted shows only when it is loaded",
        ),
        Some(_) if facts.may_work(Call::Load) && facts.availability(Call::Load) != Availability::Unknown => {
            (State::Warning, "; the kernel has none, which leaves kexec_load", SIGN)
        }
        Some(_) => (State::Blocker(Exit::KexecRefused), "; the kernel has none", SIGN),
    };
    report.add("signature", state, format!("demanded by {who}{has}"), cure);
}

fn memory(facts: &Facts, image: Option<&Image>, report: &mut Report) {
    const CALLS: [Call; 2] = [Call::FileLoad, Call::Load];
    let Some(memory) = facts.memory else {
        return report.add("memory", State::Unknown, "no MemAvailable in /proc/meminfo", "");
    };
    let saw = format!("{} available", bytes(memory.available));
    let Some(image) = image else { return report.add("memory", State::Ok, saw, "") };
    let usable: Vec<Call> = CALLS.into_iter().filter(|&call| facts.may_work(call)).collect();
    // Where none works, that is said elsewhere.
    let calls = if usable.is_empty() { CALLS.to_vec() } else { usable };
    match admission::admit(&calls, &image.needs, memory) {
        Ok(calls) => {
            let names: Vec<String> = calls.iter().map(ToString::to_string).collect();
            report.add("memory", State::Ok, format!("{saw}, enough for {}", names.join(" and ")), "");
        }
        Err(error) => report.add("memory", State::Blocker(error.exit()), error.to_string(), error.hint()),
    }
}

fn network(facts: &Facts, is_local: bool, report: &mut Report) {
    for card in &facts.driverless {
        report.add(
            "network card",
            State::Warning,
            format!("no driver has taken {card}"),
            "modprobe what is in brackets, or pack it: phasectl initramfs --modules DIR --module NAME; \
             the kernel log tells of missing firmware",
        );
    }
    if !facts.links.is_empty() || facts.is_routed {
        let links =
            if facts.links.is_empty() { "a route, of no card".to_owned() } else { facts.links.join(", ") };
        return report.add("network", State::Ok, links, "");
    }
    let state = if is_local { State::Warning } else { State::Blocker(Exit::NoNetwork) };
    report.add("network", state, "no card with a driver", "load the driver of the card, or connect one");
}

fn before_the_jump(facts: &Facts, report: &mut Report) {
    if facts.selinux_enforces {
        report.add(
            "selinux",
            State::Warning,
            "enforcing",
            "where loading ends in EACCES: ausearch -m avc shows the rule that is missing",
        );
    }
    if let Some(status) = facts.status {
        if status.kernel {
            report.add(
                "loaded",
                State::Warning,
                "a kernel is loaded; loading another one replaces it",
                "start it: phaseboot kexec --exec, or forget it: --unload",
            );
        }
        if status.crash_kernel {
            report.add("crash kernel", State::Ok, "loaded", "");
        }
    }
    for watchdog in &facts.watchdogs {
        report.add(
            "watchdog",
            State::Warning,
            format!("{watchdog} is running, and runs on"),
            "the next kernel needs its driver, and somebody who feeds it in time",
        );
    }
    if !facts.writable.is_empty() {
        const SHOWN: usize = 4;
        let mut saw = facts.writable.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        if facts.writable.len() > SHOWN {
            saw.push_str(", ...");
        }
        report.add(
            "mounts",
            State::Warning,
            format!("writable: {saw}"),
            "services are not stopped: stop them first, or phaseboot kexec --load-only, then systemctl kexec",
        );
    }
}
