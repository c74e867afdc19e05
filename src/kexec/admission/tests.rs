//! Machines with more and with less memory.

use super::*;
use crate::arch::Arch;
use crate::error::Exit;
use crate::fetch::operator;
use crate::image::testing::arm64_of;
use Call::{FileLoad, Load};
use proptest::prelude::*;

const MB: u64 = 1 << 20;
const BOTH: [Call; 2] = [FileLoad, Load];

/// A machine with this much available, and plenty in all.
fn available(available: u64) -> Meminfo {
    Meminfo { total: u64::MAX, available }
}

/// Debian's amd64 kernel and a ramdisk, both fetched.
fn debian() -> Needs {
    Needs::loading(14 * MB, 54 * MB, 27 * MB)
}

#[test]
fn kexec_file_load_holds_everything_three_times() {
    let (needs, segments) = (debian(), (54 + 27) * MB);
    // Less our own files, which are here; with 1/128 of all of it and 2 MiB.
    let file = segments + (14 + 27) * MB;
    let all = file + needs.here;
    assert_eq!(needs.wanted(FileLoad, segments), file + all / 128 + 2 * MB);
    let all = segments + needs.here;
    assert_eq!(needs.wanted(Load, segments), segments + all / 128 + 2 * MB);
    // Before the download nothing is here.
    let needs = Needs::published(14 * MB, 27 * MB);
    assert_eq!(needs.wanted(FileLoad, needs.segments(FileLoad)), 123 * MB + 123 * MB / 128 + 16 * MB);
    assert_eq!(needs.wanted(Load, needs.segments(Load)), 82 * MB + 82 * MB / 128 + 16 * MB);
}

#[test]
fn unwrapping_and_joining_can_be_what_takes_most() {
    let plain =
        Needs { kernel: 10 * MB, placed: 10 * MB, copied: 10 * MB, ramdisk: 10 * MB, ..Needs::default() };
    let loading = plain.wanted(Load, plain.segments(Load));
    for more in [Needs { wrapper: 30 * MB, ..plain }, Needs { part: 30 * MB, ..plain }] {
        assert!(more.wanted(Load, more.segments(Load)) > loading);
    }
    for no_more in [Needs { wrapper: 20 * MB, ..plain }, Needs { part: 10 * MB, ..plain }] {
        assert_eq!(no_more.wanted(Load, no_more.segments(Load)), loading);
    }
}

#[test]
fn the_call_that_fits_is_taken() {
    for (memory, expected) in [(200, &BOTH[..]), (100, &[Load])] {
        assert_eq!(admit(&BOTH, &debian(), available(memory * MB)).unwrap(), expected, "{memory} MB");
    }
    let error = admit(&BOTH, &debian(), available(80 * MB)).unwrap_err();
    // What kexec_load lacks, in whichever order.
    let Error::Memory { needed, .. } = error else { panic!("{error}") };
    assert_eq!(needed, debian().wanted(Load, debian().segments(Load)));
    assert_eq!(
        error.to_string(),
        admit(&[Load, FileLoad], &debian(), available(80 * MB)).unwrap_err().to_string()
    );
    assert_eq!(
        error.to_string(),
        "kernel and initramfs need about 88.0 MB of memory while they are loaded, 83.8 MB are available, 4.1 MB are missing"
    );
    assert_eq!(error.exit(), Exit::NotEnoughMemory);
}

#[test]
fn of_several_reasons_the_one_that_can_be_mended_is_told() {
    let memory = |needed| Error::Memory { needed, available: 1 };
    let told = |first, second| nearer(first, second).to_string();
    for (first, second) in [(2, 3), (3, 2)] {
        assert_eq!(told(memory(first), memory(second)), memory(2).to_string());
    }
    for other in [|| Error::TreeNotTaken, || Error::IomemHidden] {
        assert_eq!(told(memory(2), other()), memory(2).to_string());
        assert_eq!(told(other(), memory(2)), memory(2).to_string());
    }
    assert_eq!(told(Error::NoWay, Error::TreeNotTaken), Error::TreeNotTaken.to_string());
    assert_eq!(told(Error::TreeNotTaken, Error::NoRam), Error::NoRam.to_string());
    assert_eq!(told(Error::NoRam, Error::TreeNotTaken), Error::NoRam.to_string());
}

#[test]
fn half_of_all_memory_is_the_most() {
    let segments = debian().segments(Load);
    let machine = |total| Meminfo { total, available: u64::MAX };
    assert_eq!(admit(&BOTH, &debian(), machine(2 * segments)).unwrap(), BOTH);
    for total in [2 * segments - 1, 0] {
        let error = admit(&BOTH, &debian(), machine(total)).unwrap_err();
        assert!(matches!(error, Error::OverHalf { .. }), "{error}");
        assert_eq!(error.exit(), Exit::NotEnoughMemory);
        assert!(error.to_string().contains("at most half of the memory"), "{error}");
    }
}

