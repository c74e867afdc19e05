//! The one HTTP client: ureq over TCP and TLS, bounded in time, redirects and header size.

mod answer;
mod error;
mod mirrors;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use log::info;
use ureq::http::{Response, StatusCode, header};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};
use ureq::{Agent, Body, Timeout};

pub use error::{HttpError, body as broken_body};
pub use mirrors::Mirrors;

use crate::config::tls::TlsTrust;
use crate::patience;
use crate::provider::access::Access;
use crate::provider::connect::Way;
use crate::provider::tls::TlsConnector;
use crate::provider::url;
use crate::sys::random;
use crate::time::{Deadline, UnixTime};

const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent, before its answer or within it.
const SILENCE: Duration = Duration::from_secs(15);
/// How long a small file may take, however lively its server is.
const SMALL_FILE: Duration = Duration::from_secs(20);
const MOST_REDIRECTS: usize = 5;
const MOST_URL_BYTES: usize = 2048;
const MOST_HEADER_BYTES: usize = 16 * 1024;
const MOST_PAGE_BYTES: u64 = 4 * 1024;
/// How long such a page is waited for.
const PAGE: Duration = Duration::from_secs(1);
/// What is read from a connection at once, in bytes: few system calls, and it stays in the CPU's cache.
pub const BUFFER: usize = 128 * 1024;
/// Requests have no bodies.
const OUTPUT_BUFFER: usize = 8 * 1024;
/// How often the kernel's random generator is asked whether it is ready, while TLS waits for it.
const RANDOM_RETRY: Duration = Duration::from_millis(100);

/// The HTTP client of one boot attempt. Clones share connections and what is known of servers.
#[derive(Clone, Debug)]
pub struct Client {
    /// For manifests and key lists, from servers with a pinned key where the policy names any.
    documents: Agent,
    /// For what is held against a signed hash.
    artifacts: Agent,
    way: Way,
    mirrors: Arc<Mirrors>,
    tls: Tls,
    deadline: Deadline,
}

/// The TLS of one trust policy.
#[derive(Clone, Debug)]
struct Tls {
    documents: TlsConnector,
    /// Where it is another.
    artifacts: Option<TlsConnector>,
    is_demanded: bool,
}

/// What is wanted of a file.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The first byte.
    pub from: u64,
    /// The one after the last; none for all that follow.
    pub to: Option<u64>,
    /// What the file had for an `If-Range` when other parts of it were fetched.
    pub validator: Option<&'a str>,
    /// The server is not asked for a range: it is known not to care.
    pub whole: bool,
}

impl Wanted<'static> {
    /// All of it.
    pub const WHOLE: Self = Self { from: 0, to: None, validator: None, whole: true };
}

/// A response whose body can be read.
#[derive(Debug)]
pub struct Download {
    /// Where the body begins within the file, in bytes.
    pub offset: u64,
    /// Where it ends, if the server says so.
    pub end: Option<u64>,
    /// How large the whole file is, if the server says so, in bytes.
    pub total: Option<u64>,
    /// The body says itself where it ends, and that is all of the file: chunks (RFC 9112, section 7.1).
    pub is_delimited: bool,
    /// With what the transfer can be resumed.
    pub validator: Option<String>,
    response: Response<Body>,
}

impl Download {
    /// The body.
    pub fn reader(&mut self) -> impl Read + '_ {
        self.response.body_mut().as_reader()
    }
}

impl Client {
    /// A client for requests that end before `deadline`, for the TLS servers that `tls` believes, over
    /// the way that `access` says.
    pub fn new(deadline: Deadline, tls: &TlsTrust, access: &Access) -> Self {
        let documents = TlsConnector::new(tls.clone());
        // One configuration where it will do.
        let artifacts =
            if tls.pins().is_empty() { None } else { Some(TlsConnector::new(tls.without_pins())) };
        let mirrors = Arc::new(Mirrors::read(&access.paths));
        let tls = Tls { documents, artifacts, is_demanded: tls.names_servers() };
        Self::with(deadline, tls, mirrors, access)
    }

    /// The same over another way. What is known of servers and of TLS is shared, connections are not.
    pub fn over(&self, access: &Access) -> Self {
        Self::with(self.deadline, self.tls.clone(), Arc::clone(&self.mirrors), access)
    }

