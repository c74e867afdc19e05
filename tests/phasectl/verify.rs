//! What phasectl publishes and packs, as phaseboot reads it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use phaseboot::sys::arch::NATIVE;

use crate::{PACK, PUBLISH, done, run, workshop};

/// Publishes for this machine, packs with `arguments`, and unpacks /etc/phaseboot.
fn prepare(at: &Path, publish: &str, pack: &str) {
    let kernel = if NATIVE.name() == "arm64" { "image" } else { "bzimage" };
    done(at, &publish.replace("x86_64", NATIVE.name()).replace("bzimage", kernel));
    done(at, &format!("{PACK} --compress none {pack}"));
    let unpack = "rm -rf root && mkdir root && cd root && cpio -idm --quiet 'etc/*' < ../out.img";
    assert!(run(at, "sh", &["-c", unpack]).status.success());
}

fn verify(at: &Path) -> Output {
    let manifest = format!("tree/stable/{}/manifest.signed.json", NATIVE.name());
    let program = env!("CARGO_BIN_EXE_phaseboot");
    let arguments = ["verify", &manifest, "--trust", "root/etc/phaseboot"];
    Command::new(program).current_dir(at).args(arguments).output().unwrap()
}

#[test]
fn phaseboot_accepts_what_was_published() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out k2");
    fs::write(at.join("policy.json"), r#"{"threshold":2}"#).unwrap();
    let both =
        fs::read_to_string(at.join("k.pub")).unwrap() + &fs::read_to_string(at.join("k2.pub")).unwrap();
    fs::write(at.join("k.pub"), both).unwrap();
    prepare(at, &format!("{PUBLISH} --key k2.key --cmdline quiet"), "--policy policy.json");
    let output = verify(at);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("version 1, signed by"), "{said}");
    assert_eq!(said.matches(',').count(), 2, "two signers: {said}");

    prepare(at, PUBLISH, "--policy policy.json");
    assert_eq!(verify(at).status.code(), Some(13), "one of two");
}

#[test]
fn a_clock_before_the_build_counts_as_the_build() {
    let folder = workshop();
    let at = folder.path();
    // 2100-01-01: long after the manifest expires.
    prepare(at, PUBLISH, "--mtime 4102444800");
    let output = verify(at);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(14), "{said}");
    assert!(
        said.contains("the initramfs was built at 2100-01-01T00:00:00Z: taking that as the time"),
        "{said}"
    );
    assert!(said.contains("expired at"), "{said}");

    prepare(at, PUBLISH, "--mtime 0");
    assert!(verify(at).status.success());
}
