//! Unified kernel images, made as their specification describes (UAPI.5): systemd's stub and a section for
//! each part. <https://uapi-group.org/specifications/specs/unified_kernel_image/>

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Kernel;
use crate::apt::{self, Wanted};
use crate::arch::Arch;
use crate::{folders, run};

/// What goes into one.
#[derive(Debug)]
pub(crate) struct Uki<'a> {
    pub(crate) kernel: &'a Kernel,
    /// Each in a section of its own.
    pub(crate) initrds: &'a [PathBuf],
    pub(crate) cmdline: &'a str,
}

const OS_RELEASE: &str = "ID=phaseboot-lab\nNAME=\"phaseboot lab\"\n";
/// Sections begin at a page.
const PAGE: u64 = 4096;

impl Uki<'_> {
    /// Writes it to `out`; smaller files are left beside it.
    pub(crate) fn make(&self, out: &Path) -> Result<()> {
        let arch = self.kernel.id.arch();
        let stub = stub(arch)?;
        let beside = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folders::beside(out, name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        let mut sections = vec![
            (".osrel".to_owned(), beside(".osrel", OS_RELEASE)?),
            (".cmdline".to_owned(), beside(".cmdline", self.cmdline)?),
            (".uname".to_owned(), beside(".uname", &self.kernel.release)?),
        ];
        for (index, initrd) in self.initrds.iter().enumerate() {
            sections.push((format!(".initrd{index}"), initrd.clone()));
        }
        // At the end, as the stub wants it: the kernel unpacks itself behind its file.
        sections.push((".linux".to_owned(), self.kernel.image.clone()));

        let mut at = end(&stub)?;
        let mut add = objcopy(arch);
        for (name, file) in &sections {
            let size = fs::metadata(file).with_context(|| format!("no {}", file.display()))?.len();
            ensure!(size > 0, "{} is empty", file.display());
            add.arg("--add-section").arg(format!("{name}={}", file.display()));
            add.arg("--change-section-vma").arg(format!("{name}={at:#x}"));
            add.arg("--set-section-flags").arg(format!("{name}=contents,alloc,load,readonly,data"));
            at = (at + size).next_multiple_of(PAGE);
        }
        let numbered = folders::beside(out, ".numbered");
        run::quiet(add.arg(&stub).arg(&numbered))?;
        // objcopy adds no section of a name that is there, but renames to one.
        let mut rename = objcopy(arch);
        for index in 0..self.initrds.len() {
            rename.args(["--rename-section", &format!(".initrd{index}=.initrd")]);
        }
        run::quiet(rename.arg(&numbered).arg(out))?;
        fs::remove_file(numbered)?;
        Ok(())
    }
}

fn objcopy(arch: Arch) -> Command {
    Command::new(format!("{}-linux-gnu-objcopy", arch.gnu()))
}

/// systemd's stub, from the cache.
fn stub(arch: Arch) -> Result<PathBuf> {
    let names = &["systemd-boot-efi"];
    let deb = apt::resolve(&Wanted { names, version: "", arch: Some(arch), suite: "bookworm" })?;
    let _turn = folders::lock("forms")?;
    let path = folders::cache()?.join("forms").join(format!("stub-{}-{}", arch.gnu(), deb.key()));
    if !path.exists() {
        let work = folders::beside(&path, ".part");
        folders::afresh(&work)?;
        let archive = deb.download()?;
        run::quiet(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&work))?;
        let name = match arch {
            Arch::X86_64 => "linuxx64.efi.stub",
            Arch::Aarch64 => "linuxaa64.efi.stub",
        };
        let file = work.join("usr/lib/systemd/boot/efi").join(name);
        fs::rename(&file, &path).with_context(|| format!("{deb} has no {name}"))?;
        fs::remove_dir_all(work)?;
        fs::remove_file(archive)?;
    }
    Ok(path)
}

/// The address behind the last section of a PE32+ file. PE format, "Optional Header": ImageBase and
/// SizeOfImage. <https://learn.microsoft.com/en-us/windows/win32/debug/pe-format>
fn end(path: &Path) -> Result<u64> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let field = |at: usize, length: usize| {
        let field = bytes.get(at..at + length).context("the file ends in its header")?;
        let mut number = [0; 8];
        number[..length].copy_from_slice(field);
        Ok::<_, anyhow::Error>(u64::from_le_bytes(number))
    };
    let header = usize::try_from(field(0x3c, 4)?)?;
    let optional = header + 24;
    ensure!(field(optional, 2)? == 0x20b, "{} is no PE32+ file", path.display());
    Ok((field(optional + 24, 8)? + field(optional + 56, 4)?).next_multiple_of(PAGE))
}
