//! What a boot has to show: the second kernel's report, phaseboot's log, and what the machine keeps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::arch::Arch;
use crate::disk;
use crate::faulty::Ledger;
use crate::machine::{self, End, Machine, Run};
use crate::publish::release_mark;
use crate::scenarios::{Check, Expect, Step};
use crate::serial::{Record, Transcript};

/// By what the published kernel and initramfs are known.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// SHA-256 of the file that only that initramfs has.
    pub(crate) secret: String,
    /// The parameter that only that command line has.
    pub(crate) mark: String,
    /// What `uname -r` says there.
    pub(crate) release: String,
}

/// What is left when a machine is switched off: what it keeps, and what its servers have seen.
#[derive(Debug)]
pub(crate) struct Kept<'a> {
    machine: &'a Machine,
    folder: &'a Path,
    /// The SHA-256 of its disk before the boot.
    disk_before: Option<String>,
    ledger: Option<Arc<Ledger>>,
}

impl<'a> Kept<'a> {
    /// What `machine` has in `folder` before it is started; its servers have their logs there.
    pub(crate) fn before(
        machine: &'a Machine,
        folder: &'a Path,
        ledger: Option<Arc<Ledger>>,
    ) -> Result<Self> {
        let mut kept = Self { machine, folder, disk_before: None, ledger };
        if machine.disk.is_some() {
            kept.disk_before = Some(disk::checksum(&kept.disk())?);
        }
        Ok(kept)
    }

    fn disk(&self) -> PathBuf {
        self.folder.join(machine::DISK)
    }
}

/// Holds a boot of `machine` against what was expected of it.
pub(crate) fn judge(
    machine: &Machine,
    step: &Step,
    also: &[Check],
    run: &Run,
    published: &Published,
    kept: &Kept<'_>,
) -> Result<()> {
    let said = &run.transcript;
    if let Some(line) = said.lines.iter().find(|line| line.text.contains("Kernel panic")) {
        bail!("{}", line.text);
    }
    if let End::TimedOut(limit) = run.end {
        bail!("still running after {} s", limit.as_secs());
    }
    let targets = said.targets();
    match step.expect {
        Expect::Boots(checks) => {
            if let (true, Some((record, _))) = (targets.is_empty(), said.failure()) {
                bail!("{}", record.message);
            }
            ensure!(targets.len() == 1, "the second kernel reported {} times", targets.len());
            let (_, report) = targets.first().context("no report")?;
            common(machine, report, published)?;
            if let Some(event) = run.missed.first() {
                bail!("there was no occasion for {event:?}");
            }
            checks.iter().chain(also).try_for_each(|check| check.hold(said, report, kept))
        }
        Expect::Stops(checks) => {
            ensure!(targets.is_empty(), "it booted: the second kernel reported");
            checks.iter().try_for_each(|check| check.hold(said, &Value::Null, kept))
        }
        Expect::Fails { code, says } => {
            ensure!(targets.is_empty(), "it booted: the second kernel reported");
            ensure!(said.exec().is_none(), "it went as far as kexec");
            let (record, seen) = said.failure().context("no line with an exit code")?;
            ensure!(seen == code, "exit code {seen} instead of {code}: {}", record.message);
            ensure!(record.message.contains(says), "the line does not say {says:?}: {}", record.message);
            within_timeout(step, record.t)?;
            let last = said.records().last().map(|record| record.message.into_owned()).unwrap_or_default();
            let ending = step.ending();
            ensure!(last.starts_with(ending), "it did not end with {ending:?}, but with {last:?}");
            Ok(())
        }
    }
}

/// What starting up and the last words may take beside the attempt itself, in seconds.
const BESIDE: f64 = 10.0;

/// It failed no later than the `phase.timeout` that it was given.
fn within_timeout(step: &Step, failed_at: f64) -> Result<()> {
    let given = step.cmdline.split_whitespace().find_map(|word| word.strip_prefix("phase.timeout="));
    let Some(limit) = given.and_then(|seconds| seconds.parse::<f64>().ok()) else { return Ok(()) };
    ensure!(failed_at <= limit + BESIDE, "failed after {failed_at:.1} s of {limit} s");
    Ok(())
}

