//! Disks that are files, made with mke2fs and sfdisk, listed in a /sys of the test's own. Without those
//! programs a test says so and does nothing.

use super::*;
use crate::arch::Arch;
use crate::config::{Config, Policy};
use crate::error::Exit;
use crate::rollback::partition::tests::{UUID, ext4, run};
use crate::rollback::place::Place;
use crate::rollback::{Memory, Purpose};
use std::os::unix::fs::symlink;
use std::time::Instant;

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

fn scanner<'a>(caches: [&'a Cache; 2], paths: &'a Paths) -> Scanner<'a> {
    Scanner::new(caches, "seen.json".to_owned(), paths, Duration::from_secs(60))
}

fn found(cache: &str, paths: &Paths) -> Vec<String> {
    let (policy, line) = cache.split_once(',').unwrap_or((cache, "off"));
    let (policy, line) = (policy.parse().unwrap(), line.parse().unwrap());
    let partitions = scanner([&policy, &line], paths).find(Deadline::after(Duration::ZERO)).unwrap();
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
        ("on,/dev/vda1", &["vda1", "vda2", "vda3"]),
        ("on,/dev/vda3", &["vda2", "vda3"]),
        (&format!("UUID={}", UUID.to_uppercase()), &["vda1", "vda2", "vda3", "vda4"]),
    ] {
        assert_eq!(found(cache, &paths), names, "{cache}");
    }
}

/// Whether this policy and command line lead to a record, or to which error.
fn opened(line: &str, policy: &str, paths: &Paths) -> Result<(), Error> {
    let policy = Policy::parse(policy).unwrap();
    let config = Config::from_kernel_cmdline(line, &policy).unwrap();
    Memory::open(&config, &policy, paths, Purpose::Init, Deadline::after(Duration::ZERO)).map(drop)
}

