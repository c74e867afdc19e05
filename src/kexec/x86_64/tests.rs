//! Whole plans, as a kernel sees them.

use super::e820::Entry;
use super::machine::{SEED, Seed};
use super::*;
use crate::arch::Arch;
use crate::image::Header;
use crate::kexec::Ranges;
use proptest::prelude::*;

const HEAD: &[u8] = include_bytes!("../../image/testdata/debian-6.1-amd64.head");
const SIZE: usize = 14_186_432;

fn image() -> Vec<u8> {
    let mut image = HEAD.to_vec();
    image.resize(SIZE, 0);
    image
}

fn kernel(image: &[u8]) -> BzImage {
    match Header::parse("kernel", image, Arch::X86_64).unwrap() {
        Header::BzImage(kernel) => kernel,
        other => panic!("{other:?}"),
    }
}

fn machine(end: u64) -> Machine {
    let mut memory = Ranges::default();
    memory.add(0x10_0000..end);
    Machine {
        memory,
        e820: vec![Entry { start: 0, size: end, kind: 1 }],
        boot_params: vec![0; 4096],
        rsdp: 0,
        efi: Handover::None,
        five_level: false,
        confidential: None,
        log_is_whole: true,
        seed: Some(Seed([0x5a; SEED])),
    }
}

fn parts<'a>(kernel: &'a BzImage, image: &'a [u8]) -> Parts<'a> {
    Parts { kernel, image, initrd_file: Some(1_000_001), cmdline: "console=ttyS0", seed: true, page: 4096 }
}

