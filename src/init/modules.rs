//! Kernel modules for the devices that are there: `modalias` against modules.alias, dependencies
//! from modules.dep. Source: kmod's modules.dep(5), modprobe(8); Documentation/kbuild/modules.rst.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use log::{debug, info, warn};
use rustix::io::Errno;

use super::parameters;
use crate::config;
use crate::error::printable;
use crate::paths::Paths;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h, since Linux 5.17.
const COMPRESSED: i32 = 4;
/// A driver can make new devices appear, which need drivers in turn; this often at most.
const MOST_ROUNDS: u32 = 8;
/// Where drivers of network cards are, whatever bus these are on.
const NETWORK: &str = "/drivers/net/";
/// Aliases and names that no device carries, and the kernel would ask modprobe for: AF_PACKET sockets
/// for DHCP, IPv6, and for the rollback record file systems with what they need.
const WANTED: [&str; 10] = [
    "net-pf-17",
    "net-pf-10",
    "crypto-crc32c",
    "fs-ext4",
    "fs-vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "fs-efivarfs",
];

/// The modules of an initramfs: what is in modules.dep and modules.alias.
#[derive(Debug, Default)]
struct Index {
    /// Module name -> its path and those of what it needs, nearest first, below the modules folder.
    files: HashMap<String, Vec<String>>,
    /// Pattern and module name.
    aliases: Vec<(String, String)>,
    /// Modules that no alias stands for: see [`parameters`].
    blacklist: HashSet<String>,
}

/// Loads modules, and remembers what came of it.
#[derive(Debug)]
pub(super) struct Modules {
    index: Index,
    folder: PathBuf,
    buses: PathBuf,
    /// The kernel's command line.
    line: String,
    /// Modaliases whose modules were tried.
    seen: HashSet<String>,
    attempts: Attempts,
    /// Names to be logged.
    loaded: Vec<String>,
    /// Modaliases of network cards, whose drivers are loaded after all others.
    network: VecDeque<String>,
}

/// Which of the modules for a device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    ButNetwork,
    All,
}

impl Modules {
    /// Reads which modules there are for the running kernel.
    pub(super) fn read(paths: &Paths) -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = paths.modules(&release);
        let read = |name| fs::read_to_string(folder.join(name));
        let mut index = match read("modules.dep") {
            Ok(dep) => Index::parse(&dep, &read("modules.alias").unwrap_or_default()),
            Err(_) => {
                debug!("no modules.dep for kernel {release}: everything needed must be built in");
                Index::default()
            }
        };
        let line = config::kernel_cmdline(paths).unwrap_or_default();
        index.blacklist = parameters::blacklisted(&line);
        Self {
            index,
            folder,
            buses: paths.buses(),
            line,
            seen: HashSet::new(),
            attempts: Attempts::default(),
            loaded: Vec::new(),
            network: VecDeque::new(),
        }
    }

    /// Loads a module for every device that has one, until no further one turns up, but for drivers of
    /// network cards: see [`load_network`](Self::load_network). What failed before is tried again. `look`
    /// is called before each look at the devices.
    pub(super) fn load_all(&mut self, look: impl FnMut()) {
        self.seen.clear();
        self.network.clear();
        self.attempts.forget_failures();
        self.load(Part::ButNetwork, look);
    }

    /// Loads modules for devices that were not there before.
    pub(super) fn load_new(&mut self, look: impl FnMut()) {
        self.load(Part::All, look);
    }

    /// Loads the drivers of the next network card that [`load_all`](Self::load_all) has left, in the order
    /// in which it came by them: names of links follow it. False if there is none.
    pub(super) fn load_network(&mut self) -> bool {
        let next = self.network.pop_front();
        if let Some(modalias) = &next {
            self.load_part(modalias, Part::All);
        }
        if self.network.is_empty() {
            self.say_loaded();
        }
        next.is_some()
    }

    /// Whether drivers of network cards are left.
    pub(super) fn has_network(&self) -> bool {
        !self.network.is_empty()
    }

    fn load(&mut self, part: Part, mut look: impl FnMut()) {
        if self.index.aliases.is_empty() {
            return;
        }
        for alias in WANTED {
            self.load_matching(alias, part);
        }
        for _ in 0..MOST_ROUNDS {
            let before = self.seen.len();
            look();
            for modalias in modaliases(&self.buses) {
                self.load_matching(&modalias, part);
            }
            if self.seen.len() == before {
                break;
            }
        }
        self.say_loaded();
    }

    /// Loads modules by name, if there are such.
    pub(super) fn load_named(&mut self, names: &[&str]) {
        for name in names {
            self.load_matching(name, Part::All);
        }
        self.say_loaded();
    }

    fn say_loaded(&mut self) {
        if !self.loaded.is_empty() {
            info!("modules: {}", self.loaded.join(" "));
            self.loaded.clear();
        }
    }

    fn load_matching(&mut self, modalias: &str, part: Part) {
        if !self.seen.contains(modalias) {
            self.load_part(modalias, part);
            self.seen.insert(modalias.to_owned());
        }
    }

    fn load_part(&mut self, modalias: &str, part: Part) {
        let mut left = false;
        for files in self.index.matching(modalias) {
            if part == Part::ButNetwork && files.first().is_some_and(|file| file.contains(NETWORK)) {
                left = true;
                continue;
            }
            // Dependencies stand after the module that needs them.
            for file in files.iter().rev() {
                if !self.attempts.wants(file) {
                    continue;
                }
                let name = module_name(file);
                let parameters = parameters::of_module(&self.line, &name);
                let result = insert(&self.folder.join(file), &name, &parameters);
                if self.attempts.note(file, result) {
                    report(file, name, &parameters, result, &mut self.loaded);
                }
            }
        }
        if left {
            self.network.push_back(modalias.to_owned());
        }
    }
}

