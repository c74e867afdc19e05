//! `phasectl keygen`: an Ed25519 key pair.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde_json::json;

use super::options::Output;
use super::signing::Signing;
use super::{files, output, passphrase};
use crate::manifest::keys;

const DEFAULT_NAME: &str = "phaseboot";

#[derive(Args, Debug)]
pub struct Arguments {
    /// Folder for NAME.key and NAME.pub, or the path of the key without its ending
    #[arg(long, value_name = "DIR|STEM", default_value = ".")]
    out: PathBuf,
    /// Name of the key files when --out is a folder [default: phaseboot]
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// Encrypt the private key with a passphrase, asked for on the terminal
    #[arg(long)]
    passphrase: bool,
    /// Encrypt the private key with the first line of this file, or of standard input for -
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

fn parse_name(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match name.chars().next() {
        Some(first) if first != '.' && name.chars().all(plain) => Ok(name.to_owned()),
        _ => Err(anyhow!("letters, digits, '.', '_' and '-' only, and no dot in front")),
    }
}

/// The path of the key files without their ending.
fn stem(out: &Path, name: Option<&str>) -> PathBuf {
    match name {
        Some(name) => out.join(name),
        // A slash in the end means a folder, also one that is still to be made.
        None if out.is_dir() || out.as_os_str().as_bytes().ends_with(b"/") => out.join(DEFAULT_NAME),
        None => out.to_owned(),
    }
}

/// What logs and key lists call the key: the name of its files, where somebody chose it and it can be
/// an id.
fn id(stem: &Path) -> Option<String> {
    let name = stem.file_name()?.to_str()?;
    keys::parse_id(name).ok().filter(|_| name != DEFAULT_NAME)
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let stem = stem(&arguments.out, arguments.name.as_deref());
    let with_ending = |ending: &str| {
        let mut path = stem.clone().into_os_string();
        path.push(ending);
        PathBuf::from(path)
    };
    let (private, public) = (with_ending(".key"), with_ending(".pub"));
    let folder = files::folder(&stem);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;

    for path in [&private, &public] {
        ensure!(!path.exists(), "{}", taken(path));
    }
    let passphrase = match &arguments.passphrase_file {
        Some(path) => Some(passphrase::from_file(path)?),
        None if arguments.passphrase => Some(passphrase::ask_new()?),
        None => None,
    };
    let key = Signing::generate()?;
    let pem = match &passphrase {
        Some(passphrase) => key.encrypted_pem(passphrase)?,
        None => key.private_pem()?,
    };
    let id = id(&stem);
    // Lines before a PEM block are nothing to openssl.
    let label = id.as_ref().map(|id| format!("id: {id}\n")).unwrap_or_default();
    create(&private, 0o600, pem.as_bytes())?;
    if let Err(error) = create(&public, 0o644, (label + &key.public_pem()?).as_bytes()) {
        // A private key whose public half belongs to another one would only confuse.
        let _ = std::fs::remove_file(&private);
        return Err(error);
    }
    files::sync_folder(folder)?;

    if arguments.output.json {
        return output::json(
            &json!({ "keyid": key.id(), "id": id, "private": private, "public": public, "encrypted": passphrase.is_some() }),
        );
    }
    output::line(format_args!(
        "key id {}{}\n  private {} ({})\n  public  {}",
        key.id(),
        id.map(|id| format!(", named {id}")).unwrap_or_default(),
        private.display(),
        if passphrase.is_some() { "encrypted; keep it secret all the same" } else { "keep it secret" },
        public.display()
    ))
}

fn taken(path: &Path) -> String {
    format!("{} exists and is never overwritten; choose another --name or --out", path.display())
}

/// Writes a file that must not exist yet.
fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                anyhow!(taken(path))
            } else {
                anyhow!(error).context(format!("cannot create {}", path.display()))
            }
        })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_is_a_folder_or_a_stem() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert_eq!(stem(at, None), at.join("phaseboot"));
        assert_eq!(stem(at, Some("release")), at.join("release"));
        assert_eq!(stem(&at.join("new"), None), at.join("new"));
        assert_eq!(stem(&at.join("new/"), None), at.join("new/phaseboot"));
        assert_eq!(stem(&at.join("new"), Some("release")), at.join("new/release"));
    }

    #[test]
    fn names_stay_in_their_folder() {
        for wrong in ["", ".", "..", "a/b", "../a", ".hidden", "a b", "a\n"] {
            assert!(parse_name(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_name("lab-2026.1_x").is_ok());
    }
}
