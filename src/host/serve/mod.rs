//! `phasectl serve`: a published tree over HTTP/1.1, with or without TLS, for boot clients.
//!
//! Everything that a client could use up is bounded: connections, threads, time without progress,
//! memory for each response. A client that is slow holds its own connection and nothing else. One
//! address, which may be many machines behind a router, has at most half of the connections; further
//! ones of it are closed at once, so that no single client can shut out the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use self::log::Format;
use self::tree::Tree;
use super::output;
use crate::error::printable;

mod log;
mod range;
mod reply;
mod tls;
mod tree;

/// At the same time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// Of these, for one address.
const CONNECTIONS_OF_ONE: usize = CONNECTIONS / 2;
/// Threads that read files.
const READERS: usize = 16;
/// For a request's headers, also between two requests of a connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// For a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of headers that a connection may send at once.
const BUFFER: usize = 64 * 1024;
/// A client that takes no byte for so long is gone, in milliseconds.
const STALLED_AFTER: u32 = 60_000;
/// For transfers that are under way when the server is told to end.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub struct Arguments {
    /// Folder to serve: what `phasectl publish --into` was given
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Serve https with this certificate chain: PEM, the server's own first
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of that certificate: PEM
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Print the start line and the access log as JSON, an object a line
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = arguments.folder.as_path();
    let tree = Tree::open(folder).with_context(|| format!("cannot serve {}", folder.display()))?;
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(chain), Some(key)) => Some(tls::acceptor(chain, key)?),
        _ => None,
    };
    let log = if arguments.json { Format::Json } else { Format::Text };
    let server = Server { tree: Arc::new(tree), tls, log };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .build()
        .context("cannot start the server")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen)
            .await
            .with_context(|| format!("cannot listen on {}", arguments.listen))?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let address = listener.local_addr().context("cannot tell the port")?;
        server.announce(folder, address)?;

        let open = GracefulShutdown::new();
        let (running, closing) = watch::channel(());
        tokio::select! {
            () = server.accept(listener, &open, &closing) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        drop(running);
        tokio::select! {
            () = open.shutdown() => {}
            () = tokio::time::sleep(GRACE) => log.note(None, "transfers were cut off"),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

/// What every connection needs.
#[derive(Clone)]
struct Server {
    tree: Arc<Tree>,
    tls: Option<TlsAcceptor>,
    log: Format,
}

impl Server {
    fn announce(&self, folder: &Path, address: SocketAddr) -> Result<()> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        match self.log {
            Format::Text => output::line(format_args!("serving {} on {url}", folder.display())),
            Format::Json => output::line(json!({ "listening": url, "folder": folder })),
        }
    }

    /// Takes connections, for ever. `closing` ends handshakes, `open` everything after them.
    async fn accept(&self, listener: TcpListener, open: &GracefulShutdown, closing: &watch::Receiver<()>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let shares = Shares::default();
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: some will be free again soon.
                    self.log.note(None, &format!("cannot accept a connection: {error}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let Some(share) = Share::take(&shares, peer.ip()) else {
                self.log.note(Some(peer), &format!("it has {CONNECTIONS_OF_ONE} connections already"));
                continue;
            };
            tune(&stream);
            let (server, watcher, mut closing) = (self.clone(), open.watcher(), closing.clone());
            tokio::spawn(async move {
                match &server.tls {
                    None => server.serve(stream, peer, watcher).await,
                    Some(tls) => tokio::select! {
                        result = tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)) => match result {
                            Ok(Ok(stream)) => server.serve(stream, peer, watcher).await,
                            Ok(Err(error)) => server.refuse(peer, &error.to_string()),
                            Err(_) => server.refuse(peer, "it took too long"),
                        },
                        _ = closing.changed() => {}
                    },
                }
                drop((slot, share));
            });
        }
    }

    async fn serve<S>(&self, stream: S, peer: SocketAddr, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (tree, log) = (&self.tree, self.log);
        let service = service_fn(move |request| reply::answer(Arc::clone(tree), peer, log, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        // The access log says how each transfer ended.
        let _ = watcher.watch(connection).await;
    }

    fn refuse(&self, peer: SocketAddr, reason: &str) {
        self.log.note(Some(peer), &format!("TLS handshake failed: {}", printable(reason)));
    }
}

/// How many connections each address has, none of them 0.
type Shares = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A connection that counts for its address until it is dropped.
struct Share {
    shares: Shares,
    address: IpAddr,
}

impl Share {
    /// None if the address has as many as it may.
    fn take(shares: &Shares, address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        let mut counts = shares.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count == CONNECTIONS_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Self { shares: Arc::clone(shares), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A client that cannot be tuned for is served all the same.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    // tcp(7), TCP_USER_TIMEOUT: also counts while the client's window is closed.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, STALLED_AFTER);
}
