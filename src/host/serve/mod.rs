//! `phasectl serve`: a published tree over HTTP/1.1, for boot clients.
//!
//! Everything that a client could use up is bounded: connections, threads, time without progress,
//! memory for each response. A client that is slow holds its own connection and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use self::tree::Tree;
use super::output;

mod range;
mod reply;
mod tree;

/// At the same time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// Threads that read files.
const READERS: usize = 16;
/// For a request's headers, also between two requests of a connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
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
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = arguments.folder.display();
    let tree = Tree::open(&arguments.folder).with_context(|| format!("cannot serve {folder}"))?;
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
        output::line(format_args!("serving {folder} on http://{address}"))?;

        let open = GracefulShutdown::new();
        tokio::select! {
            () = accept(listener, Arc::new(tree), &open) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::select! {
            () = open.shutdown() => {}
            () = tokio::time::sleep(GRACE) => output::note("transfers were cut off"),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

/// Takes connections, for ever.
async fn accept(listener: TcpListener, tree: Arc<Tree>, open: &GracefulShutdown) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: some will be free again soon.
                output::note(&format!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        tune(&stream);
        let tree = Arc::clone(&tree);
        let service = service_fn(move |request| reply::answer(Arc::clone(&tree), peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            // The access log says how each transfer ended.
            let _ = connection.await;
            drop(slot);
        });
    }
}

/// A client that cannot be tuned for is served all the same.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    // tcp(7), TCP_USER_TIMEOUT: also counts while the client's window is closed.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, STALLED_AFTER);
}
