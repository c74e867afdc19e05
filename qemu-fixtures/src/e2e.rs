//! Running scenarios: each is staged, booted as often as it says, and each of its boots judged.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::certificates::Certificates;
use crate::faulty::{self, Faulty, Ledger};
use crate::judge::{self, Kept, Published};
use crate::kernels::{Form, Uki};
use crate::listener::Listener;
use crate::machine::{self, Boot, Firmware, HOST, Machine};
use crate::network::MANY;
use crate::peer::Shell;
use crate::publish::Content;
use crate::scenarios::{Initramfs, Scenario, Serve, Step, TRUSTED};
use crate::serial::{Record, Transcript};
use crate::stage::{Packing, Served, Stage, Tools};
use crate::wire::{self, Wire};
use crate::{dracut, folders, peer, proxy};

/// A machine that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(300);
/// Twice as long as phasectl has a release be valid.
const LATER: Duration = Duration::from_secs(60 * 24 * 3600);
/// Lines of the serial log that are shown when a scenario fails.
const SHOWN: usize = 15;
/// What every kernel is told. A panic ends the run: QEMU does not start the machine again. On a busy host
/// x86's clocks do not keep step with TCG's CPUs, and a kernel that measures them gives one of them up in
/// the middle of the boot, by patching code that other CPUs run.
pub(crate) fn told(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "panic=-1 no_timer_check tsc=reliable",
        Arch::Aarch64 => "panic=-1",
    }
}

/// How a scenario went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) result: Result<Times>,
    /// Why it was not run, if it was not.
    pub(crate) skipped: Option<&'static str>,
}

/// The way of a successful boot in seconds since PID 1 started, by the host's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) lease: Option<f64>,
    pub(crate) verified: Option<f64>,
    pub(crate) exec: Option<f64>,
    /// From exec to the second kernel's init.
    pub(crate) handover: Option<f64>,
    /// From the first word of the card that has it to the lease: only where debug records are told.
    pub(crate) lease_of_card: Option<f64>,
    /// Bytes.
    pub(crate) initramfs: u64,
}

/// How long a lease took, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Leased {
    pub(crate) since_start: Option<f64>,
    /// Since the drivers were loaded and the cards there.
    pub(crate) since_cards: Option<f64>,
}

impl Times {
    fn of(transcript: &Transcript, initramfs: &Path) -> Self {
        // The first record says how long PID 1 has been there.
        let start = transcript.records().next().map_or(0.0, |first| first.at.as_secs_f64() - first.t);
        let since = |record: Option<Record<'_>>| record.map(|record| record.at.as_secs_f64() - start);
        let exec = transcript.exec();
        let mut records = transcript.records();
        Self {
            lease: since(records.find(|record| record.step == "net" && record.message.contains(": lease "))),
            verified: since(records.filter(|record| record.step == "fetch").last()),
            exec: since(exec),
            handover: transcript.handover(),
            lease_of_card: lease_of_card(transcript),
            initramfs: std::fs::metadata(initramfs).map_or(0, |meta| meta.len()),
        }
    }
}

/// Seconds from the record of a card that has appeared to the record of its lease, by the machine's clock.
fn lease_of_card(transcript: &Transcript) -> Option<f64> {
    let mut records = transcript.records().filter(|record| record.step == "net");
    let lease = records.find(|record| record.message.contains(": lease "))?;
    let (card, _) = lease.message.split_once(": lease ")?;
    let appeared = format!("{card} (number ");
    let card = transcript.records().find(|record| record.message.starts_with(&appeared))?;
    Some(lease.t - card.t)
}

/// What a run of the lab has come to.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) outcomes: Vec<Outcome>,
    /// The other way on the same machines, where phaseboot's times were taken.
    pub(crate) peers: Vec<(Arch, Result<Times>)>,
    /// A shell's init on the machine with many cards.
    pub(crate) many: Option<Leased>,
}

/// Runs all of them: those whose times count one by one, each right after its peer, then the others, one more
/// at a time than there are CPUs.
pub(crate) fn run(scenarios: Vec<Scenario>, tools: &Tools) -> Result<Results> {
    let folder = folders::work("e2e")?;
    let (timed, others): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|scenario| scenario.timed);
    let (mut outcomes, mut peers, mut many) = (Vec::new(), Vec::new(), None);
    for scenario in timed {
        let arch = scenario.machine.arch;
        if scenario.compares(arch) {
            peers.push((arch, peer(arch, tools, &folder)));
        }
        if scenario.name == MANY {
            many = peer::many(&scenario.machine, tools, &folder.join(format!("{arch}-peer-many")))
                .inspect_err(|error| println!("peer/{MANY}: no figure: {error:#}"))
                .ok();
        }
        outcomes.extend(at_a_time(1, vec![scenario], tools, &folder));
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    // A third of their time machines wait for something: for a timeout, a cable, another try.
    outcomes.extend(at_a_time(cpus + 1, others, tools, &folder));
    Ok(Results { outcomes, peers, many })
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
    if let Some(why) = missing(&scenario) {
        println!("{:<44} skipped: {why}", scenario.full_name());
        return Outcome { scenario, result: Ok(Times::default()), skipped: Some(why) };
    }
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
            remains.files(folder)
        ),
    };
    if result.is_err() {
        for line in remains.said.tail(SHOWN) {
            text.push_str("\n    | ");
            text.push_str(line);
        }
    }
    println!("{text}");
    Outcome { scenario, result, skipped: None }
}

