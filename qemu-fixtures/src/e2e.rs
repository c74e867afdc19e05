//! Running scenarios: each is staged, booted as often as it says, and each of its boots judged.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::certificates::Certificates;
use crate::faulty::Faulty;
use crate::judge::{self, Kept, Published};
use crate::machine::{self, Boot, HOST};
use crate::publish::Content;
use crate::scenarios::{Initramfs, Scenario, Serve, Step};
use crate::serial::{Record, Transcript};
use crate::stage::{Packing, Served, Stage, Tools};
use crate::{folders, peer};

/// A machine that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(150);
/// Twice as long as phasectl has a release be valid.
const LATER: Duration = Duration::from_secs(60 * 24 * 3600);
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
    let mut remains = Remains::default();
    let result = boot(&scenario, tools, folder, &mut remains);
    let took = started.elapsed();
    let mut text = match &result {
        Ok(_) => format!("{:<44} ok      {:>5.1} s", scenario.full_name(), took.as_secs_f64()),
        Err(error) => format!(
            "{:<44} FAILED  {:>5.1} s\n    {error:#}\n    {}",
            scenario.full_name(),
            took.as_secs_f64(),
            remains.log.display()
        ),
    };
    if result.is_err() {
        for line in remains.said.tail(SHOWN) {
            text.push_str("\n    | ");
            text.push_str(line);
        }
    }
    println!("{text}");
    Outcome { scenario, result }
}

/// The server of a scenario, until it is dropped.
enum Server {
    Phasectl(Served, Option<Certificates>),
    Faulty(Faulty),
}

impl Server {
    fn start(scenario: &Scenario, stage: &Stage<'_>) -> Result<Self> {
        Ok(match scenario.serve {
            Serve::Phasectl => Self::Phasectl(stage.serve(None)?, None),
            Serve::Tls => {
                let certificates = Certificates::make(&stage.path(""))?;
                Self::Phasectl(stage.serve(Some(&certificates))?, Some(certificates))
            }
            Serve::Faulty(faults) => Self::Faulty(Faulty::start(stage.site(), faults)?),
        })
    }

    /// As the machine reaches it.
    fn url(&self) -> String {
        match self {
            Self::Phasectl(server, None) => format!("http://{HOST}:{}", server.port()),
            Self::Phasectl(server, Some(_)) => format!("https://{HOST}:{}", server.port()),
            Self::Faulty(server) => format!("http://{HOST}:{}", server.port()),
        }
    }
}

/// Where a failed scenario can be looked into.
#[derive(Debug, Default)]
struct Remains {
    log: PathBuf,
    said: Transcript,
}

/// Boots the machine of a scenario as often as it says; the times are those of its last boot.
fn boot(scenario: &Scenario, tools: &Tools, folder: &Path, remains: &mut Remains) -> Result<Times> {
    let stage = Stage::new(tools, folder.to_owned())?;
    let arch = scenario.machine.arch;
    let (target, secret) = stage.target_initramfs(arch, scenario.ballast)?;
    let mark = format!("lab.scenario={}", scenario.slug());
    let mut next = format!("{mark} {PANIC}");
    if scenario.padding > 0 {
        next.push_str(&format!(" lab.padding={}", "x".repeat(scenario.padding)));
    }
    let content = Content { kernel: scenario.published_kernel(), initramfs: target, cmdline: next };
    let published = Published { secret, mark, release: tools.kernel(content.kernel)?.release.clone() };
    if let Some(disk) = scenario.machine.disk {
        disk.make(&stage.path(machine::DISK))?;
    }
    let server = Server::start(scenario, &stage)?;
    let initramfs = stage.initramfs(scenario.kernel, &packing(scenario, &stage, &server)?)?;
    let machine = Ready { scenario, stage: &stage, content, published, url: server.url(), initramfs };
    let mut times = Times::default();
    for (index, step) in scenario.steps.iter().enumerate() {
        let log = stage.path(&format!("serial-{}.log", index + 1));
        *remains = Remains { log, said: Transcript::default() };
        let result = machine.boot(step, remains);
        times = match scenario.steps.len() {
            1 => result?,
            count => result.with_context(|| format!("boot {} of {count}", index + 1))?,
        };
    }
    Ok(times)
}

/// A machine that is ready to be booted.
struct Ready<'a> {
    scenario: &'a Scenario,
    stage: &'a Stage<'a>,
    content: Content,
    published: Published,
    url: String,
    initramfs: PathBuf,
}

impl Ready<'_> {
    fn boot(&self, step: &Step, remains: &mut Remains) -> Result<Times> {
        let machine = &self.scenario.machine;
        for change in step.publish {
            change
                .make(self.stage, &self.content, machine.arch)
                .with_context(|| format!("cannot publish {change:?}"))?;
        }
        let boot = Boot {
            kernel: self.stage.kernel(self.scenario.kernel)?.image.clone(),
            initramfs: self.initramfs.clone(),
            cmdline: cmdline(machine.arch, &self.url, step.cmdline),
        };
        let folder = self.stage.path("");
        let kept = Kept::before(machine, &folder)?;
        let run = machine.run(&boot, &remains.log, LIMIT, false)?;
        let judged = judge::judge(machine, step, &run, &self.published, &kept);
        let times = Times::of(&run.transcript, &self.initramfs);
        remains.said = run.transcript;
        judged.map(|()| times)
    }
}

fn packing(scenario: &Scenario, stage: &Stage<'_>, server: &Server) -> Result<Packing> {
    let mut packing = Packing {
        keys: scenario.keys.iter().map(|name| stage.key(name)).collect::<Result<_>>()?,
        policy: scenario.policy.map(str::to_owned),
        modules: scenario.machine.modules(),
        no_device_nodes: scenario.initramfs == Initramfs::NoDeviceNodes,
        ..Packing::default()
    };
    if scenario.initramfs == Initramfs::BuiltLater {
        packing.built = Some(SystemTime::now() + LATER);
    }
    if let Server::Phasectl(_, Some(certificates)) = server {
        packing.policy = packing.policy.map(|policy| policy.replace("{pin}", &certificates.pin));
        packing.tls_root = Some(certificates.authority.clone());
    }
    Ok(packing)
}

/// The first kernel's command line.
pub(crate) fn cmdline(arch: Arch, provider: &str, more: &str) -> String {
    let console = arch.console();
    let line = format!("console={console} {PANIC} phase.provider={provider} phase.onfail=poweroff {more}");
    line.trim_end().to_owned()
}
