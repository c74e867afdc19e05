use std::collections::BTreeSet;

use super::*;
use crate::error::Exit;
use crate::manifest::MOST_SEEN_BYTES;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

const X86: Arch = Arch::X86_64;

fn boots(memory: &mut Memory<'_>, channel: &str, version: u64) -> Result<(), Error> {
    memory.sightings().add_manifest(channel, X86, version);
    memory.keep()
}

fn meets_list(memory: &mut Memory<'_>, version: u64, revoked: &BTreeSet<String>) -> Result<(), Error> {
    memory.sightings().add_keys(version, revoked);
    memory.keep()
}

/// A machine whose root is a folder: with firmware variables, and a file to name with `--record`.
struct Machine {
    root: tempfile::TempDir,
    paths: Paths,
    config: Config,
    policy: Policy,
}

impl Machine {
    fn new(cmdline: &str, policy: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let policy = Policy::parse(policy).unwrap();
        let mut config = Config::from_kernel_cmdline(cmdline, &policy).unwrap();
        config.record = Some(root.path().join("seen.json"));
        Self { root, paths, config, policy }
    }

    fn with_firmware(self) -> Self {
        fs::create_dir_all(self.root.path().join("proc/self")).unwrap();
        fs::create_dir_all(self.paths.efi_variables()).unwrap();
        let line = "31 24 0:27 / /sys/firmware/efi/efivars rw - efivarfs efivarfs rw\n";
        fs::write(self.paths.mountinfo(), line).unwrap();
        self
    }

    fn record(&self) -> &Path {
        self.config.record.as_deref().unwrap()
    }

    fn variable(&self) -> PathBuf {
        efivar::find(&self.paths, self.policy.record_name.as_deref()).unwrap()
    }

    fn open(&self, purpose: Purpose) -> Result<Memory<'_>, Error> {
        let deadline = Deadline::after(Duration::ZERO);
        Memory::open(&self.config, &self.policy, &self.paths, purpose, deadline)
    }

    fn lowest(&self, purpose: Purpose) -> u64 {
        self.open(purpose).unwrap().sightings().all().lowest("stable", X86)
    }
}

fn text(version: u64) -> Vec<u8> {
    let mut seen = Seen::default();
    seen.add_manifest("stable", X86, version);
    seen.to_bytes().unwrap()
}

#[test]
fn what_was_remembered_is_seen_the_next_time() {
    let machine = Machine::new("", "{}").with_firmware();
    let mut memory = machine.open(Purpose::Boot).unwrap();
    assert_eq!(*memory.sightings().all(), Seen::default());
    meets_list(&mut memory, 3, &["4ac8df01037dd2d3".to_owned()].into()).unwrap();
    boots(&mut memory, "stable", 7).unwrap();
    let expected = memory.sightings().all().clone();
    assert_eq!(expected.lowest("stable", X86), 7);

    assert_eq!(*machine.open(Purpose::Boot).unwrap().sightings().all(), expected);
    assert_eq!(Seen::parse(&fs::read(machine.record()).unwrap()), Ok(expected.clone()));
    // Either place is enough.
    fs::remove_file(machine.record()).unwrap();
    assert_eq!(*machine.open(Purpose::Boot).unwrap().sightings().all(), expected);
    fs::write(machine.record(), expected.to_bytes().unwrap()).unwrap();
    fs::remove_file(machine.variable()).unwrap();
    assert_eq!(*machine.open(Purpose::Boot).unwrap().sightings().all(), expected);
}

#[test]
fn the_highest_of_all_places_counts() {
    let machine = Machine::new("", "{}").with_firmware();
    fs::write(machine.record(), text(5)).unwrap();
    efivar::write(&machine.variable(), &text(9)).unwrap();
    assert_eq!(machine.lowest(Purpose::Boot), 9);
    fs::write(machine.record(), text(11)).unwrap();
    assert_eq!(machine.lowest(Purpose::Boot), 11);
    // The commands that do not boot have nothing but --record, and PID 1 has none.
    assert_eq!(machine.lowest(Purpose::Look), 11);
    let pid1 = Machine { config: Config { record: None, ..machine.config.clone() }, ..machine };
    assert_eq!(pid1.lowest(Purpose::Init), 9);
    assert_eq!(pid1.lowest(Purpose::Look), 0);
}

