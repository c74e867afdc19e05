//! `phasectl publish`: artifacts and signed manifests in DIR/CHANNEL/ARCH, ready for any static
//! HTTP server.
//!
//! Artifacts get names that never change their content, and manifests take their names last: a
//! client that reads the tree at any moment sees one complete release, the old one or the new one.
//! Everything is on the disk and verified before the first name is given. What phaseboot would
//! refuse is not published: its own code judges kernel, command line and manifest.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use super::document::Document;
use super::files::{self, Pending};
use super::judge::Judge;
use super::options::{self, Machines, Output, PerArch};
use super::output;
use super::passphrase::PassphraseFiles;
use super::place::{self, Last, Place, Stored, Tree};
use super::signing::Signing;
use crate::arch::Arch;
use crate::devicetree;
use crate::fetch::operator;
use crate::image::{self, KernelImage};
use crate::kexec::{self, cmdline};
use crate::manifest::{self, Manifest, TrustedKey, is_dtb_name};
use crate::time::UnixTime;

/// The version of the manifest format.
const FORMAT: &str = "0.1";
/// 1 GiB: no kernel is larger.
const KERNEL_LIMIT: u64 = 1 << 30;
/// 2 MiB: Documentation/arch/arm64/booting.rst.
const DTB_LIMIT: u64 = 2 << 20;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Private key to sign with; several make several signatures
    #[arg(long, value_name = "FILE", required_unless_present = "draft")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseFiles,
    /// Root of the tree that is served
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// Channel the release belongs to
    #[arg(long, default_value = "stable", value_parser = options::channel)]
    channel: String,
    /// Architecture of what is given without ARCH= in front: x86_64 or arm64 [default: that of the
    /// kernel]
    #[arg(long)]
    arch: Option<Arch>,
    /// Kernel: a bzImage (x86_64) or an uncompressed Image (arm64); one for each architecture
    #[arg(long, value_name = "[ARCH=]FILE", required = true)]
    kernel: Vec<PerArch>,
    /// Initramfs, as the kernel takes it; one for each architecture
    #[arg(long, value_name = "[ARCH=]FILE", required = true)]
    initramfs: Vec<PerArch>,
    /// Root file system for the next system
    #[arg(long, value_name = "[ARCH=]FILE")]
    rootfs: Vec<PerArch>,
    /// Device tree, under its file name; several may be given
    #[arg(long, value_name = "[ARCH=]FILE")]
    dtb: Vec<PerArch>,
    /// Kernel command line; without ARCH= for every architecture that has none of its own
    #[arg(long, value_name = "[ARCH=]STR")]
    cmdline: Vec<PerArch>,
    /// How long the manifest is valid: a number of minutes, hours, days or weeks (90m, 12h, 30d, 4w)
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = options::duration)]
    expires: Duration,
    /// Version of the release [default: one more than the last one published there]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    manifest_version: Option<u64>,
    /// URL of the tree's root, for absolute artifact URLs; several are mirrors of each other
    /// [default: URLs relative to the manifest, so that the tree can be moved]
    #[arg(long, value_name = "URL", value_parser = options::url)]
    url_base: Vec<String>,
    /// URL of a copy of the tree, to be tried after those; several may be given
    #[arg(long, value_name = "URL", value_parser = options::url)]
    mirror: Vec<String>,
    /// Put the artifacts into the tree, but the manifest into this file, for others to sign before
    /// `phasectl sign --into` makes it live; of several architectures each has its own, FILE-ARCH
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,
    #[command(flatten)]
    machines: Machines,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let trust = arguments.machines.trust()?;
    let keys = Signing::read_all(&arguments.key, arguments.passphrase.passphrases())?;
    let sources = sources(arguments)?;

    let tree = Tree::share(&arguments.into)?;
    let key_list = tree.read_key_list()?;
    let signers = keys.iter().map(Signing::trusted).collect::<Result<Vec<_>>>()?;
    let judge = Judge::of_tree(&tree, key_list.clone(), trust, signers.clone())?;
    let now = UnixTime::now();
    let mut releases = Vec::new();
    for source in &sources {
        let place = tree.place(&arguments.channel, source.arch)?;
        let last = last(&place, &judge, &signers, arguments)?;
        let mut release = Release::store(source, place, last.as_ref(), arguments, now)?;
        for key in &keys {
            release.document.sign(key)?;
        }
        if arguments.draft.is_none() {
            let name = release.place.manifest().display().to_string();
            let expected = release.place.expected(Some(now));
            judge.manifest(&release.document.bytes()?, &name, expected).map_err(refused)?;
        }
        releases.push(release);
    }

    let mut manifests = Vec::new();
    for release in &mut releases {
        let bytes = release.document.bytes()?;
        match &arguments.draft {
            Some(path) => {
                release.path = if sources.len() > 1 { with_arch(path, release.arch) } else { path.clone() };
                manifests.push(Pending::whole(&release.path, &bytes)?);
            }
            None => manifests.append(&mut release.place.prepare(&bytes, key_list.as_deref())?),
        }
    }
    let artifacts = releases.iter_mut().flat_map(|release| &mut release.artifacts);
    let artifacts: Vec<Pending> = artifacts.filter_map(|stored| stored.pending.take()).collect();
    artifacts.into_iter().chain(manifests).try_for_each(Pending::commit)?;
    releases.iter().for_each(|release| release.place.announce());
    print(&releases, &keys, arguments)
}

