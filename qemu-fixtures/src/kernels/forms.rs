//! The forms in which a kernel is started or published, made from the image that its package has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Id, Kernel, lab};
use crate::arch::Arch;
use crate::{folders, run};

/// What is around a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// Nothing: the package's own file, on x86_64 with Debian's signature.
    Plain,
    Gzip,
    Zstd,
    /// Unpacks itself under UEFI: drivers/firmware/efi/libstub/Makefile.zboot.
    ZbootGzip,
    ZbootZstd,
    /// A unified kernel image, made for each boot: it has that boot's files.
    Uki,
    /// Nobody's signature.
    Unsigned,
    /// Signed with the key that the lab's firmware has enrolled, and with no other.
    Enrolled,
    /// The same, and changed after that where no kernel looks.
    Tampered,
    /// The same with a signature that cannot be read.
    Garbled,
}

/// The certificate in the variables of Debian's `snakeoil` firmware, and its key.
const CERTIFICATE: &str = "PkKek-1-snakeoil.pem";
const KEY: &str = "PkKek-1-snakeoil.key";
/// As README.Debian of the firmware's package has it.
const PASSPHRASE: &str = "pass:snakeoil";

impl Form {
    fn file(self) -> &'static str {
        match self {
            Self::Plain | Self::Uki => "plain",
            Self::Gzip => "gz",
            Self::Zstd => "zst",
            Self::ZbootGzip | Self::ZbootZstd => "zboot",
            Self::Unsigned => "unsigned",
            Self::Enrolled => "enrolled",
            Self::Tampered => "tampered",
            Self::Garbled => "garbled",
        }
    }

    /// The file: `kernel`'s own, or one made from it, which is kept in the cache.
    pub(crate) fn of(self, kernel: &Kernel) -> Result<PathBuf> {
        match (self, kernel.id) {
            (Self::Plain | Self::Uki, _) => return Ok(kernel.image.clone()),
            (Self::Gzip | Self::Zstd | Self::ZbootGzip | Self::ZbootZstd, Id::LabArm64) => {
                return Ok(lab::form(kernel, self));
            }
            _ => {}
        }
        let _turn = folders::lock("forms")?;
        let made = folders::cache()?.join("forms").join(format!("{}-{}", kernel.key()?, self.file()));
        if made.exists() {
            return Ok(made);
        }
        let work = folders::beside(&made, ".part");
        folders::afresh(&work)?;
        let file = work.join("kernel");
        fs::copy(&kernel.image, &file).with_context(|| format!("cannot copy {}", kernel.image.display()))?;
        let result = match self {
            Self::Gzip => compress("gzip", &["-9nk"], &file, "gz")?,
            Self::Zstd => compress("zstd", &["-q", "-19"], &file, "zst")?,
            Self::Unsigned => without_signature(&file)?,
            Self::Enrolled => enrolled(&file, kernel.id)?,
            Self::Tampered => tampered(&enrolled(&file, kernel.id)?)?,
            Self::Garbled => garbled(&enrolled(&file, kernel.id)?)?,
            Self::Plain | Self::Uki | Self::ZbootGzip | Self::ZbootZstd => {
                anyhow::bail!("{} as {self:?}: only the lab's own kernel is built so", kernel.id)
            }
        };
        fs::rename(result, &made)?;
        fs::remove_dir_all(work)?;
        Ok(made)
    }
}

fn compress(program: &str, arguments: &[&str], file: &Path, ending: &str) -> Result<PathBuf> {
    run::quiet(Command::new(program).args(arguments).arg(file))?;
    Ok(file.with_extension(ending))
}

fn without_signature(file: &Path) -> Result<PathBuf> {
    run::quiet(Command::new("sbattach").arg("--remove").arg(file))?;
    let left = run::text(Command::new("sbverify").arg("--list").arg(file))?;
    ensure!(!left.contains("signature 1"), "{} is still signed: {left}", file.display());
    Ok(file.to_owned())
}

/// The public half of the firmware's key.
pub(super) fn certificate(arch: Arch) -> PathBuf {
    firmware(arch).join(CERTIFICATE)
}

fn firmware(arch: Arch) -> &'static Path {
    Path::new(match arch {
        Arch::X86_64 => "/usr/share/ovmf",
        Arch::Aarch64 => "/usr/share/qemu-efi-aarch64",
    })
}

fn enrolled(file: &Path, id: Id) -> Result<PathBuf> {
    if !matches!(id, Id::LabArm64 | Id::LabX86) {
        without_signature(file)?;
    }
    let arch = id.arch();
    let (key, signed) = (file.with_extension("pem"), file.with_extension("signed"));
    let mut open = Command::new("openssl");
    open.args(["pkey", "-passin", PASSPHRASE, "-in"]).arg(firmware(arch).join(KEY)).arg("-out").arg(&key);
    run::quiet(&mut open)?;
    let mut sign = Command::new("sbsign");
    sign.arg("--key").arg(&key).arg("--cert").arg(certificate(arch));
    run::quiet(sign.arg("--output").arg(&signed).arg(file))?;
    Ok(signed)
}

/// Another date in the header: it is signed, and read by nobody.
fn tampered(file: &Path) -> Result<PathBuf> {
    flip(file, |image| Some(header(image)? + 8))
}

/// Another length in the signature's first bytes. Where it is says the fifth of the data directories of the
/// optional header of PE32+: "PE Format", "Optional Header Data Directories".
fn garbled(file: &Path) -> Result<PathBuf> {
    flip(file, |image| Some(word(image, header(image)? + 24 + 112 + 4 * 8)? + 8 + 4))
}

fn flip(file: &Path, place: impl Fn(&[u8]) -> Option<usize>) -> Result<PathBuf> {
    let mut image = fs::read(file)?;
    let byte = place(&image).and_then(|at| image.get_mut(at));
    *byte.with_context(|| format!("{} is no signed PE file", file.display()))? ^= 1;
    fs::write(file, image)?;
    Ok(file.to_owned())
}

/// Where the PE header begins.
fn header(image: &[u8]) -> Option<usize> {
    word(image, 0x3c)
}

fn word(image: &[u8], at: usize) -> Option<usize> {
    let bytes = image.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}
