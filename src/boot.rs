//! The whole chain, from the network to the next kernel.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use log::{debug, error, info, warn};

use crate::arch::Arch;
use crate::config::{self, Config, Leases};
use crate::devicetree::{self, choice};
use crate::error::{Error, printable};
use crate::fetch::{self, VerifiedArtifact};
use crate::image::{KernelImage, Part, Ramdisk};
use crate::kexec::{self, Call, Plan, Preflight, Target, admission, cmdline};
use crate::log::Format;
use crate::manifest::{Trust, VerifiedManifest};
use crate::meminfo::Meminfo;
use crate::net::{Caller, Network, Settings};
use crate::paths::Paths;
use crate::provider::{Found, Search, Uplinks, race};
use crate::rollback::{self, Memory, Purpose};
use crate::sys::arch::{NATIVE, loads};
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

/// Logs as the kernel command line wants it, or as JSON: from the first line on, so that whoever reads JSON
/// meets nothing else. What cannot be read is told where it is read in earnest.
pub fn configure_log(paths: &Paths, trust: &Path, json: bool) {
    let (format, debug) = match (config::kernel_cmdline(paths), Trust::read_policy(trust)) {
        (Ok(line), Ok(policy)) => Config::log(&line, &policy),
        _ => (Format::Text, false),
    };
    crate::log::configure(if json { Format::Json } else { format }, debug);
}