    fn with(deadline: Deadline, tls: Tls, mirrors: Arc<Mirrors>, access: &Access) -> Self {
        let way = Way::new(access);
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
            .max_response_header_size(MOST_HEADER_BYTES)
            .max_idle_connections_per_host(4)
            .input_buffer_size(BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            // The kernel hands `https_proxy=...` on its command line to PID 1 as environment.
            .proxy(None)
            .accept_encoding("identity")
            .user_agent(concat!("phaseboot/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = |tls: &TlsConnector| {
            // https over a connector that leaves it without TLS is an error in ureq.
            let connector = ().chain(ConnectProxyConnector::default()).chain(way.clone()).chain(tls.clone());
            Agent::with_parts(config.clone(), connector, way.clone())
        };
        let documents = agent(&tls.documents);
        // One agent where it will do, so that the artifacts can come over the manifest's connection.
        let artifacts = tls.artifacts.as_ref().map_or_else(|| documents.clone(), agent);
        Self { documents, artifacts, tls, way, mirrors, deadline }
    }

    /// The deadline of every request.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// How the servers have done so far.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// The whole body of a small file, of at most `most` bytes, and the URL it came from in the end.
    /// These say what boots, so they come over https, on every hop, if the policy names TLS servers;
    /// what [`Self::download`] brings is held against a hash.
    pub fn get_small(&self, url: &str, most: usize) -> Result<(Vec<u8>, String), HttpError> {
        if self.tls.is_demanded && !url::is_https(url) {
            return Err(HttpError::WithoutTls);
        }
        // Half of what is left: a server that drips must leave time to ask the others.
        let budget = Deadline::after(SMALL_FILE.min(self.deadline.remaining() / 2));
        let (mut response, url) = self.request(&self.documents, url, Wanted::WHOLE, budget)?;
        check_status(&response, &[StatusCode::OK])?;
        let mut body = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        response.body_mut().as_reader().take(limit).read_to_end(&mut body).map_err(HttpError::Broken)?;
        if body.len() > most {
            return Err(HttpError::TooLarge(most));
        }
        Ok((body, url))
    }

    /// Starts to download a file or a part of it. The server may send all of it nevertheless
    /// ([`Download::offset`]), or less ([`Download::end`]), but nothing that begins elsewhere.
    pub fn download(&self, url: &str, wanted: Wanted<'_>) -> Result<Download, HttpError> {
        let (response, _) = self.request(&self.artifacts, url, wanted, self.deadline)?;
        check_status(&response, &[StatusCode::OK, StatusCode::PARTIAL_CONTENT])?;
        let validator = answer::validator(response.headers());
        let length = response.body().content_length();
        if response.status() == StatusCode::OK {
            let is_delimited = length.is_none() && answer::is_chunked(&response);
            return Ok(Download { offset: 0, end: length, total: length, is_delimited, validator, response });
        }
        let range = answer::text(response.headers(), header::CONTENT_RANGE).unwrap_or("none").to_owned();
        let (first, end, total) =
            answer::content_range(response.headers()).ok_or_else(|| HttpError::Range(range.clone()))?;
        // Who was not asked for a part may call the whole one.
        let is_asked_for = if wanted.whole { first == 0 && total == Some(end) } else { first == wanted.from };
        if !is_asked_for || length.is_some_and(|length| length != end - first) {
            return Err(HttpError::Range(range));
        }
        let is_delimited = false;
        Ok(Download { offset: first, end: Some(end), total, is_delimited, validator, response })
    }

    /// Asks for `url` and whatever it redirects to; the answer, its body included, has to be here by
    /// `deadline`.
    fn request(
        &self,
        agent: &Agent,
        url: &str,
        wanted: Wanted<'_>,
        deadline: Deadline,
    ) -> Result<(Response<Body>, String), HttpError> {
        if !self.way.is_usable() {
            return Err(HttpError::Proxy);
        }
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                let is_over = self.deadline.passed();
                let late = || HttpError::Transport(ureq::Error::Timeout(Timeout::Global));
                return Err(if is_over { HttpError::Deadline } else { late() });
            }
            let is_https = url::is_https(&url);
            if is_https {
                self.wait_for_random()?;
            }
            // For http URLs the connector sees to the proxy.
            let proxy = self.way.proxy().filter(|_| is_https).cloned();
            let mut request = agent.get(&url).config().timeout_global(Some(remaining)).proxy(proxy).build();
            if let Some(credentials) = url::credentials(&url) {
                let value = format!("Basic {}", BASE64_STANDARD.encode(credentials));
                request = request.header(header::AUTHORIZATION, value);
            }
            if !wanted.whole {
                let last = wanted.to.map(|to| to.saturating_sub(1).to_string()).unwrap_or_default();
                request = request.header(header::RANGE, format!("bytes={}-{last}", wanted.from));
                if let Some(validator) = wanted.validator {
                    request = request.header(header::IF_RANGE, validator);
                }
            }
            let mut response = request.call()?;
            if !response.status().is_success() {
                response = drained(response);
            }
            if !response.status().is_redirection() {
                return Ok((response, url));
            }
            let location = answer::text(response.headers(), header::LOCATION);
            let location = location.ok_or(HttpError::Status(response.status().as_u16()))?;
            let next = url::redirected(&url, location)
                .filter(|next| next.len() <= MOST_URL_BYTES && (url::is_https(next) || !is_https))
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

/// Reads the page that comes with an error or a redirect, if it is short and comes at once: the
/// connection can be used again only if nothing is left on it.
fn drained(response: Response<Body>) -> Response<Body> {
    let length = response.body().content_length();
    if length.is_none_or(|length| length == 0 || length > MOST_PAGE_BYTES) {
        return response;
    }
    let (head, mut page) = response.into_parts();
    patience::within(PAGE, move || io::copy(&mut page.as_reader(), &mut io::sink()).is_ok());
    Response::from_parts(head, Body::builder().data(Vec::new()))
}

/// Whether this is an answer with bytes as they are.
fn check_status(response: &Response<Body>, fine: &[StatusCode]) -> Result<(), HttpError> {
    let (status, headers) = (response.status(), response.headers());
    if !fine.contains(&status) {
        let code = status.as_u16();
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(HttpError::NoSuchRange(answer::unsatisfied_range(headers)));
        }
        let is_busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let after = answer::retry_after(headers, UnixTime::now()).filter(|_| is_busy);
        return Err(after.map_or(HttpError::Status(code), |after| HttpError::Later { status: code, after }));
    }
    let encoding = answer::text(headers, header::CONTENT_ENCODING).unwrap_or_default();
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        return Err(HttpError::Encoded(encoding.to_owned()));
    }
    Ok(())
}
