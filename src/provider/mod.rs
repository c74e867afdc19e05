//! From provider URLs to a verified manifest.

mod candidates;
pub mod http;
pub mod tls;
pub mod url;

use std::time::Duration;

use log::{debug, info, warn};

pub use candidates::Candidates;

use crate::error::Exit;
use crate::manifest::{self, Expected, Trust, VerifiedManifest};
use crate::provider::http::{Client, HttpError};

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

/// Asks the candidates in order; the first manifest that this machine may boot is taken. One that
/// it may not boot does not keep the others from being asked, but if none is better, it is the
/// answer, because it tells more than silence elsewhere.
pub fn find(
    candidates: &Candidates,
    client: &Client,
    trust: &Trust,
    expected: Expected<'_>,
) -> Result<VerifiedManifest, crate::error::Error> {
    let mut pause = FIRST_PAUSE;
    let mut round = 1;
    loop {
        let mut failures = Vec::new();
        let mut refused = None;
        for url in candidates.providers().flatten() {
            match client.get_small(url, manifest::MOST_BYTES) {
                Ok((bytes, found_at)) => match manifest::verify(&bytes, &found_at, trust, expected) {
                    Ok(verified) => {
                        let signers = match verified.signers() {
                            [] => "nobody, which the policy allows".to_owned(),
                            ids => ids.join(", "),
                        };
                        let version = verified.manifest().manifest_version;
                        info!("{found_at}: version {version}, signed by {signers}");
                        return Ok(verified);
                    }
                    Err(error) => {
                        warn!("{error}");
                        refused.get_or_insert(error);
                    }
                },
                Err(HttpError::TooLarge(_)) => {
                    refused.get_or_insert(manifest::Error::TooLarge { url: url.clone() });
                }
                Err(error) => {
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

/// One entry for neighbours that failed the same way.
fn summary(failures: &[(&String, HttpError)]) -> String {
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
