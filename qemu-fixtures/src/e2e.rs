//! Running scenarios: each is staged, booted and judged by what the second kernel says.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::arch::Arch;
use crate::faulty::Faulty;
use crate::machine::{Boot, End, HOST, Run};
use crate::scenarios::{Check, Expect, Initramfs, Publish, Scenario, Serve};
use crate::serial::{Record, Transcript};
use crate::stage::{Packing, Stage, Tools};
use crate::{folders, peer};

/// A machine that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(150);
/// Lines of the serial log that are shown when a scenario fails.
const SHOWN: usize = 15;
/// A panic of either kernel ends the run: QEMU does not start the machine again.
pub(crate) const PANIC: &str = "panic=-1";

/// How a scenario went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) result: Result<Times>,
}

/// The way of a successful boot in seconds since PID 1 started, by the host's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) lease: Option<f64>,
    pub(crate) verified: Option<f64>,
    pub(crate) exec: Option<f64>,
    /// From exec to the second kernel's report.
    pub(crate) handover: Option<f64>,
    /// Bytes.
    pub(crate) initramfs: u64,
}

impl Times {
    fn of(transcript: &Transcript, initramfs: &Path) -> Self {
        // The first record says how long PID 1 has been there.
        let start = transcript.records().next().map_or(0.0, |first| first.at.as_secs_f64() - first.t);
        let since = |record: Option<Record<'_>>| record.map(|record| record.at.as_secs_f64() - start);
        let exec = transcript.exec();
        let target = transcript.targets().first().map(|(at, _)| *at);
        let handover = exec.as_ref().zip(target).map(|(exec, at)| at.saturating_sub(exec.at).as_secs_f64());
        let mut records = transcript.records();
        Self {
            lease: since(records.find(|record| record.step == "net" && record.message.contains(": lease "))),
            verified: since(records.filter(|record| record.step == "fetch").last()),
            exec: since(exec),
            handover,
            initramfs: std::fs::metadata(initramfs).map_or(0, |meta| meta.len()),
        }
    }
}

/// What a run of the lab has come to.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) outcomes: Vec<Outcome>,
    /// The other way on the same machines, where phaseboot's times were taken.
    pub(crate) peers: Vec<(Arch, Result<Times>)>,
}

/// Runs all of them: those whose times count one by one, each right after its peer, then the others, as many
/// at a time as there are CPUs.
pub(crate) fn run(scenarios: Vec<Scenario>, tools: &Tools) -> Result<Results> {
    let folder = folders::work("e2e")?;
    let (timed, others): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|scenario| scenario.timed);
    let (mut outcomes, mut peers) = (Vec::new(), Vec::new());
    for scenario in timed {
        let arch = scenario.machine.arch;
        if scenario.compares(arch) {
            peers.push((arch, peer(arch, tools, &folder)));
        }
        outcomes.extend(at_a_time(1, vec![scenario], tools, &folder));
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    outcomes.extend(at_a_time(cpus, others, tools, &folder));
    Ok(Results { outcomes, peers })
}

/// It is there to be compared with: without it there is no figure, and nothing has failed.
fn peer(arch: Arch, tools: &Tools, folder: &Path) -> Result<Times> {
    let (started, folder) = (Instant::now(), folder.join(format!("{arch}-peer")));
    let times = peer::boot(arch, tools, &folder);
    let took = started.elapsed().as_secs_f64();
    let name = format!("peer/{arch}");
    match &times {
        Ok(_) => println!("{name:<44} ok      {took:>5.1} s"),
        Err(error) => println!("{name:<44} no figure {took:>3.0} s: {error:#}"),
    }
    times
}

fn at_a_time(count: usize, scenarios: Vec<Scenario>, tools: &Tools, folder: &Path) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = one(scenario.clone(), tools, &folder.join(scenario.slug()));
            outcomes.lock().expect("no thread dies with the list in its hands").push(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..count.min(scenarios.len()) {
            scope.spawn(work);
        }
    });
    outcomes.into_inner().expect("all threads have ended well")
}

