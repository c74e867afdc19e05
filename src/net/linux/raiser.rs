//! Raising links, in a thread of its own: drivers take from a millisecond to a second for each card, and
//! whoever answers on a card that is up need not wait for the next one.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use netlink_packet_route::link::{LinkFlags, LinkHeader};
use rustix::io::Errno;

use super::netlink::Netlink;
use crate::threads;

/// It calls little.
const STACK: usize = 64 * 1024;

/// A file below /proc/sys, and what is written to it.
pub(super) type Setting = (PathBuf, &'static str);

/// A link to be raised, and what is set before.
pub(super) struct Job {
    pub(super) index: u32,
    pub(super) settings: Vec<Setting>,
}

/// Raises links one after the other, until it is dropped.
pub(super) struct Raiser(Arc<Shared>);

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    busy: bool,
    /// Numbers of links, and what came of them.
    done: Vec<(u32, Result<(), Errno>)>,
    ended: bool,
}

impl Raiser {
    /// Starts the thread. It makes `wake` readable whenever there is something to be [`taken`](Self::take).
    pub(super) fn start(requests: Netlink, wake: Arc<OwnedFd>) -> Result<Self, Errno> {
        let shared = Arc::<Shared>::default();
        let raiser = Self(Arc::clone(&shared));
        threads::spawn("raiser", STACK, Box::new(move || shared.run(requests, &wake)))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        Ok(raiser)
    }

    pub(super) fn add(&self, jobs: &mut Vec<Job>) {
        self.0.lock().jobs.extend(jobs.drain(..));
        self.0.changed.notify_all();
    }

    /// What came of links since it was last asked.
    pub(super) fn take(&self) -> Vec<(u32, Result<(), Errno>)> {
        std::mem::take(&mut self.0.lock().done)
    }

    /// Drops what has not begun, and waits for what has.
    pub(super) fn stop(&self) {
        let mut work = self.0.lock();
        work.jobs.clear();
        while work.busy {
            work = self.0.wait(work);
        }
    }
}

impl Drop for Raiser {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, work: MutexGuard<'a, Work>) -> MutexGuard<'a, Work> {
        self.changed.wait(work).unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut requests: Netlink, wake: &OwnedFd) {
        let mut work = self.lock();
        while !work.ended {
            let Some(job) = work.jobs.pop_front() else {
                work = self.wait(work);
                continue;
            };
            work.busy = true;
            drop(work);
            set(&job.settings);
            let result = raise(&mut requests, job.index);
            work = self.lock();
            work.busy = false;
            work.done.push((job.index, result));
            self.changed.notify_all();
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }
}

/// Sets IFF_UP.
pub(super) fn raise(requests: &mut Netlink, index: u32) -> Result<(), Errno> {
    let header =
        LinkHeader { index, flags: LinkFlags::Up, change_mask: LinkFlags::Up, ..LinkHeader::default() };
    requests.change(libc::RTM_NEWLINK, 0, &header, &[])
}

pub(super) fn set(settings: &[Setting]) {
    for (path, value) in settings {
        if let Err(error) = std::fs::write(path, value) {
            log::debug!("cannot write {value} to {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

    /// No link has this number.
    const NOBODY: u32 = 0x7fff_fff0;

    fn start() -> (Raiser, Arc<OwnedFd>) {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        (Raiser::start(Netlink::connect().unwrap(), Arc::clone(&wake)).unwrap(), wake)
    }

    #[test]
    fn what_is_set_comes_first_and_what_came_of_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let setting = folder.path().join("accept_ra");
        let (raiser, wake) = start();
        raiser.add(&mut vec![Job { index: NOBODY, settings: vec![(setting.clone(), "2")] }]);
        let limit = super::super::timespec(std::time::Duration::from_secs(20));
        assert_eq!(poll(&mut [PollFd::new(&*wake, PollFlags::IN)], Some(&limit)), Ok(1));
        // Who is not root is told so, others that there is no such link.
        assert!(matches!(raiser.take()[..], [(NOBODY, Err(Errno::NODEV | Errno::PERM))]));
        assert_eq!(std::fs::read_to_string(setting).unwrap(), "2");
        assert!(raiser.take().is_empty());
    }

    #[test]
    fn nothing_is_raised_after_a_stop() {
        let (raiser, _wake) = start();
        let mut jobs: Vec<Job> = (0..200).map(|_| Job { index: NOBODY, settings: Vec::new() }).collect();
        raiser.add(&mut jobs);
        raiser.stop();
        let begun = raiser.take().len();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(begun <= 200 && raiser.take().is_empty());
    }
}
