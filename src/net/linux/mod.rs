//! The engine: one thread, one poll(2) over the kernel's events, the sockets of every link, and the
//! commands of the handle.

mod apply;
mod devices;
mod down;
mod events;
mod ipv4;
mod ipv6;
mod kernel;
mod lookup;
mod netlink;
mod raiser;
mod runner;
mod setup;
mod transport;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::existing::Caller;
use super::files;
use super::link::Link;
use super::network::{Event, Settings};
use super::state::{self, Standing};
use super::{BUDGET, Error, names, stories};
use crate::paths::Paths;
use crate::time::Deadline;
use devices::Devices;
use kernel::Kernel;
use netlink::Netlink;
use raiser::Raiser;
use runner::{Runner, Socket};
use setup::Setup;

pub use down::lower_all;
pub(super) use lookup::Ways;

/// How long drivers may take to make further links appear, once all that are there are decided. A
/// command runs in a system whose drivers are loaded.
const SETTLING: Duration = Duration::from_secs(5);

/// How long a link that was of use may be without carrier before it is given up: a cable that is moved;
/// and the link that carries the boot, which has no other.
const FLAP: Duration = Duration::from_secs(3);
const LONG_FLAP: Duration = Duration::from_secs(30);

/// How long messages that give leases back may take to leave: the link-layer addresses of servers may
/// have to be asked for first.
const GOODBYE: Duration = Duration::from_millis(200);

/// Links whose carrier comes at once are told of one by one up to this many.
const FEW: usize = 4;

/// Of the routes of the first link; the next has one more.
const FIRST_METRIC: u32 = 100;

/// What the handle wants.
#[derive(Debug)]
pub(super) enum Command {
    /// This link carries the boot.
    Settle(String),
    /// The next kernel takes over.
    HandOver,
    Stop,
}

/// Tells what becomes of the links.
pub(super) type Sink = Box<dyn Fn(Event) + Send>;

pub(super) struct Engine {
    kernel: Kernel,
    events: Netlink,
    setup: Setup,
    sink: Sink,
    commands: Receiver<Command>,
    /// Readable when there is a command.
    wake: Arc<OwnedFd>,
    started: Instant,
    deadline: Deadline,
    settling: Duration,
    /// The drivers of all cards were tried then, if they were.
    tried: Option<Instant>,
    /// All that are there.
    links: Vec<Link>,
    runners: Vec<Runner>,
    devices: Devices,
    next_metric: u32,
    told_exhausted: bool,
    /// The link that carries the boot.
    settled: Option<String>,
    /// The link that `lease.json` tells of.
    written: Option<String>,
    /// The kernel had more to tell than it could keep.
    has_missed_events: bool,
}

/// What the thread goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Work,
    End,
}

impl Engine {
    /// Opens what it needs; nothing is changed yet.
    pub(super) fn open(
        paths: &Paths,
        settings: Settings,
        caller: Caller,
        deadline: Deadline,
        (commands, wake): (Receiver<Command>, Arc<OwnedFd>),
        sink: Sink,
    ) -> Result<Self, Error> {
        let connect = || Netlink::connect().map_err(refused("open a netlink socket"));
        let now = Instant::now();
        let raiser = Raiser::start(connect()?, Arc::clone(&wake)).map_err(refused("start a thread"))?;
        Ok(Self {
            kernel: Kernel::new(connect()?, raiser, paths),
            // Listening before listing: what changes in between is heard.
            events: Netlink::listen().map_err(refused("open a netlink socket"))?,
            tried: settings.drivers.is_none().then_some(now),
            setup: Setup::new(settings, caller, paths),
            sink,
            commands,
            wake,
            started: now,
            // The attempt goes on while renewals are due; links have had their chance long before.
            deadline: deadline.or_after(BUDGET),
            settling: if caller == Caller::Init { SETTLING } else { Duration::ZERO },
            links: Vec::new(),
            runners: Vec::new(),
            devices: Devices::default(),
            next_metric: FIRST_METRIC,
            told_exhausted: false,
            settled: None,
            written: None,
            has_missed_events: false,
        })
    }

    /// Goes on until it is told to end.
    pub(super) fn run(mut self) {
        let mut working = self.begin();
        loop {
            if let Err(error) = working {
                self.exhausted(error);
                return self.wait_for_end();
            }
            if self.obey() == Next::End {
                return;
            }
            working = self.turn();
        }
    }