fn one(scenario: Scenario, tools: &Tools, folder: &Path) -> Outcome {
    let started = Instant::now();
    let log = folder.join("serial.log");
    let mut said = None;
    let result = boot(&scenario, tools, folder, &mut said);
    let took = started.elapsed();
    let mut text = match &result {
        Ok(_) => format!("{:<44} ok      {:>5.1} s", scenario.full_name(), took.as_secs_f64()),
        Err(error) => format!(
            "{:<44} FAILED  {:>5.1} s\n    {error:#}\n    {}",
            scenario.full_name(),
            took.as_secs_f64(),
            log.display()
        ),
    };
    if let (Err(_), Some(transcript)) = (&result, &said) {
        for line in transcript.tail(SHOWN) {
            text.push_str("\n    | ");
            text.push_str(line);
        }
    }
    println!("{text}");
    Outcome { scenario, result }
}

/// The server of a scenario, until it is dropped.
enum Server {
    Phasectl(crate::stage::Served),
    Faulty(Faulty),
}

impl Server {
    fn port(&self) -> u16 {
        match self {
            Self::Phasectl(server) => server.port(),
            Self::Faulty(server) => server.port(),
        }
    }
}

fn boot(scenario: &Scenario, tools: &Tools, folder: &Path, said: &mut Option<Transcript>) -> Result<Times> {
    let stage = Stage::new(tools, folder.to_owned())?;
    let trusted = stage.keygen("trusted")?;
    let (target, secret) = stage.target_initramfs(scenario.machine.arch, scenario.ballast)?;
    let mark = format!("lab.scenario={}", scenario.slug());
    let mut next = format!("{mark} {PANIC}");
    if scenario.padding > 0 {
        next.push_str(&format!(" lab.padding={}", "x".repeat(scenario.padding)));
    }
    publish(scenario, &stage, &trusted, &target, &next)?;
    let server = match scenario.serve {
        Serve::Phasectl => Server::Phasectl(stage.serve()?),
        Serve::Faulty(faults) => Server::Faulty(Faulty::start(stage.site(), faults)?),
    };
    let packing = Packing {
        key: (scenario.initramfs != Initramfs::NoKeys).then_some(&trusted),
        no_device_nodes: scenario.initramfs == Initramfs::NoDeviceNodes,
    };
    let initramfs = stage.initramfs(scenario.kernel, packing)?;
    let boot = Boot {
        kernel: tools.kernel(scenario.kernel)?.image.clone(),
        initramfs: initramfs.clone(),
        cmdline: cmdline(scenario.machine.arch, server.port(), scenario.cmdline),
    };
    let run = scenario.machine.run(&boot, &stage.path("serial.log"), LIMIT, false)?;
    let judged = judge(scenario, &run, &secret, &mark, &tools.kernel(scenario.published_kernel())?.release);
    let times = Times::of(&run.transcript, &initramfs);
    *said = Some(run.transcript);
    judged.map(|()| times)
}

/// The first kernel's command line.
pub(crate) fn cmdline(arch: Arch, port: u16, more: &str) -> String {
    let console = arch.console();
    let line =
        format!("console={console} {PANIC} phase.provider=http://{HOST}:{port} phase.onfail=poweroff {more}");
    line.trim_end().to_owned()
}

fn publish(
    scenario: &Scenario,
    stage: &Stage<'_>,
    trusted: &crate::stage::Key,
    target: &Path,
    cmdline: &str,
) -> Result<()> {
    let kernel = scenario.published_kernel();
    match scenario.publish {
        Publish::Signed => stage.publish(trusted, kernel, target, cmdline),
        Publish::ByStranger => stage.publish(&stage.keygen("stranger")?, kernel, target, cmdline),
        Publish::Unsigned => stage.publish_unsigned(kernel, target),
        Publish::ForOtherArch => {
            stage.publish(trusted, kernel, target, cmdline)?;
            let channel = stage.site().join("stable");
            let (other, own) = (kernel.arch().manifest(), scenario.machine.arch.manifest());
            std::fs::rename(channel.join(other), channel.join(own))
                .context("cannot lay out the other's manifest")
        }
    }
}

