//! A copy made with the crates of the field: read by `fdt`, written by `vm-fdt`.

use std::borrow::Cow;

use fdt::Fdt;
use fdt::node::FdtNode;
use vm_fdt::{FdtReserveEntry, FdtWriter};

use super::blob::{Blob, Token};
use super::chosen::{Change, apply, is_chosen};

/// Why this way is closed to a tree. It is sound all the same.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Writer(#[from] vm_fdt::Error),
    #[error("a name is not UTF-8")]
    NotUtf8,
    #[error("fdt finds no root node")]
    NoRoot,
}

/// Writes `blob` with `changes` made in `/chosen`.
pub(super) fn with_vm_fdt(blob: &Blob<'_>, changes: &[Change]) -> Result<Vec<u8>, Refused> {
    // `fdt` 0.1.5 panics on names that are not UTF-8, on FDT_NOP between properties (which is what
    // the kernel makes of rng-seed) and on whatever lies out of bounds: it is shown our own,
    // checked and normalised writing of the tree, never the foreign bytes.
    let name_is_utf8 = |token: &Token<'_>| match token {
        Token::Begin(name) => std::str::from_utf8(name).is_ok(),
        Token::Property(property) => std::str::from_utf8(property.name).is_ok(),
        Token::End => true,
    };
    if !blob.tokens.iter().all(name_is_utf8) {
        return Err(Refused::NotUtf8);
    }
    let normal = blob.write();
    let tree = Fdt::new(&normal).map_err(|_| Refused::NoRoot)?;
    let root = tree.find_node("/").ok_or(Refused::NoRoot)?;

    let reservations = blob
        .reservations
        .iter()
        .map(|entry| FdtReserveEntry::new(entry.address, entry.size))
        .collect::<Result<Vec<_>, _>>()?;
    let mut writer = FdtWriter::new_with_mem_reserv(&reservations)?;
    writer.set_boot_cpuid_phys(blob.boot_cpu);
    let node = writer.begin_node("")?;
    for property in root.properties() {
        writer.property(property.name, property.value)?;
    }
    let mut found = false;
    for child in root.children() {
        let chosen = is_chosen(child.name.as_bytes());
        found |= chosen;
        copy(&mut writer, child, if chosen { changes } else { &[] })?;
    }
    if !found {
        let chosen = writer.begin_node("chosen")?;
        properties(&mut writer, apply(std::iter::empty(), changes))?;
        writer.end_node(chosen)?;
    }
    writer.end_node(node)?;
    Ok(writer.finish()?)
}

/// Copies a node and what is below it. As deep as [`Blob`] allows, no deeper.
fn copy(writer: &mut FdtWriter, from: FdtNode<'_, '_>, changes: &[Change]) -> Result<(), Refused> {
    let node = writer.begin_node(from.name)?;
    let old = from.properties().map(|property| (property.name.as_bytes(), Cow::Borrowed(property.value)));
    properties(writer, apply(old, changes))?;
    for child in from.children() {
        copy(writer, child, &[])?;
    }
    writer.end_node(node)?;
    Ok(())
}

fn properties(writer: &mut FdtWriter, all: Vec<(&[u8], Cow<'_, [u8]>)>) -> Result<(), Refused> {
    for (name, value) in all {
        writer.property(std::str::from_utf8(name).map_err(|_| Refused::NotUtf8)?, &value)?;
    }
    Ok(())
}
