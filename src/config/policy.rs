//! The trust policy of an initramfs: `/etc/phaseboot/policy.json`. Nothing on the kernel command
//! line or in a manifest can weaken it.

use serde::{Deserialize, Deserializer};

use crate::config::tls::{self, Pin};
use crate::config::{Cache, OnFail};

/// What this machine accepts. Every field has a default, unknown fields are an error.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "host", derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How many distinct trusted keys must have signed a manifest; at least 1.
    pub threshold: usize,
    /// How many distinct packed keys must have signed what packed keys sign: a key list, and a manifest
    /// where there is no key list. As many as `threshold` if it is not given.
    #[serde(deserialize_with = "given")]
    pub root_threshold: Option<usize>,
    /// Whether a manifest without signatures may boot.
    pub allow_unsigned: bool,
    /// The channels that may boot; none named means any.
    pub channels: Vec<String>,
    /// The lowest `manifest_version` that may boot.
    pub min_manifest_version: u64,
    /// The lowest `keys_version` that is believed. Above 0, a provider must serve a key list.
    pub min_keys_version: u64,
    /// Whether documents that do not say when they expire are refused.
    pub require_expiry: bool,
    /// Whether only the running kernel's keyring lets a kernel in: no kexec_load, which does not ask
    /// it, where there is kexec_file_load.
    pub require_kernel_keyring: bool,
    /// The `phase.*` parameters that the kernel command line may set.
    pub settable: Vec<String>,
    /// The parameters that the next kernel gets from this one's command line.
    pub inherit: Vec<String>,
    /// What PID 1 does when a boot fails, unless `phase.onfail` may and does say otherwise.
    pub on_fail: OnFail,
    /// What becomes of leases when the next kernel takes over.
    pub leases: Leases,
    /// The PEM files in the folder `tls` beside the policy whose authorities https believes; none
    /// named means those of the public web.
    pub tls_roots: Vec<String>,
    /// The keys of which a TLS server's verified chain must have one; none named means any.
    pub tls_pins: Vec<Pin>,
    /// Whether nothing boots without a place that keeps the rollback record.
    pub rollback_record: RollbackRecord,
    /// What a damaged rollback record means.
    pub damaged_record: DamagedRecord,
    /// Where the rollback record is kept; `phase.cache` can only name a further place.
    pub cache: Cache,
    /// Whose record it is: part of its name, so that those of several publishers are kept apart.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub record_name: Option<String>,
}

/// Whether a machine must be able to keep the versions it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "host", derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum RollbackRecord {
    /// They are kept where there is a place for them.
    Optional,
    /// Nothing boots where they cannot be kept.
    Required,
}

/// What becomes of leases when the next kernel takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "host", derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum Leases {
    /// They run on: the next kernel asks for the same address and gets it at once.
    Keep,
    /// They are given back to the servers.
    Release,
}

/// What a rollback record that cannot be read means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "host", derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum DamagedRecord {
    /// Nothing boots until somebody has looked at it.
    Refuse,
    /// It is written afresh; until then the other places count, and `min_manifest_version`.
    Replace,
}

impl Default for Policy {
    fn default() -> Self {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            threshold: 1,
            root_threshold: None,
            allow_unsigned: false,
            channels: Vec::new(),
            min_manifest_version: 0,
            min_keys_version: 0,
            require_expiry: false,
            require_kernel_keyring: false,
            settable: strings(super::PARAMETERS),
            inherit: strings(&[
                "console",
                "earlycon",
                "phase.mode",
                "phase.channel",
                "phase.cache",
                "phase.nowrite",
            ]),
            on_fail: OnFail::Retry,
            leases: Leases::Keep,
            tls_roots: Vec::new(),
            tls_pins: Vec::new(),
            rollback_record: RollbackRecord::Optional,
            damaged_record: DamagedRecord::Refuse,
            cache: Cache::On,
            record_name: None,
        }
    }
}

/// A value that is there: `null` is none, here as in every other field.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// 1 to 32 of a-z, 0-9 and `-`.
fn is_record_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len()) && name.bytes().all(fits)
}

impl Policy {
    /// Parses and checks a policy file.
    pub fn parse(text: &str) -> Result<Self, String> {
        // serde takes an array for the fields in their order.
        if !text.trim_ascii_start().starts_with('{') {
            return Err("it is no JSON object".to_owned());
        }
        // From bytes, as all JSON here: text would bring a second parser into the payload.
        let policy: Self = serde_json::from_slice(text.as_bytes()).map_err(|error| error.to_string())?;
        if policy.threshold == 0 {
            return Err("threshold is 0; a manifest needs at least one signature".to_owned());
        }
        if policy.root_threshold() < policy.threshold {
            return Err("root_threshold is lower than threshold".to_owned());
        }
        if policy.damaged_record == DamagedRecord::Replace && policy.min_manifest_version == 0 {
            return Err(
                "damaged_record is replace, and no min_manifest_version holds in its place".to_owned()
            );
        }
        if let Some(name) = policy.settable.iter().find(|name| !super::PARAMETERS.contains(&name.as_str())) {
            return Err(format!("settable names \"{name}\", which is no phase.* parameter"));
        }
        if let Some(name) = policy.tls_roots.iter().find(|name| !tls::is_file_name(name)) {
            return Err(format!(
                "tls_roots names \"{name}\", which is not the name of a file in the folder tls"
            ));
        }
        if policy.record_name.as_deref().is_some_and(|name| !is_record_name(name)) {
            return Err("record_name is not 1 to 32 of a-z, 0-9 and -".to_owned());
        }
        Ok(policy)
    }

