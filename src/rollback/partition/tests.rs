//! Disks that are files, made with mke2fs and mkfs.fat, on loop devices. Without those programs, or
//! without root and loop devices, a test says so and does nothing.

use super::*;
use crate::rollback::scan::superblock;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// Set inside a mount namespace.
const INSIDE: &str = "PHASEBOOT_TEST_MOUNTS";
const FILE: &str = "seen.json";
pub(in crate::rollback) const UUID: &str = "6f2c9f7e-4e0f-4c0a-9d5a-0f3f5f8f6a11";

pub(in crate::rollback) fn run(program: &str, arguments: &[&str], image: &Path, input: &str) -> bool {
    let command =
        Command::new(program).args(arguments).arg(image).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let Ok(mut child) = command else {
        println!("skipped: {program} cannot be run here");
        return false;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{program}");
    true
}

pub(in crate::rollback) fn ext4(image: &Path, label: &str) -> bool {
    File::create(image).unwrap().set_len(8 << 20).unwrap();
    run("/sbin/mke2fs", &["-q", "-t", "ext4", "-L", label, "-U", UUID], image, "")
}

/// A loop device for an image.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Option<Self> {
        let output = Command::new("/sbin/losetup").args(["-f", "--show"]).arg(image).output().ok()?;
        output.status.success().then(|| Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("/sbin/losetup").args(["-d", &self.0]).status();
    }
}

/// Runs `test` in a mount namespace of its own, on a partition that lies in `image`.
fn mounted(name: &str, make: impl FnOnce(&Path) -> bool, test: impl FnOnce(&Partition, &Path)) {
    on_partition(name, false, make, test);
}

