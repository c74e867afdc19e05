//! Real trees: QEMU's virt machine, and one with the long names that vendors use.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::blob::{Reservation, Token};
use super::*;

#[test]
fn a_device_is_found_by_what_it_is_compatible_with() {
    let tree = |status: &str| {
        let mut writer = vm_fdt::FdtWriter::new().unwrap();
        let root = writer.begin_node("").unwrap();
        let outer = writer.begin_node("outer").unwrap();
        writer.property_string("status", status).unwrap();
        writer.property_string_list("compatible", vec!["a,one".to_owned(), "a,two".to_owned()]).unwrap();
        let inner = writer.begin_node("inner").unwrap();
        writer.property_string("compatible", "a,three").unwrap();
        writer.end_node(inner).unwrap();
        writer.end_node(outer).unwrap();
        writer.end_node(root).unwrap();
        writer.finish().unwrap()
    };
    let okay = tree("okay");
    assert!(["a,one", "a,two", "a,three"].iter().all(|name| has_device(&okay, name.as_bytes())));
    assert!(!has_device(&okay, b"a,on") && !has_device(&okay, b"okay"));
    assert!(!has_device(&tree("disabled"), b"a,two") && !has_device(b"", b"a,one"));
}

const VIRT: &[u8] = include_bytes!("testdata/qemu-virt-gicv3.dtb");
const LONG: &[u8] = include_bytes!("testdata/long-names.dtb");

fn edits() -> Edits<'static> {
    Edits {
        bootargs: Some("console=ttyAMA0 quiet"),
        initrd: Some(0x4800_0000..0x4812_3456),
        seeds: Some(Seeds { kaslr: 0x1122_3344_5566_7788, rng: [0x5a; 64] }),
        reserve: &[],
        system_table: None,
    }
}

