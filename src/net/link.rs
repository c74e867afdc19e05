//! What the kernel says of a network device: RTM_NEWLINK of rtnetlink(7).
//!
//! The fixed header is read by netlink-packet-route. The attributes are walked here: that crate
//! refuses a whole message for one attribute that a newer kernel made longer, and carries a parser
//! for every attribute there is.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkLayerType};

use super::lease::Mac;

/// `struct ifinfomsg` of linux/rtnetlink.h.
const HEADER: usize = 16;

/// One network device. What a message did not mention is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) flags: Flags,
    pub(super) name: Option<String>,
    pub(super) mac: Option<[u8; 6]>,
    /// In bytes.
    pub(super) mtu: Option<u32>,
    /// In bytes; 0 if the driver does not say.
    pub(super) largest_mtu: Option<u32>,
    /// The bridge, bond or other device that this one belongs to.
    pub(super) master: Option<u32>,
    /// The kind of a device that software made: `dummy`, `bridge`, `veth`. Drivers of cards have none.
    pub(super) kind: Option<String>,
    /// How the kernel is set for it, IPv4 and IPv6: `IFLA_INET_CONF` and `IFLA_INET6_CONF` of linux/if_link.h.
    conf: [Vec<i32>; 2],
}

/// Settings of a link under /proc/sys/net, and where they are in the kernel's message: `IPV4_DEVCONF_*` of
/// linux/ip.h, less one, and `DEVCONF_*` of linux/ipv6.h.
const CONF: [&[(&str, usize)]; 2] = [
    &[("rp_filter", 7), ("arp_announce", 17), ("arp_ignore", 18)],
    &[
        ("accept_ra", 3),
        ("autoconf", 5),
        ("dad_transmits", 6),
        ("router_solicitations", 7),
        ("router_solicitation_interval", 8),
        ("router_solicitation_delay", 9),
        ("use_tempaddr", 10),
        ("optimistic_dad", 23),
        ("disable_ipv6", 26),
        ("use_oif_addrs_only", 37),
        ("router_solicitation_max_interval", 43),
    ],
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) ethernet: bool,
    pub(super) loopback: bool,
    pub(super) up: bool,
    /// The cable is in. A packet that is sent now may still be lost: the queues start a little later.
    pub(super) carrier: bool,
    /// The queues run. The kernel may take a second to say so.
    pub(super) running: bool,
}

impl Link {
    /// Reads the payload of an RTM_NEWLINK or RTM_DELLINK message about a device. None if it is
    /// malformed, or about a bridge port.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let header = LinkHeader::parse(payload).ok()?;
        if header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let carrier = LinkFlags::Up | LinkFlags::LowerUp;
        let mut link = Self {
            index: header.index,
            flags: Flags {
                ethernet: header.link_layer_type == LinkLayerType::Ether,
                loopback: header.flags.contains(LinkFlags::Loopback),
                up: header.flags.contains(LinkFlags::Up),
                carrier: header.flags.contains(carrier),
                running: header.flags.contains(carrier | LinkFlags::Running),
            },
            ..Self::default()
        };
        for attribute in NlasIterator::new(payload.get(HEADER..)?).map_while(Result::ok) {
            let value = attribute.value();
            match attribute.kind() {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                libc::IFLA_MTU => link.mtu = number(value),
                libc::IFLA_MAX_MTU => link.largest_mtu = number(value),
                libc::IFLA_MASTER => link.master = number(value),
                libc::IFLA_LINKINFO => {
                    link.kind = inner(value, libc::IFLA_INFO_KIND).and_then(|kind| text(&kind));
                }
                libc::IFLA_AF_SPEC => {
                    link.conf = [(libc::AF_INET, 1), (libc::AF_INET6, 2)].map(|(family, conf)| {
                        let values = u16::try_from(family).ok().and_then(|family| inner(value, family));
                        let values = values.and_then(|values| inner(&values, conf)).unwrap_or_default();
                        values.chunks_exact(4).filter_map(number).map(u32::cast_signed).collect()
                    });
                }
                _ => {}
            }
        }
        Some(link)
    }

    /// Takes over what a later message about the same device says.
    pub(super) fn update(&mut self, later: Self) {
        self.flags = later.flags;
        self.master = later.master;
        self.name = later.name.or(self.name.take());
        self.mac = later.mac.or(self.mac);
        self.mtu = later.mtu.or(self.mtu);
        self.largest_mtu = later.largest_mtu.or(self.largest_mtu);
        self.kind = later.kind.or(self.kind.take());
        if later.conf.iter().any(|conf| !conf.is_empty()) {
            self.conf = later.conf;
        }
    }

    /// A setting, as the file `name` of the link under /proc/sys/net/ipv4/conf or net/ipv6/conf has it. None
    /// if the kernel has not told it.
    pub(super) fn setting(&self, name: &str) -> Option<i32> {
        let of = |(known, conf): (&&[(&str, usize)], &Vec<i32>)| {
            let (_, place) = known.iter().find(|(known, _)| *known == name)?;
            conf.get(*place).copied()
        };
        let value = CONF.iter().zip(&self.conf).find_map(of)?;
        // Milliseconds here, seconds there.
        Some(if name.starts_with("router_solicitation_") { value / 1000 } else { value })
    }

    /// The names of all settings that can be told, each with 0 for IPv4 or 1 for IPv6.
    #[cfg(test)]
    pub(super) fn settings() -> impl Iterator<Item = (usize, &'static str)> {
        CONF.iter().enumerate().flat_map(|(room, known)| known.iter().map(move |(name, _)| (room, *name)))
    }

    /// For messages.
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("?")
    }

    /// Whether it is an Ethernet card (or a container's or switch chip's end of a pair) that belongs to
    /// no other device.
    pub(super) fn is_card(&self) -> bool {
        let own = matches!(self.kind.as_deref(), None | Some("veth" | "dsa")) && self.master.is_none();
        own && self.flags.ethernet && self.mac.is_some()
    }

    /// The largest MTU of the device, in bytes; what it has now if the driver does not say.
    pub(super) fn mtu_limit(&self) -> u16 {
        let limit = self.largest_mtu.filter(|&most| most > 0).or(self.mtu).unwrap_or(1500);
        u16::try_from(limit).unwrap_or(u16::MAX)
    }

    /// One line for the log.
    pub(super) fn describe(&self) -> String {
        let mac = self.mac.map_or_else(String::new, |mac| format!(", {}", Mac(mac)));
        format!("{} (number {}{mac})", self.name(), self.index)
    }
}

