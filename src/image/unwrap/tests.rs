use std::cell::RefCell;
use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::super::testing::{ARM, X86, arm64, artifact, bzimage, cpio, gzip, pe, sign, uki, zboot, zstd};
use super::super::{Error, KernelImage};
use super::*;
use crate::arch::Arch;
use crate::error::Exit;

fn opened(bytes: &[u8], native: Arch) -> Result<KernelImage, Error> {
    KernelImage::from_artifact(artifact("kernel", bytes), native)
}

fn refused(bytes: &[u8], native: Arch) -> String {
    opened(bytes, native).unwrap_err().to_string()
}

fn shown(kernel: &KernelImage) -> String {
    Wrapping::list(kernel.wrappings())
}

#[test]
fn what_is_loaded_is_the_kernel_in_the_wrappings() {
    let (image, x86) = (arm64(), bzimage());
    for (bytes, native, kernel, wrappings) in [
        (image.clone(), Arch::Aarch64, &image, ""),
        (x86.clone(), Arch::X86_64, &x86, ""),
        (gzip(&image), Arch::Aarch64, &image, "gzip file"),
        (zstd(&image), Arch::Aarch64, &image, "zstd file"),
        (zstd(&x86), Arch::X86_64, &x86, "zstd file"),
        (zboot("gzip", &gzip(&image)), Arch::Aarch64, &image, "EFI zboot kernel (gzip)"),
        (zboot("zstd22", &zstd(&image)), Arch::Aarch64, &image, "EFI zboot kernel (zstd)"),
        (uki(X86, &x86), Arch::X86_64, &x86, "unified kernel image"),
        (uki(ARM, &gzip(&image)), Arch::Aarch64, &image, "unified kernel image > gzip file"),
        (
            gzip(&uki(ARM, &zboot("zstd", &zstd(&image)))),
            Arch::Aarch64,
            &image,
            "gzip file > unified kernel image > EFI zboot kernel (zstd)",
        ),
    ] {
        let found = opened(&bytes, native).unwrap();
        assert!(*found.map().unwrap() == **kernel, "{wrappings}");
        assert_eq!(found.size(), kernel.len() as u64);
        assert_eq!(shown(&found), wrappings);
        assert_eq!(found.wrappings().first().map_or(found.size(), |first| first.size), bytes.len() as u64);
        assert_eq!(found.uki().is_some(), wrappings.contains("unified"));
        assert_eq!(found.header().arch(), native);
    }
}

#[test]
fn real_compressors_are_understood() {
    let image = arm64();
    for words in [
        "gzip -9",
        "gzip -1",
        "zstd -1",
        "zstd -19 --check",
        "zstd -22 --ultra",
        "zstd --no-check -3",
        "zstd -T2 -B64K -5",
    ] {
        let mut words = words.split(' ');
        let program = words.next().unwrap();
        let command =
            Command::new(program).args(words).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = command else {
            eprintln!("{program} is not here: passed over");
            continue;
        };
        let mut stdin = child.stdin.take().unwrap();
        let input = image.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let packed = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap();
        assert!(packed.len() < image.len());
        assert!(*opened(&packed, Arch::Aarch64).unwrap().map().unwrap() == *image, "{program}");
    }
}

#[test]
fn a_unified_kernel_image_gives_all_it_holds() {
    let mut kernel = opened(&uki(X86, &bzimage()), Arch::X86_64).unwrap();
    assert_eq!(kernel.cmdline(), Some("root=/dev/vda quiet"));
    assert_eq!(kernel.uname(), Some("6.12.0-test"));
    assert!(kernel.uki().unwrap().os_release.as_deref().unwrap().contains("PRETTY_NAME"));
    let ramdisks = kernel.take_ramdisks();
    let names: Vec<_> = ramdisks.iter().map(crate::image::Part::name).collect();
    assert_eq!(names, [".ucode", ".initrd"], "microcode comes first");
    assert_eq!(
        *ramdisks[1].map().unwrap(),
        *cpio(&[("init", b"#!/bin/sh\n")]),
        "without the section's padding"
    );
    assert!(kernel.take_ramdisks().is_empty());
    assert!(kernel.take_trees().fixed.is_none());
    assert!(!kernel.is_signed() && kernel.uki().unwrap().certificates.is_none());
}

