//! `cargo lab demo`: the main job once, in front of your eyes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::arch::Arch;
use crate::e2e::{cmdline, told};
use crate::kernels::{self, Id};
use crate::machine::{Boot, End, HOST, Machine};
use crate::serial::Transcript;
use crate::setup::{self, Needs};
use crate::stage::{Packing, Stage, Tools};
use crate::{build, folders, run};

const LIMIT: Duration = Duration::from_secs(300);

/// What is shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Architecture of the machine (x86_64, arm64) [default: this machine's]
    #[arg(long)]
    arch: Option<Arch>,
    /// Keep keys, published tree, images and serial log
    #[arg(long)]
    keep: bool,
}

/// The steps so far, with what each took.
#[derive(Default)]
struct Steps(Vec<(String, Duration)>);

impl Steps {
    fn time<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let started = Instant::now();
        let done = step()?;
        self.0.push((name.to_owned(), started.elapsed()));
        Ok(done)
    }

    fn print(&self) {
        println!("\n{:<44} seconds", "step");
        for (name, took) in &self.0 {
            println!("{name:<44} {:>7.2}", took.as_secs_f64());
        }
    }
}

/// Everything from the packages to the second kernel's greeting.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let arch = arguments.arch.map_or_else(Arch::native, Ok)?;
    let id = Id::Debian61(arch);
    let mut steps = Steps::default();
    steps.time("set up", || setup::install(&Needs::one(arch)))?;
    let built = steps.time("build the payload", || {
        let built = build::payloads(&[arch])?;
        built.iter().for_each(|built| println!("{built}"));
        Ok(built)
    })?;
    let kernel = steps.time("get Debian's kernel", || {
        let kernel = kernels::get(id)?;
        println!("{kernel}");
        Ok(kernel)
    })?;
    let tools = steps.time("build phasectl", || Tools::new(built, vec![kernel.clone()]))?;
    let folder = folders::work("demo")?.join(arch.gnu());
    let stage = Stage::new(&tools, folder.clone())?;
    let (key, target, secret) = steps.time("make a key and the second initramfs", || {
        let (target, secret) = stage.target_initramfs(id, 0, &[])?;
        Ok((stage.key("demo")?, target, secret))
    })?;
    steps.time("sign and publish kernel and initramfs", || {
        let mut publish = stage.publish("stable", arch, &kernel.image, &target);
        publish.arg("--key").arg(&key.private).arg(format!("--cmdline=lab.demo=1 {}", told(arch)));
        run::quiet(&mut publish)
    })?;
    let server = stage.serve(None, None)?;
    let initramfs = steps.time("pack phaseboot, key and modules", || {
        stage.initramfs(id, &Packing { keys: vec![key], ..Packing::default() })
    })?;
    let url = format!("http://{HOST}:{}", server.port());
    println!("\n== start a machine ({arch}); its serial console:\n");
    let boot = Boot {
        kernel: kernel.image.clone(),
        initramfs,
        cmdline: cmdline(arch, &url, ""),
        name: format!("phaseboot-lab-{}-demo", std::process::id()),
    };
    let log = stage.path("serial.log");
    let run = Machine::new(arch).run(&boot, &log, LIMIT, true)?;
    let report = judge(&run.transcript, run.end, &secret, &log)?;
    way(&mut steps, &run.transcript);
    greet(&report);
    steps.print();
    drop(server);
    if arguments.keep {
        println!("\nkept: {}", folder.display());
    } else {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn judge(said: &Transcript, end: End, secret: &str, log: &Path) -> Result<Value> {
    let log = log.display();
    if let Some((_, report)) = said.targets().into_iter().next() {
        if report["secret_sha256"] != secret {
            bail!("the second kernel has another initramfs than the published one; serial log: {log}");
        }
        return Ok(report);
    }
    match (said.failure(), end) {
        (Some((record, _)), _) => bail!("{}; serial log: {log}", record.message),
        (None, End::TimedOut(limit)) => {
            bail!("the machine was still running after {} s; serial log: {log}", limit.as_secs())
        }
        (None, End::Exited(_)) => bail!("the machine ended without a second kernel; serial log: {log}"),
    }
}

/// The way through the machine: from its start to PID 1, phaseboot's steps, the second kernel.
/// A record is written when something is done: the time before it belongs to its step.
fn way(steps: &mut Steps, said: &Transcript) {
    let mut since = Duration::ZERO;
    for (index, record) in said.records().enumerate() {
        let t = Duration::try_from_secs_f64(record.t).unwrap_or_default();
        if index == 0 {
            steps.0.push(("machine: start to PID 1".into(), record.at.saturating_sub(t)));
        }
        let name = format!("phaseboot: {}", record.step);
        let took = t.saturating_sub(since);
        match steps.0.last_mut() {
            Some((last, total)) if *last == name => *total += took,
            _ => steps.0.push((name, took)),
        }
        since = t;
    }
    if let (Some(exec), Some((at, _))) = (said.exec(), said.targets().first()) {
        steps.0.push(("second kernel: kexec to its init".into(), at.saturating_sub(exec.at)));
        let t = Duration::try_from_secs_f64(exec.t).unwrap_or_default();
        steps.0.push(("(phaseboot, from PID 1 to kexec)".into(), t));
    }
}

fn greet(report: &Value) {
    let text = |name: &str| report[name].as_str().unwrap_or("-").to_owned();
    println!("\nThe second kernel says hello:");
    println!("  Linux {} on {}, up {} s", text("release"), text("machine"), report["uptime_s"]);
    println!("  command line: {}", text("cmdline"));
    println!("  its initramfs has the file that only the published one has: {}", text("secret_sha256"));
}
