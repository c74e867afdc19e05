//! The archive: a file system in memory, written as cpio "newc" (Documentation/driver-api/
//! early-userspace/buffer-format.rst) without asking the host for device nodes or ownership.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use anyhow::{Context, Result, anyhow, ensure};
use cpio::newc;

/// What the archive says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// A character device.
    Device {
        major: u32,
        minor: u32,
    },
}

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

impl Node {
    /// The file type bits of inode(7).
    fn type_bits(&self) -> u32 {
        match self {
            Self::Directory => S_IFDIR,
            Self::File(_) => S_IFREG,
            Self::Symlink(_) => S_IFLNK,
            Self::Device { .. } => S_IFCHR,
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::File(bytes) => bytes,
            Self::Symlink(target) => target.as_bytes(),
            Self::Directory | Self::Device { .. } => &[],
        }
    }
}

/// Files by their path, without a leading slash. Sorted, so a folder comes before what is in it.
#[derive(Debug, Default)]
pub struct Archive {
    nodes: BTreeMap<String, (u32, Node)>,
}

impl Archive {
    /// Adds a file, and the folders it lies in. `mode` is permission bits.
    pub fn add(&mut self, path: &str, mode: u32, node: Node) -> Result<()> {
        let path = normal(path)?;
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            let (_, node) = self.nodes.entry(parent.to_owned()).or_insert((0o755, Node::Directory));
            ensure!(*node == Node::Directory, "/{path} cannot be in the archive: /{parent} is not a folder");
        }
        let existing = self.nodes.insert(path.clone(), (mode, node));
        let replaced = matches!(existing, Some((_, other)) if other != Node::Directory);
        ensure!(!replaced, "/{path} is in the archive twice");
        let is_folder = self.nodes.get(&path).is_some_and(|(_, node)| *node == Node::Directory);
        ensure!(is_folder || !self.has_children(&path), "/{path} is a folder of the archive");
        Ok(())
    }

    fn has_children(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        self.nodes.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// How many files of any kind there are.
    pub fn entries(&self) -> usize {
        self.nodes.len()
    }

    /// The mode and content of the regular file that `path` leads to, through symbolic links.
    pub fn file(&self, path: &str) -> Option<(u32, &[u8])> {
        let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at = Vec::<String>::new();
        // As many links as Linux follows: path_resolution(7).
        let mut links = 40;
        while let Some(name) = left.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(name),
            }
            if let Some((_, Node::Symlink(target))) = self.nodes.get(&at.join("/")) {
                links -= 1;
                if links == 0 {
                    return None;
                }
                if target.starts_with('/') {
                    at.clear();
                } else {
                    at.pop();
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        match self.nodes.get(&at.join("/")) {
            Some((mode, Node::File(bytes))) => Some((*mode, bytes)),
            _ => None,
        }
    }

    /// Whether any file has this name, whatever its folder.
    pub fn has_name(&self, name: &str) -> bool {
        self.nodes.keys().any(|path| path.rsplit('/').next() == Some(name))
    }

    /// The regular files below `folder`, with their paths from there.
    pub fn files_below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.nodes.iter().filter_map(move |(path, (_, node))| {
            let name = path.strip_prefix(folder)?.strip_prefix('/')?;
            match node {
                Node::File(bytes) => Some((name, bytes.as_slice())),
                _ => None,
            }
        })
    }

    /// Writes the archive. Everything belongs to root, and the same content gives the same bytes.
    pub fn write<W: Write>(&self, mut to: W, mtime: u32) -> Result<W> {
        for (ino, (path, (mode, node))) in (1..).zip(&self.nodes) {
            let data = node.data();
            let size = u32::try_from(data.len()).with_context(|| format!("/{path} has 4 GiB or more"))?;
            let mut header = newc::Builder::new(path)
                .ino(ino)
                .mode(node.type_bits() | mode)
                .nlink(if *node == Node::Directory { 2 } else { 1 })
                .mtime(mtime);
            if let Node::Device { major, minor } = node {
                header = header.rdev_major(*major).rdev_minor(*minor);
            }
            let mut entry = header.write(to, size);
            entry.write_all(data)?;
            to = entry.finish()?;
        }
        Ok(newc::trailer(to)?)
    }
}

/// A path of the archive without its leading slash.
fn normal(path: &str) -> Result<String> {
    let relative = path.trim_start_matches('/');
    let plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    ensure!(relative.split('/').all(plain), "not a path for the archive: \"{path}\"");
    Ok(relative.to_owned())
}

/// A line of an archive's listing.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    pub path: String,
    /// File type and permission bits: inode(7).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u32,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Lists an uncompressed archive up to its trailer.
