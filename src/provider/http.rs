//! The one HTTP client: ureq over TCP and TLS, bounded in time, redirects and header size.

use std::io::{self, Read};
use std::time::Duration;

use log::info;
use ureq::http::{Response, StatusCode, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body};

use crate::config::tls::TlsTrust;
use crate::error::printable;
use crate::provider::access::Access;
use crate::provider::tls::{TlsConnector, TlsError};
use crate::provider::url;
use crate::sys::random;
use crate::time::Deadline;

const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent, before its answer or within it.
const SILENCE: Duration = Duration::from_secs(15);
/// How long a small file may take, however lively its server is.
const SMALL_FILE: Duration = Duration::from_secs(20);
const MOST_REDIRECTS: usize = 5;
const MOST_URL_BYTES: usize = 2048;
/// How often the kernel's random generator is asked whether it is ready, while TLS waits for it.
const RANDOM_RETRY: Duration = Duration::from_millis(100);

/// The HTTP client of one boot attempt.
#[derive(Debug)]
pub struct Client {
    /// For manifests and key lists, from servers with a pinned key where the policy names any.
    documents: Agent,
    /// For what is held against a signed hash.
    artifacts: Agent,
    deadline: Deadline,
    is_tls_demanded: bool,
}

/// What a request ended in instead of a body.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("{}", printable(&.0.to_string()))]
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
    #[error("the time for this boot attempt is over")]
    Deadline,
    #[error("TLS needs the kernel's random generator, which did not become ready in time")]
    Random,
    #[error("the answer broke off: {0}")]
    Broken(io::Error),
}

impl HttpError {
    /// Whether asking again within seconds would only bring the same answer.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Status(code) => matches!(code, 404 | 410),
            Self::Tls(error) => error.is_about_certificate(),
            Self::WithoutTls => true,
            Self::Transport(_)
            | Self::Redirects
            | Self::RedirectTarget(_)
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
            Self::Status(_)
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

/// A response whose body can be read.
#[derive(Debug)]
pub struct Download {
    /// Where the body begins within the file, in bytes.
    pub offset: u64,
    /// How large the whole file is, if the server says so, in bytes.
    pub total: Option<u64>,
    response: Response<Body>,
}

impl Download {
    /// The body.
    pub fn reader(&mut self) -> impl Read + '_ {
        self.response.body_mut().as_reader()
    }

    /// The strong entity tag, with which a transfer can be resumed: RFC 9110, section 8.8.3.
    pub fn etag(&self) -> Option<String> {
        let tag = self.response.headers().get(header::ETAG)?.to_str().ok()?;
        tag.starts_with('"').then(|| tag.to_owned())
    }
}

impl Client {
    /// A client for requests that end before `deadline`, and for the TLS servers that `tls` believes.
    pub fn new(deadline: Deadline, tls: &TlsTrust, access: &Access) -> Self {
        log::debug!("servers are reached {access:?}");
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .http_status_as_error(false)
            // Followed here, where a downgrade from https can be refused.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(16 * 1024)
            // The kernel hands `https_proxy=...` on its command line to PID 1 as environment.
            .proxy(None)
            .accept_encoding("identity")
            .user_agent(concat!("phaseboot/", env!("CARGO_PKG_VERSION")))
            .build();
        // https over a connector that leaves it without TLS is an error in ureq.
        let connector = |tls| ().chain(TcpConnector::default()).chain(TlsConnector::new(tls));
        let agent = |tls| Agent::with_parts(config.clone(), connector(tls), DefaultResolver::default());
        let documents = agent(tls.clone());
        // One agent where it will do, so that the artifacts can come over the manifest's connection.
        let artifacts = if tls.pins().is_empty() { documents.clone() } else { agent(tls.without_pins()) };
        Self { documents, artifacts, deadline, is_tls_demanded: tls.names_servers() }
    }

    /// The deadline of every request.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The whole body of a small file, of at most `most` bytes, and the URL it came from in the end.
    /// These say what boots, so they come over https, on every hop, if the policy names TLS servers;
    /// what [`Self::download`] brings is held against a hash.
    pub fn get_small(&self, url: &str, most: usize) -> Result<(Vec<u8>, String), HttpError> {
        if self.is_tls_demanded && !url::is_https(url) {
            return Err(HttpError::WithoutTls);
        }
        // Half of what is left: a server that drips must leave time to ask the others.
        let budget = Deadline::after(SMALL_FILE.min(self.deadline.remaining() / 2));
        let (mut response, url) = self.request(&self.documents, url, None, budget)?;
        match response.status() {
            StatusCode::OK => {}
            status => return Err(HttpError::Status(status.as_u16())),
        }
        let mut body = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        response.body_mut().as_reader().take(limit).read_to_end(&mut body).map_err(HttpError::Broken)?;
        if body.len() > most {
            return Err(HttpError::TooLarge(most));
        }
        Ok((body, url))
    }

    /// Starts to download a file: all of it, or what is missing after `offset` bytes of the version
    /// with this entity tag. The server may send all of it nevertheless; see [`Download::offset`].
    pub fn download(&self, url: &str, resume: Option<(u64, &str)>) -> Result<Download, HttpError> {
        let (response, _) = self.request(&self.artifacts, url, resume, self.deadline)?;
        match response.status() {
            StatusCode::OK => {
                let total = response.body().content_length();
                Ok(Download { offset: 0, total, response })
            }
            StatusCode::PARTIAL_CONTENT => {
                let range =
                    response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let (offset, total) = range.and_then(parse_content_range).ok_or(HttpError::Status(206))?;
                Ok(Download { offset, total, response })
            }
            status => Err(HttpError::Status(status.as_u16())),
        }
    }

    /// Asks for `url` and whatever it redirects to; the answer, its body included, has to be here by
    /// `deadline`.
    fn request(
        &self,
        agent: &Agent,
        url: &str,
        resume: Option<(u64, &str)>,
        deadline: Deadline,
    ) -> Result<(Response<Body>, String), HttpError> {
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return Err(HttpError::Deadline);
            }
            if url::is_https(&url) {
                self.wait_for_random()?;
            }
            let mut request = agent.get(&url).config().timeout_global(Some(remaining)).build();
            if let Some((offset, etag)) = resume {
                request =
                    request.header(header::RANGE, format!("bytes={offset}-")).header(header::IF_RANGE, etag);
            }
            let response = request.call()?;
            if !response.status().is_redirection() {
                return Ok((response, url));
            }
            let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let location = location.ok_or(HttpError::Status(response.status().as_u16()))?;
            let next = url::resolve(&url, location)
                .filter(|next| next.len() <= MOST_URL_BYTES && (url::is_https(next) || !url::is_https(&url)))
                .ok_or_else(|| HttpError::RedirectTarget(location.to_owned()))?;
            url = next;
        }
        Err(HttpError::Redirects)
    }

    /// TLS would block on a generator that is not ready; say so, and give up at the deadline.
    fn wait_for_random(&self) -> Result<(), HttpError> {
        if random::ready() {
            return Ok(());
        }
        info!("TLS waits for the kernel's random generator");
        while !random::ready() {
            if self.deadline.passed() {
                return Err(HttpError::Random);
            }
            std::thread::sleep(RANDOM_RETRY.min(self.deadline.remaining()));
        }
        Ok(())
    }
}

/// `bytes FIRST-LAST/TOTAL`, with `*` for a total that is not known: RFC 9110, section 14.4.
fn parse_content_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for range in ["", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "items 0-1/2", "bytes 1-/2"] {
            assert_eq!(parse_content_range(range), None, "{range}");
        }
    }
}
