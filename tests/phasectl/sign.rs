//! Signatures by several people and machines, and the way of a draft into the tree.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{PACK, PUBLISH, done, json, phasectl, private, publish, refused, run, trust, workshop};

/// Signs the digest in the file `digest` with openssl into the file `sig`.
fn openssl_sign(at: &Path, key: &str) {
    let sign = ["pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", "digest", "-out", "sig"];
    let output = run(at, "openssl", &sign);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn openssl_signs_what_is_accepted() {
    let folder = workshop();
    let at = folder.path();
    done(at, &format!("{} --draft draft.json", PUBLISH.replace("--key k.key", "")));
    let text = done(at, "sign draft.json --digest-out digest");
    for part in
        ["manifest stable/x86_64 version 1", "kernel     70.0 kB", "signed by  nobody", "wrote digest"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    openssl_sign(at, "k.key");
    let raw = fs::read(at.join("sig")).unwrap();
    let hex: String = raw.iter().map(|byte| format!("{byte:02X}")).collect();
    fs::write(at.join("sig.hex"), hex + "\n").unwrap();
    fs::write(at.join("sig.base64"), STANDARD.encode(&raw)).unwrap();
    for sig in ["sig", "sig.hex", "sig.base64"] {
        done(at, &format!("sign draft.json --detached {sig} --public k.pub --out {sig}.json"));
        assert!(
            done(at, &format!("verify {sig}.json --key k.pub"))
                .starts_with("accepted: manifest stable/x86_64")
        );
    }

    // By hand, with nothing of ours: proto/MANIFEST.md.
    let mut manifest = json(&fs::read(at.join("draft.json")).unwrap());
    let fields = manifest.as_object_mut().unwrap();
    fields.remove("signed");
    fields.remove("signatures");
    // Any bytes that say it will do: canonical is what we write, not what is asked for.
    let data = serde_json::to_string_pretty(&manifest).unwrap();
    fs::write(at.join("digest"), Sha256::digest(&data)).unwrap();
    openssl_sign(at, "k.key");
    manifest["signatures"] =
        json!([{ "keyid": "hsm", "sig": STANDARD.encode(fs::read(at.join("sig")).unwrap()) }]);
    manifest["signed"] = json!({ "data": STANDARD.encode(&data) });
    fs::write(at.join("hand.json"), manifest.to_string()).unwrap();
    done(at, "verify hand.json --key k.pub");
    // A signature that we add leaves these bytes alone, and openssl verifies it.
    done(at, "keygen --out two");
    done(at, "sign hand.json --key two.key");
    let signed = json(&fs::read(at.join("hand.json")).unwrap());
    assert_eq!(signed["signed"]["data"], manifest["signed"]["data"]);
    assert_eq!(signed["signatures"][0], manifest["signatures"][0]);
    fs::write(at.join("sig"), STANDARD.decode(signed["signatures"][1]["sig"].as_str().unwrap()).unwrap())
        .unwrap();
    let verify =
        ["pkeyutl", "-verify", "-pubin", "-inkey", "two.pub", "-rawin", "-in", "digest", "-sigfile", "sig"];
    assert!(run(at, "openssl", &verify).status.success());
}

#[test]
fn two_people_reach_a_threshold() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out two");
    trust(at, "trust", &["k.pub", "two.pub"], r#"{"threshold":2}"#);
    let live = publish(at, "stable", "--key two.key");
    fs::write(at.join("initrd"), "another initramfs").unwrap();
    done(at, &format!("{PUBLISH} --draft draft.json"));
    let before = fs::read(at.join(&live)).unwrap();
    let into = "--into tree --trust trust";
    refused(at, &format!("sign draft.json {into}"), 13, "1 of 2 needed");
    assert_eq!(fs::read(at.join(&live)).unwrap(), before);

    let said = json(done(at, &format!("sign draft.json --key two.key {into} --json")).as_bytes());
    assert_eq!((&said["kind"], &said["added"].as_array().unwrap().len()), (&"manifest".into(), &1));
    assert_eq!(said["written"][0], live.as_str());
    assert_eq!(json(&fs::read(at.join(&live)).unwrap())["manifest_version"], 2);
    done(at, &format!("verify {live} --trust trust --artifacts"));
    // The same again is no harm, an older one is a replay.
    done(at, &format!("sign draft.json --key two.key {into}"));
    fs::write(at.join("old.json"), before).unwrap();
    refused(
        at,
        &format!("sign old.json {into}"),
        1,
        "manifest version 1 is not newer than tree/stable/x86_64",
    );
    // Version 2 with other content.
    let other = PUBLISH.replace("--into tree", "--into elsewhere");
    done(at, &format!("{other} --key two.key --cmdline other --manifest-version 2"));
    refused(
        at,
        &format!("sign elsewhere/stable/x86_64/manifest.signed.json {into}"),
        1,
        "manifest version 2 is not newer",
    );
}

#[test]
fn a_draft_goes_live_only_with_its_artifacts() {
    let folder = workshop();
    let at = folder.path();
    done(at, &format!("{PUBLISH} --draft draft.json"));
    assert!(!at.join("tree/stable/x86_64/manifest.signed.json").exists());
    refused(at, "sign draft.json --into other --threshold 1 --public k.pub", 15, "is missing");
    refused(at, "sign draft.json --into tree", 1, "--into needs --trust DIR, or --threshold N");
    refused(
        at,
        "sign draft.json --into tree --threshold 2 --public k.pub",
        1,
        "--threshold 2, but 1 keys are given",
    );
    let kernel = json(&fs::read(at.join("draft.json")).unwrap())["artifacts"]["kernel"]["urls"][0].clone();
    let kernel = at.join("tree/stable/x86_64").join(kernel.as_str().unwrap());
    let bytes = fs::read(&kernel).unwrap();
    fs::write(&kernel, &bytes[1..]).unwrap();
    refused(
        at,
        "sign draft.json --into tree --threshold 1 --public k.pub",
        15,
        "has not the size (70.0 kB) and hash",
    );
    fs::write(&kernel, &bytes).unwrap();
    done(at, "sign draft.json --into tree --threshold 1 --public k.pub");
    done(at, "verify tree/stable/x86_64/manifest.signed.json --key k.pub --artifacts");
}

#[test]
fn what_must_not_be_signed() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    done(at, "keygen --out two");
    let manifest = json(&fs::read(at.join(&live)).unwrap());
    let mut damaged = manifest.clone();
    damaged["cmdline"] = "init=/bin/sh".into();
    let mut foreign = manifest.clone();
    foreign["signatures"] = json!([{ "keyid": "x", "signature": "00" }]);
    foreign.as_object_mut().unwrap().remove("signed");
    let artifact = |name: &str| json!({ "hash": "sha256:00", "size": 1, "urls": [name] });
    let cases: [(&str, Value, i32, &str); 5] = [
        ("damaged", damaged, 12, "what stands outside signed.data differs"),
        ("foreign", foreign, 13, "signed in plasmd's own way"),
        (
            "number",
            json!({ "version": "0.1", "manifest_version": 0 }),
            12,
            "manifest_version is no whole number",
        ),
        ("future", json!({ "version": "1.0" }), 12, "is not understood"),
        (
            "short",
            json!({ "version": "0.1", "manifest_version": 1, "channel": "a", "arch": "arm64",
                    "artifacts": { "kernel": artifact("k"), "initramfs": artifact("i") } }),
            12,
            "hash is not sha256:",
        ),
    ];
    for (name, value, code, why) in cases {
        fs::write(at.join(name), value.to_string()).unwrap();
        refused(at, &format!("sign {name} --key two.key"), code, why);
        assert_eq!(fs::read_to_string(at.join(name)).unwrap(), value.to_string(), "left as it was");
    }
    fs::write(at.join("text"), "no manifest").unwrap();
    refused(at, "sign text --key two.key", 12, "is malformed");
    refused(at, "sign none --key two.key", 1, "cannot open none");
    refused(at, &format!("sign {live}"), 2, "required");
    refused(at, &format!("sign {live} --key two.key --key-list"), 1, "is a manifest, no key list");
    done(at, "keys rotate --root two.key --add k.pub --file keys.json");
    refused(at, "sign keys.json --key k.key", 1, "add --key-list if that is meant");
    refused(at, "sign keys.json --digest-out digest", 1, "add --key-list if that is meant");
    assert!(!at.join("digest").exists());
}

#[test]
fn detached_signatures_of_something_else_are_refused() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out two");
    let live = publish(at, "stable", "");
    let other = publish(at, "beta", "");
    let before = fs::read(at.join(&live)).unwrap();
    done(at, &format!("sign {other} --digest-out digest"));
    openssl_sign(at, "two.key");
    let detached = |document: &str, public: &str| format!("sign {document} --detached sig --public {public}");
    refused(at, &detached(&live, "two.pub"), 1, "sig: the signature is none by ");
    refused(at, &detached(&other, "k.pub"), 1, "the signature is none by ");
    fs::write(at.join("sig2"), "short").unwrap();
    refused(
        at,
        &detached(&other, "two.pub").replace("sig ", "sig2 "),
        1,
        "sig2: no signature: neither 64 bytes",
    );
    refused(at, &detached(&other, "two.key"), 1, "it holds a private key");
    refused(at, &format!("sign {other} --detached sig"), 2, "--public");
    assert_eq!(fs::read(at.join(&live)).unwrap(), before);
    done(at, &detached(&other, "two.pub"));
    done(at, &format!("verify {other} --key two.pub"));
}