/// `source` as dtc makes a tree of it; none where there is no dtc.
fn compiled(source: &str) -> Option<Vec<u8>> {
    let mut dtc = Command::new("dtc")
        .args(["-q", "-I", "dts", "-O", "dtb", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    dtc.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    let output = dtc.wait_with_output().unwrap();
    assert!(output.status.success(), "{source}");
    Some(output.stdout)
}

fn chosen(tree: &[u8]) -> Vec<(String, Vec<u8>)> {
    let blob = Blob::parse(tree).unwrap();
    chosen::properties(&blob)
        .map(|p| (String::from_utf8(p.name.to_vec()).unwrap(), p.value.to_vec()))
        .collect()
}

fn value(tree: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut found = chosen(tree).into_iter().filter(|(n, _)| n == name);
    let first = found.next();
    assert!(found.next().is_none(), "{name} twice");
    first.map(|(_, value)| value)
}

/// The tree as dtc shows it, sorted, without the lines of /chosen's own properties.
fn shown_by_dtc(tree: &[u8]) -> Option<String> {
    let mut dtc = Command::new("dtc")
        .args(["-q", "-s", "-I", "dtb", "-O", "dts", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    dtc.stdin.take().unwrap().write_all(tree).unwrap();
    let output = dtc.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut inside = false;
    let rest = text.lines().filter(|line| {
        inside = *line == "\tchosen {" || (inside && *line != "\t};");
        !inside || line.starts_with("\t\t\t") || line.ends_with('{')
    });
    Some(rest.collect::<Vec<_>>().join("\n"))
}

fn assert_prepared(tree: &[u8]) {
    let copy = prepare(tree, &edits()).unwrap();
    assert_eq!(value(&copy, "bootargs").unwrap(), b"console=ttyAMA0 quiet\0");
    assert_eq!(value(&copy, "linux,initrd-start").unwrap(), 0x4800_0000u64.to_be_bytes());
    assert_eq!(value(&copy, "linux,initrd-end").unwrap(), 0x4812_3456u64.to_be_bytes());
    assert_eq!(value(&copy, "kaslr-seed").unwrap(), 0x1122_3344_5566_7788u64.to_be_bytes());
    assert_eq!(value(&copy, "rng-seed").unwrap(), [0x5a; 64]);
    assert_eq!(value(&copy, "linux,elfcorehdr"), None);
    assert_eq!(value(&copy, "linux,usable-memory-range"), None);
    for name in ["stdout-path", "linux,uefi-system-table"] {
        assert_eq!(value(&copy, name), value(tree, name), "{name}");
    }
    assert_eq!(Blob::parse(&copy).unwrap().boot_cpu, Blob::parse(tree).unwrap().boot_cpu);

    let bare = prepare(&copy, &Edits::default()).unwrap();
    for name in ["bootargs", "linux,initrd-start", "linux,initrd-end", "kaslr-seed", "rng-seed"] {
        assert_eq!(value(&bare, name), None, "{name}");
    }
}

#[test]
fn qemus_tree_goes_through_both_crates() {
    assert_prepared(VIRT);
    let blob = Blob::parse(VIRT).unwrap();
    assert!(rewrite::with_vm_fdt(&blob, &chosen::changes(&edits()).unwrap()).is_ok());
}

#[test]
fn a_tree_with_long_names_boots_all_the_same() {
    assert_prepared(LONG);
    let blob = Blob::parse(LONG).unwrap();
    assert!(rewrite::with_vm_fdt(&blob, &[]).is_err());
}

#[test]
fn both_writers_agree() {
    let changes = chosen::changes(&edits()).unwrap();
    let mut blob = Blob::parse(VIRT).unwrap();
    let crates = rewrite::with_vm_fdt(&blob, &changes).unwrap();
    chosen::splice(&mut blob, &changes);
    assert_eq!(crates, blob.write());
}

#[test]
fn everything_else_stays_as_dtc_sees_it() {
    for tree in [VIRT, LONG] {
        let copy = prepare(tree, &edits()).unwrap();
        let Some(before) = shown_by_dtc(tree) else { return };
        let before = before.replace("/memreserve/\t0x0000000048000000 0x0000000000200000;\n", "");
        assert_eq!(before, shown_by_dtc(&copy).unwrap());
    }
}

#[test]
fn the_old_ramdisk_is_no_longer_reserved() {
    let copy = prepare(LONG, &edits()).unwrap();
    let left = Blob::parse(&copy).unwrap().reservations;
    assert_eq!(left, [Reservation { address: 0x8000_0000, size: 0x1_0000 }]);
    assert_eq!(Blob::parse(&copy).unwrap().boot_cpu, 3);
}

#[test]
fn reservations_are_added_once() {
    let edits = Edits { reserve: &[0x421a_0000..0x421b_0000, 0x8000_1000..0x8000_2000], ..edits() };
    for tree in [VIRT, LONG] {
        let once = prepare(tree, &edits).unwrap();
        let left = Blob::parse(&once).unwrap().reservations;
        assert!(left.contains(&Reservation { address: 0x421a_0000, size: 0x1_0000 }));
        assert_eq!(left.len(), 2);
        assert_eq!(prepare(&once, &edits).unwrap(), once);
    }
}

#[test]
fn chosen_is_made_where_there_is_none() {
    let mut blob = Blob::parse(LONG).unwrap();
    let start = blob.tokens.iter().position(|t| matches!(t, Token::Begin(b"chosen"))).unwrap();
    let mut depth = 0;
    let length = 1 + blob.tokens[start..]
        .iter()
        .position(|token| {
            depth += match token {
                Token::Begin(_) => 1,
                Token::End => -1,
                Token::Property(_) => 0,
            };
            depth == 0
        })
        .unwrap();
    blob.tokens.drain(start..start + length);
    let bare = blob.write();
    assert!(chosen(&bare).is_empty());
    assert_eq!(value(&prepare(&bare, &edits()).unwrap(), "bootargs").unwrap(), b"console=ttyAMA0 quiet\0");

    // The same on the way through the crates.
    let empty = vm_fdt::FdtWriter::new()
        .and_then(|mut writer| {
            let root = writer.begin_node("")?;
            writer.end_node(root)?;
            writer.finish()
        })
        .unwrap();
    assert_eq!(chosen(&prepare(&empty, &edits()).unwrap()).len(), 6);
}

#[test]
fn a_seed_that_the_kernel_wiped_with_nops_does_not_confuse() {
    let wiped = zero_seeds(LONG).unwrap();
    assert_eq!(wiped.len(), LONG.len());
    assert_eq!(value(&wiped, "kaslr-seed").unwrap(), [0; 8]);
    assert_eq!(value(&wiped, "rng-seed"), None);
    assert_eq!(value(&wiped, "linux,uefi-system-table"), value(LONG, "linux,uefi-system-table"));
    assert_prepared(&wiped);
    let changed = wiped.iter().zip(LONG).filter(|(a, b)| a != b).count();
    assert!(changed <= 8 + 24, "{changed} bytes changed");

    let wiped = zero_seeds(VIRT).unwrap();
    assert_prepared(&wiped);
    let secret = value(VIRT, "rng-seed").unwrap();
    assert!(!wiped.windows(secret.len()).any(|window| window == secret));
}

#[test]
fn a_padded_tree_is_trimmed_and_a_large_one_refused() {
    let mut padded = VIRT.to_vec();
    padded.resize(1 << 20, 0);
    let size = u32::try_from(padded.len()).unwrap().to_be_bytes();
    padded[4..8].copy_from_slice(&size);
    assert!(prepare(&padded, &edits()).unwrap().len() < 16 * 1024);

    let bootargs = "x".repeat(LARGEST);
    let error = prepare(VIRT, &Edits { bootargs: Some(&bootargs), ..Edits::default() }).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }));
    let error = prepare(VIRT, &Edits { bootargs: Some("a\0b"), ..Edits::default() }).unwrap_err();
    assert!(matches!(error, Error::Nul));
}

#[test]
fn what_is_no_tree_is_named() {
    assert!(matches!(prepare(b"MZ\0\0", &edits()), Err(Error::Magic { found: 0x4d5a_0000 })));
    assert!(matches!(prepare(b"", &edits()), Err(Error::Broken { .. })));
    for length in 4..VIRT.len() {
        assert!(prepare(&VIRT[..length], &edits()).is_err());
    }
}

#[test]
fn measurements_of_the_last_kernel_are_dropped_with_their_reservation() {
    let Some(tree) = compiled(
        "/dts-v1/; /memreserve/ 0x50000000 0x3000; /memreserve/ 0x60000000 0x1000;
         / { #address-cells = <2>; #size-cells = <2>; chosen {
             linux,ima-kexec-buffer = <0 0x50000000 0 0x3000>; linux,kho-fdt = <0 1 0 2>;
             linux,kho-scratch = <0 1 0 2>; linux,elfcorehdr = <0 1 0 2>;
             linux,initrd-start = <1>; linux,uefi-mmap-start = <0 0x7f000000>; }; };",
    ) else {
        return;
    };
    let narrow = compiled(
        "/dts-v1/; /memreserve/ 0x50000000 0x3000; / { #address-cells = <2>; #size-cells = <1>; chosen {
             linux,ima-kexec-buffer = <0 0x50000000 0x3000>; }; };",
    );
    let copy = prepare(&narrow.unwrap(), &Edits::default()).unwrap();
    assert!(Blob::parse(&copy).unwrap().reservations.is_empty());
    let copy = prepare(&tree, &Edits::default()).unwrap();
    let left = Blob::parse(&copy).unwrap().reservations;
    assert_eq!(left, [Reservation { address: 0x6000_0000, size: 0x1000 }]);
    let names: Vec<String> = chosen(&copy).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["linux,uefi-mmap-start", "linux,booted-from-kexec"]);
}

