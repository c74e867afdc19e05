//! What this machine trusts: the folder with `keys/*.pub`, `policy.json`, `tls/` and
//! `build-time`, `/etc/phaseboot` in an initramfs.

use std::fs;
use std::io;
use std::path::Path;

use log::warn;

use crate::config::Policy;
use crate::config::tls::TlsTrust;
use crate::manifest::Error;
use crate::manifest::keys::{self, TrustedKey};
use crate::time::UnixTime;

/// More keys than this are refused.
pub const MOST_KEYS: usize = 64;

/// The keys whose signatures count, and the policy they count under.
#[derive(Clone, Debug)]
pub struct Trust {
    keys: Vec<TrustedKey>,
    policy: Policy,
    clock_floor: Option<UnixTime>,
    tls: TlsTrust,
}

impl Trust {
    /// Reads `folder`. Without a policy file the defaults hold. Without a key nothing can ever boot,
    /// which is an error already here, unless the policy allows unsigned manifests.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let policy = Self::read_policy(folder)?;
        let keys = read_keys(&folder.join("keys"))?;
        if keys.len() < policy.threshold && !policy.allow_unsigned {
            return Err(match keys.len() {
                0 => Error::NoKey { folder: folder.join("keys") },
                have => Error::TooFewKeys { have, threshold: policy.threshold },
            });
        }
        let clock_floor = read_clock_floor(&folder.join("build-time"))?;
        let tls = TlsTrust::read(&folder.join("tls"), &policy, clock_floor)
            .map_err(|(path, reason)| Error::UnreadableTrust { path, reason })?;
        Ok(Self { keys, policy, clock_floor, tls })
    }

    /// Reads only the policy of `folder`.
    pub fn read_policy(folder: &Path) -> Result<Policy, Error> {
        let path = folder.join("policy.json");
        let unreadable = |reason| Error::UnreadableTrust { path: path.clone(), reason };
        match fs::read_to_string(&path) {
            Ok(text) => Policy::parse(&text).map_err(unreadable),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Policy::default()),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// The trusted keys, each once.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Which servers https believes.
    pub fn tls(&self) -> &TlsTrust {
        &self.tls
    }

    /// When the initramfs was built, if it says so: no later moment is before that.
    pub fn clock_floor(&self) -> Option<UnixTime> {
        self.clock_floor
    }

    /// The time that expiry counts against: `clock`, but not before [`Self::clock_floor`]. Machines
    /// without a battery start in 1970, when nothing has expired yet.
    pub fn now(&self, clock: UnixTime) -> UnixTime {
        match self.clock_floor {
            Some(floor) if clock < floor => {
                warn!("the clock says {clock}, the initramfs was built at {floor}: taking that as the time");
                floor
            }
            _ => clock,
        }
    }

    /// Trust in `keys`, wherever they come from.
    #[cfg(any(test, feature = "host"))]
    pub(crate) fn new(keys: Vec<TrustedKey>, policy: Policy) -> Self {
        Self { keys, policy, clock_floor: None, tls: TlsTrust::default() }
    }
}

fn read_clock_floor(path: &Path) -> Result<Option<UnixTime>, Error> {
    let unreadable = |reason| Error::UnreadableTrust { path: path.to_owned(), reason };
    match fs::read_to_string(path) {
        Ok(text) => match UnixTime::parse_rfc3339(text.trim()) {
            Some(time) => Ok(Some(time)),
            None => Err(unreadable(format!("\"{}\" is no RFC 3339 time", text.trim()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

fn read_keys(folder: &Path) -> Result<Vec<TrustedKey>, Error> {
    let unreadable = |path: &Path, reason: String| Error::UnreadableTrust { path: path.to_owned(), reason };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, error.to_string())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error.to_string()))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            files.push(path);
        }
    }
    files.sort();
    let mut keys: Vec<TrustedKey> = Vec::new();
    for path in files {
        let content = fs::read(&path).map_err(|error| unreadable(&path, error.to_string()))?;
        for key in keys::parse_file(&content).map_err(|reason| unreadable(&path, reason))? {
            // The same key in two files is still one voice towards the threshold.
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        if keys.len() > MOST_KEYS {
            return Err(unreadable(folder, format!("more than {MOST_KEYS} keys")));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const OTHER: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("keys")).unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn keys_are_counted_once_and_other_files_are_not_keys() {
        let folder =
            folder(&[("keys/a.pub", KEY), ("keys/b.pub", KEY), ("keys/c.pub", OTHER), ("keys/README", "x")]);
        assert_eq!(Trust::read(folder.path()).unwrap().keys().len(), 2);
    }

    #[test]
    fn no_key_no_boot() {
        assert_eq!(Trust::read(folder(&[]).path()).unwrap_err().exit(), Exit::NotTrusted);
        assert_eq!(Trust::read(Path::new("/nonexistent")).unwrap_err().exit(), Exit::NotTrusted);
        let too_few = folder(&[("keys/a.pub", KEY), ("policy.json", "{\"threshold\":2}")]);
        assert_eq!(Trust::read(too_few.path()).unwrap_err().exit(), Exit::NotTrusted);
    }

    #[test]
    fn a_damaged_file_is_named() {
        for (name, content) in [
            ("keys/a.pub", "x"),
            ("policy.json", "{\"a\":1}"),
            ("policy.json", "{\"tls_roots\":[\"policy.json\"]}"),
            ("build-time", "yesterday"),
            ("build-time", ""),
        ] {
            let folder = folder(&[("keys/ok.pub", KEY), (name, content)]);
            let error = Trust::read(folder.path()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(error.exit(), Exit::NotTrusted);
        }
    }

    #[test]
    fn a_build_time_that_cannot_be_read_is_an_error() {
        let folder = folder(&[("keys/a.pub", KEY)]);
        fs::create_dir(folder.path().join("build-time")).unwrap();
        let error = Trust::read(folder.path()).unwrap_err();
        assert!(
            matches!(&error, Error::UnreadableTrust { path, .. } if path.ends_with("build-time")),
            "{error}"
        );
    }

    #[test]
    fn the_clock_is_never_before_the_build() {
        let without = Trust::read(folder(&[("keys/a.pub", KEY)]).path()).unwrap();
        assert_eq!(without.clock_floor(), None);
        assert_eq!(without.now(UnixTime(7)), UnixTime(7));

        let built = folder(&[("keys/a.pub", KEY), ("build-time", "2026-11-26T12:34:56Z\n")]);
        let trust = Trust::read(built.path()).unwrap();
        let floor = UnixTime(1_795_696_496);
        assert_eq!(trust.clock_floor(), Some(floor));
        assert_eq!(trust.now(UnixTime(0)), floor);
        assert_eq!(trust.now(UnixTime(floor.0 - 1)), floor);
        assert_eq!(trust.now(floor), floor);
        assert_eq!(trust.now(UnixTime(floor.0 + 1)), UnixTime(floor.0 + 1));
    }
}
