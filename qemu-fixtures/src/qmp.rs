//! What happens to a machine while it runs: cables and cards that are plugged and unplugged, by QEMU's machine
//! protocol. Source: QEMU's docs/interop/qmp-spec.txt.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QEMU answers by then.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines before the answer to a command: events.
const MOST_EVENTS: usize = 100;

/// Something that happens to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) when: When,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Before the machine's first instruction.
    Start,
    /// So many seconds after it.
    After(u64),
    /// When a line on the serial console has these words.
    Says(&'static str),
}

/// Network cards go by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The card loses its carrier.
    Unplug(usize),
    Plug(usize),
    /// The card itself comes, into a slot that takes it while the machine runs.
    Insert(usize),
}

/// The socket on which QEMU says what it is asked.
pub(crate) fn socket(name: &str) -> String {
    format!("{name}-qmp")
}

/// What is still to happen, and the connection to the QEMU to which it will.
#[derive(Debug)]
pub(crate) struct Script {
    qemu: BufReader<UnixStream>,
    started: Instant,
    events: Vec<Event>,
}

impl Script {
    /// Waits for QEMU, which has been started with `-S`, lets happen what comes first, and lets the machine run.
    pub(crate) fn begin(listener: &UnixListener, events: &[Event]) -> Result<Self> {
        let qemu = BufReader::new(accept(listener)?);
        let mut script = Self { qemu, started: Instant::now(), events: events.to_vec() };
        script.line()?;
        script.execute("qmp_capabilities", &json!({}))?;
        script.happen(|when| when == When::Start)?;
        script.execute("cont", &json!({}))?;
        script.started = Instant::now();
        Ok(script)
    }

    /// How long until the next event by the clock.
    pub(crate) fn next(&self) -> Option<Duration> {
        let at = |event: &Event| match event.when {
            When::After(seconds) => Some(Duration::from_secs(seconds).saturating_sub(self.started.elapsed())),
            When::Start | When::Says(_) => None,
        };
        self.events.iter().filter_map(at).min()
    }

    /// Lets happen what is due by the clock.
    pub(crate) fn tick(&mut self) -> Result<()> {
        let elapsed = self.started.elapsed();
        self.happen(|when| matches!(when, When::After(seconds) if elapsed >= Duration::from_secs(seconds)))
    }

    /// Lets happen what waits for this line.
    pub(crate) fn heard(&mut self, line: &str) -> Result<()> {
        self.happen(|when| matches!(when, When::Says(words) if line.contains(words)))
    }

    /// What has not happened.
    pub(crate) fn left(&self) -> &[Event] {
        &self.events
    }

    fn happen(&mut self, now: impl Fn(When) -> bool) -> Result<()> {
        let (due, later): (Vec<Event>, Vec<Event>) = self.events.iter().partition(|event| now(event.when));
        self.events = later;
        due.into_iter().try_for_each(|event| match event.what {
            What::Unplug(nic) => self.set_link(nic, false),
            What::Plug(nic) => self.set_link(nic, true),
            What::Insert(nic) => {
                let device = json!({
                    "driver": "virtio-net-pci", "netdev": format!("net{nic}"), "id": format!("nic{nic}"),
                    "bus": format!("slot{nic}"), "romfile": "",
                });
                self.execute("device_add", &device)
            }
        })
    }

    fn set_link(&mut self, nic: usize, up: bool) -> Result<()> {
        self.execute("set_link", &json!({ "name": format!("nic{nic}"), "up": up }))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        writeln!(self.qemu.get_mut(), "{line}").context("QEMU takes no commands")?;
        for _ in 0..MOST_EVENTS {
            let answer = self.line().with_context(|| format!("no answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {line}: {}", error["desc"]);
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
        bail!("no answer to {command} among {MOST_EVENTS} events")
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.qemu.read_line(&mut line).context("QEMU says nothing")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU says {line:?}"))
    }
}

/// The connection of a QEMU that has just been started.
pub(crate) fn accept(listener: &UnixListener) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            return Ok(stream);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("QEMU did not connect")
}
