//! `ip=`: the kernel's fields, and dracut's shorter and longer forms of them.

use std::net::IpAddr;

use super::field::{self, Fault, fault};
use super::{Assignment, Device, Ipv6Mode, StaticAddress};

const METHODS: &str = "dhcp, on, single-dhcp, both, any, dhcp6, auto6, either6, off or none";

/// What the field for autoconfiguration asks for.
#[derive(Clone, Copy, Default)]
struct Method {
    dhcp4: bool,
    ipv6: Ipv6Mode,
}

/// Reads the value of one `ip=`.
pub(super) fn parse(text: &str) -> Result<Assignment, Fault> {
    // The kernel's way to give a client identifier, which may hold colons.
    if let Some((_, id)) = text.split_once("dhcp,")
        && id.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(fault(
            text,
            "a client identifier, which cannot be given here",
            "phase.clientid=mac or duid",
        ));
    }
    let fields = field::split(text);
    let at = |index: usize| fields.get(index).copied().unwrap_or_default();
    let first = at(0);
    let is_number = first.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'/'));
    let is_address = first.starts_with('[') || (is_number && !first.is_empty());
    if fields.len() == 1 && !is_address {
        let Method { dhcp4, ipv6 } = method(first)?;
        return Ok(Assignment { dhcp4, ipv6, ..Assignment::default() });
    }
    if let Some((mac, rest)) = mac_at(&fields, 0)
        && fields.get(rest).is_some_and(|field| is_method(field))
    {
        return of_device(Device::Mac(mac), fields.get(rest..).unwrap_or_default());
    }
    if !is_address && (!first.is_empty() || is_method(at(1))) {
        return of_device(device(first)?, fields.get(1..).unwrap_or_default());
    }
    in_full(&fields)
}

/// `DEVICE:METHOD[:MTU[:MAC]]`, without the device.
fn of_device(device: Device, fields: &[&str]) -> Result<Assignment, Fault> {
    let Method { dhcp4, ipv6 } = method(fields.first().copied().unwrap_or_default())?;
    let mut assignment = Assignment { device, dhcp4, ipv6, ..Assignment::default() };
    tail(&mut assignment, fields.get(1..).unwrap_or_default())?;
    Ok(assignment)
}

/// `CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:METHOD:...`
fn in_full(fields: &[&str]) -> Result<Assignment, Fault> {
    let at = |index: usize| fields.get(index).copied().unwrap_or_default();
    let mut assignment = Assignment { hostname: hostname(at(4))?, ..Assignment::default() };
    let mut rest = 6;
    assignment.device = match mac_at(fields, 5) {
        Some((mac, after)) => {
            rest = after;
            Device::Mac(mac)
        }
        None => device(at(5))?,
    };
    let word = fields.get(rest).copied().unwrap_or_default();
    let address = own_address(at(0), at(1), at(2), at(3))?;
    // The kernel's default is any; where all is given, nothing is asked for.
    let Method { dhcp4, ipv6 } = match (word, address) {
        ("", Some(_)) => Method::default(),
        ("", None) => Method { dhcp4: true, ipv6: Ipv6Mode::Auto },
        _ => method(word)?,
    };
    assignment.dhcp4 = dhcp4;
    assignment.ipv6 = ipv6;
    if let Some(address) = address {
        let asks = if address.address.is_ipv4() { dhcp4 } else { ipv6 != Ipv6Mode::Off };
        if asks {
            return Err(fault(word, "a request for an address beside one that is given", "off or none"));
        }
        assignment.addresses.push(address);
    }
    tail(&mut assignment, fields.get(rest.saturating_add(1)..).unwrap_or_default())?;
    Ok(assignment)
}

