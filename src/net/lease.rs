//! What a DHCP server grants: read from its ACK or OFFER, and checked before it is believed.
//!
//! RFC 2131 and RFC 2132; option overload (52), split options (RFC 3396), domain search (RFC 3397),
//! classless routes (RFC 3442).

use std::net::Ipv4Addr;

use dhcproto::v4::{Decodable, Decoder, DhcpOption, Message, MessageType, OptionCode};
use serde::{Serialize, Serializer};

/// Lists are cut to these lengths.
const MOST_SERVERS: usize = 8;
const MOST_ROUTES: usize = 64;
const MOST_DOMAINS: usize = 16;

/// The smallest MTU that option 26 may name less 8: RFC 791, section 3.1 (every host takes 576 bytes).
const LEAST_MTU: u16 = 576;

/// Where a BOOTP header has its `sname`, `file`, magic cookie and options: RFC 2131, section 2.
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const COOKIE: std::ops::Range<usize> = 236..240;
const HEADER: usize = 240;

/// An address and all that came with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    pub interface: String,
    /// Serialised as six pairs of hexadecimal digits.
    #[serde(serialize_with = "mac_as_text")]
    pub mac: [u8; 6],
    pub address: Ipv4Addr,
    /// Bits of the network mask, 1 to 32.
    pub prefix: u8,
    /// The DHCP server.
    pub server: Option<Ipv4Addr>,
    /// Option 3, as it came.
    pub routers: Vec<Ipv4Addr>,
    /// What is to be set: option 121, or else a default route through the first router.
    pub routes: Vec<Route>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    /// In bytes.
    pub mtu: Option<u16>,
    /// None if the lease does not end.
    pub lease_seconds: Option<u32>,
}

/// One route of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Without host bits.
    pub destination: Ipv4Addr,
    pub prefix: u8,
    /// None for what is on the link itself.
    pub gateway: Option<Ipv4Addr>,
}

impl Lease {
    /// Whether the lease leads out of its own network.
    pub(super) fn has_default_route(&self) -> bool {
        // Two halves of the address space are one, too, as OpenVPN writes it.
        let widest = |route: &Route| route.prefix <= 1 && route.gateway.is_some();
        self.routes.iter().any(widest)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn mac_as_text<S: Serializer>(mac: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Mac(*mac))
}

/// A hardware address, for people.
pub(super) struct Mac(pub(super) [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A server's message: the header and the options this client understands.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) xid: u32,
    pub(super) mac: [u8; 6],
    pub(super) kind: MessageType,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// Option 56: why a server says no.
    pub(super) message: Option<String>,
    address: Ipv4Addr,
    options: Vec<DhcpOption>,
}

impl Reply {
    /// Reads a BOOTREPLY for Ethernet. None if it is anything else.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        if packet.get(COOKIE)? != dhcproto::v4::MAGIC {
            return None;
        }
        // The header alone: its options are read one by one, so that a faulty one spoils no other.
        let header = Message::from_bytes(packet.get(..HEADER)?).ok()?;
        let ethernet = header.htype() == dhcproto::v4::HType::Eth && header.hlen() == 6;
        if header.opcode() != dhcproto::v4::Opcode::BootReply || !ethernet {
            return None;
        }
        let mut reply = Self {
            xid: header.xid(),
            mac: *header.chaddr().first_chunk()?,
            kind: MessageType::Unknown(0),
            server: None,
            message: None,
            address: header.yiaddr(),
            options: Vec::new(),
        };
        for option in options(packet) {
            match option {
                DhcpOption::MessageType(kind) => reply.kind = kind,
                DhcpOption::ServerIdentifier(server) => reply.server = is_host(server).then_some(server),
                DhcpOption::Message(text) => reply.message = Some(text),
                other => reply.options.push(other),
            }
        }
        Some(reply)
    }

    /// The lease in an OFFER or ACK for `interface`, whose device can carry `largest_mtu` bytes; or
    /// what is wrong with it.
    pub(super) fn lease(&self, interface: &str, largest_mtu: u16) -> Result<Lease, String> {
        let address = self.address;
        if !is_host(address) {
            return Err(format!("{address} is no host's address"));
        }
        let mut mask = None;
        let mut classless = Vec::new();
        let mut lease = Lease {
            interface: interface.to_owned(),
            mac: self.mac,
            address,
            prefix: class_prefix(address),
            server: self.server,
            routers: Vec::new(),
            routes: Vec::new(),
            dns: Vec::new(),
            domain: None,
            search: Vec::new(),
            mtu: None,
            lease_seconds: None,
        };
        for option in &self.options {
            match option {
                DhcpOption::SubnetMask(value) => mask = Some(*value),
                DhcpOption::Router(list) => lease.routers = hosts(list),
                DhcpOption::DomainNameServer(list) => lease.dns = hosts(list),
                DhcpOption::DomainName(name) => lease.domain = domain(name.as_bytes()),
                DhcpOption::DomainSearch(names) => {
                    let names = names.iter().take(MOST_DOMAINS);
                    let labels = names.map(|name| name.iter().collect::<Vec<&[u8]>>().join(&b'.'));
                    lease.search = labels.filter_map(|name| domain(&name)).collect();
                }
                DhcpOption::InterfaceMtu(mtu) => {
                    lease.mtu = (LEAST_MTU..=largest_mtu).contains(mtu).then_some(*mtu);
                }
                DhcpOption::AddressLeaseTime(seconds) => {
                    // All ones is for ever: RFC 2131, section 3.3.
                    lease.lease_seconds = (1..u32::MAX).contains(seconds).then_some(*seconds);
                }
                DhcpOption::ClasslessStaticRoute(routes) => {
                    let routes = routes.iter().take(MOST_ROUTES);
                    classless = routes
                        .filter_map(|(net, gateway)| {
                            route(net.trunc().addr(), net.prefix_len(), *gateway, address)
                        })
                        .collect();
                }
                _ => {}
            }
        }
        // Without a mask, or with one that is none, the class of the address decides, as in every
        // other client: RFC 950, section 2.2 made masks optional.
        if let Some(prefix) = mask.and_then(mask_prefix) {
            lease.prefix = prefix;
        }
        if !is_host_in(address, lease.prefix) {
            return Err(format!("{address}/{} is a network, no host", lease.prefix));
        }
        // RFC 3442: with option 121 the routers of option 3 do not count.
        lease.routes = classless;
        if lease.routes.is_empty() {
            let default =
                lease.routers.iter().find_map(|&router| route(Ipv4Addr::UNSPECIFIED, 0, router, address));
            lease.routes.extend(default);
        }
        // A gateway may be reachable only through another route of the same list.
        lease.routes.sort_by_key(|route| route.gateway.is_some());
        Ok(lease)
    }
}

