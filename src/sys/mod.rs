//! The only home of `unsafe`: system calls and memory that `rustix` has no safe form for, each a
//! small safe function. Nothing here decides anything.

pub mod arch;
pub mod block;
pub mod early;
pub(crate) mod framebuffer;
pub mod kexec;
pub mod memfd;
pub mod names;
pub mod packet;
pub(crate) mod physical;
pub mod process;
pub mod random;
mod ring;
pub mod tty;
pub mod watchdog;
