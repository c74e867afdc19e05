//! A network card of QEMU on a UNIX socket: each frame after its length, four bytes, most significant first
//! (QEMU's net/stream.c).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Frames that wait for a card; further ones are dropped.
const MOST_WAITING: usize = 2048;
/// QEMU sends no longer frame (`NET_BUFSIZE`).
const LONGEST: usize = 4096 + 65536;

#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: VecDeque<Vec<u8>>,
    /// Bytes of the first one that are on their way.
    written: usize,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, incoming: Vec::new(), outgoing: VecDeque::new(), written: 0 })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn waits(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn send(&mut self, frame: &[u8]) {
        let Ok(length) = u32::try_from(frame.len()) else { return };
        if self.outgoing.len() < MOST_WAITING {
            self.outgoing.push_back([&length.to_be_bytes(), frame].concat());
        }
        let _ = self.write();
    }

    fn write(&mut self) -> std::io::Result<()> {
        while let Some(first) = self.outgoing.front() {
            match self.stream.write(&first[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.written >= first.len() {
                self.outgoing.pop_front();
                self.written = 0;
            }
        }
        Ok(())
    }

    /// Writes what waits, and answers with the frames that have come; with nothing when QEMU has gone.
    pub(super) fn exchange(&mut self) -> Option<Vec<Vec<u8>>> {
        self.write().ok()?;
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => self.incoming.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        let (frames, used) = split(&self.incoming)?;
        self.incoming.drain(..used);
        Some(frames)
    }
}

/// The whole frames of these bytes, and how many bytes they are. Nothing, if there is a length that no frame has.
fn split(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (mut frames, mut used) = (Vec::new(), 0);
    while let Some((length, rest)) = bytes[used..].split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        if length > LONGEST {
            return None;
        }
        let Some(frame) = rest.get(..length) else { break };
        frames.push(frame.to_vec());
        used += 4 + length;
    }
    Some((frames, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_split_where_their_lengths_say() {
        let bytes = [&[0, 0, 0, 3][..], b"abc", &[0, 0, 0, 2], b"de", &[0, 0, 0, 9], b"f"].concat();
        assert_eq!(split(&bytes), Some((vec![b"abc".to_vec(), b"de".to_vec()], 13)));
        assert_eq!(split(&[0xff; 8]), None);
    }
}
