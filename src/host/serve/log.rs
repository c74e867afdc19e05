//! What the server says on standard error: a line for each response, and notes.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Instant;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::time::UnixTime;

/// How the lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    /// One object a line.
    Json,
}

impl Format {
    /// Says what happened, to the connection of `peer` if to any.
    pub(super) fn note(self, peer: Option<SocketAddr>, message: &str) {
        let time = UnixTime::now();
        match (self, peer) {
            (Self::Text, None) => line(format_args!("phasectl: {message}")),
            (Self::Text, Some(peer)) => line(format_args!("{time} {peer} {message}")),
            (Self::Json, peer) => {
                let mut object = Map::from_iter([
                    ("time".to_owned(), json!(time.to_string())),
                    ("message".to_owned(), json!(message)),
                ]);
                if let Some(peer) = peer {
                    object.insert("peer".to_owned(), json!(peer.to_string()));
                }
                line(Value::from(object));
            }
        }
    }
}

/// A log that nobody can read is no reason to serve nobody.
fn line(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A response, from its start until it is done with; that is when its line is written.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) format: Format,
    pub(super) peer: SocketAddr,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) status: StatusCode,
    /// Bytes of the body.
    pub(super) expected: u64,
    pub(super) sent: u64,
    pub(super) since: Instant,
}

impl Drop for Access {
    fn drop(&mut self) {
        let Self { format, peer, method, path, range, status, expected, sent, since } = self;
        let (time, seconds) = (UnixTime::now(), since.elapsed().as_secs_f64());
        match format {
            Format::Text => {
                let range = range.as_deref().map(|range| format!(" {range}")).unwrap_or_default();
                let cut = if sent < expected { format!(" of {expected}, cut off") } else { String::new() };
                let status = status.as_u16();
                line(format_args!(
                    "{time} {peer} {method} {path}{range} {status} {sent} bytes{cut} in {seconds:.3} s"
                ));
            }
            Format::Json => line(json!({
                "time": time.to_string(),
                "peer": peer.to_string(),
                "method": method,
                "path": path,
                "range": range,
                "status": status.as_u16(),
                "sent": sent,
                "expected": expected,
                "seconds": seconds,
            })),
        }
    }
}
