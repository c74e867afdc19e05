//! The kernel's random generator, asked in the three ways phaseboot needs: getrandom(2).

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `bytes` for transaction ids and jitter, without ever waiting: the generator's output even
/// before it is ready (`GRND_INSECURE`, Linux 5.6). False if the kernel gave nothing.
pub fn fill_insecure(bytes: &mut [u8]) -> bool {
    let wanted = bytes.len();
    getrandom(bytes, GetRandomFlags::INSECURE).is_ok_and(|filled| filled == wanted)
}

/// Fills `bytes` with seed quality, or answers false at once if the generator is not ready.
pub fn fill_if_ready(bytes: &mut [u8]) -> bool {
    let wanted = bytes.len();
    getrandom(bytes, GetRandomFlags::NONBLOCK).is_ok_and(|filled| filled == wanted)
}

/// Whether the generator is ready. TLS has to wait for it; everything else must not.
pub fn ready() -> bool {
    let mut probe = [0u8; 1];
    !matches!(getrandom(&mut probe, GetRandomFlags::NONBLOCK), Err(Errno::AGAIN))
}