/// The first four fields.
fn own_address(
    client: &str,
    server: &str,
    gateway: &str,
    netmask: &str,
) -> Result<Option<StaticAddress>, Fault> {
    let gateway_given = field::optional(gateway)?;
    // The kernel's NFS server, or dracut's other end of the link.
    let (server_given, server_prefix) = match server {
        "" | "0.0.0.0" => (None, None),
        _ => {
            let (address, prefix) = field::network(server)?;
            if !field::is_host(address) {
                return Err(fault(server, "no address of a machine", "a unicast address"));
            }
            (Some(address), prefix)
        }
    };
    if matches!(client, "" | "0.0.0.0") {
        // Without an address DHCP brings the rest.
        return if gateway_given.is_none() && matches!(netmask, "" | "0.0.0.0") && server_prefix.is_none() {
            Ok(None)
        } else {
            Err(fault(
                "a gateway, netmask or peer",
                "given without an address",
                "an address in the first field",
            ))
        };
    }
    let (address, own_prefix) = field::network(client)?;
    if address.is_loopback() || !field::is_host(address) {
        return Err(fault(client, "no address of a machine", "a unicast address"));
    }
    let mut prefix = match (own_prefix, netmask) {
        (Some(prefix), "" | "0.0.0.0") => prefix,
        (Some(_), _) => {
            return Err(fault(netmask, "a second netmask", "one, behind the address or in its field"));
        }
        (None, "" | "0.0.0.0") => class_prefix(address)
            .ok_or_else(|| fault(client, "an address without a netmask", "a netmask or prefix length"))?,
        (None, mask) => field::prefix(mask, address)?,
    };
    let full = if address.is_ipv4() { 32 } else { 128 };
    let mut peer = None;
    if server_prefix.is_some() || prefix == full {
        peer = server_given;
        prefix = server_prefix.unwrap_or(prefix);
    }
    if prefix == 0 {
        return Err(fault(netmask, "no netmask for an address", "a prefix length of 1 or more"));
    }
    if server_given.into_iter().chain(gateway_given).any(|other| other.is_ipv4() != address.is_ipv4()) {
        return Err(fault("a mix of IPv4 and IPv6", "in one ip=", "one ip= for each"));
    }
    if is_link_local(address) {
        return Err(fault(
            client,
            "link-local, and no provider is to be reached from it",
            "a global address",
        ));
    }
    for (text, other) in [(client, Some(address)), (gateway, gateway_given)] {
        if peer.is_none() && other.is_some_and(|other| !field::is_host_in(other, prefix)) {
            return Err(fault(
                text,
                "no address of a machine in its network",
                "neither the first nor the last",
            ));
        }
    }
    if peer == Some(address) || gateway_given == Some(address) {
        return Err(fault(client, "both the machine's own address and another's", "two addresses"));
    }
    if let Some(other) = gateway_given
        && peer != Some(other)
        && prefix != full
        && !is_link_local(other)
        && field::masked(other, prefix) != field::masked(peer.unwrap_or(address), prefix)
    {
        return Err(fault(gateway, "no gateway on this link", "one within the network of the address"));
    }
    Ok(Some(StaticAddress { address, prefix, gateway: gateway_given, peer }))
}

/// fe80::/10
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The prefix length that an address has by its class, as in ic_defaults() of net/ipv4/ipconfig.c; an
/// IPv6 network has 64 bits.
fn class_prefix(address: IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [0..=127, ..] => Some(8),
            [128..=191, ..] => Some(16),
            [192..=223, ..] => Some(24),
            _ => None,
        },
        IpAddr::V6(_) => Some(64),
    }
}

/// What follows the method: `DNS:DNS:NTP` or `MTU:MAC`; each may be empty or missing.
fn tail(assignment: &mut Assignment, fields: &[&str]) -> Result<(), Fault> {
    let at = |index: usize| fields.get(index).copied().unwrap_or_default();
    let first = at(0);
    let is_mtu = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
    let used = if is_mtu || first.is_empty() && mac_at(fields, 1).is_some() {
        assignment.mtu = field::mtu(first)?;
        match mac_at(fields, 1) {
            Some((mac, after)) => {
                assignment.mac = Some(mac);
                after
            }
            None if at(1).is_empty() => 2,
            None => return Err(field::mac(at(1)).err().unwrap_or_else(|| extra(at(1)))),
        }
    } else {
        for server in [first, at(1)] {
            if let Some(found) = field::optional(server)? {
                field::add(&mut assignment.dns, found, server)?;
            }
        }
        assignment.ntp.extend(field::optional(at(2))?);
        3
    };
    match fields.iter().skip(used).find(|field| !field.is_empty()) {
        Some(field) => Err(extra(field)),
        None => Ok(()),
    }
}

