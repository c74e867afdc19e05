//! A second process for the boot itself, and a session for a shell: fork(2), setsid(2).

use std::ffi::{CStr, c_char, c_int};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::sys::memfd::last_errno;

/// Which of the two processes goes on.
#[derive(Debug)]
pub enum Fork {
    Parent(Pid),
    Child,
}

/// Forks. Refused with `EBUSY` where this process has more than one thread: the child would be
/// left with locks that nobody holds.
pub fn fork() -> Result<Fork, Errno> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: this is the only thread, so the child's copy of every lock and of the heap is in a
    // consistent state.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(last_errno()),
        pid => Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
    }
}

/// Lets `command` lead a session of its own. Its standard input becomes the session's controlling
/// terminal if it is a terminal: TIOCSCTTY of ioctl_tty(2). Neither is an error if it fails: a shell
/// without job control is better than none.
pub fn lead_session(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes two system calls, setsid and ioctl, without libc's
    // wrappers around any state: it allocates nothing, takes no lock and cannot panic.
    unsafe {
        command.pre_exec(|| {
            let _ = rustix::process::setsid();
            let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
            Ok(())
        });
    }
}

/// musl's function for it writes other threads' names through /proc, and takes all of printf(3) along: 12 kB.
/// std names nobody but the calling thread. The payload is linked with `--wrap` for it (`cargo lab build`);
/// linked without, nothing refers to this one.
// SAFETY: `--wrap` gives nobody but std this name, which declares the function so.
#[unsafe(export_name = "__wrap_pthread_setname_np")]
unsafe extern "C" fn name_this_thread(_this: libc::pthread_t, name: *const c_char) -> c_int {
    // SAFETY: std ends the name with a NUL, and nobody changes it meanwhile.
    let name = unsafe { CStr::from_ptr(name) };
    rustix::thread::set_name(name).map_or_else(Errno::raw_os_error, |()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_its_name() {
        let named = std::thread::spawn(|| {
            // SAFETY: the name ends with a NUL, and the first argument is not looked at.
            let code = unsafe { name_this_thread(libc::pthread_self(), c"network".as_ptr()) };
            (code, std::fs::read_to_string("/proc/thread-self/comm").unwrap())
        });
        assert_eq!(named.join().unwrap(), (0, "network\n".to_owned()));
    }

    #[test]
    fn a_command_leads_its_session() {
        let mut command = Command::new("sh");
        lead_session(command.args(["-c", "cut -d' ' -f6 /proc/$$/stat; echo $$"]));
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let words: Vec<&str> = output.split_whitespace().collect();
        assert_eq!(words.len(), 2);
        assert_eq!(words[0], words[1], "its session is its own process id");
    }
}
