//! The folder that is served: from the path of a URL to an open file that is certainly in it.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// A folder, held open: renaming it, or putting another in its place, changes nothing.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

/// A regular file of the tree.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: File,
    pub(super) size: u64,
    /// A strong entity tag, with its quotes: it changes when the file is replaced or written to, as
    /// far as the clock of its file system can tell.
    pub(super) etag: String,
}

impl Tree {
    /// Opens a folder, and makes sure that this kernel can keep requests inside it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        openat2(&root, ".", flags, Mode::empty(), ResolveFlags::BENEATH)?;
        Ok(Self { root })
    }

    /// Opens the file that the path of a URL names. The kernel itself refuses what leads out of the
    /// folder, by `..` or by a symbolic link: openat2(2), `RESOLVE_BENEATH`.
    pub(super) fn find(&self, url_path: &str) -> io::Result<Entry> {
        let path = relative(url_path).ok_or(io::ErrorKind::NotFound)?;
        // Not to wait for the other end of a pipe that somebody put there.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(openat2(&self.root, &path, flags, Mode::empty(), resolve)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Entry { size: metadata.len(), etag: etag(&metadata), file })
    }
}

fn etag(metadata: &Metadata) -> String {
    format!(
        "\"{:x}-{:x}-{:x}.{:09}\"",
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec()
    )
}

/// The path below the root that a URL's path means; `None` if it names nothing that is served.
/// Segments are decoded after splitting, so an encoded slash separates nothing; hidden files and
/// `..` start with a dot, and neither is served.
fn relative(url_path: &str) -> Option<PathBuf> {
    let rest = url_path.strip_prefix('/')?;
    if rest.is_empty() || rest.ends_with('/') {
        return None;
    }
    let mut path = PathBuf::new();
    for segment in rest.split('/').filter(|segment| !segment.is_empty()) {
        let name = percent_decode(segment)?;
        if name.starts_with('.') || name.contains(['/', '\0']) {
            return None;
        }
        path.push(name);
    }
    Some(path)
}

/// RFC 3986, section 2.1.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || u8::try_from(char::from(bytes.next()?).to_digit(16)?).ok();
        decoded.push(digit()? << 4 | digit()?);
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Component;

    #[test]
    fn url_paths() {
        for (url, path) in [
            ("/a", Some("a")),
            ("/a/b", Some("a/b")),
            ("//a//b", Some("a/b")),
            ("/a%20b", Some("a b")),
            ("/%61", Some("a")),
            ("/a%2eb", Some("a.b")),
            ("/%C3%A9", Some("\u{e9}")),
            ("/", None),
            ("", None),
            ("a", None),
            ("/a/", None),
            ("/..", None),
            ("/../a", None),
            ("/a/../../b", None),
            ("/%2e%2e/a", None),
            ("/..%2fa", None),
            ("/a%2fb", None),
            ("/a%00", None),
            ("/.hidden", None),
            ("/%2ehidden", None),
            ("/a/./b", None),
            ("/%", None),
            ("/%2", None),
            ("/%+1", None),
            ("/%ff", None),
        ] {
            assert_eq!(relative(url), path.map(PathBuf::from), "{url}");
        }
    }

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let at = |name: &str| inside.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/file"), "f").unwrap();
        symlink(outside.path().join("secret"), at("absolute")).unwrap();
        symlink(outside.path(), at("folder")).unwrap();
        symlink("../../../../../../../etc/passwd", at("sub/up")).unwrap();
        symlink("sub/file", at("good")).unwrap();
        symlink("/proc/self/root/etc/passwd", at("magic")).unwrap();

        let tree = Tree::open(inside.path()).unwrap();
        assert_eq!(tree.find("/good").unwrap().size, 1);
        assert_eq!(tree.find("/good").unwrap().etag, tree.find("/sub/file").unwrap().etag);
        for url in ["/absolute", "/folder/secret", "/sub/up", "/magic", "/sub", "/none"] {
            assert!(tree.find(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_replaced_file_has_another_tag() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        fs::write(folder.path().join("a"), "1").unwrap();
        let first = tree.find("/a").unwrap();
        fs::write(folder.path().join("b"), "2").unwrap();
        fs::rename(folder.path().join("b"), folder.path().join("a")).unwrap();
        assert_ne!(first.etag, tree.find("/a").unwrap().etag);
    }

    proptest! {
        #[test]
        fn only_plain_names_come_out(url in "/[a.%2efF0/\\\\~]{0,24}") {
            if let Some(path) = relative(&url) {
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(path.components().next().is_some());
            }
        }
    }
}
