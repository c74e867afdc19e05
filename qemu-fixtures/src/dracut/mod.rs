//! An initramfs of dracut's with a module that calls phaseboot, as README.md tells people to write it. dracut
//! and what it calls are Debian's, unpacked into a folder of the cache and run there by chroot(1).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{self, Wanted};
use crate::arch::Arch;
use crate::kernels::Kernel;
use crate::stage::Stage;
use crate::{folders, run};

const SETUP: &str = include_str!("module-setup.sh");
const RUN: &str = include_str!("run.sh");
/// What is installed on every Debian machine, and called by dracut without being depended on.
const BASE: [&str; 13] = [
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "libc-bin",
    "mount",
    "procps",
    "sed",
    "util-linux",
];

/// Why no such initramfs can be made here, if that is known at once.
pub(crate) fn missing() -> Option<&'static str> {
    if !Arch::X86_64.is_native() {
        Some("not an x86_64 machine: its dracut cannot run")
    } else if !rustix::process::geteuid().is_root() {
        Some("not root: dracut runs in a folder of its own by chroot")
    } else {
        let programs = [
            ("apt-get", "no apt-get: dracut comes as Debian packages"),
            ("unshare", "no unshare (package util-linux)"),
        ];
        programs.into_iter().find(|(program, _)| !run::have(program)).map(|(_, why)| why)
    }
}

/// A system with dracut in it, from the cache if it is there.
pub(crate) fn system() -> Result<PathBuf> {
    let _turn = folders::lock("dracut")?;
    let wanted = Wanted { names: &["dracut-core"], version: "", arch: Some(Arch::X86_64), suite: "bookworm" };
    let dracut = apt::resolve(&wanted)?;
    let folder = folders::cache()?.join("dracut").join(dracut.key());
    if !folder.exists() {
        println!("dracut: unpacking {dracut}");
        let half = folders::beside(&folder, ".part");
        folders::afresh(&half)?;
        unpack(&half.join("packages"), &half.join("root"))?;
        fs::rename(half.join("root"), &folder)?;
        fs::remove_dir_all(&half)?;
    }
    Ok(folder)
}

fn unpack(packages: &Path, root: &Path) -> Result<()> {
    let debs = apt::with_dependencies(&[&["dracut-core"], BASE.as_slice()].concat(), packages)?;
    // Debian's packages of today have files in both places, which are one.
    for name in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    let pipe = "dpkg-deb --fsys-tarfile \"$1\" | tar -x --keep-directory-symlink -C \"$2\"";
    for deb in debs {
        run::quiet(Command::new("sh").args(["-ec", pipe, "sh"]).arg(deb).arg(root))?;
    }
    for name in ["work", "usr/lib/modules", "usr/lib/dracut/modules.d/95phaseboot"] {
        fs::create_dir_all(root.join(name))?;
    }
    // What Debian's installer writes, and dracut looks into.
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    Ok(())
}

/// An initramfs with this phaseboot, which trusts `key`. The hook calls it as `calls` says.
pub(crate) fn initramfs(
    stage: &Stage<'_>,
    kernel: &Kernel,
    payload: &Path,
    key: &Path,
    calls: &str,
) -> Result<PathBuf> {
    let module = stage.path("95phaseboot");
    fs::create_dir(&module)?;
    fs::copy(payload, module.join("phaseboot"))?;
    fs::copy(key, module.join("mine.pub"))?;
    let hook = format!("{calls} || warn \"phaseboot: exit code $?\"\n");
    for (name, text) in
        [("module-setup.sh", SETUP), ("root.sh", "root=phaseboot rootok=1\n"), ("phaseboot.sh", &hook)]
    {
        fs::write(module.join(name), text)?;
        fs::set_permissions(module.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let modules = kernel.modules.as_ref().and_then(|modules| modules.parent());
    let modules = modules.context("a kernel without modules")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", RUN, "sh"]).arg(system()?);
    command.args([&module, modules, &stage.path("")]).arg(&kernel.release);
    run::quiet(&mut command)?;
    let image = stage.path("dracut.img");
    ensure!(image.exists(), "dracut made no {}", image.display());
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_that_of_the_readme() {
        let readme = include_str!("../../../README.md");
        let shown: String = SETUP.lines().map(|line| format!("    {line}\n")).collect();
        assert!(readme.contains(&shown), "README.md does not have:\n{shown}");
    }
}