#[test]
fn several_ramdisks_and_trees_come_in_their_order() {
    let file = pe(
        ARM,
        &[
            (".initrd", b"one"),
            (".dtb", b"tree"),
            (".initrd", b"two"),
            (".dtbauto", b"a"),
            (".hwids", b"x"),
            (".dtbauto", b"b"),
            (".initrd", b""),
            (".linux", &arm64()),
        ],
    );
    let mut kernel = opened(&file, Arch::Aarch64).unwrap();
    let ramdisks: Vec<_> = kernel.take_ramdisks().iter().map(|part| part.map().unwrap().to_vec()).collect();
    assert_eq!(ramdisks, [b"one", b"two"]);
    let trees = kernel.take_trees();
    assert_eq!(trees.fixed.as_deref(), Some(&b"tree"[..]));
    assert_eq!(trees.candidates, [b"a", b"b"]);
    assert_eq!(kernel.cmdline(), None);
    let several = pe(ARM, &[(".dtb", b"a"), (".dtb", b"b"), (".linux", &arm64())]);
    let trees = opened(&several, Arch::Aarch64).unwrap().take_trees();
    assert_eq!((trees.fixed, trees.candidates.len()), (None, 2));
}

#[test]
fn of_several_profiles_the_first_is_taken() {
    let file = pe(
        X86,
        &[
            (".linux", &bzimage()),
            (".cmdline", b"common"),
            (".uname", b"6.1"),
            (".profile", b"ID=main"),
            (".cmdline", b"main"),
            (".profile", b"ID=reset"),
            (".cmdline", b"reset"),
            (".uname", b"9.9"),
            (".initrd", b"reset's"),
        ],
    );
    let mut kernel = opened(&file, Arch::X86_64).unwrap();
    assert_eq!((kernel.cmdline(), kernel.uname()), (Some("main"), Some("6.1")));
    assert_eq!(kernel.uki().unwrap().profiles, 2);
    assert!(kernel.take_ramdisks().is_empty());
}

#[test]
fn signatures_are_seen_and_survive_the_unified_kernel_image() {
    let mut signed = bzimage();
    sign(&mut signed, 1496);
    let plain = opened(&signed, Arch::X86_64).unwrap();
    assert!(plain.is_signed());
    assert_eq!(plain.certificates(), Some(1496));
    let mut file = uki(X86, &signed);
    sign(&mut file, 2000);
    let kernel = opened(&file, Arch::X86_64).unwrap();
    assert!(kernel.is_signed());
    assert_eq!(kernel.uki().unwrap().certificates, Some(2000));
    // As ukify writes it: the size in memory says nothing, and the section is padded.
    let mut file = pe(X86, &[(".linux", &signed)]);
    let entry = 0x80 + 24 + 240;
    file[entry + 8..entry + 12].copy_from_slice(&0x400_0000u32.to_le_bytes());
    let kernel = opened(&file, Arch::X86_64).unwrap();
    assert!(*kernel.map().unwrap() == *signed, "its end is the certificates' end");
    // A table that is not there is no signature.
    let mut lying = bzimage();
    sign(&mut lying, 64);
    lying.truncate(lying.len() - 1);
    assert!(!opened(&lying, Arch::X86_64).unwrap().is_signed());
}

#[test]
fn the_other_architecture_is_named_inside_wrappings_too() {
    let image = arm64();
    assert_eq!(
        refused(&zboot("gzip", &gzip(&image)), Arch::X86_64),
        "kernel is a kernel for arm64, not for x86_64, inside EFI zboot kernel (gzip)"
    );
    assert_eq!(
        refused(&uki(X86, &zstd(&bzimage())), Arch::Aarch64),
        "kernel is a kernel for x86, not for arm64, inside unified kernel image > zstd file"
    );
    let error = opened(&gzip(b"\x7fELF..............\xf3\0.."), Arch::X86_64).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel is an ELF file for RISC-V (a vmlinux?), 22 bytes, inside gzip file"
    );
    assert_eq!((error.exit(), error.hint().is_empty()), (Exit::ImageUnusable, false));
}

