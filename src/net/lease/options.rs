//! The options of a message, as far as they are understood: option overload (RFC 2131, section 4.1),
//! options in pieces (RFC 3396). A faulty one spoils no other.

use dhcproto::v4::{Decodable, Decoder, DhcpOption, OptionCode};

use crate::net::dhcp4::WANTED;

/// Where a BOOTP header has its `sname`, `file`, magic cookie and options: RFC 2131, section 2.
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
pub(super) const COOKIE: std::ops::Range<usize> = 236..240;
pub(super) const HEADER: usize = 240;

/// What a message holds besides the fixed fields of its header.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) options: Vec<DhcpOption>,
    /// Option 80, empty as it must be: RFC 4039, section 4.
    pub(super) rapid_commit: bool,
    /// Option 121 is there, whatever of it can be read.
    pub(super) classless: bool,
    /// The header's fields of these names, unless they hold options.
    pub(super) file: Option<Vec<u8>>,
    pub(super) sname: Option<Vec<u8>>,
}

impl Content {
    pub(super) fn of(packet: &[u8]) -> Self {
        let mut found = Vec::new();
        collect(packet.get(HEADER..).unwrap_or_default(), &mut found);
        let overload =
            value_of(&found, OptionCode::OptionOverload).and_then(<[u8]>::first).copied().unwrap_or(0);
        let mut content = Self::default();
        // The order of RFC 3396, section 5: options, then file, then sname.
        for (bit, area, field) in [(1, FILE, &mut content.file), (2, SNAME, &mut content.sname)] {
            let area = packet.get(area).unwrap_or_default();
            if overload & bit != 0 {
                collect(area, &mut found);
            } else {
                *field = Some(area.to_vec());
            }
        }
        content.rapid_commit = value_of(&found, OptionCode::RapidCommit).is_some_and(<[u8]>::is_empty);
        // The decoder asserts that option 80 is empty.
        found.retain(|(code, _)| OptionCode::from(*code) != OptionCode::RapidCommit);
        content.classless = value_of(&found, OptionCode::ClasslessStaticRoute).is_some();
        content.options = found.iter().filter_map(|(code, value)| decode(*code, value)).collect();
        content
    }
}

fn value_of(found: &[(u8, Vec<u8>)], code: OptionCode) -> Option<&[u8]> {
    let code = u8::from(code);
    found.iter().find(|(found, _)| *found == code).map(|(_, value)| value.as_slice())
}

/// Adds the options of one area; one that comes again continues the first (RFC 3396), unless that is whole:
/// some servers and relays say the same twice.
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
                    Some((_, whole)) if fixed_length(known) == Some(whole.len()) => {}
                    Some((_, whole)) => whole.extend_from_slice(value),
                    None => found.push((*code, value.to_vec())),
                }
            }
        }
    }
}

/// Of options that are one number or address, in bytes: RFC 2132.
fn fixed_length(code: OptionCode) -> Option<usize> {
    match code {
        OptionCode::OptionOverload | OptionCode::MessageType => Some(1),
        OptionCode::InterfaceMtu => Some(2),
        OptionCode::SubnetMask
        | OptionCode::BroadcastAddr
        | OptionCode::AddressLeaseTime
        | OptionCode::ServerIdentifier
        | OptionCode::Renewal
        | OptionCode::Rebinding => Some(4),
        _ => None,
    }
}

/// Anything else never reaches the decoder.
fn understood(code: OptionCode) -> bool {
    WANTED.contains(&code)
        || matches!(
            code,
            OptionCode::MessageType
                | OptionCode::Message
                | OptionCode::OptionOverload
                | OptionCode::RapidCommit
        )
}

/// The entries of option 121 up to the first that is broken, for which the decoder would refuse all:
/// RFC 3442.
fn whole_routes(value: &[u8]) -> &[u8] {
    let mut whole = 0;
    // The length of a prefix in bits, as many bytes as have these, and a gateway.
    while let Some(bits) = value.get(whole).filter(|&&bits| bits <= 32) {
        let next = whole + 5 + usize::from(bits.div_ceil(8));
        if next > value.len() {
            break;
        }
        whole = next;
    }
    value.get(..whole).unwrap_or_default()
}

fn decode(code: u8, mut value: &[u8]) -> Option<DhcpOption> {
    if code == u8::from(OptionCode::ClasslessStaticRoute) {
        value = whole_routes(value);
    }
    let mut bytes = Vec::with_capacity(value.len() + 2);
    for part in value.chunks(usize::from(u8::MAX)) {
        bytes.extend([code, u8::try_from(part.len()).ok()?]);
        bytes.extend_from_slice(part);
    }
    DhcpOption::decode(&mut Decoder::new(&bytes)).ok()
}