fn params(plan: &LoadPlan) -> (&[u8], u64) {
    plan.segments
        .iter()
        .find_map(|segment| match &segment.content {
            Content::BootParams(bytes) => Some((bytes.as_slice(), segment.address)),
            _ => None,
        })
        .unwrap()
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn a_whole_plan() {
    let image = image();
    let kernel = kernel(&image);
    let plan = plan(&machine(8 << 30), parts(&kernel, &image)).unwrap();
    let [code, initrd, params, trampoline] = plan.segments.as_slice() else { panic!("{plan:?}") };
    assert_eq!(code.content, Content::Kernel { from: kernel.setup_size });
    assert_eq!((code.address, code.file), (16 << 20, SIZE as u64 - kernel.setup_size));
    // Memory for what there is to copy, not for what the kernel clears.
    assert!(code.size < code.file + 4096 && code.size.is_multiple_of(4096));
    assert!(params.address >= code.address + kernel.init_size && initrd.address > 4 << 30);
    assert_eq!((initrd.file, initrd.size), (1_000_001, 245 * 4096));
    assert_eq!(plan.entry, trampoline.address);
    let (Content::BootParams(bytes), Content::Trampoline(instructions)) =
        (&params.content, &trampoline.content)
    else {
        panic!("{plan:?}")
    };
    assert_eq!(bytes.len() as u64, params.file);
    assert_eq!(instructions[0x50..0x58], ((16u64 << 20) + 0x200).to_le_bytes());
    assert_eq!(instructions[0x58..0x60], params.address.to_le_bytes());
    assert_eq!(bytes[0x218..0x21c], initrd.address.to_le_bytes()[..4]);
    assert_eq!(bytes[0xc0..0xc4], initrd.address.to_le_bytes()[4..]);
    assert_eq!(bytes[0x21c..0x220], 1_000_001u32.to_le_bytes());
    assert!(holds(bytes, b"console=ttyS0\0") && holds(bytes, &[0x5a; SEED]));
    assert!(!format!("{plan:?}").contains("90, 90"));
}

#[test]
fn a_file_longer_than_its_kernel_has_its_place_too() {
    let mut image = image();
    let kernel = kernel(&image);
    image.resize(60 << 20, 1);
    let plan = plan(&machine(8 << 30), parts(&kernel, &image)).unwrap();
    assert!(plan.segments[0].size >= plan.segments[0].file);
}

#[test]
fn without_kaslr_there_is_no_seed_and_the_kernel_is_told() {
    let image = image();
    let kernel = kernel(&image);
    for line in ["quiet", "quiet nokaslr"] {
        let parts = Parts { seed: false, cmdline: line, ..parts(&kernel, &image) };
        let plan = plan(&machine(1 << 30), parts).unwrap();
        assert!(holds(params(&plan).0, b"quiet nokaslr\0") && !holds(params(&plan).0, &[0x5a; SEED]));
    }
    let unready = Machine { seed: None, ..machine(1 << 30) };
    let plan = plan(&unready, parts(&kernel, &image)).unwrap();
    assert_eq!(params(&plan).0[0x250..0x258], [0; 8]);
}

#[test]
fn the_command_line_may_be_as_long_as_the_kernel_reads() {
    let image = image();
    let kernel = kernel(&image);
    let with =
        |line: &str, seed| plan(&machine(1 << 30), Parts { cmdline: line, seed, ..parts(&kernel, &image) });
    let longest = "x".repeat(2047);
    assert!(with(&longest, true).is_ok());
    assert!(matches!(with(&longest, false), Err(KexecError::CmdlineTooLong { length: 2055, limit: 2047 })));
    assert!(matches!(with(&"x".repeat(2048), true), Err(KexecError::CmdlineTooLong { .. })));
    assert!(matches!(with("a\0b", true), Err(KexecError::CmdlineCharacter { .. })));
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let image = image();
    let mut kernel = kernel(&image);
    let guest = Machine { confidential: Some("SEV"), ..machine(1 << 30) };
    let error = plan(&guest, parts(&kernel, &image)).unwrap_err();
    assert!(error.to_string().contains("confidential guest (SEV)"), "{error}");
    let tall = Machine { five_level: true, ..machine(1 << 30) };
    assert!(plan(&tall, parts(&kernel, &image)).is_ok());
    kernel.xloadflags &= !XLF_5LEVEL;
    let error = plan(&tall, parts(&kernel, &image)).unwrap_err();
    assert!(error.to_string().contains("5-level paging"), "{error}");
    assert!(error.hint().contains("no5lvl"));
}

#[test]
fn efi_goes_only_to_kernels_that_take_it() {
    let image = image();
    let mut kernel = kernel(&image);
    let efi = Efi { fw_vendor: 1, tables: 2, smbios: 3, map: Vec::new() };
    let signature = |machine: &Machine, kernel: &BzImage| {
        let plan = plan(machine, parts(kernel, &image)).unwrap();
        let (bytes, _) = params(&plan);
        assert_eq!(bytes[0x70], 0x77);
        bytes[0x1c0..0x1e0].to_vec()
    };
    let whole = Machine { efi: Handover::Whole(efi), rsdp: 0x77, ..machine(1 << 30) };
    assert_eq!(signature(&whole, &kernel)[..4], *b"EL64");
    let lost = Machine { efi: Handover::Lost("noefi"), rsdp: 0x77, ..machine(1 << 30) };
    assert_eq!(signature(&lost, &kernel), [0; 32]);
    kernel.xloadflags &= !XLF_EFI_KEXEC;
    assert_eq!(signature(&whole, &kernel), [0; 32]);
    // An old one looks for ACPI on its command line only.
    let said = |machine: &Machine, kernel: &BzImage| {
        let plan = plan(machine, parts(kernel, &image)).unwrap();
        holds(params(&plan).0, b"console=ttyS0 acpi_rsdp=0x77\0")
    };
    assert!(!said(&whole, &kernel));
    kernel.protocol = 0x020d;
    assert!(said(&whole, &kernel) && said(&lost, &kernel));
    assert!(!said(&Machine { rsdp: 0, ..lost }, &kernel));
    kernel.xloadflags |= XLF_EFI_KEXEC;
    assert!(!said(&whole, &kernel));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_header_panics(flips in prop::collection::vec((0x1f1usize..0x290, any::<u8>()), 0..8)) {
        let mut image = image();
        for (at, value) in flips {
            image[at] = value;
        }
        if let Ok(Header::BzImage(kernel)) = Header::parse("kernel", &image, Arch::X86_64)
            && let Ok(plan) = plan(&machine(8 << 30), parts(&kernel, &image))
        {
            prop_assert!(plan.segments.iter().all(|segment| segment.file <= segment.size));
        }
    }
}