#[test]
fn an_initramfs_in_the_kernels_place_is_not_unpacked_whole() {
    let mut archive = cpio(&[("init", &[1; 100])]);
    archive.resize(8 << 20, 0);
    for packed in [gzip(&archive), zstd(&archive)] {
        let error =
            KernelImage::within(artifact("kernel", &packed), Arch::X86_64, &at_most(1 << 20)).unwrap_err();
        assert!(
            error.to_string().starts_with("kernel is a compressed cpio archive (an initramfs?)"),
            "{error}"
        );
        assert!(error.hint().contains("swapped"));
    }
}

#[test]
fn wrappings_have_a_depth() {
    let mut bytes = arm64();
    for _ in 0..3 {
        bytes = gzip(&bytes);
    }
    assert_eq!(opened(&bytes, Arch::Aarch64).unwrap().wrappings().len(), 3);
    assert!(
        refused(&gzip(&bytes), Arch::Aarch64).contains("wrapped too often, inside gzip file > gzip file")
    );
    let twice = uki(X86, &uki(X86, &bzimage()));
    assert_eq!(refused(&twice, Arch::X86_64), "kernel is wrapped too often, inside unified kernel image");
}

/// A frame of `blocks` blocks of 128 KiB of one byte each: RFC 8878, section 3.1.1.2.
fn run_lengths(blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    for index in 1..=blocks {
        let header = (128 * 1024) << 3 | 1 << 1 | u32::from(index == blocks);
        bytes.extend_from_slice(&header.to_le_bytes()[..3]);
        bytes.push(b'x');
    }
    bytes
}

#[test]
fn bombs_hit_the_limit() {
    // 4 GiB each, of a few megabytes.
    let zeros = gzip(&vec![0; 16 << 20]).repeat(256);
    for bomb in [zeros.clone(), run_lengths(32 * 1024), zboot("gzip", &zeros), uki(ARM, &zeros)] {
        let error =
            KernelImage::within(artifact("kernel", &bomb), Arch::Aarch64, &at_most(64 << 20)).unwrap_err();
        assert!(
            error.to_string().starts_with("kernel is larger than 67.1 MB when it is unpacked"),
            "{error}"
        );
        assert_eq!(error.exit(), Exit::NotEnoughMemory);
    }
    // Layers count together.
    let image = arm64();
    let (twice, size) = (gzip(&gzip(&image)), image.len() as u64);
    let with = |limit| KernelImage::within(artifact("kernel", &twice), Arch::Aarch64, &at_most(limit));
    assert!(with(size).is_err());
    assert!(with(2 * size).is_ok());
}

#[test]
fn the_limit_depends_on_what_the_decoder_keeps() {
    /// A frame with a window of 8 MiB, of one block of one byte.
    const LARGE: [u8; 10] = [0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3, 9, 0, 0, b'x'];
    const LARGE_BUFFER: u64 = (8 << 20) + 256 * 1024;
    let image = arm64();
    let size = image.len() as u64;
    let asked = RefCell::new(Vec::new());
    let with = |bytes: &[u8], limit: &dyn Fn(Demand) -> Result<u64, String>| {
        asked.borrow_mut().clear();
        KernelImage::within(artifact("kernel", bytes), Arch::Aarch64, &|demand| {
            asked.borrow_mut().push(demand);
            limit(demand)
        })
    };
    let refused = |_| Err("4.1 MB are missing".to_owned());
    // Nobody asks where nothing is unpacked.
    for plain in [image.clone(), uki(ARM, &image)] {
        assert!(with(&plain, &refused).is_ok() && asked.borrow().is_empty());
    }
    for packed in [gzip(&image), zstd(&image), uki(ARM, &zboot("zstd", &zstd(&image)))] {
        let error = with(&packed, &refused).unwrap_err();
        assert!(error.to_string().starts_with("kernel is not unpacked: 4.1 MB are missing"), "{error}");
        assert_eq!((error.exit(), error.hint()), (Exit::NotEnoughMemory, "give the machine more memory"));
    }
    // The larger window stays, for memory that was taken once counts; what came out before counts too.
    let several = [zstd(&image), LARGE.to_vec(), zstd(b"end")].concat();
    let kernel = with(&several, &|_| Ok(u64::MAX)).unwrap();
    assert_eq!(kernel.wrappings()[0].buffer, LARGE_BUFFER);
    let asked_for = asked.borrow().clone();
    let [first, second, third] = asked_for[..] else { panic!("{asked_for:?}") };
    assert!(first.buffer < LARGE_BUFFER);
    assert_eq!((second.buffer, third.buffer), (LARGE_BUFFER, LARGE_BUFFER));
    assert_eq!(second, Demand { buffer: LARGE_BUFFER, size });
    assert!(third.size > size);
    // Where it does not fit beside that window, it is not unpacked to the end.
    let scarce = |demand: Demand| Ok(if demand.buffer < LARGE_BUFFER { size } else { size - 1 });
    assert!(with(&zstd(&image), &scarce).is_ok());
    assert!(matches!(with(&several, &scarce), Err(Error::TooLarge { limit, .. }) if limit == size - 1));
    // The layers count together, each with its own decoder.
    let nested = zstd(&gzip(&image));
    let kernel = with(&nested, &|_| Ok(u64::MAX)).unwrap();
    assert!(kernel.wrappings()[0].buffer > 0 && kernel.wrappings()[1].buffer == 0);
    let between = kernel.wrappings()[1].size;
    assert_eq!(asked.borrow()[1], Demand { buffer: 0, size: between });
    assert!(with(&nested, &|_| Ok(between + size)).is_ok());
    let error = with(&nested, &|_| Ok(between + size - 1)).unwrap_err();
    assert!(matches!(&error, Error::Within { error, .. } if matches!(**error, Error::TooLarge { .. })));
}

