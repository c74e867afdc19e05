//! Threads that nobody waits for, all started by one piece of code: it is a kilobyte for each kind of work otherwise.

use std::io;
use std::thread;

/// Starts one with this name and a stack of so many bytes. What cannot be started is dropped.
pub fn spawn(name: &str, stack: usize, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(work).map(drop)
}