    /// How many distinct packed keys must have signed what packed keys sign.
    pub fn root_threshold(&self) -> usize {
        self.root_threshold.unwrap_or(self.threshold)
    }

    /// Whether the kernel command line may set `parameter`.
    pub fn may_set(&self, parameter: &str) -> bool {
        self.settable.iter().any(|name| name == parameter)
    }

    /// Whether manifests of `channel` may boot.
    pub fn allows_channel(&self, channel: &str) -> bool {
        self.channels.is_empty() || self.channels.iter().any(|name| name == channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_policy_is_the_default_one() {
        let policy = Policy::parse("{}").unwrap();
        assert_eq!(policy.threshold, 1);
        assert!(!policy.allow_unsigned);
        assert!(!policy.require_kernel_keyring);
        assert!(policy.may_set("phase.provider"));
        assert!(policy.allows_channel("anything"));
        assert_eq!(policy.rollback_record, RollbackRecord::Optional);
        assert_eq!(policy.damaged_record, DamagedRecord::Refuse);
        assert_eq!((policy.cache, policy.min_keys_version), (Cache::On, 0));
        assert_eq!((policy.record_name, policy.leases), (None, Leases::Keep));
    }

    #[test]
    fn the_rollback_record() {
        let policy = Policy::parse(
            r#"{"rollback_record":"required","damaged_record":"replace","min_manifest_version":1,"cache":"LABEL=x",
                "min_keys_version":3,"record_name":"acme-2"}"#,
        )
        .unwrap();
        assert_eq!(policy.rollback_record, RollbackRecord::Required);
        assert_eq!(policy.damaged_record, DamagedRecord::Replace);
        assert_eq!((policy.cache, policy.min_keys_version), (Cache::Label("x".to_owned()), 3));
        assert_eq!(policy.record_name.as_deref(), Some("acme-2"));
    }

    #[test]
    fn the_kernels_keyring_can_be_required() {
        assert!(Policy::parse(r#"{"require_kernel_keyring":true}"#).unwrap().require_kernel_keyring);
    }

    #[test]
    fn leases_can_be_given_back() {
        assert_eq!(Policy::parse(r#"{"leases":"release"}"#).unwrap().leases, Leases::Release);
    }

    #[test]
    fn mistakes_are_errors() {
        for (text, word) in [
            ("{\"treshold\":2}", "treshold"),
            ("{\"threshold\":0}", "threshold is 0"),
            ("{\"threshold\":-1}", "invalid value"),
            ("{\"root_threshold\":0}", "root_threshold is lower"),
            ("{\"threshold\":2,\"root_threshold\":1}", "root_threshold is lower"),
            ("{\"settable\":[\"phase.trust\"]}", "phase.trust"),
            ("{\"on_fail\":\"panic\"}", "panic"),
            ("{\"leases\":\"renew\"}", "renew"),
            ("{\"require_kernel_keyring\":\"yes\"}", "expected a boolean"),
            ("{\"require_kernel_keyrings\":true}", "unknown field"),
            ("{\"rollback_record\":\"maybe\"}", "maybe"),
            ("{\"rollback_record\":true}", "expected value"),
            ("{\"damaged_record\":\"ignore\"}", "ignore"),
            ("{\"damaged_record\":\"replace\"}", "min_manifest_version"),
            ("{\"cache\":\"/etc\"}", "PARTLABEL"),
            ("{\"record_name\":\"\"}", "record_name"),
            ("{\"record_name\":\"Acme\"}", "record_name"),
            ("{\"record_name\":\"a.b\"}", "record_name"),
            ("{\"record_name\":\"../a\"}", "record_name"),
            ("{\"record_name\":\"012345678901234567890123456789012\"}", "record_name"),
            ("{\"record_name\":null}", "expected a string"),
            ("{", "EOF"),
            ("", "no JSON object"),
            ("{}{}", "trailing"),
            ("[1,true]", "no JSON object"),
            ("[]", "no JSON object"),
            ("{\"threshold\":2,\"threshold\":1}", "duplicate"),
            ("{\"tls_roots\":\"ca.pem\"}", "expected a sequence"),
            ("{\"tls_roots\":[\"\"]}", "tls_roots"),
            ("{\"tls_roots\":[\"ca.pem\",\"..\"]}", "tls_roots"),
            ("{\"tls_roots\":[\"/etc/ca.pem\"]}", "tls_roots"),
            ("{\"tls_roots\":[\"a/b\"]}", "tls_roots"),
            ("{\"tls_roots\":[\"a\\u0000\"]}", "tls_roots"),
            ("{\"tls_pins\":[\"sha256//\"]}", "no pin"),
            ("{\"tls_pins\":[7]}", "expected a string"),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
