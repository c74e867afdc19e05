//! `cargo lab setup`: the Debian packages that the lab needs, installed where they are missing.

use std::collections::{BTreeSet, HashSet};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::{run, toolchain};

/// What a command of the lab is going to do, as far as packages depend on it.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Payloads are built for these.
    pub(crate) payloads: Vec<Arch>,
    /// Machines of these are started.
    pub(crate) machines: Vec<Arch>,
    /// Machines are started with UEFI firmware, too.
    pub(crate) firmware: bool,
    /// The lab's own kernel is built.
    pub(crate) kernel_build: bool,
    /// Tests are run, which call more programs.
    pub(crate) tests: bool,
}

impl Needs {
    pub(crate) fn everything() -> Self {
        Self {
            payloads: Arch::ALL.to_vec(),
            machines: Arch::ALL.to_vec(),
            firmware: true,
            kernel_build: true,
            tests: true,
        }
    }

    /// What it takes to boot one architecture on Debian's kernels.
    pub(crate) fn one(arch: Arch) -> Self {
        Self { payloads: vec![arch], machines: vec![arch], ..Self::default() }
    }

    /// Package names, with `:ARCHITECTURE` where it is not this machine's.
    fn packages(&self) -> Result<BTreeSet<String>> {
        let native = Arch::native()?;
        let mut names: BTreeSet<String> = ["ca-certificates", "kmod", "util-linux"].map(String::from).into();
        let mut add = |list: &[&str]| names.extend(list.iter().map(|name| (*name).to_owned()));
        for &arch in &self.payloads {
            add(compiler(arch));
            if !toolchain::rustup_has(arch) {
                add(&["rustc-web", "cargo-web", "rust-web-src"]);
                let musl = if arch == native {
                    "musl-dev".to_owned()
                } else {
                    format!("musl-dev:{}", arch.debian())
                };
                add(&[&musl]);
            }
        }
        for arch in &self.machines {
            match arch {
                Arch::X86_64 => add(&["qemu-system-x86", "seabios"]),
                Arch::Aarch64 => add(&["qemu-system-arm"]),
            }
        }
        if self.firmware {
            add(&["ovmf", "qemu-efi-aarch64"]);
        }
        if self.kernel_build {
            add(&["bc", "bison", "flex", "gcc", "libc6-dev", "libelf-dev", "libssl-dev", "make", "xz-utils"]);
            add(&["zstd"]);
            Arch::ALL.into_iter().for_each(|arch| add(compiler(arch)));
        }
        if self.tests {
            add(&[
                "avahi-daemon",
                "avahi-utils",
                "bash",
                "binutils-aarch64-linux-gnu",
                "binutils-x86-64-linux-gnu",
                "cpio",
                "curl",
            ]);
            add(&["dbus-daemon", "device-tree-compiler", "dnsmasq-base", "dosfstools", "e2fsprogs"]);
            add(&["fdisk", "iproute2", "kea-dhcp4-server", "kea-dhcp6-server", "nginx-light", "openssl"]);
            add(&["procps", "radvd", "sbsigntool", "tinyproxy-bin", "xz-utils"]);
        }
        Ok(names)
    }
}

/// The C compiler of `arch`, with the C library's headers.
fn compiler(arch: Arch) -> &'static [&'static str] {
    match (arch, arch.is_native()) {
        (_, true) => &["gcc", "libc6-dev"],
        (Arch::X86_64, false) => &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
        (Arch::Aarch64, false) => &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    }
}

/// Installs what is missing. Does nothing, quickly, where nothing is.
pub(crate) fn install(needs: &Needs) -> Result<()> {
    let wanted = needs.packages()?;
    if !run::have("dpkg-query") {
        let list: Vec<String> = wanted.into_iter().collect();
        bail!("not a Debian machine (no dpkg-query); install what these stand for: {}", list.join(" "));
    }
    let missing = missing(&wanted)?;
    if missing.is_empty() {
        println!("setup: all {} packages are installed", wanted.len());
        return Ok(());
    }
    println!("setup: installing {}", missing.join(" "));

    let mut steps: Vec<Vec<String>> = Vec::new();
    let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
    for foreign in foreign_architectures(&missing)? {
        steps.push(words(&format!("dpkg --add-architecture {foreign}")));
    }
    steps.push(words("apt-get update --quiet"));
    let mut install = words("apt-get install --yes --quiet --no-install-recommends");
    install.extend(missing);
    steps.push(install);

    let prefix: &[&str] = if is_root()? {
        &["env"]
    } else if run::have("sudo") {
        &["sudo", "env"]
    } else {
        let line: Vec<String> = steps.iter().map(|step| step.join(" ")).collect();
        bail!("not root and no sudo; run as root: {}", line.join(" && "));
    };
    for step in &steps {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg("DEBIAN_FRONTEND=noninteractive").args(step);
        run::shown(&mut command).with_context(|| step.join(" "))?;
    }
    Ok(())
}

/// Those of `wanted` that dpkg does not have installed.
fn missing(wanted: &BTreeSet<String>) -> Result<Vec<String>> {
    let native = Arch::native()?.debian();
    let list = run::text(Command::new("dpkg-query").args([
        "-W",
        "-f",
        "${Package} ${Architecture} ${db:Status-Status}\n",
    ]))?;
    let installed: HashSet<String> = list
        .lines()
        .filter_map(|line| match *line.split(' ').collect::<Vec<_>>() {
            [name, arch, "installed"] if arch == native || arch == "all" => Some(name.to_owned()),
            [name, arch, "installed"] => Some(format!("{name}:{arch}")),
            _ => None,
        })
        .collect();
    Ok(wanted.iter().filter(|name| !installed.contains(*name)).cloned().collect())
}

/// Architectures of `packages` that dpkg does not know yet.
fn foreign_architectures(packages: &[String]) -> Result<BTreeSet<String>> {
    let known = run::text(Command::new("dpkg").arg("--print-foreign-architectures"))?;
    let known: HashSet<&str> = known.lines().collect();
    let asked = packages.iter().filter_map(|package| package.split_once(':')).map(|(_, arch)| arch);
    Ok(asked.filter(|arch| !known.contains(arch)).map(String::from).collect())
}

fn is_root() -> Result<bool> {
    Ok(run::text(Command::new("id").arg("-u"))?.trim() == "0")
}