/// What was published last. Its version is only counted on if it is one of ours: anybody who can
/// write into the tree could have set it to the highest there is.
fn last(place: &Place, judge: &Judge, signers: &[TrustedKey], arguments: &Arguments) -> Result<Option<Last>> {
    let Some(last) = place.last()? else { return Ok(None) };
    let is_ours = signers.iter().any(|key| last.document.is_signed_by(key)) || {
        let expected = place.expected(None);
        arguments.machines.are_known() && judge.manifest(&last.document.bytes()?, "", expected).is_ok()
    };
    if !is_ours && arguments.manifest_version.is_none() {
        let (by_whom, what) = if arguments.machines.are_known() {
            ("by none of the keys, and machines would refuse it", "--manifest-version")
        } else {
            ("by none of the keys", "--trust or --manifest-version")
        };
        let manifest = place.manifest();
        bail!(
            "cannot tell which version was published last: {} is signed {by_whom}; give {what}",
            manifest.display()
        );
    }
    Ok(Some(last))
}

fn refused(error: manifest::Error) -> anyhow::Error {
    anyhow!("not published, because phaseboot would refuse it: {error}; {}", error.hint())
}

/// `draft.json` of `arm64` is `draft-arm64.json`.
fn with_arch(path: &Path, arch: Arch) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{arch}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

/// What is to be published for one architecture.
struct Source<'a> {
    arch: Arch,
    kernel: (&'a Path, Vec<u8>),
    initramfs: &'a Path,
    rootfs: Option<&'a Path>,
    dtbs: Vec<(String, &'a Path, Vec<u8>)>,
    cmdline: String,
}

/// The architectures of a publication, and how the values of an option are spread over them.
struct Arches {
    known: Vec<Arch>,
    default: Option<Arch>,
}

impl Arches {
    /// The values of an option that are for `arch`.
    fn all<'a>(&self, arch: Arch, option: &str, given: &'a [PerArch]) -> Result<Vec<&'a str>> {
        let mut values = Vec::new();
        for PerArch { arch: named, value } in given {
            let belongs = match (named.or(self.default), self.known.as_slice()) {
                (Some(named), known) if known.contains(&named) => named,
                (Some(named), _) => bail!("--{option} is given for {named}, which has no --kernel"),
                (None, &[only]) => only,
                (None, _) => bail!("--{option} {value}: for which architecture? Put ARCH= in front"),
            };
            if belongs == arch {
                values.push(value.as_str());
            }
        }
        Ok(values)
    }

    /// [`Self::all`] of an option that may be given once for each architecture.
    fn one<'a>(&self, arch: Arch, option: &str, given: &'a [PerArch]) -> Result<Option<&'a str>> {
        match self.all(arch, option, given)?.as_slice() {
            [] => Ok(None),
            &[value] => Ok(Some(value)),
            _ => bail!("--{option} is given twice for {arch}"),
        }
    }
}

