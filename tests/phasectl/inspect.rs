//! What files are said to be.

use std::fs;

use crate::{PACK, PUBLISH, X86_64, bzimage, done, elf, image, json, refused, run, workshop};

#[test]
fn files_are_described() {
    let folder = workshop();
    let at = folder.path();
    done(at, &format!("{PUBLISH} --cmdline quiet"));
    let manifest = "tree/stable/x86_64/manifest.signed.json";
    let text = done(at, &format!("inspect {manifest}"));
    for part in
        ["manifest stable/x86_64 version 1", "kernel     70.0 kB, sha256:", "cmdline    quiet", "signed by"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = json(done(at, &format!("inspect --json {manifest}")).as_bytes());
    assert_eq!((&said["kind"], &said["signed"]), (&"manifest".into(), &true.into()));
    assert_eq!(done(at, "inspect bzimage"), "kernel for x86_64: bzImage, 70.0 kB\n");
    assert_eq!(done(at, "inspect image"), "kernel for arm64: Image, 70.0 kB\n");
    let said = json(done(at, "inspect --json image").as_bytes());
    assert_eq!(
        said,
        serde_json::json!({"kind": "kernel", "arch": "arm64", "format": "Image", "size": 70_000})
    );

    let path = at.join(manifest);
    let changed = fs::read_to_string(&path).unwrap().replace("quiet", "loud");
    fs::write(&path, changed).unwrap();
    refused(
        at,
        &format!("inspect {manifest}"),
        12,
        "what stands outside signed.data differs from what was signed",
    );
    fs::write(&path, "{").unwrap();
    refused(at, &format!("inspect {manifest}"), 12, "is malformed");
    let plain =
        r#"{"arch":"x86_64","artifacts":{"kernel":{"hash":"sha256:00","size_bytes":1}},"signatures":[]}"#;
    fs::write(&path, plain).unwrap();
    assert!(done(at, &format!("inspect {manifest}")).contains("UNSIGNED"));
    for (name, bytes, said) in [
        (
            "text",
            &b"an initramfs"[..],
            "text: it is of no kind that phaseboot knows, 12 bytes, and no whole initramfs",
        ),
        (
            "gz",
            &[0x1f, 0x8b, 8],
            "gz: it is a broken gzip file: it promises 10 bytes more, 3 are left (after 0 unpacked bytes), and no whole initramfs",
        ),
        ("elf", &elf(X86_64, ""), "elf: it is an ELF file for x86_64 (a vmlinux?), 64 bytes"),
        ("zboot", b"MZ\0\0zimg", "zboot: it is a truncated EFI zboot kernel"),
        ("cut", &bzimage()[..69_000], "cut: it is a truncated bzImage: its header promises"),
        ("short", &image()[..60], "short: it is a truncated arm64 Image"),
        (
            "half",
            &image()[..69_999],
            "half: it is a truncated arm64 Image: its header promises 70000 bytes, the file has 69999",
        ),
        ("empty", b"", "empty: it is empty"),
        ("cpio", b"070701", "cpio: it is a cpio archive (an initramfs?), 6 bytes, and no whole initramfs"),
    ] {
        fs::write(at.join(name), bytes).unwrap();
        refused(at, &format!("inspect {name}"), 1, said);
    }
    fs::write(&path, format!("{{{}", " ".repeat(1 << 20))).unwrap();
    refused(at, &format!("inspect {manifest}"), 12, "is larger than 1 MiB");
    refused(at, "inspect none", 1, "cannot open none");
}

#[test]
fn what_a_kernel_is_wrapped_in_is_said() {
    let folder = workshop();
    let at = folder.path();
    assert!(run(at, "gzip", &["-k", "image"]).status.success());
    let text = done(at, "inspect image.gz");
    assert!(text.starts_with("kernel for arm64: Image, ") && text.ends_with(", in gzip file\n"), "{text}");
    let said = json(done(at, "inspect --json image.gz").as_bytes());
    assert_eq!(said["wrappings"], serde_json::json!(["gzip file"]));
}

#[test]
fn no_huge_file_is_read() {
    let folder = workshop();
    let at = folder.path();
    fs::File::create(at.join("sparse")).unwrap().set_len(1 << 42).unwrap();
    for (arguments, said) in [
        ("inspect sparse", "sparse has more than 2147483648 bytes"),
        ("publish --key k.key --into tree --kernel sparse --initramfs initrd", "sparse has more than"),
    ] {
        let words: Vec<&str> =
            ["10", env!("CARGO_BIN_EXE_phasectl")].into_iter().chain(arguments.split(' ')).collect();
        let output = run(at, "timeout", &words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(said), "{arguments}: {text}");
    }
}

#[test]
fn slow_reading_is_shown() {
    let folder = workshop();
    let at = folder.path();
    let script = format!(
        "(head -c 30000 bzimage; sleep 1.3; tail -c +30001 bzimage) | {} inspect /dev/stdin",
        env!("CARGO_BIN_EXE_phasectl")
    );
    let output = run(at, "script", &["--quiet", "--return", "--command", &script, "/dev/null"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("reading ") && shown.contains("kernel for x86_64: bzImage"), "{shown}");
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let folder = workshop();
    done(folder.path(), &format!("{PACK} --compress fast"));
    let script =
        format!("{} inspect out.img | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_phasectl"));
    let output = run(folder.path(), "bash", &["-c", &script]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}
