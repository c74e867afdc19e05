//! Calls into the kernel that may never return, as a disk that hangs keeps them: each is made on a
//! thread of its own, which is left behind when the time is up.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use log::warn;

/// What disks get to answer, all together.
pub const LONGEST: Duration = Duration::from_secs(10);
/// Does `work`. None if it has not ended within `limit`, or cannot be begun.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, result) = mpsc::channel();
    // Nobody listens any more if it took too long.
    thread::Builder::new().spawn(move || drop(sender.send(work()))).ok()?;
    result.recv_timeout(limit).ok()
}

/// Writes back what is cached, as far as the disks take it within [`LONGEST`].
pub fn sync() {
    if within(LONGEST, rustix::fs::sync).is_none() {
        warn!("a disk does not take what is to be written within {} s: going on", LONGEST.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_does_not_end_is_left_behind() {
        let started = Instant::now();
        let forever = || thread::sleep(Duration::from_secs(3600));
        assert_eq!(within(Duration::from_millis(50), forever), None);
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
