//! Disks that are files: made with mke2fs, mkfs.fat and sfdisk, listed in a /sys of the test's own.
//! Without those programs, or without root and loop devices for mounts, a test says so and does nothing.

use super::*;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// Set inside a mount namespace.
const INSIDE: &str = "PHASEBOOT_TEST_MOUNTS";
const UUID: &str = "6f2c9f7e-4e0f-4c0a-9d5a-0f3f5f8f6a11";

fn run(program: &str, arguments: &[&str], image: &Path, input: &str) -> bool {
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

fn ext4(image: &Path, label: &str) -> bool {
    File::create(image).unwrap().set_len(8 << 20).unwrap();
    run("/sbin/mke2fs", &["-q", "-t", "ext4", "-L", label, "-U", UUID], image, "")
}

/// A machine with a disk `vda` with a GPT and the given partitions: names and labels.
fn machine(partitions: &[(&str, &str)]) -> Option<(tempfile::TempDir, Paths)> {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    let disk = root.path().join("sys/devices/vda");
    fs::create_dir_all(disk.join("queue")).unwrap();
    fs::create_dir_all(paths.block_devices()).unwrap();
    fs::create_dir_all(paths.device("")).unwrap();
    fs::write(disk.join("queue/logical_block_size"), "512\n").unwrap();
    symlink("../../devices/vda", paths.block_devices().join("vda")).unwrap();
    File::create(paths.device("vda")).unwrap().set_len(16 << 20).unwrap();
    let mut table = "label: gpt\n".to_owned();
    for (number, (name, label)) in (1..).zip(partitions) {
        table += &format!("size=1M, name=\"{name}\", uuid=6F2C9F7E-4E0F-4C0A-9D5A-0F3F5F8F6A{number:02}\n");
        let device = format!("vda{number}");
        fs::create_dir(disk.join(&device)).unwrap();
        fs::write(disk.join(&device).join("partition"), format!("{number}\n")).unwrap();
        fs::write(disk.join(&device).join("ro"), "0\n").unwrap();
        let uevent = format!("DEVNAME={device}\nDEVTYPE=partition\nPARTNAME={name}\n");
        fs::write(disk.join(&device).join("uevent"), uevent).unwrap();
        symlink(format!("../../devices/vda/{device}"), paths.block_devices().join(&device)).unwrap();
        if !ext4(&paths.device(&device), label) {
            return None;
        }
    }
    run("/sbin/sfdisk", &["-q"], &paths.device("vda"), &table).then_some((root, paths))
}

fn found(cache: &str, paths: &Paths) -> Vec<String> {
    let caches: Vec<Cache> = cache.split(',').map(|cache| cache.parse().unwrap()).collect();
    let partitions = find(&caches.iter().collect::<Vec<_>>(), paths, Deadline::after(Duration::ZERO));
    let name = |partition: &Partition| partition.device.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<String> = partitions.iter().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_partition_is_found_by_each_of_its_names() {
    let Some((_root, paths)) =
        machine(&[("root", "ROOT"), ("Phase Cache", "x"), ("b", "PHASE_CACHE"), ("c", "C")])
    else {
        return;
    };
    for (cache, names) in [
        ("on", ["vda2", "vda3"].as_slice()),
        ("off", &[]),
        ("LABEL=C", &["vda4"]),
        ("LABEL=c", &[]),
        ("PARTLABEL=root", &["vda1"]),
        ("PARTUUID=6f2c9f7e-4e0f-4c0a-9d5a-0f3f5f8f6a04", &["vda4"]),
        ("PARTUUID=6f2c9f7e-4e0f-4c0a-9d5a-0f3f5f8f6a05", &[]),
        ("/dev/vda3", &["vda3"]),
        ("/dev/vda9", &[]),
        ("on,off", &["vda2", "vda3"]),
        ("off,LABEL=C", &["vda4"]),
        ("on,/dev/vda3,/dev/vda1", &["vda1", "vda2", "vda3"]),
        (&format!("UUID={}", UUID.to_uppercase()), &["vda1", "vda2", "vda3", "vda4"]),
    ] {
        assert_eq!(found(cache, &paths), names, "{cache}");
    }
}

#[test]
fn a_partition_whose_file_system_is_gone_is_damaged() {
    let Some((_root, paths)) = machine(&[("Phase Cache", "PHASE_CACHE")]) else { return };
    File::create(paths.device("vda1")).unwrap().set_len(8 << 20).unwrap();
    for cache in [Cache::On, Cache::Device("vda1".to_owned())] {
        let partitions = find(&[&cache], &paths, Deadline::after(Duration::ZERO));
        let error = partitions[0].read(99, true).unwrap_err();
        assert!(error.to_string().contains("neither"), "{error}");
    }
    assert!(found("LABEL=PHASE_CACHE", &paths).is_empty());
    fs::remove_file(paths.device("vda1")).unwrap();
    assert!(found("on", &paths).is_empty(), "the device is not there yet");
}

/// With the partition unreadable or switched off, the policy's word is what counts.
#[test]
fn what_the_policy_names_is_read_whatever_the_command_line_says() {
    use crate::config::{Config, Policy};
    use crate::rollback::{Error, Memory, Purpose};
    let Some((_root, paths)) = machine(&[("Phase Cache", "PHASE_CACHE")]) else { return };
    // Found, and not to be mounted: a file is no block device.
    for (line, policy, refused) in [
        ("", "{}", true),
        ("phase.cache=off", "{}", true),
        ("phase.cache=off phase.nowrite phase.mode=private", "{}", true),
        ("", r#"{"cache":"off"}"#, false),
        ("phase.cache=on", r#"{"cache":"off"}"#, true),
        ("phase.cache=on", r#"{"cache":"off","settable":[]}"#, false),
    ] {
        let policy = Policy::parse(policy).unwrap();
        let config = Config::from_kernel_cmdline(line, &policy).unwrap();
        let memory = Memory::open(&config, &policy, &paths, Purpose::Init, Deadline::after(Duration::ZERO));
        assert_eq!(matches!(memory, Err(Error::Damaged { .. })), refused, "{line} {policy:?}: {memory:?}");
    }
}

#[test]
fn a_damaged_partition_table_names_nothing() {
    let Some((_root, paths)) = machine(&[("a", "A")]) else { return };
    assert_eq!(gpt::uuid("vda1", &paths).unwrap(), "6f2c9f7e-4e0f-4c0a-9d5a-0f3f5f8f6a01");
    let folder = paths.block_devices().join("vda1");
    for number in ["0", "129", "-1", "18446744073709551615"] {
        fs::write(folder.join("partition"), number).unwrap();
        assert_eq!(gpt::uuid("vda1", &paths), None, "{number}");
    }
    fs::write(folder.join("partition"), "1").unwrap();
    let good = fs::read(paths.device("vda")).unwrap();
    for (at, bytes) in [(512, [0; 8]), (512 + 72, [0xff; 8]), (512 + 80, [0xff; 8])] {
        let mut disk = good.clone();
        disk[at..at + 8].copy_from_slice(&bytes);
        fs::write(paths.device("vda"), disk).unwrap();
        assert_eq!(gpt::uuid("vda1", &paths), None, "{at}");
    }
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
    let kind = start.kind;
    let drivers = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !drivers.split_whitespace().any(|driver| driver == kind.driver()) {
        println!("skipped: this kernel has no {}", kind.driver());
        return;
    }
    let Some(device) = Loop::new(&image) else {
        println!("skipped: no loop device here");
        return;
    };
    let point = root.path().join("point");
    let partition = Partition { device: device.0.clone().into(), kind: Some(kind), point, read_only: false };
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
    mount(
        &partition.device,
        &partition.point,
        partition.kind.unwrap().driver(),
        SAFE | MountFlags::RDONLY,
        None,
    )
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