/// Fetches, verifies, loads and starts the next kernel. Returns only when it was told not to start it.
/// `drivers` is for [`Settings`].
pub fn run(
    config: &Config,
    trust: &Trust,
    paths: &Paths,
    caller: Caller,
    ending: Ending,
    drivers: Option<OwnedFd>,
) -> Result<Option<Plan>, Error> {
    let deadline = Deadline::after(config.timeout);
    let mut preflight = kexec::preflight(paths, config.method)?;
    if trust.policy().require_kernel_keyring {
        preflight = preflight.with_keyring()?;
    }
    if ending == Ending::Exec {
        kexec::may_start(paths)?;
    }
    let (mut memory, found, network) =
        find(config, trust, paths, caller, purpose(caller, ending), deadline, drivers)?;
    let content = found.manifest.manifest();
    admission::before_download(preflight.calls(), content.kernel.size, content.initramfs.size, paths)?;
    let artifacts = fetch::artifacts(&found.manifest, &found.client, paths)?;
    let (mut kernel, ramdisk) =
        recognise(artifacts.kernel, vec![artifacts.initramfs], preflight.calls(), paths)?;
    let cmdline = next_cmdline(config, trust, &found.manifest, &kernel, paths)?;
    let devicetree = match own_tree(&found, &preflight, paths)? {
        None => brought_tree(&mut kernel, preflight.calls(), paths),
        published => published,
    };
    let target = Target { kernel, ramdisk, cmdline, devicetree };
    let plan = Plan::new(target, &preflight, paths, config.kaslr)?;
    if ending == Ending::DryRun {
        return Ok(Some(plan));
    }
    let loaded = plan.load()?;
    if let Err(error) = remember(&mut memory, &found.manifest, trust) {
        // What may not be booted must not lie ready to be.
        return Err(withdrawn(error, kexec::unload(paths)));
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
    drivers: Option<OwnedFd>,
) -> Result<(Memory<'a>, Found, Network), Error> {
    if config.providers.is_empty() && !trust.policy().may_set("phase.provider") {
        return Err(config::Error::NoProvider.into());
    }
    let mut uplinks = Uplinks::default();
    let settings = Settings { drivers: drivers.map(Arc::new), ..settings(config, trust) };
    let mut network = Network::start(paths, settings, caller, deadline, uplinks.sink())?;
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
        https_only: trust.tls().names_servers(),
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

/// The kernel out of its wrappings, and its ramdisk: what the image brings, then each of `archives`.
pub fn recognise(
    kernel: VerifiedArtifact,
    archives: Vec<VerifiedArtifact>,
    calls: &[Call],
    paths: &Paths,
) -> Result<(KernelImage, Option<Ramdisk>), Error> {
    let size = archives.iter().map(VerifiedArtifact::size).fold(0, u64::saturating_add);
    let (memory, wrapper) = (Meminfo::read(paths), kernel.size());
    let limit = |demand| {
        admission::most_unpacked(calls, wrapper, size, demand, memory).map_err(|error| error.to_string())
    };
    let mut kernel = KernelImage::within(kernel, NATIVE, &limit)?;
    let mut parts = kernel.take_ramdisks();
    parts.extend(archives.into_iter().map(Part::from));
    admission::before_joining(calls, &kernel, parts.iter().map(Part::size), paths)?;
    Ok((kernel, Ramdisk::join(parts)?))
}

/// The device tree that the kernel image brings for this machine: of those that are for one kind of
/// machine each the one that is for this, else the one that is for all. None where ACPI describes the
/// machine, or nothing takes a tree.
pub fn brought_tree(kernel: &mut KernelImage, calls: &[Call], paths: &Paths) -> Option<Vec<u8>> {
    let trees = kernel.take_trees();
    if trees.fixed.is_none() && trees.candidates.is_empty() {
        return None;
    }
    let machine = machine(paths);
    if machine.is_empty() {
        debug!("device trees in the kernel image, and no tree that describes this machine");
        return None;
    }
    if !calls.contains(&Call::Load) {
        warn!("the kernel image's device trees are of no use: kexec_file_load hands on the running kernel's");
        return None;
    }
    let candidates =
        trees.candidates.into_iter().map(|tree| ("in the kernel image", tree.len() as u64, tree));
    let Ok(chosen) = choice::choose(&machine, candidates, Ok::<_, Infallible>);
    chosen.or(trees.fixed)
}

/// What the running kernel's device tree says this machine is; nothing where ACPI does, or where no kernel
/// takes a tree from us.
fn machine(paths: &Paths) -> Vec<String> {
    if !loads(Arch::Aarch64) {
        return Vec::new();
    }
    let running = devicetree::read(&paths.devicetree()).ok();
    running.and_then(|tree| choice::compatible(&tree).ok()).unwrap_or_default()
}

/// The manifest's device tree for this machine. None where ACPI describes it, or where the running
/// kernel's tree has to do.
fn own_tree(found: &Found, preflight: &Preflight, paths: &Paths) -> Result<Option<Vec<u8>>, Error> {
    let dtbs = &found.manifest.manifest().dtbs;
    let machine = if dtbs.is_empty() { Vec::new() } else { machine(paths) };
    let Some(name) = machine.first() else {
        debug!("{} device trees in the manifest, and no tree that describes this machine", dtbs.len());
        return Ok(None);
    };
    if !preflight.calls().contains(&Call::Load) {
        warn!("the manifest's device trees are of no use: kexec_file_load hands on the running kernel's");
        return Ok(None);
    }
    let published = dtbs.iter().map(|(name, spec)| (name.as_str(), spec.size, spec));
    let chosen = choice::choose(&machine, published, |spec| {
        let tree = fetch::artifact(spec, &found.manifest, &found.client, paths)?;
        let bytes = tree.map().map_err(|errno| fetch::Error::MemoryFile { name: spec.name, errno })?;
        Ok::<_, fetch::Error>(bytes.to_vec())
    })?;
    if chosen.is_none() {
        warn!("no device tree of the manifest is for {}: the running kernel's is handed on", printable(name));
    }
    Ok(chosen)
}

/// The manifest's parameters, or the kernel image's own where it has none, then what the policy lets
/// the next kernel inherit, then `phase.append`.
fn next_cmdline(
    config: &Config,
    trust: &Trust,
    manifest: &VerifiedManifest,
    kernel: &KernelImage,
    paths: &Paths,
) -> Result<String, Error> {
    let running = config::kernel_cmdline(paths)?;
    let first = cmdline::base(&manifest.manifest().cmdline, kernel.cmdline());
    let inherit = &trust.policy().inherit;
    let line = cmdline::compose(first, &running, inherit, &config.append, kernel.cmdline_limit())?;
    info!("command line: {line}");
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientId;
    use crate::error::Exit;
    use crate::image::testing::{self, ARM, X86};
    use crate::image::{MOST_UNPACKED, at_most};
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
            assert!(!settings.https_only);
        }
        let pinned = r#"{"tls_pins":["sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]}"#;
        std::fs::write(folder.path().join("policy.json"), pinned).unwrap();
        let trust = Trust::read(folder.path()).unwrap();
        assert!(settings(&Config::default(), &trust).https_only);
    }

    #[test]
    fn the_record_is_the_error_even_if_the_kernel_stays_loaded() {
        for unloaded in [Ok(()), Err(kexec::Error::Unload { errno: Errno::PERM })] {
            let error = withdrawn(rollback::Error::NoPlace, unloaded);
            assert!(matches!(error, Error::Rollback(rollback::Error::NoPlace)), "{error}");
        }
    }

    /// A machine of this memory, in kB, with the device tree of QEMU's arm64 one.
    fn machine_with(available: u64) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        std::fs::create_dir_all(root.path().join("sys/firmware")).unwrap();
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        let meminfo = format!("MemTotal: 1000000 kB\nMemAvailable: {available} kB\n");
        std::fs::write(paths.meminfo(), meminfo).unwrap();
        std::fs::write(paths.devicetree(), QEMU).unwrap();
        (root, paths)
    }

    const QEMU: &[u8] = include_bytes!("devicetree/testdata/qemu-virt-gicv3.dtb");

    fn native() -> (u16, Vec<u8>) {
        if NATIVE == Arch::X86_64 { (X86, testing::bzimage()) } else { (ARM, testing::arm64()) }
    }

    #[test]
    fn what_an_image_brings_comes_before_what_was_published() {
        let (machine, kernel) = native();
        let image = testing::uki(machine, &testing::gzip(&kernel));
        let published = testing::cpio(&[("published", b"x")]);
        let recognised = |available| {
            let archives = vec![testing::artifact("initramfs", &published)];
            let kernel = testing::artifact("kernel", &image);
            recognise(kernel, archives, &[Call::FileLoad, Call::Load], &machine_with(available).1)
        };
        let (found, ramdisk) = recognised(900_000).unwrap();
        assert_eq!(found.size(), kernel.len() as u64);
        let ramdisk = ramdisk.unwrap().map().unwrap();
        let at = |text: &[u8]| ramdisk.windows(text.len()).position(|window| window == text);
        assert!(at(b"GenuineIntel.bin") < at(b"#!/bin/sh") && at(b"#!/bin/sh") < at(b"published"));
        assert!(at(b"GenuineIntel.bin").is_some());
        // What would not be loaded is not even unpacked.
        let error = recognised(2_000).unwrap_err();
        assert_eq!(error.exit(), Exit::NotEnoughMemory, "{error}");
        assert!(error.to_string().contains(" are missing"), "{error}");
    }

    #[test]
    fn of_the_trees_in_an_image_the_one_for_this_machine_is_taken() {
        let (_root, paths) = machine_with(900_000);
        let brought = |sections: &[(&str, &[u8])], calls: &[Call], paths: &Paths| {
            let kernel = testing::arm64();
            let image = testing::pe(ARM, &[sections, &[(".linux", &kernel)]].concat());
            let mut kernel =
                KernelImage::examine(testing::artifact("kernel", &image), &at_most(MOST_UNPACKED)).unwrap();
            brought_tree(&mut kernel, calls, paths)
        };
        let (any, other): (&[u8], &[u8]) = (b"any", b"of no machine");
        let both = [Call::FileLoad, Call::Load];
        let all = [(".dtb", any), (".dtbauto", other), (".dtbauto", QEMU)];
        assert_eq!(brought(&all, &both, &paths).unwrap(), QEMU);
        assert_eq!(brought(&all[..2], &both, &paths).unwrap(), any);
        assert_eq!(brought(&all[1..2], &both, &paths), None);
        assert_eq!(brought(&[], &both, &paths), None);
        // kexec_file_load takes none; ACPI describes a machine without a tree.
        assert_eq!(brought(&all, &[Call::FileLoad], &paths), None);
        assert_eq!(brought(&all, &both, &Paths::under("/nonexistent")), None);
    }
}
