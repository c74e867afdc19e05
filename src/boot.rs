//! The whole chain, from the network to the next kernel.

use log::{error, info, warn};

use crate::config::{self, Config, Leases};
use crate::error::Error;
use crate::fetch;
use crate::image::KernelImage;
use crate::kexec::{self, Plan, Target, admission, cmdline};
use crate::manifest::{Trust, VerifiedManifest};
use crate::net::{Caller, Network, Settings};
use crate::paths::Paths;
use crate::provider::{Found, Search, Uplinks, race};
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
    let mut preflight = kexec::preflight(paths, config.method)?;
    if trust.policy().require_kernel_keyring {
        preflight = preflight.with_keyring()?;
    }
    let (mut memory, found, network) = find(config, trust, paths, caller, purpose(caller, ending), deadline)?;
    let content = found.manifest.manifest();
    admission::before_download(preflight.calls(), content.kernel.size, content.initramfs.size, paths)?;
    let artifacts = fetch::artifacts(&found.manifest, &found.client, paths)?;
    let kernel = KernelImage::from_artifact(artifacts.kernel, NATIVE)?;
    let cmdline = next_cmdline(config, trust, &found.manifest, &kernel, paths)?;
    let target = Target { kernel, ramdisk: Some(artifacts.initramfs.into()), cmdline, devicetree: None };
    let plan = Plan::new(target, &preflight, paths, config.kaslr)?;
    if ending == Ending::DryRun {
        return Ok(Some(plan));
    }
    let loaded = plan.load()?;
    if let Err(error) = remember(&mut memory, &found.manifest, trust) {
        // What may not be booted must not lie ready to be.
        return Err(withdrawn(error, kexec::unload()));
    }
    if ending == Ending::LoadOnly {
        return Ok(None);
    }
    network.hand_over();
    match loaded.exec(config.handoff)? {}
}

/// Brings the network up, and finds the first manifest over any of its links that this machine may
/// boot. The network stays up as long as it is held.
pub fn find<'a>(
    config: &'a Config,
    trust: &'a Trust,
    paths: &'a Paths,
    caller: Caller,
    purpose: Purpose,
    deadline: Deadline,
) -> Result<(Memory<'a>, Found, Network), Error> {
    if config.providers.is_empty() && !trust.policy().may_set("phase.provider") {
        return Err(config::Error::NoProvider.into());
    }
    let mut uplinks = Uplinks::default();
    let mut network = Network::start(paths, settings(config, trust), caller, deadline, uplinks.sink())?;
    uplinks.first(deadline)?;
    // Disks have had the network's time to appear.
    let mut memory = Memory::open(config, trust.policy(), paths, purpose, deadline)?;
    let search = Search {
        config: config.clone(),
        trust: trust.clone(),
        paths: paths.clone(),
        arch: NATIVE,
        now: now(config, trust),
        deadline,
    };
    let found = race::run(search, uplinks, memory.sightings());
    // A key list that was met counts from now on, even if no manifest under it may boot.
    memory.keep()?;
    let found = found?;
    network.settle(&found.uplink.interface);
    Ok((memory, found, network))
}

fn settings(config: &Config, trust: &Trust) -> Settings {
    Settings {
        given: config.network.clone(),
        client_id: config.client_id,
        wants_boot_url: config.providers.is_empty(),
        release: trust.policy().leases == Leases::Release,
        ..Settings::default()
    }
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
    use crate::config::ClientId;
    use rustix::io::Errno;

    #[test]
    fn the_network_is_started_as_policy_and_command_line_say() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        // The base point of RFC 8032, section 5.1: a valid key.
        let mut key = [0x66; 32];
        key[0] = 0x58;
        std::fs::write(folder.path().join("keys/k.pub"), key).unwrap();
        for (policy, line, expected) in [
            ("{}", "phase.provider=http://a", (false, ClientId::Mac, false)),
            (r#"{"leases":"release"}"#, "phase.clientid=duid", (true, ClientId::Duid, true)),
        ] {
            std::fs::write(folder.path().join("policy.json"), policy).unwrap();
            let trust = Trust::read(folder.path()).unwrap();
            let config = Config::from_kernel_cmdline(line, trust.policy()).unwrap();
            let settings = settings(&config, &trust);
            assert_eq!((settings.release, settings.client_id, settings.wants_boot_url), expected);
        }
    }

    #[test]
    fn the_record_is_the_error_even_if_the_kernel_stays_loaded() {
        for unloaded in [Ok(()), Err(kexec::Error::Unload { errno: Errno::PERM })] {
            let error = withdrawn(rollback::Error::NoPlace, unloaded);
            assert!(matches!(error, Error::Rollback(rollback::Error::NoPlace)), "{error}");
        }
    }
}
