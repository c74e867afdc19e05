//! `phasectl inspect`: what a file is. It says what stands in a manifest; whether that can be
//! trusted depends on keys, and is `phasectl verify`'s to say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::document::of_key_list;
use super::initramfs::archive::{self, Listed};
use super::options::Output;
use super::publish::identify;
use super::{files, output};
use crate::error::printable;
use crate::image::{self, Header, Wrapping};
use crate::manifest::keylist::FILE_NAME;
use crate::manifest::keys::Limits;
use crate::manifest::{Envelope, Error, KeyListContent};

/// Larger files are nothing that machines boot.
const FILE_LIMIT: u64 = 2 * 1024 * 1024 * 1024;

#[derive(Args, Debug)]
pub struct Arguments {
    /// A manifest, a key list, a kernel or an initramfs
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.file;
    let bytes = files::read_showing(path, FILE_LIMIT)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        return document(path, &bytes, arguments.output.json);
    }
    match identify("it", &bytes, None) {
        Ok(kernel) => {
            let arch = kernel.header().arch();
            let format = match kernel.header() {
                Header::BzImage(_) => "bzImage",
                Header::Arm64(_) => "Image",
            };
            let size = bytes.len();
            let wrappings = kernel.wrappings();
            if arguments.output.json {
                let names: Vec<String> = wrappings.iter().map(|layer| layer.wrapper.to_string()).collect();
                let mut about =
                    json!({ "kind": "kernel", "arch": arch.name(), "format": format, "size": size });
                if let Some(fields) = about.as_object_mut().filter(|_| !names.is_empty()) {
                    fields.insert("wrappings".to_owned(), json!(names));
                }
                return output::json(&about);
            }
            let size = output::bytes(u64::try_from(size).unwrap_or(u64::MAX));
            let inside = match wrappings {
                [] => String::new(),
                layers => format!(", in {}", Wrapping::list(layers)),
            };
            output::line(format_args!("kernel for {arch}: {format}, {size}{inside}"))
        }
        Err(
            other
            @ (image::Error::Foreign { .. } | image::Error::Unpack { .. } | image::Error::Within { .. }),
        ) => initramfs(path, &bytes, &other, arguments.output.json),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}

/// A manifest or a key list. It may lack what a machine wants of it: only the envelope must be whole.
pub fn document(path: &Path, bytes: &[u8], as_json: bool) -> Result<()> {
    let name = path.display().to_string();
    let is_list = path.file_name().is_some_and(|name| name == FILE_NAME);
    let of = if is_list { of_key_list } else { Error::of_manifest };
    let fault = |fault| of(&name, fault);
    let envelope = Envelope::parse(bytes).map_err(fault)?;
    let content = envelope.content().map_err(fault)?;
    let is_signed = envelope.signed().is_some_and(|signed| !signed.signatures().is_empty());
    let outer: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let signatures = outer.get("signatures").and_then(Value::as_array).into_iter().flatten();
    let id = |signature: &Value| Some(signature.get("keyid")?.as_str()?.to_owned());
    let ids: Vec<String> = signatures.filter_map(id).collect();
    if as_json {
        let kind = if is_key_list(&content) { "keys" } else { "manifest" };
        return output::json(&json!({ "kind": kind, "signed": is_signed, "keyids": ids, kind: content }));
    }
    output::line(describe(&name, &content)?)?;
    if !is_signed {
        return output::line("  UNSIGNED");
    }
    let ids: Vec<String> = ids.iter().map(|id| printable(id)).collect();
    output::line(format_args!("  signed by  {} (not verified here)", ids.join(", ")))
}

/// What a manifest or a key list says, in lines for people.
pub fn describe(name: &str, content: &Value) -> Result<String> {
    Ok(if is_key_list(content) { key_list(name, content)? } else { manifest(content) }.join("\n"))
}

fn is_key_list(content: &Value) -> bool {
    content.get("kind").and_then(Value::as_str) == Some("keys")
}

/// A field of a document, for people.
fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => printable(text),
        Some(other) => printable(&other.to_string()),
        None => "-".to_owned(),
    }
}

fn dates(content: &Value) -> [String; 2] {
    [("created", "created_at"), ("expires", "expires_at")]
        .map(|(label, name)| format!("  {label}    {}", field(content, name)))
}

fn manifest(content: &Value) -> Vec<String> {
    let (channel, arch) = (field(content, "channel"), field(content, "arch"));
    let mut lines = vec![format!("manifest {channel}/{arch} version {}", field(content, "manifest_version"))];
    lines.extend(dates(content));
    for (name, spec) in content.get("artifacts").and_then(Value::as_object).into_iter().flatten() {
        match spec.as_object().filter(|_| name == "dtbs") {
            Some(trees) => lines.extend(trees.iter().flat_map(|(name, spec)| artifact(name, spec))),
            None => lines.extend(artifact(name, spec)),
        }
    }
    lines.push(format!("  cmdline    {}", field(content, "cmdline")));
    lines
}

fn artifact(name: &str, spec: &Value) -> Vec<String> {
    let size = spec.get("size").or_else(|| spec.get("size_bytes")).and_then(Value::as_u64);
    let size = size.map_or("-".to_owned(), output::bytes);
    let mut lines = vec![format!("  {:<10} {size}, {}", printable(name), field(spec, "hash"))];
    let urls = spec.get("urls").and_then(Value::as_array).into_iter().flatten();
    lines.extend(urls.map(|url| format!("             {}", printable(url.as_str().unwrap_or("-")))));
    lines
}

fn key_list(name: &str, content: &Value) -> Result<Vec<String>> {
    let malformed = |reason| Error::KeysMalformed { url: name.to_owned(), reason };
    let list = KeyListContent::from_value(content).map_err(malformed)?;
    let KeyListContent { keys_version, threshold, keys, revoked, .. } = &list;
    let mut lines = vec![format!("key list version {keys_version}, {threshold} of {} must sign", keys.len())];
    lines.extend(dates(content));
    for key in keys {
        let Limits { channels, not_after } = key.limits();
        let channels = if channels.is_empty() { "every channel".to_owned() } else { channels.join(", ") };
        let until = not_after.map(|time| format!(", until {time}")).unwrap_or_default();
        let fingerprint = key.fingerprint();
        let named = if key.id() == fingerprint { String::new() } else { format!(" {}", key.id()) };
        lines.push(format!("  key        {fingerprint}{named}, {channels}{until}"));
    }
    lines.extend(revoked.iter().map(|id| format!("  revoked    {id}")));
    Ok(lines)
}

/// An archive; `otherwise` says what the file is if it is none.
fn initramfs(path: &Path, bytes: &[u8], otherwise: &image::Error, as_json: bool) -> Result<()> {
    let list = || {
        let reader = std::io::BufReader::new(files::decompress(bytes)?);
        archive::list(reader).context("damaged archive")
    };
    let Ok(listed) = output::patiently("reading", list) else {
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
