//! The peer's programs: Debian's busybox and kexec, with the libraries that kexec is linked with.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use goblin::elf::Elf;

use crate::apt::{self, Deb, Wanted};
use crate::arch::Arch;
use crate::{folders, run};

/// What the peer's scripts call of busybox.
const APPLETS: [&str; 9] =
    ["sh", "insmod", "ip", "mkdir", "mount", "poweroff", "sha256sum", "udhcpc", "wget"];
/// Packages that are looked through for libraries, at most.
const MOST_PACKAGES: usize = 40;

/// A folder with `bin`, `lib` and what else belongs into an initramfs, from the cache if it is there.
pub(crate) fn root(arch: Arch) -> Result<PathBuf> {
    let _turn = folders::lock("peer")?;
    let busybox = package("busybox-static", arch)?;
    let kexec = package("kexec-tools", arch)?;
    let name = format!("{arch}-{}-{}", busybox.key(), kexec.key());
    let folder = folders::cache()?.join("peer").join(name);
    if !folder.exists() {
        println!("peer: packing {busybox} and {kexec} ({arch})");
        let half = folders::beside(&folder, ".part");
        folders::afresh(&half)?;
        let done = half.join("root");
        pack(&busybox, &kexec, arch, &half.join("packages"), &done)?;
        fs::rename(&done, &folder)?;
        fs::remove_dir_all(&half)?;
    }
    Ok(folder)
}

fn package(name: &str, arch: Arch) -> Result<Deb> {
    apt::resolve(&Wanted { names: &[name], version: "", arch: Some(arch), suite: "bookworm" })
}

fn pack(busybox: &Deb, kexec: &Deb, arch: Arch, packages: &Path, root: &Path) -> Result<()> {
    for folder in ["bin", "lib"] {
        fs::create_dir_all(root.join(folder))?;
    }
    unpack(busybox, packages)?;
    unpack(kexec, packages)?;
    copy(&find(packages, "busybox")?.context("no busybox")?, &root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let program = find(packages, "kexec")?.context("no kexec")?;
    copy(&program, &root.join("bin/kexec"))?;
    for (name, library) in libraries(kexec, &program, arch, packages)? {
        copy(&library, &root.join("lib").join(name))?;
    }
    // The dynamic loader has to be where the program says.
    let bytes = fs::read(&program)?;
    let interpreter = Elf::parse(&bytes)?.interpreter.context("kexec is static")?;
    let at = root.join(interpreter.trim_start_matches('/'));
    if !at.exists() {
        let name = Path::new(interpreter).file_name().context("no loader")?;
        let loader = find(packages, &name.to_string_lossy())?.context("no dynamic loader")?;
        fs::create_dir_all(at.parent().context("a loader in no folder")?)?;
        copy(&loader, &at)?;
    }
    Ok(())
}

/// Every library that `program` needs, directly or not: from the packages that its package depends on,
/// of which as many are unpacked as it takes.
fn libraries(package: &Deb, program: &Path, arch: Arch, into: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut missing = needed(program)?;
    let mut queue: VecDeque<String> = package.dependencies().map(String::from).collect();
    let mut seen = BTreeSet::new();
    loop {
        while let Some(name) = missing.iter().find(|name| !found.contains_key(*name)).cloned() {
            let Some(path) = find(into, &name)? else { break };
            missing.extend(needed(&path)?);
            found.insert(name, path);
        }
        missing.retain(|name| !found.contains_key(name));
        let Some(name) = missing.first() else { return Ok(found) };
        if seen.len() >= MOST_PACKAGES {
            bail!("no {name} in {MOST_PACKAGES} packages that {package} depends on");
        }
        // Debian names a library's package after it; debconf and the like have none.
        let next = queue.iter().position(|name| name.starts_with("lib") || name.starts_with("zlib"));
        let next = next.and_then(|index| queue.remove(index));
        let next = next.with_context(|| format!("no package that {package} depends on has {name}"))?;
        if seen.insert(next.clone()) {
            let deb = self::package(&next, arch)?;
            unpack(&deb, into)?;
            queue.extend(deb.dependencies().map(String::from));
        }
    }
}

fn needed(program: &Path) -> Result<BTreeSet<String>> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let elf = Elf::parse(&bytes).with_context(|| program.display().to_string())?;
    Ok(elf.libraries.iter().map(|name| (*name).to_owned()).collect())
}

fn unpack(deb: &Deb, into: &Path) -> Result<()> {
    let archive = deb.download()?;
    run::quiet(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(into))?;
    fs::remove_file(archive)?;
    Ok(())
}

/// The program or library of this name below `folder`, behind whatever links lead to it.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == name && is_elf(&entry.path()) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

fn is_elf(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}
