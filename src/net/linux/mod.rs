//! The race: one thread, one poll(2) over the kernel's link events and one DHCP socket per link.

mod apply;
mod netlink;
mod transport;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::choice::{Choice, Contender, State, choose, distrust};
use super::dhcp4::{Client, Device, Outgoing, Reaction, Wishes};
use super::files::{self, Last};
use super::identity;
use super::lease::Lease;
use super::link::Link;
use super::{Error, Transport};
use crate::paths::Paths;
use crate::sys::{arch, random};
use crate::time::Deadline;
use netlink::{Incoming, Netlink};
use transport::Port;

/// How long a first link may take to appear: USB and slow firmware need some seconds, a machine
/// without a driver would wait in vain.
const LINK_WAIT: Duration = Duration::from_secs(15);

/// Packets read from one socket before the others have their turn.
const BATCH: usize = 32;

/// See [`super::up`] and [`super::up_elsewhere`]. `last` is the lease that was set before, and
/// `distrusted` are the links that have led nowhere, the latest first.
pub(super) fn up(
    transport: Transport,
    paths: &Paths,
    only: Option<&str>,
    last: Option<&Last>,
    distrusted: &[String],
    deadline: Deadline,
) -> Result<Lease, Error> {
    // Listening before listing: what changes in between is heard.
    let events = Netlink::listen().map_err(kernel("open a netlink socket"))?;
    let requests = Netlink::connect().map_err(kernel("open a netlink socket"))?;
    let started = Instant::now();
    let (runners, others) = (Vec::new(), Vec::new());
    let mut race = Race { transport, only, distrusted, started, events, requests, runners, others };
    if let Some(last) = last {
        race.withdraw(last)?;
    }
    race.list()?;
    let (lease, link) = race.run(deadline)?;
    // The losers' sockets are closed here.
    let Race { mut requests, .. } = race;
    files::write_lease(paths, &lease, link.mtu, distrusted);
    apply::lease(&mut requests, &link, &lease)?;
    files::write_resolv_conf(paths, &lease, last);
    Ok(lease)
}

struct Race<'a> {
    transport: Transport,
    only: Option<&'a str>,
    distrusted: &'a [String],
    started: Instant,
    events: Netlink,
    requests: Netlink,
    runners: Vec<Runner>,
    /// Names of the devices that are not raced.
    others: Vec<String>,
}

/// One link of the race.
struct Runner {
    link: Link,
    progress: Progress,
    had_carrier: bool,
    /// What went wrong at the system, or how far the last client came.
    trouble: Option<String>,
}

/// How far one link is.
enum Progress {
    /// There is no carrier, or no socket.
    Idle,
    Asking(Port, Box<Client>),
    /// The lease is in hand since then; whether it is taken depends on the others.
    Granted(Box<Lease>, Instant),
}

