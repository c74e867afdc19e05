//! From provider URLs to a verified manifest.

pub mod access;
mod candidates;
mod connect;
pub mod http;
pub mod tls;
pub mod url;

use std::time::Duration;

use log::{debug, info, warn};

pub use candidates::Candidates;

use crate::arch::Arch;
use crate::error::Exit;
use crate::manifest::{self, Expected, Sightings, Trust, VerifiedManifest, keylist};
use crate::provider::http::{Client, HttpError};
use crate::time::UnixTime;

/// A provider that does not answer is asked again after this, doubling each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const ROUNDS: u32 = 4;
const CHECK_PROVIDER: &str = "check phase.provider= and phase.channel=, and that the provider runs";

/// No provider had a manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no provider answered with a manifest: {reasons}")]
    NoAnswer { reasons: String, hint: &'static str },
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoAnswer { .. } => Exit::NoProvider,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoAnswer { hint, .. } => hint,
        }
    }
}

/// What a manifest is looked for with.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    pub candidates: &'a Candidates,
    pub trust: &'a Trust,
    pub arch: Arch,
    pub channel: &'a str,
    /// The time that expiry counts against; `None` where nothing expires.
    pub now: Option<UnixTime>,
}

/// Why a URL brought no manifest that may boot.
enum Miss {
    /// Something is there that this machine may not boot.
    Refused(manifest::Error),
    /// The URL that did not answer, and how.
    Failed(String, HttpError),
}

/// Asks the candidates in order; the first manifest that this machine may boot is taken. One that
/// it may not boot does not keep the others from being asked, but if none is better, it is the
/// answer, because it tells more than silence elsewhere. Key lists that are met on the way are noted
/// in `sightings`, whatever becomes of the manifest.
pub fn find(
    search: &Search<'_>,
    client: &Client,
    sightings: &mut Sightings,
) -> Result<VerifiedManifest, crate::error::Error> {
    let mut pause = FIRST_PAUSE;
    let mut round = 1;
    loop {
        let mut failures = Vec::new();
        let mut refused = None;
        for url in search.candidates.providers().flatten() {
            match ask(url, search, client, sightings) {
                Ok(verified) => return Ok(verified),
                Err(Miss::Refused(error)) => {
                    warn!("{error}");
                    refused.get_or_insert(error);
                }
                Err(Miss::Failed(url, error)) => {
                    debug!("{url}: {error}");
                    failures.push((url, error));
                }
            }
        }
        if let Some(error) = refused {
            return Err(error.into());
        }
        let lasts = failures.iter().all(|(_, error)| error.is_lasting());
        if lasts || round == ROUNDS || client.deadline().remaining() <= pause {
            let hint = failures.iter().find_map(|(_, error)| error.hint()).unwrap_or(CHECK_PROVIDER);
            return Err(Error::NoAnswer { reasons: summary(&failures), hint }.into());
        }
        if let Some((url, error)) = failures.iter().find(|(_, error)| !matches!(error, HttpError::Status(_)))
        {
            warn!("{url}: {error}; asking again in {} ms", pause.as_millis());
        }
        std::thread::sleep(pause);
        pause *= 2;
        round += 1;
    }
}

/// The manifest at `url`, verified with the key list beside it.
fn ask(
    url: &str,
    search: &Search<'_>,
    client: &Client,
    sightings: &mut Sightings,
) -> Result<VerifiedManifest, Miss> {
    let (bytes, found_at) = match client.get_small(url, manifest::MOST_BYTES) {
        Ok(found) => found,
        Err(HttpError::TooLarge(_)) => {
            return Err(Miss::Refused(manifest::Error::TooLarge { url: url.to_owned() }));
        }
        Err(error) => return Err(Miss::Failed(url.to_owned(), error)),
    };
    let Search { trust, arch, channel, now, .. } = *search;
    let list_url = url::resolve(&found_at, keylist::FILE_NAME).unwrap_or_default();
    let served = match client.get_small(&list_url, manifest::MOST_BYTES) {
        Ok((bytes, _)) => Some(bytes),
        Err(HttpError::Status(403 | 404 | 410)) => None,
        Err(HttpError::TooLarge(_)) => {
            let reason = "it is larger than 1 MiB".to_owned();
            return Err(Miss::Refused(manifest::Error::KeysMalformed { url: list_url, reason }));
        }
        Err(error) => return Err(Miss::Failed(list_url, error)),
    };
    let authority =
        trust.authority(served.as_deref(), &list_url, sightings.all(), now).map_err(Miss::Refused)?;
    if let Some(list) = &authority.list {
        info!("key list version {} speaks for {} keys", list.version(), authority.keyring.keys().len());
        sightings.add_keys(list.version(), list.revoked_roots());
    }
    let expected = Expected { arch, channel, now, seen: sightings.all().lowest(channel, arch) };
    let verified = manifest::verify(&bytes, &found_at, &authority.keyring, trust.policy(), expected)
        .map_err(Miss::Refused)?;
    let version = verified.manifest().manifest_version;
    info!("{found_at}: version {version}, signed by {}", verified.signed_by());
    Ok(verified)
}

/// One entry for neighbours that failed the same way.
fn summary(failures: &[(String, HttpError)]) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (url, error) in failures {
        let error = error.to_string();
        match parts.last_mut() {
            Some((urls, last)) if *last == error => {
                urls.push_str(", ");
                urls.push_str(url);
            }
            _ => parts.push(((*url).clone(), error)),
        }
    }
    let parts: Vec<String> = parts.into_iter().map(|(urls, error)| format!("{urls}: {error}")).collect();
    parts.join("; ")
}
