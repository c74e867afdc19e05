//! The flattened device tree (DTSpec v0.4 chapter 5): a copy for the next kernel, with `/chosen`
//! made for it and everything else as it was.
//!
//! Foreign bytes are checked in [`blob`] before anybody else looks at them; [`rewrite`] reads the
//! checked tree with `fdt` and writes it with `vm-fdt`. Vendors' trees have names that `vm-fdt`
//! refuses: those are written token by token from the same checked form.

mod blob;
pub mod choice;
mod chosen;
mod complete;
mod node;
mod rewrite;
mod source;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use crate::error::Exit;
use blob::Blob;
pub use complete::complete;

/// The most the kernel takes, in bytes: Documentation/arch/arm64/booting.rst.
pub const LARGEST: usize = 2 << 20;

/// Why no copy of a tree could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not begin with the magic number.
    #[error("not a flattened device tree: it begins with {found:#010x}, not 0xd00dfeed")]
    Magic { found: u32 },
    /// Older than version 16, or incompatible with 17.
    #[error("device tree of version {version}, compatible with {compatible}: 16 and 17 are known")]
    Version { version: u32, compatible: u32 },
    /// A block, a name or a value does not lie where the format says.
    #[error("device tree broken at byte {offset}: {what}")]
    Broken { offset: usize, what: &'static str },
    /// The copy is over [`LARGEST`].
    #[error("device tree of {size} bytes, the kernel takes at most {LARGEST}")]
    TooLarge { size: usize },
    /// An address or a size has no place in as many cells.
    #[error("{what}: its addresses or sizes do not fit into #address-cells and #size-cells")]
    Cells { what: &'static str },
    /// A tree from a file says nothing of memory, and neither does the running one.
    #[error("neither the given device tree nor the running one has a memory node")]
    NoMemory,
    /// A string for the tree holds a NUL.
    #[error("the command line for the device tree holds a NUL byte")]
    Nul,
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Magic { .. }
            | Self::Version { .. }
            | Self::Broken { .. }
            | Self::TooLarge { .. }
            | Self::Cells { .. }
            | Self::NoMemory
            | Self::Nul => Exit::LoadFailed,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Magic { .. } | Self::Version { .. } | Self::Broken { .. } => {
                "check the tree with dtc -I dtb -O dts"
            }
            Self::TooLarge { .. } => "leave nodes out that the next kernel does not need",
            Self::Cells { .. } => "give the tree's root two address cells and two size cells",
            Self::NoMemory => "add a memory node with the machine's memory to the tree",
            Self::Nul => "take the NUL out of the command line",
        }
    }
}

/// The tree in this file, as it is: firmware pads it, so more than the next kernel takes is read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    const MOST: u64 = 2 * LARGEST as u64;
    let mut tree = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut tree)?;
    Ok(tree)
}

/// Randomness for the next kernel.
#[derive(Clone)]
pub struct Seeds {
    /// Where the kernel is put in its address space.
    pub kaslr: u64,
    /// What its random generator starts from.
    pub rng: [u8; 64],
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seeds(..)")
    }
}

/// What `/chosen` of the copy says.
#[derive(Clone, Debug, Default)]
pub struct Edits<'a> {
    /// The command line, or none at all.
    pub bootargs: Option<&'a str>,
    /// Physical addresses of the ramdisk, or none.
    pub initrd: Option<Range<u64>>,
    /// Fresh seeds, or none. The old ones never survive.
    pub seeds: Option<Seeds>,
    /// Physical memory that the next kernel must leave alone, besides what is reserved already.
    pub reserve: &'a [Range<u64>],
    /// Physical address of UEFI's system table, if the next kernel is to find another one than this did. The
    /// tree has to be one that names a table.
    pub system_table: Option<u64>,
}

/// Where UEFI's tables are: Documentation/arch/arm/uefi.rst. Physical addresses, sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uefi {
    pub system_table: u64,
    /// The memory map as it was handed over.
    pub map: u64,
    pub map_size: u64,
    pub descriptor_size: u64,
}

