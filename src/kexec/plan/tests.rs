//! A whole machine in a folder: /proc/iomem, /sys/firmware/fdt and a kernel's header.

use std::fs;

use super::*;
use crate::fetch::operator::vouched;
use crate::image::testing::arm64_of;
use crate::kexec::{Availability, Method};

const TREE: &[u8] = include_bytes!("../../devicetree/testdata/qemu-virt-gicv3.dtb");

fn machine() -> (tempfile::TempDir, Paths) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc")).unwrap();
    fs::create_dir_all(root.path().join("sys/firmware")).unwrap();
    fs::create_dir_all(root.path().join("dev")).unwrap();
    let paths = Paths::under(root.path());
    fs::write(paths.kmsg(), "6,0,0,-;Booting Linux on physical CPU 0x0\n").unwrap();
    fs::write(paths.iomem(), include_str!("../testdata/iomem-qemu-virt-gicv3.txt")).unwrap();
    fs::write(paths.devicetree(), TREE).unwrap();
    (root, paths)
}

fn target(cmdline: &str) -> Target {
    let mut kernel = include_bytes!("../../image/testdata/debian-6.1-arm64.head").to_vec();
    kernel.resize(1 << 20, 0);
    let kernel = arm64_of(kernel);
    let kernel = vouched("kernel", &mut kernel.as_slice(), u64::MAX).unwrap();
    let initrd = vouched("initramfs", &mut [1; 5000].as_slice(), u64::MAX).unwrap();
    Target {
        kernel: KernelImage::from_artifact(kernel, Arch::Aarch64).unwrap(),
        ramdisk: Some(initrd.into()),
        cmdline: cmdline.to_owned(),
        devicetree: None,
    }
}

fn found(calls: &[Call]) -> Preflight {
    let (file_load, load) = (Availability::Available, Availability::Available);
    Preflight::for_tests(Arch::Aarch64, file_load, load, calls)
}

fn tree_of(plan: &Plan) -> &[u8] {
    for attempt in plan.attempts() {
        if let Attempt::Load(plan) = attempt
            && let Some(Content::DeviceTree(tree)) = plan
                .segments
                .iter()
                .map(|segment| &segment.content)
                .find(|c| matches!(c, Content::DeviceTree(_)))
        {
            return tree;
        }
    }
    panic!("no device tree");
}

fn holds(tree: &[u8], text: &str) -> bool {
    tree.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_plan_shows_every_call_and_segment() {
    let (_root, paths) = machine();
    let plan =
        Plan::new(target("console=ttyAMA0"), &found(&[Call::FileLoad, Call::Load]), &paths, Kaslr::Seed)
            .unwrap();
    let text = plan.to_string();
    assert!(text.starts_with("kexec_file_load: the running kernel places\n  kernel "), "{text}");
    assert!(text.contains("  kernel       0x40000000 0x41ab0000   27.9 MB    1.0 MB\n"), "{text}");
    let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("  segment")).take(5).collect();
    assert!(table.iter().all(|line| line.len() == table[0].len()), "{text}");
    assert!(text.ends_with("command line: console=ttyAMA0"), "{text}");
    assert!(holds(tree_of(&plan), "rng-seed"));
    assert!(!format!("{plan:?}").contains("DeviceTree(["));
}

#[test]
fn without_kaslr_no_seed_is_handed_on() {
    let (_root, paths) = machine();
    for (line, kaslr) in [("quiet nokaslr", Kaslr::Seed), ("quiet", Kaslr::Zero)] {
        let plan = Plan::new(target(line), &found(&[Call::FileLoad, Call::Load]), &paths, kaslr).unwrap();
        assert!(!holds(tree_of(&plan), "-seed"));
        let Some(Attempt::FileLoad { cmdline }) = plan.attempts().first() else { panic!() };
        assert_eq!(cmdline.as_c_str(), c"quiet nokaslr");
    }
}

#[test]
fn a_missing_tree_matters_only_where_it_is_needed() {
    let (_root, paths) = machine();
    fs::remove_file(paths.devicetree()).unwrap();
    let both = Plan::new(target("a"), &found(&[Call::FileLoad, Call::Load]), &paths, Kaslr::Seed).unwrap();
    assert_eq!(both.attempts().len(), 1);
    let error = Plan::new(target("a"), &found(&[Call::Load]), &paths, Kaslr::Seed).unwrap_err();
    assert!(error.to_string().contains("sys/firmware/fdt"), "{error}");
}