fn report(file: &str, name: String, parameters: &str, result: Result<(), Errno>, loaded: &mut Vec<String>) {
    match result {
        Ok(()) => loaded.push(name),
        Err(Errno::EXIST) => {}
        Err(Errno::NODEV) => debug!("module {name}: no device for it"),
        Err(Errno::OPNOTSUPP) => {
            warn!("module {name}: this kernel cannot decompress {file}; pack the plain .ko");
        }
        Err(errno) if parameters.is_empty() => warn!("module {name} cannot be loaded: {errno}"),
        Err(errno) => warn!("module {name} cannot be loaded with {}: {errno}", printable(parameters)),
    }
}

/// Module files that were tried.
#[derive(Debug, Default)]
struct Attempts(HashMap<String, Attempt>);

#[derive(Debug)]
struct Attempt {
    result: Result<(), Errno>,
    again: bool,
}

impl Attempts {
    fn wants(&self, file: &str) -> bool {
        self.0.get(file).is_none_or(|attempt| attempt.again)
    }

    /// Keeps what came of a file. True if that is not what came of it the last time.
    fn note(&mut self, file: &str, result: Result<(), Errno>) -> bool {
        let before = self.0.insert(file.to_owned(), Attempt { result, again: false });
        before.is_none_or(|before| before.result != result)
    }

    /// Lets what failed be tried again. A module that is in the kernel already did not fail.
    fn forget_failures(&mut self) {
        for attempt in self.0.values_mut() {
            attempt.again = !matches!(attempt.result, Ok(()) | Err(Errno::EXIST));
        }
    }
}

fn insert(path: &Path, name: &str, parameters: &str) -> Result<(), Errno> {
    let file = File::open(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // Otherwise it makes a bond by itself: Documentation/networking/bonding.rst. Of two values the last counts.
    let own = if name == "bonding" { "max_bonds=0 " } else { "" };
    let parameters = CString::new([own, parameters].concat()).map_err(|_| Errno::INVAL)?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    rustix::system::finit_module(&file, &parameters, if plain { 0 } else { COMPRESSED })
}

/// The modalias of every device on every bus. Buses list their devices flat: walking all of
/// /sys/devices finds the same ones among ten times as many folders.
fn modaliases(buses: &Path) -> Vec<String> {
    let entries =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<String> = entries(buses)
        .flat_map(|bus| entries(&bus.join("devices")))
        .filter_map(|device| fs::read_to_string(device.join("modalias")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

impl Index {
    fn parse(dep: &str, alias: &str) -> Self {
        let mut index = Self::default();
        for line in dep.lines() {
            if let Some((file, needs)) = line.split_once(':') {
                let files =
                    std::iter::once(file).chain(needs.split_whitespace()).map(str::to_owned).collect();
                index.files.insert(module_name(file), files);
            }
        }
        for line in alias.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                index.aliases.push((pattern.to_owned(), underscored(module)));
            }
        }
        index
    }

    /// The file lists of every module that a device with this modalias can use, or that is called so.
    fn matching<'a>(&'a self, modalias: &'a str) -> impl Iterator<Item = &'a Vec<String>> {
        let matching = self.aliases.iter().filter(|(pattern, module)| {
            glob(pattern.as_bytes(), modalias.as_bytes()) && !self.blacklist.contains(module)
        });
        matching.filter_map(|(_, module)| self.files.get(module)).chain(self.files.get(modalias))
    }
}

/// `kernel/drivers/net/virtio-net.ko.xz` is `virtio_net`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    underscored(name.split('.').next().unwrap_or(name))
}

pub(super) fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// fnmatch(3) without flags, as far as aliases use it: `*`, `?`, `[a-z]`, `[!a]`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` was and what it has taken so far: going back there once is enough.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            (Some(b'?'), Some(_)) => Some(1),
            (Some(b'['), Some(&byte)) => class(pattern.get(p..).unwrap_or_default(), byte),
            (Some(expected), Some(byte)) => (expected == byte).then_some(1),
            (None, Some(_)) | (Some(_), None) => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((star_p, star_t))) if star_t < text.len() => {
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
            (None, _) => return false,
        }
    }
}

