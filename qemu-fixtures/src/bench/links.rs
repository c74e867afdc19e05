//! `cargo lab bench links`: from the start of a DHCP client to the lease, on one link and on sixteen of which one
//! works, beside the clients of other inits. Veth pairs in namespaces, whose devices are there before.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::wire::{Namespace, Server};
use crate::{folders, peer, run};

use super::fetch::release;
use super::median;

/// Links of the larger machines.
const MANY: usize = 16;
/// Of these, links whose other end is down.
const DARK: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often phaseboot is measured on each machine, in turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// In how many of these rounds the others are measured, too: some take half a minute
    #[arg(long, default_value_t = 3)]
    peers: usize,
    /// This binary instead of a release that is built now
    #[arg(long, value_name = "FILE")]
    phaseboot: Option<PathBuf>,
}

/// Seconds of one run: until the lease was told of, until the program had ended, and its CPU time.
#[derive(Clone, Copy, Debug)]
struct Run {
    lease: f64,
    end: f64,
    cpu: f64,
}

/// A client and how it is called.
struct Client {
    name: &'static str,
    /// What was given to it, for the table.
    given: &'static str,
    /// A line of bash; `LINKS` stands for the names of all links.
    line: String,
    /// What it says when it has the lease.
    word: &'static str,
    /// The others are measured less often.
    is_ours: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(missing) = crate::wire::missing() {
        println!("skipped: {missing}");
        return Ok(());
    }
    if arguments.rounds == 0 {
        bail!("nothing to measure: there are no rounds");
    }
    let at = folders::work("bench-links")?;
    folders::afresh(&at)?;
    let result = measured_in(&at, arguments);
    fs::remove_dir_all(&at).with_context(|| format!("cannot remove {}", at.display()))?;
    result
}

fn measured_in(at: &Path, arguments: &Arguments) -> Result<()> {
    let phaseboot = match &arguments.phaseboot {
        Some(path) => fs::canonicalize(path).with_context(|| format!("no {}", path.display()))?,
        None => release()?.0,
    };
    let clients = clients(at, &phaseboot)?;
    let machines = [
        Machine::new(at, "1 link", 1, 0, 0)?,
        Machine::new(at, "16, the first works", MANY, 0, DARK)?,
        Machine::new(at, "16, the twelfth works", MANY, 11, DARK)?,
    ];
    println!(
        "from the start to the lease on veth pairs that are there and down; of 16 links {DARK} are without carrier, {} \
         silent, one has a dnsmasq; medians of {} rounds, of {} for the others; {} CPUs for server and client together",
        MANY - DARK - 1,
        arguments.rounds,
        arguments.peers.min(arguments.rounds),
        thread::available_parallelism()?
    );
    let mut runs = vec![vec![Vec::new(); machines.len()]; clients.len()];
    for round in 0..arguments.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            if !client.is_ours && round >= arguments.peers {
                continue;
            }
            for (machine, runs) in machines.iter().zip(runs) {
                let run = machine.measure(client);
                runs.push(run.with_context(|| format!("{} on {}", client.name, machine.name))?);
            }
        }
    }
    print(&clients, &machines, &runs);
    Ok(())
}