/// Copies `tree` for the next kernel. In `/chosen`, which is made if it is missing, only what
/// `edits` say is set; what belongs to the running kernel alone is dropped (crash dump and IMA
/// hand-over, the reservation of the old ramdisk); all else stays, in its order. At most
/// [`LARGEST`] bytes.
pub fn prepare(tree: &[u8], edits: &Edits<'_>) -> Result<Vec<u8>, Error> {
    let mut blob = Blob::parse(tree)?;
    chosen::drop_old_reservations(&mut blob);
    if edits.system_table.is_some() {
        chosen::drop_old_tables(&mut blob);
    }
    blob.reserve(edits.reserve);
    let changes = chosen::changes(edits)?;
    let copy = match rewrite::with_vm_fdt(&blob, &changes) {
        Ok(copy) => copy,
        Err(reason) => {
            log::debug!("device tree copied token by token, vm-fdt refuses it: {reason}");
            chosen::splice(&mut blob, &changes);
            blob.write()
        }
    };
    if copy.len() > LARGEST {
        return Err(Error::TooLarge { size: copy.len() });
    }
    Ok(copy)
}

/// Whether `tree` tells the next kernel where UEFI's tables are.
pub fn is_uefi(tree: &[u8]) -> Result<bool, Error> {
    let blob = Blob::parse(tree)?;
    Ok(chosen::properties(&blob).any(|property| property.name == chosen::SYSTEM_TABLE))
}

/// Where `tree` says that UEFI's tables are; None without UEFI.
pub fn uefi(tree: &[u8]) -> Result<Option<Uefi>, Error> {
    let blob = Blob::parse(tree)?;
    let number = |name: &[u8]| {
        let property = chosen::properties(&blob).find(|property| property.name == name)?;
        chosen::number(&property.value)
    };
    let uefi = || {
        Some(Uefi {
            system_table: number(chosen::SYSTEM_TABLE)?,
            map: number(b"linux,uefi-mmap-start")?,
            map_size: number(b"linux,uefi-mmap-size")?,
            descriptor_size: number(b"linux,uefi-mmap-desc-size")?,
        })
    };
    Ok(uefi())
}

/// Whether `tree` has a device that is `compatible` with this, and not disabled.
pub fn has_device(tree: &[u8], compatible: &[u8]) -> bool {
    // The properties of a node stand together, before what is below it.
    let is_other = |token: &blob::Token<'_>| !matches!(token, blob::Token::Property(_));
    let says = |own: &[blob::Token<'_>], name: &[u8], wanted: &[u8]| {
        own.iter().any(|token| match token {
            blob::Token::Property(own) => {
                own.name == name && own.value.split(|&byte| byte == 0).any(|text| text == wanted)
            }
            _ => false,
        })
    };
    Blob::parse(tree).is_ok_and(|blob| {
        let mut nodes = blob.tokens.split(is_other);
        nodes.any(|own| says(own, b"compatible", compatible) && !says(own, b"status", b"disabled"))
    })
}

/// Copies `tree` without its secrets, otherwise byte for byte, as the kernel does when it has read
/// them: `/chosen/kaslr-seed` becomes zero and `rng-seed` becomes FDT_NOP, for zeros there would be
/// taken for randomness.
pub fn zero_seeds(tree: &[u8]) -> Result<Vec<u8>, Error> {
    let blob = Blob::parse(tree)?;
    let mut copy = tree.get(..blob.total_size()).unwrap_or(tree).to_vec();
    for property in chosen::properties(&blob) {
        match property.name {
            b"kaslr-seed" => blob::fill(&mut copy, property.value_range(), &[0]),
            b"rng-seed" => blob::fill(&mut copy, property.token_range(), &blob::NOP.to_be_bytes()),
            _ => {}
        }
    }
    Ok(copy)
}

/// The tree as text for people.
pub fn source(tree: &[u8]) -> Result<String, Error> {
    Blob::parse(tree).map(|blob| source::print(&blob))
}

/// The texts in the property `name` of the root of `tree`, such as `compatible`.
pub fn root_strings(tree: &[u8], name: &str) -> Result<Vec<String>, Error> {
    let blob = Blob::parse(tree)?;
    let own = blob.tokens.iter().skip(1).map_while(|token| match token {
        blob::Token::Property(property) => Some(property),
        blob::Token::Begin(_) | blob::Token::End => None,
    });
    let value =
        own.filter(|property| property.name == name.as_bytes()).map(|property| &property.value).next();
    let texts = value.into_iter().flat_map(|value| value.split(|&byte| byte == 0));
    Ok(texts.filter(|text| !text.is_empty()).map(|text| String::from_utf8_lossy(text).into_owned()).collect())
}

#[cfg(test)]
mod tests;