/// The value of an attribute within another.
fn inner(value: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut nested = NlasIterator::new(value).map_while(Result::ok);
    nested.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn text(value: &[u8]) -> Option<String> {
    let text = value.split(|&byte| byte == 0).next()?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RTM_NEWLINK: index 2, Ethernet, the given flags, then attributes (kind, value).
    fn message(flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 1, 0, 2, 0, 0, 0];
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        for (kind, value) in attributes {
            bytes.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    const UP: u32 = 0x1;
    const RUNNING: u32 = 0x40;
    const LOWER_UP: u32 = 0x1_0000;

    fn eth0(extra: &[(u16, &[u8])]) -> Link {
        let mut attributes: Vec<(u16, &[u8])> =
            vec![(3, b"eth0\0"), (1, &[0x52, 0x54, 0, 0, 0, 1]), (4, &[0xdc, 5, 0, 0])];
        attributes.extend(extra);
        Link::parse(&message(UP | RUNNING | LOWER_UP, &attributes)).unwrap()
    }

    #[test]
    fn a_card_with_carrier() {
        let link = eth0(&[]);
        assert_eq!(link.name(), "eth0");
        assert_eq!(link.mac, Some([0x52, 0x54, 0, 0, 0, 1]));
        assert!(link.flags.ethernet && link.flags.up && link.flags.carrier && !link.flags.loopback);
        assert_eq!(link.mtu_limit(), 1500);
        assert!(link.is_card());
    }

    #[test]
    fn carrier_comes_before_the_queues_run() {
        for (flags, carrier, running) in [
            (UP, false, false),
            (LOWER_UP | RUNNING, false, false),
            (UP | LOWER_UP, true, false),
            (UP | LOWER_UP | RUNNING, true, true),
        ] {
            let found = Link::parse(&message(flags, &[])).unwrap().flags;
            assert_eq!((found.carrier, found.running), (carrier, running), "{flags:#x}");
        }
    }

    #[test]
    fn software_devices_are_no_cards() {
        // IFLA_LINKINFO { IFLA_INFO_KIND = "dummy" }
        let dummy = eth0(&[(18, b"\x0a\0\x01\0dummy\0\0\0")]);
        assert_eq!(dummy.kind.as_deref(), Some("dummy"));
        assert!(!dummy.is_card());
        let in_a_bridge = eth0(&[(10, &[7, 0, 0, 0])]);
        assert!(!in_a_bridge.is_card());
    }

    #[test]
    fn an_event_without_attributes_keeps_what_is_known() {
        let mut link = eth0(&[(51, &[0x28, 0x23, 0, 0])]);
        link.update(Link::parse(&message(UP, &[])).unwrap());
        assert_eq!((link.name(), link.mtu_limit(), link.flags.carrier), ("eth0", 9000, false));
    }

    #[test]
    fn settings_are_those_of_the_message_that_told_them_last() {
        let nested = |kind: u16, value: &[u8]| {
            let length = u16::try_from(value.len() + 4).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        let conf = |values: &[i32]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
        let inet6 = conf(&[0, 64, 1500, 2, 1, 1, 1, -1, 4000, 1999]);
        let of4 = nested(2, &nested(1, &conf(&[0, 0, 0, 0, 0, 0, 0, 2])));
        let both = [of4.clone(), nested(10, &nested(2, &inet6))].concat();
        let mut link = Link::parse(&message(0, &[(26, &both)])).unwrap();
        let told = |link: &Link| {
            ["rp_filter", "accept_ra", "router_solicitations", "router_solicitation_interval"]
                .map(|name| link.setting(name))
        };
        assert_eq!(told(&link), [Some(2), Some(2), Some(-1), Some(4)]);
        assert_eq!(link.setting("router_solicitation_delay"), Some(1));
        // Not told, and not known.
        assert_eq!([link.setting("arp_ignore"), link.setting("forwarding")], [None, None]);
        link.update(Link::parse(&message(0, &[])).unwrap());
        assert_eq!(told(&link)[0], Some(2));
        link.update(Link::parse(&message(0, &[(26, &of4[..of4.len() - 1])])).unwrap());
        assert_eq!(told(&link)[0], Some(2), "cut short");
        link.update(Link::parse(&message(0, &[(26, &of4)])).unwrap());
        assert_eq!(told(&link), [Some(2), None, None, None]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Link::parse(&bytes);
        }
    }
}
