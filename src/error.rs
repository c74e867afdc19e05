//! What went wrong, in which step, the exit code that scripts rely on, and what the person can do.

use std::fmt;

use crate::{
    cli, commands, config, devicetree, fetch, image, init, kexec, manifest, net, provider, rollback,
};

/// The exit codes of the `phaseboot` command. They are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// A fault of phaseboot or of the machine that no other code names.
    Internal = 1,
    Usage = 2,
    NoNetwork = 10,
    NoProvider = 11,
    ManifestMalformed = 12,
    NotTrusted = 13,
    /// Expired, rolled back, or for another architecture or channel; or no way to know.
    NotForUs = 14,
    /// An artifact does not match its hash or size.
    ArtifactMismatch = 15,
    ImageUnusable = 16,
    KexecUnavailable = 20,
    /// Refused by lockdown or signature policy.
    KexecRefused = 21,
    NotEnoughMemory = 22,
    LoadFailed = 23,
    ExecFailed = 24,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The exit with this number; one that is not ours is [`Exit::Internal`].
    pub fn from_code(code: i32) -> Self {
        const ALL: [Exit; 15] = [
            Exit::Done,
            Exit::Internal,
            Exit::Usage,
            Exit::NoNetwork,
            Exit::NoProvider,
            Exit::ManifestMalformed,
            Exit::NotTrusted,
            Exit::NotForUs,
            Exit::ArtifactMismatch,
            Exit::ImageUnusable,
            Exit::KexecUnavailable,
            Exit::KexecRefused,
            Exit::NotEnoughMemory,
            Exit::LoadFailed,
            Exit::ExecFailed,
        ];
        ALL.into_iter().find(|exit| i32::from(exit.code()) == code).unwrap_or(Self::Internal)
    }

    /// Whether trying again, some time later, can end differently without anybody touching this
    /// machine.
    pub fn may_pass(self) -> bool {
        match self {
            Self::NoNetwork
            | Self::NoProvider
            | Self::ManifestMalformed
            | Self::NotTrusted
            | Self::NotForUs
            | Self::ArtifactMismatch
            | Self::ImageUnusable
            | Self::NotEnoughMemory
            | Self::LoadFailed => true,
            Self::Done
            | Self::Internal
            | Self::Usage
            | Self::KexecUnavailable
            | Self::KexecRefused
            | Self::ExecFailed => false,
        }
    }
}

/// An error of one step of the way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cli(#[from] cli::Error),
    #[error(transparent)]
    Command(#[from] commands::CommandError),
    #[error(transparent)]
    Operator(#[from] fetch::operator::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Init(#[from] init::Error),
    #[error(transparent)]
    Net(#[from] net::Error),
    #[error(transparent)]
    Provider(#[from] provider::Error),
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    #[error(transparent)]
    Rollback(#[from] rollback::Error),
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    DeviceTree(#[from] devicetree::Error),
    #[error(transparent)]
    Kexec(#[from] kexec::Error),
}

impl Error {
    /// The step that failed, as the log names it.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Cli(_) => "arguments",
            Self::Command(_) | Self::Operator(_) => "command",
            Self::Config(_) => "config",
            Self::Init(_) => "init",
            Self::Net(_) => "net",
            Self::Provider(_) => "provider",
            Self::Manifest(_) => "manifest",
            Self::Rollback(_) => "rollback",
            Self::Fetch(_) => "fetch",
            Self::Image(_) => "image",
            Self::DeviceTree(_) => "devicetree",
            Self::Kexec(_) => "kexec",
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Cli(e) => e.exit(),
            Self::Command(e) => e.exit(),
            Self::Operator(e) => e.exit(),
            Self::Config(e) => e.exit(),
            Self::Init(e) => e.exit(),
            Self::Net(e) => e.exit(),
            Self::Provider(e) => e.exit(),
            Self::Manifest(e) => e.exit(),
            Self::Rollback(e) => e.exit(),
            Self::Fetch(e) => e.exit(),
            Self::Image(e) => e.exit(),
            Self::DeviceTree(e) => e.exit(),
            Self::Kexec(e) => e.exit(),
        }
    }

    /// What the person in front of the machine can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Cli(e) => e.hint(),
            Self::Command(e) => e.hint(),
            Self::Operator(e) => e.hint(),
            Self::Config(e) => e.hint(),
            Self::Init(e) => e.hint(),
            Self::Net(e) => e.hint(),
            Self::Provider(e) => e.hint(),
            Self::Manifest(e) => e.hint(),
            Self::Rollback(e) => e.hint(),
            Self::Fetch(e) => e.hint(),
            Self::Image(e) => e.hint(),
            Self::DeviceTree(e) => e.hint(),
            Self::Kexec(e) => e.hint(),
        }
    }

    /// The one line that is shown: step, cause, hint, exit code.
    pub fn line(&self) -> impl fmt::Display + '_ {
        struct Line<'a>(&'a Error);
        impl fmt::Display for Line<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} failed: {}", self.0.step(), self.0)?;
                if !self.0.hint().is_empty() {
                    write!(f, "; {}", self.0.hint())?;
                }
                write!(f, " (exit code {})", self.0.exit().code())
            }
        }
        Line(self)
    }
}

/// `text` with every control character replaced, so that it stays on one line, and without user names and
/// passwords of URLs (RFC 3986, section 3.2.1): whoever reads a log need not know them.
pub fn without_controls(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find([' ', '/', '?', '#', '"']).unwrap_or(after.len());
        let skip = after.get(..end).and_then(|authority| authority.rfind('@')).map_or(0, |at| at + 1);
        rest = after.get(skip..).unwrap_or_default();
    }
    shown.push_str(rest);
    shown.replace(char::is_control, "\u{fffd}")
}

/// Text from outside, made fit for one log line: control characters replaced, at most 200 characters.
pub fn printable(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown = without_controls(text);
    if let Some((end, _)) = shown.char_indices().nth(MOST) {
        shown.truncate(end);
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_forge_a_line() {
        assert_eq!(printable("a\nphaseboot: b\x1b[2J"), "a\u{fffd}phaseboot: b\u{fffd}[2J");
        assert_eq!(printable(&"x".repeat(500)).len(), 203);
    }

    #[test]
    fn passwords_of_urls_are_not_shown() {
        for (text, shown) in [
            ("http://us:pw@a/b@c", "http://a/b@c"),
            ("x=http://u:p@q@a:1,https://u@b?c=d@e f@g", "x=http://a:1,https://b?c=d@e f@g"),
            ("\"http://us:p,w@a\": no", "\"http://a\": no"),
            ("http://a, mail@b", "http://a, mail@b"),
            ("u:p@a", "u:p@a"),
            ("://", "://"),
        ] {
            assert_eq!(without_controls(text), shown);
        }
        let long = format!("http://{}:{}@a", "u".repeat(100), "p".repeat(500));
        assert_eq!(printable(&long), "http://a");
    }
}
