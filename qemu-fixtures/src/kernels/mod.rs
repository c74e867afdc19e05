//! The kernels that are booted: Debian's own, and a small arm64 one with kexec_file_load.
//!
//! All of it is kept in the cache by checksum, and resolved anew each day: a mirror drops old versions.

mod forms;
mod lab;
mod uki;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Deb, Wanted};
use crate::arch::Arch;
use crate::{folders, run};

pub(crate) use forms::Form;
pub(crate) use uki::Uki;

/// A kernel of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    /// Debian's Linux 6.1 for clouds: virtio as `.ko` modules. On arm64 Debian's have kexec_load only.
    Debian61(Arch),
    /// Debian's Linux 6.12 for clouds: `.ko.xz` modules.
    Debian612(Arch),
    /// Debian's newest Linux for clouds, in packages for image and modules each.
    Debian7(Arch),
    /// The lab's own Linux 6.12 for arm64: kexec_file_load only, no modules, no packet sockets.
    LabArm64,
    /// The lab's own Linux 6.12 for x86_64: kexec_file_load of what the firmware's key has signed, and
    /// kexec_load of anything; no modules.
    LabX86,
}

impl Id {
    /// Every kernel for these architectures.
    pub(crate) fn of(archs: &[Arch]) -> Vec<Self> {
        let mut all: Vec<Self> = archs
            .iter()
            .flat_map(|&arch| [Self::Debian61(arch), Self::Debian612(arch), Self::Debian7(arch)])
            .collect();
        all.extend(archs.iter().map(|arch| match arch {
            Arch::X86_64 => Self::LabX86,
            Arch::Aarch64 => Self::LabArm64,
        }));
        all
    }

    pub(crate) fn arch(self) -> Arch {
        match self {
            Self::Debian61(arch) | Self::Debian612(arch) | Self::Debian7(arch) => arch,
            Self::LabArm64 => Arch::Aarch64,
            Self::LabX86 => Arch::X86_64,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian61(arch) => write!(f, "debian-6.1-{}", arch.debian()),
            Self::Debian612(arch) => write!(f, "debian-6.12-{}", arch.debian()),
            Self::Debian7(arch) => write!(f, "debian-7-{}", arch.debian()),
            Self::LabArm64 => f.write_str("lab-6.12-arm64"),
            Self::LabX86 => f.write_str("lab-6.12-amd64"),
        }
    }
}

/// A kernel that is there to be booted.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) id: Id,
    /// bzImage or Image.
    pub(crate) image: PathBuf,
    /// `lib/modules/RELEASE` with modules.dep, if it has modules.
    pub(crate) modules: Option<PathBuf>,
    /// What `uname -r` will say.
    pub(crate) release: String,
}

impl Kernel {
    /// The name of its folder in the cache, which changes with its contents.
    fn key(&self) -> Result<String> {
        let root = folders::cache()?.join("kernels");
        let below = self.image.strip_prefix(&root).context("a kernel that is not in the cache")?;
        let first = below.components().next().context("a kernel without a folder")?;
        Ok(first.as_os_str().to_string_lossy().into_owned())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {:<18} {}  {}", self.id.to_string(), self.release, self.image.display())
    }
}

/// The kernel, from the cache where it is there.
pub(crate) fn get(id: Id) -> Result<Kernel> {
    let _turn = folders::lock(&format!("kernels-{id}"))?;
    let debian = |names: &[&str], version, suite| debian(id, names, version, suite);
    match id {
        Id::Debian61(Arch::X86_64) => debian(&["linux-image-cloud-amd64"], "6.1.", "bookworm"),
        Id::Debian61(Arch::Aarch64) => debian(&["linux-image-cloud-arm64"], "6.1.", "bookworm"),
        Id::Debian612(Arch::X86_64) => {
            debian(&["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"], "6.12.", "trixie")
        }
        Id::Debian612(Arch::Aarch64) => {
            debian(&["linux-image-6.12-cloud-arm64", "linux-image-cloud-arm64"], "6.12.", "trixie")
        }
        Id::Debian7(Arch::X86_64) => debian(&["linux-image-cloud-amd64"], "7.", "sid"),
        Id::Debian7(Arch::Aarch64) => debian(&["linux-image-cloud-arm64"], "7.", "sid"),
        Id::LabArm64 | Id::LabX86 => lab::get(id),
    }
    .with_context(|| format!("kernel {id}"))
}

/// A Debian kernel, by the metapackage that depends on its newest version.
fn debian(id: Id, metapackages: &[&str], version: &'static str, suite: &'static str) -> Result<Kernel> {
    let wanted = Wanted { names: metapackages, version, arch: Some(id.arch()), suite };
    let deb = apt::resolve_image(&wanted)?;
    let folder = folders::cache()?.join("kernels").join(format!("{id}-{}", deb.key()));
    if !folder.exists() {
        println!("kernels: unpacking {deb}");
        let half = folders::beside(&folder, ".part");
        folders::afresh(&half)?;
        unpack(&deb, &half)?;
        fs::rename(&half, &folder)?;
    }
    let release = only_entry(&folder.join("lib/modules"))?;
    let modules = folder.join("lib/modules").join(&release);
    // Where an image has a package of its own, it lies beside its modules.
    let places = [folder.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let Some(image) = places.into_iter().find(|image| image.exists()) else {
        bail!("{deb} has no image of {release}");
    };
    Ok(Kernel { id, image, modules: Some(modules), release })
}

/// Unpacks image and modules, and writes the modules.dep that no .deb ships.
fn unpack(deb: &Deb, into: &Path) -> Result<()> {
    for part in deb.with_parts(&["linux-binary-", "linux-modules-", "linux-base-"])? {
        let archive = part.download()?;
        run::quiet(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(into))?;
        fs::remove_file(archive)?;
    }
    let (merged, lib) = (into.join("usr/lib/modules"), into.join("lib"));
    if merged.exists() && !lib.exists() {
        fs::create_dir(&lib)?;
        fs::rename(merged, lib.join("modules"))?;
    }
    let release = only_entry(&into.join("lib/modules"))?;
    run::quiet(Command::new(depmod()).arg("-b").arg(into).arg(release))
}

/// sbin is not on every user's PATH.
fn depmod() -> &'static str {
    if run::have("depmod") { "depmod" } else { "/usr/sbin/depmod" }
}

fn only_entry(folder: &Path) -> Result<String> {
    let entries: Vec<String> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    match entries.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!("expected one kernel release in {}, found {}", folder.display(), entries.len()),
    }
}
