//! `phasectl publish`: artifacts and a signed manifest in DIR/CHANNEL/ARCH, ready for any static
//! HTTP server.
//!
//! Artifacts get names that never change their content, and the manifest takes its name last: a
//! client that reads the tree at any moment sees one complete release, the old one or the new one.
//! What phaseboot would refuse is not published: its own code judges kernel, command line and
//! manifest.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Map, Value, json};

use super::files::{self, Content, Pending};
use super::output;
use super::signing::Signing;
use crate::arch::Arch;
use crate::config::{Policy, is_channel};
use crate::image::Header;
use crate::kexec::{self, cmdline};
use crate::manifest::{self, Expected, MOST_BYTES, Seen, Trust};
use crate::time::UnixTime;

/// The manifest's name in its folder.
pub const MANIFEST: &str = "manifest.signed.json";
/// The version of the manifest format.
const FORMAT: &str = "0.1";
/// 1 GiB: no kernel is larger.
const KERNEL_LIMIT: u64 = 1 << 30;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Private key to sign with; several make several signatures
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// Root of the tree that is served
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// Channel the release belongs to
    #[arg(long, default_value = "stable", value_parser = parse_channel)]
    channel: String,
    /// Architecture of the kernel: x86_64 or arm64
    #[arg(long)]
    arch: Arch,
    /// Kernel: a bzImage (x86_64) or an uncompressed Image (arm64)
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initramfs, as the kernel takes it
    #[arg(long, value_name = "FILE")]
    initramfs: PathBuf,
    /// Kernel command line
    #[arg(long, value_name = "STR", default_value = "")]
    cmdline: String,
    /// How long the manifest is valid: a number of minutes, hours, days or weeks (90m, 12h, 30d, 4w)
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration)]
    expires: Duration,
    /// Version of the release [default: one more than the last one published there]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    manifest_version: Option<u64>,
    /// URL of the tree's root, for absolute artifact URLs; several are mirrors of each other
    /// [default: URLs relative to the manifest, so that the tree can be moved]
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url_base: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn parse_channel(name: &str) -> Result<String> {
    ensure!(is_channel(name), "1 to 64 letters, digits, '.', '_' and '-', and no dot in front");
    Ok(name.to_owned())
}

fn parse_duration(text: &str) -> Result<Duration> {
    let unit = |ending| match ending {
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        'w' => Some(7 * 86_400),
        _ => None,
    };
    let seconds = text.char_indices().next_back().and_then(|(at, ending)| {
        let number = text.get(..at)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse::<u64>().ok()?.checked_mul(unit(ending)?)).flatten()
    });
    match seconds {
        // A century: more is a slip, and dates must stay in four digits.
        Some(seconds @ 1..=3_153_600_000) => Ok(Duration::from_secs(seconds)),
        _ => Err(anyhow!("a number and m, h, d or w, of at most 100 years, such as 30d")),
    }
}