#[test]
fn an_unpacked_kernel_at_the_limit_is_taken() {
    let image = arm64();
    let with = |limit| KernelImage::within(artifact("kernel", &gzip(&image)), Arch::Aarch64, &at_most(limit));
    assert!(with(image.len() as u64).is_ok());
    assert!(matches!(with(image.len() as u64 - 1), Err(Error::TooLarge { .. })));
}

#[test]
fn zboot_headers_that_lie() {
    let whole = zboot("gzip", &gzip(&arm64()));
    let with = |at: usize, value: u32| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        refused(&bytes, Arch::Aarch64)
    };
    let size = whole.len();
    for (at, value) in [(8, u32::MAX), (12, u32::MAX), (12, 1 << 30)] {
        let said = with(at, value);
        assert!(said.starts_with("kernel is a truncated EFI zboot kernel: its header promises"), "{said}");
        assert!(said.ends_with(&format!("the file has {size}")), "{said}");
    }
    assert!(with(8, 0).contains("gives no place for its payload"));
    assert!(with(12, 0).contains("gives no place for its payload"));
    assert!(with(8, 0x1004).contains("broken EFI zboot kernel (gzip)"));
    assert!(with(12, 100).contains("ends in the middle"));
    for name in ["xzkern", "lz4", "lzma", "lzo", "", "gzip2"] {
        let error = opened(&zboot(name, &gzip(&arm64())), Arch::Aarch64).unwrap_err();
        assert_eq!(error.to_string(), format!("kernel is an EFI zboot kernel compressed with \"{name}\""));
        assert!(error.hint().contains("CONFIG_KERNEL_ZSTD"));
    }
    assert!(refused(b"MZ\0\0zimg", Arch::Aarch64).contains("truncated EFI zboot kernel"));
    let other = zboot("gzip", &zstd(&arm64()));
    assert!(refused(&other, Arch::Aarch64).contains("its header is of an unknown kind"));
}

#[test]
fn sections_without_number_are_refused_before_any_is_copied() {
    let many = |count: usize| {
        let kernel = bzimage();
        let mut sections = vec![(".initrd", &b"x"[..]); count - 1];
        sections.push((".linux", &kernel));
        pe(X86, &sections)
    };
    assert_eq!(opened(&many(512), Arch::X86_64).unwrap().take_ramdisks().len(), 511);
    let error = opened(&many(513), Arch::X86_64).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel has a broken unified kernel image header: it has more than 512 sections"
    );
    assert_eq!(error.exit(), Exit::ImageUnusable);
    let mut most = many(513);
    most[0x86..0x88].copy_from_slice(&u16::MAX.to_le_bytes());
    most.resize(4 << 20, 0);
    assert!(refused(&most, Arch::X86_64).contains("more than 512 sections"));
}

#[test]
fn a_window_that_is_too_large_is_no_broken_file() {
    // A frame of 256 MiB of window and one block: RFC 8878.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3, 9, 0, 0, b'x'];
    let error = opened(&frame, Arch::X86_64).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel is a zstd file with a window of 268435456 bytes, over the limit of 128 MiB"
    );
    assert!(error.hint().contains("--long=27") && error.exit() == Exit::ImageUnusable);
}

