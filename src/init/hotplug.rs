//! Drivers for devices that appear while the boot runs: the kernel's uevents say when to look.
//! Source: netlink(7), NETLINK_KOBJECT_UEVENT; lib/kobject_uevent.c.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use log::debug;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};

use super::modules::Modules;
use crate::paths::Paths;

/// The multicast group of the kernel; daemons such as udev use others.
const KERNEL: u32 = 1;
/// The kernel's own are at most 2 kB of variables (UEVENT_BUFFER_SIZE) and a path.
const MOST_BYTES: usize = 8 * 1024;
/// Events come in swarms; one look at the buses serves all of them.
const PAUSE: Duration = Duration::from_millis(100);
/// Read at a time, so that a swarm does not keep PID 1 from anything else.
const MOST_EVENTS: usize = 1000;

/// Modules, and the events that say when further ones are needed.
pub(super) struct Hotplug {
    modules: Modules,
    /// None where the kernel has no uevents: modules are then loaded once an attempt.
    socket: Option<Socket>,
    /// When to look for new devices.
    due: Option<Instant>,
    /// When that was last done.
    looked: Option<Instant>,
    /// Closed when the drivers of all network cards were tried.
    trying: Option<OwnedFd>,
}

impl Hotplug {
    /// Listens from now on.
    pub(super) fn start(paths: &Paths) -> Self {
        let socket = listen().inspect_err(|error| debug!("no uevents: {error}")).ok();
        Self { modules: Modules::read(paths), socket, due: None, looked: None, trying: None }
    }

    /// Loads modules for all devices, those included that failed before. The drivers of network cards are
    /// due then.
    pub(super) fn load_all(&mut self) {
        let socket = &mut self.socket;
        self.modules.load_all(|| _ = drain(socket));
        self.looked = Some(Instant::now());
        (self.due, self.trying) = (None, None);
    }

    /// Loads the drivers of network cards now.
    pub(super) fn load_network(&mut self) {
        while self.modules.has_network() {
            self.load_due();
        }
        self.load_due();
    }

    /// What is hung up when the drivers of all network cards were tried, if they were not yet.
    pub(super) fn watch(&mut self) -> Option<OwnedFd> {
        let pipe = self.modules.has_network().then(io::pipe)?;
        let (watched, trying) = pipe.inspect_err(|error| debug!("no pipe: {error}")).ok()?;
        self.trying = Some(trying.into());
        Some(watched.into())
    }

    /// Leaves the drivers to the other process.
    pub(super) fn leave(&mut self) {
        self.trying = None;
    }

    /// Loads modules that no device asks for.
    pub(super) fn load_named(&mut self, names: &[&str]) {
        self.modules.load_named(names);
    }

    /// Readable when [`take_events`](Self::take_events) is to be called.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// When [`load_due`](Self::load_due) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.modules.has_network() { Some(Instant::now()) } else { self.due }
    }

    /// Reads what the kernel has sent.
    pub(super) fn take_events(&mut self) {
        if drain(&mut self.socket) && self.due.is_none() {
            let now = Instant::now();
            self.due = Some(self.looked.and_then(|looked| looked.checked_add(PAUSE)).unwrap_or(now).max(now));
        }
    }

    /// Loads modules for new devices, if it is time to. The drivers of network cards come before them, for one
    /// kind of card at a time: each may take seconds.
    pub(super) fn load_due(&mut self) {
        if self.modules.load_network() {
            self.take_events();
            // Without events, they may have brought anything about.
            if !self.modules.has_network() && (self.due.is_some() || self.socket.is_none()) {
                self.due = Some(Instant::now());
            }
        } else if self.due.is_some_and(|due| due <= Instant::now()) {
            let socket = &mut self.socket;
            self.modules.load_new(|| _ = drain(socket));
            self.looked = Some(Instant::now());
            self.due = None;
        }
        if self.due().is_none() {
            self.trying = None;
        }
    }
}

