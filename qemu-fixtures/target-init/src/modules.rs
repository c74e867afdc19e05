//! Modules of the initramfs, by the modules.dep(5) that was packed with them.

use std::fs::{self, File};
use std::path::Path;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h, since Linux 5.17.
const COMPRESSED: i32 = 4;

/// Loads a module and what it needs, if they are here. What cannot be loaded shows in the report.
pub(crate) fn load(name: &str) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let folder = Path::new("/lib/modules").join(release);
    let Ok(index) = fs::read_to_string(folder.join("modules.dep")) else { return };
    let mut lines = index.lines().filter_map(|line| line.split_once(':'));
    let Some((path, needs)) = lines.find(|(path, _)| is(path, name)) else { return };
    // The last is to be loaded first.
    for path in needs.split_whitespace().rev().chain([path]) {
        let flags = if path.ends_with(".ko") { 0 } else { COMPRESSED };
        if let Ok(file) = File::open(folder.join(path)) {
            let _ = rustix::system::finit_module(&file, c"", flags);
        }
    }
}

fn is(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_file() {
        assert!(is("kernel/fs/efivarfs/efivarfs.ko", "efivarfs"));
        assert!(is("kernel/drivers/virtio-rng.ko.xz", "virtio_rng"));
        assert!(!is("kernel/fs/efivarfs/efivarfs.ko", "efivar"));
    }
}
