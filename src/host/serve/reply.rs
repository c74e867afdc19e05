//! From a request to a response: status, headers, a body that is read as the client takes it, and a
//! line of the access log when that has ended.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderName};
use hyper::http::response::Builder;
use hyper::{Method, Request, Response, StatusCode};
use tokio::task::JoinHandle;

use super::log::{Access, Format};
use super::range::{self, Part};
use super::tree::{Entry, Tree};
use crate::error::printable;

/// Bytes read from a file at once, and kept for a client that is slow.
const CHUNK: u64 = 128 * 1024;

/// Answers one request.
pub(super) async fn answer<T>(
    tree: Arc<Tree>,
    peer: SocketAddr,
    log: Format,
    request: Request<T>,
) -> Result<Response<Reply>, Infallible> {
    let path = request.uri().path().to_owned();
    let is_file_wanted = matches!(*request.method(), Method::GET | Method::HEAD);
    let found = if is_file_wanted {
        let path = path.clone();
        Some(tokio::task::spawn_blocking(move || tree.find(&path)).await.unwrap_or_else(|e| Err(e.into())))
    } else {
        None
    };
    let (response, content) = match found {
        None => {
            let response = Response::builder().header(header::ALLOW, "GET, HEAD");
            text(response, StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n")
        }
        Some(Ok(entry)) => file(&request, entry),
        Some(Err(error)) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::IO) => {
                text(Response::builder(), StatusCode::SERVICE_UNAVAILABLE, "cannot read this now\n")
            }
            // Nobody is told whether something that is not served exists.
            _ => text(Response::builder(), StatusCode::NOT_FOUND, "no such file\n"),
        },
    };
    let content = if request.method() == Method::HEAD { Content::Empty } else { content };
    let access = Access {
        format: log,
        peer,
        method: printable(request.method().as_str()),
        path: printable(&path),
        range: header(&request, header::RANGE).map(printable),
        status: StatusCode::OK,
        expected: content.remaining(),
        sent: 0,
        since: Instant::now(),
    };
    let mut reply = Reply { content, access };
    let response = response.body(()).unwrap_or_else(|_| {
        reply.content = Content::Empty;
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    });
    reply.access.status = response.status();
    Ok(response.map(|()| reply))
}

fn header<T>(request: &Request<T>, name: HeaderName) -> Option<&str> {
    request.headers().get(name)?.to_str().ok()
}

fn text(response: Builder, status: StatusCode, message: &'static str) -> (Builder, Content) {
    let response = response
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain")
        .header(header::CONTENT_LENGTH, message.len());
    (response, Content::Text(Bytes::from_static(message.as_bytes())))
}

/// RFC 9110, section 13.2.2: If-None-Match comes first, then If-Range, then Range.
fn file<T>(request: &Request<T>, entry: Entry) -> (Builder, Content) {
    let Entry { file, size, etag } = entry;
    let response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        // Artifacts never change under their name, but the manifest does: always ask.
        .header(header::CACHE_CONTROL, "no-cache");
    if header(request, header::IF_NONE_MATCH).is_some_and(|list| range::names(list, &etag)) {
        return (response.status(StatusCode::NOT_MODIFIED), Content::Empty);
    }
    // A date in If-Range never matches: only the entity tag is strong enough to join two halves.
    let is_same = request.headers().get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    let part = match header(request, header::RANGE) {
        Some(wanted) if is_same && request.method() == Method::GET => range::resolve(wanted, size),
        _ => Part::Whole,
    };
    let (response, start, length) = match part {
        Part::Whole => (response.status(StatusCode::OK), 0, size),
        Part::Slice { start, length } => {
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            (response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range), start, length)
        }
        Part::Unsatisfiable => {
            let response = response.header(header::CONTENT_RANGE, format!("bytes */{size}"));
            return text(response, StatusCode::RANGE_NOT_SATISFIABLE, "no such bytes\n");
        }
    };
    let response = response
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length);
    (response, Content::File(Stream { file: Arc::new(file), at: start, left: length, reading: None }))
}

#[derive(Debug)]
enum Content {
    Empty,
    Text(Bytes),
    File(Stream),
}

impl Content {
    fn remaining(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Text(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::File(stream) => stream.left,
        }
    }
}

/// The bytes of a file that are still to be sent.
#[derive(Debug)]
struct Stream {
    file: Arc<File>,
    at: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Stream {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (at, wanted) = (self.at, self.left.min(CHUNK));
        let file = &self.file;
        let reading = self.reading.get_or_insert_with(|| {
            let file = Arc::clone(file);
            tokio::task::spawn_blocking(move || read(&file, at, wanted))
        });
        let result = ready!(Pin::new(reading).poll(context)).unwrap_or_else(|error| Err(error.into()));
        self.reading = None;
        Poll::Ready(Some(result.inspect(|bytes| {
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.at = self.at.saturating_add(count);
            self.left = self.left.saturating_sub(count);
        })))
    }
}

/// Reads at most `wanted` bytes, and at least one.
fn read(file: &File, at: u64, wanted: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(wanted).unwrap_or(0)];
    let count = file.read_at(&mut buffer, at)?;
    if count == 0 {
        // The length is promised by now, so the connection has to break.
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
    }
    buffer.truncate(count);
    Ok(Bytes::from(buffer))
}

/// The body of a response.
#[derive(Debug)]
pub(super) struct Reply {
    content: Content,
    access: Access,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.content {
            Content::Empty => None,
            Content::Text(bytes) if bytes.is_empty() => None,
            Content::Text(bytes) => Some(Ok(std::mem::take(bytes))),
            Content::File(stream) => ready!(stream.poll(context)),
        };
        if let Some(Ok(bytes)) = &next {
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.access.sent = self.access.sent.saturating_add(count);
        }
        Poll::Ready(next.map(|result| result.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.content.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.remaining())
    }
}