#[test]
fn sections_that_lie() {
    let entry = |index: usize| 0x80 + 24 + 240 + index * 40;
    let whole = pe(X86, &[(".linux", &bzimage()), (".initrd", b"ramdisk"), (".cmdline", b"quiet")]);
    let with = |index: usize, at: usize, value: u32| {
        let mut bytes = whole.clone();
        bytes[entry(index) + at..][..4].copy_from_slice(&value.to_le_bytes());
        opened(&bytes, Arch::X86_64).map_err(|error| error.to_string())
    };
    for index in 0..3 {
        let said = with(index, 20, 0x7fff_ffff).unwrap_err();
        assert!(
            said.starts_with("kernel is a truncated unified kernel image: its header promises 214"),
            "{said}"
        );
    }
    // Two sections of the same bytes, which together are more than the file.
    let mut bytes = whole.clone();
    bytes.copy_within(entry(0) + 8..entry(0) + 24, entry(1) + 8);
    assert!(refused(&bytes, Arch::X86_64).contains("its sections overlap"));
    assert!(
        refused(&pe(X86, &[(".linux", b"")]), Arch::X86_64)
            .contains("kernel is empty, 0 bytes, inside unified")
    );
    let said = refused(&pe(X86, &[(".linux", &bzimage()), (".cmdline", b"\xff\xfe")]), Arch::X86_64);
    assert!(said.contains(".cmdline is no text"), "{said}");
    let none = pe(X86, &[(".profile", b""), (".profile", b""), (".linux", &bzimage())]);
    assert!(refused(&none, Arch::X86_64).contains("no .linux section"));
    assert!(
        refused(&pe(X86, &[(".text", b"")]), Arch::X86_64)
            .contains("an EFI program for x86_64 with no kernel")
    );
    assert!(refused(&pe(ARM, &[]), Arch::X86_64).contains("an EFI program for arm64"));
}

#[test]
fn what_follows_a_kernel_does_no_harm() {
    let image = arm64();
    let unpacked = |bytes: Vec<u8>| opened(&bytes, Arch::Aarch64).map(|kernel| kernel.size());
    for end in [&b"\0\0\0\0"[..], b"garbage", &[0x1f]] {
        assert_eq!(unpacked([&gzip(&image), end].concat()).unwrap(), image.len() as u64);
        assert_eq!(unpacked([&zstd(&image), end].concat()).unwrap(), image.len() as u64);
    }
    let (first, second) = image.split_at(100_000);
    assert_eq!(unpacked([gzip(first), gzip(second)].concat()).unwrap(), image.len() as u64);
    let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let frames = [&skipped, &zstd(first), &skipped[..], &zstd(second), &skipped].concat();
    assert_eq!(unpacked(frames).unwrap(), image.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn nothing_broken_panics_or_passes_for_whole(
        which in 0usize..6,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let image = arm64();
        let image = &image[..16 * 1024];
        let mut bytes = match which {
            0 => gzip(image),
            1 => zstd(image),
            2 => zboot("gzip", &gzip(image)),
            3 => zboot("zstd", &zstd(image)),
            4 => uki(ARM, image),
            _ => uki(ARM, &zboot("zstd", &zstd(image))),
        };
        for (at, bit) in &flips {
            // Headers are the interesting part.
            let most = if *bit < 4 { bytes.len() } else { bytes.len().min(1024) };
            bytes[at.index(most)] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // A zstd frame says itself whether it has one: RFC 8878, section 3.1.1.1.1.
        let has_checksum = which == 0 || which == 1 && bytes.get(4).is_some_and(|flags| flags & 1 << 2 != 0);
        match KernelImage::within(artifact("kernel", &bytes), Arch::Aarch64, &at_most(1 << 20)) {
            // What is compressed has a checksum, which the file's own SHA-256 does not need to be.
            Ok(kernel) if has_checksum && !kernel.wrappings().is_empty() => {
                prop_assert_eq!(&*kernel.map().unwrap(), image);
            }
            Ok(_) => {}
            Err(error) => {
                let _ = (error.to_string(), error.hint(), error.exit());
            }
        }
    }
}
