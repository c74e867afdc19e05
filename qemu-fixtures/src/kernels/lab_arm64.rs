//! The lab's arm64 kernel, built from Debian's `linux-source-6.12` and `lab-arm64.config`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{Form, Id, Kernel};
use crate::apt::{self, Deb, Wanted};
use crate::arch::Arch;
use crate::{folders, run};

const FRAGMENT: &str = include_str!("../../kernels/lab-arm64.config");

/// The kernel, built if this source, configuration and compiler have not met before.
pub(super) fn get(id: Id) -> Result<Kernel> {
    let wanted = Wanted { names: &["linux-source-6.12"], version: "6.12.", arch: None, suite: "trixie" };
    let source = apt::resolve(&wanted)?;
    let gcc = run::text(Command::new(Arch::Aarch64.gcc()).arg("--version"))
        .context("no C compiler for aarch64; run: cargo lab setup")?;
    let mut key = Sha256::new();
    for part in [source.sha256(), FRAGMENT, ZSTD, gcc.lines().next().unwrap_or_default()] {
        key.update(part.as_bytes());
        key.update(b"\0");
    }
    let key: String = apt::hex(&key.finalize()).chars().take(16).collect();
    let folder = folders::cache()?.join("kernels").join(format!("{id}-{key}"));
    if !folder.exists() {
        build(&source, &folder)?;
    }
    let release = fs::read_to_string(folder.join("release"))?.trim().to_owned();
    Ok(Kernel { id, image: folder.join("Image"), modules: None, release })
}

/// The same kernel in another form that its build makes: a file beside the Image.
pub(super) fn form(kernel: &Kernel, form: Form) -> PathBuf {
    kernel.image.with_file_name(match form {
        Form::Gzip => "Image.gz",
        Form::Zstd => "Image.zst",
        Form::ZbootGzip => ZBOOT_GZIP,
        _ => ZBOOT_ZSTD,
    })
}

const ZBOOT_GZIP: &str = "vmlinuz-gzip.efi";
const ZBOOT_ZSTD: &str = "vmlinuz-zstd.efi";
/// What an EFI zboot image is compressed with is part of the configuration.
const ZSTD: &str = "# CONFIG_KERNEL_GZIP is not set\nCONFIG_KERNEL_ZSTD=y\n";

fn build(source: &Deb, into: &Path) -> Result<()> {
    println!("kernels: building the lab's arm64 kernel from {source}: some minutes");
    let work = folders::beside(into, ".part");
    folders::afresh(&work)?;
    let log = File::create(work.join("build.log"))?;
    let deb = source.download()?;
    unpack(&deb, &work)?;
    let tree = work.join("linux-source-6.12");
    let config = work.join("lab-arm64.config");
    fs::write(&config, FRAGMENT)?;

    let cross = if Arch::Aarch64.is_native() { "" } else { "aarch64-linux-gnu-" };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let make = |targets: &[&str]| {
        let mut make = clean("make");
        make.args(["ARCH=arm64", &format!("CROSS_COMPILE={cross}"), &format!("-j{jobs}")]).args(targets);
        make
    };
    let merge = |fragment: &Path| {
        let mut merge = clean("scripts/kconfig/merge_config.sh");
        merge.args(["-m", "-O", ".", ".config"]).arg(fragment);
        merge
    };
    let step = |mut command: Command| logged(command.current_dir(&tree), &log, &work);
    for command in [make(&["tinyconfig"]), merge(&config), make(&["olddefconfig"])] {
        step(command)?;
    }
    check(&fs::read_to_string(tree.join(".config"))?)?;
    step(make(&["Image", "Image.gz", "Image.zst", "vmlinuz.efi"]))?;

    let release = run::text(make(&["kernelrelease", "-s"]).current_dir(&tree))?;
    let done = folders::beside(into, ".done");
    folders::afresh(&done)?;
    let boot = tree.join("arch/arm64/boot");
    for (from, to) in [
        ("Image", "Image"),
        ("Image.gz", "Image.gz"),
        ("Image.zst", "Image.zst"),
        ("vmlinuz.efi", ZBOOT_GZIP),
    ] {
        fs::copy(boot.join(from), done.join(to)).with_context(|| format!("the build left no {from}"))?;
    }
    fs::copy(tree.join(".config"), done.join("config"))?;
    // Compressed again, nothing is compiled anew.
    fs::write(&config, ZSTD)?;
    for command in [merge(&config), make(&["olddefconfig"]), make(&["vmlinuz.efi"])] {
        step(command)?;
    }
    fs::copy(boot.join("vmlinuz.efi"), done.join(ZBOOT_ZSTD))?;
    fs::write(done.join("release"), release)?;
    fs::rename(&done, into)?;
    fs::remove_dir_all(&work)?;
    fs::remove_file(deb)?;
    Ok(())
}

/// Make passes its own variables on; cargo's and the session's are not meant for a kernel.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in
        ["MAKEFLAGS", "MFLAGS", "ARCH", "CROSS_COMPILE", "KCFLAGS", "LOCALVERSION", "CFLAGS", "LDFLAGS"]
    {
        command.env_remove(name);
    }
    command
}

/// The source archive inside the package, without a copy of it in between.
fn unpack(deb: &Path, into: &Path) -> Result<()> {
    let mut package = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let mut inner = Command::new("tar")
        .args(["xO", "./usr/src/linux-source-6.12.tar.xz"])
        .stdin(package.stdout.take().context("dpkg-deb has no output")?)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let outer = Command::new("tar")
        .arg("xJ")
        .stdin(inner.stdout.take().context("tar has no output")?)
        .current_dir(into)
        .status()
        .context("cannot run tar")?;
    let fine = inner.wait()?.success() && outer.success();
    // dpkg-deb may be cut short by a tar that has seen what it wanted.
    package.wait()?;
    if !fine {
        bail!("cannot unpack {}", deb.display());
    }
    Ok(())
}

fn logged(command: &mut Command, log: &File, work: &Path) -> Result<()> {
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    run::shown(command).with_context(|| {
        let text = fs::read_to_string(work.join("build.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(3)..].join(" / ");
        format!("{} ends in: {last}", work.join("build.log").display())
    })
}

/// Kconfig drops options whose dependencies are missing without a word.
fn check(config: &str) -> Result<()> {
    let lost: Vec<&str> = FRAGMENT
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|wanted| !config.lines().any(|line| line == *wanted))
        .collect();
    let gained: Vec<&str> = FRAGMENT
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.strip_suffix(" is not set"))
        .filter(|name| config.lines().any(|line| line.split_once('=').is_some_and(|(set, _)| set == *name)))
        .collect();
    if !lost.is_empty() || !gained.is_empty() {
        bail!("lab-arm64.config was not followed: lost {lost:?}, set although unwanted {gained:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_kconfig_dropped_is_named() {
        assert!(check(FRAGMENT).is_ok());
        let without = FRAGMENT.replace("CONFIG_KEXEC_FILE=y\n", "");
        assert!(check(&without).unwrap_err().to_string().contains("CONFIG_KEXEC_FILE=y"));
        let with = format!("{FRAGMENT}CONFIG_PACKET=y\n");
        assert!(check(&with).unwrap_err().to_string().contains("CONFIG_PACKET"));
    }
}