impl Race<'_> {
    fn run(&mut self, deadline: Deadline) -> Result<(Lease, Link), Error> {
        let links_by = deadline.or_after(LINK_WAIT);
        loop {
            let now = Instant::now();
            let mut wake = if self.runners.is_empty() { links_by.instant() } else { deadline.instant() };
            match choose(&self.contenders(), now, deadline.instant()) {
                Choice::Take(number) => {
                    if let Some(taken) = self.runners.get(number).and_then(Runner::granted) {
                        return Ok(taken);
                    }
                }
                Choice::Wait(until) => wake = wake.min(until),
                Choice::Nothing => {}
            }
            if now >= deadline.instant() || (self.runners.is_empty() && now >= links_by.instant()) {
                return Err(self.failure(now));
            }
            for runner in &mut self.runners {
                if let Progress::Asking(port, client) = &mut runner.progress {
                    if let Reaction::Send(message) = client.tick(now) {
                        runner.trouble = send(&runner.link, port, &message);
                    }
                    wake = wake.min(client.due());
                }
            }
            for number in self.wait(wake.saturating_duration_since(now))? {
                if let Some(runner) = self.runners.get_mut(number) {
                    runner.receive();
                }
            }
        }
    }

    /// The runners, for the choice between them.
    fn contenders(&self) -> Vec<Contender> {
        let contender = |runner: &Runner| Contender {
            distrust: distrust(self.distrusted, runner.link.name()),
            state: match &runner.progress {
                Progress::Idle => State::Idle,
                Progress::Asking(..) => State::Asking,
                Progress::Granted(lease, since) => {
                    State::Granted { since: *since, default_route: lease.has_default_route() }
                }
            },
        };
        self.runners.iter().map(contender).collect()
    }

    /// Waits for packets or events. Events are dealt with; the runners with packets are returned.
    fn wait(&mut self, timeout: Duration) -> Result<Vec<usize>, Error> {
        let mut descriptors = vec![PollFd::new(&self.events, PollFlags::IN)];
        let mut numbers = Vec::new();
        for (number, runner) in self.runners.iter().enumerate() {
            if let Progress::Asking(port, _) = &runner.progress {
                descriptors.push(PollFd::new(port, PollFlags::IN));
                numbers.push(number);
            }
        }
        match poll(&mut descriptors, Some(&timespec(timeout))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(kernel("wait for packets")(errno)),
        }
        let mut ready = descriptors.iter().map(|descriptor| !descriptor.revents().is_empty());
        let changed = ready.next().unwrap_or(false);
        let mut readable: Vec<usize> = numbers
            .iter()
            .copied()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|(number, _)| number)
            .collect();
        drop(descriptors);
        if changed {
            self.hear()?;
            // Runners may have come and gone; whoever still has packets is ready the next time.
            readable.clear();
        }
        Ok(readable)
    }

    /// Takes away what the last lease has set: a wrong route in it would spoil the next one.
    fn withdraw(&mut self, last: &Last) -> Result<(), Error> {
        let links = self.links()?;
        if let Some(link) = links.iter().find(|link| link.name() == last.interface) {
            apply::withdraw(&mut self.requests, link, last);
        }
        Ok(())
    }

    /// The links that are there now.
    fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        let found = &mut |incoming: Incoming| links.extend(changed(&incoming));
        self.requests
            .list(libc::RTM_GETLINK, &LinkHeader::default(), found)
            .map_err(kernel("list the network devices"))?;
        Ok(links)
    }

    /// Takes the links that are there now.
    fn list(&mut self) -> Result<(), Error> {
        self.links()?.into_iter().try_for_each(|link| self.seen(link))
    }

    /// Takes the kernel's events.
    fn hear(&mut self) -> Result<(), Error> {
        let mut events = Vec::new();
        let heard = self.events.arrived(&mut |incoming| events.push(incoming));
        for incoming in &events {
            if incoming.kind == libc::RTM_DELLINK {
                if let Some(link) = Link::parse(&incoming.payload) {
                    self.runners.retain(|runner| runner.link.index != link.index);
                }
            } else if let Some(link) = changed(incoming) {
                self.seen(link)?;
            }
        }
        match heard {
            Err(Errno::NOBUFS) => self.list(),
            other => other.map_err(kernel("report link events")),
        }
    }

    /// A device is new or has changed.
    fn seen(&mut self, link: Link) -> Result<(), Error> {
        if let Some(runner) = self.runners.iter_mut().find(|runner| runner.link.index == link.index) {
            let started_running = link.flags.running && !runner.link.flags.running;
            runner.link.update(link);
            if let (true, Progress::Asking(_, client)) = (started_running, &mut runner.progress) {
                client.hurry(Instant::now());
            }
            return runner.follow_carrier(self.transport, self.started);
        }
        if !link.is_wanted(self.only) {
            if link.flags.loopback
                && !link.flags.up
                && let Err(errno) = raise(&mut self.requests, &link)
            {
                log::warn!("{} cannot be raised: {errno}", link.name());
            }
            if !self.others.iter().any(|other| other == link.name()) {
                self.others.push(link.name().to_owned());
            }
            return Ok(());
        }
        log::debug!("{}", link.describe());
        // A link that was listed under another name, or before it was free, is no other any more.
        self.others.retain(|other| other != link.name());
        let mut runner = Runner { link, progress: Progress::Idle, had_carrier: false, trouble: None };
        if !runner.link.flags.up
            && let Err(errno) = raise(&mut self.requests, &runner.link)
        {
            runner.fault("raise", errno)?;
        }
        runner.follow_carrier(self.transport, self.started)?;
        self.runners.push(runner);
        Ok(())
    }

    fn failure(&self, now: Instant) -> Error {
        let waited = now.saturating_duration_since(self.started);
        let seen = self.others.join(", ");
        if self.runners.is_empty() {
            return match self.only {
                Some(name) => Error::NoSuchLink { name: name.to_owned(), waited, seen },
                None => Error::NoLink { waited, seen },
            };
        }
        let mut links = String::new();
        for runner in &self.runners {
            let separator = if links.is_empty() { "" } else { ", " };
            let _ = write!(links, "{separator}{}: {}", runner.link.name(), runner.story(now));
        }
        if self.runners.iter().any(|runner| runner.had_carrier) {
            Error::NoLease { links }
        } else {
            Error::NoCarrier { links }
        }
    }
}

