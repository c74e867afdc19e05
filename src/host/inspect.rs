//! `phasectl inspect`: what a file is. It says what stands in a manifest; whether that can be
//! trusted depends on keys, and is `phaseboot verify`'s to say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use super::initramfs::archive::{self, Listed};
use super::{files, output};
use crate::arch::Arch;
use crate::error::printable;
use crate::image::{self, Header};
use crate::manifest::MOST_BYTES;

/// Larger files are nothing that machines boot.
const FILE_LIMIT: u64 = 2 * 1024 * 1024 * 1024;

#[derive(Args, Debug)]
pub struct Arguments {
    /// A manifest, a kernel or an initramfs
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The file is a manifest, but not a well-formed one.
#[derive(Debug, thiserror::Error)]
#[error("manifest {} is malformed: {why}", path.display())]
pub struct Malformed {
    path: PathBuf,
    why: String,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.file;
    let bytes = files::read(path, FILE_LIMIT)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        return manifest(path, &bytes, arguments.json);
    }
    match kernel(&bytes) {
        Ok((arch, format)) => {
            let size = bytes.len();
            if arguments.json {
                let arch = arch.name();
                return output::json(
                    &json!({ "kind": "kernel", "arch": arch, "format": format, "size": size }),
                );
            }
            let size = output::bytes(u64::try_from(size).unwrap_or(u64::MAX));
            output::line(format_args!("kernel for {arch}: {format}, {size}"))
        }
        Err(foreign @ image::Error::Foreign { .. }) => initramfs(path, &bytes, &foreign, arguments.json),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}

/// The architecture and the format of a kernel.
fn kernel(bytes: &[u8]) -> Result<(Arch, &'static str), image::Error> {
    let parse = |native| Header::parse("it", bytes, native);
    let header = match parse(Arch::X86_64) {
        Err(image::Error::WrongArch { .. }) => parse(Arch::Aarch64),
        parsed => parsed,
    };
    Ok(match header? {
        Header::BzImage(_) => (Arch::X86_64, "bzImage"),
        Header::Arm64(_) => (Arch::Aarch64, "Image"),
    })
}

fn manifest(path: &Path, text: &[u8], as_json: bool) -> Result<()> {
    let malformed = |why: String| Malformed { path: path.to_owned(), why };
    if text.len() > MOST_BYTES {
        return Err(malformed(format!("it has more than {MOST_BYTES} bytes")).into());
    }
    let outer: Value = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
    let release = match outer.pointer("/signed/data") {
        None => None,
        Some(data) => {
            let data = data.as_str().ok_or_else(|| malformed("signed.data is not text".to_owned()))?;
            let data =
                STANDARD.decode(data).map_err(|e| malformed(format!("signed.data is not base64: {e}")))?;
            let release: Value = serde_json::from_slice(&data)
                .map_err(|error| malformed(format!("signed.data is not JSON: {error}")))?;
            let mut copy = outer.clone();
            if let Some(fields) = copy.as_object_mut() {
                fields.retain(|name, _| name != "signatures" && name != "signed");
            }
            if copy != release {
                return Err(malformed("the outer copy differs from signed.data".to_owned()).into());
            }
            Some(release)
        }
    };
    let ids: Vec<&str> = outer
        .get("signatures")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|signature| signature.get("keyid")?.as_str())
        .collect();
    let shown = release.as_ref().unwrap_or(&outer);
    if as_json {
        return output::json(&json!({
            "kind": "manifest",
            "signed": release.is_some(),
            "keyids": ids,
            "manifest": shown,
        }));
    }
    let field = |name: &str| match shown.get(name) {
        Some(Value::String(text)) => printable(text),
        Some(other) => printable(&other.to_string()),
        None => "-".to_owned(),
    };
    output::line(format_args!(
        "manifest {}/{} version {}",
        field("channel"),
        field("arch"),
        field("manifest_version")
    ))?;
    output::line(format_args!("  created    {}\n  expires    {}", field("created_at"), field("expires_at")))?;
    for (name, artifact) in shown.get("artifacts").and_then(Value::as_object).into_iter().flatten() {
        let text = |name: &str| artifact.get(name).and_then(Value::as_str).map_or("-".to_owned(), printable);
        let size = artifact.get("size").or_else(|| artifact.get("size_bytes")).and_then(Value::as_u64);
        let size = size.map_or("-".to_owned(), output::bytes);
        output::line(format_args!("  {:<10} {size}, {}", printable(name), text("hash")))?;
        for url in artifact.get("urls").and_then(Value::as_array).into_iter().flatten() {
            output::line(format_args!("             {}", printable(url.as_str().unwrap_or("-"))))?;
        }
    }
    output::line(format_args!("  cmdline    {}", field("cmdline")))?;
    if ids.is_empty() || release.is_none() {
        return output::line("  UNSIGNED");
    }
    let ids: Vec<String> = ids.into_iter().map(printable).collect();
    output::line(format_args!("  signed by  {} (not verified here)", ids.join(", ")))
}

/// An archive; `otherwise` says what the file is if it is none.
fn initramfs(path: &Path, bytes: &[u8], otherwise: &image::Error, as_json: bool) -> Result<()> {
    let Ok(listed) = files::decompress(bytes).and_then(|reader| {
        let reader = std::io::BufReader::new(reader);
        archive::list(reader).context("damaged archive")
    }) else {
        bail!("{}: {otherwise}, and no whole initramfs", path.display());
    };
    if as_json {
        return output::json(&json!({ "kind": "initramfs", "size": bytes.len(), "files": listed }));
    }
    for entry in listed {
        output::line(listing(&entry))?;
    }
    Ok(())
}

/// A line as `ls -l` writes it.
fn listing(entry: &Listed) -> String {
    let kind = match entry.mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o100_000 => '-',
        _ => '?',
    };
    let permissions: String = (0..9)
        .map(|bit| {
            let letter = if bit % 3 == 0 {
                'r'
            } else if bit % 3 == 1 {
                'w'
            } else {
                'x'
            };
            if entry.mode & (0o400 >> bit) == 0 { '-' } else { letter }
        })
        .collect();
    let size = match entry.device {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => entry.size.to_string(),
    };
    let target =
        entry.target.as_deref().map(|target| format!(" -> {}", printable(target))).unwrap_or_default();
    let Listed { uid, gid, path, .. } = entry;
    format!("{kind}{permissions} {uid:>4} {gid:>4} {size:>10} {}{target}", printable(path))
}
