//! What happens to `/chosen`: Documentation/devicetree/bindings and drivers/of/kexec.c.

use std::borrow::Cow;

use super::blob::{Blob, Property, Reservation, Token};
use super::{Edits, Error};

/// The granule of old ramdisk reservations: firmware rounds up to it.
const PAGE: u64 = 4096;

/// Where UEFI's system table is.
pub(super) const SYSTEM_TABLE: &[u8] = b"linux,uefi-system-table";

/// A property of `/chosen`: its new value, or none to drop it.
pub(super) type Change = (&'static [u8], Option<Vec<u8>>);

/// Every property of `/chosen` that is not simply kept.
pub(super) fn changes(edits: &Edits<'_>) -> Result<Vec<Change>, Error> {
    let bootargs = match edits.bootargs {
        Some(text) if text.contains('\0') => return Err(Error::Nul),
        Some(text) => Some([text.as_bytes(), &[0]].concat()),
        None => None,
    };
    let initrd = edits.initrd.as_ref();
    let seeds = edits.seeds.as_ref();
    let mut changes: Vec<Change> = vec![
        (b"bootargs", bootargs),
        (b"linux,initrd-start", initrd.map(|range| range.start.to_be_bytes().to_vec())),
        (b"linux,initrd-end", initrd.map(|range| range.end.to_be_bytes().to_vec())),
        (b"kaslr-seed", seeds.map(|seeds| seeds.kaslr.to_be_bytes().to_vec())),
        (b"rng-seed", seeds.map(|seeds| seeds.rng.to_vec())),
        // A crash kernel's, and memory that kexec_load does not carry over.
        (b"linux,elfcorehdr", None),
        (b"linux,usable-memory-range", None),
        (b"linux,ima-kexec-buffer", None),
        (b"linux,kho-fdt", None),
        (b"linux,kho-scratch", None),
        // As kexec_file_load sets it.
        (b"linux,booted-from-kexec", Some(Vec::new())),
    ];
    if let Some(address) = edits.system_table {
        changes.push((SYSTEM_TABLE, Some(address.to_be_bytes().to_vec())));
    }
    Ok(changes)
}

/// Whether a child of the root with this name is `/chosen`. The kernel looks for `/chosen` and
/// `/chosen@0`.
pub(super) fn is_chosen(name: &[u8]) -> bool {
    name == b"chosen" || name.starts_with(b"chosen@")
}

/// `old` properties with `changes` made: replaced in place, dropped, or added behind the others.
pub(super) fn apply<'a>(
    old: impl Iterator<Item = (&'a [u8], Cow<'a, [u8]>)>,
    changes: &'a [Change],
) -> Vec<(&'a [u8], Cow<'a, [u8]>)> {
    let mut new: Vec<(&[u8], Cow<'_, [u8]>)> = Vec::new();
    for (name, value) in old {
        match changes.iter().find(|(changed, _)| *changed == name) {
            None => new.push((name, value)),
            Some(_) if new.iter().any(|(present, _)| *present == name) => {}
            Some((_, Some(value))) => new.push((name, Cow::Borrowed(value))),
            Some((_, None)) => {}
        }
    }
    for (name, value) in changes {
        if let Some(value) = value
            && !new.iter().any(|(present, _)| present == name)
        {
            new.push((name, Cow::Borrowed(value)));
        }
    }
    new
}

/// Makes `changes` in the tokens of `blob`, without a look at any name elsewhere.
pub(super) fn splice<'a>(blob: &mut Blob<'a>, changes: &'a [Change]) {
    let mut out = Vec::with_capacity(blob.tokens.len().saturating_add(changes.len()));
    let mut depth = 0usize;
    let mut found = false;
    let mut tokens = std::mem::take(&mut blob.tokens).into_iter().peekable();
    while let Some(token) = tokens.next() {
        match &token {
            Token::Begin(name) => {
                let chosen = depth == 1 && is_chosen(name);
                depth = depth.saturating_add(1);
                out.push(token);
                if chosen {
                    found = true;
                    let mut old = Vec::new();
                    while let Some(Token::Property(property)) =
                        tokens.next_if(|token| matches!(token, Token::Property(_)))
                    {
                        old.push((property.name, property.value));
                    }
                    push_properties(&mut out, apply(old.into_iter(), changes));
                }
            }
            Token::End => {
                depth = depth.saturating_sub(1);
                if depth == 0 && !found {
                    out.push(Token::Begin(b"chosen"));
                    push_properties(&mut out, apply(std::iter::empty(), changes));
                    out.push(Token::End);
                }
                out.push(token);
            }
            Token::Property(_) => out.push(token),
        }
    }
    blob.tokens = out;
}

fn push_properties<'a>(out: &mut Vec<Token<'a>>, properties: Vec<(&'a [u8], Cow<'a, [u8]>)>) {
    out.extend(properties.into_iter().map(|(name, value)| Token::Property(Property::new(name, value))));
}

/// The properties of `/chosen`.
pub(super) fn properties<'b, 'a>(blob: &'b Blob<'a>) -> impl Iterator<Item = &'b Property<'a>> {
    let mut depth = 0usize;
    let mut chosen = false;
    blob.tokens.iter().filter_map(move |token| match token {
        Token::Begin(name) => {
            depth = depth.saturating_add(1);
            chosen = depth == 2 && is_chosen(name);
            None
        }
        Token::End => {
            depth = depth.saturating_sub(1);
            chosen = false;
            None
        }
        Token::Property(property) => chosen.then_some(property),
    })
}

/// Frees the memory of what the running kernel was handed: kexec_file_load reserves its ramdisk and
/// IMA's measurements, and the reservations would stay for ever in a chain of kernels.
pub(super) fn drop_old_reservations(blob: &mut Blob<'_>) {
    let value = |name: &[u8]| {
        properties(blob).find(|property| property.name == name).map(|property| property.value.clone())
    };
    let of = |name: &[u8]| value(name).and_then(|value| number(&value));
    let ramdisk = of(b"linux,initrd-start")
        .and_then(|start| Some((start, of(b"linux,initrd-end")?.checked_sub(start)?)));
    // In the root's cells: one each, two each, or two for the address and one for the size.
    let buffer = value(b"linux,ima-kexec-buffer").and_then(|value| {
        let (address, size) = value.split_at_checked(value.len().div_ceil(8).saturating_mul(4))?;
        Some((number(address)?, number(size)?))
    });
    for (start, size) in [ramdisk, buffer].into_iter().flatten() {
        let sizes = [Some(size), size.checked_next_multiple_of(PAGE)];
        blob.reservations
            .retain(|&Reservation { address, size }| address != start || !sizes.contains(&Some(size)));
    }
}

/// Frees the memory of tables that were made for the running kernel, where it was not the first to be given
/// some: firmware's own are in memory that no tree has to reserve.
pub(super) fn drop_old_tables(blob: &mut Blob<'_>) {
    /// The largest page there is: no more was reserved for them.
    const MOST: u64 = 64 << 10;
    let table = properties(blob).find(|property| property.name == SYSTEM_TABLE);
    if let Some(table) = table.and_then(|property| number(&property.value)) {
        blob.reservations.retain(|&Reservation { address, size }| {
            size > MOST || !(address..address.saturating_add(size)).contains(&table)
        });
    }
}

/// One or two cells: of_read_number().
pub(super) fn number(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => value.try_into().ok().map(u32::from_be_bytes).map(u64::from),
        8 => value.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}
