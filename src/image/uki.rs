//! The unified kernel image: a PE file with the kernel, ramdisks, command line and device trees in its
//! sections. Source: UAPI.5, https://uapi-group.org/specifications/specs/unified_kernel_image/

use std::ops::Range;

use super::pe::{Pe, Section};
use super::{Error, Part};
use crate::devicetree;
use crate::error::without_controls;

pub(super) const FORMAT: &str = "unified kernel image";
const KERNEL: &[u8] = b".linux";
/// Begins a profile of its own.
const PROFILE: &[u8] = b".profile";
/// Each ramdisk takes an open file of the 1024 that a process has. A kernel for many boards brings a device tree a
/// section.
const SECTIONS_MOST: usize = 512;
/// 64 KiB: no command line and no os-release is longer.
const TEXT_MOST: usize = 64 * 1024;

/// What a unified kernel image holds besides the kernel.
#[derive(Debug, Default)]
pub struct Uki {
    /// `.cmdline`, on one line.
    pub cmdline: Option<String>,
    /// `.uname`: the kernel's release.
    pub uname: Option<String>,
    /// `.osrel`: the text of an os-release file.
    pub os_release: Option<String>,
    /// `.sbat`
    pub sbat: Option<String>,
    pub trees: Trees,
    /// `.ucode`, then `.initrd`.
    pub ramdisks: Vec<Part>,
    /// Name and size in bytes of each section of the file, in their order.
    pub sections: Vec<(String, u64)>,
    /// How many profiles it offers.
    pub profiles: usize,
    /// The size of its certificate table, if it is signed as a whole.
    pub certificates: Option<u64>,
}

/// The device trees of a unified kernel image. Nobody has parsed them yet.
#[derive(Clone, Debug, Default)]
pub struct Trees {
    /// The one for every machine: a single `.dtb`.
    pub fixed: Option<Vec<u8>>,
    /// Of which the machine's own `compatible` chooses: `.dtbauto`, or several `.dtb`.
    pub candidates: Vec<Vec<u8>>,
}

/// Whether `pe` is a unified kernel image.
pub(super) fn is(pe: &Pe<'_>) -> bool {
    pe.sections().any(|section| section.name == KERNEL)
}

impl Uki {
    /// Copies what `bytes` hold besides the kernel, and says where the kernel is. Of several profiles
    /// the first is taken, which is what the firmware starts when nobody chooses: what it brings
    /// stands in place of the common sections of that name.
    pub(super) fn read(name: &'static str, bytes: &[u8], pe: &Pe<'_>) -> Result<(Self, Range<usize>), Error> {
        let broken = |what| Error::Malformed { name, format: FORMAT, what };
        if pe.sections().nth(SECTIONS_MOST).is_some() {
            return Err(broken("it has more than 512 sections"));
        }
        let mut sections = Vec::new();
        let (mut common, mut own) = (Vec::new(), Vec::new());
        let mut profiles = 0;
        for section in pe.sections() {
            let label = without_controls(&String::from_utf8_lossy(section.name));
            sections.push((label, section.size()));
            match profiles {
                _ if section.name == PROFILE => profiles += 1,
                0 => common.push(section),
                1 => own.push(section),
                _ => {}
            }
        }
        let mut all = Contents { name, bytes, common, own, left: bytes.len() };
        let kernel = all.ranges(KERNEL)?.next().ok_or(broken("it has no .linux section"))?;
        let trees = all.trees()?;
        let mut ramdisks = Vec::new();
        for name in [".ucode", ".initrd"] {
            for range in all.ranges(name.as_bytes())? {
                let content = bytes.get(range).unwrap_or_default();
                if !content.is_empty() {
                    ramdisks.push(Part::copy_of(name, content)?);
                }
            }
        }
        let cmdline = match all.text(b".cmdline")? {
            Some(Text::Clean(text)) => {
                let line = text.replace(char::is_control, " ");
                Some(line.trim().to_owned()).filter(|line| !line.is_empty())
            }
            Some(Text::Odd) => return Err(broken("its .cmdline is no text, or over 64 KiB")),
            None => None,
        };
        let mut shown = |name: &[u8]| match all.text(name) {
            Ok(Some(Text::Clean(text))) => Ok(Some(text.trim().to_owned())),
            Ok(Some(Text::Odd) | None) => Ok(None),
            Err(error) => Err(error),
        };
        let (uname, os_release, sbat) = (shown(b".uname")?, shown(b".osrel")?, shown(b".sbat")?);
        let certificates = pe.certificates().map(|range| range.end - range.start);
        let uki =
            Self { cmdline, uname, os_release, sbat, trees, ramdisks, sections, profiles, certificates };
        Ok((uki, without_padding(bytes, kernel)))
    }
}

