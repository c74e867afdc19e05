//! From the file as it was published to the kernel in it: compression, EFI zboot, unified kernel image,
//! one inside the other. Everything happens in memory, before anything is loaded.

use std::fmt;

use super::compressed::{self, Compression, Demand, Fault, Step, Stop};
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
    /// What the decoder keeps of what it unpacks, at the most; 0 if nothing is compressed.
    pub buffer: u64,
}

/// Asked before each piece of something compressed, with what all pieces so far take: how many bytes may
/// come out, or why it is not even begun.
pub type Limit<'a> = &'a dyn Fn(Demand) -> Result<u64, String>;

/// The same limit whatever it takes.
pub fn at_most(limit: u64) -> impl Fn(Demand) -> Result<u64, String> {
    move |_| Ok(limit)
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

/// Unwraps `published`. What compressed layers hold is together within `limit`. The memory of a
/// layer is given back when the next one is there.
pub(super) fn unwrap(published: Part, limit: Limit<'_>) -> Result<Unwrapped, Error> {
    let name = published.name();
    let (mut kernel, mut wrappings, mut uki) = (published, Vec::new(), None);
    let mut used = 0u64;
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
            let mut buffer = 0;
            if let Some(compression) = layer.compression {
                let limits = Limits { used, limit, packed: size };
                let part = unpack(name, layer.wrapper, compression, bytes, limits);
                let (part, most) = part.map_err(|error| error.within(&wrappings))?;
                (unpacked, buffer) = (Some(part), most);
            }
            wrappings.push(Wrapping { wrapper: layer.wrapper, size, buffer });
            if unpacked.is_some() {
                break;
            }
        }
        kernel = match unpacked {
            Some(part) => {
                used = used.saturating_add(part.size());
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
struct Limits<'a> {
    /// By the layers so far.
    used: u64,
    /// Of all layers together.
    limit: Limit<'a>,
    /// The size of what is unpacked.
    packed: u64,
}

fn unpack(
    name: &'static str,
    wrapper: Wrapper,
    compression: Compression,
    bytes: &[u8],
    limits: Limits<'_>,
) -> Result<(Part, u64), Error> {
    let mut draft = Draft::new(name)?;
    let (mut buffer, mut limit) = (0, 0);
    let unpacked = compressed::unpack(compression, bytes, &mut |step| {
        let chunk = match step {
            Step::Begin(demand) => {
                buffer = demand.buffer.max(buffer);
                let size = limits.used.saturating_add(draft.size()).saturating_add(demand.size);
                let most = (limits.limit)(Demand { buffer, size });
                limit = most.map_err(|why| Error::NoRoom { name, why })?.min(MOST_UNPACKED);
                return Ok(());
            }
            Step::Bytes(chunk) => chunk,
        };
        if draft.size() == 0 && foreign::is_cpio(chunk) {
            return Err(Error::Foreign { name, kind: Foreign::CompressedCpio, size: limits.packed });
        }
        let done = limits.used.saturating_add(draft.size());
        if done.saturating_add(chunk.len() as u64) > limit {
            return Err(Error::TooLarge { name, limit });
        }
        draft.write(chunk)
    });
    match unpacked {
        Ok(rest) => {
            if rest.iter().any(|&byte| byte != 0) {
                log::debug!("{name}: {} bytes behind the {compression} data are passed over", rest.len());
            }
            Ok((draft.seal()?, buffer))
        }
        Err(Stop::Sink(error)) => Err(error),
        Err(Stop::Fault(Fault::Window(size))) => Err(Error::Window { name, wrapper, size }),
        Err(Stop::Fault(fault)) => Err(Error::Unpack { name, wrapper, done: draft.size(), fault }),
    }
}

#[cfg(test)]
mod tests;
