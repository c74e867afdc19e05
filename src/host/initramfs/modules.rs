//! Kernel modules for the archive: the wanted ones, everything they depend on, and the indexes of
//! depmod(8) cut down to them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::archive::{Archive, Node};
use super::program;
use crate::arch::Arch;
use crate::host::{files, output};

/// Drivers of network cards, and of the buses and PHYs they need, that machines and virtual
/// machines commonly have, of devices made above them, and of what the rollback record is kept in. Those
/// the kernel does not have as modules are passed over.
const COMMON: [&str; 8] = [VIRTUAL, PCI, ARM64, USB, PHY, DEVICES, DISKS, RECORD];
const VIRTUAL: &str = "virtio_pci virtio_mmio virtio_net vmxnet3 hv_netvsc pci_hyperv xen_netfront ena gve \
    ixgbevf iavf igbvf";
const PCI: &str = "e100 e1000 e1000e igb igc ixgbe i40e ice 8139cp 8139too r8169 tg3 bnx2 bnxt_en mlx4_en \
    mlx5_core be2net atlantic alx atl1c sky2 forcedeth enic";
const ARM64: &str = "genet macb mvneta mvpp2 dwmac_rk dwmac_sun8i dwmac_generic fec fsl_enetc hns3 nicvf \
    xgene_enet smsc911x";
const USB: &str = "xhci_pci xhci_plat_hcd ehci_pci r8152 ax88179_178a asix cdc_ether smsc95xx lan78xx";
const PHY: &str = "realtek broadcom marvell motorcomm micrel";
/// `vlan=` and `bond=`; see src/init/modules.rs, which loads them where the command line asks for them.
const DEVICES: &str = "8021q bonding";
const DISKS: &str = "virtio_blk nvme ahci sd_mod usb_storage uas sdhci_pci sdhci_iproc mmc_block";
/// See src/init/modules.rs, which loads them.
const RECORD: &str = "efivarfs ext4 crc32c_generic vfat nls_cp437 nls_ascii nls_iso8859_1";

/// Files larger than this are no indexes of depmod's, and no modules.
const FILE_LIMIT: u64 = 256 * 1024 * 1024;

/// The folder lib/modules/RELEASE of a kernel.
#[derive(Debug)]
pub(super) struct Modules {
    folder: PathBuf,
    release: String,
    /// By normal name.
    known: BTreeMap<String, Module>,
    aliases: String,
    softdeps: String,
    builtin: String,
}

#[derive(Debug)]
struct Module {
    /// Relative to the folder.
    path: String,
    /// Paths of all modules it needs, direct or not.
    needs: Vec<String>,
}

/// What was put into the archive.
#[derive(Debug, serde::Serialize)]
pub(super) struct Packed {
    pub(super) release: String,
    /// Normal names, sorted.
    pub(super) modules: Vec<String>,
    /// Bytes, as they lie in the archive.
    pub(super) size: u64,
}

