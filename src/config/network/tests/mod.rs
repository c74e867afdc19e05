//! What is accepted of nfsroot.rst and of dracut.cmdline(7), line by line, and what is refused.

mod bounds;
mod devices;
mod dracut;
mod links;
mod nfsroot;
mod refused;

use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn given(line: &str) -> Given {
    Given::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The one `ip=` of a line.
fn ip(line: &str) -> Assignment {
    let mut assignments = given(line).assignments;
    assert_eq!(assignments.len(), 1, "{line}");
    assignments.remove(0)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn fixed(text: &str, prefix: u8, gateway: Option<&str>) -> StaticAddress {
    StaticAddress { address: address(text), prefix, gateway: gateway.map(address), peer: None }
}

fn named(name: &str) -> Device {
    Device::Name(name.to_owned())
}

fn dhcp() -> Assignment {
    Assignment { dhcp4: true, ..Assignment::default() }
}