/// Why this machine cannot have what the scenario needs.
fn missing(scenario: &Scenario) -> Option<&'static str> {
    if scenario.lan.is_some() {
        return wire::missing();
    }
    if !matches!(scenario.initramfs, Initramfs::Dracut(_)) {
        return None;
    }
    dracut::missing().or_else(|| {
        let error = dracut::system().err()?;
        println!("dracut: {error:#}");
        Some("dracut cannot be had here")
    })
}

/// The server of a scenario.
enum Server {
    Phasectl(Served, Option<Certificates>),
    Faulty(Faulty),
}

/// Everything that a scenario's machine can reach, until it is dropped.
struct Servers {
    server: Server,
    proxy: Option<Listener>,
    wire: Option<Wire>,
}

impl Servers {
    fn start(scenario: &Scenario, stage: &Stage<'_>) -> Result<Self> {
        let mut wire = scenario.lan.as_ref().map(|_| Wire::new()).transpose()?;
        let server = match scenario.serve {
            Serve::Phasectl | Serve::Proxied => Server::Phasectl(stage.serve(None, wire.as_ref())?, None),
            Serve::Tls => {
                let certificates = Certificates::make(&stage.path(""))?;
                Server::Phasectl(stage.serve(Some(&certificates), wire.as_ref())?, Some(certificates))
            }
            Serve::Faulty(faults) => Server::Faulty(match &wire {
                Some(wire) => wire.inside(|| Faulty::start(stage.site(), faults, faulty::ANYWHERE))?,
                None => Faulty::start(stage.site(), faults, (Ipv4Addr::LOCALHOST, 0).into())?,
            }),
        };
        let proxy = match scenario.serve {
            Serve::Proxied => Some(proxy::start(server.port())?),
            _ => None,
        };
        if let (Some(wire), Some(lan)) = (&mut wire, &scenario.lan) {
            let ports: Vec<_> = scenario.machine.nics.iter().map(|nic| nic.port()).collect();
            wire.open(lan, &ports, &sockets(scenario), &stage.path(""), server.port())?;
        }
        Ok(Self { server, proxy, wire })
    }

    /// The provider's URL as the machine reaches it, or whatever the scenario says instead.
    fn provider(&self, scenario: &Scenario) -> String {
        let scheme = if matches!(self.server, Server::Phasectl(_, Some(_))) { "https" } else { "http" };
        let host = if self.wire.is_some() { wire::SERVERS } else { HOST };
        self.fill(scenario.provider.unwrap_or(&format!("{scheme}://{host}:{{port}}")))
    }

    /// Ports into a text that leaves them open.
    fn fill(&self, text: &str) -> String {
        let proxy = self.proxy.as_ref().map_or(0, Listener::port);
        text.replace("{port}", &self.server.port().to_string()).replace("{proxy}", &proxy.to_string())
    }

    fn ledger(&self) -> Option<Arc<Ledger>> {
        match &self.server {
            Server::Phasectl(..) => None,
            Server::Faulty(faulty) => Some(faulty.ledger()),
        }
    }
}

impl Server {
    fn port(&self) -> u16 {
        match self {
            Self::Phasectl(server, _) => server.port(),
            Self::Faulty(server) => server.port(),
        }
    }
}

/// What the sockets of its machine are named after.
fn sockets(scenario: &Scenario) -> String {
    format!("phaseboot-lab-{}-{}", std::process::id(), scenario.slug())
}

/// Logs of servers, and what was on the wire.
const LOGS: [&str; 6] = ["requests.log", "serve.log", LEDGER, wire::DNSMASQ, wire::JOURNAL, wire::FRAMES];
/// What a faulty server has counted.
const LEDGER: &str = "faulty.log";

/// Where a failed scenario can be looked into.
#[derive(Debug, Default)]
struct Remains {
    log: PathBuf,
    said: Transcript,
}