/// The same, or only where the kernel has no driver for its file system.
fn on_partition(
    name: &str,
    lacks_driver: bool,
    make: impl FnOnce(&Path) -> bool,
    test: impl FnOnce(&Partition, &Path),
) {
    if std::env::var_os(INSIDE).is_none() {
        let inside = Command::new("unshare")
            .args(["--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("rollback::partition::tests::{name}"), "--nocapture"])
            .env(INSIDE, "1")
            .status();
        match inside.ok().and_then(|status| status.code()) {
            None | Some(1) => println!("skipped: no mount namespace here"),
            code => assert_eq!(code, Some(0), "inside the namespace"),
        }
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let image = root.path().join("image");
    if !make(&image) {
        return;
    }
    let start = superblock(&image).unwrap().unwrap();
    let driver = start.kind.driver();
    let drivers = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_there = drivers.split_whitespace().any(|name| name == driver);
    if is_there == lacks_driver {
        println!("skipped: whether this kernel has {driver}: {is_there}");
        return;
    }
    let Some(device) = Loop::new(&image) else {
        println!("skipped: no loop device here");
        return;
    };
    let point = root.path().join("point");
    let partition = Partition {
        device: device.0.clone().into(),
        superblock: Ok(start),
        file: FILE.to_owned(),
        point,
        read_only: false,
        by_policy: true,
    };
    test(&partition, &image);
    assert_eq!(fs::read_dir(&partition.point).unwrap().count(), 0, "nothing stays mounted");
}

fn write_and_read(partition: &Partition) {
    assert_eq!(partition.read(99, true).unwrap(), None);
    partition.write(b"first").unwrap();
    partition.write(b"second").unwrap();
    assert_eq!(partition.read(99, true).unwrap().unwrap(), b"second");
    assert_eq!(partition.read(99, false).unwrap().unwrap(), b"second");
    assert_eq!(partition.read(3, true).unwrap().unwrap(), b"seco");
    // What an attempt that was killed has left.
    mount(&partition.device, &partition.point, partition.driver().unwrap(), SAFE | MountFlags::RDONLY, None)
        .unwrap();
    partition.write(b"third").unwrap();
    assert_eq!(partition.read(99, true).unwrap().unwrap(), b"third");
}

#[test]
fn what_is_written_to_ext4_is_read() {
    mounted(
        "what_is_written_to_ext4_is_read",
        |image| ext4(image, "x"),
        |partition, _| write_and_read(partition),
    );
}

#[test]
fn what_is_written_to_fat_is_read() {
    let make = |image: &Path| {
        File::create(image).unwrap().set_len(16 << 20).unwrap();
        run("/sbin/mkfs.fat", &["-F", "16"], image, "")
    };
    mounted("what_is_written_to_fat_is_read", make, |partition, _| write_and_read(partition));
}

#[test]
fn a_missing_driver_is_no_damage() {
    let make = |image: &Path| {
        File::create(image).unwrap().set_len(16 << 20).unwrap();
        run("/sbin/mkfs.fat", &["-F", "16"], image, "")
    };
    on_partition("a_missing_driver_is_no_damage", true, make, |partition, _| {
        let error = partition.read(99, true).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NODEV), "{error}");
    });
}

/// The file system has work left from a machine that lost its power: a journal, and a file that was
/// deleted while it was open. Any mount would finish it, unless it is kept from it.
#[test]
fn where_nothing_may_be_written_no_byte_changes() {
    let make = |image: &Path| {
        let file = image.with_file_name("file");
        let debugfs = |request: &str| run("/sbin/debugfs", &["-w", "-R", request], image, "");
        fs::write(&file, "x").unwrap();
        ext4(image, "x")
            && debugfs(&format!("write {} x", file.display()))
            && debugfs("unlink x")
            && debugfs("set_inode_field <12> links_count 0")
            && debugfs("set_super_value last_orphan 12")
            && debugfs("feature needs_recovery")
    };
    mounted("where_nothing_may_be_written_no_byte_changes", make, |partition, image| {
        let before = fs::read(image).unwrap();
        assert!(partition.reads_without_journal(false) && !partition.reads_without_journal(true));
        assert_eq!(partition.read(99, false).unwrap(), None);
        assert!(fs::read(image).unwrap() == before, "the image has changed");
        // The protection goes with the mount.
        partition.write(b"x").unwrap();
        assert_eq!(partition.read(99, false).unwrap().unwrap(), b"x");
    });
}

#[test]
fn links_on_the_partition_are_not_followed() {
    mounted(
        "links_on_the_partition_are_not_followed",
        |image| ext4(image, "x"),
        |partition, image| {
            let outside = image.with_file_name("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join(FILE), "outside").unwrap();
            partition
                .mounted(MountFlags::empty(), false, |root| symlink(&outside, root.join(FOLDER)))
                .unwrap();
            assert!(partition.read(99, true).is_err());
            assert!(partition.write(b"x").is_err());
            assert_eq!(fs::read(outside.join(FILE)).unwrap(), b"outside");
            partition
                .mounted(MountFlags::empty(), false, |root| {
                    fs::remove_file(root.join(FOLDER))?;
                    fs::create_dir(root.join(FOLDER))?;
                    symlink(outside.join(FILE), root.join(FOLDER).join(FILE))
                })
                .unwrap();
            assert!(partition.read(99, true).is_err());
            partition.write(b"x").unwrap();
            assert_eq!(partition.read(99, true).unwrap().unwrap(), b"x");
            assert_eq!(fs::read(outside.join(FILE)).unwrap(), b"outside");
        },
    );
}

#[test]
fn a_damaged_file_system_is_an_error() {
    mounted(
        "a_damaged_file_system_is_an_error",
        |image| ext4(image, "x"),
        |partition, image| {
            let file = fs::OpenOptions::new().write(true).open(image).unwrap();
            // The group descriptors, behind the superblock.
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 1024], 2048).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 1024], 4096).unwrap();
            drop(file);
            let error = partition.read(99, true).unwrap_err();
            println!("a damaged file system: {error}");
        },
    );
}
