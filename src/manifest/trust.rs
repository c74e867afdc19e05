//! What this machine trusts: the folder with `keys/*.pub`, `policy.json`, `keys.json`, `tls/` and
//! `build-time`, `/etc/phaseboot` in an initramfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use log::warn;

use crate::config::Policy;
use crate::config::tls::TlsTrust;
use crate::manifest::keys::TrustedKey;
use crate::manifest::{Envelope, Error, KeyList, Keyring, Seen, keyfile, keylist};
use crate::time::UnixTime;

/// More keys than this are refused.
pub const MOST_KEYS: usize = 64;

/// The keys whose signatures count, and the policy they count under.
#[derive(Clone, Debug)]
pub struct Trust {
    keys: Vec<TrustedKey>,
    policy: Policy,
    /// A key list that was packed beside the keys: its URL, for people, and its bytes.
    packed_list: Option<(String, Vec<u8>)>,
    clock_floor: Option<UnixTime>,
    tls: TlsTrust,
}

/// Who may sign a manifest, and the key list that says so.
#[derive(Clone, Debug)]
pub struct Authority {
    pub keyring: Keyring,
    /// The packed keys sign themselves where there is none.
    pub list: Option<KeyList>,
}

impl Trust {
    /// Reads `folder`. Without a policy file the defaults hold. Without a key nothing can ever boot,
    /// which is an error already here, unless the policy allows unsigned manifests.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let policy = Self::read_policy(folder)?;
        let keys = read_keys(&folder.join("keys"))?;
        are_enough(&keys, &policy, &folder.join("keys"))?;
        let packed_list = read_list(&folder.join(keylist::FILE_NAME))?;
        let clock_floor = read_clock_floor(&folder.join("build-time"))?;
        let tls = TlsTrust::read(&folder.join("tls"), &policy, clock_floor)
            .map_err(|(path, reason)| Error::UnreadableTrust { path, reason })?;
        Ok(Self { keys, policy, packed_list, clock_floor, tls })
    }

    /// Reads only the policy of `folder`.
    pub fn read_policy(folder: &Path) -> Result<Policy, Error> {
        read_policy(&folder.join("policy.json"))
    }

    /// Trust in what would be a folder of these key files and this policy, by the same rules.
    #[cfg(feature = "host")]
    pub(crate) fn of_files(keys: &[PathBuf], policy: Option<&Path>) -> Result<Self, Error> {
        let policy = policy.map(read_policy).transpose()?.unwrap_or_default();
        let folder = Path::new("keys");
        let keys = read_key_files(keys, folder)?;
        are_enough(&keys, &policy, folder)?;
        Ok(Self::new(keys, policy))
    }

    /// The packed keys, each once.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// The keys that sign where no key list speaks for them: the packed ones, less those that a key
    /// list revoked when this machine saw it.
    pub fn roots(&self, seen: &Seen) -> Keyring {
        let is_revoked = |key: &TrustedKey| seen.revoked.contains(&key.fingerprint());
        let (revoked, keys): (Vec<_>, Vec<_>) = self.keys.iter().cloned().partition(is_revoked);
        let barred = revoked.into_iter().map(|key| (key, "is revoked")).collect();
        Keyring::new(keys, self.policy.root_threshold(), barred, seen.revoked.clone())
    }

    /// Who may sign the manifest beside which `served` was found, a key list with its URL; `url` is
    /// where one would be. Where none is served, the packed list speaks; one that is served must not be
    /// older than that.
    pub fn authority(
        &self,
        served: Option<&[u8]>,
        url: &str,
        seen: &Seen,
        now: Option<UnixTime>,
    ) -> Result<Authority, Error> {
        let list = match (served, &self.packed_list) {
            (Some(bytes), packed) => {
                // A packed list counts like a record: no time lifts what it says of others, how old they
                // may be and who may not sign them.
                let packed =
                    packed.as_ref().map(|(url, bytes)| KeyList::signed(bytes, url, self, seen, None));
                let mut known = seen.clone();
                match packed {
                    Some(Ok((packed, _))) => known.add_keys(packed.version(), packed.revoked_roots()),
                    Some(Err(error)) => warn!("the packed key list is of no use: {error}"),
                    None => {}
                }
                Some(KeyList::verify(bytes, url, self, &known, now)?)
            }
            (None, Some((url, bytes))) => Some(KeyList::verify(bytes, url, self, seen, now)?),
            (None, None) => None,
        };
        if let Some(list) = list {
            return Ok(Authority { keyring: list.keyring().clone(), list: Some(list) });
        }
        match self.lowest_keys_version(seen) {
            0 => Ok(Authority { keyring: self.roots(seen), list: None }),
            lowest => Err(Error::KeysMissing { url: url.to_owned(), lowest }),
        }
    }

    /// The lowest `keys_version` that may be believed: what the policy wants and what was seen. Above
    /// 0, a provider without a key list is not believed either.
    pub fn lowest_keys_version(&self, seen: &Seen) -> u64 {
        self.policy.min_keys_version.max(seen.keys_version)
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
        Self { keys, policy, packed_list: None, clock_floor: None, tls: TlsTrust::default() }
    }
}