/// Whether `byte` is in the bracket expression that `pattern` begins with, and how long that is.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    // A `]` that comes first stands for itself.
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|&b| b == b']')?;
    let mut inside = pattern.get(start..end)?;
    let mut found = false;
    while let Some((&low, rest)) = inside.split_first() {
        if let [b'-', high, after @ ..] = rest {
            found |= (low..=*high).contains(&byte);
            inside = after;
        } else {
            found |= low == byte;
            inside = rest;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn aliases_of_real_modules_match_real_devices() {
        for (pattern, modalias, matches) in [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00", true),
            (
                "pci:v00008086d0000100Esv*sd*bc*sc*i*",
                "pci:v00008086d0000100Fsv00001AF4sd00001100bc02sc00i00",
                false,
            ),
            ("of:N*T*Cvirtio,mmioC*", "of:Nvirtio_mmioT(null)Cvirtio,mmio", false),
            ("of:N*T*Cvirtio,mmio", "of:Nvirtio_mmioT(null)Cvirtio,mmio", true),
            ("usb:v0B95p772[0-9A]d*", "usb:v0B95p772Ad0001dcFF", true),
            ("usb:v0B95p772[!0-9]d*", "usb:v0B95p7720d0001dcFF", false),
            ("net-pf-17", "net-pf-17", true),
            ("a[]]b", "a]b", true),
            ("a[", "a[", false),
            ("*", "", true),
            ("?", "", false),
            ("*a*b*c", "xxaxxbxxbxxc", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), modalias.as_bytes()), matches, "{pattern} {modalias}");
        }
    }

    #[test]
    fn dependencies_come_with_the_module() {
        let index = Index::parse(
            "kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz kernel/drivers/virtio/virtio.ko.xz\n\
             kernel/net/core/failover.ko.xz:\n",
            "# comment\nalias virtio:d00000001v* virtio-net\nalias x\n",
        );
        let found: Vec<_> = index.matching("virtio:d00000001v00001AF4").collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0][0], "kernel/drivers/net/virtio_net.ko.xz");
        assert_eq!(found[0].len(), 3);
    }

    #[test]
    fn a_blacklisted_module_is_loaded_only_by_name_or_where_another_needs_it() {
        let mut index = Index::parse("a.ko: b.ko\nb.ko:\n", "alias pci:1 b\nalias pci:1 a\n");
        let first = |index: &Index, alias: &str| -> Vec<String> {
            index.matching(alias).map(|files| files.join(" ")).collect()
        };
        assert_eq!(first(&index, "pci:1"), ["b.ko", "a.ko b.ko"]);
        index.blacklist = parameters::blacklisted("modprobe.blacklist=b");
        assert_eq!(first(&index, "pci:1"), ["a.ko b.ko"]);
        assert_eq!(first(&index, "b"), ["b.ko"]);
    }

    #[test]
    fn what_the_kernel_asks_for_by_name_is_found() {
        let index = Index::parse(
            "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\nkernel/fs/jbd2/jbd2.ko:\n\
             kernel/fs/nls/nls_iso8859-1.ko:\nkernel/fs/nls/nls_cp437.ko:\n",
            "alias fs-ext4 ext4\nalias fs-ext2 ext4\n",
        );
        let found: Vec<&str> =
            WANTED.iter().flat_map(|name| index.matching(name)).map(|files| files[0].as_str()).collect();
        let expected = ["ext4/ext4", "nls/nls_cp437", "nls/nls_iso8859-1"];
        assert_eq!(found, expected.map(|name| format!("kernel/fs/{name}.ko")));
    }

    #[test]
    fn what_failed_is_tried_again_and_what_loaded_is_not() {
        let mut attempts = Attempts::default();
        let results = [("a.ko", Ok(())), ("b.ko", Err(Errno::EXIST)), ("c.ko", Err(Errno::NODEV))];
        for (file, result) in results {
            assert!(attempts.wants(file));
            assert!(attempts.note(file, result));
            assert!(!attempts.wants(file));
        }
        attempts.forget_failures();
        assert_eq!(results.map(|(file, _)| attempts.wants(file)), [false, false, true]);
        assert!(!attempts.note("c.ko", Err(Errno::NODEV)), "nothing new");
        assert!(attempts.note("c.ko", Ok(())));
        attempts.forget_failures();
        assert!(!attempts.wants("c.ko"));
    }

    #[test]
    fn a_device_that_appears_later_gets_its_driver() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = paths.modules(&release);
        fs::create_dir_all(&folder).unwrap();
        // The files are not there, so nothing is loaded into the kernel that runs this test.
        fs::write(folder.join("modules.dep"), "a.ko:\nb.ko: c.ko\nc.ko:\n").unwrap();
        fs::write(folder.join("modules.alias"), "alias usb:a* a\nalias usb:b* b\n").unwrap();
        let plug = |name: &str| {
            let device = paths.buses().join("usb/devices").join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("modalias"), format!("usb:{name}\n")).unwrap();
        };
        let mut modules = Modules::read(&paths);
        let tried = |modules: &Modules| {
            let mut files: Vec<String> = modules.attempts.0.keys().cloned().collect();
            files.sort();
            files
        };
        plug("a1");
        modules.load_all(|| {});
        assert_eq!(tried(&modules), ["a.ko"]);
        plug("b1");
        modules.load_new(|| {});
        assert_eq!(tried(&modules), ["a.ko", "b.ko", "c.ko"]);
        assert!(modules.attempts.0.values().all(|attempt| attempt.result == Err(Errno::NOENT)));
    }

    #[test]
    fn drivers_of_network_cards_come_last_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = paths.modules(&release);
        fs::create_dir_all(&folder).unwrap();
        let (dep, alias) = (
            "kernel/drivers/net/z.ko: kernel/net/core/f.ko\nkernel/net/core/f.ko:\n\
             kernel/drivers/net/usb/y.ko:\nkernel/drivers/block/b.ko:\n",
            "alias pci:1* z\nalias usb:2* y\nalias pci:3* b\nalias pci:1* b\n",
        );
        fs::write(folder.join("modules.dep"), dep).unwrap();
        fs::write(folder.join("modules.alias"), alias).unwrap();
        for (number, modalias) in ["usb:2", "pci:1", "pci:3"].iter().enumerate() {
            let device = paths.buses().join("bus/devices").join(number.to_string());
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("modalias"), modalias).unwrap();
        }
        let mut modules = Modules::read(&paths);
        let tried = |modules: &Modules| {
            let mut names: Vec<String> = modules.attempts.0.keys().map(|file| module_name(file)).collect();
            names.sort();
            names.concat()
        };
        for _ in 0..2 {
            modules.load_all(|| {});
            assert!(modules.has_network());
            assert_eq!(modules.network, ["pci:1", "usb:2"]);
        }
        assert_eq!(tried(&modules), "b");
        assert!(modules.load_network() && modules.has_network());
        assert_eq!(tried(&modules), "bfz");
        assert!(modules.load_network() && !modules.has_network() && !modules.load_network());
        assert_eq!(tried(&modules), "bfyz");
    }

    proptest! {
        #[test]
        fn no_pattern_panics_or_runs_away(pattern in "[ab*?\\[\\]!^-]{0,30}", text in "[ab-]{0,60}") {
            let _ = glob(pattern.as_bytes(), text.as_bytes());
        }

        #[test]
        fn a_plain_pattern_matches_itself_only(text in "[a-z:0-9]{0,20}", other in "[a-z:0-9]{0,20}") {
            prop_assert!(glob(text.as_bytes(), text.as_bytes()));
            prop_assert_eq!(glob(text.as_bytes(), other.as_bytes()), text == other);
        }
    }
}