/// Sorts the arguments by architecture, and refuses what phaseboot could not load there.
fn sources(arguments: &Arguments) -> Result<Vec<Source<'_>>> {
    let mut kernels: Vec<(Arch, Reader, &Path, Vec<u8>)> = Vec::new();
    for PerArch { arch, value } in &arguments.kernel {
        let path = Path::new(value);
        let bytes = files::read(path, KERNEL_LIMIT)?;
        let kernel = identify("kernel", &bytes, arch.or(arguments.arch))
            .map_err(|error| anyhow!("{value}: {error}; {}", error.hint()))?;
        let arch = kernel.header().arch();
        ensure!(kernels.iter().all(|kernel| kernel.0 != arch), "--kernel is given twice for {arch}");
        kernels.push((arch, Reader::of(&kernel), path, bytes));
    }
    let arches = Arches { known: kernels.iter().map(|kernel| kernel.0).collect(), default: arguments.arch };
    let mut sources = Vec::new();
    for (arch, reader, path, bytes) in kernels {
        let (own, common): (Vec<PerArch>, Vec<PerArch>) =
            arguments.cmdline.iter().cloned().partition(|given| given.arch.is_some());
        let line = arches.one(arch, "cmdline", &own)?.map(str::to_owned);
        ensure!(common.len() < 2, "--cmdline is given twice");
        let cmdline = line.or_else(|| common.first().map(|given| given.value.clone())).unwrap_or_default();
        reader.fits("--cmdline", &cmdline)?;
        let initramfs = arches
            .one(arch, "initramfs", &arguments.initramfs)?
            .ok_or_else(|| anyhow!("--initramfs is missing for {arch}"))?;
        let dtbs = arches.all(arch, "dtb", &arguments.dtb)?.into_iter().map(Path::new);
        sources.push(Source {
            arch,
            kernel: (path, bytes),
            initramfs: Path::new(initramfs),
            rootfs: arches.one(arch, "rootfs", &arguments.rootfs)?.map(Path::new),
            dtbs: dtbs.map(read_dtb).collect::<Result<_>>()?,
            cmdline,
        });
    }
    Ok(sources)
}

/// Who is to read a command line.
#[derive(Default)]
struct Reader {
    /// In bytes; None where the kernel is not at hand.
    limit: Option<usize>,
    /// What a unified kernel image brings, which counts where no other is given.
    own: String,
}

impl Reader {
    fn of(kernel: &KernelImage) -> Self {
        let own = kernel.cmdline().unwrap_or_default().to_owned();
        Self { limit: Some(kexec::cmdline_limit(kernel.header())), own }
    }

    /// Machines may add to a command line: this is the least that has to fit.
    fn fits(&self, name: &str, line: &str) -> Result<()> {
        let (name, line) = match line.trim() {
            "" => ("the unified kernel image's own command line", self.own.as_str()),
            _ => (name, line),
        };
        cmdline::compose(line, "", &[], "", self.limit.unwrap_or(usize::MAX))
            .map_err(|error| anyhow!("{name}: {error}; {}", error.hint()))?;
        Ok(())
    }
}

