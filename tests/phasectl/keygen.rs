//! Key pairs.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use sha2::{Digest, Sha256};

use crate::{PUBLISH, done, json, mode, phasectl, private, refused, run, workshop};

#[test]
fn a_key_is_made_once_and_kept_private() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let said = json(done(at, "keygen --out keys --name release --json").as_bytes());
    let (private, public) = (at.join("keys/release.key"), at.join("keys/release.pub"));
    assert_eq!(mode(&private), 0o600);
    let der = run(at, "openssl", &["pkey", "-in", "keys/release.key", "-pubout", "-outform", "DER"]).stdout;
    let raw = &der[der.len() - 32..];
    let id: String = Sha256::digest(raw)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(said["keyid"], id.as_str());
    let pem = run(at, "openssl", &["pkey", "-in", "keys/release.key", "-pubout"]).stdout;
    let text = fs::read_to_string(&public).unwrap();
    assert_eq!(text.strip_prefix("id: release\n").unwrap().as_bytes(), pem);
    assert_eq!(said["id"], "release");
    let again = run(at, "openssl", &["pkey", "-pubin", "-in", "keys/release.pub"]);
    assert!(again.status.success() && again.stdout == pem, "openssl passes over the lines before it");
    for name in ["0123456789ABCDEF", &"x".repeat(65)] {
        let said = json(done(at, &format!("keygen --out keys --name {name} --json")).as_bytes());
        assert!(said["id"].is_null(), "{name}");
        assert!(
            fs::read_to_string(at.join("keys").join(name).with_extension("pub")).unwrap().starts_with("---")
        );
    }

    let before = fs::read(&private).unwrap();
    refused(at, "keygen --out keys --name release", 1, "release.key exists and is never overwritten");
    fs::remove_file(&private).unwrap();
    refused(at, "keygen --out keys --name release", 1, "release.pub exists and is never overwritten");
    assert!(!private.exists(), "no private key without its public half");
    fs::write(&private, before).unwrap();
    refused(at, "keygen --out keys --name ../release", 2, "no dot in front");
}

#[test]
fn the_folder_for_a_key_can_be_unusable() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    refused(folder.path(), "keygen --out file/k", 1, "cannot create");
    refused(folder.path(), "keygen --out file/", 1, "cannot create file");
    done(folder.path(), "keygen --out new/");
    assert!(folder.path().join("new/phaseboot.key").exists());
}

#[test]
fn an_encrypted_key_is_openssl_s_too() {
    let folder = workshop();
    let at = folder.path();
    private(&at.join("words"), b"open sesame\nsecond line\n");
    let said = json(done(at, "keygen --out e --passphrase-file words --json").as_bytes());
    assert_eq!(said["encrypted"], true);
    assert_eq!(mode(&at.join("e.key")), 0o600);
    assert!(
        fs::read_to_string(at.join("e.key")).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    );
    let openssl = run(at, "openssl", &["pkey", "-in", "e.key", "-passin", "pass:open sesame", "-pubout"]);
    let pem = String::from_utf8(openssl.stdout).unwrap();
    assert_eq!(format!("id: e\n{pem}"), fs::read_to_string(at.join("e.pub")).unwrap());
    assert!(
        !run(at, "openssl", &["pkey", "-in", "e.key", "-passin", "pass:open", "-pubout"]).status.success()
    );

    let with = |key: &str, words: &str| {
        PUBLISH
            .replace("k.key", &format!("{key} {words}"))
            .replace("--into tree", &format!("--into {key}.tree"))
    };
    done(at, &with("e.key", "--passphrase-file words"));
    private(&at.join("wrong"), b"open\n");
    refused(at, &with("e.key", "--passphrase-file wrong"), 1, "wrong passphrase for private key e.key");
    done(at, &with("e.key", "--passphrase-file wrong --passphrase-file words"));
    let twice = "--passphrase-file wrong --passphrase-file wrong";
    refused(at, &with("e.key", twice), 1, "none of the 2 passphrases fits private key e.key");

    let way = ["-scrypt", "-v2 aes-256-cbc", "-v2 aes-128-cbc -v2prf hmacWithSHA512", "-v1 PBE-SHA1-3DES"];
    for (number, way) in way.iter().enumerate() {
        let name = format!("o{number}.key");
        let make = format!(
            "openssl genpkey -algorithm ed25519 | openssl pkcs8 -topk8 {way} -passout file:words -out {name} && chmod 600 {name}"
        );
        assert!(run(at, "sh", &["-c", &make]).status.success());
        if way.contains("-v1") {
            let why = "cannot decrypt o3.key: ";
            refused(at, &with(&name, "--passphrase-file words"), 1, why);
        } else {
            done(at, &with(&name, "--passphrase-file words"));
        }
    }
}

