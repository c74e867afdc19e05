//! A learning switch in user space: 802.1Q, ports that spanning tree blocks, a link aggregate. One thread with
//! one poll(2) loop; what a port cannot take is dropped, as switches do.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;

use super::Journal;
use super::frame::{self, LONGEST, Mac};
use super::lacp::Partner;
use super::link::Link;
use super::pcap::Pcap;
use super::stp::{HELLO, SpanningTree};
use super::{Port, Tagging, dhcp};

/// Whatever waits for its time, waits at most this much longer.
const TICK: Duration = Duration::from_millis(20);
/// Frames that are read from the TAP device before others have their turn.
const TURN: usize = 64;
/// Addresses that are remembered; a wire has two dozen.
const MOST_ADDRESSES: usize = 1024;
/// The switch's own address, as its BPDUs and LACPDUs have it.
const OWN: Mac = [0x02, 0x5c, 0, 0, 0, 1];

/// What a port is connected to.
#[derive(Debug)]
pub(super) enum End {
    /// A network card of a machine: QEMU connects here, again after each boot.
    Machine { listener: UnixListener, link: Option<Link> },
    /// The TAP device of the servers' namespace.
    Tap(File),
    /// A DHCP server that is played here.
    Dhcp(dhcp::Server),
}

/// A port and what it has come to.
#[derive(Debug)]
struct Socket {
    port: Port,
    end: End,
    /// The first frame since the machine was connected.
    first: Option<Instant>,
    next_hello: Option<Instant>,
    forwards: bool,
    partner: Option<Partner>,
}

/// The switch, until it is dropped.
#[derive(Debug)]
pub(super) struct Switch {
    thread: Option<JoinHandle<()>>,
    /// The thread ends when this is closed.
    alive: Option<UnixStream>,
}

