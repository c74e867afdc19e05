//! A server's message, read: Advertise and Reply of RFC 8415, section 8.
//!
//! Each option is decoded by itself, those within others too, so that a malformed one spoils nothing
//! else. Only dhcproto's reader is used for it: its decoder of whole messages ends at the first
//! malformed option, and recurses as deeply as a packet nests them.

use std::net::Ipv6Addr;

use dhcproto::v6::{Decoder, MessageType, OptionCode, Status};

use crate::error::printable;
use crate::net::lease6::{
    Lease6, MOST_ADDRESSES, MOST_PARAMS, MOST_SERVERS, boot_param, boot_url, is_global, is_server, names,
    times,
};

/// In bytes: RFC 8415, section 11.1, allows 128 behind the type.
const LONGEST_DUID: usize = 130;

/// Suboption NTP_SUBOPTION_SRV_ADDR: RFC 5908, section 4.1.
const NTP_SERVER_ADDRESS: u16 = 1;

/// A server's message: the header and the options this client understands.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) kind: MessageType,
    pub(super) xid: [u8; 3],
    pub(super) client: Option<Vec<u8>>,
    pub(super) server: Option<Vec<u8>>,
    pub(super) rapid_commit: bool,
    /// Of the whole message.
    pub(super) status: Option<Refusal>,
    /// 255 is the best.
    pub(super) preference: u8,
    /// Options 82 and 83, in seconds.
    pub(super) longest_solicit_wait: Option<u32>,
    pub(super) longest_inform_wait: Option<u32>,
    /// Option 32, in seconds.
    pub(super) refresh: Option<u32>,
    pub(super) association: Association,
    dns: Vec<Ipv6Addr>,
    search: Vec<String>,
    ntp: Vec<Ipv6Addr>,
    sntp: Vec<Ipv6Addr>,
    boot_url: Option<String>,
    boot_params: Vec<String>,
}

/// What was answered for our IA_NA: RFC 8415, section 21.4.
#[derive(Debug, Default)]
pub(super) struct Association {
    pub(super) status: Option<Refusal>,
    pub(super) addresses: Vec<(Ipv6Addr, u32, u32)>,
    /// Addresses that must not be used any more: their valid lifetime is 0.
    pub(super) withdrawn: Vec<Ipv6Addr>,
    t1: u32,
    t2: u32,
}

/// A status other than success: RFC 8415, section 21.13.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Status,
    /// Foreign text.
    pub(super) message: String,
}

impl Reply {
    /// Reads an Advertise or a Reply. None if it is anything else. Only the IA_NA `iaid` counts.
    pub(super) fn parse(packet: &[u8], iaid: u32) -> Option<Self> {
        let mut header = Decoder::new(packet);
        let kind = MessageType::from(header.read_u8().ok()?);
        if !matches!(kind, MessageType::Advertise | MessageType::Reply) {
            return None;
        }
        let mut reply = Self {
            kind,
            xid: header.read().ok()?,
            client: None,
            server: None,
            rapid_commit: false,
            status: None,
            preference: 0,
            longest_solicit_wait: None,
            longest_inform_wait: None,
            refresh: None,
            association: Association::default(),
            dns: Vec::new(),
            search: Vec::new(),
            ntp: Vec::new(),
            sntp: Vec::new(),
            boot_url: None,
            boot_params: Vec::new(),
        };
        for (code, value) in Options(header.buffer()) {
            // None: malformed, and as good as not there.
            let _ = reply.take(OptionCode::from(code), value, iaid);
        }
        Some(reply)
    }

    fn take(&mut self, code: OptionCode, value: &[u8], iaid: u32) -> Option<()> {
        let mut decoder = Decoder::new(value);
        match code {
            OptionCode::ClientId => self.client = self.client.take().or(duid(value)),
            OptionCode::ServerId => self.server = self.server.take().or(duid(value)),
            OptionCode::IANA => self.association.take(&mut decoder, iaid)?,
            OptionCode::Preference => self.preference = decoder.read_u8().ok()?,
            OptionCode::StatusCode => self.status = self.status.take().or(refusal(value)),
            OptionCode::RapidCommit => self.rapid_commit = true,
            OptionCode::DomainNameServers => add(&mut self.dns, &servers(value)?),
            OptionCode::DomainSearchList if self.search.is_empty() => self.search = names(value),
            OptionCode::SntpServers => add(&mut self.sntp, &servers(value)?),
            OptionCode::NtpServer => {
                for (code, value) in Options(value) {
                    if code == NTP_SERVER_ADDRESS && value.len() == 16 {
                        add(&mut self.ntp, &servers(value)?);
                    }
                }
            }
            OptionCode::InformationRefreshTime => self.refresh = Some(decoder.read_u32().ok()?),
            OptionCode::OptBootfileUrl => self.boot_url = self.boot_url.take().or(boot_url(value)),
            OptionCode::OptBootfileParam if self.boot_params.is_empty() => {
                while let Ok(length) = decoder.read_u16()
                    && let Ok(param) = decoder.read_slice(usize::from(length))
                    && self.boot_params.len() < MOST_PARAMS
                {
                    self.boot_params.extend(boot_param(param));
                }
            }
            OptionCode::SolMaxRt => self.longest_solicit_wait = Some(decoder.read_u32().ok()?),
            OptionCode::InfMaxRt => self.longest_inform_wait = Some(decoder.read_u32().ok()?),
            _ => {}
        }
        Some(())
    }