#[test]
fn a_machine_that_does_not_tell_is_not_held_up() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    assert!(before_download(&BOTH, u64::MAX, u64::MAX, &paths).is_ok());
    std::fs::create_dir(root.path().join("proc")).unwrap();
    std::fs::write(paths.meminfo(), "MemTotal: 262144 kB\nMemAvailable: 102400 kB\n").unwrap();
    assert!(before_download(&BOTH, 30 * MB, 10 * MB, &paths).is_ok());
    assert!(before_download(&BOTH, 30 * MB, 20 * MB, &paths).is_err());
    assert!(before_download(&[FileLoad], 30 * MB, 10 * MB, &paths).is_err());
    assert!(before_download(&BOTH, u64::MAX, u64::MAX, &paths).is_err());
}

fn machine(available: u64) -> (tempfile::TempDir, Paths) {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    std::fs::create_dir(root.path().join("proc")).unwrap();
    let text = format!("MemTotal: {} kB\nMemAvailable: {} kB\n", 1u64 << 40, available / 1024);
    std::fs::write(paths.meminfo(), text).unwrap();
    (root, paths)
}

#[test]
fn what_is_unpacked_must_be_loadable_too() {
    let (_root, paths) = machine(200 * MB);
    for calls in [&BOTH[..], &[FileLoad], &[Load]] {
        let most = unpacked(calls, 20 * MB, Demand::default(), &paths).unwrap();
        let fits = |kernel| {
            let here = Needs { wrapper: 10 * MB, here: 30 * MB, ..Needs::loading(kernel, kernel, 20 * MB) };
            admit(calls, &here, available(200 * MB)).is_ok()
        };
        assert!(fits(most) && !fits(most + 1), "{calls:?}");
    }
    // Two kernels and a ramdisk, less the wrapper that is given back: 200 - 2 - 1.8 = 2 * 93.1 + 20 - 10.
    let most = unpacked(&BOTH, 20 * MB, Demand::default(), &paths).unwrap();
    assert!((93 * MB..94 * MB).contains(&most), "{most}");
    assert!(matches!(
        unpacked(&BOTH, 400 * MB, Demand::default(), &paths),
        Err(Error::Memory { needed, available }) if needed > available
    ));
    for paths in [&machine(64 << 30).1, &Paths::under("/nonexistent")] {
        assert_eq!(unpacked(&BOTH, 1, Demand::default(), paths).unwrap(), MOST_UNPACKED);
    }
}

#[test]
fn what_the_decoder_keeps_counts_while_it_unpacks() {
    // The published file is larger than the ramdisk, so that unwrapping takes more than kexec_load does.
    let (_root, paths) = machine(200 * MB);
    let most = |buffer| unpacked(&[Load], MB, Demand { buffer, size: 0 }, &paths).unwrap();
    let (none, some, all) = (most(0), most(128 * MB), most(u64::MAX));
    // 10 are here, and given back: 2 * 102.6 = 200 + 10 - 2 - 1.6 - 1.
    assert!((102 * MB..103 * MB).contains(&none), "{none}");
    // 2 * 98.1 = 200 - 2 - 1.6: never more is kept than there is.
    assert!((98 * MB..99 * MB).contains(&some) && some == all, "{some} {all}");
    // 20 and the rest.
    let (none, some) = (most(0), most(20 * MB));
    assert_eq!(none, some);
    // kexec_file_load takes more later, whatever the decoder keeps.
    let file = |buffer| unpacked(&[FileLoad], MB, Demand { buffer, size: 0 }, &paths).unwrap();
    assert_eq!(file(0), file(u64::MAX));
}

#[test]
fn what_is_known_to_come_out_is_asked_for_before() {
    let (_root, paths) = machine(200 * MB);
    let ask = |size| unpacked(&BOTH, MB, Demand { buffer: 128 * MB, size }, &paths);
    let most = ask(0).unwrap();
    assert_eq!(ask(most).unwrap(), most);
    let error = ask(120 * MB).unwrap_err();
    let Error::Memory { needed, available } = error else { panic!("{error}") };
    // Published file and ramdisk are here; what comes out, and the same in the decoder.
    assert_eq!((needed, available), (240 * MB + 251 * MB / 128 + 2 * MB, 200 * MB));
    assert!(error.to_string().ends_with("46.0 MB are missing"), "{error}");
    assert!(ask(u64::MAX).is_err());
}

/// From a published file of 10 MiB.
fn unpacked(calls: &[Call], ramdisk: u64, demand: Demand, paths: &Paths) -> Result<u64, Error> {
    most_unpacked(calls, 10 * MB, ramdisk, demand, Meminfo::read(paths))
}

