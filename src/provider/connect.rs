//! TCP connections to servers: names by libc's resolver over the uplink's servers, several addresses
//! tried fast (RFC 8305), sockets bound to the uplink's device, an HTTP proxy for http URLs.
//!
//! A proxy is used for every URL, as curl does it: what is not to go through it is not to be had by
//! a machine that was told to use one. https goes through a tunnel (CONNECT) that `ureq` makes; http is
//! asked for in absolute form (RFC 9112, section 3.2.2) from the proxy itself.

mod dial;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ureq::Proxy;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};

use crate::error::printable;
use crate::net::{Uplink, names};
use crate::patience;
use crate::provider::access::Access;
use crate::sys::names::{Failure, Family, addresses as by_libc};
use crate::time::Deadline;
pub(super) use dial::dial;
use dial::is_ours;

/// More addresses of a name than that are not tried.
const MOST_ADDRESSES: usize = 8;
/// After so long without a byte it is looked whether one can still come.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks in a row have to say no: an address that comes back keeps its connections.
const LOOKS: u32 = 5;

/// The way to servers that one client uses.
#[derive(Clone, Debug)]
pub(super) struct Way(Arc<Inner>);

struct Inner {
    access: Access,
    proxy: Option<Proxy>,
    is_usable: bool,
}

/// Without the proxy's password.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = self.access.uplink.as_ref().map(|uplink| &uplink.interface);
        let proxy = self.proxy.as_ref().map(Proxy::host);
        f.debug_struct("Way").field("link", &link).field("proxy", &proxy).finish()
    }
}

impl Way {
    /// The way that `access` says.
    pub(super) fn new(access: &Access) -> Self {
        let proxy = access.proxy.as_deref().map(|url| match url.strip_prefix("http://") {
            Some(_) => Proxy::new(url),
            None => Err(ureq::Error::InvalidProxyUrl),
        });
        let is_usable = !matches!(proxy, Some(Err(_)));
        Self(Arc::new(Inner { access: access.clone(), proxy: proxy.and_then(Result::ok), is_usable }))
    }

    /// False if the proxy is none of http: then nothing must be asked, least of all without it.
    pub(super) fn is_usable(&self) -> bool {
        self.0.is_usable
    }

    /// The proxy, if there is one.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.0.proxy.as_ref()
    }

    /// The proxy that an http request to `uri` goes to; none for the proxy's own address.
    fn proxy_for(&self, uri: &Uri) -> Option<&Proxy> {
        let proxy = self.proxy()?;
        let is_own = uri.host() == Some(proxy.host()) && uri.port_u16().unwrap_or(80) == proxy.port();
        (uri.scheme_str() == Some("http") && !is_own).then_some(proxy)
    }

    /// Without the addresses of a family that the uplink does not have, unless there are no others.
    fn reachable(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let Some(uplink) = self.0.access.uplink.as_deref() else { return addresses };
        let (is_v4, is_v6) = (uplink.ipv4.is_some(), uplink.ipv6.is_some());
        let is_reachable = |address: &SocketAddr| if address.is_ipv6() { is_v6 } else { is_v4 };
        let (reachable, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_reachable);
        if reachable.is_empty() { others } else { reachable }
    }

    /// Where there is a proxy, it is the one that is not to be reached.
    fn unreached(&self, error: io::Error) -> ureq::Error {
        match self.proxy() {
            Some(_) => ureq::Error::ConnectProxyFailed(error.to_string()),
            None => error.into(),
        }
    }

    fn device(&self) -> Option<&str> {
        let uplink = self.0.access.uplink.as_deref()?;
        (uplink.bound && !uplink.interface.is_empty()).then_some(uplink.interface.as_str())
    }

    /// The addresses of a host, by libc's resolver, within `limit`.
    fn look_up(&self, host: &str, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let (way, name) = (self.clone(), bare.to_owned());
        // It waits for its turn and for the servers on a thread that is left behind when the time is up.
        let looked_up = patience::within(limit, move || {
            let access = &way.0.access;
            let _turn = access.uplink.as_ref().map(|uplink| names::for_uplink(&access.paths, uplink));
            addresses(&name, access.uplink.as_deref())
        });
        let failed = |kind, reason: &str| {
            let asked = self.servers();
            let name = printable(bare);
            io::Error::new(kind, format!("the name {name} {reason}; servers for names: {asked}"))
        };
        match looked_up {
            Some(Ok(addresses)) if !addresses.is_empty() => {
                Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
            }
            Some(Ok(_)) => Err(failed(io::ErrorKind::NotFound, "has no address")),
            Some(Err(failure)) => {
                let reason = format!("does not resolve ({})", failure.reason.to_lowercase());
                Err(failed(io::ErrorKind::NotFound, &reason))
            }
            None => {
                let reason = match limit.as_secs() {
                    0 => "was not resolved in the time that was left".to_owned(),
                    seconds => format!("was not resolved within {seconds} s"),
                };
                Err(failed(io::ErrorKind::TimedOut, &reason))
            }
        }
    }

    /// The servers that are asked for names, for people.
    fn servers(&self) -> String {
        let access = &self.0.access;
        let uplink = access.uplink.as_deref();
        let mut servers: Vec<String> =
            uplink.map(|uplink| uplink.dns.iter().map(IpAddr::to_string).collect()).unwrap_or_default();
        if servers.is_empty() {
            let text = std::fs::read_to_string(access.paths.resolv_conf()).unwrap_or_default();
            let named = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
            servers = named.take(3).map(|server| printable(server.trim())).collect();
        }
        if servers.is_empty() { "none known".to_owned() } else { servers.join(", ") }
    }
}