#[test]
fn a_tree_from_a_file_goes_by_kexec_load_and_is_completed() {
    let (_root, paths) = machine();
    let given = {
        let mut writer = vm_fdt::FdtWriter::new().unwrap();
        let root = writer.begin_node("").unwrap();
        writer.property_u32("#address-cells", 2).unwrap();
        writer.property_u32("#size-cells", 2).unwrap();
        writer.property_string("model", "from a file").unwrap();
        writer.end_node(root).unwrap();
        writer.finish().unwrap()
    };
    let with = |devicetree: &[u8]| Target { devicetree: Some(devicetree.to_vec()), ..target("a=1") };
    let plan = Plan::new(with(&given), &found(&[Call::FileLoad, Call::Load]), &paths, Kaslr::Seed).unwrap();
    assert!(matches!(plan.attempts(), [Attempt::Load(_)]));
    let tree = devicetree::source(tree_of(&plan)).unwrap();
    for text in ["model = \"from a file\"", "memory@40000000 {", "bootargs = \"a=1\"", "linux,initrd-end"] {
        assert!(tree.contains(text), "{text}: {tree}");
    }
    let refused =
        |tree: &[u8], calls: &[Call]| Plan::new(with(tree), &found(calls), &paths, Kaslr::Seed).unwrap_err();
    assert!(matches!(refused(&given, &[Call::FileLoad]), Error::TreeNotTaken));
    assert!(matches!(refused(b"<html>", &[Call::Load]), Error::DeviceTree(devicetree::Error::Magic { .. })));
}

#[test]
fn kexec_file_load_is_kept_off_live_tables() {
    let (_root, paths) = machine();
    let log = |address: u64| {
        fs::write(paths.kmsg(), format!("6,1,0,-;GICv3: using LPI property table @{address:#018x}\n"))
            .unwrap();
    };
    let both = [Call::FileLoad, Call::Load];
    let plan = |calls: &[Call]| Plan::new(target("a"), &found(calls), &paths, Kaslr::Seed);

    // Behind the running kernel, where kexec_file_load puts the next one.
    log(0x421a_0000);
    let planned = plan(&both).unwrap();
    assert!(matches!(planned.attempts(), [Attempt::Load(_)]));
    let reserved = [0x421a_0000u64.to_be_bytes(), 0x1_0000u64.to_be_bytes()].concat();
    assert!(tree_of(&planned).windows(16).any(|window| window == reserved));
    assert!(matches!(plan(&[Call::FileLoad]), Err(Error::LiveTable { address: 0x421a_0000 })));

    // Far away: possible, but second best.
    log(0x7000_0000);
    assert!(matches!(plan(&both).unwrap().attempts(), [Attempt::Load(_), Attempt::FileLoad { .. }]));

    // Reserved.
    log(0x4820_0000);
    assert!(matches!(plan(&both).unwrap().attempts(), [Attempt::FileLoad { .. }, Attempt::Load(_)]));
}

#[test]
fn where_tables_are_live_and_the_log_has_lost_them_nothing_is_loaded() {
    let (root, paths) = machine();
    let plan = |calls: &[Call]| Plan::new(target("a"), &found(calls), &paths, Kaslr::Seed);
    let every = [&[Call::FileLoad, Call::Load][..], &[Call::FileLoad], &[Call::Load]];
    assert!(every.iter().all(|calls| plan(calls).is_ok()));
    fs::write(paths.kmsg(), "6,4711,0,-;noise\n").unwrap();
    for calls in every {
        let error = plan(calls).unwrap_err();
        assert!(matches!(error, Error::TablesUnknown), "{error}");
        assert_eq!(error.exit(), Error::LiveTable { address: 0 }.exit());
        assert!(error.hint().contains("log_buf_len="));
    }
    // UEFI has been told of them.
    fs::create_dir(root.path().join("sys/firmware/efi")).unwrap();
    assert!(every.iter().all(|calls| plan(calls).is_ok()));
}

/// A PC, and a kernel with this at `patch.0`.
fn pc(patch: (usize, &[u8]), cmdline: &str) -> (tempfile::TempDir, Paths, Target) {
    let root = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("proc/iomem", include_str!("../testdata/iomem-qemu-pc.txt"));
    for (number, start, end) in [(0, "0x0", "0x9fbff"), (1, "0x100000", "0x1ffdffff")] {
        put(&format!("sys/firmware/memmap/{number}/start"), start);
        put(&format!("sys/firmware/memmap/{number}/end"), end);
        put(&format!("sys/firmware/memmap/{number}/type"), "System RAM");
    }
    put("proc/cpuinfo", "flags\t\t: fpu la57\n");
    let mut kernel = crate::image::testing::bzimage();
    kernel[patch.0..patch.0 + patch.1.len()].copy_from_slice(patch.1);
    let kernel = vouched("kernel", &mut kernel.as_slice(), u64::MAX).unwrap();
    let kernel = KernelImage::from_artifact(kernel, Arch::X86_64).unwrap();
    let paths = Paths::under(root.path());
    (root, paths, Target { kernel, ramdisk: None, cmdline: cmdline.to_owned(), devicetree: None })
}