#[cfg(test)]
impl Trust {
    /// The same with a packed key list.
    pub(super) fn with_packed_list(self, url: &str, bytes: Vec<u8>) -> Self {
        Self { packed_list: Some((url.to_owned(), bytes)), ..self }
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

/// A packed key list: one that cannot be taken apart is noticed before the network is up.
fn read_list(path: &Path) -> Result<Option<(String, Vec<u8>)>, Error> {
    let unreadable = |reason| Error::UnreadableTrust { path: path.to_owned(), reason };
    match fs::read(path) {
        Ok(bytes) => match Envelope::parse(&bytes) {
            Ok(_) => Ok(Some((path.display().to_string(), bytes))),
            Err(fault) => Err(unreadable(fault.to_string())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

fn read_policy(path: &Path) -> Result<Policy, Error> {
    let unreadable = |reason| Error::UnreadableTrust { path: path.to_owned(), reason };
    match fs::read_to_string(path) {
        Ok(text) => Policy::parse(&text).map_err(unreadable),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Policy::default()),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// Refuses keys from `folder` under which nothing could ever boot.
fn are_enough(keys: &[TrustedKey], policy: &Policy, folder: &Path) -> Result<(), Error> {
    let threshold = policy.root_threshold();
    match keys.len() {
        have if have >= threshold || policy.allow_unsigned => Ok(()),
        0 => Err(Error::NoKey { folder: folder.to_owned() }),
        have => Err(Error::TooFewKeys { have, threshold }),
    }
}

fn unreadable(path: &Path, reason: String) -> Error {
    Error::UnreadableTrust { path: path.to_owned(), reason }
}

fn read_keys(folder: &Path) -> Result<Vec<TrustedKey>, Error> {
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
    read_key_files(&files, folder)
}

/// Reads every key in `files`, which belong to `folder`.
fn read_key_files(files: &[PathBuf], folder: &Path) -> Result<Vec<TrustedKey>, Error> {
    let mut keys: Vec<TrustedKey> = Vec::new();
    for path in files {
        let content = fs::read(path).map_err(|error| unreadable(path, error.to_string()))?;
        for key in keyfile::parse_file(&content).map_err(|reason| unreadable(path, reason))? {
            if let Some(other) = keys.iter().find(|other| clash(other, &key)) {
                let reason = format!(
                    "the keys {} and {} are one with two limits, or named alike",
                    other.id(),
                    key.id()
                );
                return Err(unreadable(path, reason));
            }
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

/// Whether nobody could tell which of two is meant, or which limits hold.
fn clash(one: &TrustedKey, other: &TrustedKey) -> bool {
    if one.bytes() == other.bytes() {
        return one != other;
    }
    one.id() == other.id()
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
    fn keys_that_cannot_be_told_apart_are_refused() {
        for (one, other) in [
            (format!("channels: beta\n{KEY}"), KEY.to_owned()),
            (format!("id: release\n{KEY}"), format!("id: release\n{OTHER}")),
        ] {
            let folder = folder(&[("keys/a.pub", &one), ("keys/b.pub", &other)]);
            let error = Trust::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("b.pub") && error.contains("named alike"), "{error}");
        }
    }

    #[test]
    fn revoked_keys_count_no_more() {
        let folder = folder(&[("keys/a.pub", KEY), ("keys/b.pub", OTHER)]);
        let trust = Trust::read(folder.path()).unwrap();
        let seen =
            Seen { revoked: ["21fe31dfa154a261".to_owned()].into(), keys_version: 3, ..Seen::default() };
        assert_eq!(trust.roots(&Seen::default()).keys().len(), 2);
        assert_eq!(trust.roots(&seen).keys().len(), 1);
        assert_eq!(trust.lowest_keys_version(&seen), 3);
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
            ("keys.json", "[]"),
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