fn print(clients: &[Client], machines: &[Machine], runs: &[Vec<Vec<Run>>]) {
    println!("\n{:<46} {:>9} {:>6} {:>9} {:>9}", "medians, milliseconds", "lease", "ratio", "end", "CPU");
    for (client, runs) in
        clients.iter().zip(runs).filter(|(_, runs)| runs.iter().all(|runs| !runs.is_empty()))
    {
        println!("{}: {}", client.name, client.given);
        let lease = |runs: &[Run]| median(runs.iter().map(|run| run.lease));
        let one = runs.first().and_then(|runs| lease(runs));
        for (machine, runs) in machines.iter().zip(runs) {
            let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure)).unwrap_or(f64::NAN) * 1000.0;
            let ratio = lease(runs).zip(one).map_or(f64::NAN, |(lease, one)| lease / one);
            let (end, cpu) = (of(|run| run.end), of(|run| run.cpu));
            println!(
                "    {:<42} {:>9.1} {ratio:>6.2} {end:>9.1} {cpu:>9.1}",
                machine.name,
                of(|run| run.lease)
            );
        }
    }
    println!(
        "\"lease\": until the client says that it has one; \"ratio\": to its own on one link; \"end\" and \"CPU\": until the"
    );
    println!(
        "program has ended, with the links set (phaseboot: the others put back down) and with its children."
    );
    let lease = |machine: usize| {
        let runs = runs.first().and_then(|runs| runs.get(machine));
        median(runs.into_iter().flatten().map(|run| run.lease))
    };
    for (number, machine) in machines.iter().enumerate().skip(1) {
        if let Some((one, many)) = lease(0).zip(lease(number)) {
            println!("phaseboot, {}: {}", machine.name, verdict(one, many));
        }
    }
}

/// The goal in words, for seconds until the lease on one link and on many: what is within a tenth or within 10 ms
/// is the same.
fn verdict(one: f64, many: f64) -> String {
    let more = (many - one) * 1000.0;
    if many <= one * 1.1 || more <= 10.0 {
        format!("goal met, {more:+.1} ms beside one link")
    } else {
        format!("goal not met, {more:+.1} ms beside one link")
    }
}

/// phaseboot, and busybox as shell inits call it, if Debian's can be had.
fn clients(at: &Path, phaseboot: &Path) -> Result<Vec<Client>> {
    let mut clients = vec![Client {
        name: "phaseboot net",
        given: "nothing",
        line: format!("{} net --json", phaseboot.display()),
        word: ": lease ",
        is_ours: true,
    }];
    let busybox = match peer::programs(Arch::native()?) {
        Ok(root) => root.join("bin/busybox"),
        Err(error) => {
            println!("udhcpc skipped: {error:#}");
            return Ok(clients);
        }
    };
    let script = at.join("udhcpc.sh");
    fs::write(&script, UDHCPC).with_context(|| format!("cannot write {}", script.display()))?;
    run::quiet(Command::new("chmod").arg("+x").arg(&script))?;
    let udhcpc = format!("{} udhcpc -f -n -q -t 3 -T 1 -s {} -i $i", busybox.display(), script.display());
    let peer = |name, given, line| Client { name, given, line, word: "lease of ", is_ours: false };
    clients.push(peer(
        "udhcpc in turn",
        "-t 3 -T 1, each link set up when its turn comes, and passed over without carrier",
        format!(
            "for i in LINKS; do ip link set $i up; read c </sys/class/net/$i/carrier; test $c = 0 && continue; \
             {udhcpc} && exit 0; done; exit 1"
        ),
    ));
    clients.push(peer(
        "udhcpc for each",
        "-t 3 -T 1, one for each link at once, when one call of ip has set all of them up",
        format!(
            "for i in LINKS; do echo link set $i up; done | ip -batch -; for i in LINKS; do {udhcpc} & done; \
             for i in LINKS; do wait -n && exit 0; done; exit 1"
        ),
    ));
    Ok(clients)
}

/// What udhcpc calls: the least that gives an address and a route.
const UDHCPC: &str = r#"#!/bin/sh
test "$1" = bound || exit 0
ip addr add "$ip/$mask" dev "$interface" && ip route add default via "$router" dev "$interface"
"#;

/// A client's namespace with links, and one with their other ends and the server.
struct Machine {
    name: &'static str,
    at: PathBuf,
    client: Namespace,
    servers: Namespace,
    links: Vec<String>,
    _dnsmasq: Server,
}

