//! The fields of a boot manifest, each with its bounds. Source: proto/MANIFEST.md.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config::is_channel;
use crate::error::printable;
use crate::manifest::keys::unhex;
use crate::time::UnixTime;

/// 64 GiB: what a larger artifact is taken for a mistake.
const MOST_ARTIFACT_BYTES: u64 = 64 << 30;
const MOST_URLS: usize = 32;
const MOST_URL_BYTES: usize = 2048;
const MOST_IPFS_BYTES: usize = 128;
const MOST_DTBS: usize = 256;
const MOST_DTB_NAME_BYTES: usize = 128;
/// The longest command line of any architecture (`COMMAND_LINE_SIZE` of s390 and arm64 is 4096 at most).
const MOST_CMDLINE_BYTES: usize = 4096;

/// The content of a manifest, checked field by field but not yet held against a policy.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Counts up with every publication of a channel.
    pub manifest_version: u64,
    pub channel: String,
    /// As the manifest names it: it may be one that this program does not know.
    pub arch: String,
    pub created_at: Option<UnixTime>,
    pub expires_at: Option<UnixTime>,
    pub kernel: ArtifactSpec,
    pub initramfs: ArtifactSpec,
    /// For the next system; phaseboot itself does not need it.
    pub rootfs: Option<ArtifactSpec>,
    /// Device trees by their file names.
    pub dtbs: BTreeMap<String, ArtifactSpec>,
    /// For the next kernel's command line.
    pub cmdline: String,
}

/// What a file must be, and where it may be.
#[derive(Clone, Debug)]
pub struct ArtifactSpec {
    /// What it is: `kernel`, `initramfs`, `rootfs`, `dtb`.
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
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let fields = value.as_object().ok_or("it is no JSON object")?;
        let manifest_version = fields
            .get("manifest_version")
            .and_then(Value::as_u64)
            .filter(|&version| version >= 1)
            .ok_or("manifest_version is no whole number from 1 up")?;
        let channel = string(fields, "channel")?;
        if !is_channel(channel) {
            return Err(format!("channel \"{}\" is no channel name", printable(channel)));
        }
        let arch = string(fields, "arch")?;
        let artifacts =
            fields.get("artifacts").and_then(Value::as_object).ok_or("artifacts is missing or no object")?;
        let cmdline = match optional(fields, "cmdline") {
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
            arch: arch.to_owned(),
            created_at: time(fields, "created_at")?,
            expires_at: time(fields, "expires_at")?,
            kernel: ArtifactSpec::required(artifacts, "kernel")?,
            initramfs: ArtifactSpec::required(artifacts, "initramfs")?,
            rootfs: optional(artifacts, "rootfs")
                .map(|value| ArtifactSpec::from_value(value, "rootfs"))
                .transpose()?,
            dtbs: dtbs(artifacts)?,
            cmdline: cmdline.to_owned(),
        })
    }

    /// Every artifact, the kernel first.
    pub fn artifacts(&self) -> impl Iterator<Item = &ArtifactSpec> {
        [&self.kernel, &self.initramfs].into_iter().chain(&self.rootfs).chain(self.dtbs.values())
    }
}

fn dtbs(artifacts: &Fields) -> Result<BTreeMap<String, ArtifactSpec>, String> {
    let Some(value) = optional(artifacts, "dtbs") else { return Ok(BTreeMap::new()) };
    let listed = value.as_object().ok_or("artifacts.dtbs is no object")?;
    if listed.len() > MOST_DTBS {
        return Err(format!("artifacts.dtbs has more than {MOST_DTBS} entries"));
    }
    let spec = |(name, value): (&String, &Value)| {
        if !is_dtb_name(name) {
            return Err(format!("artifacts.dtbs: \"{}\" is no name of a device tree", printable(name)));
        }
        let spec = ArtifactSpec::from_value(value, "dtb").map_err(|reason| format!("{name}: {reason}"))?;
        Ok((name.clone(), spec))
    };
    listed.iter().map(spec).collect()
}

/// Whether `name` can be a device tree's: `broadcom/bcm2711-rpi-4-b.dtb`.
pub fn is_dtb_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._,+-".contains(&b);
    let is_segment =
        |segment: &str| !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(plain);
    name.len() <= MOST_DTB_NAME_BYTES && name.split('/').all(is_segment)
}

impl ArtifactSpec {
    fn required(artifacts: &Fields, name: &'static str) -> Result<Self, String> {
        let value = artifacts.get(name).ok_or_else(|| format!("artifacts.{name} is missing"))?;
        Self::from_value(value, name)
    }

    fn from_value(value: &Value, name: &'static str) -> Result<Self, String> {
        let fields = value.as_object().ok_or_else(|| format!("artifacts.{name} is no object"))?;
        let within = |reason: String| format!("artifacts.{name}: {reason}");
        let hash = string(fields, "hash").map_err(within)?;
        let sha256 = hash
            .strip_prefix("sha256:")
            .filter(|hex| !hex.bytes().any(|b| b.is_ascii_uppercase()))
            .and_then(unhex)
            .ok_or_else(|| within("hash is not sha256: and 64 lower-case hexadecimal digits".to_owned()))?;
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
        // Only looked at: a content identifier is for those who have IPFS.
        let is_identifier = |ipfs: &str| {
            (1..=MOST_IPFS_BYTES).contains(&ipfs.len()) && ipfs.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        if optional(fields, "ipfs").is_some_and(|ipfs| !ipfs.as_str().is_some_and(is_identifier)) {
            return Err(within("ipfs is no content identifier".to_owned()));
        }
        Ok(Self { name, sha256, size, urls })
    }
}

fn string<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, String> {
    fields.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} is missing or no string"))
}

/// A field that may be missing; `null` counts as that.
fn optional<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

pub(super) fn time(fields: &Fields, name: &str) -> Result<Option<UnixTime>, String> {
    match optional(fields, name) {
        None => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(UnixTime::parse_rfc3339)
            .map(Some)
            .ok_or_else(|| format!("{name} is no RFC 3339 time")),
    }
}
