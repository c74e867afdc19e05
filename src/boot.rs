//! The whole chain, from the network to the next kernel.

use log::info;

use crate::arch::Arch;
use crate::config::{self, Config};
use crate::error::Error;
use crate::fetch;
use crate::image::KernelImage;
use crate::kexec::{self, Plan, Target, cmdline};
use crate::manifest::{Seen, Trust, VerifiedManifest};
use crate::net::{self, Caller};
use crate::paths::Paths;
use crate::provider::http::Client;
use crate::provider::{self, Candidates, Search};
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
    let client = Client::new(deadline, trust.tls());
    let manifest = find(config, trust, &client, NATIVE)?;
    let artifacts = fetch::artifacts(&manifest, &client, paths)?;
    let kernel = KernelImage::from_artifact(artifacts.kernel, NATIVE)?;
    let cmdline = next_cmdline(config, trust, &manifest, &kernel, paths)?;
    let target = Target { kernel, initrd: Some(artifacts.initramfs), cmdline, devicetree: None };
    let plan = Plan::new(target, &preflight, paths, config.kaslr)?;
    if ending == Ending::DryRun {
        return Ok(Some(plan));
    }
    let loaded = plan.load()?;
    if ending == Ending::LoadOnly {
        return Ok(None);
    }
    match loaded.exec()? {}
}

/// The first manifest of the configured providers that this machine may boot.
pub fn find(config: &Config, trust: &Trust, client: &Client, arch: Arch) -> Result<VerifiedManifest, Error> {
    if config.providers.is_empty() {
        return Err(config::Error::NoProvider.into());
    }
    let candidates = Candidates::new(&config.providers, &config.channel, arch);
    let now = Some(trust.now(UnixTime::now()));
    let search = Search { candidates: &candidates, trust, arch, channel: &config.channel, now };
    provider::find(&search, client, &mut Seen::default())
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
