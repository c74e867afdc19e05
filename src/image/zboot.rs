//! The EFI zboot kernel: an EFI program that carries a compressed Image.
//! Source: linux/drivers/firmware/efi/libstub/zboot-header.S and Makefile.zboot.

use super::compressed::Compression;
use super::{Error, at};
use crate::error::printable;

pub(super) const FORMAT: &str = "EFI zboot kernel";
/// Offsets in the header.
const MAGIC: usize = 4;
const PAYLOAD: usize = 8;
const PAYLOAD_SIZE: usize = 12;
const COMPRESSION: usize = 24;
const COMPRESSION_END: usize = 0x38;

/// Whether `bytes` carry the marks of a zboot kernel.
pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(b"MZ") && at(bytes, MAGIC).as_ref() == Some(b"zimg")
}

/// How its payload is compressed, and the payload.
pub(super) fn payload<'a>(name: &'static str, bytes: &'a [u8]) -> Result<(Compression, &'a [u8]), Error> {
    let size = bytes.len() as u64;
    let truncated = |promised| Error::Truncated { name, format: FORMAT, promised, size };
    let header = bytes.get(..COMPRESSION_END).ok_or(truncated(COMPRESSION_END as u64))?;
    let u32_at = |offset| at(header, offset).map_or(0, |bytes| u64::from(u32::from_le_bytes(bytes)));
    let word = header.get(COMPRESSION..).unwrap_or_default();
    let word = word.split(|&byte| byte == 0).next().unwrap_or_default();
    let compression = match word {
        b"gzip" => Compression::Gzip,
        // The kernel's Makefile writes its own name for it, "zstd22".
        [b'z', b's', b't', b'd', ..] => Compression::Zstd,
        other => {
            return Err(Error::Compression { name, found: printable(&String::from_utf8_lossy(other)) });
        }
    };
    let (start, length) = (u32_at(PAYLOAD), u32_at(PAYLOAD_SIZE));
    if start < COMPRESSION_END as u64 || length == 0 {
        return Err(Error::Malformed { name, format: FORMAT, what: "it gives no place for its payload" });
    }
    let end = start + length;
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let payload = range.and_then(|(start, end)| bytes.get(start..end)).ok_or(truncated(end))?;
    Ok((compression, payload))
}