#[test]
fn a_system_table_that_was_made_goes_with_its_reservation() {
    const STUB: &[u8] = include_bytes!("testdata/qemu-virt-uefi.dtb");
    let with = |tree: &[u8], system_table, reserve: &[Range<u64>]| {
        prepare(tree, &Edits { reserve, system_table, ..edits() }).unwrap()
    };
    let reserved = |tree: &[u8]| Blob::parse(tree).unwrap().reservations;
    let page = |start| start..start + 0x1000;
    let megabyte = |start| start..start + 0x10_0000;
    let firmwares = uefi(STUB).unwrap().unwrap();
    let first = with(STUB, Some(0x4200_0040), &[page(0x4200_0000)]);
    assert_eq!(uefi(&first).unwrap(), Some(Uefi { system_table: 0x4200_0040, ..firmwares }));
    let second = with(&first, Some(0x4300_0040), &[page(0x4300_0000)]);
    assert_eq!(reserved(&second), [Reservation { address: 0x4300_0000, size: 0x1000 }]);
    // It is still what the tree names.
    assert_eq!(reserved(&with(&second, None, &[])), reserved(&second));
    // More than was made: somebody else's.
    let large = with(STUB, Some(0x4200_0040), &[megabyte(0x4200_0000)]);
    assert_eq!(reserved(&with(&large, Some(0x4300_0040), &[])).len(), 1);
    // Without UEFI there is none to be found.
    assert_eq!(uefi(VIRT).unwrap(), None);
    assert!(uefi(b"MZ\0\0").is_err() && uefi(&STUB[..100]).is_err());
}