#[test]
fn passphrase_files_are_secrets_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, bytes, said) in [
        ("empty", &b"\nsecond"[..], "the passphrase in empty is empty"),
        ("long", &[b'x'; 1025], "cannot read long: the first line has more than 1024 bytes"),
    ] {
        private(&at.join(name), bytes);
        refused(at, &format!("keygen --out e --passphrase-file {name}"), 1, said);
    }
    fs::write(at.join("open"), "x").unwrap();
    let why = "passphrase file open is open to others (mode 0644); chmod 600 open";
    refused(at, "keygen --out e --passphrase-file open", 1, why);
    refused(at, "keygen --out e --passphrase-file none", 1, "cannot open none");
    refused(at, "keygen --out e --passphrase --passphrase-file open", 2, "cannot be used with");
    // Standard input is empty here.
    refused(at, "keygen --out e --passphrase-file -", 1, "the passphrase in - is empty");
    assert!(!at.join("e.key").exists() && !at.join("e.pub").exists());
}

/// Runs phasectl on a terminal of its own and answers each question. Returns what the terminal
/// showed, and whether the command succeeded.
fn on_a_terminal(at: &Path, line: &str, answers: &[&str]) -> (String, bool) {
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_phasectl"));
    type_on_a_terminal(at, &line, |keyboard, question| {
        keyboard.write_all(answers[question].as_bytes()).unwrap();
    })
}

/// Runs any command on a terminal, and `answer` at each question for a passphrase.
fn type_on_a_terminal(
    at: &Path,
    line: &str,
    mut answer: impl FnMut(&mut ChildStdin, usize),
) -> (String, bool) {
    let mut script = Command::new("timeout")
        .args(["20", "script", "--quiet", "--return", "--command", line, "/dev/null"])
        .current_dir(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let (mut shown, mut question) = (Vec::new(), 0);
    let mut byte = [0];
    while screen.read(&mut byte).unwrap() == 1 {
        shown.push(byte[0]);
        if shown.ends_with(b"passphrase: ") || shown.ends_with(b"again: ") || shown.ends_with(b".key: ") {
            answer(&mut keyboard, question);
            question += 1;
        }
    }
    (String::from_utf8(shown).unwrap(), script.wait().unwrap().success())
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let folder = workshop();
    let at = folder.path();
    let ask = format!("echo $$ > pid; exec {} keygen --out f --passphrase", env!("CARGO_BIN_EXE_phasectl"));
    fs::write(at.join("ask"), ask).unwrap();
    fs::write(at.join("both"), "sh ask; echo code $?; stty -a").unwrap();
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130), ("QUIT", 131)] {
        let (shown, _) = type_on_a_terminal(at, "sh both", |_, _| {
            let kill = format!("stty -a < /proc/$(cat pid)/fd/0 > silent; kill -{signal} $(cat pid)");
            run(at, "sh", &["-c", &kill]);
        });
        assert!(fs::read_to_string(at.join("silent")).unwrap().contains(" -echo "), "{signal}");
        assert!(
            shown.contains("phasectl: interrupted") && shown.contains(&format!("code {code}")),
            "{shown}"
        );
        assert!(shown.contains(" echo ") && shown.contains("susp = ^Z"), "{signal}: {shown}");
    }
    assert!(!at.join("f.key").exists());
}

#[test]
fn a_terminal_is_asked_and_shows_nothing() {
    let folder = workshop();
    let at = folder.path();
    let (shown, done) = on_a_terminal(at, "keygen --out e --passphrase", &["open sesame\n", "open sesame\n"]);
    assert!(done && !shown.contains("sesame"), "{shown}");
    let publish = PUBLISH.replace("k.key", "e.key");
    let (shown, done) = on_a_terminal(at, &publish, &["open sesame\n"]);
    assert!(done && shown.starts_with("passphrase of e.key: ") && !shown.contains("sesame"), "{shown}");
    for (line, answers, said) in [
        (publish.as_str(), &["open\n"][..], "wrong passphrase for private key e.key"),
        (&publish, &["open\x03"], "interrupted"),
        ("keygen --out f --passphrase", &["a\n", "b\n"], "the two passphrases differ"),
        ("keygen --out f --passphrase", &["\n"], "the passphrase is empty"),
        ("keygen --out f --passphrase", &["a\x1b[Db\n"], "the new passphrase has a control character"),
    ] {
        let (shown, done) = on_a_terminal(at, line, answers);
        assert!(!done && shown.contains(said), "{shown}");
    }
    assert!(!at.join("f.key").exists());

    // A session without a terminal has nobody to ask.
    let alone = run(
        at,
        "setsid",
        &[&["-w", env!("CARGO_BIN_EXE_phasectl")][..], &publish.split(' ').collect::<Vec<_>>()].concat(),
    );
    let said = String::from_utf8(alone.stderr).unwrap();
    assert_eq!((alone.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(
        "cannot ask for the passphrase of e.key: there is no terminal; give it with --passphrase-file"
    ));
    let output = phasectl(at, ["keygen", "--out", "k", "--passphrase"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("k.key exists"), "before it asks");
}