/// What every second kernel has to show: it is the published one, with the published initramfs.
fn common(machine: &Machine, report: &Value, published: &Published) -> Result<()> {
    let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    let (arch, Published { secret, mark, release }) = (machine.arch, published);
    ensure!(text("secret_sha256") == *secret, "not the published initramfs: {}", report["secret_sha256"]);
    ensure!(text("release") == *release, "kernel {} instead of {release}", text("release"));
    ensure!(text("machine") == arch.gnu(), "machine {} instead of {arch}", text("machine"));
    let cmdline = text("cmdline");
    let words: Vec<&str> = cmdline.split_whitespace().collect();
    ensure!(words.contains(&mark.as_str()), "the manifest's command line is missing: {cmdline}");
    let console = format!("console={}", arch.console());
    ensure!(words.contains(&console.as_str()), "{console} was not inherited: {cmdline}");
    ensure!(!cmdline.contains("phase.provider"), "phase.provider was inherited: {cmdline}");
    ensure!(text("kexec_loaded") == "0", "kexec_loaded is {}", report["kexec_loaded"]);
    let least = u64::from(machine.memory_mb) * 1024 * 3 / 4;
    let memory = report["mem_total_kb"].as_u64().unwrap_or_default();
    ensure!(memory >= least, "the second kernel has {memory} kB of {} MB", machine.memory_mb);
    Ok(())
}

impl Check {
    fn hold(self, said: &Transcript, report: &Value, kept: &Kept<'_>) -> Result<()> {
        match self {
            Self::Efi => ensure!(report["efi"] == true, "the second kernel sees no EFI"),
            Self::Acpi => ensure!(report["acpi"] == true, "the second kernel sees no ACPI"),
            Self::Cpus(online) => {
                ensure!(
                    report["cpus_online"] == online,
                    "CPUs {} instead of {online}",
                    report["cpus_online"]
                );
            }
            Self::FreshSeeds => seeds(report, "KASLR enabled")?,
            Self::OwnTree => {
                let (name, value) = machine::TREE_MARK;
                ensure!(
                    report["chosen"][name] == value,
                    "not the published device tree: {}",
                    report["chosen"]
                );
            }
            Self::NoSeeds => seeds(report, "KASLR disabled due to lack of seed")?,
            Self::CmdlineOrder(parts) => in_order(report["cmdline"].as_str().unwrap_or_default(), parts)?,
            Self::TriedAgain(times) => {
                let again = |record: &Record<'_>| record.message.starts_with("trying again in ");
                let seen = said.records().filter(again).count();
                ensure!(seen == times, "PID 1 tried again {seen} times, not {times}");
            }
            Self::Says(words) => {
                let found = said.records().any(|record| record.message.contains(words));
                ensure!(found, "no word of {words:?}");
            }
            Self::Prints(words) => {
                let found = said.lines.iter().any(|line| line.text.contains(words));
                ensure!(found, "no line with {words:?}");
            }
            Self::Lease(interface) => {
                let lease = lease(said)?;
                ensure!(lease.message.contains(interface), "not over {interface}: {}", lease.message);
            }
            Self::LeaseWithin(limit) => within(lease(said)?.t, limit, "a lease")?,
            Self::FoundWithin(limit) => {
                let is_manifest =
                    |record: &Record<'_>| record.step == "provider" && record.message.contains(": version ");
                let found = said.records().find(is_manifest).context("no word of a manifest")?;
                within(found.t - lease(said)?.t, limit, "the manifest, counted from the lease,")?;
            }
            Self::ExecWithin(seconds) => {
                let exec = said.exec().context("no word of the jump")?;
                ensure!(exec.t <= f64::from(seconds), "jumped after {:.1} s, not within {seconds} s", exec.t);
            }
            Self::JsonOnly => {
                let text = said.lines.iter().find(|line| line.text.contains("phaseboot["));
                // The kernel's log shows the marker that is left there for whoever reads it.
                let text = text.filter(|line| !line.text.contains("] phaseboot: "));
                ensure!(text.is_none(), "not JSON: {}", text.map_or("", |line| line.text.as_str()));
                ensure!(said.records().count() > 0, "no record in JSON");
            }
            Self::Release(version) => {
                let mark = release_mark(version);
                let cmdline = report["cmdline"].as_str().unwrap_or_default();
                ensure!(cmdline.split_whitespace().any(|word| word == mark), "no {mark}: {cmdline}");
            }
            Self::DiskKeeps(words) => {
                let disk = kept.machine.disk.context("a machine without a disk")?;
                let record = disk.record(&kept.disk())?;
                ensure!(record.contains(words), "no {words} in the record on the disk: {record:?}");
            }
            Self::FirmwareKeeps(name) => {
                let found = disk::has_variable(&kept.folder.join(machine::VARIABLES), name)?;
                ensure!(found, "the firmware has no variable {name}");
            }
            Self::Log(name, words) => {
                let text = std::fs::read_to_string(kept.folder.join(name))
                    .with_context(|| format!("there is no {name}"))?;
                ensure!(text.contains(words), "no word of {words:?} in {name}");
            }
            Self::SentAgain { file, most } => {
                let ledger = kept.ledger.as_ref().context("a server that counts nothing")?;
                let (requests, again) = ledger.of(file);
                ensure!(requests > 1, "{file} was asked for {requests} times: nothing was cut");
                ensure!(again <= most, "{again} bytes of {file} were sent again, more than {most}");
            }
            Self::Kaslr => kaslr(kept.machine.arch, report)?,
            Self::Framebuffer => framebuffer(said, report)?,
            Self::NoFramebuffer => {
                let none = report["framebuffers"].as_array().is_some_and(Vec::is_empty);
                ensure!(none, "the second kernel has framebuffers: {}", report["framebuffers"]);
                let said = said.records().any(|record| record.message.starts_with("the screen is not"));
                ensure!(!said, "a word of a screen that is not there");
            }
            Self::EfiVariables => efi_variables(report)?,
            Self::SecureBoot => {
                efi_variables(report)?;
                let state = &report["efi_variables"]["secure_boot"];
                ensure!(*state == 1, "the firmware's SecureBoot is {state}");
                let lockdown = report["lockdown"].as_str().unwrap_or_default();
                ensure!(lockdown.contains("[integrity]"), "the second kernel's lockdown is {lockdown:?}");
            }
            Self::RamdiskAbove4G => {
                let at = report["ramdisk_at"].as_u64().context("no word of the ramdisk's address")?;
                ensure!(at >= 1 << 32, "the ramdisk lies at {at:#x}");
            }
            Self::Hops(count) => {
                let seen = said.jumps().count();
                ensure!(seen == count, "{seen} kernels have started the next one, not {count}");
            }
            Self::Parts(names) => {
                ensure!(
                    report["parts"] == serde_json::json!(names),
                    "parts {} instead of {names:?}",
                    report["parts"]
                );
            }
            Self::DiskUntouched => {
                let now = disk::checksum(&kept.disk())?;
                ensure!(Some(now) == kept.disk_before, "the disk was written to");
            }
        }
        Ok(())
    }
}

