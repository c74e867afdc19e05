//! gzip (RFC 1952) and zstd (RFC 8878), unpacked piece by piece.

use std::fmt;
use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Error, at};

/// A flag in the descriptor of a frame.
const SINGLE_SEGMENT: u8 = 1 << 5;
/// How much is handed on at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// Members or frames in one file. Each takes time, however little is in it: tools that make several put
/// 64 KiB or more into one (bgzip, pzstd).
const MOST_PIECES: u32 = 64 * 1024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// 128 MiB: what `zstd -22 --ultra` uses, with which kernels are built, and the most that the kernel's
/// own decompressor takes (linux/lib/decompress_unzstd.c). As much memory may be needed for it, see
/// [`Demand`].
const WINDOW_MOST: u64 = 128 << 20;
/// What the ring of [`FrameDecoder`] may hold above a power of two: two blocks of the largest size.
const RING_SLACK: u64 = 2 * 128 * 1024;

/// A compression that is undone here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// The compression that `bytes` begin with.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(GZIP) {
            Some(Self::Gzip)
        } else if bytes.starts_with(ZSTD) || skippable(bytes) {
            Some(Self::Zstd)
        } else {
            None
        }
    }
}

/// What a member or frame takes to unpack, as far as it is known before. In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// What the decoder keeps of the unpacked bytes, at the most. It never has more than there are.
    pub buffer: u64,
    /// What is unpacked, at the least.
    pub size: u64,
}

/// What is handed on while a file is unpacked.
pub(super) enum Step<'a> {
    /// A member or frame begins.
    Begin(Demand),
    Bytes(&'a [u8]),
}

/// What is wrong with compressed bytes.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it promises {promised} bytes more, {left} are left")]
    Truncated { promised: u64, left: u64 },
    #[error("it ends in the middle")]
    Ends,
    #[error("{0}")]
    Broken(&'static str),
    #[error("its window of {0} bytes is over 128 MiB")]
    Window(u64),
}

/// Why unpacking stopped: the bytes are at fault, or whoever takes them wants no more.
#[derive(Debug)]
pub(super) enum Stop {
    Fault(Fault),
    Sink(Error),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

type Sink<'a> = &'a mut dyn FnMut(Step<'_>) -> Result<(), Error>;

/// Unpacks what `bytes` begin with into `sink`, and returns what follows it: members and frames one
/// behind the other are one file, and what is neither is none of it, as gzip and zstd have it.
pub(super) fn unpack<'a>(
    compression: Compression,
    mut bytes: &'a [u8],
    sink: Sink<'_>,
) -> Result<&'a [u8], Stop> {
    let mut buffer = vec![0; CHUNK];
    for _ in 0..MOST_PIECES {
        match compression {
            Compression::Gzip => member(&mut bytes, &mut buffer, sink)?,
            Compression::Zstd => frame(&mut bytes, &mut buffer, sink)?,
        }
        if Compression::of(bytes) != Some(compression) {
            return Ok(bytes);
        }
    }
    Err(Fault::Broken("it has more than 65536 pieces").into())
}

/// What the gzip file `bytes` holds, if it is whole and at most `most` bytes long.
pub(crate) fn gunzip(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let compression = Compression::of(bytes).filter(|it| *it == Compression::Gzip)?;
    let sink = &mut |step: Step<'_>| {
        let Step::Bytes(chunk) = step else { return Ok(()) };
        if chunk.len() > most.saturating_sub(all.len()) {
            return Err(Error::TooLarge { name: "the file", limit: most as u64 });
        }
        all.extend_from_slice(chunk);
        Ok(())
    };
    unpack(compression, bytes, sink).ok().map(|_| all)
}

