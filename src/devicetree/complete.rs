//! A tree from a file as firmware would have completed it.
//!
//! A published tree describes a kind of machine. What is true of one machine only (its memory, what
//! firmware keeps of it, its addresses) the boot loader writes into it: U-Boot's image_setup_libfdt()
//! does so. Here the running kernel's tree has all that already, and the other gets it from there.

use std::borrow::Cow;

use super::Error;
use super::blob::{Blob, Property};
use super::chosen;
use super::node::{Node, cells};

/// How many cells of 32 bits an address and a size take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cells {
    address: usize,
    size: usize,
}

impl Cells {
    /// Those of a root's children: early_init_dt_scan_root() of drivers/of/fdt.c takes 1 where nothing
    /// is said.
    fn of(root: &Node<'_>) -> Option<Self> {
        let count = |name: &[u8]| match root.get(name).map(chosen::number) {
            None => Some(1),
            Some(Some(count @ 1..=2)) => usize::try_from(count).ok(),
            Some(_) => None,
        };
        Some(Self { address: count(b"#address-cells")?, size: count(b"#size-cells")? })
    }

    /// The addresses and sizes of a `reg`. None if it is not made of whole pairs.
    fn read(self, reg: &[u8]) -> Option<Vec<(u64, u64)>> {
        let pairs = reg.chunks_exact((self.address + self.size) * 4);
        let whole = pairs.remainder().is_empty();
        let pair = |pair: &[u8]| {
            let (address, size) = pair.split_at_checked(self.address * 4)?;
            Some((chosen::number(address)?, chosen::number(size)?))
        };
        whole.then(|| pairs.map(pair).collect()).flatten()
    }

    /// A `reg` of them. None if a number takes more cells than there are.
    fn write(self, pairs: &[(u64, u64)]) -> Option<Vec<u8>> {
        let mut reg = Vec::new();
        for &(address, size) in pairs {
            for (number, count) in [(address, self.address), (size, self.size)] {
                match count {
                    1 => reg.extend_from_slice(&u32::try_from(number).ok()?.to_be_bytes()),
                    _ => reg.extend_from_slice(&number.to_be_bytes()),
                }
            }
        }
        Some(reg)
    }
}

/// Completes the tree `given` with what firmware wrote into the `running` one:
///
/// - its memory nodes, where the given tree tells no size of memory;
/// - its memory reservations, and the regions of `/reserved-memory` that must not be mapped;
/// - under UEFI, where the next kernel finds system table and memory map;
/// - the serial number, and Ethernet addresses by alias, where the given tree has none.
pub fn complete(given: &[u8], running: &[u8]) -> Result<Vec<u8>, Error> {
    let mut blob = Blob::parse(given)?;
    let mut old = Blob::parse(running)?;
    chosen::drop_old_reservations(&mut old);
    for entry in &old.reservations {
        let range = entry.address..entry.address.saturating_add(entry.size);
        blob.reserve(std::slice::from_ref(&range));
    }
    let mut root = Node::root(std::mem::take(&mut blob.tokens));
    let old = Node::root(old.tokens);
    uefi(&mut root, &old);
    let from = Cells::of(&old).ok_or(Error::Cells { what: "the running tree" })?;
    let to = Cells::of(&root).ok_or(Error::Cells { what: "the given tree" })?;
    let convert = |reg: &[u8], what| {
        from.read(reg).and_then(|pairs| to.write(&pairs)).map(Cow::Owned).ok_or(Error::Cells { what })
    };
    memory(&mut root, &old, to, convert)?;
    reserved_memory(&mut root, &old, to, convert)?;
    if let (None, Some(number)) = (root.get(SERIAL), property(&old, SERIAL)) {
        root.properties.push(number.clone());
    }
    ethernet(&mut root, &old);
    root.into_tokens(&mut blob.tokens);
    Ok(blob.write())
}

/// What people read off the machine's label.
const SERIAL: &[u8] = b"serial-number";

fn property<'b, 'a>(node: &'b Node<'a>, name: &[u8]) -> Option<&'b Property<'a>> {
    node.properties.iter().find(|property| property.name == name)
}

fn is_phandle(property: &Property<'_>) -> bool {
    matches!(property.name, b"phandle" | b"linux,phandle")
}

/// What the running kernel was told of UEFI, and nothing that another was told.
fn uefi<'a>(root: &mut Node<'a>, old: &Node<'a>) {
    let is_uefi = |property: &Property<'_>| property.name.starts_with(b"linux,uefi-");
    let told = old.child(chosen::is_chosen).into_iter().flat_map(|node| &node.properties);
    if let Some(node) = root.child_mut(b"chosen", chosen::is_chosen) {
        node.properties.retain(|property| !is_uefi(property));
        node.properties.extend(told.filter(|property| is_uefi(property)).cloned());
    }
}