/// `CONFIG_PHYSICAL_START`, and the address it is linked for: arch/x86/Kconfig, asm/page_64_types.h.
const X86_LINKED: (u64, u64) = (0x100_0000, 0xffff_ffff_8100_0000);

/// arm64 says it, x86 marks it. Where the mark is not to be read, one of two addresses drawn from some hundred
/// each is not the linker's; where memory has room for the one alone, the other one may be that by chance.
fn kaslr(arch: Arch, report: &Value) -> Result<()> {
    match arch {
        Arch::X86_64 => {
            let address = |name: &str| report[name].as_u64().with_context(|| format!("no {name}"));
            let at = (address("kernel_code")?, address("kernel_text")?);
            let is_drawn = report["kaslr"] == true || at != X86_LINKED;
            ensure!(is_drawn, "the second kernel lies where it was linked, and not by chance: {at:#x?}");
        }
        Arch::Aarch64 => {
            let said = report["kernel_said"].as_array().map(Vec::as_slice).unwrap_or_default();
            let found = said.iter().filter_map(Value::as_str).any(|line| line.contains("KASLR enabled"));
            ensure!(found, "the second kernel does not say that KASLR is enabled: {said:?}");
        }
    }
    Ok(())
}

/// Every kernel on the way says the same of where the framebuffer is and of what shape, and what the last one
/// draws is there.
fn framebuffer(said: &Transcript, report: &Value) -> Result<()> {
    let found = report["framebuffers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [one] = found else { bail!("the second kernel has not one framebuffer: {}", report["framebuffers"]) };
    ensure!(one["drawn"] == true, "nothing can be drawn: {one}");
    for what in ["efifb: framebuffer at ", "efifb: mode is "] {
        let lines = said.lines.iter().filter_map(|line| Some(line.text.split_once(what)?.1));
        let told: Vec<&str> = lines.collect();
        ensure!(told.len() > said.jumps().count(), "not every kernel says {what:?}: {told:?}");
        ensure!(told.iter().all(|line| *line == told[0]), "another framebuffer than before: {told:?}");
    }
    Ok(())
}

fn efi_variables(report: &Value) -> Result<()> {
    let variables = &report["efi_variables"];
    let count = variables["count"].as_u64().unwrap_or_default();
    ensure!(count > 0, "the second kernel reads no variables of the firmware");
    ensure!(variables["boot_order_bytes"].as_u64() > Some(0), "the firmware does not answer: {variables}");
    Ok(())
}

fn lease(said: &Transcript) -> Result<Record<'_>> {
    let leased = |record: &Record<'_>| record.step == "net" && record.message.contains(": lease ");
    said.records().find(leased).context("no word of a lease")
}