#[test]
fn on_x86_each_call_has_its_own_limit_for_the_command_line() {
    let plan = |call, length| {
        let (_root, paths, target) = pc((0, b""), &"x".repeat(length));
        Plan::new(target, &found(&[call]), &paths, Kaslr::Seed).map(drop)
    };
    for (call, longest) in [(Call::Load, 2047), (Call::FileLoad, 2016)] {
        assert!(plan(call, longest).is_ok());
        match plan(call, longest + 1) {
            Err(Error::CmdlineTooLong { length, limit }) => {
                assert_eq!((length, limit), (longest + 1, longest))
            }
            other => panic!("{other:?}"),
        }
    }
    let (_root, paths, target) = pc((0, b""), &"x".repeat(2017));
    let plan = Plan::new(target, &found(&[Call::FileLoad, Call::Load]), &paths, Kaslr::Seed).unwrap();
    assert!(matches!(plan.attempts(), [Attempt::Load(_)]));
}

#[test]
fn what_kexec_file_load_is_sure_to_refuse_is_known() {
    fn file(patch: (usize, &[u8])) -> Result<(), Error> {
        let (_root, paths, target) = pc(patch, "a");
        Plan::new(target, &found(&[Call::FileLoad]), &paths, Kaslr::Seed).map(drop)
    }
    assert!(file((0, b"")).is_ok());
    // XLF_5LEVEL, XLF_CAN_BE_LOADED_ABOVE_4G, kernel_alignment, init_size.
    let error = file((0x236, &[0x1f, 0])).unwrap_err();
    assert!(matches!(error, Error::X86(crate::kexec::X86Error::FiveLevel)), "{error}");
    let error = file((0x236, &[0x7d, 0])).unwrap_err();
    assert!(matches!(error, Error::X86(crate::kexec::X86Error::Low)), "{error}");
    for patch in [(0x230, 0x8000_0000u32), (0x230, 0x2000_0000), (0x260, 0xf000_0000)] {
        let value = patch.1.to_le_bytes();
        let error = file((patch.0, &value)).unwrap_err();
        assert!(matches!(error, Error::NoPlace { what: "the kernel", .. }), "{patch:x?}: {error}");
    }
    assert!(file((0x230, &0x1000_0000u32.to_le_bytes())).is_ok());
    let (root, paths, target) = pc((0x236, &[0x1f, 0]), "a");
    fs::write(root.path().join("proc/cpuinfo"), "flags\t\t: fpu\n").unwrap();
    fs::remove_file(paths.iomem()).unwrap();
    assert!(Plan::new(target, &found(&[Call::FileLoad]), &paths, Kaslr::Seed).is_ok());
}

#[test]
fn a_command_line_over_the_kernels_limit_is_refused() {
    let (_root, paths) = machine();
    for calls in [[Call::FileLoad], [Call::Load]] {
        let error = Plan::new(target(&"x".repeat(2048)), &found(&calls), &paths, Kaslr::Seed).unwrap_err();
        assert!(matches!(error, Error::CmdlineTooLong { length: 2048, limit: 2047 }));
    }
}

fn give_memory(paths: &Paths, total: u64, available: u64) {
    fs::write(paths.meminfo(), format!("MemTotal: {total} kB\nMemAvailable: {available} kB\n")).unwrap();
}

#[test]
fn the_call_that_memory_is_left_for_is_planned() {
    let (_root, paths) = machine();
    let both = found(&[Call::FileLoad, Call::Load]);
    let plan = |paths: &Paths| Plan::new(target("a"), &both, paths, Kaslr::Seed);
    // The kernel takes 27.9 MB once it is placed; its file here is 1 MiB.
    give_memory(&paths, 200_000, 40_000);
    assert_eq!(plan(&paths).unwrap().attempts().len(), 2);
    give_memory(&paths, 200_000, 30_100);
    let planned = plan(&paths).unwrap();
    assert!(matches!(planned.attempts(), [Attempt::Load(_)]), "{planned}");
    let [untried] = planned.untried() else { panic!("{planned}") };
    assert!(untried.to_string().starts_with("kexec_file_load is left out: kernel and initramfs need about"));
    assert!(planned.to_string().contains(" are missing\ncommand line: "), "{planned}");
    give_memory(&paths, 200_000, 28_500);
    let error = plan(&paths).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    // Enough is free, but the kernel takes more than half of it all.
    give_memory(&paths, 50_000, 40_000);
    let error = plan(&paths).unwrap_err();
    assert!(matches!(error, Error::OverHalf { .. }), "{error}");
}

