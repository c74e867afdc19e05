//! One artifact: from its URLs into a memory file, hashed on the way, resumed after a break.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::{info, warn};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::printable;
use crate::fetch::{Error, VerifiedArtifact};
use crate::log::bytes;
use crate::manifest::ArtifactSpec;
use crate::provider::http::{Client, Download, HttpError};
use crate::sys::memfd::{self, Sealed};
use crate::time::Deadline;

/// Large enough to keep system calls few, small enough for any machine. In bytes.
const BUFFER: usize = 128 * 1024;
/// How many times in a row all URLs may fail without having brought this many bytes further.
const FRUITLESS_ROUNDS: u32 = 3;
const FRUIT: u64 = 64 * 1024;
/// A transfer that brings less than [`FRUIT`] in this time is given up for the next URL.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(300);

/// Fetches the artifact `spec` from `urls`, in order; `report` hears how many bytes are there.
pub(super) fn fetch(
    spec: &ArtifactSpec,
    urls: &[String],
    client: &Client,
    cancelled: &AtomicBool,
    report: &dyn Fn(u64),
) -> Result<VerifiedArtifact, Error> {
    let name = spec.name;
    let mut transfer = Transfer::new(spec)?;
    let mut mismatch = None;
    let mut broken = None;
    let mut fruitless = 0;
    // A URL whose bytes were wrong is asked once more: a cable can corrupt what a server has right.
    let mut chances: Vec<(&String, u32)> = urls.iter().map(|url| (url, 2)).collect();
    while fruitless < FRUITLESS_ROUNDS && !client.deadline().passed() {
        let before = transfer.received;
        for (url, chances) in chances.iter_mut().filter(|(_, chances)| *chances > 0) {
            match transfer.pull(url, client, cancelled, report) {
                Ok(()) => {
                    info!("{name}: {} from {}", bytes(spec.size), printable(url));
                    return transfer.seal();
                }
                Err(Fault::Mismatch(reason)) => {
                    warn!("{name} from {} does not match the manifest: {reason}", printable(url));
                    *chances -= 1;
                    transfer.restart()?;
                    mismatch = Some(Error::Mismatch { name, url: (*url).clone(), reason });
                }
                Err(Fault::Broken { reason, hint }) => {
                    let (url, got, size) = ((*url).clone(), transfer.received, spec.size);
                    warn!("{name} from {}: {reason} after {got} of {size} bytes", printable(&url));
                    broken = Some(Error::NotDelivered { name, url, got, size, reason, hint });
                }
                Err(Fault::Cancelled) => return Err(Error::Cancelled { name }),
                Err(Fault::MemoryFile(errno)) => return Err(Error::MemoryFile { name, errno }),
            }
        }
        if chances.iter().all(|(_, chances)| *chances == 0) {
            break;
        }
        if transfer.received < before.saturating_add(FRUIT) {
            fruitless += 1;
            std::thread::sleep(PAUSE.saturating_mul(fruitless).min(client.deadline().remaining()));
        } else {
            fruitless = 0;
        }
    }
    Err(mismatch.or(broken).unwrap_or_else(|| Error::NotDelivered {
        name,
        url: urls.first().cloned().unwrap_or_default(),
        got: transfer.received,
        size: spec.size,
        reason: OVER.to_owned(),
        hint: CHECK_PROVIDER,
    }))
}

const OVER: &str = "the time for this boot attempt is over";
const CHECK_PROVIDER: &str = "check the provider and the way to it";

/// Why one request did not complete the artifact.
enum Fault {
    /// What arrived is not what was signed.
    Mismatch(String),
    /// The transfer ended early; what arrived is kept.
    Broken {
        reason: String,
        hint: &'static str,
    },
    Cancelled,
    MemoryFile(Errno),
}

impl Fault {
    fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { reason: reason.into(), hint: CHECK_PROVIDER }
    }
}

impl From<HttpError> for Fault {
    fn from(error: HttpError) -> Self {
        Self::Broken { hint: error.hint().unwrap_or(CHECK_PROVIDER), reason: error.to_string() }
    }
}

/// The bytes so far. Invariant: `file` holds exactly the `received` bytes that `hash` has seen.
struct Transfer<'a> {
    spec: &'a ArtifactSpec,
    file: File,
    hash: Sha256,
    received: u64,
    /// The URL and entity tag of what is there so far: only the same version may continue it.
    resumable: Option<(String, String)>,
}