/// It took so many seconds, and no more than so many milliseconds.
fn within(took: f64, limit: u32, what: &str) -> Result<()> {
    let limit = f64::from(limit) / 1000.0;
    ensure!(took <= limit, "{what} after {took:.2} s, not within {limit} s");
    Ok(())
}

/// Parameters of `cmdline` that begin so stand in this order.
fn in_order(cmdline: &str, parts: &[&str]) -> Result<()> {
    let mut words = cmdline.split_whitespace();
    for part in parts {
        ensure!(words.any(|word| word.starts_with(part)), "no {part} in its place: {cmdline}");
    }
    Ok(())
}

/// The kernel takes the seeds out of what it shows, and says what it has made of them.
fn seeds(report: &Value, verdict: &str) -> Result<()> {
    let chosen = report["chosen"].as_object().context("no device tree in the second kernel")?;
    for seed in ["kaslr-seed", "rng-seed"] {
        if let Some(value) = chosen.get(seed).and_then(Value::as_str) {
            let zero = value.trim_start_matches("0x").chars().all(|digit| digit == '0');
            ensure!(zero, "/chosen/{seed} is {value}");
        }
    }
    let said = report["kernel_said"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = said.iter().filter_map(Value::as_str).any(|line| line.contains(verdict));
    ensure!(found, "the second kernel does not say {verdict:?}: {said:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::Line;
    use std::time::Duration;

    #[test]
    fn a_failure_comes_within_its_time() {
        let step = |cmdline| Step { cmdline, ..Step::new(Expect::Fails { code: 11, says: "" }) };
        let limited = step("a=b phase.timeout=25");
        assert!(within_timeout(&limited, 26.0).is_ok() && within_timeout(&limited, 60.0).is_err());
        assert!(within_timeout(&step(""), 60.0).is_ok());
    }

    #[test]
    fn a_kernel_at_its_linkers_addresses_has_drawn_them_or_fails() {
        let holds = |mark: Value, text: u64| {
            let code = X86_LINKED.0;
            let report = serde_json::json!({ "kaslr": mark, "kernel_code": code, "kernel_text": text });
            kaslr(Arch::X86_64, &report).is_ok()
        };
        assert!(holds(true.into(), X86_LINKED.1) && holds(Value::Null, X86_LINKED.1 + (1 << 21)));
        assert!(!holds(false.into(), X86_LINKED.1) && !holds(Value::Null, X86_LINKED.1));
        assert!(kaslr(Arch::X86_64, &Value::Null).is_err());
    }

    #[test]
    fn times_count_from_pid_1_and_from_the_lease() {
        let lines = [
            "phaseboot[0.399] net: eth0: lease 10.77.0.58/24 from 10.77.0.1",
            "phaseboot[1.524] provider: http://a/manifest.json: version 1, signed by trusted",
        ];
        let lines = lines.map(|text| Line { at: Duration::ZERO, text: text.to_owned() });
        let said = Transcript { lines: lines.into() };
        let machine = Machine::new(Arch::X86_64);
        let kept = Kept::before(&machine, Path::new("/"), None).unwrap();
        let holds = |check: Check| check.hold(&said, &Value::Null, &kept);
        assert!(holds(Check::LeaseWithin(400)).is_ok() && holds(Check::FoundWithin(1200)).is_ok());
        assert!(holds(Check::LeaseWithin(300)).is_err());
        let error = holds(Check::FoundWithin(1000)).unwrap_err().to_string();
        assert_eq!(error, "the manifest, counted from the lease, after 1.12 s, not within 1 s");
        assert!(Check::LeaseWithin(400).hold(&Transcript::default(), &Value::Null, &kept).is_err());
    }
}