#[test]
fn what_one_place_claims_is_not_written_to_another() {
    let machine = Machine::new("", "{}").with_firmware();
    fs::write(machine.record(), text(99)).unwrap();
    efivar::write(&machine.variable(), &text(5)).unwrap();
    let mut memory = machine.open(Purpose::Boot).unwrap();
    assert_eq!(memory.sightings().all().lowest("stable", X86), 99);
    boots(&mut memory, "stable", 7).unwrap();
    assert_eq!(memory.sightings().all().lowest("stable", X86), 99);
    assert_eq!(efivar::read(&machine.variable(), 999).unwrap().unwrap(), text(7), "what was verified");
    assert_eq!(fs::read(machine.record()).unwrap(), text(99), "never lowered");
}

#[test]
fn attempts_of_one_boot_share_what_they_have_seen() {
    let mut machine = Machine::new("phase.nowrite", "{}");
    machine.config.record = None;
    meets_list(&mut machine.open(Purpose::Init).unwrap(), 3, &BTreeSet::new()).unwrap();
    assert_eq!(machine.open(Purpose::Init).unwrap().sightings().all().keys_version, 3);
    assert_eq!(machine.open(Purpose::Boot).unwrap().sightings().all().keys_version, 0, "not PID 1");
}

#[test]
fn it_is_written_only_where_it_says_less() {
    let machine = Machine::new("", "{}");
    boots(&mut machine.open(Purpose::Boot).unwrap(), "stable", 7).unwrap();
    let inode = || fs::metadata(machine.record()).unwrap().ino();
    let before = inode();
    // A write replaces the file, and so its inode.
    let keep = fs::File::open(machine.record()).unwrap();
    for version in [7, 6] {
        boots(&mut machine.open(Purpose::Boot).unwrap(), "stable", version).unwrap();
        assert_eq!(inode(), before, "{version}");
    }
    boots(&mut machine.open(Purpose::Boot).unwrap(), "stable", 8).unwrap();
    assert_ne!(inode(), before);
    drop(keep);
    assert_eq!(machine.lowest(Purpose::Boot), 8);
}

#[test]
fn nothing_is_written_where_nothing_may_be() {
    for (cmdline, purpose) in [
        ("phase.nowrite", Purpose::Boot),
        ("phase.nowrite=true", Purpose::Look),
        ("phase.mode=private", Purpose::Boot),
        ("phase.mode=private", Purpose::Init),
        ("", Purpose::DryRun),
        ("", Purpose::Look),
    ] {
        let machine = Machine::new(cmdline, "{}").with_firmware();
        efivar::write(&machine.variable(), &text(5)).unwrap();
        fs::write(machine.record(), text(5)).unwrap();
        let mut memory = machine.open(purpose).unwrap();
        assert_eq!(memory.sightings().all().lowest("stable", X86), 5, "it is read all the same");
        boots(&mut memory, "stable", 7).unwrap();
        meets_list(&mut memory, 7, &BTreeSet::new()).unwrap();
        assert_eq!(memory.sightings().all().lowest("stable", X86), 7, "this boot knows");
        assert_eq!(fs::read(machine.record()).unwrap(), text(5), "{cmdline} {purpose:?}");
        assert_eq!(
            efivar::read(&machine.variable(), 999).unwrap().unwrap(),
            text(5),
            "{cmdline} {purpose:?}"
        );
    }
}

