//! Every link down, before the next kernel starts: a card that is down sends and receives nothing.

use std::fs;

use netlink_packet_route::link::{LinkFlags, LinkHeader};
use rustix::io::Errno;

use super::netlink::Netlink;
use crate::error::printable;
use crate::paths::Paths;

/// `IFF_UP` and `IFF_LOOPBACK` of linux/if.h, as /sys/class/net/*/flags has them.
const UP: u32 = 1;
const LOOPBACK: u32 = 8;

/// Sets every link down that is up, whoever raised it. What cannot be set down is told, and stays.
pub fn lower_all(paths: &Paths) {
    let links: Vec<(String, u32)> = fs::read_dir(paths.interfaces())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter_map(|name| up(&name, paths).map(|index| (name, index)))
        .collect();
    let Ok(mut requests) = Netlink::connect() else { return };
    for (name, index) in links {
        match lower(&mut requests, index) {
            Ok(()) => log::debug!("{} is down", printable(&name)),
            Err(errno) => log::warn!("{} stays up: {errno}", printable(&name)),
        }
    }
}

/// The index of a link that is up.
fn up(name: &str, paths: &Paths) -> Option<u32> {
    let read = |what| fs::read_to_string(paths.interface(name).join(what)).ok();
    let flags = u32::from_str_radix(read("flags")?.trim().strip_prefix("0x")?, 16).ok()?;
    (flags & (UP | LOOPBACK) == UP).then(|| read("ifindex")?.trim().parse().ok())?
}

fn lower(requests: &mut Netlink, index: u32) -> Result<(), Errno> {
    let header = LinkHeader { index, change_mask: LinkFlags::Up, ..LinkHeader::default() };
    requests.change(libc::RTM_NEWLINK, 0, &header, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_that_are_up_and_no_loopback() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        for (name, flags, index) in
            [("lo", "0x9", "1"), ("eth0", "0x1003\n", "2\n"), ("eth1", "0x1002", "3"), ("bad", "up", "4")]
        {
            fs::create_dir_all(paths.interface(name)).unwrap();
            fs::write(paths.interface(name).join("flags"), flags).unwrap();
            fs::write(paths.interface(name).join("ifindex"), index).unwrap();
        }
        let found = ["lo", "eth0", "eth1", "bad", "none"].map(|name| up(name, &paths));
        assert_eq!(found, [None, Some(2), None, None, None]);
    }
}