fn parse_url(text: &str) -> Result<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
    });
    ensure!(plain, "an http:// or https:// URL without query and fragment");
    Ok(text.trim_end_matches('/').to_owned())
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let keys = read_keys(&arguments.key)?;
    let kernel = read_kernel(&arguments.kernel, arguments.arch, &arguments.cmdline)?;

    let relative = Path::new(&arguments.channel).join(arguments.arch.name());
    let folder = arguments.into.join(&relative);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // The lock goes with the process; the folder itself is the lock file, so nothing stays behind.
    let lock = File::open(&folder).with_context(|| format!("cannot open {}", folder.display()))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another phasectl publishes into {} at this moment", folder.display()))?;

    let manifest_path = folder.join(MANIFEST);
    let last = last_published(&manifest_path)?;
    let version = next_version(last.as_ref(), arguments.manifest_version)?;

    let size = u64::try_from(kernel.len())?;
    let kernel = store(&arguments.kernel, &mut kernel.as_slice(), size, "kernel", &folder)?;
    let mut initramfs = files::open(&arguments.initramfs)?;
    let size = initramfs.metadata()?.len();
    let initramfs = store(&arguments.initramfs, &mut initramfs, size, "initramfs", &folder)?;
    let urls = |name: &str| -> Vec<String> {
        if arguments.url_base.is_empty() {
            return vec![name.to_owned()];
        }
        arguments.url_base.iter().map(|base| format!("{base}/{}/{name}", relative.display())).collect()
    };
    let artifact = |stored: &Stored| {
        json!({
            "hash": format!("sha256:{}", stored.content.hex()),
            "size": stored.content.size,
            "urls": urls(&stored.name),
        })
    };
    let created = UnixTime::now();
    let expires = UnixTime(created.0.saturating_add(arguments.expires.as_secs()));
    let release = json!({
        "version": FORMAT,
        "manifest_version": version,
        "channel": arguments.channel,
        "arch": arguments.arch.name(),
        "created_at": created.to_string(),
        "expires_at": expires.to_string(),
        "artifacts": { "kernel": artifact(&kernel), "initramfs": artifact(&initramfs) },
        "cmdline": arguments.cmdline,
    });
    if let Some(last) = last.filter(|last| last.version == version) {
        ensure!(
            same_release(&last.release, &release),
            "manifest version {version} is published already, with other content; publish a higher one"
        );
    }
    let manifest = signed(release, &keys)?;
    let mut text = serde_json::to_string_pretty(&manifest)?;
    text.push('\n');
    accepted(text.as_bytes(), &manifest_path, &keys, arguments, created)?;
    files::write(&manifest_path, text.as_bytes())?;

    let ids: Vec<String> = keys.iter().map(Signing::id).collect();
    if arguments.json {
        return output::json(&json!({
            "manifest": manifest_path,
            "manifest_version": version,
            "expires_at": expires.to_string(),
            "keyids": ids,
            "kernel": kernel.describe(),
            "initramfs": initramfs.describe(),
        }));
    }
    output::line(format_args!("published {} version {version}", relative.display()))?;
    for stored in [&kernel, &initramfs] {
        let Stored { name, content } = stored;
        output::line(format_args!(
            "  {name:<26} {:>9}  sha256:{}",
            output::bytes(content.size),
            content.hex()
        ))?;
    }
    output::line(format_args!(
        "  {}  signed by {}, valid until {expires}",
        manifest_path.display(),
        ids.join(", ")
    ))
}

/// All keys, each once: a signature made twice counts once.
fn read_keys(paths: &[PathBuf]) -> Result<Vec<Signing>> {
    let mut seen = BTreeSet::new();
    let mut keys = Vec::new();
    for path in paths {
        let key = Signing::read(path)?;
        ensure!(seen.insert(key.id()), "{} is the key {}, which was given already", path.display(), key.id());
        keys.push(key);
    }
    Ok(keys)
}

/// Reads a kernel that phaseboot can load on `arch` with `line` as its whole command line.
fn read_kernel(path: &Path, arch: Arch, line: &str) -> Result<Vec<u8>> {
    let bytes = files::read(path, KERNEL_LIMIT)?;
    let header = Header::parse("kernel", &bytes, arch)
        .map_err(|error| anyhow!("{}: {error}; {}", path.display(), error.hint()))?;
    // Machines may add to it: this is the least that has to fit.
    cmdline::compose(line, "", &[], "", kexec::cmdline_limit(&header))
        .map_err(|error| anyhow!("--cmdline: {error}; {}", error.hint()))?;
    Ok(bytes)
}

/// Holds a manifest against what phaseboot holds it to on a machine that wants a signature by each
/// of `keys`.
fn accepted(
    text: &[u8],
    path: &Path,
    keys: &[Signing],
    arguments: &Arguments,
    created: UnixTime,
) -> Result<()> {
    let trusted = keys.iter().map(Signing::trusted).collect::<Result<Vec<_>>>()?;
    let trust = Trust::new(trusted, Policy { threshold: keys.len(), ..Policy::default() });
    let expected =
        Expected { arch: arguments.arch, channel: &arguments.channel, now: Some(created), seen: 0 };
    manifest::verify(
        text,
        &path.display().to_string(),
        &trust.roots(&Seen::default()),
        trust.policy(),
        expected,
    )
    .map(drop)
    .map_err(|error| anyhow!("not published, because phaseboot would refuse it: {error}"))
}

/// What was published last.
struct Last {
    version: u64,
    release: Value,
}

fn last_published(path: &Path) -> Result<Option<Last>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot stat {}", path.display())),
        Ok(_) => {}
    }
    let release: Option<Value> = serde_json::from_slice(&files::read(path, u64::try_from(MOST_BYTES)?)?).ok();
    let version = release.as_ref().and_then(|release| release.get("manifest_version")?.as_u64());
    match (release, version) {
        (Some(release), Some(version)) => Ok(Some(Last { version, release })),
        _ => bail!(
            "cannot tell which version was published last: {} is damaged; move it away and give --manifest-version",
            path.display()
        ),
    }
}

