//! `phasectl initramfs`: an archive that a kernel can start from, made without root.
//!
//! phaseboot as /init, trusted keys, policy and build time in /etc/phaseboot, device nodes, and the
//! kernel modules that lead to the network. The same input at the same time gives the same bytes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use sha2::{Digest, Sha256};

use self::archive::{Archive, Node};
use self::modules::{Modules, Packed};
use self::trust::TrustFiles;
use super::files;
use super::options::Output;
use super::output;
use crate::arch::Arch;
use crate::config::Policy;
use crate::manifest::keys;
use crate::time::UnixTime;

pub mod archive;
mod modules;
mod program;
mod trust;

/// A payload or another file of the archive is not larger: machines hold all of it in memory.
const FILE_LIMIT: u64 = 1024 * 1024 * 1024;
/// Passes of zopfli: 15 take a third longer than 5 and save 0.1 %.
const ZOPFLI_PASSES: u64 = 5;

#[derive(Args, Debug)]
pub struct Arguments {
    /// The archive to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The static program `phaseboot` for the machines that boot this
    #[arg(long, value_name = "PHASEBOOT")]
    payload: PathBuf,
    /// Public key to trust, or a file of several; several may be given
    #[arg(long, value_name = "PUB", required_unless_present = "no_keys")]
    key: Vec<PathBuf>,
    /// Trust no key: for an archive whose keys are added later
    #[arg(long, conflicts_with = "key")]
    no_keys: bool,
    /// Trust policy [default: none, which means phaseboot's defaults]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Key list that the keys have signed: the oldest that machines will believe, and the one they
    /// use where a provider serves none
    #[arg(long, value_name = "FILE", conflicts_with = "no_keys")]
    key_list: Option<PathBuf>,
    /// Authority for https that the policy's tls_roots names, as a PEM file; several may be given
    #[arg(long, value_name = "PEM", requires = "policy")]
    tls_root: Vec<PathBuf>,
    /// Architecture: x86_64 or arm64 [default: that of the payload]
    #[arg(long)]
    arch: Option<Arch>,
    /// Folder lib/modules/RELEASE of the kernel that starts this archive
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Kernel module to take from there, with what it depends on; several may be given
    /// [default: the common drivers of network cards and disks, ext4, FAT and the firmware's variables]
    #[arg(long, value_name = "NAME", requires = "modules")]
    module: Vec<String>,
    /// Another file for the archive; several may be given
    #[arg(long, value_name = "SRC:DEST", value_parser = archive::parse_file)]
    file: Vec<(PathBuf, String)>,
    /// A program of the archive to start as /init; phaseboot is then /bin/phaseboot
    #[arg(long, value_name = "PATH")]
    init: Option<String>,
    /// Leave out /dev/console, /dev/null and /dev/kmsg
    #[arg(long)]
    no_device_nodes: bool,
    /// How hard to compress: best is about 4 % smaller and takes some twenty times as long
    #[arg(long, value_enum, default_value_t = Compress::Fast)]
    compress: Compress,
    /// Modification time of every file and build time, in seconds since 1970
    /// [default: $SOURCE_DATE_EPOCH, else 0 for the files and now for the build time]
    #[arg(long, value_name = "SECONDS")]
    mtime: Option<u32>,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compress {
    /// gzip by zopfli: seconds
    Best,
    /// gzip -9: 4 % larger
    Fast,
    /// Not at all
    None,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let built = built(arguments)?;
    let payload = files::read(&arguments.payload, FILE_LIMIT)?;
    let arch = payload_arch(&payload, &arguments.payload, arguments.arch)?;

    let mut archive = Archive::default();
    folders(&mut archive)?;
    if !arguments.no_device_nodes {
        device_nodes(&mut archive)?;
    }
    let payload_size = payload.len();
    for (source, destination) in &arguments.file {
        add_file(&mut archive, source, destination, arch)?;
    }
    add_payload(&mut archive, payload, arguments.init.as_deref())?;
    let build_time = built.map_or_else(UnixTime::now, |seconds| UnixTime(seconds.into()));
    let mut trust = TrustFiles::default();
    trust.add_keys(&arguments.key)?;
    if let Some(path) = &arguments.policy {
        trust.add_policy(path, !arguments.no_keys)?;
    }
    if let Some(path) = &arguments.key_list {
        trust.add_key_list(path)?;
    }
    trust.add_tls_roots(&arguments.tls_root, &archive)?;
    let line = format!("{build_time}\n").into_bytes();
    trust.add("build-time", line);
    let (keys, policy) = (trust.keys.clone(), trust.policy.clone());
    trust.pack(&mut archive)?;
    // Without keys it is not yet what a machine will trust.
    if !arguments.no_keys {
        trust::check(&archive, build_time)?;
    }
    let packed = match &arguments.modules {
        Some(folder) => Some(Modules::open(folder)?.pack(&arguments.module, &mut archive, arch)?),
        None => None,
    };
    program::check_start(&archive, "/bin/phaseboot", arch)
        .and_then(|()| program::check_start(&archive, "/init", arch))
        .with_context(|| format!("this archive cannot start on {arch}"))?;

    let unpacked = archive.write(Vec::new(), built.unwrap_or(0))?;
    let bytes = output::patiently("compressing", || compress(&unpacked, arguments.compress))?;
    files::write(&arguments.out, &bytes)?;
    Summary {
        out: &arguments.out,
        arch,
        size: bytes.len(),
        unpacked: unpacked.len(),
        sha256: keys::hex(&Sha256::digest(&bytes)),
        entries: archive.entries(),
        payload_size,
        keys,
        policy,
        build_time,
        packed,
    }
    .print(arguments.output.json)
}

/// The time that the builder asks for, in seconds since 1970.
fn built(arguments: &Arguments) -> Result<Option<u32>> {
    match (arguments.mtime, std::env::var("SOURCE_DATE_EPOCH")) {
        (Some(mtime), _) => Ok(Some(mtime)),
        (None, Ok(text)) => text
            .parse()
            .map(Some)
            .with_context(|| format!("SOURCE_DATE_EPOCH is not a number of seconds: \"{text}\"")),
        (None, Err(_)) => Ok(None),
    }
}

fn payload_arch(payload: &[u8], path: &Path, wanted: Option<Arch>) -> Result<Arch> {
    let what = format!("payload {}", path.display());
    let found = program::arch(payload, &what)?.ok_or_else(|| anyhow!("{what} is not an ELF program"))?;
    match wanted {
        Some(wanted) if wanted != found => bail!("{what} is for {found}, the archive for {wanted}"),
        _ => Ok(found),
    }
}

fn folders(archive: &mut Archive) -> Result<()> {
    for name in ["bin", "dev", "etc", "proc", "run", "sys"] {
        archive.add(name, 0o755, Node::Directory)?;
    }
    archive.add("tmp", 0o1777, Node::Directory)
}

/// Documentation/admin-guide/devices.txt
fn device_nodes(archive: &mut Archive) -> Result<()> {
    archive.add("dev/console", 0o600, Node::Device { major: 5, minor: 1 })?;
    archive.add("dev/kmsg", 0o644, Node::Device { major: 1, minor: 11 })?;
    archive.add("dev/null", 0o666, Node::Device { major: 1, minor: 3 })
}

/// phaseboot is /init and /bin/phaseboot, unless another program is to be /init.
fn add_payload(archive: &mut Archive, payload: Vec<u8>, init: Option<&str>) -> Result<()> {
    let link = |target: &str| Node::Symlink(target.to_owned());
    match init {
        None => {
            archive.add("init", 0o755, Node::File(payload))?;
            archive.add("bin/phaseboot", 0o777, link("../init"))
        }
        Some(path) => {
            archive.add("bin/phaseboot", 0o755, Node::File(payload))?;
            if path.trim_start_matches('/') == "init" {
                return Ok(());
            }
            archive.add("init", 0o777, link(&format!("/{}", path.trim_start_matches('/'))))
        }
    }
}

fn add_file(archive: &mut Archive, source: &Path, destination: &str, arch: Arch) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = files::open(source)?;
    let is_program = file.metadata()?.permissions().mode() & 0o111 != 0;
    let bytes = files::read_from(&file, source, FILE_LIMIT)?;
    if is_program {
        // Firmware can be an ELF file of any machine; a program cannot.
        program::check_arch(&bytes, &format!("program {}", source.display()), arch)?;
    }
    archive.add(destination, if is_program { 0o755 } else { 0o644 }, Node::File(bytes))
}