impl Resolver for Way {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let (host, port) = match self.proxy_for(uri) {
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(default)),
        };
        let found = self.look_up(host, port, *timeout.after).map_err(|error| self.unreached(error))?;
        let addresses = self.reachable(found);
        let mut resolved = self.empty();
        for address in interleaved(addresses).into_iter().take(MOST_ADDRESSES) {
            resolved.push(address);
        }
        Ok(resolved)
    }
}

/// The addresses of a name, of the families that the link has. Some servers refuse to speak of IPv6
/// (dnsmasq without one above it, of names that it has IPv4 addresses for), which libc takes for silence.
fn addresses(name: &str, uplink: Option<&Uplink>) -> Result<Vec<IpAddr>, Failure> {
    let families = uplink.map(|uplink| (uplink.ipv4.is_some(), uplink.ipv6.is_some()));
    match families {
        Some((true, false)) => by_libc(name, Family::V4),
        Some((false, true)) => by_libc(name, Family::V6),
        _ => match by_libc(name, Family::Any) {
            Err(failure) if failure.is_passing => by_libc(name, Family::V4).map_err(|_| failure),
            other => other,
        },
    }
}

/// The families in turn, beginning with the one that getaddrinfo(3) prefers: RFC 8305, section 4.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut all = Vec::new();
    for address in first {
        all.push(address);
        all.extend(second.next());
    }
    all.extend(second);
    all
}

/// The connector of `ureq`'s chain that opens sockets.
impl<In: Transport> Connector<In> for Way {
    type Out = Either<In, Tcp>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if chained.is_some() {
            return Ok(chained.map(Either::A));
        }
        let by = Deadline::after(*details.timeout.after);
        let absolute = self.proxy_for(details.uri).map(|proxy| Absolute::new(details.uri, proxy));
        let device = self.device().map(str::to_owned);
        let stream = dial(&details.addrs, device.as_deref(), *details.timeout.after);
        let stream = Arc::new(stream.map_err(|error| self.unreached(error))?);
        let handle: Arc<dyn ShutdownHandle> = Arc::clone(&stream) as _;
        (details.register_shutdown)(Arc::downgrade(&handle))?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let (read_timeout, write_timeout, tunnel) = (None, None, Tunnel::None);
        Ok(Some(Either::B(Tcp {
            stream,
            device,
            buffers,
            read_timeout,
            write_timeout,
            absolute,
            by,
            tunnel,
        })))
    }
}

/// What an http request carries when it goes through a proxy.
struct Absolute {
    /// `http://HOST:PORT` of the server that is meant.
    origin: String,
    /// `Proxy-Authorization: ...` with its line end, or nothing.
    header: String,
}

