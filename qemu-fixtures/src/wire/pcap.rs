//! What was on the wire, for tcpdump and Wireshark: a classic pcap file, bounded in size.
//! Source: pcap-savefile(5).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Of each frame this much is kept: DHCP messages whole, of a download the headers (bytes).
const SNAPPED: usize = 640;
/// Of all frames together (bytes).
const MOST: usize = 8_000_000;
/// LINKTYPE_ETHERNET
const ETHERNET: u32 = 1;

#[derive(Debug)]
pub(super) struct Pcap {
    file: BufWriter<File>,
    left: usize,
}

impl Pcap {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut file = BufWriter::new(file);
        file.write_all(&header())?;
        Ok(Self { file, left: MOST })
    }

    /// Writes a frame, unless there were too many. What cannot be written is not worth a failed test.
    pub(super) fn record(&mut self, frame: &[u8]) {
        let kept = &frame[..frame.len().min(SNAPPED)];
        let Some(left) = self.left.checked_sub(16 + kept.len()) else { return };
        self.left = left;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = u32::try_from(since_1970.as_secs()).unwrap_or(u32::MAX);
        let fields = [seconds, since_1970.subsec_micros(), length(kept), length(frame)];
        let head = fields.map(u32::to_le_bytes).concat();
        let _ = self.file.write_all(&head).and_then(|()| self.file.write_all(kept));
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn header() -> Vec<u8> {
    let mut header = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    header.extend([2_u16, 4].map(u16::to_le_bytes).concat());
    header.extend([0, 0, 0x4_0000, ETHERNET].map(u32::to_le_bytes).concat());
    header
}