impl Modules {
    /// Reads the indexes of a folder lib/modules/RELEASE, made by depmod now if a package without
    /// them was unpacked there.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let folder =
            folder.canonicalize().with_context(|| format!("cannot open the modules {}", folder.display()))?;
        let release = folder.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        ensure!(
            folder.join("kernel").is_dir(),
            "{} is not a folder lib/modules/RELEASE: it has no folder \"kernel\"",
            folder.display()
        );
        let indexed = folder.join("modules.dep").exists();
        let made = if indexed { None } else { Some(depmod(&folder, &release)?) };
        let indexes =
            made.as_ref().map_or(folder.clone(), |made| made.path().join("lib/modules").join(&release));
        let index = |name: &str| -> Result<String> {
            let path = indexes.join(name);
            if !path.exists() {
                return Ok(String::new());
            }
            String::from_utf8(files::read(&path, FILE_LIMIT)?)
                .with_context(|| format!("{} is not text", path.display()))
        };
        Ok(Self {
            known: parse_dep(&index("modules.dep")?),
            aliases: index("modules.alias")?,
            softdeps: index("modules.softdep")?,
            builtin: index("modules.builtin")?,
            folder,
            release,
        })
    }

    /// Puts the modules `wanted` into the archive, or the [`COMMON`] ones if none is named.
    pub(super) fn pack(&self, wanted: &[String], archive: &mut Archive, arch: Arch) -> Result<Packed> {
        let wanted: Vec<String> = if wanted.is_empty() {
            common().filter(|name| self.known.contains_key(name)).collect()
        } else {
            self.named(wanted)?
        };
        let chosen = self.closure(&wanted)?;
        let root = format!("lib/modules/{}", self.release);
        let mut size = 0_u64;
        for module in chosen.values() {
            let source = self.folder.join(&module.path);
            let bytes = files::read(&source, FILE_LIMIT)?;
            let what = format!("module {}", source.display());
            let head = elf_header(&bytes).with_context(|| format!("{what} is damaged"))?;
            let found = program::arch(&head, &what)?.ok_or_else(|| anyhow!("{what} is not an ELF file"))?;
            ensure!(found == arch, "{what} is for {found}, the archive for {arch}");
            size = size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            archive.add(&format!("{root}/{}", module.path), 0o644, Node::File(bytes))?;
        }
        for (name, text) in self.indexes(&chosen, &wanted).into_iter().filter(|(_, text)| !text.is_empty()) {
            archive.add(&format!("{root}/{name}"), 0o644, Node::File(text.into_bytes()))?;
        }
        Ok(Packed {
            release: self.release.clone(),
            modules: chosen.into_keys().map(str::to_owned).collect(),
            size,
        })
    }

    /// Normal names of modules that were asked for by name; those built into the kernel need nothing.
    fn named(&self, names: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for name in names {
            let name = normal(name);
            if self.known.contains_key(&name) {
                found.push(name);
            } else if self.builtin.lines().any(|line| name_of(line) == name) {
                output::note(&format!("module {name} is built into the kernel {}", self.release));
            } else {
                bail!("the kernel {} has no module {name} ({})", self.release, self.folder.display());
            }
        }
        Ok(found)
    }

    /// The modules `wanted`, all they depend on, and those that they name as soft dependencies, by
    /// normal name.
    fn closure(&self, wanted: &[String]) -> Result<BTreeMap<&str, &Module>> {
        let mut chosen = BTreeMap::new();
        let mut left = wanted.to_vec();
        while let Some(name) = left.pop() {
            let (name, module) = self.known.get_key_value(&name).ok_or_else(|| {
                anyhow!("modules.dep of {} names {name} but does not have it", self.release)
            })?;
            if chosen.insert(name.as_str(), module).is_none() {
                left.extend(module.needs.iter().map(|path| name_of(path)));
                left.extend(self.soft(name).filter(|name| self.known.contains_key(name)));
            }
        }
        Ok(chosen)
    }

    /// modprobe.d(5): `softdep NAME pre: A... post: B...`
    fn soft<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.softdeps
            .lines()
            .filter_map(|line| line.strip_prefix("softdep ")?.split_once(' '))
            .filter(move |(of, _)| normal(of) == name)
            .flat_map(|(_, names)| names.split_ascii_whitespace())
            .filter(|word| !word.ends_with(':'))
            .map(normal)
    }

    /// depmod's text files, with the lines about the chosen modules only.
    fn indexes(&self, chosen: &BTreeMap<&str, &Module>, wanted: &[String]) -> [(&'static str, String); 4] {
        let dep = chosen.values().map(|module| {
            let needs: String = module.needs.iter().map(|path| format!(" {path}")).collect();
            format!("{}:{needs}\n", module.path)
        });
        let keep = |text: &str, is_about: &dyn Fn(&str) -> bool| -> String {
            text.lines().filter(|line| is_about(line)).map(|line| format!("{line}\n")).collect()
        };
        let is_chosen =
            |name: Option<&str>| name.is_some_and(|name| chosen.contains_key(normal(name).as_str()));
        let builtin: BTreeSet<String> = wanted.iter().cloned().chain(common()).collect();
        [
            ("modules.dep", dep.collect()),
            (
                "modules.alias",
                keep(&self.aliases, &|line| line.starts_with("alias ") && is_chosen(line.rsplit(' ').next())),
            ),
            (
                "modules.softdep",
                keep(&self.softdeps, &|line| {
                    line.starts_with("softdep ") && is_chosen(line.split(' ').nth(1))
                }),
            ),
            ("modules.builtin", keep(&self.builtin, &|line| builtin.contains(&name_of(line)))),
        ]
    }
}

/// The normal names of [`COMMON`].
fn common() -> impl Iterator<Item = String> {
    COMMON.into_iter().flat_map(str::split_ascii_whitespace).map(normal)
}

/// A module's name as the kernel writes it: modprobe(8) takes '-' and '_' for the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The normal name of the module in a file.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normal(file.split(".ko").next().unwrap_or(file))
}

