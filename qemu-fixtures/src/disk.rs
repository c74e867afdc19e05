//! Disks of machines: raw images with a file system in them, made and read without root and mounts.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::apt::hex;
use crate::run;

/// Bytes of an image, most of which it never takes up.
const SIZE: u64 = 32 << 20;
/// Where a partition begins (bytes).
const FIRST_PARTITION: u64 = 1 << 20;
/// phaseboot's folder on a cache partition.
const FOLDER: &str = "phaseboot";
/// Its record there.
const RECORD: &str = "seen.json";
/// Where Debian keeps the programs for disks: not in everybody's PATH.
const SBIN: &str = "/usr/sbin";

/// A disk on which phaseboot may keep its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) format: Format,
    /// What is there as phaseboot's record before the machine is started for the first time.
    pub(crate) record: Option<&'static str>,
    /// As a power cut leaves it: whoever mounts it first replays its journal, unless told not to.
    pub(crate) unclean: bool,
}

/// How phaseboot can tell that it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// ext4 over the whole disk, labelled `PHASE_CACHE`.
    Ext4,
    /// ext4 without a label, in the one partition of a GPT: that is named `Phase Cache`.
    GptName,
    /// FAT over the whole disk, labelled `PHASE_CACHE`.
    Fat,
}

impl Disk {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format, record: None, unclean: false }
    }

    /// Makes its image.
    pub(crate) fn make(&self, image: &Path) -> Result<()> {
        File::create(image)
            .and_then(|file| file.set_len(SIZE))
            .with_context(|| format!("cannot create {}", image.display()))?;
        if self.format == Format::Fat {
            ensure!(self.record.is_none() && !self.unclean, "a FAT disk starts empty");
            return run::quiet(program("mkfs.vfat").args(["-n", "PHASE_CACHE"]).arg(image));
        }
        let content = image.with_extension("content");
        fs::create_dir(&content)?;
        if let Some(record) = self.record {
            fs::create_dir(content.join(FOLDER))?;
            fs::write(content.join(FOLDER).join(RECORD), record)?;
        }
        let mut mkfs = program("mkfs.ext4");
        mkfs.args(["-q", "-F", "-b", "1024"]).arg("-d").arg(&content);
        if self.format == Format::GptName {
            partition(image)?;
            // A mebibyte each for the partition's start and the second GPT behind it.
            let blocks = (SIZE - 2 * FIRST_PARTITION) / 1024;
            mkfs.args(["-E", &format!("offset={FIRST_PARTITION}")]).arg(image).arg(blocks.to_string());
        } else {
            mkfs.args(["-L", "PHASE_CACHE"]).arg(image);
        }
        run::quiet(&mut mkfs)?;
        if self.unclean {
            run::quiet(program("debugfs").args(["-w", "-R", "feature needs_recovery"]).arg(image))?;
        }
        Ok(())
    }

    /// phaseboot's record in an image; empty if there is none.
    pub(crate) fn record(&self, image: &Path) -> Result<String> {
        ensure!(self.format != Format::Fat, "records are read from ext4 only");
        let mut place = image.as_os_str().to_owned();
        if self.format == Format::GptName {
            place.push(format!("?offset={FIRST_PARTITION}"));
        }
        run::text(program("debugfs").args(["-R", &format!("cat /{FOLDER}/{RECORD}")]).arg(place))
    }
}

/// A GPT with one partition.
fn partition(image: &Path) -> Result<()> {
    let mut sfdisk = program("sfdisk");
    sfdisk.arg("--quiet").arg(image).stdin(Stdio::piped());
    let mut child = sfdisk.spawn().context("cannot run sfdisk; run: cargo lab setup")?;
    let script = format!(
        "label: gpt\nstart={}, size={}, name=\"Phase Cache\"\n",
        FIRST_PARTITION / 512,
        (SIZE - 2 * FIRST_PARTITION) / 512
    );
    child.stdin.take().context("sfdisk has no input")?.write_all(script.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "sfdisk failed ({status})");
    Ok(())
}

fn program(name: &str) -> Command {
    Command::new(Path::new(SBIN).join(name))
}

/// The SHA-256 of a file, in hex.
pub(crate) fn checksum(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

/// Whether the variables of a UEFI firmware have one of this name: UCS-2, as the flash has it.
pub(crate) fn has_variable(flash: &Path, name: &str) -> Result<bool> {
    let bytes = fs::read(flash).with_context(|| format!("cannot read {}", flash.display()))?;
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    Ok(bytes.windows(name.len()).any(|window| window == name))
}
