//! `rd.route=NET/PREFIX:GATEWAY[:DEVICE]`

use super::GivenRoute;
use super::field::{self, Fault, fault};
use super::ip::is_link_local;

pub(super) fn parse(text: &str) -> Result<GivenRoute, Fault> {
    const FORM: &str = "NET/PREFIX:GATEWAY, NET/PREFIX:GATEWAY:DEVICE or NET/PREFIX::DEVICE";
    let fields = field::split(text);
    let (net, gateway, device) = match *fields {
        [net, gateway] => (net, gateway, ""),
        [net, gateway, device] => (net, gateway, device),
        _ => return Err(fault(text, "no route", FORM)),
    };
    let (address, prefix) = field::network(net)?;
    let prefix = prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
    let gateway_given = if gateway.is_empty() { None } else { Some(field::host(gateway)?) };
    let device = if device.is_empty() { None } else { Some(field::interface(device)?) };
    match gateway_given {
        Some(gateway) if gateway.is_ipv4() != address.is_ipv4() => {
            return Err(fault(text, "an IPv4 and an IPv6 address in one route", FORM));
        }
        Some(gateway) if device.is_none() && is_link_local(gateway) => {
            return Err(fault(text, "a gateway on no certain link", "a device behind it"));
        }
        None if device.is_none() => return Err(fault(text, "no route", FORM)),
        _ => {}
    }
    let destination = field::masked(address, prefix);
    Ok(GivenRoute { destination, prefix, gateway: gateway_given, device })
}