#[test]
fn a_damaged_record_is_never_an_empty_one() {
    let mut cut = text(7);
    cut.pop();
    let long = vec![b' '; MOST_SEEN_BYTES + 1];
    for bytes in [b"".as_slice(), b"{}", &cut, &long] {
        let machine = Machine::new("", "{}");
        fs::write(machine.record(), bytes).unwrap();
        for purpose in [Purpose::Boot, Purpose::DryRun, Purpose::Look] {
            let error = machine.open(purpose).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("seen.json"), "{error}");
            assert_eq!(error.exit(), Exit::NotForUs);
        }
        assert_eq!(fs::read(machine.record()).unwrap(), bytes, "it stays for whoever looks at it");
    }
    let machine = Machine::new("", "{}").with_firmware();
    fs::write(machine.variable(), [b"\x03\0\0\0".as_slice(), &text(7)].concat()).unwrap();
    assert!(matches!(machine.open(Purpose::Init), Err(Error::Damaged { .. })), "other attributes");
    fs::remove_file(machine.variable()).unwrap();
    fs::create_dir(machine.record()).unwrap();
    assert!(matches!(machine.open(Purpose::Boot), Err(Error::Damaged { .. })), "no file");
}

#[test]
fn a_damaged_record_is_replaced_if_the_policy_says_so() {
    let machine =
        Machine::new("", r#"{"damaged_record":"replace","min_manifest_version":1}"#).with_firmware();
    efivar::write(&machine.variable(), &text(9)).unwrap();
    fs::write(machine.record(), "junk").unwrap();
    let mut memory = machine.open(Purpose::Boot).unwrap();
    assert_eq!(memory.sightings().all().lowest("stable", X86), 9, "the other place counts");
    assert_eq!(fs::read(machine.record()).unwrap(), b"junk", "not before there is something to remember");
    boots(&mut memory, "stable", 9).unwrap();
    assert_eq!(fs::read(machine.record()).unwrap(), text(9));
}

#[test]
fn a_required_record_needs_a_place() {
    let policy = r#"{"rollback_record":"required"}"#;
    let mut machine = Machine::new("", policy);
    assert!(machine.open(Purpose::Boot).is_ok());
    machine.config.record = Some("/nonexistent/seen.json".into());
    let error = machine.open(Purpose::Boot).unwrap_err();
    assert!(matches!(error, Error::NoPlace), "{error}");
    assert_eq!(error.exit(), Exit::NotForUs);
    assert!(machine.open(Purpose::Look).is_ok(), "it has seen nothing, and writes nothing");
    machine.config.record = None;
    for purpose in [Purpose::Init, Purpose::Boot, Purpose::DryRun, Purpose::Look] {
        assert!(matches!(machine.open(purpose), Err(Error::NoPlace)), "{purpose:?}");
    }
    let machine = machine.with_firmware();
    for purpose in [Purpose::Init, Purpose::Boot, Purpose::DryRun] {
        assert!(machine.open(purpose).is_ok(), "{purpose:?}");
    }
}

#[test]
fn the_command_line_cannot_take_a_required_record_away() {
    let policy = r#"{"rollback_record":"required"}"#;
    for line in
        ["phase.nowrite", "phase.nowrite=1", "phase.mode=private", "phase.mode=private phase.nowrite=0"]
    {
        let machine = Machine::new(line, policy).with_firmware();
        for purpose in [Purpose::Init, Purpose::Boot, Purpose::DryRun] {
            let error = machine.open(purpose).unwrap_err();
            assert!(matches!(error, Error::MayNotWrite), "{line}: {error}");
            assert_eq!(error.exit(), Exit::NotForUs);
        }
    }
    let pid1 = |line: &str, machine: Machine| {
        let config = Config::from_kernel_cmdline(line, &machine.policy).unwrap();
        Machine { config, ..machine }.open(Purpose::Init).map(drop)
    };
    assert!(matches!(pid1("phase.cache=off", Machine::new("", policy)), Err(Error::NoPlace)));
    assert!(pid1("phase.cache=off", Machine::new("", policy).with_firmware()).is_ok(), "the firmware serves");
}

#[test]
fn a_write_that_fails_is_an_error_only_where_a_record_is_required() {
    for (policy, required) in [("{}", false), (r#"{"rollback_record":"required"}"#, true)] {
        let machine = Machine::new("", policy);
        // In the way of every write.
        fs::create_dir(machine.root.path().join("seen.json.part")).unwrap();
        let kept = boots(&mut machine.open(Purpose::Boot).unwrap(), "stable", 7);
        match kept {
            Err(error @ Error::NotKept { .. }) => {
                assert!(required);
                assert_eq!(error.exit(), Exit::NotForUs);
            }
            other => assert!(!required && other.is_ok(), "{other:?}"),
        }
        // One place that keeps it is enough.
        let machine = machine.with_firmware();
        boots(&mut machine.open(Purpose::Boot).unwrap(), "stable", 7).unwrap();
        assert_eq!(machine.lowest(Purpose::Boot), 7);
    }
}

#[test]
fn more_than_a_record_holds_is_not_forgotten_in_silence() {
    let machine = Machine::new("", r#"{"rollback_record":"required"}"#);
    let mut memory = machine.open(Purpose::Boot).unwrap();
    for n in 0..64 {
        boots(&mut memory, &format!("channel{n}"), 7).unwrap();
    }
    let error = boots(&mut memory, "stable", 7).unwrap_err();
    assert!(matches!(error, Error::NotKept { .. }), "{error}");
    assert!(error.hint().contains("started afresh") && error.hint().contains("record_name"));
    assert_eq!(machine.open(Purpose::Boot).unwrap().sightings().all().manifests.len(), 64);
}

#[test]
fn a_partition_that_is_named_is_waited_for_and_not_for_ever() {
    let machine = Machine::new("phase.cache=LABEL=none", "{}");
    let started = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(300));
    let memory = Memory::open(&machine.config, &machine.policy, &machine.paths, Purpose::Init, deadline);
    assert!(memory.is_ok());
    assert!((300..5000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[test]
fn records_of_several_publishers_are_kept_apart() {
    let owner = Machine::new("", "{}").with_firmware();
    boots(&mut owner.open(Purpose::Init).unwrap(), "stable", 5).unwrap();
    // Somebody else's stick, booted once on the same machine.
    let policy = Policy::parse(r#"{"record_name":"rescue-1"}"#).unwrap();
    let config = Config { record: None, ..owner.config.clone() };
    let open =
        || Memory::open(&config, &policy, &owner.paths, Purpose::Init, Deadline::after(Duration::ZERO));
    let mut stick = open().unwrap();
    assert_eq!(*stick.sightings().all(), Seen::default());
    boots(&mut stick, "stable", 999).unwrap();
    assert_eq!(open().unwrap().sightings().all().lowest("stable", X86), 999);
    assert!(owner.root.path().join("run/phaseboot/seen-rescue-1.json").exists());
    let variable = efivar::find(&owner.paths, Some("rescue-1")).unwrap();
    assert_eq!(efivar::read(&variable, 999).unwrap().unwrap(), text(999));
    assert_eq!(owner.lowest(Purpose::Init), 5);
}

#[test]
fn a_record_that_appears_later_and_knows_more_is_an_error() {
    let root = "4ac8df01037dd2d3";
    let key = TrustedKey::from_bytes(&[
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e,
        0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
    ])
    .unwrap();
    let of = |version, keys_version, revoked: &str| {
        let mut seen = Seen::default();
        seen.add_manifest("stable", X86, version);
        seen.add_manifest("other", X86, 99);
        seen.add_keys(keys_version, &[revoked.to_owned()].into());
        seen.to_bytes().unwrap()
    };
    for (appears, is_newer) in [
        (of(7, 3, root), false),
        (of(6, 2, root), false),
        (of(8, 3, root), true),
        (of(7, 4, root), true),
        (of(7, 3, &key.fingerprint()), true),
    ] {
        let machine = Machine::new("", "{}");
        let mut memory = machine.open(Purpose::Boot).unwrap();
        meets_list(&mut memory, 3, &BTreeSet::new()).unwrap();
        memory.look_again("stable", X86, 7, std::slice::from_ref(&key)).unwrap();
        fs::write(machine.record(), &appears).unwrap();
        let looked = memory.look_again("stable", X86, 7, std::slice::from_ref(&key));
        if is_newer {
            let error = looked.unwrap_err();
            assert!(matches!(error, Error::Appeared { .. }), "{error}");
            assert_eq!(error.exit(), Exit::NotForUs);
            assert_eq!(fs::read(machine.record()).unwrap(), appears);
        } else {
            looked.unwrap();
            boots(&mut memory, "stable", 7).unwrap();
            assert_eq!(machine.lowest(Purpose::Boot), 7, "it is written, too");
        }
    }
}

#[test]
fn what_was_known_from_the_start_is_no_surprise() {
    let machine = Machine::new("", "{}");
    let mut seen = Seen::default();
    seen.add_keys(9, &["4ac8df01037dd2d3".to_owned()].into());
    fs::write(machine.record(), seen.to_bytes().unwrap()).unwrap();
    let mut memory = machine.open(Purpose::Boot).unwrap();
    memory.look_again("stable", X86, 7, &[]).unwrap();
}

#[test]
fn what_cannot_be_written_is_not_tried() {
    let mut machine = Machine::new("", "{}");
    machine.config.record = Some("/nonexistent/seen.json".into());
    let memory = machine.open(Purpose::Boot).unwrap();
    assert!(memory.places.iter().all(|kept| !kept.writes));
    let machine = Machine::new("", "{}");
    assert!(machine.open(Purpose::Boot).unwrap().places.iter().all(|kept| kept.writes));
    assert!(machine.open(Purpose::DryRun).unwrap().places.iter().all(|kept| !kept.writes));
}

#[test]
fn a_lack_of_permission_is_called_one() {
    let place = Place::File("/root/seen.json".into());
    for (error, denied) in [(Errno::ACCESS, true), (Errno::PERM, true), (Errno::IO, false)] {
        let error = unread(&place, &error.into());
        assert_eq!(matches!(error, Error::NoPermission { .. }), denied, "{error}");
        assert_eq!(error.hint().contains("as root"), denied);
        assert_eq!(error.exit(), Exit::NotForUs);
    }
}

#[test]
fn a_missing_driver_is_called_one() {
    let mut start = vec![0; superblock::LENGTH];
    start[1024 + 56..][..2].copy_from_slice(&[0x53, 0xef]);
    let superblock = Ok(superblock::Superblock::parse(&start).unwrap());
    let place = Place::Partition(partition::Partition {
        device: "/dev/vda1".into(),
        superblock,
        file: "seen.json".to_owned(),
        point: "/nonexistent".into(),
        read_only: false,
        by_policy: true,
    });
    let error = unread(&place, &Errno::NODEV.into());
    assert!(matches!(error, Error::NoDriver { driver: "ext4", .. }), "{error}");
    assert!(error.hint().contains("--module ext4"));
    assert!(matches!(unread(&place, &Errno::ACCESS.into()), Error::Damaged { .. }));
    let file = Place::File("/dev/none".into());
    assert!(matches!(unread(&file, &Errno::NODEV.into()), Error::Damaged { .. }));
}

#[test]
fn a_machine_that_forgets_says_so() {
    for (line, policy, firmware, forgets) in [
        ("", "{}", false, true),
        ("", "{}", true, false),
        ("phase.cache=off", r#"{"cache":"off"}"#, false, true),
        // Somebody asked for it.
        ("phase.nowrite", "{}", false, false),
    ] {
        let mut machine = Machine::new(line, policy);
        machine.config.record = None;
        let machine = if firmware { machine.with_firmware() } else { machine };
        assert_eq!(machine.open(Purpose::Init).unwrap().forgets(), forgets, "{line} {policy} {firmware}");
        assert!(!machine.open(Purpose::Boot).unwrap().forgets(), "not PID 1");
    }
}
