//! The client's messages: RFC 8415, section 16, and the options of RFC 5970 for what boots.

use std::net::Ipv6Addr;

use dhcproto::v6::{
    Architecture, DhcpOption, DhcpOptions, Encodable, Encoder, IAAddr, IANA, MessageType, ORO, OptionCode,
    UnknownOption,
};

use super::Device6;
use crate::arch::Arch;
use crate::net::identity::{self, UNDI};

/// What servers are asked for. 31 is for those that do not know 56, 82 is a must: RFC 8415, section 21.7.
const WANTED: [OptionCode; 7] = [
    OptionCode::DomainNameServers,
    OptionCode::DomainSearchList,
    OptionCode::SntpServers,
    OptionCode::NtpServer,
    OptionCode::OptBootfileUrl,
    OptionCode::OptBootfileParam,
    OptionCode::SolMaxRt,
];

/// What goes only into an Information-Request: RFC 8415, section 18.2.6.
const WANTED_ALONE: [OptionCode; 2] = [OptionCode::InformationRefreshTime, OptionCode::InfMaxRt];

/// The number of Intel, under which UEFI's clients send their class: edk2,
/// NetworkPkg/HttpBootDxe/HttpBootDhcp6.h (HTTP_BOOT_DHCP6_ENTERPRISE_NUM).
const ENTERPRISE: u32 = 343;

/// The server updates the AAAA record: flag S of RFC 4704, section 4.1.
const SERVER_UPDATES: u8 = 1;

/// What changes from one message to the next.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: MessageType,
    /// 24 bits.
    pub(super) xid: u32,
    pub(super) server: Option<&'a [u8]>,
    /// The IA_NA: its number and the addresses it names. None asks for no address.
    pub(super) association: Option<(u32, Vec<Ipv6Addr>)>,
    /// Whether the server may grant at once: RFC 8415, section 21.14.
    pub(super) rapid_commit: bool,
    /// Since the first message of the exchange, in hundredths of a second.
    pub(super) elapsed: u16,
}

impl Message<'_> {
    /// The whole UDP payload. None if a device has a DUID or name that fits into no message.
    pub(super) fn encode(self, device: &Device6) -> Option<Vec<u8>> {
        let [_, x, y, z] = self.xid.to_be_bytes();
        let mut packet = vec![self.kind.into(), x, y, z];
        let mut options = DhcpOptions::new();
        options.insert(DhcpOption::ClientId(device.duid.clone()));
        options.insert(DhcpOption::ElapsedTime(self.elapsed));
        if let Some(server) = self.server {
            options.insert(DhcpOption::ServerId(server.to_vec()));
        }
        if let Some((id, addresses)) = self.association {
            let address = |addr| {
                DhcpOption::IAAddr(IAAddr {
                    addr,
                    preferred_life: 0,
                    valid_life: 0,
                    opts: DhcpOptions::new(),
                })
            };
            let opts = addresses.into_iter().map(address).collect();
            options.insert(DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts }));
        }
        if self.rapid_commit {
            options.insert(DhcpOption::RapidCommit);
        }
        if !matches!(self.kind, MessageType::Release | MessageType::Decline) {
            let mut opts = WANTED.to_vec();
            if self.kind == MessageType::InformationRequest {
                opts.extend(WANTED_ALONE);
            }
            options.insert(DhcpOption::ORO(ORO { opts }));
            let arch = Architecture(identity::architecture(device.arch));
            options.insert(DhcpOption::ClientArchType(vec![arch]));
            options.insert(other(OptionCode::Nii, vec![UNDI.0, UNDI.1, UNDI.2]));
            options.insert(other(OptionCode::VendorClass, vendor_class(device.arch)?));
            if let Some(name) = device.hostname.as_deref().and_then(fqdn) {
                options.insert(other(OptionCode::ClientFqdn, name));
            }
        }
        let mut tail = Vec::new();
        options.encode(&mut Encoder::new(&mut tail)).ok()?;
        packet.append(&mut tail);
        Some(packet)
    }
}

/// Option 16 as UEFI's HTTP boot sends it: edk2, HttpBootDhcp6.c. dhcproto counts its length wrongly.
fn vendor_class(arch: Arch) -> Option<Vec<u8>> {
    let class = identity::vendor_class(arch);
    let length = u16::try_from(class.len()).ok()?;
    Some([&ENTERPRISE.to_be_bytes(), length.to_be_bytes().as_slice(), class.as_bytes()].concat())
}

/// Option 39. A name without a dot is one that the server completes: RFC 4704, section 4.2.
fn fqdn(name: &str) -> Option<Vec<u8>> {
    let mut value = vec![SERVER_UPDATES];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        value.push(length);
        value.extend_from_slice(label.as_bytes());
    }
    if name.contains('.') {
        value.push(0);
    }
    (value.len() <= 256).then_some(value)
}

fn other(code: OptionCode, value: Vec<u8>) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(code, value))
}