/// What a running kernel was given by firmware.
const RUNNING: &str = r#"/dts-v1/;
/memreserve/ 0x80000000 0x10000;
/memreserve/ 0x48000000 0x200000;
/ {
	#address-cells = <2>; #size-cells = <2>;
	compatible = "vendor,board"; serial-number = "A1";
	aliases { ethernet0 = "/soc/mac@1"; ethernet1 = "/soc/mac@2"; ethernet2 = "/soc/mac@3"; ethernet9 = "/nowhere"; };
	memory@80000000 { device_type = "memory"; reg = <0 0x80000000 0 0x40000000>; phandle = <1>; };
	memory@880000000 { device_type = "memory"; reg = <8 0x80000000 1 0>; numa-node-id = <1>; };
	reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges;
		secure@90000000 { reg = <0 0x90000000 0 0x100000>; no-map; phandle = <2>; };
		firmware@91000000 { reg = <0 0x91000000 0 0x100000>; no-map; };
		pool@92000000 { reg = <0 0x92000000 0 0x100000>; };
		off@93000000 { reg = <0 0x93000000 0 0x100000>; no-map; status = "disabled"; };
	};
	chosen { linux,initrd-start = <0x48000000>; linux,initrd-end = <0x48200000>; bootargs = "old"; };
	soc { mac@1 { local-mac-address = [02 00 00 00 00 01]; };
		mac@2 { mac-address = [02 00 00 00 00 02]; local-mac-address = [00 00 00 00 00 00]; };
		mac@3 { local-mac-address = [02 00 00 00 00 03]; }; };
};"#;

/// What a kernel's build makes for the same board.
const GIVEN: &str = r#"/dts-v1/;
/memreserve/ 0x1000 0x1000;
/ {
	#address-cells = <2>; #size-cells = <1>;
	compatible = "vendor,board"; model = "new";
	aliases { ethernet0 = "/soc/mac@1"; ethernet1 = "/soc/mac@2"; ethernet2 = "/soc/mac@3"; };
	memory@0 { device_type = "memory"; reg = <0 0 0>; };
	reserved-memory { #address-cells = <2>; #size-cells = <1>; ranges;
		other-name@91000000 { reg = <0 0x91000000 0x100000>; no-map; };
	};
	chosen { linux,uefi-system-table = <0 1>; stdout-path = "serial0"; };
	soc { mac@1 { }; mac@2 { local-mac-address = [00 00 00 00 00 00]; };
		mac@3 { mac-address = [02 00 00 00 00 ff]; }; };
};"#;

#[test]
fn a_tree_from_a_file_gets_what_firmware_wrote_into_the_running_one() {
    let wide = GIVEN.replace("#size-cells = <1>", "#size-cells = <2>").replace("0x100000>", "0 0x100000>");
    let wide = wide.replace("<0 0 0>", "<0 0 0 0>");
    let (Some(running), Some(given)) = (compiled(RUNNING), compiled(&wide)) else { return };
    let complete = complete(&given, &running).unwrap();
    let expected = r#"/dts-v1/;
/memreserve/ 0x1000 0x1000;
/memreserve/ 0x80000000 0x10000;
/ {
	#address-cells = <2>; #size-cells = <2>;
	compatible = "vendor,board"; model = "new"; serial-number = "A1";
	aliases { ethernet0 = "/soc/mac@1"; ethernet1 = "/soc/mac@2"; ethernet2 = "/soc/mac@3"; };
	reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges;
		other-name@91000000 { reg = <0 0x91000000 0 0x100000>; no-map; };
		secure@90000000 { reg = <0 0x90000000 0 0x100000>; no-map; };
	};
	chosen { stdout-path = "serial0"; };
	soc { mac@1 { local-mac-address = [02 00 00 00 00 01]; };
		mac@2 { local-mac-address = [02 00 00 00 00 02]; };
		mac@3 { mac-address = [02 00 00 00 00 ff]; }; };
	memory@80000000 { device_type = "memory"; reg = <0 0x80000000 0 0x40000000>; };
	memory@880000000 { device_type = "memory"; reg = <8 0x80000000 1 0>; numa-node-id = <1>; };
};"#;
    let shown = |tree: &[u8]| source(tree).unwrap();
    assert_eq!(shown(&complete), shown(&compiled(expected).unwrap()));
    let reserved = |tree: &[u8]| Blob::parse(tree).unwrap().reservations;
    assert_eq!(reserved(&complete), reserved(&compiled(expected).unwrap()));
    // Once is enough, and a tree that was taken from the running kernel stays as it is.
    assert_eq!(super::complete(&complete, &running).unwrap(), complete);
    assert_eq!(shown(&super::complete(&running, &running).unwrap()), shown(&running));
}