impl Switch {
    pub(super) fn start(ends: Vec<(Port, End)>, pcap: Pcap, journal: Journal) -> std::io::Result<Self> {
        let (alive, ending) = UnixStream::pair()?;
        let sockets = ends.into_iter().map(|(port, end)| Socket::new(port, end)).collect();
        let core = Core { sockets, table: HashMap::new(), pcap, journal };
        let thread = thread::spawn(move || core.run(&ending));
        Ok(Self { thread: Some(thread), alive: Some(alive) })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Socket {
    fn new(port: Port, end: End) -> Self {
        let mut socket = Self { port, end, first: None, next_hello: None, forwards: false, partner: None };
        socket.reset();
        socket
    }

    /// As the port is when nothing was heard there.
    fn reset(&mut self) {
        (self.first, self.next_hello) = (None, None);
        self.forwards = self.port.spanning_tree.is_none() && !self.port.aggregated;
        self.partner = None;
    }

    fn fd(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.end {
            End::Machine { link: Some(link), .. } => {
                let out = if link.waits() { PollFlags::OUT } else { PollFlags::empty() };
                Some((link.fd(), PollFlags::IN | out))
            }
            End::Machine { listener, link: None } => Some((listener.as_fd(), PollFlags::IN)),
            End::Tap(file) => Some((file.as_fd(), PollFlags::IN)),
            End::Dhcp(_) => None,
        }
    }

    /// The frame as this port has it outside, if it is in that VLAN at all.
    fn outside(&self, vlan: u16, frame: &[u8]) -> Option<Vec<u8>> {
        if self.port.only_dhcp && !frame::passes_as_dhcp(frame) {
            return None;
        }
        match self.port.tagging {
            Tagging::Access(own) => (own == vlan).then(|| frame.to_vec()),
            Tagging::Trunk(vlans) => vlans.contains(&vlan).then(|| frame::tagged(frame, vlan)),
        }
    }

    /// The VLAN of a frame from outside, and the frame without a tag.
    fn inside(&self, frame: &[u8]) -> Option<(u16, Vec<u8>)> {
        if self.port.only_dhcp && !frame::passes_as_dhcp(frame) {
            return None;
        }
        match (self.port.tagging, frame::untagged(frame)) {
            (Tagging::Access(own), None) => Some((own, frame.to_vec())),
            (Tagging::Trunk(vlans), Some((vlan, frame))) if vlans.contains(&vlan) => Some((vlan, frame)),
            _ => None,
        }
    }

    fn send(&mut self, now: Instant, frame: &[u8]) {
        match &mut self.end {
            End::Machine { link: Some(link), .. } => link.send(frame),
            End::Machine { link: None, .. } => {}
            // A full queue drops it.
            End::Tap(file) => drop(file.write(frame)),
            End::Dhcp(server) => server.receive(now, frame),
        }
    }
}

/// What the thread has.
struct Core {
    sockets: Vec<Socket>,
    /// Where an address of a VLAN was heard.
    table: HashMap<(u16, Mac), usize>,
    pcap: Pcap,
    journal: Journal,
}

impl Core {
    fn run(mut self, ending: &UnixStream) {
        while let Some(ready) = self.wait(ending) {
            let now = Instant::now();
            for index in ready {
                for frame in self.read(index) {
                    self.arrives(now, index, &frame);
                }
            }
            for index in 0..self.sockets.len() {
                self.tick(now, index);
            }
        }
    }

    /// The ports that have something; nothing more when the end has come.
    fn wait(&self, ending: &UnixStream) -> Option<Vec<usize>> {
        let mut fds = vec![PollFd::new(ending, PollFlags::IN)];
        let mut indices = Vec::new();
        for (index, socket) in self.sockets.iter().enumerate() {
            if let Some((fd, flags)) = socket.fd() {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                indices.push(index);
            }
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        if poll(&mut fds, Some(&timeout)).is_err() {
            // A signal: the next turn will tell.
            return Some(Vec::new());
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            return None;
        }
        Some(indices.into_iter().zip(ready).filter_map(|(index, ready)| ready.then_some(index)).collect())
    }

    fn read(&mut self, index: usize) -> Vec<Vec<u8>> {
        let Some(socket) = self.sockets.get_mut(index) else { return Vec::new() };
        match &mut socket.end {
            End::Machine { listener, link } => match link {
                Some(open) => match open.exchange() {
                    Some(frames) => frames,
                    None => {
                        *link = None;
                        self.journal.say(&format!("port {index}: disconnected"));
                        socket.reset();
                        Vec::new()
                    }
                },
                None => {
                    *link = listener.accept().ok().and_then(|(stream, _)| Link::new(stream).ok());
                    self.journal.say(&format!("port {index}: connected"));
                    Vec::new()
                }
            },
            End::Tap(file) => {
                let mut buffer = [0; LONGEST];
                let next = || {
                    let length = file.read(&mut buffer).ok()?;
                    Some(buffer[..length].to_vec())
                };
                std::iter::from_fn(next).take(TURN).collect()
            }
            End::Dhcp(_) => Vec::new(),
        }
    }

    fn arrives(&mut self, now: Instant, index: usize, frame: &[u8]) {
        self.pcap.record(frame);
        let Some(socket) = self.sockets.get_mut(index) else { return };
        if socket.first.is_none() {
            socket.first = Some(now);
            socket.next_hello = socket.port.spanning_tree.map(|_| now);
            let from = frame::source(frame).unwrap_or_default();
            self.journal.say(&format!("port {index}: first frame, from {}", mac(from)));
        }
        if socket.port.aggregated && frame::kind(frame) == Some(frame::SLOW) {
            socket.partner.get_or_insert_with(|| Partner::new(OWN, index)).receive(frame);
            return;
        }
        // What is for bridges ends at a bridge: IEEE 802.1D, 7.12.6.
        let Some((destination, source)) = frame::destination(frame).zip(frame::source(frame)) else { return };
        if !socket.forwards || destination.starts_with(&[0x01, 0x80, 0xc2, 0, 0]) && destination[5] < 0x10 {
            return;
        }
        let Some((vlan, frame)) = socket.inside(frame) else { return };
        self.enter(now, index, vlan, (destination, source), &frame);
    }

    /// Sends a frame, which has no tag, to where it belongs.
    fn enter(
        &mut self,
        now: Instant,
        from: usize,
        vlan: u16,
        (destination, source): (Mac, Mac),
        frame: &[u8],
    ) {
        let multicast = |mac: Mac| mac[0] & 1 != 0;
        if !multicast(source) && self.table.len() < MOST_ADDRESSES {
            self.table.insert((vlan, source), from);
        }
        let known = self.table.get(&(vlan, destination)).filter(|_| !multicast(destination)).copied();
        let mut aggregate_served = self.sockets[from].port.aggregated;
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            let port = socket.port;
            // The members of an aggregate are one port: any of those that pass may be used.
            let aggregated_with_known =
                port.aggregated && known.is_some_and(|known| known != index) && socket.forwards;
            let wanted = known.is_none_or(|known| known == index) || aggregated_with_known;
            if index == from || !socket.forwards || !wanted || (port.aggregated && aggregate_served) {
                continue;
            }
            if let Some(frame) = socket.outside(vlan, frame) {
                aggregate_served |= port.aggregated;
                socket.send(now, &frame);
            }
        }
    }

    /// What a port has to say by itself.
    fn tick(&mut self, now: Instant, index: usize) {
        let socket = &mut self.sockets[index];
        if let (Some(tree), Some(first)) = (socket.port.spanning_tree, socket.first) {
            let forwards = now >= first + Duration::from_secs(tree.blocks);
            if forwards && !socket.forwards {
                self.journal.say(&format!("port {index}: forwards after {} s", tree.blocks));
                socket.next_hello = Some(now);
            }
            socket.forwards = forwards;
            if socket.next_hello.is_some_and(|at| at <= now) {
                socket.next_hello = Some(now + HELLO);
                self.say(now, index, &SpanningTree::bpdu(tree, OWN, forwards));
            }
        }
        let socket = &mut self.sockets[index];
        if let Some(partner) = &mut socket.partner {
            let passes = partner.passes();
            if passes != socket.forwards {
                socket.forwards = passes;
                let what = if passes { "in sync" } else { "out of sync" };
                self.journal.say(&format!("port {index}: {what} with its partner"));
            }
            if let Some(pdu) = partner.due(now) {
                self.say(now, index, &pdu);
            }
        }
        let socket = &mut self.sockets[index];
        if let End::Dhcp(server) = &mut socket.end {
            for line in std::mem::take(&mut server.said) {
                self.journal.say(&format!("{}: {line}", server.name()));
            }
            for frame in server.due(now) {
                self.arrives(now, index, &frame);
            }
        }
    }

    /// Sends a frame of the switch's own.
    fn say(&mut self, now: Instant, index: usize, frame: &[u8]) {
        self.pcap.record(frame);
        self.sockets[index].send(now, frame);
    }
}

fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