fn parse_dep(text: &str) -> BTreeMap<String, Module> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(path, needs)| {
            let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
            (name_of(path), Module { path: path.to_owned(), needs })
        })
        .collect()
}

/// Runs depmod over a folder that it must not write to: a mirror of links takes the result.
fn depmod(folder: &Path, release: &str) -> Result<tempfile::TempDir> {
    let base = tempfile::tempdir().context("cannot create a folder for depmod")?;
    let mirror = base.path().join("lib/modules").join(release);
    fs::create_dir_all(&mirror).context("cannot create a folder for depmod")?;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        symlink(entry.path(), mirror.join(entry.file_name())).context("cannot fill a folder for depmod")?;
    }
    // Not in everybody's PATH.
    let program = ["/sbin/depmod", "/usr/sbin/depmod"].into_iter().find(|path| Path::new(path).exists());
    let by_hand =
        || format!("run depmod -b BASE {release}, where BASE/lib/modules/{release} is {}", folder.display());
    let result = Command::new(program.unwrap_or("depmod"))
        .arg("-b")
        .arg(base.path())
        .arg(release)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("there is no modules.dep and depmod cannot be run; {}", by_hand()))?;
    let said = String::from_utf8_lossy(&result.stderr);
    ensure!(
        result.status.success() && mirror.join("modules.dep").exists(),
        "depmod failed ({}): {}; {}",
        result.status,
        crate::error::printable(said.trim()),
        by_hand()
    );
    Ok(base)
}

/// The ELF header of a module, which may be compressed.
fn elf_header(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut header = vec![0; size_of::<goblin::elf64::header::Header>()];
    files::decompress(bytes)?.read_exact(&mut header)?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules {
            folder: "/".into(),
            release: "6.1.0".into(),
            known: parse_dep(
                "kernel/net/core/failover.ko:\n\
                 kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
                 kernel/drivers/net/virtio-net.ko.xz: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n\
                 kernel/drivers/net/r8169.ko:\n\
                 kernel/drivers/net/phy/realtek.ko:\n\
                 kernel/fs/ext4.ko:\n",
            ),
            aliases: "# comment\nalias virtio:d00000001v* virtio_net\nalias pci:v000010EC* r8169\nalias fs-ext4 ext4\n"
                .into(),
            softdeps: "# comment\nsoftdep r8169 pre: realtek missing\nsoftdep ext4 pre: crc32c\n".into(),
            builtin: "kernel/drivers/virtio/virtio_pci.ko\nkernel/lib/other.ko\n".into(),
        }
    }

    fn names(modules: &Modules, wanted: &[&str]) -> Vec<String> {
        let wanted = modules.named(&wanted.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        modules.closure(&wanted).unwrap().into_keys().map(str::to_owned).collect()
    }

    #[test]
    fn dependencies_come_along() {
        let modules = modules();
        assert_eq!(names(&modules, &["virtio-net"]), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(names(&modules, &["virtio_net", "failover"]), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(names(&modules, &["r8169"]), ["r8169", "realtek"], "soft dependencies that exist");
        assert_eq!(names(&modules, &["virtio_pci"]), Vec::<String>::new(), "built in");
        let error = modules.named(&["nonsense".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("6.1.0 has no module nonsense"), "{error}");
    }

    #[test]
    fn indexes_are_cut_down() {
        let modules = modules();
        let wanted = vec!["virtio_net".to_owned(), "r8169".to_owned()];
        let chosen = modules.closure(&wanted).unwrap();
        let indexes = BTreeMap::from(modules.indexes(&chosen, &wanted));
        assert_eq!(
            indexes["modules.alias"],
            "alias virtio:d00000001v* virtio_net\nalias pci:v000010EC* r8169\n"
        );
        assert_eq!(indexes["modules.softdep"], "softdep r8169 pre: realtek missing\n");
        assert_eq!(indexes["modules.builtin"], "kernel/drivers/virtio/virtio_pci.ko\n");
        assert_eq!(
            indexes["modules.dep"],
            "kernel/net/core/failover.ko:\n\
             kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
             kernel/drivers/net/r8169.ko:\n\
             kernel/drivers/net/phy/realtek.ko:\n\
             kernel/drivers/net/virtio-net.ko.xz: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n"
        );
    }

    #[test]
    fn a_dependency_that_is_missing_is_named() {
        let mut modules = modules();
        modules.known.remove("failover");
        let error = modules.closure(&["virtio_net".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("failover"), "{error}");
    }
}
