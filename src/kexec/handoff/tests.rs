//! The hand-over as far as it goes where the jump is refused: in user, mount, network and process
//! namespaces of the test's own. reboot(2) starts no kernel from there, whatever is loaded, and no mount or
//! link of the machine can be changed.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;

use super::*;
use crate::error::Exit;
use crate::kexec::is_contained;

const INSIDE: &str = "PHASEBOOT_TEST_INSIDE";

/// Runs the test of this name once more, inside. Whether this is inside.
fn is_inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        // Or it would reboot the machine.
        assert!(is_contained(&Paths::default()));
        return true;
    }
    let namespaces = ["--map-root-user", "--mount", "--net", "--pid", "--fork", "--"];
    if !Command::new("unshare").args(namespaces).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: no namespaces here");
        return false;
    }
    let inside = Command::new("unshare")
        .args(namespaces)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("kexec::handoff::tests::{name}"), "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert_eq!(inside.unwrap().code(), Some(0), "inside the namespaces");
    false
}

/// The real call. From a process namespace it answers EINVAL, from a user namespace EPERM.
fn refused_jump() -> Result<(), Errno> {
    assert!(is_contained(&Paths::default()));
    let answer = rustix::system::reboot(RebootCommand::Kexec);
    assert!(answer.is_err());
    answer
}

/// As `ip` and `mount` are called.
fn runs(line: &str) {
    let mut words = line.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.unwrap().success(), "{line}");
}

/// What the kernel says of the mounts below `folder`, without the numbers that a mount made anew changes.
fn mounts(folder: &Path) -> Vec<String> {
    let below = format!(" {}/", folder.display());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<String> = text
        .lines()
        .filter(|line| line.contains(&below))
        .map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" "))
        .collect();
    found.sort();
    found
}

/// Only the test's own mounts are told, so that others are not even tried.
fn tell_mounts(folder: &Path, paths: &Paths) {
    let below = format!(" {}/", folder.display());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own: Vec<&str> = text.lines().filter(|line| line.contains(&below)).collect();
    fs::create_dir_all(paths.mountinfo().parent().unwrap()).unwrap();
    fs::write(paths.mountinfo(), own.join("\n")).unwrap();
}

fn loaded(root: &Path) -> Loaded {
    let paths = Paths::under(root);
    fs::create_dir_all(root.join("sys/kernel")).unwrap();
    fs::write(paths.kexec_loaded(), "1\n").unwrap();
    Loaded::new(paths)
}

#[test]
fn a_jump_that_fails_leaves_file_systems_as_they_were() {
    if !is_inside("a_jump_that_fails_leaves_file_systems_as_they_were") {
        return;
    }
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (loaded, at) = (loaded(root.path()), |name: &str| folder.path().join(name).display().to_string());
    for (name, options) in [
        ("idle", "nosuid,nodev,size=64k,mode=700,noatime"),
        ("busy", "noexec,strictatime,size=128k"),
        ("busy/deeper a", "ro,size=4k"),
        ("writing", "size=64k"),
        ("read-only", "ro"),
    ] {
        fs::create_dir_all(at(name)).unwrap();
        let (point, options) = (at(name), format!("-o{options}"));
        let mount = Command::new("mount").args(["-t", "tmpfs", &options, "/dev/none", &point]).status();
        assert!(mount.unwrap().success(), "{name}");
        if name == "busy" {
            fs::create_dir_all(at("busy/deeper a")).unwrap();
            fs::write(at("busy/file"), "x").unwrap();
        }
    }
    let reading = fs::File::open(at("busy/file")).unwrap();
    let held = fs::File::open(at("read-only")).unwrap();
    let writing = fs::File::create(at("writing/file")).unwrap();
    let before = mounts(folder.path());
    assert_eq!(before.len(), 5);
    tell_mounts(folder.path(), &loaded.paths);

    let during = Cell::new(Vec::new());
    let error = loaded.leave(Handoff::default(), || {
        during.set(mounts(folder.path()));
        refused_jump()
    });
    assert_eq!(error.exit(), Exit::ExecFailed, "{error}");
    let during = during.into_inner();
    let line = |mounts: &[String], name: &str| {
        mounts.iter().find(|line| line.contains(&format!("{} ", at(name)))).cloned().unwrap_or_default()
    };
    assert_eq!(during.len(), 3, "{during:?}");
    assert!(line(&during, "busy").contains("/dev/none ro,"), "{during:?}");
    assert_eq!(line(&during, "writing"), line(&before, "writing"));
    assert_eq!(mounts(folder.path()), before);
    fs::write(at("busy/file"), "y").unwrap();
    fs::write(at("idle/file"), "y").unwrap();
    drop((reading, held, writing));
}

#[test]
fn what_cannot_be_mounted_again_is_left_alone() {
    if !is_inside("what_cannot_be_mounted_again_is_left_alone") {
        return;
    }
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (loaded, at) = (loaded(root.path()), |name: &str| folder.path().join(name).display().to_string());
    for name in ["whole", "part"] {
        fs::create_dir(at(name)).unwrap();
    }
    runs(&format!("mount -t tmpfs /dev/none {}", at("whole")));
    fs::create_dir(at("whole/sub")).unwrap();
    runs(&format!("mount --bind {} {}", at("whole/sub"), at("part")));
    tell_mounts(folder.path(), &loaded.paths);
    let held = fs::File::open(at("whole")).unwrap();
    loaded.leave(Handoff::default(), refused_jump);
    let left = mounts(folder.path());
    assert!(left.len() == 1 && left[0].contains("whole") && left[0].contains("/dev/none rw"), "{left:?}");
    drop(held);
    // Devices may have got other names.
    tell_mounts(folder.path(), &loaded.paths);
    loaded.leave(Handoff { reset: Reset::Pci, ..Handoff::default() }, refused_jump);
    assert!(mounts(folder.path()).is_empty());
}