/// The sections that count.
struct Contents<'a> {
    name: &'static str,
    bytes: &'a [u8],
    /// Of every profile.
    common: Vec<Section<'a>>,
    /// Of the chosen profile.
    own: Vec<Section<'a>>,
    /// Bytes that may still be taken: sections that do not overlap are never larger than the file.
    left: usize,
}

enum Text {
    Clean(String),
    /// No text, or far too much of it.
    Odd,
}

impl Contents<'_> {
    /// Where the sections called `wanted` lie in the file.
    fn ranges(&mut self, wanted: &[u8]) -> Result<impl Iterator<Item = Range<usize>> + use<>, Error> {
        let named = |section: &&Section<'_>| section.name == wanted;
        let own = self.own.iter().any(|section| named(&section));
        let from = if own { &self.own } else { &self.common };
        let size = self.bytes.len() as u64;
        let mut ranges = Vec::new();
        for section in from.iter().filter(named) {
            if section.end > size {
                let (name, promised) = (self.name, section.end);
                return Err(Error::Truncated { name, format: FORMAT, promised, size });
            }
            // Both are below the length of a slice.
            let range =
                usize::try_from(section.start).unwrap_or(0)..usize::try_from(section.end).unwrap_or(0);
            self.left = self.left.checked_sub(range.len()).ok_or(Error::Malformed {
                name: self.name,
                format: FORMAT,
                what: "its sections overlap",
            })?;
            ranges.push(range);
        }
        Ok(ranges.into_iter())
    }

    fn text(&mut self, wanted: &[u8]) -> Result<Option<Text>, Error> {
        let Some(range) = self.ranges(wanted)?.next() else { return Ok(None) };
        let content = self.bytes.get(range).unwrap_or_default();
        let text = content.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Some(match std::str::from_utf8(text) {
            Ok(text) if text.len() <= TEXT_MOST => Text::Clean(text.to_owned()),
            _ => Text::Odd,
        }))
    }

    fn trees(&mut self) -> Result<Trees, Error> {
        let mut trees = Trees::default();
        for wanted in [b".dtb".as_slice(), b".dtbauto"] {
            for range in self.ranges(wanted)? {
                // Sections are padded; the tree says itself how long it is.
                let most = 2 * devicetree::LARGEST;
                let content = self.bytes.get(range).unwrap_or_default();
                if content.len() > most {
                    let what = "a device tree in it is over 4 MiB";
                    return Err(Error::Malformed { name: self.name, format: FORMAT, what });
                }
                trees.candidates.push(content.to_vec());
            }
            if wanted == b".dtb" && trees.candidates.len() == 1 {
                trees.fixed = trees.candidates.pop();
            }
        }
        Ok(trees)
    }
}

/// A section is padded to the file alignment, and a signed kernel must end with its certificates: what
/// checks the signature (linux/crypto/asymmetric_keys/verify_pefile.c) hashes everything else.
fn without_padding(bytes: &[u8], section: Range<usize>) -> Range<usize> {
    /// The largest file alignment there is: Microsoft PE Format, "Optional Header".
    const PADDING_MOST: usize = 64 * 1024;
    let content = bytes.get(section.clone()).unwrap_or_default();
    let end =
        Pe::parse(content).and_then(|pe| pe.certificates()).and_then(|range| usize::try_from(range.end).ok());
    match end.and_then(|end| content.get(end..).map(|padding| (end, padding))) {
        Some((end, padding)) if padding.len() < PADDING_MOST && padding.iter().all(|&byte| byte == 0) => {
            section.start..section.start.saturating_add(end)
        }
        _ => section,
    }
}
