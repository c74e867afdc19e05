//! Where the lab keeps things: the workspace, its target folder, the cache outside of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the repository.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Cargo's target folder for payloads, apart from the host's builds, which it must not disturb.
pub(crate) fn payload_target() -> PathBuf {
    workspace().join("target/lab")
}

/// A folder for what a run of the lab leaves behind.
pub(crate) fn work(name: &str) -> Result<PathBuf> {
    make(workspace().join("target/lab").join(name))
}

/// Downloads and built kernels: `PHASEBOOT_LAB_CACHE`, else below the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("PHASEBOOT_LAB_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("phaseboot-lab")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/phaseboot-lab")))
        .context("no HOME and no PHASEBOOT_LAB_CACHE: nowhere to keep kernels")?;
    make(folder)
}

/// Holds a part of the cache for one process at a time, until the answer is dropped.
pub(crate) fn lock(part: &str) -> Result<File> {
    let path = cache()?.join(format!("{part}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn make(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The same path with an ending after whatever endings it has.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Creates `folder` empty, whatever was there.
pub(crate) fn afresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    make(folder.to_owned()).map(drop)
}
