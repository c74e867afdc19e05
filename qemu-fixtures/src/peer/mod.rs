//! The peer: a shell init with busybox and kexec-tools on the same machine, with the same kernel, files and
//! server as phaseboot, so that times can be compared within one run; and a shell init that calls phaseboot.

mod packages;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::sha256_of;
use crate::arch::Arch;
use crate::e2e::{Leased, Times, told};
use crate::kernels::{Id, Kernel};
use crate::machine::{Boot, HOST, Machine};
use crate::run;
use crate::serial::Transcript;
use crate::stage::{MODULES, Stage, Tools};

pub(crate) use packages::root as programs;

const INIT: &str = include_str!("init.sh");
const LEASE: &str = include_str!("lease.sh");
const MANY: &str = include_str!("many.sh");
const OTHER: &str = include_str!("other.sh");
/// On aarch64 kexec-tools takes half a minute between the kernels.
const LIMIT: Duration = Duration::from_secs(150);

/// Boots Debian's kernel for `arch` into itself, the peer's way.
pub(crate) fn boot(arch: Arch, tools: &Tools, folder: &Path) -> Result<Times> {
    let id = Id::Debian61(arch);
    let kernel = tools.kernel(id)?;
    let stage = Stage::new(tools, folder.to_owned())?;
    let (target, secret) = stage.target_initramfs(id, 0, &[])?;
    publish(&stage.site(), &kernel.image, &target)?;
    let server = stage.serve(None, None)?;
    let url = format!("http://{HOST}:{}", server.port());
    let console = arch.console();
    let initramfs = initramfs(&stage, kernel, &url, &format!("console={console} {}", told(arch)))?;
    let boot = Boot {
        kernel: kernel.image.clone(),
        initramfs: initramfs.clone(),
        cmdline: format!("console={console} {}", told(arch)),
        name: format!("phaseboot-lab-{}-peer", std::process::id()),
    };
    let run = Machine::new(arch).run(&boot, &stage.path("serial.log"), LIMIT, false)?;
    let said = run.transcript;
    let targets = said.targets();
    let (_, report) = targets.first().with_context(|| {
        let last: Vec<&str> = said.tail(3).collect();
        format!("no second kernel: {}", last.join(" / "))
    })?;
    ensure!(report["secret_sha256"] == secret, "the second kernel has another initramfs");
    times(&said, &initramfs)
}

/// Boots a shell's init that asks for a lease on every card of this machine, as far as the first lease.
pub(crate) fn many(machine: &Machine, tools: &Tools, folder: &Path) -> Result<Leased> {
    let kernel = tools.kernel(Id::Debian61(machine.arch))?;
    let stage = Stage::new(tools, folder.to_owned())?;
    let root = shell_root(&stage, kernel, MANY, "")?;
    let boot = Boot {
        kernel: kernel.image.clone(),
        initramfs: pack(&root, &stage.path("peer.img"))?,
        cmdline: format!("console={} {}", machine.arch.console(), told(machine.arch)),
        name: format!("phaseboot-lab-{}-many", std::process::id()),
    };
    let said = machine.run(&boot, &stage.path("serial.log"), LIMIT, false)?.transcript;
    let lease = mark(&said, "lease").context("the peer has no lease")?;
    let since = |name: &str| mark(&said, name).map(|at| lease.saturating_sub(at).as_secs_f64());
    Ok(Leased { since_start: since("start"), since_cards: since("cards") })
}

/// Both files and their checksums, as they are.
fn publish(site: &Path, kernel: &Path, initramfs: &Path) -> Result<()> {
    fs::create_dir_all(site)?;
    let mut sums = String::new();
    for (name, source) in [("kernel", kernel), ("initramfs", initramfs)] {
        fs::copy(source, site.join(name)).with_context(|| format!("cannot copy {}", source.display()))?;
        sums.push_str(&format!("{}  {name}\n", sha256_of(source)?));
    }
    fs::write(site.join("SHA256SUMS"), sums)?;
    Ok(())
}

/// Packed as tightly as the one with phaseboot is: gzip -9.
fn initramfs(stage: &Stage<'_>, kernel: &Kernel, url: &str, cmdline: &str) -> Result<PathBuf> {
    let root = shell_root(stage, kernel, INIT, &format!("url='{url}'\ncmdline='{cmdline}'\n"))?;
    pack(&root, &stage.path("peer.img"))
}

/// What a shell's init does besides loading modules.
#[derive(Debug)]
pub(crate) struct Shell<'a> {
    /// Who brings the network up: udhcpc, phaseboot, none.
    pub(crate) network: &'a str,
    /// Lines of the script, after that.
    pub(crate) commands: &'a str,
    /// What they have in `$cmdline`.
    pub(crate) cmdline: &'a str,
}

