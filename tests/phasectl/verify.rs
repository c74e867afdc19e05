//! What phasectl publishes and packs, as phaseboot reads it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use phaseboot::sys::arch::NATIVE;

use crate::{PACK, PUBLISH, done, json, phasectl, publish, refused, run, trust, workshop};

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

/// What `phasectl verify --json` says, and its exit code.
fn verdict(at: &Path, line: &str) -> (String, i32) {
    let output = phasectl(at, format!("verify {line} --json").split_ascii_whitespace());
    let said = json(&output.stdout);
    let code = output.status.code().unwrap();
    assert_eq!(said["exit_code"], code, "{said}");
    assert_eq!(output.stderr.is_empty(), code == 0, "{}", String::from_utf8_lossy(&output.stderr));
    (said["verdict"].as_str().unwrap().to_owned(), code)
}

#[test]
fn phasectl_says_what_machines_would_say() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out two");
    let live = publish(at, "stable", "--expires 1d");
    fs::write(at.join("policy"), r#"{"threshold":2,"channels":["stable"]}"#).unwrap();
    fs::write(at.join("later"), r#"{"min_manifest_version":2}"#).unwrap();
    fs::write(at.join("beta"), r#"{"channels":["beta"]}"#).unwrap();
    fs::write(at.join("list"), r#"{"min_keys_version":1}"#).unwrap();
    for (options, expected, code) in [
        ("--key k.pub", "accepted", 0),
        ("--key k.pub --artifacts", "accepted", 0),
        ("--key two.pub", "not-trusted", 13),
        ("--key k.pub --key two.pub --policy policy", "not-trusted", 13),
        ("--key k.pub --policy later", "rolled-back", 14),
        ("--key k.pub --policy beta", "channel-not-allowed", 14),
        ("--key k.pub --policy list", "keys-missing", 14),
        ("--key k.pub --arch arm64", "other-arch", 14),
        ("--key k.pub --channel beta", "other-channel", 14),
        ("--key k.pub --at 2100-01-01T00:00:00Z", "expired", 14),
        ("--key k.pub --at 1970-01-01T00:00:00Z", "accepted", 0),
        ("--key k.pub --policy none", "error", 1),
        ("--trust nowhere", "no-trust", 13),
        ("--key k.pub --keys k.pub", "keys-malformed", 12),
    ] {
        assert_eq!(verdict(at, &format!("{live} {options}")), (expected.to_owned(), code), "{options}");
    }
    let late = phasectl(at, ["verify", &live, "--key", "k.pub", "--no-expiry"]);
    assert!(late.status.success() && String::from_utf8(late.stderr).unwrap().contains("no time is checked"));
    refused(
        at,
        &format!("verify {live} --key k.pub --no-expiry --at 2100-01-01T00:00:00Z"),
        2,
        "cannot be used",
    );
    refused(at, &format!("verify {live}"), 2, "--trust");
    fs::copy(at.join("k.pub"), at.join("again.pub")).unwrap();
    done(at, &format!("verify {live} --key k.pub --key again.pub"));

    // The same files as a trust folder and one by one are the same machine.
    fs::write(at.join("bad.pub"), "no key").unwrap();
    let named = fs::read_to_string(at.join("two.pub")).unwrap().replace("id: two", "id: k");
    fs::write(at.join("alike.pub"), named).unwrap();
    for (number, (keys, policy, expected, code)) in [
        (&["k.pub"][..], "{}", "accepted", 0),
        (&["k.pub", "again.pub"], "{}", "accepted", 0),
        (&["k.pub", "two.pub"], r#"{"threshold":2}"#, "not-trusted", 13),
        (&["k.pub"], r#"{"threshold":2}"#, "no-trust", 13),
        (&["k.pub"], r#"{"root_threshold":2}"#, "no-trust", 13),
        (&["k.pub"], r#"{"treshold":2}"#, "no-trust", 13),
        (&["k.pub"], "", "no-trust", 13),
        (&["k.pub", "bad.pub"], "{}", "no-trust", 13),
        (&["k.pub", "alike.pub"], "{}", "no-trust", 13),
    ]
    .into_iter()
    .enumerate()
    {
        trust(at, &format!("t{number}"), keys, policy);
        let one_by_one: String = keys.iter().map(|key| format!(" --key {key}")).collect();
        for how in [format!("--trust t{number}"), format!("{one_by_one} --policy t{number}/policy.json")] {
            assert_eq!(verdict(at, &format!("{live} {how}")), (expected.to_owned(), code), "{how}: {policy}");
        }
    }

    let text = fs::read_to_string(at.join(&live)).unwrap();
    let unsigned =
        r#"{"version":"0.1.0","manifest_version":1,"channel":"stable","arch":"x86_64","artifacts":{}}"#;
    for (name, content, expected, code) in [
        ("empty", String::new(), "malformed", 12),
        ("text", "hello".to_owned(), "malformed", 12),
        ("twice", text.replacen('{', "{\"arch\":\"arm64\",", 1), "malformed", 12),
        ("outer", text.replace("\"stable\"", "\"beta\""), "outer-differs", 12),
        ("large", format!("{text}{}", " ".repeat(1 << 20)), "too-large", 12),
        ("unsigned", unsigned.to_owned(), "unsigned", 13),
        ("sig", text.replacen("\"sig\": \"", "\"sig\": \"AAAA", 1), "malformed", 12),
    ] {
        fs::write(at.join(name), content).unwrap();
        assert_eq!(verdict(at, &format!("{name} --key k.pub")), (expected.to_owned(), code), "{name}");
    }
    assert_eq!(verdict(at, "none --key k.pub"), ("error".to_owned(), 1));

    let kernel = json(text.as_bytes())["artifacts"]["kernel"]["urls"][0].as_str().unwrap().to_owned();
    fs::write(at.join("tree/stable/x86_64").join(&kernel), "other").unwrap();
    assert_eq!(verdict(at, &format!("{live} --key k.pub --artifacts")), ("artifact-mismatch".to_owned(), 15));
    fs::remove_file(at.join("tree/stable/x86_64").join(&kernel)).unwrap();
    assert_eq!(verdict(at, &format!("{live} --key k.pub --artifacts")), ("artifact-mismatch".to_owned(), 15));
}

#[test]
fn both_programs_agree() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out two");
    prepare(at, PUBLISH, "");
    let manifest = format!("tree/stable/{}/manifest.signed.json", NATIVE.name());
    let agree = |code: i32| {
        assert_eq!(verify(at).status.code(), Some(code));
        assert_eq!(verdict(at, &format!("{manifest} --trust root/etc/phaseboot")).1, code);
    };
    agree(0);
    done(at, "keys rotate --root k.key --add two.pub --into tree --force");
    agree(13);
    done(at, &format!("sign {manifest} --key two.key"));
    agree(0);
    let policy = |text: &str| trust(at, "root/etc/phaseboot", &["k.pub"], text);
    policy(r#"{"min_keys_version":2}"#);
    agree(14);
    policy(r#"{"threshold":0}"#);
    agree(13);
    policy("{}");
    fs::write(at.join(&manifest), "{").unwrap();
    agree(12);
}

/// The last sentence of the worked example in proto/MANIFEST.md.
#[test]
fn the_worked_example_is_accepted_until_it_expires() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/example");
    let line = "verify manifest.signed.json --key root.pub --keys keys.json --at";
    assert!(done(&example, &format!("{line} 2026-11-15T00:00:00Z")).starts_with("accepted"));
    refused(&example, &format!("{line} 2027-12-01T00:01:00Z"), 14, "expired");
}
