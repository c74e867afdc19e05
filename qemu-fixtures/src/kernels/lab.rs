//! The lab's own kernels, built from Debian's `linux-source-6.12`: what Debian builds none of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{Form, Id, Kernel, forms};
use crate::apt::{self, Deb, Wanted};
use crate::arch::Arch;
use crate::{folders, run};

/// On top of tinyconfig.
fn fragment(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => include_str!("../../kernels/lab-x86_64.config"),
        Arch::Aarch64 => include_str!("../../kernels/lab-arm64.config"),
    }
}

/// What the kernel's build calls it: itself, and the image that is booted.
fn named(arch: Arch) -> (&'static str, &'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("x86_64", "arch/x86/boot", "bzImage"),
        Arch::Aarch64 => ("arm64", "arch/arm64/boot", "Image"),
    }
}

/// The kernel, built if this source, configuration and compiler have not met before.
pub(super) fn get(id: Id) -> Result<Kernel> {
    let arch = id.arch();
    let wanted = Wanted { names: &["linux-source-6.12"], version: "6.12.", arch: None, suite: "trixie" };
    let source = apt::resolve(&wanted)?;
    let gcc = run::text(Command::new(arch.gcc()).arg("--version"))
        .with_context(|| format!("no C compiler for {arch}; run: cargo lab setup"))?;
    let mut key = Sha256::new();
    let again = if arch == Arch::Aarch64 { ZSTD } else { "" };
    for part in [source.sha256(), fragment(arch), again, gcc.lines().next().unwrap_or_default()] {
        key.update(part.as_bytes());
        key.update(b"\0");
    }
    let key: String = apt::hex(&key.finalize()).chars().take(16).collect();
    let folder = folders::cache()?.join("kernels").join(format!("{id}-{key}"));
    if !folder.exists() {
        build(arch, &source, &folder)?;
    }
    let release = fs::read_to_string(folder.join("release"))?.trim().to_owned();
    let (_, _, image) = named(arch);
    Ok(Kernel { id, image: folder.join(image), modules: None, release })
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
/// In the tree of a build, as the configuration names it.
const CERTIFICATE: &str = "lab.pem";
/// What an EFI zboot image is compressed with is part of the configuration.
const ZSTD: &str = "# CONFIG_KERNEL_GZIP is not set\nCONFIG_KERNEL_ZSTD=y\n";

fn build(arch: Arch, source: &Deb, into: &Path) -> Result<()> {
    println!("kernels: building the lab's kernel for {arch} from {source}: some minutes");
    let work = folders::beside(into, ".part");
    folders::afresh(&work)?;
    let log = File::create(work.join("build.log"))?;
    let deb = source.download()?;
    unpack(&deb, &work)?;
    let tree = work.join("linux-source-6.12");
    let config = work.join("lab.config");
    fs::write(&config, fragment(arch))?;

    let (name, boot, image) = named(arch);
    let cross = if arch.is_native() { String::new() } else { format!("{}-linux-gnu-", arch.gnu()) };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let make = |targets: &[&str]| {
        let mut make = clean("make");
        make.args([format!("ARCH={name}"), format!("CROSS_COMPILE={cross}"), format!("-j{jobs}")]);
        make.args(targets);
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
    check(&fs::read_to_string(tree.join(".config"))?, fragment(arch))?;
    let boot = tree.join(boot);
    let done = folders::beside(into, ".done");
    folders::afresh(&done)?;
    let keep = |from: &str, to: &str| -> Result<()> {
        fs::copy(boot.join(from), done.join(to)).with_context(|| format!("the build left no {from}"))?;
        Ok(())
    };
    fs::copy(tree.join(".config"), done.join("config"))?;
    match arch {
        Arch::X86_64 => {
            fs::copy(forms::certificate(arch), tree.join(CERTIFICATE))
                .context("no certificate of the firmware's; run: cargo lab setup")?;
            step(make(&[image]))?;
        }
        Arch::Aarch64 => {
            step(make(&[image, "Image.gz", "Image.zst", "vmlinuz.efi"]))?;
            keep("Image.gz", "Image.gz")?;
            keep("Image.zst", "Image.zst")?;
            keep("vmlinuz.efi", ZBOOT_GZIP)?;
            // Compressed again, nothing is compiled anew.
            fs::write(&config, ZSTD)?;
            for command in [merge(&config), make(&["olddefconfig"]), make(&["vmlinuz.efi"])] {
                step(command)?;
            }
            keep("vmlinuz.efi", ZBOOT_ZSTD)?;
        }
    }
    keep(image, image)?;
    let release = run::text(make(&["kernelrelease", "-s"]).current_dir(&tree))?;
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
fn check(config: &str, fragment: &str) -> Result<()> {
    let lost: Vec<&str> = fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|wanted| !config.lines().any(|line| line == *wanted))
        .collect();
    let gained: Vec<&str> = fragment
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.strip_suffix(" is not set"))
        .filter(|name| config.lines().any(|line| line.split_once('=').is_some_and(|(set, _)| set == *name)))
        .collect();
    if !lost.is_empty() || !gained.is_empty() {
        bail!("the configuration was not followed: lost {lost:?}, set although unwanted {gained:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_kconfig_dropped_is_named() {
        let fragment = fragment(Arch::Aarch64);
        assert!(check(fragment, fragment).is_ok());
        let without = fragment.replace("CONFIG_KEXEC_FILE=y\n", "");
        assert!(check(&without, fragment).unwrap_err().to_string().contains("CONFIG_KEXEC_FILE=y"));
        let with = format!("{fragment}CONFIG_PACKET=y\n");
        assert!(check(&with, fragment).unwrap_err().to_string().contains("CONFIG_PACKET"));
    }
}
