//! A flattened tree as its tokens, every one of them checked: DTSpec v0.4, chapter 5.

use std::borrow::Cow;
use std::ops::Range;

use super::Error;

const MAGIC: u32 = 0xd00d_feed;
/// The version written, and the oldest that can read it.
const VERSION: u32 = 17;
const OLDEST: u32 = 16;
const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
pub(super) const NOP: u32 = 4;
const END: u32 = 9;
/// FDT_MAX_DEPTH of drivers/of/fdt.c.
const DEEPEST: usize = 64;

/// One thing in the structure block.
#[derive(Clone, Debug)]
pub(super) enum Token<'a> {
    Begin(&'a [u8]),
    Property(Property<'a>),
    End,
}

/// A property of a node.
#[derive(Clone, Debug)]
pub(super) struct Property<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: Cow<'a, [u8]>,
    /// Where it was read: byte of its FDT_PROP token in the tree.
    offset: usize,
}

impl<'a> Property<'a> {
    pub(super) fn new(name: &'a [u8], value: Cow<'a, [u8]>) -> Self {
        Self { name, value, offset: 0 }
    }

    /// The bytes of the tree that are its value.
    pub(super) fn value_range(&self) -> Range<usize> {
        let start = self.offset.saturating_add(12);
        start..start.saturating_add(self.value.len())
    }

    /// The bytes of the tree that are the whole token, padding included.
    pub(super) fn token_range(&self) -> Range<usize> {
        self.offset..self.value_range().end.next_multiple_of(4)
    }
}

/// Memory that the next kernel must not use. Physical address and size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    pub(super) address: u64,
    pub(super) size: u64,
}

/// A whole tree. Its nodes are balanced, at most [`DEEPEST`] deep, properties before subnodes, one
/// root.
#[derive(Clone, Debug)]
pub(super) struct Blob<'a> {
    total_size: usize,
    pub(super) boot_cpu: u32,
    pub(super) reservations: Vec<Reservation>,
    pub(super) tokens: Vec<Token<'a>>,
}

fn broken(offset: usize, what: &'static str) -> Error {
    Error::Broken { offset, what }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset.checked_add(8)?)?.try_into().ok().map(u64::from_be_bytes)
}

/// The bytes at `offset` up to a NUL.
fn text_at(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    rest.get(..rest.iter().position(|&byte| byte == 0)?)
}

/// Repeats `pattern` over `range` of `bytes`.
pub(super) fn fill(bytes: &mut [u8], range: Range<usize>, pattern: &[u8]) {
    for (byte, &value) in bytes.get_mut(range).unwrap_or_default().iter_mut().zip(pattern.iter().cycle()) {
        *byte = value;
    }
}

/// Header fields of 32 bits, as usize.
fn field(tree: &[u8], index: usize) -> Result<usize, Error> {
    let value = u32_at(tree, index.saturating_mul(4)).ok_or(broken(tree.len(), "the header ends early"))?;
    usize::try_from(value).map_err(|_| broken(index, "a header field does not fit"))
}

impl<'a> Blob<'a> {
    /// Reads `tree`, which may be followed by other bytes.
    pub(super) fn parse(tree: &'a [u8]) -> Result<Self, Error> {
        let found = u32_at(tree, 0).ok_or(broken(tree.len(), "the header ends early"))?;
        if found != MAGIC {
            return Err(Error::Magic { found });
        }
        let version = u32_at(tree, 20).ok_or(broken(tree.len(), "the header ends early"))?;
        let compatible = u32_at(tree, 24).ok_or(broken(tree.len(), "the header ends early"))?;
        if version < OLDEST || compatible > VERSION {
            return Err(Error::Version { version, compatible });
        }
        let total_size = field(tree, 1)?;
        let all = tree.get(..total_size).ok_or(broken(tree.len(), "it is shorter than its total size"))?;
        if total_size < HEADER {
            return Err(broken(4, "its total size is less than the header"));
        }

        let strings_start = field(tree, 3)?;
        let strings = strings_start
            .checked_add(field(tree, 8)?)
            .and_then(|end| all.get(strings_start..end))
            .ok_or(broken(12, "the strings block is not inside the tree"))?;
        let start = field(tree, 2)?;
        let structure = if version >= VERSION {
            start.checked_add(field(tree, 9)?).and_then(|end| all.get(..end))
        } else {
            Some(all)
        }
        .filter(|all| start >= HEADER && start.is_multiple_of(4) && start < all.len())
        .ok_or(broken(8, "the structure block is not inside the tree"))?;

        Ok(Self {
            total_size,
            boot_cpu: u32_at(tree, 28).unwrap_or(0),
            reservations: reservations(all, field(tree, 4)?)?,
            tokens: tokens(structure, start, strings)?,
        })
    }

    /// In bytes, of the tree that was read.
    pub(super) fn total_size(&self) -> usize {
        self.total_size
    }

    /// Adds reservations for what is not in one already.
    pub(super) fn reserve(&mut self, wanted: &[Range<u64>]) {
        for range in wanted.iter().filter(|range| !range.is_empty()) {
            let covered = |have: &Reservation| {
                have.address <= range.start && range.end <= have.address.saturating_add(have.size)
            };
            if !self.reservations.iter().any(covered) {
                self.reservations.push(Reservation { address: range.start, size: range.end - range.start });
            }
        }
    }