    /// One round: what is due, what is to be told, then the next thing that happens.
    fn turn(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.has_missed_events) {
            self.list()?;
        }
        let now = Instant::now();
        self.tick(now)?;
        self.tell(now);
        let flap = if self.settled.is_some() { LONG_FLAP } else { FLAP };
        let due = self.runners.iter().filter_map(|runner| runner.due(now, flap));
        let hopes = !self.told_exhausted && self.settled.is_none();
        let end = if hopes { [self.hope_until(now), Some(self.deadline.instant())] } else { [None; 2] };
        let wake = due.chain(end.into_iter().flatten()).min();
        self.wait(wake.map(|wake| wake.saturating_duration_since(now)))
    }

    fn tick(&mut self, now: Instant) -> Result<(), Error> {
        for runner in &mut self.runners {
            runner.tick(&mut self.kernel, &mut self.setup, now).map_err(refused("send from a link"))?;
        }
        Ok(())
    }

    /// Tells of every link that has changed, and when there is no hope for another.
    fn tell(&mut self, now: Instant) {
        self.tell_uplinks(now);
        // Until then, many come one after the other.
        if !self.is_raising() || self.runners.iter().any(|runner| runner.told.is_some()) {
            self.tell_carriers();
        }
        let over = self.hope_until(now).is_some_and(|end| end <= now) || self.deadline.passed();
        if over && self.settled.is_none() {
            self.exhausted(self.failure(now));
        }
    }

    /// Whether some link has still to be raised.
    fn is_raising(&self) -> bool {
        self.runners.iter().any(Runner::is_raising)
    }

    fn tell_uplinks(&mut self, now: Instant) {
        let flap = if self.settled.is_some() { LONG_FLAP } else { FLAP };
        for runner in &mut self.runners {
            let current = runner.uplink(&self.setup, now, flap);
            if runner.told == current {
                continue;
            }
            let name = runner.link.name();
            let before = std::mem::replace(&mut runner.told, current.clone());
            let carries = self.written.as_deref().is_none_or(|written| written == name);
            if carries {
                match &current {
                    Some(uplink) => files::write_lease(&self.kernel.paths, uplink),
                    None => drop(std::fs::remove_file(self.kernel.paths.lease())),
                }
                self.written = current.as_ref().map(|uplink| uplink.interface.clone());
            }
            (self.sink)(match (before, current) {
                (None, Some(uplink)) => Event::Up(uplink),
                (Some(_), Some(uplink)) => Event::Changed(uplink),
                (_, None) => Event::Down(name.to_owned()),
            });
        }
    }

    /// Those whose carrier has come, in one line if they are many.
    fn tell_carriers(&mut self) {
        let news: Vec<(String, Duration)> = self
            .runners
            .iter_mut()
            .filter_map(|runner| Some((runner.link.name().to_owned(), runner.news.take()?)))
            .collect();
        if news.len() <= FEW {
            for (name, waited) in news {
                log::info!("{name} up, carrier after {:.2} s", waited.as_secs_f64());
            }
        } else if let (Some((first, waited)), Some((last, _))) = (news.first(), news.last()) {
            let waited = waited.as_secs_f64();
            log::info!("{} links up, {first} to {last}, carrier after {waited:.2} s", news.len());
        }
    }

    /// When no further link can be hoped for, if that is known.
    fn hope_until(&self, now: Instant) -> Option<Instant> {
        let standings: Vec<Standing> = self.runners.iter().map(|runner| runner.standing(now)).collect();
        let is_missing = |name: &&str| !self.runners.iter().any(|runner| runner.link.name() == *name);
        let missing = self.setup.expected().iter().any(is_missing);
        state::exhausted(&standings, missing, self.tried?, self.settling)
    }

    fn exhausted(&mut self, error: Error) {
        if !std::mem::replace(&mut self.told_exhausted, true) {
            (self.sink)(Event::Exhausted(error));
        }
    }

    /// Why there is no other link.
    fn failure(&self, now: Instant) -> Error {
        let waited = now.saturating_duration_since(self.started);
        let others: Vec<&str> = self.links.iter().map(Link::name).collect();
        let mut links: Vec<(String, String)> =
            self.runners.iter().map(|runner| (runner.link.name().to_owned(), runner.story(now))).collect();
        links.extend(self.devices.failed.iter().map(|failed| (failed.name.clone(), failed.story.clone())));
        let had_carrier = self.runners.iter().any(|runner| runner.had_carrier);
        stories::failure(links, self.setup.missing(&self.links), had_carrier, waited, &others)
    }

    /// Waits for packets, events and commands, and deals with the first two.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        self.kernel.dispatch();
        let mut descriptors =
            vec![PollFd::new(&*self.wake, PollFlags::IN), PollFd::new(&self.events, PollFlags::IN)];
        let first = descriptors.len() + self.setup.settings.drivers.iter().len();
        descriptors.extend(self.setup.settings.drivers.iter().map(|end| PollFd::new(&**end, PollFlags::IN)));
        let mut sockets: Vec<(usize, Socket)> = Vec::new();
        for (number, runner) in self.runners.iter().enumerate() {
            for (socket, descriptor) in runner.sockets() {
                descriptors.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
                sockets.push((number, socket));
            }
        }
        match poll(&mut descriptors, timeout.map(timespec).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(refused("wait for packets")(errno)),
        }
        let ready: Vec<bool> =
            descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect();
        drop(descriptors);
        let now = Instant::now();
        for ((number, socket), _) in
            sockets.into_iter().zip(ready.iter().skip(first)).filter(|(_, ready)| **ready)
        {
            if let Some(runner) = self.runners.get_mut(number) {
                let received = runner.receive(socket, &mut self.kernel, &mut self.setup, now);
                received.map_err(refused("set what a server says"))?;
            }
        }
        let is_ready = |number: usize| ready.get(number).copied().unwrap_or(false);
        if is_ready(1) {
            self.hear()?;
        }
        // Their cards were just heard of.
        if first > 2 && is_ready(2) {
            (self.setup.settings.drivers, self.tried) = (None, Some(now));
        }
        self.raised(now)
    }

    /// Does what the handle wants.
    fn obey(&mut self) -> Next {
        let mut counter = [0; 8];
        let _ = rustix::io::read(self.wake.as_fd(), &mut counter);
        loop {
            match self.commands.try_recv() {
                Ok(Command::Settle(interface)) => self.settle(&interface),
                Ok(Command::HandOver) => {
                    self.hand_over();
                    return Next::End;
                }
                Ok(Command::Stop) | Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    self.give_up();
                    return Next::End;
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return Next::Work,
            }
        }
    }

    /// Nothing can be done for the links: only the end is waited for.
    fn wait_for_end(&mut self) {
        while self.obey() == Next::Work {
            let mut wait = [PollFd::new(&*self.wake, PollFlags::IN)];
            match poll(&mut wait, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Puts every link back but the one that carries the boot, and those that it stands on.
    fn settle(&mut self, interface: &str) {
        if self.settled.is_some() || !self.runners.iter().any(|runner| runner.link.name() == interface) {
            return;
        }
        log::debug!("{interface} carries the boot");
        // What is put back down must not be raised after that.
        self.kernel.stop_raising();
        let kept = devices::stands_on(&self.setup.settings.given, interface);
        let (winner, mut losers): (Vec<Runner>, Vec<Runner>) =
            self.runners.drain(..).partition(|runner| runner.link.name() == interface);
        self.runners = winner;
        self.release(&mut losers);
        // What was made stands on others, and comes after them.
        for link in self.links.iter().rev() {
            if kept.iter().any(|name| name == link.name()) {
                self.kernel.restore_sysctls(link.name(), "net/ipv4/");
            } else {
                self.kernel.put_back(link);
            }
        }
        self.kernel.journal.add_winner(interface);
        self.kernel.journal.keep();
        names::settle(interface);
        if let Some(runner) = self.runners.first() {
            runner.tell_unused(&self.setup.settings.given.routes);
            if let Some(uplink) = &runner.told {
                files::write_lease(&self.kernel.paths, uplink);
            }
        }
        (self.settled, self.written) = (Some(interface.to_owned()), Some(interface.to_owned()));
    }

    fn hand_over(&mut self) {
        if self.setup.settings.release {
            let mut runners = std::mem::take(&mut self.runners);
            self.release(&mut runners);
        }
    }

    /// A command that has come to nothing leaves a system of somebody else as it was. What PID 1 has set
    /// stays for its next attempt, which takes it away.
    fn give_up(&mut self) {
        if self.setup.caller == Caller::Command && self.settled.is_none() {
            self.kernel.stop_raising();
            let mut runners = std::mem::take(&mut self.runners);
            self.release(&mut runners);
            for link in self.links.iter().rev() {
                self.kernel.put_back(link);
            }
            self.kernel.journal.keep();
        }
    }

    /// Gives leases back, then takes away what was set: without the address nothing leaves that waits for
    /// the link-layer address of a server.
    fn release(&mut self, runners: &mut [Runner]) {
        for runner in &mut *runners {
            runner.release(&mut self.kernel, &mut self.setup);
        }
        let end = Instant::now() + GOODBYE;
        while Instant::now() < end && runners.iter().any(Runner::is_sending) {
            // The kernel does not tell when it has.
            let _ = poll(&mut [], Some(&timespec(Duration::from_millis(2))));
        }
        for runner in runners {
            runner.stop(&mut self.kernel, &mut self.setup);
        }
    }
}

fn refused(what: &str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Kernel { what: what.to_owned(), errno }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Rounded up: a wait that ends before its time would be followed by another.
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