#[test]
fn private_keys_that_cannot_or_must_not_be_read() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    private(&at.join("locked.key"), b"x");
    fs::set_permissions(at.join("locked.key"), fs::Permissions::from_mode(0o0)).unwrap();
    // As somebody whom permissions hold back.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_phasectl")]);
    let output = command.current_dir(at).args(["sign", &live, "--key", "locked.key"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("setpriv: ") {
        println!("skipped: {said}");
    } else {
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot open locked.key: Permission denied"), "{said}");
    }
    fs::set_permissions(at.join("k.key"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(
        at,
        &format!("sign {live} --key k.key"),
        1,
        "k.key is open to others (mode 0644); chmod 600 k.key",
    );
    // RFC 8032, section 7.1, test 1.
    let hexadecimal = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    fs::write(at.join("hex.pub"), hexadecimal).unwrap();
    for public in ["k.pub", "hex.pub"] {
        refused(at, &format!("sign {live} --key {public}"), 1, &format!("{public} is a public key; signing"));
    }
    private(&at.join("cut.key"), &fs::read(at.join("k.key")).unwrap()[..60]);
    refused(at, &format!("sign {live} --key cut.key"), 1, "cut.key is not an Ed25519 private key");
    let rsa = "openssl genpkey -algorithm RSA -out rsa.key 2>/dev/null && chmod 600 rsa.key";
    assert!(run(at, "sh", &["-c", rsa]).status.success());
    refused(at, &format!("sign {live} --key rsa.key"), 1, "rsa.key is not an Ed25519 private key");
}

/// A signer who has seen the document and is asked for the passphrase of `e.key`.
fn thinking(at: &Path, document: &str) -> Child {
    if !at.join("e.key").exists() {
        private(&at.join("words"), b"open sesame\n");
        done(at, "keygen --out e --passphrase-file words");
        assert!(run(at, "mkfifo", &["-m", "600", "asked"]).status.success());
    }
    let mut signer = Command::new(env!("CARGO_BIN_EXE_phasectl"))
        .current_dir(at)
        .args(["sign", document, "--key", "e.key", "--passphrase-file", "asked"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let shown = BufReader::new(signer.stdout.as_mut().unwrap());
    assert!(shown.lines().any(|line| line.unwrap().contains("  digest ")));
    signer
}

/// Types the passphrase. Returns whether the signature was made, and what was said.
fn typed(at: &Path, signer: Child) -> (bool, String) {
    fs::write(at.join("asked"), "open sesame\n").unwrap();
    let output = signer.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_changes_while_somebody_signs_is_not_lost() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    let signer = thinking(at, &live);
    publish(at, "stable", "--cmdline newer");
    let newer = fs::read(at.join(&live)).unwrap();
    let (is_done, said) = typed(at, signer);
    assert!(!is_done && said.contains(&format!("{live} changed meanwhile")), "{said}");
    assert_eq!(fs::read(at.join(&live)).unwrap(), newer);

    done(at, "keygen --out two");
    done(at, &format!("{PUBLISH} --draft draft.json"));
    let signer = thinking(at, "draft.json");
    done(at, "sign draft.json --key two.key");
    let (is_done, said) = typed(at, signer);
    assert!(is_done, "{said}");
    trust(at, "trust", &["k.pub", "two.pub", "e.pub"], r#"{"threshold":3}"#);
    done(at, "verify draft.json --trust trust");
}

#[test]
fn signers_and_publishers_take_turns() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    done(at, "keygen --out two");
    let before = fs::read(at.join(&live)).unwrap();
    let mut publisher = Command::new("flock")
        .current_dir(at)
        .args(["tree/stable/x86_64", "sh", "-c", "echo; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    publisher.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let sign = format!("sign {live} --key two.key");
    refused(at, &sign, 1, "another phasectl is at work in ");
    assert_eq!(fs::read(at.join(&live)).unwrap(), before);
    std::thread::scope(|scope| {
        scope.spawn(|| done(at, &sign));
        std::thread::sleep(Duration::from_millis(300));
        drop(publisher.stdin.take());
    });
    publisher.wait().unwrap();
    done(at, &format!("verify {live} --key two.pub"));
}

#[test]
fn a_link_to_a_document_stays_a_link() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    done(at, "keygen --out two");
    symlink(&live, at.join("current.json")).unwrap();
    done(at, "sign current.json --key two.key");
    assert!(at.join("current.json").is_symlink());
    done(at, &format!("verify {live} --key two.pub"));
}

#[test]
fn no_output_replaces_a_private_key() {
    let folder = workshop();
    let at = folder.path();
    private(&at.join("words"), b"open sesame\n");
    done(at, "keygen --out e --passphrase-file words");
    let live = publish(at, "stable", "");
    for key in ["k.key", "e.key"] {
        let before = fs::read(at.join(key)).unwrap();
        for line in [
            format!("sign {live} --digest-out {key}"),
            format!("sign {live} --key k.key --out {key}"),
            format!("{PUBLISH} --draft {key}"),
            format!("keys rotate --root k.key --add k.pub --into tree --draft {key}"),
            PACK.replace("out.img", key),
        ] {
            refused(at, &line, 1, &format!("{key} holds a private key, which is never overwritten"));
            assert_eq!(fs::read(at.join(key)).unwrap(), before, "{line}");
        }
    }
    // A program that knows what private keys look like is none.
    fs::write(at.join("out.img"), b"\0-----BEGIN PRIVATE KEY-----\0PRIVATE KEY\n").unwrap();
    done(at, PACK);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    refused(
        at,
        &format!("sign {live} --digest-out none/digest"),
        1,
        "cannot write none/digest: No such file",
    );
    fs::create_dir(at.join("closed")).unwrap();
    fs::set_permissions(at.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    // As somebody whom permissions hold back.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_phasectl")]);
    let output =
        command.current_dir(at).args(["sign", &live, "--digest-out", "closed/digest"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("setpriv: ") {
        println!("skipped: {said}");
    } else {
        assert!(said.ends_with("cannot write closed/digest: Permission denied (os error 13)\n"), "{said}");
    }
}

#[test]
fn what_is_signed_is_shown_before_the_question() {
    let folder = workshop();
    let at = folder.path();
    let live = publish(at, "stable", "");
    let output = phasectl(at, ["sign", &live, "--key", "k.key", "--json"]);
    assert_eq!(json(&output.stdout)["kind"], "manifest");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("manifest stable/x86_64 version 1\n") && said.contains("  digest  "), "{said}");
    assert!(said.contains("  kernel     70.0 kB, sha256:"), "{said}");
}

#[test]
fn a_damaged_key_list_is_called_one() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out r1");
    done(at, "keys rotate --root r1.key --add k.pub --into tree");
    publish(at, "stable", "");
    let list = fs::read_to_string(at.join("tree/keys.json")).unwrap();
    for damaged in [
        "{".to_owned(),
        list.replace("\"threshold\": 1", "\"threshold\": 2"),
        format!("{{{}", " ".repeat(2 << 20)),
    ] {
        fs::write(at.join("tree/keys.json"), damaged).unwrap();
        for line in [
            "keys rotate --root r1.key --add k.pub --into tree",
            "keys show tree",
            "inspect tree/keys.json",
            "sign tree/keys.json --key-list --key r1.key",
        ] {
            refused(at, line, 12, "key list tree/keys.json is malformed: ");
            refused(at, line, 12, "phasectl keys rotate");
        }
    }
    fs::write(at.join("tree/keys.json"), "{").unwrap();
    refused(at, PUBLISH, 12, "key list tree/keys.json is malformed: ");
}

#[test]
fn what_is_live_keeps_its_signatures() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out two");
    let live = publish(at, "stable", "");
    done(at, "keys rotate --root k.key --add k.pub --add two.pub --file list.json");
    for (draft, copy, how) in [(live.as_str(), "m.json", ""), ("list.json", "l.json", "--key-list")] {
        let mut unsigned = json(&fs::read(at.join(draft)).unwrap());
        unsigned["signatures"] = json!([]);
        for key in ["two", "k"] {
            fs::write(at.join(copy), unsigned.to_string()).unwrap();
            done(at, &format!("sign {copy} {how} --key {key}.key --into tree --threshold 1 --force"));
        }
    }
    for document in [live.as_str(), "tree/keys.json"] {
        let signed = json(&fs::read(at.join(document)).unwrap());
        assert_eq!(signed["signatures"].as_array().unwrap().len(), 2, "{document}");
    }
}
