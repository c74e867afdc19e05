//! The whole chain, from the network to the next kernel.

use log::{error, info, warn};

use crate::arch::Arch;
use crate::config::{self, Config};
use crate::error::Error;
use crate::fetch;
use crate::image::KernelImage;
use crate::kexec::{self, Plan, Target, cmdline};
use crate::manifest::{Sightings, Trust, VerifiedManifest};
use crate::net::{self, Caller};
use crate::paths::Paths;
use crate::provider::access::Access;
use crate::provider::http::Client;
use crate::provider::{self, Candidates, Search};
use crate::rollback::{self, Memory, Purpose};
use crate::sys::arch::NATIVE;
use crate::time::{Deadline, UnixTime};

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Start the next kernel.
    Exec,
    /// Leave it loaded.
    LoadOnly,
    /// Only say what would be done.
    DryRun,
}

/// Fetches, verifies, loads and starts the next kernel. Returns only when it was told not to start it.
pub fn run(
    config: &Config,
    trust: &Trust,
    paths: &Paths,
    caller: Caller,
    ending: Ending,
) -> Result<Option<Plan>, Error> {
    let deadline = Deadline::after(config.timeout);
    let preflight = kexec::preflight(paths, config.method)?;
    net::up_unless_routed(paths, caller, deadline)?;
    // Disks have had the network's time to appear.
    let mut memory = Memory::open(config, trust.policy(), paths, purpose(caller, ending), deadline)?;
    let client = Client::new(deadline, trust.tls(), &Access::default());
    let found = find(config, trust, &client, NATIVE, memory.sightings());
    // A key list that was met counts from now on, even if no manifest under it may boot.
    memory.keep()?;
    let manifest = found?;
    let artifacts = fetch::artifacts(&manifest, &client, paths)?;
    let kernel = KernelImage::from_artifact(artifacts.kernel, NATIVE)?;
    let cmdline = next_cmdline(config, trust, &manifest, &kernel, paths)?;
    let target = Target { kernel, initrd: Some(artifacts.initramfs), cmdline, devicetree: None };
    let plan = Plan::new(target, &preflight, paths, config.kaslr)?;
    if ending == Ending::DryRun {
        return Ok(Some(plan));
    }
    let loaded = plan.load()?;
    if let Err(error) = remember(&mut memory, &manifest, trust) {
        // What may not be booted must not lie ready to be.
        return Err(withdrawn(error, kexec::unload()));
    }
    if ending == Ending::LoadOnly {
        return Ok(None);
    }
    match loaded.exec()? {}
}

/// What nobody signed is held against the record, and leaves none: anybody could say any version.
fn remember(
    memory: &mut Memory<'_>,
    verified: &VerifiedManifest,
    trust: &Trust,
) -> Result<(), rollback::Error> {
    let (channel, version) = (&verified.manifest().channel, verified.manifest().manifest_version);
    memory.look_again(channel, NATIVE, version, trust.keys())?;
    if !verified.signers().is_empty() {
        memory.sightings().add_manifest(channel, NATIVE, version);
    }
    memory.keep()
}

/// The reason for unloading, also where that fails.
fn withdrawn(reason: rollback::Error, unloaded: Result<(), kexec::Error>) -> Error {
    if let Err(error) = unloaded {
        error!("{}", Error::from(error).line());
    }
    reason.into()
}

fn purpose(caller: Caller, ending: Ending) -> Purpose {
    match (caller, ending) {
        (Caller::Init, _) => Purpose::Init,
        (Caller::Command, Ending::Exec | Ending::LoadOnly) => Purpose::Boot,
        (Caller::Command, Ending::DryRun) => Purpose::DryRun,
    }
}

/// The first manifest of the configured providers that this machine may boot.
pub fn find(
    config: &Config,
    trust: &Trust,
    client: &Client,
    arch: Arch,
    sightings: &mut Sightings,
) -> Result<VerifiedManifest, Error> {
    if config.providers.is_empty() {
        return Err(config::Error::NoProvider.into());
    }
    let candidates = Candidates::new(&config.providers, &config.channel, arch);
    let now = now(config, trust);
    let search = Search { candidates: &candidates, trust, arch, channel: &config.channel, now };
    provider::find(&search, client, sightings)
}

/// The time that expiry counts against; none where somebody said that it does not.
pub fn now(config: &Config, trust: &Trust) -> Option<UnixTime> {
    if config.no_expiry {
        warn!("nothing expires: --no-expiry");
        return None;
    }
    Some(trust.now(UnixTime::now()))
}

/// The manifest's parameters, then what the policy lets the next kernel inherit, then `phase.append`.
fn next_cmdline(
    config: &Config,
    trust: &Trust,
    manifest: &VerifiedManifest,
    kernel: &KernelImage,
    paths: &Paths,
) -> Result<String, Error> {
    let running = config::kernel_cmdline(paths)?;
    let first = &manifest.manifest().cmdline;
    let inherit = &trust.policy().inherit;
    let line = cmdline::compose(first, &running, inherit, &config.append, kernel.cmdline_limit())?;
    info!("command line: {line}");
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn the_record_is_the_error_even_if_the_kernel_stays_loaded() {
        for unloaded in [Ok(()), Err(kexec::Error::Unload { errno: Errno::PERM })] {
            let error = withdrawn(rollback::Error::NoPlace, unloaded);
            assert!(matches!(error, Error::Rollback(rollback::Error::NoPlace)), "{error}");
        }
    }
}