    /// What the message grants and tells; `source` has sent it.
    pub(super) fn lease(self, source: Ipv6Addr) -> Lease6 {
        let Association { addresses, t1, t2, .. } = self.association;
        let (t1, t2) = times(t1, t2, &addresses);
        let mut ntp = self.ntp;
        add(&mut ntp, &self.sntp);
        Lease6 {
            addresses,
            dns: self.dns,
            search: self.search,
            ntp,
            boot_url: self.boot_url,
            boot_params: self.boot_params,
            server: source,
            t1,
            t2,
        }
    }

    /// Why there is no address in it.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.status.as_ref().or(self.association.status.as_ref())
    }
}

impl Association {
    /// Adds what one IA_NA option says, if it is ours.
    fn take(&mut self, decoder: &mut Decoder<'_>, iaid: u32) -> Option<()> {
        let [id, t1, t2] = [decoder.read_u32().ok()?, decoder.read_u32().ok()?, decoder.read_u32().ok()?];
        // RFC 8415, section 21.4: an IA_NA with such times is discarded.
        if id != iaid || (t1 > t2 && t2 > 0) {
            return None;
        }
        for (code, value) in Options(decoder.buffer()) {
            match OptionCode::from(code) {
                OptionCode::StatusCode => self.status = self.status.take().or(refusal(value)),
                OptionCode::IAAddr => {
                    if let Some((address, preferred, valid)) = address(value) {
                        self.add(address, preferred, valid);
                    }
                }
                _ => {}
            }
        }
        (self.t1, self.t2) = (t1, t2);
        Some(())
    }

    fn add(&mut self, address: Ipv6Addr, preferred: u32, valid: u32) {
        let known = self.addresses.iter().any(|(other, ..)| *other == address);
        if valid > 0 && !known && self.addresses.len() < MOST_ADDRESSES {
            self.addresses.push((address, preferred, valid));
        } else if valid == 0 && self.withdrawn.len() < MOST_ADDRESSES {
            self.withdrawn.push(address);
        }
    }
}

/// Option 5 with its lifetimes: RFC 8415, section 21.6.
fn address(value: &[u8]) -> Option<(Ipv6Addr, u32, u32)> {
    let mut decoder = Decoder::new(value);
    let address = Ipv6Addr::from(decoder.read::<16>().ok()?);
    let (preferred, valid) = (decoder.read_u32().ok()?, decoder.read_u32().ok()?);
    let statuses = Options(decoder.buffer()).filter(|(code, _)| *code == u16::from(OptionCode::StatusCode));
    let refused = statuses.filter_map(|(_, value)| refusal(value)).next().is_some();
    (is_global(address) && preferred <= valid && !refused).then_some((address, preferred, valid))
}

/// The status in option 13, unless it is success. Its text may be anything, dhcproto wants UTF-8.
fn refusal(value: &[u8]) -> Option<Refusal> {
    let mut decoder = Decoder::new(value);
    let status = Status::from(decoder.read_u16().ok()?);
    let message = || String::from_utf8_lossy(decoder.buffer()).into_owned();
    (status != Status::Success).then(|| Refusal { status, message: message() })
}

fn duid(value: &[u8]) -> Option<Vec<u8>> {
    (1..=LONGEST_DUID).contains(&value.len()).then(|| value.to_vec())
}

fn servers(value: &[u8]) -> Option<Vec<Ipv6Addr>> {
    Decoder::new(value).read_ipv6s(value.len()).ok()
}

fn add(list: &mut Vec<Ipv6Addr>, more: &[Ipv6Addr]) {
    for &server in more {
        if list.len() < MOST_SERVERS && is_server(server) && !list.contains(&server) {
            list.push(server);
        }
    }
}

/// Codes and values, until one is longer than what is there.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([a, b, c, d], rest) = self.0.split_first_chunk()?;
        let length = u16::from_be_bytes([*c, *d]);
        let (value, rest) = rest.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some((u16::from_be_bytes([*a, *b]), value))
    }
}

/// What a server refuses with.
pub(super) fn words(source: Ipv6Addr, refusal: Option<&Refusal>) -> String {
    let Some(Refusal { status, message }) = refusal else {
        return format!("DHCPv6 answer from {source} without a usable address");
    };
    let said = if message.is_empty() { String::new() } else { format!(" {:?}", printable(message)) };
    let what = match status {
        Status::NoAddrsAvail => "has no address left",
        Status::NotOnLink => "says that these addresses are not for this link",
        Status::NoBinding => "does not know our addresses any more",
        Status::UseMulticast => "wants multicast, which it was sent",
        Status::NotConfigured => "has no configuration for this link",
        Status::NotAllowed => "does not serve this machine",
        _ => return format!("DHCPv6 server {source} refused (status {}){said}", u16::from(*status)),
    };
    format!("DHCPv6 server {source} {what}{said}")
}
