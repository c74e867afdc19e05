//! `phasectl policy check`: what a trust policy means, by the code that machines read it with, and
//! what in it is risky.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::{Serialize, Serializer};
use serde_json::json;

use super::options::Output;
use super::{files, output};
use crate::config::tls::Pin;
use crate::config::{Cache, DamagedRecord, OnFail, Policy, RollbackRecord, is_channel};
use crate::error::printable;
use crate::manifest::envelope::MOST_SIGNATURES;

/// No policy is larger.
const LIMIT: u64 = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what a policy means, and what in it is risky
    Check(Arguments),
}

#[derive(Args, Debug)]
pub struct Arguments {
    /// The policy, as it will be /etc/phaseboot/policy.json
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Reads a policy as phaseboot does; also its bytes.
pub fn read(path: &Path) -> anyhow::Result<(Vec<u8>, Policy)> {
    let bytes = files::read(path, LIMIT)?;
    let refused = |reason: String| anyhow!("policy {}: {}", path.display(), printable(&reason));
    let text = std::str::from_utf8(&bytes).map_err(|error| refused(error.to_string()))?;
    let policy = Policy::parse(text).map_err(refused)?;
    Ok((bytes, policy))
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    let Command::Check(arguments) = command;
    let (_, mut policy) = read(&arguments.file)?;
    policy.root_threshold = Some(policy.root_threshold());
    let effective = serde_json::to_value(&policy)?;
    let warnings = warnings(&policy);
    if arguments.output.json {
        return output::json(&json!({ "policy": effective, "warnings": warnings }));
    }
    for (name, value) in effective.as_object().into_iter().flatten() {
        output::line(format_args!("{name:<22} {}", printable(&value.to_string())))?;
    }
    warnings.iter().try_for_each(|warning| output::line(format_args!("warning: {warning}")))
}

// As policies write them.
impl Serialize for Cache {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What somebody should have decided, not overlooked.
fn warnings(policy: &Policy) -> Vec<&'static str> {
    let inherits = |names: &[&str]| policy.inherit.iter().any(|name| names.contains(&name.as_str()));
    [
        (
            policy.allow_unsigned,
            "allow_unsigned: whoever is between machine and provider decides what boots",
        ),
        (policy.threshold == 1, "threshold is 1: one stolen key is enough to sign a release"),
        (policy.channels.is_empty(), "channels is empty: the releases of every channel may boot"),
        (
            !policy.channels.iter().all(|name| is_channel(name)),
            "channels has a name that no channel can have: it lets nothing boot",
        ),
        (
            policy.root_threshold() > MOST_SIGNATURES,
            "threshold or root_threshold is higher than the number of signatures that a document can have: nothing will boot",
        ),
        (
            policy.min_manifest_version == 0 && policy.rollback_record == RollbackRecord::Optional,
            "min_manifest_version is 0 and rollback_record optional: a machine that keeps no record can be given any old release",
        ),
        (
            policy.min_keys_version == 0 && policy.rollback_record == RollbackRecord::Optional,
            "min_keys_version is 0 and rollback_record optional: a machine that keeps no record is told nothing of revoked keys by a provider that serves no key list",
        ),
        (
            policy.damaged_record == DamagedRecord::Replace && policy.min_keys_version == 0,
            "damaged_record is replace and min_keys_version 0: who damages the record can bring a revoked key back",
        ),
        (!policy.require_expiry, "require_expiry is false: a release that never expires can be served for ever"),
        (
            policy.may_set("phase.append"),
            "settable has phase.append: the kernel command line can give the next kernel any parameter, also init=",
        ),
        (
            policy.may_set("phase.onfail"),
            "settable has phase.onfail: the kernel command line can ask for a shell when a boot fails",
        ),
        (policy.on_fail == OnFail::Shell, "on_fail is shell: who has the console has the machine when a boot fails"),
        (
            inherits(&["init", "rdinit"]),
            "inherit has init or rdinit: the kernel command line decides what the next kernel starts",
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, warning)| is_so.then_some(warning))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_policy_has_no_warnings() {
        let strict = r#"{"threshold":2,"channels":["stable"],"min_manifest_version":1,"min_keys_version":1,"require_expiry":true,
                         "settable":["phase.provider"],"inherit":["console"],"on_fail":"reboot"}"#;
        assert!(warnings(&Policy::parse(strict).unwrap()).is_empty());
        let lax = r#"{"allow_unsigned":true,"on_fail":"shell","inherit":["init"]}"#;
        assert_eq!(warnings(&Policy::parse(lax).unwrap()).len(), 10);
        let absurd = r#"{"channels":["../x"],"root_threshold":33}"#;
        let said = super::warnings(&Policy::parse(absurd).unwrap()).join("\n");
        assert!(said.contains("no channel can have") && said.contains("nothing will boot"), "{said}");
        let replace = r#"{"damaged_record":"replace","min_manifest_version":1,"rollback_record":"required"}"#;
        let warnings = warnings(&Policy::parse(replace).unwrap());
        assert!(warnings.iter().any(|warning| warning.starts_with("damaged_record is replace")));
    }
}