fn is_memory(node: &Node<'_>) -> bool {
    node.get(b"device_type") == Some(b"memory\0")
        || node.name == b"memory"
        || node.name.starts_with(b"memory@")
}

fn memory<'a>(
    root: &mut Node<'a>,
    old: &Node<'a>,
    to: Cells,
    convert: impl Fn(&[u8], &'static str) -> Result<Cow<'a, [u8]>, Error>,
) -> Result<(), Error> {
    let told = |node: &Node<'_>| {
        let pairs = node.get(b"reg").and_then(|reg| to.read(reg)).unwrap_or_default();
        is_memory(node) && pairs.iter().any(|&(_, size)| size > 0)
    };
    if root.children.iter().any(told) {
        return Ok(());
    }
    root.children.retain(|node| !is_memory(node));
    let before = root.children.len();
    for node in old.children.iter().filter(|node| is_memory(node)) {
        let mut node = node.clone();
        node.properties.retain(|property| !is_phandle(property));
        if let Some(reg) = node.get(b"reg") {
            let reg = convert(reg, "the memory")?;
            node.set(b"reg", reg);
        }
        root.children.push(node);
    }
    // Under UEFI its memory map tells, and the running tree has no such node.
    let uefi = root.child(chosen::is_chosen).and_then(|node| node.get(b"linux,uefi-mmap-start"));
    if root.children.len() == before && uefi.is_none() {
        return Err(Error::NoMemory);
    }
    Ok(())
}

/// Speculation into such a region is an error on some machines, so a memory reservation, which stays
/// mapped, is not enough: Documentation/devicetree/bindings/reserved-memory/reserved-memory.yaml of
/// dt-schema.
fn reserved_memory<'a>(
    root: &mut Node<'a>,
    old: &Node<'a>,
    to: Cells,
    convert: impl Fn(&[u8], &'static str) -> Result<Cow<'a, [u8]>, Error>,
) -> Result<(), Error> {
    const NAME: &[u8] = b"reserved-memory";
    let Some(old) = old.child(|name| name == NAME) else { return Ok(()) };
    for node in &old.children {
        let enabled = node.get(b"status").is_none_or(|status| status.starts_with(b"ok"));
        let Some(reg) = node.get(b"reg").filter(|_| enabled && node.get(b"no-map").is_some()) else {
            continue;
        };
        let reg = convert(reg, "/reserved-memory")?;
        let is_there = |have: &Node<'_>| have.name == node.name || have.get(b"reg") == Some(reg.as_ref());
        let Some(into) = root.child_mut(NAME, |name| name == NAME) else { continue };
        if into.properties.is_empty() {
            // The kernel wants the root's own cells here, and to be told that addresses are the root's.
            for (name, count) in [(&b"#address-cells"[..], to.address), (b"#size-cells", to.size)] {
                into.set(name, cells(if count == 1 { 1 } else { 2 }));
            }
            into.set(b"ranges", Cow::Borrowed(&[]));
        }
        if !into.children.iter().any(is_there) {
            let mut new = Node { name: node.name, ..Node::default() };
            new.set(b"reg", reg);
            new.set(b"no-map", Cow::Borrowed(&[]));
            into.children.push(new);
        }
    }
    Ok(())
}

/// The properties that have a network card's address, in the order in which the kernel looks at them:
/// of_get_mac_address() of net/core/of_net.c.
const ADDRESSES: [&[u8]; 2] = [b"mac-address", b"local-mac-address"];

fn ethernet<'a>(root: &mut Node<'a>, old: &Node<'a>) {
    let set = |value: &&[u8]| value.iter().any(|&byte| byte != 0);
    let address = |node: &Node<'_>| {
        ADDRESSES.into_iter().filter_map(|name| node.get(name)).find(set).map(<[u8]>::to_vec)
    };
    let aliases = |root: &Node<'a>| root.child(|name| name == b"aliases").map(|node| node.properties.clone());
    let (Some(ours), Some(theirs)) = (aliases(root), aliases(old)) else { return };
    for alias in theirs.iter().filter(|alias| alias.name.starts_with(b"ethernet")) {
        let Some(known) = old.at(&alias.value).and_then(address) else { continue };
        let same = ours.iter().find(|other| other.name == alias.name);
        if let Some(node) = same.and_then(|alias| root.at_mut(&alias.value))
            && address(node).is_none()
        {
            node.properties.retain(|property| !ADDRESSES.contains(&property.name));
            node.set(b"local-mac-address", Cow::Owned(known));
        }
    }
}