fn extra(field: &str) -> Fault {
    fault(field, "one field too many", "an MTU and a hardware address, or two DNS servers and an NTP server")
}

/// A hardware address in the field at `index` or, with colons, in six of them; and where the next field is.
fn mac_at(fields: &[&str], index: usize) -> Option<([u8; 6], usize)> {
    let one = index.checked_add(1)?;
    if let Ok(mac) = field::mac(fields.get(index)?) {
        return Some((mac, one));
    }
    let six = index.checked_add(6)?;
    let bytes = fields.get(index..six).filter(|six| six.iter().all(|field| field.len() == 2))?;
    field::mac(&bytes.join(":")).ok().map(|mac| (mac, six))
}

/// Which link is meant: by its name, or by its hardware address, which systemd puts behind `enx`.
pub(super) fn device(text: &str) -> Result<Device, Fault> {
    if text.is_empty() {
        return Ok(Device::Any);
    }
    if let Ok(mac) = field::mac(text) {
        return Ok(Device::Mac(mac));
    }
    if let Some(mac) = text.strip_prefix("enx").and_then(field::plain_mac) {
        return Ok(Device::Mac(mac));
    }
    field::interface(text).map(Device::Name)
}

/// The value of `bootdev=`.
pub(super) fn named(text: &str) -> Result<Device, Fault> {
    if text.is_empty() { Err(fault(text, "no link", "the name of one")) } else { device(text) }
}

/// HOST_NAME_MAX of linux/limits.h
const LONGEST_HOSTNAME: usize = 64;

/// RFC 1123, section 2.1; underscores are met too.
fn hostname(text: &str) -> Result<Option<String>, Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > LONGEST_HOSTNAME || !text.bytes().all(fits) || text.starts_with(['-', '.']) {
        return Err(fault(text, "no host name", "at most 64 letters, digits, '-' and '.'"));
    }
    Ok(Some(text.to_owned()))
}

fn is_method(text: &str) -> bool {
    let first = text.split(',').next().unwrap_or_default();
    one_method(first).is_some() || UNSUPPORTED.contains(&first)
}

/// What others know and this does not.
const UNSUPPORTED: &[&str] = &["bootp", "rarp", "ibft", "fw", "link6", "link-local", "link-ng", "auto"];

fn one_method(word: &str) -> Option<Method> {
    let (dhcp4, ipv6) = match word {
        "dhcp" | "on" | "single-dhcp" | "both" => (true, Ipv6Mode::Off),
        "any" => (true, Ipv6Mode::Auto),
        "auto6" => (false, Ipv6Mode::Auto),
        "either6" => (false, Ipv6Mode::Either),
        "dhcp6" => (false, Ipv6Mode::Dhcp),
        "off" | "none" => (false, Ipv6Mode::Off),
        _ => return None,
    };
    Some(Method { dhcp4, ipv6 })
}

/// One method, or several with commas between them.
fn method(text: &str) -> Result<Method, Fault> {
    let mut all = Method::default();
    for word in text.split(',') {
        let found = one_method(word).ok_or_else(|| {
            let wrong =
                if UNSUPPORTED.contains(&word) { "not supported" } else { "no way to get an address" };
            fault(word, wrong, METHODS)
        })?;
        if text != word && !found.dhcp4 && found.ipv6 == Ipv6Mode::Off {
            return Err(fault(text, "a contradiction", "off or none alone"));
        }
        all.dhcp4 |= found.dhcp4;
        all.ipv6 = all.ipv6.max(found.ipv6);
    }
    Ok(all)
}