impl Runner {
    /// Starts a client when carrier has come, drops it and its lease when carrier has gone.
    fn follow_carrier(&mut self, transport: Transport, started: Instant) -> Result<(), Error> {
        let name = self.link.name();
        match (self.link.flags.carrier, &self.progress) {
            (true, Progress::Idle) => {
                let now = Instant::now();
                self.had_carrier = true;
                log::info!(
                    "{name} up, carrier after {:.2} s",
                    now.saturating_duration_since(started).as_secs_f64()
                );
                match Port::open(transport, self.link.index, name) {
                    Ok(port) => {
                        if let Some(device) = self.device(&port) {
                            self.progress = Progress::Asking(port, Box::new(client(device, now)));
                        }
                    }
                    Err(errno) => self.fault("open a DHCP socket on", errno)?,
                }
            }
            (false, Progress::Asking(..) | Progress::Granted(..)) => {
                log::info!("{name} has lost carrier");
                self.trouble = Some(format!("carrier lost, {}", self.progress.story(Instant::now())));
                self.progress = Progress::Idle;
            }
            (true, Progress::Asking(..) | Progress::Granted(..)) | (false, Progress::Idle) => {}
        }
        Ok(())
    }

    /// What the kernel refuses for this link is part of its story; a missing permission ends the race.
    fn fault(&mut self, what: &str, errno: Errno) -> Result<(), Error> {
        if matches!(errno, Errno::PERM | Errno::ACCESS) {
            return Err(Error::Kernel { what: format!("{what} {}", self.link.name()), errno });
        }
        log::warn!("cannot {what} {}: {errno}", self.link.name());
        self.trouble = Some(format!("kernel refused to {what} it: {errno}"));
        Ok(())
    }

    fn device(&self, port: &Port) -> Option<Device> {
        let mac = self.link.mac?;
        Some(Device {
            name: self.link.name().to_owned(),
            mac,
            largest_mtu: self.link.mtu_limit(),
            broadcast: port.needs_broadcast(),
            client_id: identity::client_id_from_mac(mac),
            uuid: None,
            arch: arch::NATIVE,
            hostname: None,
        })
    }

    /// Reads what has arrived.
    fn receive(&mut self) {
        let Progress::Asking(port, client) = &mut self.progress else { return };
        for _ in 0..BATCH {
            let (source, message) = match port.receive() {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(Errno::AGAIN) => break,
                // ENETDOWN and the like: the carrier's event follows, and retransmission goes on.
                Err(errno) => {
                    log::debug!("{}: receiving: {errno}", self.link.name());
                    break;
                }
            };
            let now = Instant::now();
            match client.receive(now, source, &message) {
                // Nothing is renewed here: a client whose lease is granted hears and says nothing more.
                Reaction::Nothing | Reaction::Renewed(_) | Reaction::Lost(_) => {}
                Reaction::Send(message) => self.trouble = send(&self.link, port, &message),
                Reaction::Bound(lease) => {
                    log::debug!("{}: {} is granted", lease.interface, lease.address);
                    self.progress = Progress::Granted(lease, now);
                    return;
                }
            }
        }
    }

    fn granted(&self) -> Option<(Lease, Link)> {
        let Progress::Granted(lease, _) = &self.progress else { return None };
        Some((lease.as_ref().clone(), self.link.clone()))
    }

    fn story(&self, now: Instant) -> String {
        self.trouble.clone().unwrap_or_else(|| self.progress.story(now))
    }
}

impl Progress {
    fn story(&self, now: Instant) -> String {
        match self {
            Self::Idle => "no carrier".to_owned(),
            Self::Asking(_, client) => client.story(now),
            Self::Granted(lease, _) => format!("lease {}", lease.address),
        }
    }
}

/// A failed transmission is as good as a lost packet: it is repeated. What remains is a message.
fn send(link: &Link, port: &Port, message: &Outgoing) -> Option<String> {
    let errno = port.send(&message.payload).err()?;
    log::debug!("{}: sending: {errno}", link.name());
    Some(format!("cannot send: {errno}"))
}

fn client(device: Device, now: Instant) -> Client {
    // Early in boot the generator may have nothing; the clock and the address still tell machines apart.
    let mut seed = [0; 8];
    random::fill_insecure(&mut seed);
    let [a, b, c, d, e, f] = device.mac;
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let clock = (clock.tv_sec << 30) ^ clock.tv_nsec;
    let seed =
        u64::from_ne_bytes(seed) ^ u64::from_be_bytes([a, b, c, d, e, f, 0, 0]) ^ clock.cast_unsigned();
    Client::new(device, Wishes::default(), seed, now)
}

fn changed(incoming: &Incoming) -> Option<Link> {
    (incoming.kind == libc::RTM_NEWLINK).then(|| Link::parse(&incoming.payload)).flatten()
}

/// Sets IFF_UP.
fn raise(requests: &mut Netlink, link: &Link) -> Result<(), Errno> {
    set_link(requests, link, LinkFlags::Up, &[])
}

fn set_link(
    requests: &mut Netlink,
    link: &Link,
    flags: LinkFlags,
    attributes: &[DefaultNla],
) -> Result<(), Errno> {
    let header = LinkHeader { index: link.index, flags, change_mask: flags, ..LinkHeader::default() };
    requests.change(libc::RTM_NEWLINK, 0, &header, attributes)
}

fn kernel(what: &str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Kernel { what: what.to_owned(), errno }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