/// Refuses a manifest whose kernel, device trees or command line phaseboot could not load, as far as
/// they lie in `folder`.
pub fn check_bootable(manifest: &Manifest, arch: Arch, folder: &Path) -> Result<()> {
    let mut reader = Reader::default();
    if let Some(path) = place::find_artifact(&manifest.kernel, folder)? {
        let kernel = identify("kernel", &files::read(&path, KERNEL_LIMIT)?, Some(arch))
            .map_err(|error| anyhow!("{}: {error}; {}", path.display(), error.hint()))?;
        reader = Reader::of(&kernel);
    }
    for spec in manifest.dtbs.values() {
        if let Some(path) = place::find_artifact(spec, folder)? {
            let bytes = files::read(&path, DTB_LIMIT)?;
            devicetree::source(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        }
    }
    reader.fits("cmdline", &manifest.cmdline)
}

/// What the kernel `name` is, whatever it is wrapped in, and for which architecture; for `wanted` if
/// that is given.
pub fn identify(
    name: &'static str,
    mut bytes: &[u8],
    wanted: Option<Arch>,
) -> Result<KernelImage, image::Error> {
    let size = bytes.len() as u64;
    let artifact = operator::vouched(name, &mut bytes, size).map_err(|error| image::Error::Memory {
        name,
        size,
        error: io::Error::other(error),
    })?;
    match wanted {
        Some(arch) => KernelImage::from_artifact(artifact, arch),
        None => KernelImage::examine(artifact, &image::at_most(image::MOST_UNPACKED)),
    }
}

/// A device tree that phaseboot can read, under the name of its file.
fn read_dtb(path: &Path) -> Result<(String, &Path, Vec<u8>)> {
    let bytes = files::read(path, DTB_LIMIT)?;
    devicetree::source(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_dtb_name(name));
    let name = name.ok_or_else(|| {
        anyhow!(
            "{}: letters, digits, '.', '_', ',', '+' and '-' only in a device tree's name",
            path.display()
        )
    })?;
    Ok((name.to_owned(), path, bytes))
}

/// A release whose artifacts are on the disk, without names as yet.
struct Release {
    arch: Arch,
    /// Gone before the place is, which goes too if it is empty.
    artifacts: Vec<Stored>,
    place: Place,
    document: Document,
    version: u64,
    expires: UnixTime,
    /// Where its manifest goes.
    path: PathBuf,
}

impl Release {
    fn store(
        source: &Source<'_>,
        place: Place,
        last: Option<&Last>,
        arguments: &Arguments,
        now: UnixTime,
    ) -> Result<Self> {
        let version = next_version(last.map(|last| last.version), arguments.manifest_version)?;
        let bases: Vec<&String> = arguments.url_base.iter().chain(&arguments.mirror).collect();
        let mut stored = Vec::new();
        let mut describe = |artifact: Stored| {
            let name = &artifact.name;
            let absolute = |base: &&String| format!("{base}/{}/{name}", place.relative().display());
            let mut urls: Vec<String> = bases.iter().map(absolute).collect();
            if arguments.url_base.is_empty() {
                urls.insert(0, name.clone());
            }
            let description = json!({
                "hash": format!("sha256:{}", artifact.content.hex()),
                "size": artifact.content.size,
                "urls": urls,
            });
            stored.push(artifact);
            description
        };
        let file = |path: &Path, kind: &str| -> Result<Stored> {
            let mut file = files::open(path)?;
            let size = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?.len();
            Stored::copy(path, &mut file, size, kind, kind, &place)
        };
        let bytes = |path: &Path, bytes: &[u8], kind: &str, label: &str| -> Result<Stored> {
            Stored::copy(path, &mut &*bytes, u64::try_from(bytes.len())?, kind, label, &place)
        };
        let mut artifacts = Map::new();
        let kernel = describe(bytes(source.kernel.0, &source.kernel.1, "kernel", "kernel")?);
        artifacts.insert("kernel".to_owned(), kernel);
        artifacts.insert("initramfs".to_owned(), describe(file(source.initramfs, "initramfs")?));
        if let Some(path) = source.rootfs {
            artifacts.insert("rootfs".to_owned(), describe(file(path, "rootfs")?));
        }
        let mut dtbs = Map::new();
        for (name, path, tree) in &source.dtbs {
            let is_new = dtbs.insert(name.clone(), describe(bytes(path, tree, "dtb", name)?)).is_none();
            ensure!(is_new, "--dtb {name} is given twice for {}", source.arch);
        }
        if !dtbs.is_empty() {
            artifacts.insert("dtbs".to_owned(), dtbs.into());
        }
        let expires = UnixTime(now.0.saturating_add(arguments.expires.as_secs()));
        let release = json!({
            "version": FORMAT,
            "manifest_version": version,
            "channel": arguments.channel,
            "arch": source.arch.name(),
            "created_at": now.to_string(),
            "expires_at": expires.to_string(),
            "artifacts": artifacts,
            "cmdline": source.cmdline,
        });
        if let Some(last) = last {
            last.permits(version, &release)?;
        }
        let path = place.manifest();
        let document = Document::new(release, &path.display().to_string()).map_err(refused)?;
        Ok(Self { arch: source.arch, place, document, artifacts: stored, version, expires, path })
    }

    fn describe(&self, keys: &[Signing], channel: &str) -> Value {
        let artifacts = self.artifacts.iter().map(|stored| (stored.label.clone(), stored.describe()));
        json!({
            "manifest": self.path,
            "manifest_version": self.version,
            "channel": channel,
            "arch": self.arch.name(),
            "expires_at": self.expires.to_string(),
            "keyids": keys.iter().map(Signing::id).collect::<Vec<_>>(),
            "artifacts": artifacts.collect::<Map<_, _>>(),
        })
    }
}

fn next_version(last: Option<u64>, wanted: Option<u64>) -> Result<u64> {
    let last = last.unwrap_or(0);
    let next = last.checked_add(1).ok_or_else(|| anyhow!("manifest version {last} leaves no higher one"))?;
    Ok(wanted.unwrap_or(next))
}

fn print(releases: &[Release], keys: &[Signing], arguments: &Arguments) -> Result<()> {
    if arguments.output.json {
        let releases: Vec<Value> =
            releases.iter().map(|release| release.describe(keys, &arguments.channel)).collect();
        return output::json(&json!({ "draft": arguments.draft.is_some(), "releases": releases }));
    }
    let done = if arguments.draft.is_some() { "drafted" } else { "published" };
    for release in releases {
        output::line(format_args!(
            "{done} {} version {}",
            release.place.relative().display(),
            release.version
        ))?;
        for Stored { name, content, .. } in &release.artifacts {
            let size = output::bytes(content.size);
            output::line(format_args!("  {name:<26} {size:>9}  sha256:{}", content.hex()))?;
        }
        let ids: Vec<String> = keys.iter().map(Signing::id).collect();
        let signed = if ids.is_empty() {
            "not signed yet".to_owned()
        } else {
            format!("signed by {}", ids.join(", "))
        };
        output::line(format_args!(
            "  {}  {signed}, valid until {}",
            release.path.display(),
            release.expires
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_only_rise() {
        assert_eq!(next_version(None, None).unwrap(), 1);
        assert_eq!(next_version(None, Some(7)).unwrap(), 7);
        assert_eq!(next_version(Some(7), None).unwrap(), 8);
        assert!(next_version(Some(u64::MAX), None).is_err());
    }

    #[test]
    fn values_go_to_their_architecture() {
        let given = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<PerArch>>();
        let both = Arches { known: vec![Arch::X86_64, Arch::Aarch64], default: None };
        let files = given(&["x86_64=a", "arm64=b"]);
        assert_eq!(both.one(Arch::Aarch64, "initramfs", &files).unwrap(), Some("b"));
        assert!(both.one(Arch::Aarch64, "initramfs", &given(&["b"])).is_err(), "of which?");
        let one = Arches { known: vec![Arch::Aarch64], default: None };
        assert_eq!(one.one(Arch::Aarch64, "rootfs", &given(&["b"])).unwrap(), Some("b"));
        assert!(one.one(Arch::Aarch64, "rootfs", &files).is_err(), "no kernel for the other");
        assert!(one.one(Arch::Aarch64, "rootfs", &given(&["a", "b"])).is_err(), "twice");
        let named = Arches { default: Some(Arch::X86_64), ..both };
        assert_eq!(named.all(Arch::X86_64, "dtb", &given(&["a", "b", "arm64=c"])).unwrap(), ["a", "b"]);
    }

    #[test]
    fn drafts_of_several_architectures_have_their_own_names() {
        assert_eq!(with_arch(Path::new("a/d.json"), Arch::Aarch64), Path::new("a/d-arm64.json"));
        assert_eq!(with_arch(Path::new("d"), Arch::X86_64), Path::new("d-x86_64"));
    }
}