impl Remains {
    /// The serial log, and what else there is in `folder`.
    fn files(&self, folder: &Path) -> String {
        let filled = |name: &&str| folder.join(name).metadata().is_ok_and(|file| file.len() > 0);
        let others: Vec<&str> = LOGS.into_iter().filter(filled).collect();
        let beside =
            if others.is_empty() { String::new() } else { format!("; beside it {}", others.join(", ")) };
        format!("{}{beside}", self.log.display())
    }
}

/// Boots the machine of a scenario as often as it says; the times are those of its last boot.
fn boot(scenario: &Scenario, tools: &Tools, folder: &Path, remains: &mut Remains) -> Result<Times> {
    let stage = Stage::new(tools, folder.to_owned())?;
    ready(scenario, &stage)?.steps(remains)
}

/// Seconds to the init of the published kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    /// From the jump out of the kernel before it.
    pub(crate) jump: f64,
    /// From the start of a machine that starts it itself.
    pub(crate) cold: f64,
}

/// Boots a row and the kernel that it publishes in turn, with nothing beside them.
pub(crate) fn handovers(
    scenario: &Scenario,
    tools: &Tools,
    folder: &Path,
    rounds: usize,
) -> Result<Vec<Handover>> {
    let round = || {
        let stage = Stage::new(tools, folder.to_owned())?;
        let machine = ready(scenario, &stage)?;
        let mut remains = Remains::default();
        let times = machine.steps(&mut remains).with_context(|| remains.files(folder))?;
        Ok(Handover { jump: times.handover.context("it did not jump")?, cold: machine.cold()? })
    };
    (0..rounds).map(|_| round()).collect()
}

/// Makes everything that a scenario's machine needs.
fn ready<'a>(scenario: &'a Scenario, stage: &'a Stage<'a>) -> Result<Ready<'a>> {
    let (arch, (kernel, _)) = (scenario.machine.arch, scenario.published());
    let (target, secret) =
        stage.target_initramfs(scenario.target(), scenario.ballast, scenario.target_modules)?;
    let mark = format!("lab.scenario={}", scenario.slug());
    let mut next = format!("{mark} {}", told(arch));
    if !scenario.more.is_empty() {
        next.push_str(&format!(" {}", scenario.more));
    }
    let published = Published { secret, mark, release: stage.kernel(kernel)?.release.clone() };
    if let Some(disk) = scenario.machine.disk {
        disk.make(&stage.path(machine::DISK))?;
    }
    let servers = Servers::start(scenario, stage)?;
    let packed = stage.initramfs(scenario.kernel, &packing(scenario, stage, &servers.server)?)?;
    let initramfs = started(scenario, stage, &packed, &format!("{next} console={}", arch.console()))?;
    // A chain's kernels are all told what the first one is.
    let asked = scenario.steps.first().map_or("", |step| step.cmdline);
    let (usual, provider) = (told(arch), servers.provider(scenario));
    let again = format!("{usual} phase.provider={provider} phase.onfail=poweroff {asked}");
    let image = published_image(scenario, stage, &next)?;
    let dtb = scenario.dtb.then(|| scenario.machine.tree(&stage.path("machine.dtb"))).transpose()?;
    let content = Content {
        kernel,
        image,
        initramfs: target,
        dtb,
        // A unified kernel image brings its own.
        cmdline: if scenario.published().1 == Form::Uki { String::new() } else { next },
        before: (scenario.hops, packed, again),
        mirrors: scenario.mirrors.iter().map(|mirror| servers.fill(mirror)).collect(),
    };
    Ok(Ready { scenario, stage, content, published, servers, initramfs })
}

/// The initramfs that the machine starts with: `packed`, or one in which somebody else is init.
fn started(scenario: &Scenario, stage: &Stage<'_>, packed: &Path, cmdline: &str) -> Result<PathBuf> {
    let payload = stage.payload(scenario.machine.arch)?;
    let kernel = stage.kernel(scenario.kernel)?;
    let (network, commands) = match scenario.initramfs {
        Initramfs::Usual | Initramfs::NoDeviceNodes | Initramfs::BuiltLater => return Ok(packed.to_owned()),
        Initramfs::Dracut(calls) => {
            let key = stage.key(TRUSTED[0])?.public;
            return dracut::initramfs(stage, kernel, payload, &key, calls);
        }
        Initramfs::Shell(network) => (network, "phaseboot boot\n"),
        Initramfs::Commands(commands) => ("phaseboot", commands),
    };
    peer::other_init(stage, kernel, payload, packed, &Shell { network, commands, cmdline })
}