impl Machine {
    /// `links` of them; dnsmasq is behind link number `works`, and of the others the first `dark` are without
    /// carrier.
    fn new(at: &Path, name: &'static str, links: usize, works: usize, dark: usize) -> Result<Self> {
        let (client, servers) = (Namespace::new()?, Namespace::new()?);
        let mut dark: Vec<usize> = (0..links).filter(|&n| n != works).take(dark).collect();
        for n in 0..links {
            servers.ip(&format!("link add server{n} type veth peer name eth{n} netns {}", client.id()))?;
            if dark.first() == Some(&n) {
                dark.remove(0);
            } else {
                servers.ip(&format!("addr add 10.99.{n}.1/24 dev server{n}"))?;
                servers.ip(&format!("link set server{n} up"))?;
            }
        }
        let leases = at.join(format!("leases-{links}-{works}"));
        let arguments = format!(
            "--keep-in-foreground --conf-file=/dev/null --port=0 --no-ping --user=root --bind-interfaces \
             --log-facility=- --pid-file= --interface=server{works} --dhcp-leasefile={} \
             --dhcp-range=10.99.{works}.100,10.99.{works}.110,1h",
            leases.display()
        );
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let log = at.join(format!("dnsmasq-{links}-{works}.log"));
        let dnsmasq = Server::start(&servers, "dnsmasq", &arguments, &log)?;
        let ready = (0..200).any(|_| {
            thread::sleep(Duration::from_millis(20));
            fs::read_to_string(&log).is_ok_and(|log| log.contains("DHCP, "))
        });
        if !ready {
            bail!("dnsmasq does not start: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        let links = (0..links).map(|n| format!("eth{n}")).collect();
        Ok(Self { name, at: at.to_owned(), client, servers, links, _dnsmasq: dnsmasq })
    }

    /// Gives every link back as it was made: down, without addresses, and with the kernel's own settings, which it
    /// has anew in each namespace.
    fn reset(&self) -> Result<()> {
        for (from, to) in [(&self.client, &self.servers), (&self.servers, &self.client)] {
            let moves: Vec<String> =
                self.links.iter().map(|link| format!("link set {link} netns {}\n", to.id())).collect();
            let batch = self.at.join("batch");
            fs::write(&batch, moves.concat())?;
            run::quiet(from.command("ip").arg("-batch").arg(&batch))?;
        }
        // What the kernel has put off until then is none of what is measured.
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn measure(&self, client: &Client) -> Result<Run> {
        self.reset()?;
        let line = client.line.replace("LINKS", &self.links.join(" "));
        let script = format!("{ROOM}\nTIMEFORMAT='%R %U %S'; echo >&2; time ( {line} )");
        // With the namespace for processes ends whatever the client has left.
        let mut command = self.client.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run unshare")?;
        let mut output = BufReader::new(child.stderr.take().context("no output")?);
        let (mut said, mut started, mut lease, mut end) = (Vec::new(), None, None, 0.0);
        loop {
            let mut line = Vec::new();
            if output.by_ref().take(1 << 20).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let now = Instant::now();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let since = *started.get_or_insert(now);
            end = (now - since).as_secs_f64();
            if lease.is_none() && line.contains(client.word) {
                lease = Some(end);
            }
            said.push(line);
        }
        let status = child.wait()?;
        let times: Vec<f64> = said
            .last()
            .into_iter()
            .flat_map(|line| line.split(' '))
            .filter_map(|time| time.parse().ok())
            .collect();
        let ([_, user, system], Some(lease), true) = (&times[..], lease, status.success()) else {
            bail!("no lease ({status}): {}", said.join("\n"));
        };
        Ok(Run { lease, end, cpu: user + system })
    }
}

/// What clients write goes nowhere, and what they read is of this namespace.
const ROOM: &str = "mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mkdir /run/etc || exit
for name in passwd group ld.so.cache; do test ! -e /etc/$name || cp /etc/$name /run/etc; done
mount --bind /run/etc /etc || exit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_said_in_words() {
        assert_eq!(verdict(0.050, 0.054), "goal met, +4.0 ms beside one link");
        assert!(verdict(0.050, 0.049).starts_with("goal met"));
        assert!(verdict(1.0, 1.09).starts_with("goal met"));
        assert_eq!(verdict(0.050, 0.0605), "goal not met, +10.5 ms beside one link");
    }
}
