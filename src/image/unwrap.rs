//! From the file as it was published to the kernel in it: compression, EFI zboot, unified kernel image,
//! one inside the other. Everything happens in memory, before anything is loaded.

use std::fmt;

use super::compressed::{self, Compression, Stop};
use super::foreign::{self, Foreign};
use super::part::Draft;
use super::pe::Pe;
use super::uki::{self, Uki};
use super::{Error, Part, zboot};

/// A compressed unified kernel image with a zboot kernel in it is three deep. Nobody makes more.
const DEEPEST: usize = 3;
/// 1 GiB: no kernel is larger, for an arm64 one is mapped within 1 GiB of its modules, and an x86 one
/// within the topmost 2 GiB.
pub const MOST_UNPACKED: u64 = 1 << 30;

/// What a kernel was wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapping {
    pub wrapper: Wrapper,
    /// In bytes, with all that is in it.
    pub size: u64,
}

/// A kind of [`Wrapping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapper {
    Compressed(Compression),
    Zboot(Compression),
    Unified,
}

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed(compression) => write!(f, "{compression} file"),
            Self::Zboot(compression) => write!(f, "{} ({compression})", zboot::FORMAT),
            Self::Unified => f.write_str(uki::FORMAT),
        }
    }
}

impl Wrapping {
    /// Several, outermost first, for people.
    pub fn list(wrappings: &[Self]) -> String {
        let names: Vec<String> = wrappings.iter().map(|wrapping| wrapping.wrapper.to_string()).collect();
        names.join(" > ")
    }
}

/// A kernel without its wrappings, not yet looked at.
#[derive(Debug)]
pub(super) struct Unwrapped {
    pub(super) kernel: Part,
    /// Outermost first.
    pub(super) wrappings: Vec<Wrapping>,
    pub(super) uki: Option<Uki>,
}

/// Unwraps `published`. What compressed layers hold is together at most `limit` bytes. The memory of a
/// layer is given back when the next one is there.
pub(super) fn unwrap(published: Part, limit: u64) -> Result<Unwrapped, Error> {
    let name = published.name();
    let (mut kernel, mut wrappings, mut uki) = (published, Vec::new(), None);
    let mut left = limit;
    loop {
        let mapping = kernel.mapped()?;
        let mut bytes: &[u8] = &mapping;
        let mut unpacked = None;
        while let Some(layer) = open(name, bytes).map_err(|error| error.within(&wrappings))? {
            if wrappings.len() == DEEPEST || (uki.is_some() && layer.uki.is_some()) {
                return Err(Error::TooDeep { name }.within(&wrappings));
            }
            let size = bytes.len() as u64;
            bytes = layer.content;
            uki = uki.or(layer.uki);
            if let Some(compression) = layer.compression {
                let limits = Limits { left, limit, packed: size };
                let part = unpack(name, layer.wrapper, compression, bytes, limits);
                unpacked = Some(part.map_err(|error| error.within(&wrappings))?);
            }
            wrappings.push(Wrapping { wrapper: layer.wrapper, size });
            if unpacked.is_some() {
                break;
            }
        }
        kernel = match unpacked {
            Some(part) => {
                left = left.saturating_sub(part.size());
                part
            }
            None if bytes.len() == mapping.len() => return Ok(Unwrapped { kernel, wrappings, uki }),
            None => {
                let kernel = Part::copy_of(name, bytes)?;
                return Ok(Unwrapped { kernel, wrappings, uki });
            }
        };
    }
}

/// What is found when one wrapping is opened.
struct Layer<'a> {
    wrapper: Wrapper,
    content: &'a [u8],
    /// Of the content.
    compression: Option<Compression>,
    uki: Option<Uki>,
}

/// Opens the wrapping that `bytes` are, if they are one.
fn open<'a>(name: &'static str, bytes: &'a [u8]) -> Result<Option<Layer<'a>>, Error> {
    if let Some(compression) = Compression::of(bytes) {
        let wrapper = Wrapper::Compressed(compression);
        return Ok(Some(Layer { wrapper, content: bytes, compression: Some(compression), uki: None }));
    }
    if zboot::is(bytes) {
        let (compression, content) = zboot::payload(name, bytes)?;
        let wrapper = Wrapper::Zboot(compression);
        return Ok(Some(Layer { wrapper, content, compression: Some(compression), uki: None }));
    }
    let Some(pe) = Pe::parse(bytes).filter(uki::is) else { return Ok(None) };
    let (uki, kernel) = Uki::read(name, bytes, &pe)?;
    let content = bytes.get(kernel).unwrap_or_default();
    Ok(Some(Layer { wrapper: Wrapper::Unified, content, compression: None, uki: Some(uki) }))
}

/// How much may come out, in bytes.
#[derive(Clone, Copy)]
struct Limits {
    left: u64,
    /// Of all layers together.
    limit: u64,
    /// The size of what is unpacked.
    packed: u64,
}

fn unpack(
    name: &'static str,
    wrapper: Wrapper,
    compression: Compression,
    bytes: &[u8],
    limits: Limits,
) -> Result<Part, Error> {
    let mut draft = Draft::new(name)?;
    let unpacked = compressed::unpack(compression, bytes, &mut |chunk| {
        if draft.size() == 0 && foreign::is_cpio(chunk) {
            return Err(Error::Foreign { name, kind: Foreign::CompressedCpio, size: limits.packed });
        }
        if draft.size().saturating_add(chunk.len() as u64) > limits.left {
            return Err(Error::TooLarge { name, limit: limits.limit });
        }
        draft.write(chunk)
    });
    match unpacked {
        Ok(rest) => {
            if rest.iter().any(|&byte| byte != 0) {
                log::debug!("{name}: {} bytes behind the {compression} data are passed over", rest.len());
            }
            draft.seal()
        }
        Err(Stop::Sink(error)) => Err(error),
        Err(Stop::Fault(fault)) => Err(Error::Unpack { name, wrapper, done: draft.size(), fault }),
    }
}

#[cfg(test)]
mod tests;