/// The first `count` bytes, taken off.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Fault> {
    let left = bytes.len() as u64;
    let (taken, rest) =
        bytes.split_at_checked(count).ok_or(Fault::Truncated { promised: count as u64, left })?;
    *bytes = rest;
    Ok(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32, Fault> {
    let taken = take(bytes, 4)?;
    Ok(at(taken, 0).map_or(0, u32::from_le_bytes))
}

/// One member of a gzip file.
fn member(bytes: &mut &[u8], buffer: &mut [u8], sink: Sink<'_>) -> Result<(), Stop> {
    gzip_header(bytes)?;
    sink(Step::Begin(Demand::default())).map_err(Stop::Sink)?;
    let mut inflate = Decompress::new(false);
    let mut crc = Crc::new();
    loop {
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(bytes, buffer, FlushDecompress::None);
        let status = status.map_err(|_| Fault::Broken("its compressed data is invalid"))?;
        let read = usize::try_from(inflate.total_in() - read).unwrap_or(usize::MAX);
        let written = usize::try_from(inflate.total_out() - written).unwrap_or(usize::MAX);
        *bytes = bytes.get(read..).unwrap_or_default();
        let unpacked = buffer.get(..written).unwrap_or_default();
        crc.update(unpacked);
        sink(Step::Bytes(unpacked)).map_err(Stop::Sink)?;
        match status {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError if read == 0 && written == 0 => return Err(Fault::Ends.into()),
            Status::Ok | Status::BufError => {}
        }
    }
    if take_u32(bytes)? != crc.sum() {
        return Err(Fault::Broken("its checksum does not match").into());
    }
    if u64::from(take_u32(bytes)?) != inflate.total_out() & u64::from(u32::MAX) {
        return Err(Fault::Broken("its size does not match").into());
    }
    Ok(())
}

/// The checksum of gzip: RFC 1952, section 8. Eight bytes at a time, by tables that are made when they are
/// needed: flate2's are 16 kB of the program.
struct Crc {
    /// Behind how many zero bytes a byte does what to the sum: one, two, and so on.
    tables: [[u32; 256]; 8],
    sum: u32,
}

impl Crc {
    /// The polynomial, its highest power in the lowest bit.
    const POLYNOMIAL: u32 = 0xedb8_8320;

    fn new() -> Self {
        let mut tables = [[0; 256]; 8];
        for byte in 0..=u8::MAX {
            let mut sum = u32::from(byte);
            for table in &mut tables {
                for _ in 0..8 {
                    sum = sum >> 1 ^ if sum & 1 == 1 { Self::POLYNOMIAL } else { 0 };
                }
                if let Some(entry) = table.get_mut(usize::from(byte)) {
                    *entry = sum;
                }
            }
        }
        Self { tables, sum: u32::MAX }
    }

    fn update(&mut self, bytes: &[u8]) {
        let entry = |table: &[u32; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0);
        let [one, two, three, four, five, six, seven, eight] = &self.tables;
        let mut sum = self.sum;
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let [a, b, c, d, e, f, g, h] = (u64::from_le_bytes(*word) ^ u64::from(sum)).to_le_bytes();
            sum = entry(eight, a) ^ entry(seven, b) ^ entry(six, c) ^ entry(five, d);
            sum ^= entry(four, e) ^ entry(three, f) ^ entry(two, g) ^ entry(one, h);
        }
        for byte in rest {
            let [low, ..] = sum.to_le_bytes();
            sum = sum >> 8 ^ entry(one, low ^ byte);
        }
        self.sum = sum;
    }

    fn sum(&self) -> u32 {
        !self.sum
    }
}

/// Takes the header off: RFC 1952, section 2.3.
fn gzip_header(bytes: &mut &[u8]) -> Result<(), Fault> {
    const HEADER_CRC: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    const RESERVED: u8 = 0xe0;
    let header = take(bytes, 10)?;
    let [method, flags] = at(header, 2).unwrap_or_default();
    if method != 8 || flags & RESERVED != 0 {
        return Err(Fault::Broken("its header is of an unknown kind"));
    }
    if flags & EXTRA != 0 {
        let length = take(bytes, 2)?;
        take(bytes, at(length, 0).map_or(0, u16::from_le_bytes).into())?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = bytes.iter().position(|&byte| byte == 0).ok_or(Fault::Ends)?;
            take(bytes, end.saturating_add(1))?;
        }
    }
    if flags & HEADER_CRC != 0 {
        take(bytes, 2)?;
    }
    Ok(())
}

