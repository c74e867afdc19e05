//! Options and values that several commands take.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::config::is_channel;
use crate::manifest::{self, Trust};
use crate::time::UnixTime;

/// How a result is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// The machines that a document is for.
#[derive(Args, Debug)]
pub struct Machines {
    /// Refuse what machines with this trust folder would refuse: DIR/keys/*.pub, DIR/policy.json
    #[arg(long, value_name = "DIR")]
    trust: Option<PathBuf>,
}

impl Machines {
    /// Whether a trust folder was named.
    pub fn are_known(&self) -> bool {
        self.trust.is_some()
    }

    /// Reads the trust folder, if one was named.
    pub fn trust(&self) -> Result<Option<Trust>, manifest::Error> {
        self.trust.as_deref().map(Trust::read).transpose()
    }
}

/// A value that is for one architecture, or for that which is meant anyway: `[ARCH=]VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerArch {
    pub arch: Option<Arch>,
    pub value: String,
}

impl FromStr for PerArch {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (arch, value) = match text.split_once('=').map(|(name, value)| (name.parse(), value)) {
            Some((Ok(arch), value)) => (Some(arch), value),
            _ => (None, text),
        };
        Ok(Self { arch, value: value.to_owned() })
    }
}

pub fn channel(name: &str) -> Result<String> {
    ensure!(is_channel(name), "1 to 64 letters, digits, '.', '_' and '-', and no dot in front");
    Ok(name.to_owned())
}

pub fn time(text: &str) -> Result<UnixTime> {
    UnixTime::parse_rfc3339(text).ok_or_else(|| anyhow!("a time such as 2026-12-31T23:59:59Z"))
}

/// A number of minutes, hours, days or weeks.
pub fn duration(text: &str) -> Result<Duration> {
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

/// The root of a tree of releases on some server.
pub fn url(text: &str) -> Result<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && rest.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
    });
    ensure!(plain, "an http:// or https:// URL without query and fragment");
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text| duration(text).ok().map(|duration| duration.as_secs());
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
            assert!(channel(wrong).is_err(), "{wrong:?}");
        }
        assert!(channel("stable-2.1_x").is_ok());
        for wrong in ["", "ftp://a", "http://", "http:///a", "http://a b", "http://a?b", "/a"] {
            assert!(url(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(url("https://a.example/x/").unwrap(), "https://a.example/x");
    }

    #[test]
    fn an_architecture_in_front() {
        let parsed = |text: &str| text.parse::<PerArch>().map(|it| (it.arch, it.value)).unwrap();
        assert_eq!(parsed("arm64=a=b"), (Some(Arch::Aarch64), "a=b".to_owned()));
        assert_eq!(parsed("x86_64="), (Some(Arch::X86_64), String::new()));
        assert_eq!(parsed("console=ttyS0"), (None, "console=ttyS0".to_owned()));
        assert_eq!(parsed("x86_64"), (None, "x86_64".to_owned()));
    }
}
