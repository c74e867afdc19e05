//! A network namespace of the lab's own, where real servers run: a process holds it, and with that it is gone.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::run;

/// The namespace's device on the wire.
pub(super) const DEVICE: &str = "lan0";

/// Why namespaces and TAP devices cannot be made here, if they cannot.
pub(crate) fn missing() -> Option<&'static str> {
    let programs = [
        ("ip", "no ip (package iproute2)"),
        ("nsenter", "no nsenter (package util-linux)"),
        ("dnsmasq", "no dnsmasq (package dnsmasq-base)"),
    ];
    if !rustix::process::geteuid().is_root() {
        Some("not root: no network namespace can be made")
    } else if File::open("/dev/net/tun").is_err() {
        Some("no /dev/net/tun")
    } else if !Path::new("/proc/sys/net/ipv6").exists() {
        Some("no IPv6 in this kernel")
    } else {
        programs.into_iter().find(|(program, _)| !run::have(program)).map(|(_, why)| why)
    }
}

/// The namespace, until it is dropped. It ends with the lab, too, however that ends.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    pub(crate) fn new() -> Result<Self> {
        let script = "ip link set lo up && echo there && exec sleep 3600";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "sh", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut namespace = Self { holder: command.spawn().context("cannot run unshare")? };
        let output = namespace.holder.stdout.take().context("unshare has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "there", "no network namespace could be made");
        Ok(namespace)
    }

    /// Runs this on a thread inside. What it opens stays there.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter the network namespace")?;
                work()
            });
            thread.join().expect("nothing inside panics")
        })
    }

    /// A program that will run inside, and not longer than the lab.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "nsenter", &self.option(), "--"]).arg(program);
        command
    }

    /// The process that holds it, as `ip` names a namespace.
    pub(crate) fn id(&self) -> u32 {
        self.holder.id()
    }

    /// nsenter's.
    fn option(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.holder.id())
    }

    pub(crate) fn ip(&self, arguments: &str) -> Result<()> {
        run::quiet(self.command("ip").args(arguments.split_whitespace()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A server inside that runs until it is dropped; what it says goes into a file. It ends with the lab, too: a
/// shell waits for the end of its input and kills it then. A server that drops capabilities would not be told of
/// its parent's death (`PR_SET_PDEATHSIG`, prctl(2)).
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(
        namespace: &Namespace,
        program: &str,
        arguments: &[String],
        log: &Path,
    ) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new("nsenter");
        command.arg(namespace.option()).args([
            "--",
            "sh",
            "-c",
            r#""$@" & read -r _; kill -KILL $!; wait"#,
            "sh",
        ]);
        command.arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {program}"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