#[test]
fn cells_are_converted_or_the_tree_refused() {
    let (Some(running), Some(given)) = (compiled(RUNNING), compiled(GIVEN)) else { return };
    // 4 GiB of memory in one node have no place in one cell.
    let error = complete(&given, &running).unwrap_err();
    assert!(matches!(error, Error::Cells { what: "the memory" }), "{error}");
    let small = compiled(&RUNNING.replace("<8 0x80000000 1 0>", "<8 0x80000000 0 0x1000>")).unwrap();
    let complete_tree = complete(&given, &small).unwrap();
    let text = source(&complete_tree).unwrap();
    assert!(text.contains("reg = <0x08 0x80000000 0x1000>"), "{text}");
    assert!(text.contains("reg = <0x00 0x90000000 0x100000>"), "{text}");
    for (from, to) in [("#size-cells = <2>", "#size-cells = <3>"), ("reg = <8 0x80000000 1 0>", "reg = <8>")]
    {
        let odd = compiled(&RUNNING.replace(from, to)).unwrap();
        assert!(matches!(complete(&given, &odd), Err(Error::Cells { .. })), "{to}");
    }
}

#[test]
fn under_uefi_the_memory_is_where_the_running_kernel_found_it() {
    const STUB: &[u8] = include_bytes!("testdata/qemu-virt-uefi.dtb");
    let Some(given) = compiled(GIVEN) else { return };
    let complete_tree = complete(&given, STUB).unwrap();
    for name in ["system-table", "mmap-start", "mmap-size", "mmap-desc-size", "mmap-desc-ver", "secure-boot"]
    {
        let name = format!("linux,uefi-{name}");
        assert!(value(STUB, &name).is_some());
        assert_eq!(value(&complete_tree, &name), value(STUB, &name), "{name}");
    }
    let text = source(&complete_tree).unwrap();
    assert!(text.contains("model = \"new\"") && !text.contains("memory@"), "{text}");

    // Neither tree tells of memory.
    let bare = compiled("/dts-v1/; / { compatible = \"a,b\"; };").unwrap();
    assert!(matches!(complete(&bare, &bare), Err(Error::NoMemory)));
    // One that tells of it is believed.
    let own = compiled(&RUNNING.replace("0x80000000 0 0x40000000", "0x80000000 0 0x20000000")).unwrap();
    assert!(source(&complete(&own, STUB).unwrap()).unwrap().contains("0x80000000 0x00 0x20000000"));
    assert!(matches!(complete(b"MZ\0\0", STUB), Err(Error::Magic { .. })));
    assert!(complete(&given, &STUB[..100]).is_err());
}

proptest! {
    #[test]
    fn no_tree_panics_as_it_is_completed(
        flips in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
        long in any::<bool>(),
    ) {
        let mut given = if long { LONG.to_vec() } else { VIRT.to_vec() };
        let mut running = VIRT.to_vec();
        for (which, index, value) in flips {
            let tree = if which { &mut given } else { &mut running };
            let at = index.index(tree.len());
            tree[at] = value;
        }
        if let Ok(tree) = complete(&given, &running) {
            prop_assert!(Blob::parse(&tree).is_ok());
        }
    }

    #[test]
    fn no_tree_panics(
        long in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        header in prop::collection::vec((0usize..10, any::<u32>()), 0..2),
    ) {
        let mut tree = if long { LONG.to_vec() } else { VIRT.to_vec() };
        for (index, value) in flips {
            let at = index.index(tree.len());
            tree[at] = value;
        }
        for (field, value) in header {
            tree[field * 4..][..4].copy_from_slice(&value.to_be_bytes());
        }
        let _ = zero_seeds(&tree);
        if let Ok(copy) = prepare(&tree, &edits()) {
            prop_assert!(Blob::parse(&copy).is_ok());
        }
    }

    #[test]
    fn old_seeds_never_survive(seeds in any::<bool>(), byte in 1u8..0x5a) {
        let mut tree = LONG.to_vec();
        let marker = [byte; 8];
        let blob = Blob::parse(LONG).unwrap();
        let old = chosen::properties(&blob).find(|p| p.name == b"kaslr-seed").unwrap().value_range();
        tree[old].copy_from_slice(&marker);
        let mut edits = edits();
        if !seeds {
            edits.seeds = None;
        }
        let copy = prepare(&tree, &edits).unwrap();
        prop_assert!(!copy.windows(8).any(|window| window == marker));
        prop_assert!(!zero_seeds(&tree).unwrap().windows(8).any(|window| window == marker));
    }
}

#[test]
fn a_file_without_an_end_is_not_read_to_it() {
    assert_eq!(read(Path::new("/dev/zero")).unwrap().len(), 2 * LARGEST);
    assert!(read(Path::new("/nonexistent")).is_err());
}
