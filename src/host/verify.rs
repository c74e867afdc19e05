//! `phasectl verify`: what a machine would say to a manifest or a key list, by phaseboot's own code
//! and with its exit codes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use super::document::{self, Content, Document};
use super::judge::Judge;
use super::options::{self, Output};
use super::place::{self, Found};
use super::{files, output};
use crate::arch::Arch;
use crate::error::Exit;
use crate::manifest::envelope::{self, Envelope, Kind};
use crate::manifest::{Expected, Trust, keylist};
use crate::sys::arch::NATIVE;
use crate::time::UnixTime;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Manifest or key list
    #[arg(value_name = "FILE")]
    document: PathBuf,
    /// Trust folder of the machine: DIR/keys/*.pub, DIR/policy.json, DIR/keys.json
    #[arg(long, value_name = "DIR", required_unless_present = "key", conflicts_with_all = ["key", "policy"])]
    trust: Option<PathBuf>,
    /// Public key that the machine trusts; several may be given
    #[arg(long, value_name = "PUB")]
    key: Vec<PathBuf>,
    /// Trust policy of the machine [default: none, which means phaseboot's defaults]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Key list that the provider serves beside the manifest [default: keys.json beside it, if that
    /// is there]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Architecture of the machine [default: that of the manifest]
    #[arg(long)]
    arch: Option<Arch>,
    /// Channel that the machine wants [default: that of the manifest]
    #[arg(long, value_parser = options::channel)]
    channel: Option<String>,
    /// What the machine's clock says [default: now]
    #[arg(long, value_name = "TIME", value_parser = options::time, conflicts_with = "no_expiry")]
    at: Option<UnixTime>,
    /// Take nothing for expired
    #[arg(long)]
    no_expiry: bool,
    /// Hold the artifacts that lie beside the manifest against it as well
    #[arg(long)]
    artifacts: bool,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let accepted = verdict(arguments)?;
    if arguments.output.json {
        return output::json(&accepted);
    }
    let text = |name: &str| accepted.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    output::line(format_args!("accepted: {}{}", text("description"), signers(&accepted)))?;
    for (name, found) in accepted.get("artifacts").and_then(Value::as_object).into_iter().flatten() {
        output::line(format_args!("  {name:<10} {}", found.as_str().unwrap_or_default()))?;
    }
    Ok(())
}

fn signers(accepted: &Value) -> String {
    let ids = accepted.get("signed_by").and_then(Value::as_array).into_iter().flatten();
    let ids: Vec<&str> = ids.filter_map(Value::as_str).collect();
    if ids.is_empty() { String::new() } else { format!(", signed by {}", ids.join(", ")) }
}

fn verdict(arguments: &Arguments) -> Result<Value> {
    let path = &arguments.document;
    let name = path.display().to_string();
    let trust = trust(arguments)?;
    let now = now(arguments, &trust);
    let bytes = document::read_bytes(path)?;
    // What it claims to be and to be for, before anybody has verified it, says only what to ask.
    let claimed = Document::parse(&bytes, &name).ok();
    let kind = Envelope::parse(&bytes).ok().and_then(|envelope| envelope::kind(envelope.outer()).ok());
    if kind == Some(Kind::Keys) {
        let list = Judge::new(trust, None, path).keys(&bytes, &name, now)?;
        return Ok(json!({
            "verdict": "accepted",
            "exit_code": Exit::Done.code(),
            "kind": "keys",
            "description": claimed.as_ref().map(ToString::to_string),
            "keys_version": list.version(),
        }));
    }
    let beside = path.with_file_name(keylist::FILE_NAME);
    let list_path = match &arguments.keys {
        Some(path) => Some(path.as_path()),
        None => Some(beside.as_path()).filter(|path| path.exists()),
    };
    let served = list_path.map(document::read_bytes).transpose()?;
    let judge = Judge::new(trust, served, list_path.unwrap_or(&beside));
    let (arch, channel) = match claimed.as_ref().map(Document::content) {
        Some(Content::Manifest(manifest)) => (manifest.arch.parse().ok(), manifest.channel.clone()),
        _ => (None, String::new()),
    };
    let expected = Expected {
        arch: arguments.arch.or(arch).unwrap_or(NATIVE),
        channel: arguments.channel.as_deref().unwrap_or(&channel),
        now,
        seen: 0,
    };
    let verified = judge.manifest(&bytes, &name, expected)?;
    let manifest = verified.manifest();
    let mut artifacts = Map::new();
    if arguments.artifacts {
        for (name, found) in place::check_artifacts(manifest, files::folder(path))? {
            let found = match found {
                Found::Matches => "matches",
                Found::Elsewhere => "elsewhere, not checked",
            };
            artifacts.insert(name, found.into());
        }
    }
    Ok(json!({
        "verdict": "accepted",
        "exit_code": Exit::Done.code(),
        "kind": "manifest",
        "description": claimed.as_ref().map(ToString::to_string),
        "channel": manifest.channel,
        "arch": manifest.arch,
        "manifest_version": manifest.manifest_version,
        "expires_at": manifest.expires_at.map(|time| time.to_string()),
        "signed_by": verified.signers(),
        "artifacts": artifacts,
    }))
}

fn trust(arguments: &Arguments) -> Result<Trust> {
    if let Some(folder) = &arguments.trust {
        return Ok(Trust::read(folder)?);
    }
    // A file that is not there is a slip of whoever asks, and none of a machine's.
    for path in arguments.key.iter().chain(&arguments.policy) {
        std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
    }
    Ok(Trust::of_files(&arguments.key, arguments.policy.as_deref())?)
}

fn now(arguments: &Arguments, trust: &Trust) -> Option<UnixTime> {
    if arguments.no_expiry {
        output::note("--no-expiry: no time is checked; machines will");
        return None;
    }
    let clock = arguments.at.unwrap_or_else(UnixTime::now);
    if let Some(floor) = trust.clock_floor().filter(|&floor| clock < floor) {
        output::note(&format!("the initramfs was built at {floor}: taking that as the time"));
    }
    Some(trust.now(clock))
}
