//! What a payload has to be: a static executable for the right machine.

use std::path::Path;

use anyhow::{Context, Result, bail};
use goblin::elf::{Elf, header, program_header};

use crate::arch::Arch;

/// Refuses anything but a fully static executable for `arch`. Answers with its size in bytes.
pub(crate) fn check_static(path: &Path, arch: Arch) -> Result<u64> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    check(&bytes, arch).with_context(|| path.display().to_string())?;
    Ok(bytes.len() as u64)
}

fn check(bytes: &[u8], arch: Arch) -> Result<()> {
    let elf = Elf::parse(bytes).context("not an ELF file")?;
    let machine = match arch {
        Arch::X86_64 => header::EM_X86_64,
        Arch::Aarch64 => header::EM_AARCH64,
    };
    if elf.header.e_machine != machine {
        bail!("built for machine {}, not for {arch}", header::machine_to_str(elf.header.e_machine));
    }
    if let Some(interpreter) = elf.interpreter {
        bail!("not static: asks for the interpreter {interpreter}");
    }
    if elf.program_headers.iter().any(|segment| segment.p_type == program_header::PT_INTERP) {
        bail!("not static: has a PT_INTERP segment");
    }
    if !elf.libraries.is_empty() {
        bail!("not static: needs {}", elf.libraries.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_and_a_foreign_one_are_refused() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let native = Arch::native().unwrap();
        let foreign = Arch::ALL.into_iter().find(|arch| *arch != native).unwrap();
        assert!(check(&me, native).unwrap_err().to_string().contains("interpreter"));
        assert!(check(&me, foreign).unwrap_err().to_string().contains("not for"));
        assert!(check(b"#!/bin/sh\n", native).is_err());
    }
}