fn next_version(last: Option<&Last>, wanted: Option<u64>) -> Result<u64> {
    let last = last.map_or(0, |last| last.version);
    let next = last.checked_add(1).ok_or_else(|| anyhow!("manifest version {last} leaves no higher one"))?;
    let version = wanted.unwrap_or(next);
    ensure!(version >= last, "manifest version {version} is lower than {last}, which was published before");
    Ok(version)
}

/// Whether two releases differ in nothing but their dates.
fn same_release(one: &Value, other: &Value) -> bool {
    ["channel", "arch", "artifacts", "cmdline"].iter().all(|field| one.get(field) == other.get(field))
}

/// An artifact in the tree.
struct Stored {
    name: String,
    content: Content,
}

impl Stored {
    fn describe(&self) -> Value {
        json!({ "file": self.name, "size": self.content.size, "hash": format!("sha256:{}", self.content.hex()) })
    }
}

/// Copies an artifact of about `size` bytes into `folder`, under a name made of `kind` and its hash.
fn store(source: &Path, from: &mut impl Read, size: u64, kind: &str, folder: &Path) -> Result<Stored> {
    let mut pending = Pending::new(&folder.join(kind))?;
    let content = files::copy_hashed(from, size, &mut pending, kind)
        .with_context(|| format!("cannot copy {} to {}", source.display(), folder.display()))?;
    ensure!(content.size > 0, "{kind} {} is empty", source.display());
    let name = format!("{kind}-{}", content.hex().get(..16).unwrap_or_default());
    let target = folder.join(&name);
    // A file that is there already stays, so that nobody who is fetching it has to start again.
    if files::content(&target, kind).is_ok_and(|present| present == content) {
        return Ok(Stored { name, content });
    }
    pending.commit_as(&target)?;
    Ok(Stored { name, content })
}

/// The manifest: the release, its canonical form in base64, and a signature of that by each key.
///
/// Canonical is: object keys sorted by their bytes, no white space, which is how `serde_json` writes
/// a [`Value`].
fn signed(release: Value, keys: &[Signing]) -> Result<Value> {
    let canonical = serde_json::to_vec(&release)?;
    let signatures: Vec<Value> =
        keys.iter().map(|key| json!({ "keyid": key.id(), "sig": key.sign(&canonical) })).collect();
    let Value::Object(mut manifest) = release else { bail!("a release is a JSON object") };
    let mut data = Map::new();
    data.insert("data".to_owned(), STANDARD.encode(&canonical).into());
    manifest.insert("signatures".to_owned(), signatures.into());
    manifest.insert("signed".to_owned(), data.into());
    Ok(Value::Object(manifest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text| parse_duration(text).ok().map(|duration| duration.as_secs());
        assert_eq!(seconds("90m"), Some(5400));
        assert_eq!(seconds("30d"), Some(30 * 86_400));
        assert_eq!(seconds("2w"), Some(14 * 86_400));
        for wrong in
            ["", "d", "30", "0d", "-1d", "+1d", "1.5d", "30 d", "99999999999999999999d", "5215w", "3\u{e9}"]
        {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn channels_and_urls() {
        for wrong in ["", ".", "..", "a/b", ".a", "a b", &"a".repeat(65)] {
            assert!(parse_channel(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_channel("stable-2.1_x").is_ok());
        for wrong in ["", "ftp://a", "http://", "http:///a", "http://a b", "http://a?b", "/a"] {
            assert!(parse_url(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_url("https://a.example/x/").unwrap(), "https://a.example/x");
    }

    #[test]
    fn versions_only_rise() {
        let last = |version| Last { version, release: Value::Null };
        assert_eq!(next_version(None, None).unwrap(), 1);
        assert_eq!(next_version(None, Some(7)).unwrap(), 7);
        assert_eq!(next_version(Some(&last(7)), None).unwrap(), 8);
        assert_eq!(next_version(Some(&last(7)), Some(7)).unwrap(), 7);
        assert!(next_version(Some(&last(7)), Some(6)).is_err());
        assert!(next_version(Some(&last(u64::MAX)), None).is_err());
    }

    #[test]
    fn what_is_signed_is_canonical() {
        let key = Signing::generate().unwrap();
        let manifest = signed(json!({ "b": [1, "\u{e9}"], "a": { "d": null, "c": true } }), &[key]).unwrap();
        let data = STANDARD.decode(manifest["signed"]["data"].as_str().unwrap()).unwrap();
        assert_eq!(String::from_utf8(data).unwrap(), "{\"a\":{\"c\":true,\"d\":null},\"b\":[1,\"\u{e9}\"]}");
        assert_eq!(manifest["signatures"].as_array().unwrap().len(), 1);
    }
}
