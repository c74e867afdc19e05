//! A TCP server in threads, bounded in connections, that ends when it is dropped.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

/// Connections that are served at the same time; the next ones are closed.
const MOST: usize = 16;

/// The server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    port: u16,
    thread: Option<JoinHandle<()>>,
    /// The thread ends when this is closed.
    alive: Option<UnixStream>,
}

impl Listener {
    /// Listens on a port of its own, and has each connection served by a thread.
    pub(crate) fn start(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (alive, ending) = UnixStream::pair()?;
        let thread = thread::spawn(move || accept(&listener, &ending, &Arc::new(serve)));
        Ok(Self { port, thread: Some(thread), alive: Some(alive) })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    ending: &UnixStream,
    serve: &Arc<impl Fn(TcpStream) + Send + Sync + 'static>,
) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds = [PollFd::new(ending, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        let polled = poll(&mut fds, None);
        if polled.is_ok() && !fds[0].revents().is_empty() {
            return;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(_) => return,
        };
        if stream.set_nonblocking(false).is_err() || open.load(Ordering::Relaxed) >= MOST {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (open, serve) = (Arc::clone(&open), Arc::clone(serve));
        thread::spawn(move || {
            serve(stream);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
