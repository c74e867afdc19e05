//! Which partition keeps this machine's state: `phase.cache`, and `cache` in the policy.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// `phase.cache=on|off|LABEL=..|UUID=..|PARTLABEL=..|PARTUUID=..|/dev/..`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Cache {
    /// A partition that is made for it, if there is one.
    #[default]
    On,
    Off,
    /// The label of its file system.
    Label(String),
    /// The identifier of its file system.
    Uuid(String),
    /// Its name in the partition table.
    PartLabel(String),
    /// Its identifier in the partition table.
    PartUuid(String),
    /// `/dev/NAME`, without `/dev/`. No link: nothing in an initramfs makes any.
    Device(String),
}

/// Labels are at most 36 UTF-16 units (GPT), identifiers 36 characters, device names 31 bytes.
const MOST_BYTES: usize = 144;

impl FromStr for Cache {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected on, off, LABEL=, UUID=, PARTLABEL=, PARTUUID= or /dev/NAME";
        match text {
            // Phase's boot entries say enabled and disabled.
            "on" | "true" | "enabled" | "1" => return Ok(Self::On),
            "off" | "false" | "disabled" | "0" => return Ok(Self::Off),
            _ => {}
        }
        let (wanted, value): (fn(String) -> Self, &str) = match text.split_once('=') {
            Some(("LABEL", value)) => (Self::Label, value),
            Some(("UUID", value)) => (Self::Uuid, value),
            Some(("PARTLABEL", value)) => (Self::PartLabel, value),
            Some(("PARTUUID", value)) => (Self::PartUuid, value),
            _ => (Self::Device, text.strip_prefix("/dev/").filter(|name| is_device(name)).ok_or(EXPECTED)?),
        };
        let fits = (1..=MOST_BYTES).contains(&value.len()) && !value.chars().any(char::is_control);
        if fits { Ok(wanted(value.to_owned())) } else { Err(EXPECTED) }
    }
}

/// The device's folder in /sys/class/block has this name, too, with `!` for a slash (`cciss/c0d0p1`).
fn is_device(name: &str) -> bool {
    let is_link = name.starts_with("disk/") || name.starts_with("mapper/");
    !is_link && !name.split('/').any(|part| part.is_empty() || part.starts_with('.'))
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("on"),
            Self::Off => f.write_str("off"),
            Self::Label(label) => write!(f, "LABEL={label}"),
            Self::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Self::PartLabel(name) => write!(f, "PARTLABEL={name}"),
            Self::PartUuid(uuid) => write!(f, "PARTUUID={uuid}"),
            Self::Device(name) => write!(f, "/dev/{name}"),
        }
    }
}

impl TryFrom<String> for Cache {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let text = |text: &str| text.to_owned();
        for (from, to) in [
            ("on", Cache::On),
            ("enabled", Cache::On),
            ("off", Cache::Off),
            ("disabled", Cache::Off),
            ("LABEL=a b", Cache::Label(text("a b"))),
            ("UUID=1234-ABCD", Cache::Uuid(text("1234-ABCD"))),
            ("PARTLABEL=Phase Cache", Cache::PartLabel(text("Phase Cache"))),
            ("PARTUUID=x=y", Cache::PartUuid(text("x=y"))),
            ("/dev/nvme0n1p3", Cache::Device(text("nvme0n1p3"))),
            ("/dev/cciss/c0d0p1", Cache::Device(text("cciss/c0d0p1"))),
        ] {
            assert_eq!(to.to_string().parse(), Ok(to.clone()), "{from}");
            assert_eq!(from.parse(), Ok(to), "{from}");
        }
        let long = format!("LABEL={}", "x".repeat(145));
        for from in [
            "",
            "yes",
            "/dev/",
            "/dev/../x",
            "/dev/x/../y",
            "/dev//x",
            "/dev/disk/by-label/x",
            "/dev/mapper/x",
            "LABEL=",
            "label=x",
            "UUID=\n",
            &long,
        ] {
            assert!(from.parse::<Cache>().is_err(), "{from}");
        }
    }
}
