//! Whether a program can run on the machine that the archive is for: its architecture, and what it
//! needs besides itself.

use anyhow::{Context, Result, anyhow, bail, ensure};
use goblin::elf::Elf;
use goblin::elf::header::{EM_AARCH64, EM_X86_64, machine_to_str};

use super::archive::Archive;
use crate::arch::Arch;
use crate::error::printable;

const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The architecture of an ELF file, `None` if it is another kind of file; `what` names it in errors.
pub(super) fn arch(bytes: &[u8], what: &str) -> Result<Option<Arch>> {
    if !bytes.starts_with(ELF_MAGIC) {
        return Ok(None);
    }
    let header = Elf::parse_header(bytes).with_context(|| format!("{what} is a damaged ELF file"))?;
    match header.e_machine {
        EM_X86_64 => Ok(Some(Arch::X86_64)),
        EM_AARCH64 => Ok(Some(Arch::Aarch64)),
        other => bail!(
            "{what} is for {} (ELF machine {other}), which phaseboot does not run on",
            machine_to_str(other)
        ),
    }
}

/// Makes sure that an ELF file is for `wanted`; other files pass.
pub(super) fn check_arch(bytes: &[u8], what: &str, wanted: Arch) -> Result<()> {
    match arch(bytes, what)? {
        Some(found) if found != wanted => bail!("{what} is for {found}, the archive for {wanted}"),
        _ => Ok(()),
    }
}

/// Makes sure that the program at `path` in the archive can start there: right architecture,
/// executable, and its interpreter and libraries are in the archive too.
pub(super) fn check_start(archive: &Archive, path: &str, wanted: Arch) -> Result<()> {
    let (mode, bytes) =
        archive.file(path).ok_or_else(|| anyhow!("{path} does not lead to a file of the archive"))?;
    ensure!(mode & 0o111 != 0, "{path} is not executable");
    if let Some(rest) = bytes.strip_prefix(b"#!") {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let interpreter = line.split_ascii_whitespace().next().unwrap_or_default();
        ensure!(
            interpreter.starts_with('/'),
            "{path} is a script whose interpreter \"{}\" is not a path",
            printable(interpreter)
        );
        // Linux nests scripts four deep; no initramfs has a reason to nest them at all.
        let found = archive.file(interpreter).ok_or_else(|| missing(path, interpreter))?;
        ensure!(found.1.starts_with(ELF_MAGIC), "{interpreter}, which runs {path}, is not an ELF program");
        return check_start(archive, interpreter, wanted);
    }
    ensure!(bytes.starts_with(ELF_MAGIC), "{path} is neither an ELF program nor a script");
    check_arch(bytes, path, wanted)?;
    let elf = Elf::parse(bytes).with_context(|| format!("{path} is a damaged ELF file"))?;
    ensure!(elf.is_64, "{path} is a 32-bit program");
    // A static position-independent program has a dynamic section, but no interpreter.
    let Some(interpreter) = elf.interpreter else { return Ok(()) };
    let (_, loader) = archive.file(interpreter).ok_or_else(|| missing(path, interpreter))?;
    check_arch(loader, interpreter, wanted)?;
    for library in &elf.libraries {
        ensure!(
            archive.has_name(library),
            "{path} needs the library {}, which is not in the archive; add it with --file",
            printable(library)
        );
    }
    Ok(())
}

fn missing(path: &str, interpreter: &str) -> anyhow::Error {
    anyhow!(
        "{path} needs the interpreter {}, which is not in the archive; use a static program or add it with --file",
        printable(interpreter)
    )
}
