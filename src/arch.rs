//! The architectures a manifest, an image or this machine can have.

use std::fmt;
use std::str::FromStr;

/// A CPU architecture, as manifests name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// `x86_64`
    X86_64,
    /// `arm64`; `aarch64` means the same
    Aarch64,
}

impl Arch {
    /// The name used in provider paths and written into manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no architecture that phaseboot runs on.
#[derive(Debug, thiserror::Error)]
#[error("unknown architecture \"{0}\" (known: x86_64, arm64, aarch64)")]
pub struct UnknownArch(String);

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(name: &str) -> Result<Self, UnknownArch> {
        match name {
            "x86_64" => Ok(Self::X86_64),
            "arm64" | "aarch64" => Ok(Self::Aarch64),
            other => Err(UnknownArch(other.chars().take(32).collect())),
        }
    }
}