/// The published kernel in the form that the scenario asks for.
fn published_image(scenario: &Scenario, stage: &Stage<'_>, cmdline: &str) -> Result<PathBuf> {
    let (kernel, form) = scenario.published();
    let kernel = stage.kernel(kernel)?;
    if form != Form::Uki {
        return form.of(kernel);
    }
    let initrds = UKI_PARTS.map(|name| stage.target_part(kernel.id.arch(), name));
    let initrds = initrds.into_iter().collect::<Result<Vec<_>>>()?;
    let out = stage.path("uki.efi");
    Uki { kernel, initrds: &initrds, cmdline }.make(&out)?;
    Ok(out)
}

/// What the ramdisks inside a unified kernel image are called.
pub(crate) const UKI_PARTS: [&str; 2] = ["first", "second"];

/// A machine that is ready to be booted.
struct Ready<'a> {
    scenario: &'a Scenario,
    stage: &'a Stage<'a>,
    content: Content,
    published: Published,
    servers: Servers,
    initramfs: PathBuf,
}

impl Ready<'_> {
    fn steps(&self, remains: &mut Remains) -> Result<Times> {
        let mut times = Times::default();
        for (index, step) in self.scenario.steps.iter().enumerate() {
            let log = self.stage.path(&format!("serial-{}.log", index + 1));
            *remains = Remains { log, said: Transcript::default() };
            let result = self.boot(step, remains);
            times = match self.scenario.steps.len() {
                1 => result?,
                count => result.with_context(|| format!("boot {} of {count}", index + 1))?,
            };
        }
        Ok(times)
    }

    fn boot(&self, step: &Step, remains: &mut Remains) -> Result<Times> {
        let machine = &self.scenario.machine;
        for change in step.publish {
            change
                .make(self.stage, &self.content, machine.arch)
                .with_context(|| format!("cannot publish {change:?}"))?;
        }
        let boot = Boot {
            kernel: self.scenario.first.of(self.stage.kernel(self.scenario.kernel)?)?,
            initramfs: self.initramfs.clone(),
            cmdline: cmdline(
                machine.arch,
                &self.servers.provider(self.scenario),
                &self.servers.fill(step.cmdline),
            ),
            name: sockets(self.scenario),
        };
        let folder = self.stage.path("");
        let kept = Kept::before(machine, &folder, self.servers.ledger())?;
        let run = machine.run(&boot, &remains.log, LIMIT, false)?;
        if let Some(ledger) = self.servers.ledger() {
            std::fs::write(self.stage.path(LEDGER), ledger.text())?;
        }
        let judged = judge::judge(machine, step, &self.scenario.also, &run, &self.published, &kept);
        let times = Times::of(&run.transcript, &self.initramfs);
        remains.said = run.transcript;
        judged.map(|()| times)
    }
}

impl Ready<'_> {
    /// Seconds that the published kernel and initramfs take to their init where QEMU itself starts them, as
    /// plain files. Firmware is not counted where it can be told from the kernel: with UEFI.
    fn cold(&self) -> Result<f64> {
        let machine = Machine { disk: None, events: &[], forgets: false, ..self.scenario.machine.clone() };
        let form = if machine.firmware == Firmware::SecureBoot { Form::Enrolled } else { Form::Plain };
        let boot = Boot {
            kernel: form.of(self.stage.kernel(self.content.kernel)?)?,
            initramfs: self.content.initramfs.clone(),
            cmdline: format!("console={} {}", machine.arch.console(), told(machine.arch)),
            name: format!("{}-cold", sockets(self.scenario)),
        };
        let run = machine.run(&boot, &self.stage.path("cold.log"), LIMIT, false)?;
        let started = run.transcript.target_started().context("the cold boot came to no init: cold.log")?;
        let from = match machine.firmware {
            Firmware::Default => Duration::ZERO,
            Firmware::Uefi | Firmware::SecureBoot => {
                run.kernel_taken.context("QEMU does not say when the firmware took the kernel")?
            }
        };
        Ok(started.saturating_sub(from).as_secs_f64())
    }
}

fn packing(scenario: &Scenario, stage: &Stage<'_>, server: &Server) -> Result<Packing> {
    let mut packing = Packing {
        keys: scenario.keys.iter().map(|name| stage.key(name)).collect::<Result<_>>()?,
        policy: scenario.policy.map(str::to_owned),
        modules: [scenario.machine.modules(), scenario.modules].concat(),
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

/// The first kernel's command line; without a provider it names none.
pub(crate) fn cmdline(arch: Arch, provider: &str, more: &str) -> String {
    let console = arch.console();
    let provider = if provider.is_empty() { String::new() } else { format!(" phase.provider={provider}") };
    let usual = told(arch);
    let line = format!("console={console} {usual}{provider} phase.onfail=poweroff {more}");
    line.trim_end().to_owned()
}
