//! What files are said to be.

use std::fs;

use crate::{PACK, PUBLISH, done, json, refused, run, workshop};

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
    assert_eq!(json(done(at, "inspect --json image").as_bytes())["arch"], "arm64");

    let path = at.join(manifest);
    let changed = fs::read_to_string(&path).unwrap().replace("quiet", "loud");
    fs::write(&path, changed).unwrap();
    refused(at, &format!("inspect {manifest}"), 12, "the outer copy differs from signed.data");
    fs::write(&path, "{").unwrap();
    refused(at, &format!("inspect {manifest}"), 12, "is malformed");
    let plain =
        r#"{"arch":"x86_64","artifacts":{"kernel":{"hash":"sha256:00","size_bytes":1}},"signatures":[]}"#;
    fs::write(&path, plain).unwrap();
    assert!(done(at, &format!("inspect {manifest}")).contains("UNSIGNED"));
    refused(at, "inspect initrd", 1, "initrd is neither a manifest, nor a kernel, nor a whole initramfs");
    refused(at, "inspect none", 1, "cannot open none");
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