impl<'a> Transfer<'a> {
    fn new(spec: &'a ArtifactSpec) -> Result<Self, Error> {
        let file = memfd::create(spec.name).map_err(|errno| Error::MemoryFile { name: spec.name, errno })?;
        Ok(Self { spec, file, hash: Sha256::new(), received: 0, resumable: None })
    }

    fn restart(&mut self) -> Result<(), Error> {
        let result = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        result.map_err(|error| Error::MemoryFile { name: self.spec.name, errno: errno(&error) })?;
        self.hash = Sha256::new();
        self.received = 0;
        self.resumable = None;
        Ok(())
    }

    /// One request to `url`, continuing where the last one to it broke off if the server lets us.
    fn pull(
        &mut self,
        url: &str,
        client: &Client,
        cancelled: &AtomicBool,
        report: &dyn Fn(u64),
    ) -> Result<(), Fault> {
        let from = self.resumable.clone().filter(|(resumable, _)| resumable == url && self.received > 0);
        let resume = from.as_ref().map(|(_, etag)| (self.received, etag.as_str()));
        let mut download = client.download(url, resume)?;
        if download.offset != self.received {
            if download.offset != 0 {
                return Err(Fault::broken(format!(
                    "the server sent from byte {} on, unasked",
                    download.offset
                )));
            }
            self.restart().map_err(|_| Fault::MemoryFile(Errno::IO))?;
        }
        if let Some(total) = download.total.filter(|&total| total != self.spec.size) {
            return Err(Fault::Mismatch(format!("it has {total} bytes, signed were {}", self.spec.size)));
        }
        self.resumable = download.etag().map(|etag| (url.to_owned(), etag));
        self.receive(&mut download, client, cancelled, report)?;
        self.check_hash()
    }

    fn receive(
        &mut self,
        download: &mut Download,
        client: &Client,
        cancelled: &AtomicBool,
        report: &dyn Fn(u64),
    ) -> Result<(), Fault> {
        let mut reader = download.reader();
        let mut buffer = vec![0u8; BUFFER];
        let mut patience = Deadline::after(PATIENCE);
        let mut expected = self.received.saturating_add(FRUIT);
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Fault::Cancelled);
            }
            if client.deadline().passed() {
                return Err(Fault::broken(OVER));
            }
            if self.received >= expected {
                patience = Deadline::after(PATIENCE);
                expected = self.received.saturating_add(FRUIT);
            } else if patience.passed() && self.received < self.spec.size {
                return Err(Fault::broken("the server is too slow"));
            }
            let count = match reader.read(&mut buffer) {
                Ok(0) if self.received == self.spec.size => return Ok(()),
                Ok(0) => return Err(Fault::broken("the connection was closed")),
                Ok(count) => count,
                // All of it is here; that the connection did not end well changes nothing.
                Err(_) if self.received == self.spec.size => return Ok(()),
                Err(error) => {
                    let error = crate::error::printable(&error.to_string());
                    return Err(Fault::broken(format!("the connection broke: {error}")));
                }
            };
            let total = self.received.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            if total > self.spec.size {
                return Err(Fault::Mismatch(format!(
                    "it is longer than the {} bytes that were signed",
                    self.spec.size
                )));
            }
            let chunk = buffer.get(..count).unwrap_or_default();
            self.hash.update(chunk);
            self.file.write_all(chunk).map_err(|error| Fault::MemoryFile(errno(&error)))?;
            self.received = total;
            report(total);
        }
    }

    fn check_hash(&self) -> Result<(), Fault> {
        let got: [u8; 32] = self.hash.clone().finalize().into();
        if got == self.spec.sha256 {
            return Ok(());
        }
        let hex = crate::manifest::keys::hex;
        Err(Fault::Mismatch(format!("SHA-256 is {}, signed was {}", hex(&got), hex(&self.spec.sha256))))
    }

    fn seal(self) -> Result<VerifiedArtifact, Error> {
        let name = self.spec.name;
        let sealed = Sealed::seal(self.file).map_err(|errno| Error::MemoryFile { name, errno })?;
        Ok(VerifiedArtifact::new(name, sealed, self.received))
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