#[test]
fn links_are_set_down_where_that_is_asked_for() {
    if !is_inside("links_are_set_down_where_that_is_asked_for") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let loaded = loaded(root.path());
    runs("ip link add a0 type veth peer name a1");
    runs("ip link set lo up");
    let up = || {
        let output = Command::new("ip").args(["-o", "link", "show", "up"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for name in ["a0", "a1"] {
        runs(&format!("ip link set {name} up"));
        let output = Command::new("ip").args(["-o", "link", "show", name]).output().unwrap();
        let index = String::from_utf8(output.stdout).unwrap().split(':').next().unwrap().to_owned();
        let folder = loaded.paths.interface(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ifindex"), index).unwrap();
        fs::write(folder.join("flags"), "0x1003\n").unwrap();
    }
    loaded.leave(Handoff { links: Links::Keep, ..Handoff::default() }, refused_jump);
    assert_eq!(up().lines().count(), 3, "{}", up());
    loaded.leave(Handoff { links: Links::Down, ..Handoff::default() }, refused_jump);
    assert!(up().lines().count() == 1 && up().contains("lo:"), "{}", up());
}

#[test]
fn a_jump_that_is_kept_waiting_is_tried_once_more() {
    if !is_inside("a_jump_that_is_kept_waiting_is_tried_once_more") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let loaded = loaded(root.path());
    for (first, times) in [(Errno::BUSY, 2), (Errno::INVAL, 1)] {
        let count = Cell::new(0);
        let error = loaded.leave(Handoff::default(), || {
            count.set(count.get() + 1);
            if count.get() == 1 { Err(first) } else { refused_jump() }
        });
        assert_eq!(count.get(), times);
        assert!(matches!(error, Error::Exec { errno } if errno != Errno::BUSY), "{error}");
        assert!(error.exit() == Exit::ExecFailed && !error.exit().may_pass());
    }
    let count = Cell::new(0);
    let error = loaded.leave(Handoff::default(), || {
        count.set(count.get() + 1);
        Err(Errno::BUSY)
    });
    assert!(count.get() == 2 && matches!(error, Error::Exec { errno: Errno::BUSY }), "{error}");
}

#[test]
fn what_is_cached_is_written_back_first() {
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = fs::File::create(folder.path().join("file")).unwrap();
    rustix::io::write(&file, &[7; 200_000]).unwrap();
    match sys::memfd::dirty_pages(&file) {
        Ok(1..) => {}
        other => {
            println!("skipped: this kernel does not say what is written back: {other:?}");
            return;
        }
    }
    let started = Instant::now();
    let error = loaded(root.path()).leave(Handoff::default(), || Err(Errno::INVAL));
    assert!(matches!(error, Error::Exec { errno: Errno::INVAL }), "{error}");
    // The kernel writes it back by itself after half a minute.
    while sys::memfd::dirty_pages(&file) != Ok(0) {
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", sys::memfd::dirty_pages(&file));
        thread::sleep(Duration::from_millis(50));
    }
}

/// Nothing under this root may be changed: mounts are not even looked for.
#[test]
fn nothing_is_touched_where_the_jump_cannot_work() {
    if !is_inside("nothing_is_touched_where_the_jump_cannot_work") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let handoff = Handoff { links: Links::Down, reset: Reset::Pci };
    let refused = || exec_loaded(&paths, handoff).unwrap_err();
    assert!(matches!(refused(), Error::Read { .. }));
    fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
    assert!(matches!(refused(), Error::Missing { .. }));
    fs::write(paths.kexec_loaded(), "0\n").unwrap();
    assert!(matches!(refused(), Error::NothingLoaded));
    fs::write(paths.kexec_loaded(), "1\n").unwrap();
    fs::create_dir(root.path().join("dev")).unwrap();
    fs::write(paths.kmsg(), "").unwrap();
    fs::create_dir_all(paths.namespaces()).unwrap();
    for (kind, name) in [("pid", "pid:[4026532179]"), ("user", "user:[4026532180]")] {
        let link = paths.namespaces().join(kind);
        std::os::unix::fs::symlink(name, &link).unwrap();
        let error = refused();
        assert_eq!(error.exit(), Exit::KexecUnavailable, "{error}");
        assert!(matches!(error, Error::MayNotStart { .. }) && error.hint().contains("root"), "{error}");
        fs::remove_file(&link).unwrap();
    }
    // Of this thread alone.
    let without = || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_BOOT);
        rustix::thread::set_capabilities(None, sets).unwrap();
        refused()
    };
    let error = thread::scope(|scope| scope.spawn(without).join().unwrap());
    assert!(error.to_string().contains("CAP_SYS_BOOT is missing"), "{error}");
    assert_eq!(fs::read_to_string(paths.kmsg()).unwrap(), "");
}

/// From a user namespace the kernel refuses both calls, if it has them: nothing is unloaded.
#[test]
fn who_may_not_unload_is_told_what_who_may_not_load_is() {
    if !is_inside("who_may_not_unload_is_told_what_who_may_not_load_is") {
        return;
    }
    let text = |error: Error| (error.to_string(), error.hint(), error.exit());
    let paths = Paths::default();
    let unloaded = text(unload(&paths).unwrap_err());
    assert_eq!(unloaded, text(preflight(&paths, Method::Auto).unwrap_err()));
    assert_eq!(unloaded.2, Exit::KexecUnavailable);
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
    fs::write(paths.kexec_load_disabled(), "1\n").unwrap();
    let error = unload(&paths).unwrap_err();
    assert!(matches!(error, Error::Disabled) && error.hint().contains("reboot"), "{error}");
}