/// Whether a frame follows that a decoder has to pass over: RFC 8878, section 3.1.2.
fn skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// One frame of a zstd file.
fn frame(bytes: &mut &[u8], buffer: &mut [u8], sink: Sink<'_>) -> Result<(), Stop> {
    if skippable(bytes) {
        take(bytes, 4)?;
        let length = take_u32(bytes)?;
        take(bytes, usize::try_from(length).unwrap_or(usize::MAX))?;
        return Ok(());
    }
    let mut frame = zstd_frame(bytes)?;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW_MOST);
    let window = at(frame, 4).and_then(window_size);
    // No memory is taken before the first block.
    decoder.init(&mut frame).map_err(zstd_fault)?;
    let size = decoder.content_size();
    let ring = window.unwrap_or(size).next_power_of_two().saturating_add(RING_SLACK);
    sink(Step::Begin(Demand { buffer: ring, size })).map_err(Stop::Sink)?;
    let mut done = 0u64;
    while !decoder.is_finished() {
        decoder.decode_blocks(&mut frame, BlockDecodingStrategy::UptoBlocks(1)).map_err(zstd_fault)?;
        while decoder.can_collect() > 0 {
            let read = decoder.read(buffer).unwrap_or(0);
            if read == 0 {
                return Err(Fault::Broken("its compressed data is invalid").into());
            }
            done = done.saturating_add(read as u64);
            sink(Step::Bytes(buffer.get(..read).unwrap_or_default())).map_err(Stop::Sink)?;
        }
    }
    if size != 0 && size != done {
        return Err(Fault::Broken("its size does not match").into());
    }
    let checksum = decoder.get_checksum_from_data();
    if checksum.is_some() && checksum != decoder.get_calculated_checksum() {
        return Err(Fault::Broken("its checksum does not match").into());
    }
    Ok(())
}

/// What a frame header that begins like this has for a window, in bytes; None if all of the frame is its
/// window: RFC 8878, section 3.1.1.1.2.
fn window_size([descriptor, window]: [u8; 2]) -> Option<u64> {
    let base = 1024u64 << (window >> 3);
    (descriptor & SINGLE_SEGMENT == 0).then(|| base + base / 8 * u64::from(window & 7))
}

/// Takes a whole frame off, looking at the sizes in its headers only: RFC 8878, section 3.1.1.
fn zstd_frame<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    const CHECKSUM: u8 = 1 << 2;
    const RUN_LENGTH: u32 = 1;
    const RESERVED: u32 = 3;
    let whole = *bytes;
    let descriptor = take(bytes, 5)?.last().copied().unwrap_or(0);
    let single = descriptor & SINGLE_SEGMENT != 0;
    let dictionary = match descriptor & 3 {
        3 => 4,
        size => usize::from(size),
    };
    let content = match descriptor >> 6 {
        0 => usize::from(single),
        power => 1 << power,
    };
    take(bytes, usize::from(!single) + dictionary + content)?;
    loop {
        let block = take(bytes, 3)?;
        let block = block.iter().rev().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
        let size = match block >> 1 & 3 {
            RUN_LENGTH => 1,
            RESERVED => return Err(Fault::Broken("it has a block of an unknown kind")),
            _ => block >> 3,
        };
        take(bytes, usize::try_from(size).unwrap_or(usize::MAX))?;
        if block & 1 != 0 {
            break;
        }
    }
    if descriptor & CHECKSUM != 0 {
        take(bytes, 4)?;
    }
    Ok(whole.get(..whole.len().saturating_sub(bytes.len())).unwrap_or_default())
}