/// Reads what has come. Whether some of it announces a new device: whoever looks at the buses after that
/// finds it there.
fn drain(socket: &mut Option<Socket>) -> bool {
    let Some(open) = socket else { return false };
    let mut found = false;
    for _ in 0..MOST_EVENTS {
        let mut buffer = [0; MOST_BYTES];
        match open.recv_from(&mut buffer.as_mut_slice(), 0) {
            // Port 0 is the kernel.
            Ok((length, sender)) if sender.port_number() == 0 => {
                found |= announces_device(buffer.get(..length).unwrap_or(&buffer));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Events were lost: what they said is on the buses.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => found = true,
            Err(error) => {
                debug!("no further uevents: {error}");
                *socket = None;
                break;
            }
        }
    }
    found
}

fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, KERNEL))?;
    Ok(socket)
}

/// Whether a uevent is about a new device that names the driver it needs.
fn announces_device(event: &[u8]) -> bool {
    // The first string is ACTION@DEVPATH.
    let has = |wanted: fn(&[u8]) -> bool| event.split(|&byte| byte == 0).skip(1).any(wanted);
    has(|variable| variable == b"ACTION=add") && has(|variable| variable.starts_with(b"MODALIAS="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn only_new_devices_with_a_modalias_are_looked_for() {
        let usb: &[u8] = b"add@/devices/usb1/1-1\0ACTION=add\0DEVPATH=/devices/usb1/1-1\0SUBSYSTEM=usb\0\
            MODALIAS=usb:v0B95p7720d0001dcFF\0SEQNUM=1\0";
        assert!(announces_device(usb));
        for other in [
            b"remove@/devices/usb1/1-1\0ACTION=remove\0MODALIAS=usb:v0B95\0".as_slice(),
            b"add@/module/usbnet\0ACTION=add\0DEVPATH=/module/usbnet\0SUBSYSTEM=module\0",
            b"ACTION=add\0NOT_MODALIAS=1\0MODALIAS",
            b"libudev\0\xfe\xed\xca\xfe",
            b"",
        ] {
            assert!(!announces_device(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn whoever_watches_learns_that_all_drivers_were_tried() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let folder = paths.modules(&rustix::system::uname().release().to_string_lossy());
        std::fs::create_dir_all(&folder).unwrap();
        // The files are not there, so nothing is loaded into the kernel that runs this test.
        std::fs::write(folder.join("modules.dep"), "kernel/drivers/net/a.ko:\n").unwrap();
        std::fs::write(folder.join("modules.alias"), "alias pci:* a\n").unwrap();
        for modalias in ["pci:1", "pci:2"] {
            let device = paths.buses().join("pci/devices").join(modalias);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("modalias"), modalias).unwrap();
        }
        let mut hotplug = Hotplug::start(&paths);
        for _ in 0..2 {
            hotplug.load_all();
            let watched = hotplug.watch().unwrap();
            let hung_up_within = |seconds| {
                let mut end = [PollFd::new(&watched, PollFlags::IN)];
                poll(&mut end, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })) == Ok(1)
            };
            let hung_up = || hung_up_within(0);
            // One a turn, however many there are.
            assert!(hotplug.due().is_some_and(|due| due <= Instant::now()) && !hung_up());
            hotplug.load_due();
            assert!(hotplug.due().is_some_and(|due| due <= Instant::now()) && !hung_up());
            hotplug.load_due();
            hotplug.load_due();
            // A process that another test starts has the other end as well, from its fork to its exec.
            assert!(hung_up_within(5));
        }
        assert!(hotplug.watch().is_none());
        hotplug.load_all();
        hotplug.load_network();
        assert!(hotplug.watch().is_none());
    }

    #[test]
    fn a_quiet_socket_asks_for_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut hotplug = Hotplug::start(&Paths::under(root.path()));
        hotplug.load_all();
        hotplug.load_due();
        assert_eq!(hotplug.due(), None);
    }
}