#[test]
fn archives_are_joined_only_where_there_is_room_for_the_largest_twice() {
    let mut head = include_bytes!("../../image/testdata/debian-6.1-arm64.head").to_vec();
    head.resize(1 << 20, 0);
    let kernel = operator::vouched("kernel", &mut arm64_of(head).as_slice(), u64::MAX).unwrap();
    let kernel = KernelImage::from_artifact(kernel, Arch::Aarch64).unwrap();
    // The kernel takes 26.7 MiB once it is placed. Loading: that, 2 MiB, and both ramdisks once more.
    let ask = |parts: &[u64], available| {
        before_joining(&[Load], &kernel, parts.iter().copied(), &machine(available).1)
    };
    assert!(ask(&[MB, MB], 34 * MB).is_ok());
    assert!(ask(&[MB, 100 * MB], 34 * MB).is_err());
    assert!(ask(&[100 * MB], 134 * MB).is_ok());
    assert!(ask(&[100 * MB, MB], 135 * MB).is_ok());
    assert!(ask(&[100 * MB, MB], 125 * MB).is_err());
    assert!(ask(&[], 34 * MB).is_ok());
    assert!(
        before_joining(&[Load], &kernel, [u64::MAX; 2].into_iter(), &Paths::under("/nonexistent")).is_ok()
    );
}

/// Debian's kernel, whose file is a quarter of what it occupies, on a machine with 160 MB.
#[test]
fn on_x86_the_bss_is_not_part_of_what_kexec_load_copies() {
    let mut head = include_bytes!("../../image/testdata/debian-6.1-amd64.head").to_vec();
    head.resize(14_186_432, 0);
    let kernel = operator::vouched("kernel", &mut head.as_slice(), u64::MAX).unwrap();
    let kernel = KernelImage::from_artifact(kernel, Arch::X86_64).unwrap();
    let (root, paths) = machine(0);
    let memory = |total: u64, available: u64| {
        let text = format!("MemTotal: {} kB\nMemAvailable: {} kB\n", total * 1024, available * 1024);
        std::fs::write(root.path().join("proc/meminfo"), text).unwrap();
    };
    let ask = |calls: &[Call]| before_joining(calls, &kernel, [20 * MB].into_iter(), &paths);
    memory(120, 60);
    assert!(ask(&BOTH).is_ok() && ask(&[Load]).is_ok());
    assert!(matches!(ask(&[FileLoad]), Err(Error::OverHalf { .. })));
    memory(120, 35);
    assert!(matches!(ask(&BOTH), Err(Error::Memory { .. } | Error::OverHalf { .. })));
    memory(60, 60);
    assert!(matches!(ask(&[Load]), Err(Error::OverHalf { .. })));
}

fn needs() -> impl Strategy<Value = Needs> {
    let size = || prop_oneof![0..4096 * MB, any::<u64>()];
    (size(), size(), size(), size(), size(), size(), size(), size(), size()).prop_map(
        |(kernel, placed, copied, ramdisk, wrapper, buffer, part, beside, here)| Needs {
            kernel,
            placed,
            copied,
            ramdisk,
            wrapper,
            buffer,
            part,
            beside,
            here,
        },
    )
}

fn admitted(needs: &Needs, total: u64, available: u64) -> Vec<Call> {
    admit(&BOTH, needs, Meminfo { total, available }).unwrap_or_default()
}

proptest! {
    #[test]
    fn nothing_is_admitted_that_does_not_fit(needs in needs(), total: u64, available in 0..16_384 * MB) {
        for call in admitted(&needs, total, available) {
            let placed = if call == FileLoad { needs.placed } else { needs.copied };
            let segments = placed.max(needs.kernel).saturating_add(needs.ramdisk);
            let files = needs.kernel.saturating_add(needs.ramdisk);
            let copies = if call == FileLoad { files } else { 0 };
            let peak = files.saturating_add(copies).saturating_add(segments);
            prop_assert!(peak.saturating_sub(needs.here) <= available);
            prop_assert!(segments <= total / 2);
        }
    }

    #[test]
    fn more_memory_or_smaller_files_never_admit_less(
        needs in needs(),
        total: u64,
        available in 0..16_384 * MB,
        more: u64,
        which in 0usize..8,
    ) {
        let before = admitted(&needs, total, available);
        let after = admitted(&needs, total.saturating_add(more), available.saturating_add(more));
        prop_assert!(before.iter().all(|call| after.contains(call)));
        let mut smaller = needs;
        let field = [
            &mut smaller.kernel,
            &mut smaller.placed,
            &mut smaller.copied,
            &mut smaller.ramdisk,
            &mut smaller.wrapper,
            &mut smaller.buffer,
            &mut smaller.part,
            &mut smaller.beside,
        ].into_iter().nth(which).unwrap();
        *field = field.saturating_sub(more);
        let after = admitted(&smaller, total, available);
        prop_assert!(before.iter().all(|call| after.contains(call)));
    }

    #[test]
    fn the_order_is_kept(needs in needs(), available in 0..16_384 * MB) {
        let memory = Meminfo { total: u64::MAX, available };
        for calls in [BOTH, [Load, FileLoad]] {
            if let Ok(admitted) = admit(&calls, &needs, memory) {
                let expected: Vec<Call> =
                    calls.into_iter().filter(|&call| admit(&[call], &needs, memory).is_ok()).collect();
                prop_assert_eq!(admitted, expected);
            }
        }
    }
}