    /// Writes the tokens as a tree of version 17, without FDT_NOP.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut strings = Strings::default();
        let mut structure = Vec::new();
        let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_be_bytes());
        for token in &self.tokens {
            match token {
                Token::Begin(name) => {
                    word(&mut structure, BEGIN_NODE);
                    structure.extend_from_slice(name);
                    structure.push(0);
                }
                Token::Property(property) => {
                    word(&mut structure, PROP);
                    word(&mut structure, length(&property.value));
                    word(&mut structure, strings.offset(property.name));
                    structure.extend_from_slice(&property.value);
                }
                Token::End => word(&mut structure, END_NODE),
            }
            structure.resize(structure.len().next_multiple_of(4), 0);
        }
        word(&mut structure, END);

        let mut map = Vec::new();
        for reservation in self.reservations.iter().chain(&[Reservation { address: 0, size: 0 }]) {
            map.extend_from_slice(&reservation.address.to_be_bytes());
            map.extend_from_slice(&reservation.size.to_be_bytes());
        }
        let structure_at = HEADER.saturating_add(map.len());
        let strings_at = structure_at.saturating_add(structure.len());
        let mut tree = Vec::with_capacity(strings_at.saturating_add(strings.block.len()));
        let fit = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        for value in [
            MAGIC,
            fit(strings_at.saturating_add(strings.block.len())),
            fit(structure_at),
            fit(strings_at),
            fit(HEADER),
            VERSION,
            OLDEST,
            self.boot_cpu,
            length(&strings.block),
            length(&structure),
        ] {
            word(&mut tree, value);
        }
        tree.extend_from_slice(&map);
        tree.extend_from_slice(&structure);
        tree.extend_from_slice(&strings.block);
        tree
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// The strings block while it is written.
#[derive(Default)]
struct Strings<'a> {
    block: Vec<u8>,
    offsets: std::collections::BTreeMap<&'a [u8], u32>,
}

impl<'a> Strings<'a> {
    fn offset(&mut self, name: &'a [u8]) -> u32 {
        if let Some(&offset) = self.offsets.get(name) {
            return offset;
        }
        let offset = length(&self.block);
        self.block.extend_from_slice(name);
        self.block.push(0);
        self.offsets.insert(name, offset);
        offset
    }
}

/// Reads the memory reservation block.
fn reservations(all: &[u8], mut offset: usize) -> Result<Vec<Reservation>, Error> {
    let mut found = Vec::new();
    loop {
        let entry = || Some((u64_at(all, offset)?, u64_at(all, offset.checked_add(8)?)?));
        let (address, size) = entry().ok_or(broken(offset, "the memory reservations do not end"))?;
        if (address, size) == (0, 0) {
            return Ok(found);
        }
        found.push(Reservation { address, size });
        offset = offset.saturating_add(16);
    }
}

/// Reads the structure block, which ends `structure` and begins at `offset`.
fn tokens<'a>(structure: &'a [u8], mut offset: usize, strings: &'a [u8]) -> Result<Vec<Token<'a>>, Error> {
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    // Properties come before subnodes: where the last token was FDT_END_NODE, none may follow.
    let mut after_subnode = false;
    loop {
        let here = offset;
        let ends = || broken(here, "the structure block ends early");
        let word = u32_at(structure, offset).ok_or_else(ends)?;
        offset = offset.saturating_add(4);
        match word {
            BEGIN_NODE => {
                if depth == 0 && !tokens.is_empty() {
                    return Err(broken(here, "a second root node"));
                }
                depth = depth.saturating_add(1);
                if depth > DEEPEST {
                    return Err(broken(here, "nodes are nested too deep"));
                }
                let name = text_at(structure, offset).ok_or_else(ends)?;
                offset = offset.saturating_add(name.len()).saturating_add(1).next_multiple_of(4);
                tokens.push(Token::Begin(name));
                after_subnode = false;
            }
            PROP => {
                if depth == 0 || after_subnode {
                    return Err(broken(here, "a property outside the head of a node"));
                }
                let size = u32_at(structure, offset).ok_or_else(ends)?;
                let name = u32_at(structure, offset.saturating_add(4)).ok_or_else(ends)?;
                let name = usize::try_from(name)
                    .ok()
                    .and_then(|at| text_at(strings, at))
                    .filter(|name| !name.is_empty())
                    .ok_or(broken(here, "a property without a name"))?;
                let start = offset.saturating_add(8);
                let value = usize::try_from(size)
                    .ok()
                    .and_then(|size| start.checked_add(size))
                    .and_then(|end| structure.get(start..end))
                    .ok_or_else(ends)?;
                offset = start.saturating_add(value.len()).next_multiple_of(4);
                tokens.push(Token::Property(Property { name, value: Cow::Borrowed(value), offset: here }));
            }
            END_NODE => {
                depth = depth.checked_sub(1).ok_or(broken(here, "the end of no node"))?;
                tokens.push(Token::End);
                after_subnode = true;
            }
            NOP => {}
            END if depth == 0 && !tokens.is_empty() => return Ok(tokens),
            END => return Err(broken(here, "the tree ends inside a node")),
            _ => return Err(broken(here, "an unknown token")),
        }
    }
}