pub fn list(mut from: impl Read) -> io::Result<Vec<Listed>> {
    /// Linux follows no longer link: PATH_MAX, include/uapi/linux/limits.h.
    const PATH_MAX: u64 = 4096;
    let mut listed = Vec::new();
    loop {
        let mut reader = newc::Reader::new(from)?;
        let entry = reader.entry().clone();
        if entry.is_trailer() {
            return Ok(listed);
        }
        let kind = entry.mode() & 0o170_000;
        let mut target = None;
        if kind == S_IFLNK {
            let mut bytes = Vec::new();
            reader.by_ref().take(PATH_MAX).read_to_end(&mut bytes)?;
            target = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        listed.push(Listed {
            path: entry.name().to_owned(),
            mode: entry.mode(),
            uid: entry.uid(),
            gid: entry.gid(),
            size: entry.file_size(),
            // Character and block devices.
            device: matches!(kind, 0o020_000 | 0o060_000).then(|| (entry.rdev_major(), entry.rdev_minor())),
            target,
        });
        from = reader.finish()?;
    }
}

/// Parses `SRC:DEST`.
pub fn parse_file(text: &str) -> Result<(std::path::PathBuf, String)> {
    let (source, destination) = text.rsplit_once(':').ok_or_else(|| anyhow!("expected SRC:DEST"))?;
    ensure!(!source.is_empty(), "expected SRC:DEST");
    Ok((source.into(), normal(destination)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> Node {
        Node::File(content.as_bytes().to_vec())
    }

    #[test]
    fn what_is_written_can_be_listed() {
        let mut archive = Archive::default();
        archive.add("/dev/console", 0o600, Node::Device { major: 5, minor: 1 }).unwrap();
        archive.add("init", 0o755, file("#!")).unwrap();
        archive.add("/bin/phaseboot", 0o777, Node::Symlink("/init".into())).unwrap();
        let bytes = archive.write(Vec::new(), 7).unwrap();
        assert_eq!(bytes, archive.write(Vec::new(), 7).unwrap());
        let listed = list(bytes.as_slice()).unwrap();
        let shown: Vec<_> =
            listed.iter().map(|l| (l.path.as_str(), l.mode, l.uid, l.gid, l.size, l.device)).collect();
        assert_eq!(
            shown,
            [
                ("bin", 0o040_755, 0, 0, 0, None),
                ("bin/phaseboot", 0o120_777, 0, 0, 5, None),
                ("dev", 0o040_755, 0, 0, 0, None),
                ("dev/console", 0o020_600, 0, 0, 0, Some((5, 1))),
                ("init", 0o100_755, 0, 0, 2, None),
            ]
        );
        assert_eq!(listed[1].target.as_deref(), Some("/init"));
        for cut in [0, 5, 100, bytes.len() / 2, bytes.len() - 20] {
            assert!(list(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn paths_that_cannot_be() {
        let mut archive = Archive::default();
        for path in ["", "/", "a//b", "a/../b", "./a", "a/", "a\0b"] {
            assert!(archive.add(path, 0, Node::Directory).is_err(), "{path:?}");
        }
        archive.add("a", 0, file("")).unwrap();
        assert!(archive.add("a", 0, file("")).is_err());
        assert!(archive.add("a/b", 0, file("")).is_err());
        archive.add("d/e", 0, file("")).unwrap();
        assert!(archive.add("d", 0, file("")).is_err());
    }

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        let mut archive = Archive::default();
        archive.add("usr/lib/ld.so", 0o755, file("x")).unwrap();
        archive.add("lib", 0o777, Node::Symlink("usr/lib".into())).unwrap();
        archive.add("lib64", 0o777, Node::Symlink("/lib".into())).unwrap();
        archive.add("usr/lib/up", 0o777, Node::Symlink("../lib/ld.so".into())).unwrap();
        archive.add("loop", 0o777, Node::Symlink("loop".into())).unwrap();
        for path in ["/lib64/ld.so", "lib/ld.so", "/usr/lib/ld.so", "/lib64/up", "/../lib/./up"] {
            assert!(archive.file(path).is_some(), "{path}");
        }
        for path in ["/loop", "/lib", "/none", "/", "/lib64/none"] {
            assert!(archive.file(path).is_none(), "{path}");
        }
    }

    #[test]
    fn sources_may_have_colons() {
        assert_eq!(parse_file("a:b:/c").unwrap(), ("a:b".into(), "c".to_owned()));
        for wrong in ["a", ":/a", "a:", "a:/../b"] {
            assert!(parse_file(wrong).is_err(), "{wrong}");
        }
    }
}
