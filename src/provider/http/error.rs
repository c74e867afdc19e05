//! What a request ends in instead of a body.

use std::io;
use std::time::Duration;

use ureq::Timeout;

use crate::error::printable;
use crate::provider::tls::TlsError;

use super::{CONNECT, MOST_HEADER_BYTES, MOST_REDIRECTS, SILENCE};

/// What a request ended in instead of a body.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("HTTP status {0}")]
    Status(u16),
    /// 429 or 503 with `Retry-After`: RFC 9110, section 10.2.3.
    #[error("HTTP status {status}, to be asked again in {} s", after.as_secs())]
    Later { status: u16, after: Duration },
    /// 416: the file has this many bytes, if the server says so.
    #[error("HTTP status 416: the server has no such range")]
    NoSuchRange(Option<u64>),
    /// A 206 whose headers contradict the request or each other.
    #[error("the server's range is not the one that was asked for: {0}")]
    Range(String),
    #[error("{}", printable(&transport(.0)))]
    Transport(ureq::Error),
    #[error(transparent)]
    Tls(TlsError),
    #[error("the policy names TLS roots or pins, so this is only taken over https")]
    WithoutTls,
    #[error("it redirects more than {MOST_REDIRECTS} times")]
    Redirects,
    #[error("it redirects to \"{}\", which is not followed", printable(.0))]
    RedirectTarget(String),
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    #[error("it is encoded as {}, which nobody asked for", printable(.0))]
    Encoded(String),
    #[error("phase.proxy is no http:// URL")]
    Proxy,
    #[error("the time for this boot attempt is over")]
    Deadline,
    #[error("TLS needs the kernel's random generator, which did not become ready in time")]
    Random,
    #[error("the answer broke off: {}", body(.0))]
    Broken(io::Error),
}

impl HttpError {
    /// How long the server wants not to be asked, if it says so.
    pub fn after(&self) -> Option<Duration> {
        if let Self::Later { after, .. } = self { Some(*after) } else { None }
    }

    /// Whether asking again within seconds would only bring the same answer.
    pub fn is_lasting(&self) -> bool {
        match self {
            // What is not found, not allowed or not understood stays so; a server that is busy does not.
            Self::Status(code) => (400..500).contains(code) && !matches!(code, 408 | 425 | 429),
            Self::Tls(error) => error.is_about_certificate(),
            Self::WithoutTls
            | Self::Proxy
            | Self::Encoded(_)
            | Self::RedirectTarget(_)
            | Self::Transport(ureq::Error::Http(_) | ureq::Error::BadUri(_)) => true,
            Self::Later { .. }
            | Self::NoSuchRange(_)
            | Self::Range(_)
            | Self::Transport(_)
            | Self::Redirects
            | Self::TooLarge(_)
            | Self::Deadline
            | Self::Random
            | Self::Broken(_) => false,
        }
    }

    /// What the person can do, if there is more to say than for any provider that does not answer.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Tls(error) => Some(error.hint()),
            Self::WithoutTls => Some("give the provider as an https:// URL"),
            Self::Encoded(_) => Some("let the server send files as they are, without Content-Encoding"),
            Self::Proxy => Some("give phase.proxy as http://[USER:PASSWORD@]HOST:PORT"),
            Self::Transport(ureq::Error::ConnectProxyFailed(_)) => {
                Some("check phase.proxy, and that the proxy may reach the provider")
            }
            Self::Status(407) => Some("give phase.proxy a user and a password that the proxy takes"),
            Self::Status(_)
            | Self::Later { .. }
            | Self::NoSuchRange(_)
            | Self::Range(_)
            | Self::Transport(_)
            | Self::Redirects
            | Self::RedirectTarget(_)
            | Self::TooLarge(_)
            | Self::Deadline
            | Self::Random
            | Self::Broken(_) => None,
        }
    }
}

impl From<ureq::Error> for HttpError {
    fn from(error: ureq::Error) -> Self {
        TlsError::within(&error).map_or(Self::Transport(error), Self::Tls)
    }
}

/// Why a body ended early, in words.
pub fn body(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    printable(&inner.map_or_else(|| without_number(error), transport))
}

/// Why there is no answer, in words.
fn transport(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            _ => without_number(error),
        },
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            format!("no connection within {} s", CONNECT.as_secs())
        }
        ureq::Error::Timeout(Timeout::Global | Timeout::PerCall) => "it took too long".to_owned(),
        ureq::Error::Timeout(_) => format!("the server was silent for {} s", SILENCE.as_secs()),
        ureq::Error::LargeResponseHeader(..) => {
            format!("the server's headers have more than {} kB", MOST_HEADER_BYTES / 1024)
        }
        ureq::Error::Protocol(error) => format!("the server does not speak HTTP: {error}"),
        ureq::Error::ConnectProxyFailed(reason) => format!("the proxy (phase.proxy) fails: {reason}"),
        other => other.to_string(),
    }
}

/// The system's words without the number that std adds.
fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
