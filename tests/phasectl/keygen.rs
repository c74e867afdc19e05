//! Key pairs.

use std::fs;

use sha2::{Digest, Sha256};

use crate::{done, json, mode, refused, run};

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
    assert_eq!(pem, fs::read(&public).unwrap());

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
}