impl Absolute {
    fn new(uri: &Uri, proxy: &Proxy) -> Self {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        // What stands before the @ is for nobody else.
        let host = authority.rsplit('@').next().unwrap_or_default();
        let header = match (proxy.username(), proxy.password()) {
            (None, None) => String::new(),
            (user, password) => {
                let pair = format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default());
                format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(pair))
            }
        };
        Self { origin: format!("http://{host}"), header }
    }

    /// The request with an absolute target: `GET /path HTTP/1.1` gets the origin before the path. What
    /// does not begin a request stays as it is; ours have no body.
    fn apply(&self, output: &[u8]) -> Option<Vec<u8>> {
        let target = output.strip_prefix(b"GET ")?;
        let line = target.iter().position(|&byte| byte == b'\n')?.checked_add(1)?;
        let (line, rest) = target.split_at_checked(line)?;
        Some([b"GET ", self.origin.as_bytes(), line, self.header.as_bytes(), rest].concat())
    }
}

/// A TCP connection, as ureq reads and writes it.
pub(super) struct Tcp {
    stream: Arc<TcpStream>,
    /// The one that it is bound to.
    device: Option<String>,
    buffers: LazyBuffers,
    /// What the socket is set to, so that it is set again only when it changes.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    absolute: Option<Absolute>,
    /// When a tunnel has to stand.
    by: Deadline,
    tunnel: Tunnel,
}

/// How far a tunnel through a proxy is. ureq counts its time anew for every read of the proxy's answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    /// There is none, or it stands.
    None,
    Asked,
    /// A part of the proxy's answer is here.
    Answered,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = in_time(timeout.for_write())?;
        let limit = timeout.not_zero().map(|limit| *limit);
        if limit != self.write_timeout {
            self.stream.set_write_timeout(limit)?;
            self.write_timeout = limit;
        }
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        if output.starts_with(b"CONNECT ") {
            self.tunnel = Tunnel::Asked;
        } else if self.tunnel == Tunnel::Answered {
            self.tunnel = Tunnel::None;
        }
        let sent = match self.absolute.as_ref().and_then(|absolute| absolute.apply(output)) {
            Some(request) => (&*self.stream).write_all(&request),
            None => (&*self.stream).write_all(output),
        };
        sent.map_err(|error| timed_out(error, timeout))
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if self.tunnel != Tunnel::None {
            timeout.after = self.by.remaining().into();
            let received = self.receive(timeout);
            self.tunnel = Tunnel::Answered;
            return match received {
                Err(ureq::Error::Timeout(_)) => {
                    Err(ureq::Error::ConnectProxyFailed("it does not answer in time".to_owned()))
                }
                other => other,
            };
        }
        self.receive(timeout)
    }

    /// Whether it is quiet: an end or bytes that nobody asked for make it useless.
    fn is_open(&mut self) -> bool {
        let mut polled = [PollFd::new(&*self.stream, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())) == Ok(0)
    }
}

impl Tcp {
    fn receive(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = in_time(timeout.for_read())?;
        let by = timeout.not_zero().map(|limit| Deadline::after(*limit));
        let mut without_address = 0;
        let amount = loop {
            let left = by.map_or(LOOK, |by| by.remaining());
            if left.is_zero() {
                return Err(ureq::Error::Timeout(timeout.reason));
            }
            let limit = Some(left.min(LOOK));
            if limit != self.read_timeout {
                self.stream.set_read_timeout(limit)?;
                self.read_timeout = limit;
            }
            match (&*self.stream).read(self.buffers.input_append_buf()) {
                // No handler is installed anywhere; a debugger may interrupt all the same.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Nobody can be heard at an address that is not ours: a lease that was lost took it away.
                    let address = self.stream.local_addr()?;
                    without_address =
                        if is_ours(address, self.device.as_deref()) { 0 } else { without_address + 1 };
                    if without_address == LOOKS {
                        let text = format!("{} is no address of this machine any more", address.ip());
                        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text).into());
                    }
                }
                other => break other.map_err(|error| timed_out(error, timeout))?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }
}

/// A time that is over would become a second for each read, and a peer that drips would never end: who
/// reads through TLS asks again for every byte that comes.
fn in_time(timeout: NextTimeout) -> Result<NextTimeout, ureq::Error> {
    if timeout.after.is_zero() { Err(ureq::Error::Timeout(timeout.reason)) } else { Ok(timeout) }
}

fn timed_out(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => ureq::Error::Io(error),
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tcp").field(&self.stream.peer_addr().ok()).finish()
    }
}

#[cfg(test)]
mod tests;
