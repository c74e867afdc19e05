//! The fields of a boot manifest, each with its bounds. Source: proto/MANIFEST.md.

use serde_json::{Map, Value};

use crate::arch::Arch;
use crate::config::is_channel;
use crate::error::printable;
use crate::manifest::keys::unhex;
use crate::time::UnixTime;

/// 64 GiB: what a larger artifact is taken for a mistake.
const MOST_ARTIFACT_BYTES: u64 = 64 << 30;
const MOST_URLS: usize = 32;
const MOST_URL_BYTES: usize = 2048;
/// The longest command line of any architecture (`COMMAND_LINE_SIZE` of s390 and arm64 is 4096 at most).
const MOST_CMDLINE_BYTES: usize = 4096;

/// The content of a manifest, checked field by field but not yet held against a policy.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Counts up with every publication of a channel.
    pub manifest_version: u64,
    pub channel: String,
    pub arch: Arch,
    pub created_at: Option<UnixTime>,
    pub expires_at: Option<UnixTime>,
    pub kernel: ArtifactSpec,
    pub initramfs: ArtifactSpec,
    /// For the next kernel's command line.
    pub cmdline: String,
}

/// What a file must be, and where it may be.
#[derive(Clone, Debug)]
pub struct ArtifactSpec {
    /// The name in the manifest: `kernel`, `initramfs`.
    pub name: &'static str,
    pub sha256: [u8; 32],
    /// In bytes.
    pub size: u64,
    /// Absolute, or relative to the manifest's own URL.
    pub urls: Vec<String>,
}

type Fields = Map<String, Value>;

impl Manifest {
    /// Reads the fields of a manifest object. Unknown fields are passed over, so that newer
    /// publishers can serve older machines. The error is a reason for people.
    pub(super) fn from_value(value: &Value) -> Result<Self, String> {
        let fields = value.as_object().ok_or("it is no JSON object")?;
        let version = string(fields, "version")?;
        if version.split('.').next() != Some("0") {
            return Err(format!("version \"{}\" is not understood (known: 0.x)", printable(version)));
        }
        let manifest_version = fields
            .get("manifest_version")
            .and_then(Value::as_u64)
            .filter(|&version| version >= 1)
            .ok_or("manifest_version is no whole number from 1 up")?;
        let channel = string(fields, "channel")?;
        if !is_channel(channel) {
            return Err(format!("channel \"{}\" is no channel name", printable(channel)));
        }
        let arch = string(fields, "arch")?.parse().map_err(|error| format!("arch: {error}"))?;
        let artifacts =
            fields.get("artifacts").and_then(Value::as_object).ok_or("artifacts is missing or no object")?;
        let cmdline = match fields.get("cmdline") {
            None => "",
            Some(value) => value.as_str().ok_or("cmdline is no string")?,
        };
        if cmdline.len() > MOST_CMDLINE_BYTES || cmdline.chars().any(char::is_control) {
            return Err(format!(
                "cmdline is longer than {MOST_CMDLINE_BYTES} bytes or has control characters"
            ));
        }
        Ok(Self {
            manifest_version,
            channel: channel.to_owned(),
            arch,
            created_at: time(fields, "created_at")?,
            expires_at: time(fields, "expires_at")?,
            kernel: ArtifactSpec::from_fields(artifacts, "kernel")?,
            initramfs: ArtifactSpec::from_fields(artifacts, "initramfs")?,
            cmdline: cmdline.to_owned(),
        })
    }
}

impl ArtifactSpec {
    fn from_fields(artifacts: &Fields, name: &'static str) -> Result<Self, String> {
        let fields = artifacts
            .get(name)
            .and_then(Value::as_object)
            .ok_or_else(|| format!("artifacts.{name} is missing or no object"))?;
        let within = |reason: String| format!("artifacts.{name}: {reason}");
        let hash = string(fields, "hash").map_err(within)?;
        let sha256 = hash
            .strip_prefix("sha256:")
            .and_then(unhex)
            .ok_or_else(|| within("hash is not sha256: and 64 hexadecimal digits".to_owned()))?;
        // plasmd writes size_bytes and download_url.
        let size = fields
            .get("size")
            .or_else(|| fields.get("size_bytes"))
            .and_then(Value::as_u64)
            .filter(|size| (1..=MOST_ARTIFACT_BYTES).contains(size))
            .ok_or_else(|| within(format!("size is no whole number from 1 to {MOST_ARTIFACT_BYTES}")))?;
        let listed: Vec<&Value> = match (fields.get("urls"), fields.get("download_url")) {
            (Some(Value::Array(urls)), _) => urls.iter().collect(),
            (None, Some(url)) => vec![url],
            _ => return Err(within("urls is missing or no array".to_owned())),
        };
        let mut urls = Vec::with_capacity(listed.len().min(MOST_URLS));
        for url in listed {
            let url =
                url.as_str().ok_or_else(|| within("urls holds something that is no string".to_owned()))?;
            let fits = (1..=MOST_URL_BYTES).contains(&url.len())
                && url.bytes().all(|b| b.is_ascii_graphic())
                && urls.len() < MOST_URLS;
            if !fits {
                return Err(within(format!(
                    "more than {MOST_URLS} urls, or \"{}\" is no URL",
                    printable(url)
                )));
            }
            urls.push(url.to_owned());
        }
        if urls.is_empty() {
            return Err(within("urls is empty".to_owned()));
        }
        Ok(Self { name, sha256, size, urls })
    }
}

fn string<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, String> {
    fields.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} is missing or no string"))
}

fn time(fields: &Fields, name: &str) -> Result<Option<UnixTime>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(UnixTime::parse_rfc3339)
            .map(Some)
            .ok_or_else(|| format!("{name} is no RFC 3339 time")),
    }
}
