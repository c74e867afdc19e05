//! The network while it is up: started once, it goes on beside the boot until that has been carried.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::existing::{Caller, existing};
use super::linux::{Command, Engine, Sink};
use super::uplink::Uplink;
use super::{Error, Transport};
use crate::config::ClientId;
use crate::config::network::Given;
use crate::paths::Paths;
use crate::threads;
use crate::time::Deadline;

/// What handing over may cost: a release is one packet a link.
const HAND_OVER: Duration = Duration::from_millis(500);

/// In bytes. Its buffers are on the heap.
const STACK: usize = 512 * 1024;

/// The thread ends within a round of its loop; a command puts the links back first.
const END: Duration = Duration::from_secs(1);

/// What a network is started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub given: Given,
    pub client_id: ClientId,
    /// Nobody has named a provider: an offer with a boot URL is worth a short wait.
    pub wants_boot_url: bool,
    /// Of those only https ones count.
    pub https_only: bool,
    /// Leases are given back when the next kernel takes over.
    pub release: bool,
    /// Only this link.
    pub only: Option<String>,
    pub transport: Transport,
    /// Hung up when the drivers of all cards were tried, if that is still to come: until then there is hope
    /// for further links.
    pub drivers: Option<Arc<OwnedFd>>,
}

/// What happens on the links.
#[derive(Debug)]
pub enum Event {
    /// Servers can be reached over this link.
    Up(Uplink),
    /// More is known of it, or something else.
    Changed(Uplink),
    /// The link of this name is of no use any more.
    Down(String),
    /// No further link can be expected, as far as it can be told; why is what became of the others. One
    /// that appears all the same is told of.
    Exhausted(Error),
}

/// The links of this machine, and the thread that keeps them.
#[derive(Debug)]
pub struct Network {
    commands: Sender<Command>,
    /// An eventfd, readable when there is a command.
    wake: Arc<OwnedFd>,
    /// Disconnected when the thread has ended.
    alive: Receiver<()>,
}

impl Network {
    /// Raises the links and tells `sink` what becomes of them, from a thread, until it is dropped; by
    /// `deadline` it says at the latest that nothing further is to be expected. A network that is there
    /// already is used as it is by a command, and by PID 1 if it is not its own.
    pub fn start(
        paths: &Paths,
        settings: Settings,
        caller: Caller,
        deadline: Deadline,
        sink: impl Fn(Event) + Send + 'static,
    ) -> Result<Self, Error> {
        let found = if settings.only.is_none() { existing(paths, caller, &settings.given) } else { None };
        Self::begin(paths, settings, caller, deadline, Box::new(sink), found)
    }

    /// As [`start`](Self::start), but never with the network that is there.
    pub(super) fn start_anew(
        paths: &Paths,
        settings: Settings,
        caller: Caller,
        deadline: Deadline,
        sink: impl Fn(Event) + Send + 'static,
    ) -> Result<Self, Error> {
        Self::begin(paths, settings, caller, deadline, Box::new(sink), None)
    }

    fn begin(
        paths: &Paths,
        settings: Settings,
        caller: Caller,
        deadline: Deadline,
        sink: Sink,
        existing: Option<Uplink>,
    ) -> Result<Self, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let refused = |errno| Error::Kernel { what: "make an eventfd".to_owned(), errno };
        let wake = Arc::new(eventfd(0, flags).map_err(refused)?);
        let (commands, received) = mpsc::channel();
        let (living, alive) = mpsc::channel::<()>();
        if let Some(uplink) = existing {
            sink(Event::Up(uplink));
            sink(Event::Exhausted(Error::NoLease { links: "the network is used as it is".to_owned() }));
            return Ok(Self { commands, wake, alive });
        }
        super::names::unsettle();
        let ends = (received, Arc::clone(&wake));
        let engine = Engine::open(paths, settings, caller, deadline, ends, sink)?;
        let work = move || {
            engine.run();
            drop(living);
        };
        let refused = |error: std::io::Error| Error::Kernel {
            what: "start a thread".to_owned(),
            errno: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::AGAIN),
        };
        threads::spawn("network", STACK, Box::new(work)).map_err(refused)?;
        Ok(Self { commands, wake, alive })
    }

    /// The boot is carried by this link: the others are put back down, this one is kept.
    pub fn settle(&mut self, interface: &str) {
        self.command(Command::Settle(interface.to_owned()));
    }

    /// The next kernel takes over: leases are released or kept, as the settings say.
    pub fn hand_over(self) {
        self.command(Command::HandOver);
        self.wait(HAND_OVER);
    }

    fn command(&self, command: Command) {
        // A thread that has ended has nothing to do.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }

    fn wait(&self, longest: Duration) {
        let _ = self.alive.recv_timeout(longest);
    }
}

impl Drop for Network {
    /// A command that has not settled for a link puts them back. What PID 1 has set stays: the next attempt
    /// takes it away.
    fn drop(&mut self) {
        self.command(Command::Stop);
        self.wait(END);
    }
}