#[test]
fn what_is_sure_to_be_refused_for_its_size_is_known_to_the_page() {
    let (_root, paths) = machine();
    let plan = || Plan::new(target("a"), &found(&[Call::Load]), &paths, Kaslr::Seed);
    let planned = plan().unwrap();
    let [Attempt::Load(load)] = planned.attempts() else { panic!("{planned}") };
    let kilobytes = load.segments.iter().map(|segment| segment.size).sum::<u64>() / 1024;
    give_memory(&paths, 2 * kilobytes, 1 << 30);
    assert!(plan().is_ok());
    give_memory(&paths, 2 * kilobytes - 4, 1 << 30);
    assert!(matches!(plan().unwrap_err(), Error::OverHalf { .. }));
}

#[test]
fn an_empty_ramdisk_is_none() {
    let (_root, paths) = machine();
    let empty = vouched("initramfs", &mut [].as_slice(), u64::MAX).unwrap();
    let target = Target { ramdisk: Some(empty.into()), ..target("a") };
    let plan = Plan::new(target, &found(&[Call::FileLoad, Call::Load]), &paths, Kaslr::Seed).unwrap();
    assert!(!plan.to_string().contains("ramdisk") && !plan.to_string().contains("initramfs"), "{plan}");
}

/// It would take the first kernel's, which its EFI stub left in a table of the firmware's.
#[test]
fn under_uefi_who_has_no_ramdisk_gets_a_page_of_zeros() {
    let (root, paths) = machine();
    let plan = || {
        let target = Target { ramdisk: None, ..target("a") };
        Plan::new(target, &found(&[Call::FileLoad, Call::Load]), &paths, Kaslr::Seed).unwrap()
    };
    assert!(plan().target.ramdisk.is_none());
    fs::create_dir(root.path().join("sys/firmware/efi")).unwrap();
    let planned = plan();
    let page = sys::kexec::page_size();
    assert!(planned.target.ramdisk.as_ref().unwrap().map().unwrap().iter().all(|&byte| byte == 0));
    assert_eq!(planned.target.ramdisk.as_ref().unwrap().size(), page);
    let [Attempt::FileLoad { .. }, Attempt::Load(load)] = planned.attempts() else { panic!("{planned}") };
    let initrd = load.segments.iter().find(|segment| segment.content == Content::Initrd).unwrap();
    assert_eq!((initrd.file, initrd.size), (page, page));
}

#[test]
fn a_device_tree_is_only_for_kexec_load_on_arm64() {
    let (_root, paths) = machine();
    let with_tree = || Target { devicetree: Some(TREE.to_vec()), ..target("a") };
    let both = [Call::FileLoad, Call::Load];
    let plan = Plan::new(with_tree(), &found(&both), &paths, Kaslr::Seed).unwrap();
    assert!(matches!(plan.attempts(), [Attempt::Load(_)]));
    assert!(plan.to_string().contains("kexec_file_load is left out: a device tree"), "{plan}");
    let error = Plan::new(with_tree(), &found(&[Call::FileLoad]), &paths, Kaslr::Seed).unwrap_err();
    assert!(matches!(error, Error::TreeNotTaken), "{error}");

    let mut kernel = include_bytes!("../../image/testdata/debian-6.1-amd64.head").to_vec();
    kernel.resize(14_186_432, 0);
    let kernel = vouched("kernel", &mut kernel.as_slice(), u64::MAX).unwrap();
    let kernel = KernelImage::from_artifact(kernel, Arch::X86_64).unwrap();
    let target = Target { kernel, ..with_tree() };
    let error = Plan::new(target, &found(&both), &paths, Kaslr::Seed).unwrap_err();
    assert!(matches!(error, Error::TreeNotTaken), "{error}");
}

#[test]
fn methods_have_names() {
    assert_eq!("load".parse::<Method>().unwrap(), Method::Load);
    assert!("x\n".parse::<Method>().is_err());
}