fn zstd_fault(error: FrameDecoderError) -> Fault {
    match error {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => Fault::Window(requested),
        FrameDecoderError::DictNotProvided { .. } => Fault::Broken("it needs a dictionary"),
        _ => Fault::Broken("its compressed data is invalid"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::{gzip, zstd};

    fn unpacked(bytes: &[u8]) -> Result<(Vec<u8>, usize), String> {
        let mut all = Vec::new();
        let compression = Compression::of(bytes).ok_or("not compressed")?;
        let done = unpack(compression, bytes, &mut |step| {
            if let Step::Bytes(chunk) = step {
                all.extend_from_slice(chunk);
            }
            Ok(())
        });
        match done {
            Ok(rest) => Ok((all, rest.len())),
            Err(Stop::Fault(fault)) => Err(fault.to_string()),
            Err(Stop::Sink(error)) => Err(error.to_string()),
        }
    }

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|number| format!("{number} ").into_bytes()).collect()
    }

    #[test]
    fn the_gzip_header_is_passed_over_with_all_it_may_hold() {
        let plain = gzip(&text());
        let mut full = vec![0x1f, 0x8b, 8, 0x1f, 0, 0, 0, 0, 0, 3];
        full.extend_from_slice(b"\x05\0extra");
        full.extend_from_slice(b"Image\0a comment\0\x12\x34");
        full.extend_from_slice(&plain[10..]);
        assert_eq!(unpacked(&full).unwrap(), (text(), 0));
        for length in 2..30 {
            let said = unpacked(&full[..length]).unwrap_err();
            assert!(said.contains("left") || said.contains("ends"), "{length}: {said}");
        }
        let broken = |at: usize, value: u8| {
            let mut bytes = plain.clone();
            bytes[at] = value;
            unpacked(&bytes).unwrap_err()
        };
        assert_eq!(broken(2, 7), "its header is of an unknown kind");
        assert_eq!(broken(3, 0x20), "its header is of an unknown kind");
    }

    #[test]
    fn the_checksum_is_gzips() {
        // The check value of CRC-32/ISO-HDLC.
        let mut known = Crc::new();
        known.update(b"123456789");
        assert_eq!(known.sum(), 0xcbf4_3926);
        let text = text();
        for (start, middle, end) in [(0, 0, 0), (0, 1, 2), (3, 8, 19), (1, 4097, 65_536), (7, 7, 99_999)] {
            let (mut ours, mut other) = (Crc::new(), flate2::Crc::new());
            for part in [&text[start..middle], &text[middle..end]] {
                ours.update(part);
                other.update(part);
            }
            assert_eq!(ours.sum(), other.sum(), "{start} {middle} {end}");
        }
    }

    #[test]
    fn what_is_too_long_or_broken_or_not_gzip_is_not_unpacked() {
        let text = text();
        let packed = gzip(&text);
        assert_eq!(gunzip(&packed, text.len()).as_ref(), Some(&text));
        assert_eq!(gunzip(&packed, text.len() - 1), None);
        assert_eq!(gunzip(&packed[..packed.len() - 9], text.len()), None);
        assert_eq!(gunzip(&zstd(&text), text.len()), None);
        assert_eq!(gunzip(b"", 1), None);
    }

    #[test]
    fn checksum_and_size_are_compared() {
        let whole = gzip(&text());
        let end = whole.len();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            unpacked(&bytes).unwrap_err()
        };
        assert_eq!(flipped(end - 8), "its checksum does not match");
        assert_eq!(flipped(end - 1), "its size does not match");
        let mut bytes = zstd(&text());
        let end = bytes.len();
        bytes[end - 1] ^= 1;
        assert_eq!(unpacked(&bytes).unwrap_err(), "its checksum does not match");
    }

    #[test]
    fn wherever_it_is_cut_it_is_truncated() {
        for whole in [gzip(&text()), zstd(&text())] {
            for length in (4..whole.len()).step_by(97).chain(whole.len() - 12..whole.len()) {
                let said = unpacked(&whole[..length]).unwrap_err();
                assert!(said.contains("left") || said == "it ends in the middle", "{length}: {said}");
            }
            assert_eq!(unpacked(&whole).unwrap(), (text(), 0));
        }
    }

    #[test]
    fn pieces_without_number_take_no_time_without_end() {
        // Each is empty.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        for piece in [&frame[..], &skipped] {
            assert_eq!(unpacked(&piece.repeat(65_536)).unwrap(), (vec![], 0));
            assert_eq!(unpacked(&piece.repeat(65_537)).unwrap_err(), "it has more than 65536 pieces");
        }
        assert_eq!(unpacked(&[gzip(b"a"), gzip(b"b")].concat()).unwrap(), (b"ab".to_vec(), 0));
    }

    #[test]
    fn what_a_frame_takes_is_told_before_it_is_unpacked() {
        let told = |bytes: &[u8]| {
            let mut all = Vec::new();
            let compression = Compression::of(bytes).unwrap();
            let done = unpack(compression, bytes, &mut |step| {
                match step {
                    Step::Begin(demand) => all.push(demand),
                    Step::Bytes(_) => assert!(!all.is_empty()),
                }
                Ok(())
            });
            assert!(done.is_ok());
            all
        };
        let demand = |window: u64, size| Demand { buffer: window + 256 * 1024, size };
        // Window descriptors: 128 MiB, 1 KiB, and 80 MiB, for which the ring has a power of two.
        for (window, expected) in [(17 << 3, 128 << 20), (0, 1024), (16 << 3 | 2, 128 << 20)] {
            let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, window, 9, 0, 0, b'x'];
            assert_eq!(told(&frame), [demand(expected, 0)]);
        }
        // One segment of 1 byte; a window of 2 KiB and 256 bytes in it.
        let segment = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 9, 0, 0, b'x'];
        let mut sized = vec![0x28, 0xb5, 0x2f, 0xfd, 0x40, 1 << 3, 0, 0, 3, 8, 0, b'x'];
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert_eq!(told(&[&segment[..], &skipped, &sized].concat()), [demand(1, 1), demand(2048, 256)]);
        assert_eq!(told(&[gzip(b"a"), gzip(b"b")].concat()), [Demand::default(); 2]);
        // What is refused is not told.
        sized[5] = 18 << 3;
        let sink = &mut |_: Step<'_>| unreachable!();
        assert!(matches!(unpack(Compression::Zstd, &sized, sink), Err(Stop::Fault(Fault::Window(_)))));
    }

    #[test]
    fn windows_and_dictionaries_have_limits() {
        // Window descriptors: RFC 8878, section 3.1.1.1.2. 17 is 128 MiB, and 18 twice as much.
        let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window << 3, 9, 0, 0, b'x'];
        assert_eq!(unpacked(&frame(17)).unwrap().0, b"x");
        assert_eq!(unpacked(&frame(18)).unwrap_err(), "its window of 268435456 bytes is over 128 MiB");
        // A frame that is one segment has its own size for a window: here 2^63.
        let huge = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80, 9, 0, 0, b'x'];
        assert!(unpacked(&huge).unwrap_err().contains("over 128 MiB"));
        let dictionary = [0x28, 0xb5, 0x2f, 0xfd, 1, 17 << 3, 7, 9, 0, 0, b'x'];
        assert_eq!(unpacked(&dictionary).unwrap_err(), "it needs a dictionary");
        let reserved = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 15, 0, 0, b'x'];
        assert_eq!(unpacked(&reserved).unwrap_err(), "it has a block of an unknown kind");
        // It says 2 bytes and holds 1.
        let short = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 2, 9, 0, 0, b'x'];
        assert_eq!(unpacked(&short).unwrap_err(), "its size does not match");
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, 1, 2];
        assert_eq!(unpacked(&skipped).unwrap_err(), "it promises 9 bytes more, 2 are left");
    }
}