/// The initramfs `base`, whose init is phaseboot, with a shell's init before it, which calls phaseboot as a
/// command.
pub(crate) fn other_init(
    stage: &Stage<'_>,
    kernel: &Kernel,
    payload: &Path,
    base: &Path,
    shell: &Shell<'_>,
) -> Result<PathBuf> {
    let settings = format!("network='{}'\ncmdline='{}'\n", shell.network, shell.cmdline);
    let root = shell_root(stage, kernel, OTHER, &settings)?;
    fs::write(root.join("commands"), shell.commands)?;
    fs::copy(payload, root.join("bin/phaseboot"))?;
    let shell = pack(&root, &stage.path("shell.img"))?;
    // The kernel unpacks one archive behind the other, and the last of a name stays.
    let whole = [fs::read(base)?, fs::read(shell)?].concat();
    let out = stage.path("both.img");
    fs::write(&out, whole)?;
    Ok(out)
}

/// A folder with busybox, the machine's modules, an init and its settings.
fn shell_root(stage: &Stage<'_>, kernel: &Kernel, init: &str, settings: &str) -> Result<PathBuf> {
    let root = stage.path("peer");
    run::quiet(Command::new("cp").arg("-a").arg(packages::root(kernel.id.arch())?).arg(&root))?;
    for folder in ["dev", "modules", "proc", "sys"] {
        fs::create_dir(root.join(folder))?;
    }
    let mut names = Vec::new();
    let folder = kernel.modules.as_ref().context("a kernel without modules")?;
    let dependencies = fs::read_to_string(folder.join("modules.dep")).context("no modules.dep")?;
    for path in modules(&dependencies, &MODULES)? {
        let name = Path::new(path).file_name().context("a module without a name")?.to_string_lossy();
        fs::copy(folder.join(path), root.join("modules").join(&*name))?;
        names.push(name.into_owned());
    }
    fs::write(root.join("peer.conf"), format!("modules='{}'\n{settings}", names.join(" ")))?;
    for (name, script) in [("init", init), ("bin/lease", LEASE)] {
        fs::write(root.join(name), script)?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(root)
}

fn pack(root: &Path, out: &Path) -> Result<PathBuf> {
    let pipe = "find . | LC_ALL=C sort | cpio --quiet --create --format newc --owner 0:0 | gzip -9n >\"$1\"";
    run::quiet(Command::new("sh").args(["-ec", pipe, "sh"]).arg(out).current_dir(root))?;
    Ok(out.to_owned())
}

/// The modules of these names and what they need, in the order in which they have to be loaded:
/// modules.dep(5) has the last to be loaded first.
fn modules<'a>(dependencies: &'a str, names: &[&str]) -> Result<Vec<&'a str>> {
    // virtio_rng is in virtio-rng.ko.
    let name = |path: &str| Some(Path::new(path).file_stem()?.to_str()?.replace('-', "_"));
    let mut order = Vec::new();
    for wanted in names {
        let mut lines = dependencies.lines().filter_map(|line| line.split_once(':'));
        let Some((path, needs)) = lines.find(|(path, _)| name(path).as_deref() == Some(*wanted)) else {
            bail!("modules.dep has no {wanted}");
        };
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// When the peer said so first, since the machine was started.
fn mark(said: &Transcript, name: &str) -> Option<Duration> {
    let line = said.lines.iter().find(|line| line.text.strip_prefix("peer: ") == Some(name));
    line.map(|line| line.at)
}

fn times(said: &Transcript, initramfs: &Path) -> Result<Times> {
    let at = |name: &str| mark(said, name);
    let start = at("start").context("the peer's first line is missing")?;
    let since = |mark: &str| at(mark).map(|at| at.saturating_sub(start).as_secs_f64());
    let exec = at("exec").context("the peer's last line is missing")?;
    Ok(Times {
        lease: since("lease"),
        verified: since("verified"),
        exec: since("exec"),
        handover: said.target_started().map(|at| at.saturating_sub(exec).as_secs_f64()),
        lease_of_card: None,
        initramfs: fs::metadata(initramfs)?.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/a.ko:\nkernel/b.ko: kernel/a.ko\nkernel/c-d.ko: kernel/b.ko kernel/a.ko\n";
        assert_eq!(
            modules(dependencies, &["b", "c_d"]).unwrap(),
            ["kernel/a.ko", "kernel/b.ko", "kernel/c-d.ko"]
        );
        assert!(modules(dependencies, &["d"]).is_err());
    }
}