fn compress(bytes: &[u8], how: Compress) -> Result<Vec<u8>> {
    match how {
        Compress::Best => {
            let options = zopfli::Options {
                iteration_count: ZOPFLI_PASSES.try_into().context("no passes")?,
                ..zopfli::Options::default()
            };
            let mut compressed = Vec::new();
            zopfli::compress(options, zopfli::Format::Gzip, bytes, &mut compressed)
                .context("cannot compress")?;
            Ok(compressed)
        }
        Compress::Fast => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).context("cannot compress")
        }
        Compress::None => Ok(bytes.to_vec()),
    }
}

/// What was made.
struct Summary<'a> {
    out: &'a Path,
    arch: Arch,
    size: usize,
    unpacked: usize,
    sha256: String,
    entries: usize,
    payload_size: usize,
    keys: Vec<String>,
    policy: Option<Policy>,
    build_time: UnixTime,
    packed: Option<Packed>,
}

impl Summary<'_> {
    fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            return output::json(&json!({
                "out": self.out,
                "arch": self.arch.name(),
                "size": self.size,
                "unpacked_size": self.unpacked,
                "hash": format!("sha256:{}", self.sha256),
                "entries": self.entries,
                "payload_size": self.payload_size,
                "keyids": self.keys,
                "policy": self.policy.is_some(),
                "build_time": self.build_time.to_string(),
                "modules": self.packed,
            }));
        }
        let bytes = |count: usize| output::bytes(u64::try_from(count).unwrap_or(u64::MAX));
        output::line(format_args!(
            "{}: {}, {} unpacked, {} files, {}",
            self.out.display(),
            bytes(self.size),
            bytes(self.unpacked),
            self.entries,
            self.arch
        ))?;
        output::line(format_args!("  payload {}", bytes(self.payload_size)))?;
        match self.keys.as_slice() {
            [] if self.policy.as_ref().is_some_and(|policy| policy.allow_unsigned) => {
                output::line("  keys    NONE: the policy lets anybody's manifest boot")?
            }
            [] => {
                output::line("  keys    NONE: phaseboot will boot nothing until /etc/phaseboot/keys has one")?
            }
            keys => output::line(format_args!("  keys    {}", keys.join(", ")))?,
        }
        output::line(format_args!("  policy  {}", if self.policy.is_some() { "given" } else { "defaults" }))?;
        output::line(format_args!("  built   {}", self.build_time))?;
        if let Some(packed) = &self.packed {
            let Packed { release, modules, size } = packed;
            let size = output::bytes(*size);
            output::line(format_args!("  modules {size} for {release}: {}", modules.join(" ")))?;
        }
        output::line(format_args!("  sha256:{}", self.sha256))
    }
}