fn judge(scenario: &Scenario, run: &Run, secret: &str, mark: &str, release: &str) -> Result<()> {
    let said = &run.transcript;
    if let Some(line) = said.lines.iter().find(|line| line.text.contains("Kernel panic")) {
        bail!("{}", line.text);
    }
    if let End::TimedOut(limit) = run.end {
        bail!("still running after {} s", limit.as_secs());
    }
    let targets = said.targets();
    match scenario.expect {
        Expect::Boots(checks) => {
            if let (true, Some((record, _))) = (targets.is_empty(), said.failure()) {
                bail!("{}", record.message);
            }
            ensure!(targets.len() == 1, "the second kernel reported {} times", targets.len());
            let (_, report) = targets.first().context("no report")?;
            common(scenario, report, secret, mark, release)?;
            checks.iter().try_for_each(|check| check.hold(said, report))
        }
        Expect::Fails { code, says } => {
            ensure!(targets.is_empty(), "it booted: the second kernel reported");
            ensure!(said.exec().is_none(), "it went as far as kexec");
            let (record, seen) = said.failure().context("no line with an exit code")?;
            ensure!(seen == code, "exit code {seen} instead of {code}: {}", record.message);
            ensure!(record.message.contains(says), "the line does not say {says:?}: {}", record.message);
            let last = said.records().last().map(|record| record.message).unwrap_or_default();
            let ending = scenario.ending();
            ensure!(last.starts_with(ending), "it did not end with {ending:?}, but with {last:?}");
            Ok(())
        }
    }
}

/// What every second kernel has to show: it is the published one, with the published initramfs.
fn common(scenario: &Scenario, report: &Value, secret: &str, mark: &str, release: &str) -> Result<()> {
    let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    let arch = scenario.machine.arch;
    ensure!(text("secret_sha256") == secret, "not the published initramfs: {}", report["secret_sha256"]);
    ensure!(text("release") == release, "kernel {} instead of {release}", text("release"));
    ensure!(text("machine") == arch.gnu(), "machine {} instead of {arch}", text("machine"));
    let cmdline = text("cmdline");
    let words: Vec<&str> = cmdline.split_whitespace().collect();
    ensure!(words.contains(&mark), "the manifest's command line is missing: {cmdline}");
    let console = format!("console={}", arch.console());
    ensure!(words.contains(&console.as_str()), "{console} was not inherited: {cmdline}");
    ensure!(!cmdline.contains("phase.provider"), "phase.provider was inherited: {cmdline}");
    ensure!(text("kexec_loaded") == "0", "kexec_loaded is {}", report["kexec_loaded"]);
    let least = u64::from(scenario.machine.memory_mb) * 1024 * 3 / 4;
    let memory = report["mem_total_kb"].as_u64().unwrap_or_default();
    ensure!(memory >= least, "the second kernel has {memory} kB of {} MB", scenario.machine.memory_mb);
    Ok(())
}

impl Check {
    fn hold(self, said: &Transcript, report: &Value) -> Result<()> {
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
            Self::Lease(interface) => {
                let leased =
                    |record: &Record<'_>| record.step == "net" && record.message.contains(": lease ");
                let lease = said.records().find(leased).context("no word of a lease")?;
                ensure!(lease.message.contains(interface), "not over {interface}: {}", lease.message);
            }
            Self::ExecWithin(seconds) => {
                let exec = said.exec().context("no word of the jump")?;
                ensure!(exec.t <= f64::from(seconds), "jumped after {:.1} s, not within {seconds} s", exec.t);
            }
        }
        Ok(())
    }
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