#[test]
fn a_partition_that_cannot_hold_a_record_holds_none() {
    let Some((_root, paths)) = machine(&[("Phase Cache", "PHASE_CACHE")]) else { return };
    let mut luks = vec![0; 8 << 20];
    luks[..6].copy_from_slice(b"LUKS\xba\xbe");
    for bytes in [vec![0; 8 << 20], luks, Vec::new()] {
        fs::write(paths.device("vda1"), bytes).unwrap();
        for (line, cache) in [("", "on"), ("", "/dev/vda1"), ("phase.cache=/dev/vda1", "off")] {
            let policy = format!(r#"{{"cache":"{cache}"}}"#);
            opened(line, &policy, &paths).unwrap();
            let required = format!(r#"{{"cache":"{cache}","rollback_record":"required"}}"#);
            assert!(matches!(opened(line, &required, &paths), Err(Error::NoPlace)));
        }
    }
    fs::remove_file(paths.device("vda1")).unwrap();
    assert!(found("on", &paths).is_empty(), "the device is not there yet");
}

#[test]
fn a_start_that_cannot_be_read_is_damage_where_it_is_the_cache() {
    let Some((_root, paths)) = machine(&[("Phase Cache", "PHASE_CACHE"), ("other", "x")]) else { return };
    // Reading a folder is an error.
    for (device, refused) in [("vda2", false), ("vda1", true)] {
        fs::remove_file(paths.device(device)).unwrap();
        fs::create_dir(paths.device(device)).unwrap();
        let memory = opened("", r#"{"cache":"on"}"#, &paths);
        let error = memory.unwrap_err().to_string();
        assert_eq!(error.contains("its start cannot be read"), refused, "{error}");
        assert!(error.contains("vda1"), "{error}");
    }
}

#[test]
fn a_disk_that_hangs_keeps_nobody_waiting_for_ever() {
    let Some((_root, paths)) = machine(&[("a", "PHASE_CACHE"), ("hangs", "x")]) else { return };
    // Opening a FIFO waits for somebody who writes to it.
    fs::remove_file(paths.device("vda2")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, paths.device("vda2"), 0o600.into()).unwrap();
    // The disk that is well has no longer either.
    let patience = Duration::from_secs(2);
    let (policy, line) = (Cache::On, Cache::PartLabel("hangs".to_owned()));
    for (line, names) in [(&Cache::Off, ["vda1"].as_slice()), (&line, &["vda1", "vda2"])] {
        let started = Instant::now();
        let mut scanner = Scanner::new([&policy, line], "seen.json".to_owned(), &paths, patience);
        let found = scanner.find(Deadline::after(Duration::ZERO)).unwrap();
        let mut devices: Vec<_> = found.iter().map(|found| found.device.clone()).collect();
        devices.sort();
        assert_eq!(devices, names.iter().map(|name| paths.device(name)).collect::<Vec<_>>());
        assert!((patience..Duration::from_secs(7)).contains(&started.elapsed()), "{:?}", started.elapsed());
        assert!(scanner.complained.iter().any(|name| *name == paths.device("vda2").to_str().unwrap()));
        let damaged = found.iter().find(|found| found.superblock.is_err());
        assert_eq!(damaged.is_some(), names.len() == 2, "damage only where it is named");
        // It is not asked, and waited for, again.
        let again = Instant::now();
        scanner.find(Deadline::after(Duration::ZERO)).unwrap();
        assert!(again.elapsed() < patience, "{:?}", again.elapsed());
        assert_eq!(scanner.asked.len(), 1);
        // Late is not never.
        drop(fs::OpenOptions::new().write(true).open(paths.device("vda2")).unwrap());
        while !scanner.asked.is_empty() && again.elapsed() < Duration::from_secs(10) {
            scanner.find(Deadline::after(Duration::ZERO)).unwrap();
        }
        assert!(scanner.asked.is_empty());
    }
}

#[test]
fn more_partitions_than_anybody_needs_are_refused() {
    let names: Vec<String> = (1..=9).map(|n| format!("p{n}")).collect();
    let partitions: Vec<_> = names.iter().map(|name| (name.as_str(), "PHASE_CACHE")).collect();
    let Some((_root, paths)) = machine(&partitions) else { return };
    let refused = opened("", "{}", &paths).unwrap_err();
    assert!(matches!(refused, Error::TooMany { most: 8 }), "{refused}");
    assert_eq!(refused.exit(), Exit::NotForUs);
    fs::remove_file(paths.device("vda9")).unwrap();
    assert_eq!(found("on", &paths).len(), 8);
}

#[test]
fn what_others_hold_is_passed_over() {
    let Some((_root, paths)) = machine(&[("Phase Cache", "PHASE_CACHE")]) else { return };
    let holders = paths.block_devices().join("vda1/holders");
    fs::create_dir(&holders).unwrap();
    assert_eq!(found("on", &paths), ["vda1"]);
    fs::create_dir(holders.join("md0")).unwrap();
    assert!(found("on", &paths).is_empty());
    assert!(found("/dev/vda1", &paths).is_empty());
}

#[test]
fn a_name_with_a_slash_is_found() {
    let Some((_root, paths)) = machine(&[("a", "A")]) else { return };
    let link = paths.block_devices().join("cciss!c0d0p1");
    fs::rename(paths.block_devices().join("vda1"), link).unwrap();
    fs::create_dir(paths.device("cciss")).unwrap();
    fs::rename(paths.device("vda1"), paths.device("cciss/c0d0p1")).unwrap();
    for cache in ["/dev/cciss/c0d0p1", "LABEL=A", "PARTUUID=6f2c9f7e-4e0f-4c0a-9d5a-0f3f5f8f6a01"] {
        assert_eq!(found(cache, &paths), ["c0d0p1"], "{cache}");
    }
}

/// Whoever has the command line could otherwise name an empty partition.
#[test]
fn the_command_line_names_no_place_that_serves() {
    let Some((_root, paths)) = machine(&[("a", "A")]) else { return };
    for (policy, line, serves) in
        [("off", "LABEL=A", false), ("LABEL=A", "off", true), ("LABEL=A", "LABEL=A", true)]
    {
        let (policy, line): (Cache, Cache) = (policy.parse().unwrap(), line.parse().unwrap());
        let found = scanner([&policy, &line], &paths).find(Deadline::after(Duration::ZERO)).unwrap();
        let places: Vec<Place> = found.into_iter().map(Place::Partition).collect();
        assert_eq!(places.len(), 1);
        assert_eq!(places[0].serves(), serves, "{policy} {line}");
    }
}

#[test]
fn what_appears_during_the_attempt_counts() {
    let Some((_root, paths)) = machine(&[("a", "A")]) else { return };
    let (policy, config) = (Policy::default(), Config::default());
    let mut memory =
        Memory::open(&config, &policy, &paths, Purpose::Init, Deadline::after(Duration::ZERO)).unwrap();
    memory.look_again("stable", Arch::X86_64, 7, &[]).unwrap();
    // Found, and not to be mounted: a file is no block device.
    let uevent = "DEVNAME=vda1\nPARTNAME=Phase Cache\n";
    fs::write(paths.block_devices().join("vda1/uevent"), uevent).unwrap();
    let error = memory.look_again("stable", Arch::X86_64, 7, &[]).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

/// With the partition unreadable or switched off, the policy's word is what counts.
#[test]
fn what_the_policy_names_is_read_whatever_the_command_line_says() {
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
        let memory = opened(line, policy, &paths);
        assert_eq!(matches!(memory, Err(Error::Damaged { .. })), refused, "{line} {policy}: {memory:?}");
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

#[test]
fn every_cache_that_is_not_there_is_complained_about_once() {
    let Some((_root, paths)) = machine(&[("a", "A")]) else { return };
    let (policy, line) = (Cache::Label("none".to_owned()), Cache::Device("vdz".to_owned()));
    let mut scanner = scanner([&policy, &line], &paths);
    for _ in 0..2 {
        assert!(scanner.find(Deadline::after(Duration::ZERO)).unwrap().is_empty());
        assert_eq!(scanner.complained, ["LABEL=none", "/dev/vdz"]);
    }
}

#[test]
fn a_disk_that_takes_no_writes_is_none_to_write_to() {
    let Some((_root, paths)) = machine(&[("a", "PHASE_CACHE")]) else { return };
    for (ro, is_writable) in [("0\n", true), ("1\n", false)] {
        fs::write(paths.block_devices().join("vda1/ro"), ro).unwrap();
        let found = scanner([&Cache::On, &Cache::Off], &paths).find(Deadline::after(Duration::ZERO));
        let places: Vec<Place> = found.unwrap().into_iter().map(Place::Partition).collect();
        assert_eq!(places[0].is_writable(), is_writable);
    }
}