/// The options this client understands, each decoded by itself.
fn options(packet: &[u8]) -> Vec<DhcpOption> {
    let main = packet.get(HEADER..).unwrap_or_default();
    let mut found = Vec::new();
    collect(main, &mut found);
    // Overload: RFC 2131, section 4.1: options, then file, then sname.
    let overload = value_of(&found, OptionCode::OptionOverload).and_then(<[u8]>::first).copied().unwrap_or(0);
    for (bit, area) in [(1, FILE), (2, SNAME)] {
        if overload & bit != 0 {
            collect(packet.get(area).unwrap_or_default(), &mut found);
        }
    }
    found.into_iter().filter_map(|(code, value)| decode(code, &value)).collect()
}

fn value_of(found: &[(u8, Vec<u8>)], code: OptionCode) -> Option<&[u8]> {
    let code = u8::from(code);
    found.iter().find(|(found, _)| *found == code).map(|(_, value)| value.as_slice())
}

/// Adds the options of one area; one that comes again continues the first (RFC 3396).
fn collect(mut area: &[u8], found: &mut Vec<(u8, Vec<u8>)>) {
    while let [code, rest @ ..] = area {
        match OptionCode::from(*code) {
            OptionCode::Pad => area = rest,
            OptionCode::End => return,
            known => {
                let Some((length, rest)) = rest.split_first() else { return };
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { return };
                area = rest;
                if !understood(known) {
                    continue;
                }
                match found.iter_mut().find(|(found, _)| found == code) {
                    Some((_, whole)) => whole.extend_from_slice(value),
                    None => found.push((*code, value.to_vec())),
                }
            }
        }
    }
}

/// Anything else never reaches the decoder.
fn understood(code: OptionCode) -> bool {
    super::dhcp4::WANTED.contains(&code)
        || matches!(code, OptionCode::MessageType | OptionCode::Message | OptionCode::OptionOverload)
}

fn decode(code: u8, value: &[u8]) -> Option<DhcpOption> {
    let mut bytes = Vec::with_capacity(value.len() + 2);
    for part in value.chunks(usize::from(u8::MAX)) {
        bytes.extend([code, u8::try_from(part.len()).ok()?]);
        bytes.extend_from_slice(part);
    }
    DhcpOption::decode(&mut Decoder::new(&bytes)).ok()
}

fn hosts(list: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    list.iter().copied().filter(|&address| is_host(address)).take(MOST_SERVERS).collect()
}

/// A unicast address outside 0.0.0.0/8, 127.0.0.0/8 and what lies above 224.0.0.0.
fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    (1..224).contains(&first) && first != 127
}

/// Not all zeros and not all ones behind the prefix; /31 (RFC 3021) and /32 have neither.
fn is_host_in(address: Ipv4Addr, prefix: u8) -> bool {
    let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let host = u32::from(address) & host_bits;
    prefix >= 31 || (host != 0 && host != host_bits)
}

fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..128, ..] => 8,
        [128..192, ..] => 16,
        [192..=255, ..] => 24,
    }
}

/// The length of a contiguous, not empty mask.
fn mask_prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (ones > 0 && ones + bits.trailing_zeros() == 32).then(|| u8::try_from(ones).ok()).flatten()
}

/// A route that the kernel can be asked for. A gateway of 0.0.0.0 is the link itself: RFC 3442.
fn route(destination: Ipv4Addr, prefix: u8, gateway: Ipv4Addr, own: Ipv4Addr) -> Option<Route> {
    let local = destination.is_loopback() || destination.is_multicast();
    if local || gateway == own || !(gateway.is_unspecified() || is_host(gateway)) {
        return None;
    }
    Some(Route { destination, prefix, gateway: (!gateway.is_unspecified()).then_some(gateway) })
}

/// A name that may stand in resolv.conf: letters, digits, hyphens, underscores and dots.
pub(super) fn domain(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let name = name.strip_suffix(b".").unwrap_or(name);
    let fits = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let valid = !name.is_empty() && name.len() <= 253 && name.iter().all(fits) && !name.starts_with(b".");
    valid.then(|| String::from_utf8_lossy(name).into_owned())
}
