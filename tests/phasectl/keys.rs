//! Key lists: made, changed, withdrawn, and refused.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::{PUBLISH, done, json, phasectl, publish, refused, run, trust, workshop};

const MANIFEST: &str = "tree/stable/x86_64/manifest.signed.json";

/// A tree signed by `k`, with a key list by the roots `r1` and `r2` that names it.
fn listed(at: &Path) {
    for name in ["r1", "r2", "next"] {
        done(at, &format!("keygen --out {name}"));
    }
    trust(at, "trust", &["r1.pub", "r2.pub"], r#"{"root_threshold":2}"#);
    publish(at, "stable", "");
    done(at, "keys rotate --root r1.key --root r2.key --add k.pub --into tree");
}

fn list(at: &Path) -> Value {
    json(&fs::read(at.join("tree/keys.json")).unwrap())
}

#[test]
fn a_signing_key_is_replaced_without_a_gap() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    let verify = format!("verify {MANIFEST} --trust trust");
    done(at, &verify);
    done(at, &format!("{PUBLISH} --draft draft.json"));
    refused(
        at,
        "sign draft.json --into tree --threshold 1 --public k.pub",
        1,
        "tree has a key list, which decides whose signatures count: give --trust DIR",
    );
    done(at, "sign draft.json --into tree --trust trust");
    assert_eq!(
        fs::read(at.join("tree/keys.json")).unwrap(),
        fs::read(at.join("tree/stable/x86_64/keys.json")).unwrap()
    );
    let roots = "--root r1.key --root r2.key";
    refused(
        at,
        &format!("keys rotate {roots} --drop k.pub --add next.pub --into tree"),
        1,
        "under this key list machines would refuse what lives in the tree",
    );
    done(at, &format!("keys rotate {roots} --add next.pub --into tree --expires 90d"));
    done(at, &format!("sign {MANIFEST} --key next.key"));
    done(at, &format!("keys rotate {roots} --drop k.pub --into tree --trust trust"));
    assert_eq!(list(at)["keys_version"], 3);
    assert!(list(at)["expires_at"].is_string(), "as long as before");
    done(at, &verify);
    // The old key alone is not enough any more, for publish and for machines.
    refused(at, PUBLISH, 1, "not published, because phaseboot would refuse it");
    refused(at, &format!("{PUBLISH} --trust trust"), 1, "not signed by a trusted key");
    done(at, &PUBLISH.replace("k.key", "next.key"));
    // A new channel has the list from the start.
    done(at, &format!("{} --channel beta", PUBLISH.replace("k.key", "next.key")));
    assert_eq!(
        fs::read(at.join("tree/keys.json")).unwrap(),
        fs::read(at.join("tree/beta/x86_64/keys.json")).unwrap()
    );
}

#[test]
fn a_revoked_key_counts_for_nothing() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    let id = list(at)["keys"][0]["key"].clone();
    let revoke = "keys revoke --root r1.key --root r2.key k.pub --into tree";
    refused(at, revoke, 1, "nothing could boot under this key list: 1 keys must sign, but at most 0");
    refused(at, &format!("{revoke} --add next.pub"), 1, "k");
    done(at, &format!("{revoke} --add next.pub --force"));
    assert_eq!(list(at)["revoked"].as_array().unwrap().len(), 1);
    assert_ne!(list(at)["keys"][0]["key"], id);
    refused(at, &format!("verify {MANIFEST} --trust trust"), 13, "not signed by a trusted key");
    trust(at, "both", &["r1.pub", "r2.pub", "k.pub"], "{}");
    refused(at, &format!("verify {MANIFEST} --trust both"), 13, "is revoked");
    let rotate = "keys rotate --root r1.key --root r2.key --into tree";
    refused(at, &format!("{rotate} --add k.pub"), 1, "is revoked; make a new key");
    refused(
        at,
        "keys revoke --root r1.key --root r2.key r1.pub --into tree",
        1,
        "a key cannot vouch for the list that revokes it",
    );
    // By name, by fingerprint; what is neither is no key.
    done(at, "keygen --out more");
    done(at, &format!("{rotate} --add more.pub --force"));
    let mistyped = "keys revoke --root r1.key --root r2.key more 00112233aabbccdd --into tree";
    refused(at, mistyped, 1, "00112233aabbccdd is no key in the list, nor is one known from --trust");
    refused(at, &format!("{mistyped} --trust trust"), 1, "no key in the list and none that is packed");
    done(at, "keys revoke --root r1.key --root r2.key more 00112233aabbccdd --into tree --force");
    assert_eq!(list(at)["revoked"].as_array().unwrap().len(), 3);
    refused(at, &format!("{rotate} --drop nobody"), 1, "nobody is no id in the key list, no fingerprint");
    refused(at, &format!("{rotate} --drop more.pub"), 1, "the key list does not name it");
}

#[test]
fn lists_under_which_nothing_could_boot_are_not_made() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out r1");
    let rotate = "keys rotate --root r1.key --file keys.json";
    refused(at, rotate, 1, "nothing could boot under this key list");
    refused(at, &format!("{rotate} --add k.pub --threshold 2"), 1, "2 keys must sign, but at most 1");
    refused(at, &format!("{rotate} --add k.pub --threshold 0"), 2, "0");
    let public = fs::read_to_string(at.join("k.pub")).unwrap();
    fs::write(at.join("old.pub"), format!("not-after: 2020-01-01T00:00:00Z\n{public}")).unwrap();
    refused(at, &format!("{rotate} --add old.pub"), 1, "at most 0");
    fs::write(at.join("odd.pub"), format!("chanels: beta\n{public}")).unwrap();
    refused(at, &format!("{rotate} --add odd.pub"), 1, "\"chanels:\" is not understood");
    trust(at, "trust", &["r1.pub"], r#"{"threshold":1,"root_threshold":2}"#);
    refused(at, &format!("{rotate} --add k.pub --trust trust"), 13, "the policy asks for 2 signatures");
    refused(at, &format!("{rotate} --add k.pub --into tree"), 2, "cannot be used with");
    refused(at, "keys rotate --add k.pub --file keys.json", 2, "--root");
    assert!(!at.join("keys.json").exists());
    fs::write(
        at.join("beta.pub"),
        format!("channels: beta\nnot-after: 2120-01-01T00:00:00Z\n{public}").replace("id: k\n", "id: ci\n"),
    )
    .unwrap();
    done(at, &format!("{rotate} --add beta.pub"));
    let text = done(at, "keys show keys.json");
    assert!(text.contains(" ci, beta, until 2120-01-01T00:00:00Z"), "{text}");
    assert_eq!(json(done(at, "keys show keys.json --json").as_bytes())["keys"]["keys"][0]["id"], "ci");
    assert!(done(at, "inspect keys.json").starts_with("key list version 1, 1 of 1 must sign"));
    publish(at, "stable", "");
    refused(at, &format!("keys show {MANIFEST}"), 12, "it is a manifest, no key list");
}

#[test]
fn only_a_genuine_list_is_built_upon() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    let path = at.join("tree/keys.json");
    let genuine = fs::read(&path).unwrap();
    // Somebody who can write into the tree names a key of his own.
    done(at, "keygen --out thief");
    let raw = run(at, "openssl", &["pkey", "-pubin", "-in", "thief.pub", "-outform", "DER"]).stdout;
    let mut tampered = list(at);
    let theirs = STANDARD.encode(&raw[raw.len() - 32..]);
    tampered["keys"][0]["key"] = theirs.as_str().into();
    fs::write(&path, tampered.to_string()).unwrap();
    let rotate = "keys rotate --root r1.key --root r2.key --add next.pub --into tree";
    refused(at, rotate, 12, "what stands outside signed.data differs");
    refused(
        at,
        "verify tree/keys.json --trust trust",
        12,
        "key list tree/keys.json is malformed: what stands outside",
    );
    let mut inner = json(&STANDARD.decode(tampered["signed"]["data"].as_str().unwrap()).unwrap());
    inner["keys"][0]["key"] = theirs.as_str().into();
    tampered["signed"]["data"] = STANDARD.encode(inner.to_string()).into();
    fs::write(&path, tampered.to_string()).unwrap();
    let why = "cannot tell whether tree/keys.json is genuine: it is not signed by every --root key";
    refused(at, rotate, 1, why);
    refused(at, &format!("{rotate} --trust trust"), 13, "not signed by the packed keys");
    fs::copy(&path, at.join("tree/stable/x86_64/keys.json")).unwrap();
    refused(
        at,
        &format!("verify {MANIFEST} --trust trust"),
        13,
        "key list tree/stable/x86_64/keys.json is not signed",
    );
    refused(at, "verify tree/keys.json --trust trust", 13, "0 of 2 needed");
    fs::write(&path, "{").unwrap();
    refused(at, rotate, 12, "malformed");

    // An old list that comes back.
    fs::write(&path, &genuine).unwrap();
    done(at, rotate);
    fs::write(at.join("old.json"), &genuine).unwrap();
    refused(
        at,
        "sign old.json --key-list --into tree --trust trust",
        1,
        "key list version 1 is not newer than tree/keys.json",
    );
    trust(at, "later", &["r1.pub", "r2.pub"], r#"{"min_keys_version":2}"#);
    refused(at, &format!("verify {MANIFEST} --trust later --keys old.json"), 14, "has version 1; 2 or newer");
    refused(at, "verify old.json --trust later", 14, "has version 1; 2 or newer");
    done(at, &format!("verify {MANIFEST} --trust later"));
    // A machine that has a newer one packed.
    fs::copy(&path, at.join("trust/keys.json")).unwrap();
    refused(at, &format!("verify {MANIFEST} --trust trust --keys old.json"), 14, "has version 1; 2 or newer");
}

#[test]
fn two_roots_in_two_places_make_a_list() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    let before = fs::read(at.join("tree/keys.json")).unwrap();
    refused(at, "keys rotate --root r1.key --add next.pub --into tree --trust trust", 13, "1 of 2 needed");
    done(at, "keys rotate --root r1.key --add next.pub --into tree --draft draft.json");
    assert_eq!(fs::read(at.join("tree/keys.json")).unwrap(), before);
    refused(at, "sign draft.json --key-list --into tree --trust trust", 13, "1 of 2 needed");
    let said = done(at, "sign draft.json --key-list --key r2.key --into tree --trust trust");
    assert!(said.contains("key list version 2, 1 of 2 must sign"), "{said}");
    assert_eq!(list(at)["keys_version"], 2);
    assert_eq!(
        fs::read(at.join("tree/keys.json")).unwrap(),
        fs::read(at.join("tree/stable/x86_64/keys.json")).unwrap()
    );
    done(at, &format!("verify {MANIFEST} --trust trust"));
    refused(
        at,
        "keys rotate --draft d --into tree --add next.pub",
        1,
        "it is not signed by every --root key",
    );
    done(at, "keys rotate --draft d --into tree --add next.pub --trust trust");
}

#[test]
fn one_change_of_the_list_at_a_time() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    let lock = fs::File::open(at.join("tree")).unwrap();
    lock.lock_shared().unwrap();
    refused(
        at,
        "keys rotate --root r1.key --root r2.key --add next.pub --into tree",
        1,
        "another phasectl is at work in tree, for more than 10 s",
    );
    // Who has no key waits for nothing.
    refused(at, "keys rotate --root none.key --into tree", 1, "cannot open none.key");
    done(at, PUBLISH);
}

const ROOTS: &str = "--root r1.key --root r2.key";
const BESIDE: &str = "tree/stable/x86_64/keys.json";

/// A tree whose list is at version 2 and revokes `k`; `old.json` is version 1, `last.json` version 2.
fn revoked(at: &Path) {
    listed(at);
    fs::copy(at.join("tree/keys.json"), at.join("old.json")).unwrap();
    done(at, &format!("sign {MANIFEST} --key next.key"));
    let said = done(at, &format!("keys revoke {ROOTS} k.pub --add next.pub --into tree"));
    assert!(said.contains("keep a copy of this list (version 2): --last"), "{said}");
    fs::copy(at.join("tree/keys.json"), at.join("last.json")).unwrap();
}

#[test]
fn an_old_list_that_was_put_back_is_not_built_upon() {
    let folder = workshop();
    let at = folder.path();
    revoked(at);
    let newest = fs::read(at.join(BESIDE)).unwrap();
    fs::copy(at.join("old.json"), at.join("tree/keys.json")).unwrap();
    let why = "tree/keys.json: key list version 1 is not newer than tree/stable/x86_64/keys.json, which has version 2";
    let publish = PUBLISH.replace("k.key", "next.key");
    done(at, "keygen --out more");
    let rotate = format!("keys rotate {ROOTS} --add more.pub --into tree");
    for line in [
        rotate.clone(),
        format!("{rotate} --force"),
        format!("{rotate} --draft draft.json"),
        format!("keys revoke {ROOTS} next.pub --add more.pub --into tree --force"),
        publish.clone(),
        format!("{publish} --trust trust"),
        format!("{publish} --channel beta"),
        format!("sign {MANIFEST} --into tree --trust trust"),
    ] {
        refused(at, &line, 1, why);
    }
    assert_eq!(fs::read(at.join(BESIDE)).unwrap(), newest, "never overwritten");
    // Everywhere: only who kept the last list can tell.
    fs::copy(at.join("old.json"), at.join(BESIDE)).unwrap();
    refused(at, &format!("{rotate} --last old.json --add k.pub --trust none"), 13, "no trusted key");
    done(at, &format!("{rotate} --last last.json"));
    assert_eq!(list(at)["keys_version"], 3);
    assert_eq!(list(at)["revoked"].as_array().unwrap().len(), 1);
    assert_eq!(fs::read(at.join(BESIDE)).unwrap(), fs::read(at.join("tree/keys.json")).unwrap());
    // What was kept is not the last.
    refused(
        at,
        &format!("{rotate} --last last.json"),
        1,
        "last.json: key list version 2 is not newer than tree/keys.json",
    );
    // A list that lacks a revocation, under whichever version.
    let forked = format!("keys rotate {ROOTS} --add k.pub --file fork.json");
    for _ in 0..4 {
        done(at, &forked);
    }
    refused(
        at,
        "sign fork.json --key-list --into tree --trust trust",
        1,
        "fork.json: key list version 4 does not revoke",
    );
    fs::copy(at.join("fork.json"), at.join("tree/keys.json")).unwrap();
    refused(at, &rotate, 1, "tree/keys.json: key list version 4 does not revoke");
    refused(at, &publish, 1, "tree/keys.json: key list version 4 does not revoke");
}

#[test]
fn a_list_that_was_kept_stands_in_for_one_that_is_gone() {
    let folder = workshop();
    let at = folder.path();
    revoked(at);
    fs::remove_file(at.join("tree/keys.json")).unwrap();
    let why = "tree/stable/x86_64/keys.json is there, but tree/keys.json is gone";
    let publish = PUBLISH.replace("k.key", "next.key");
    let rotate = format!("keys rotate {ROOTS} --into tree");
    for line in [&publish, &rotate, &format!("sign {MANIFEST} --into tree --trust trust")] {
        refused(at, line, 1, why);
    }
    refused(
        at,
        &format!("{rotate} --last old.json"),
        1,
        "old.json: key list version 1 is not newer than tree/stable",
    );
    done(at, &format!("{rotate} --last last.json"));
    assert_eq!(list(at)["keys_version"], 3);
    // The same for a list that lies alone.
    refused(
        at,
        &format!("keys rotate {ROOTS} --last old.json --file last.json"),
        1,
        "old.json: key list version 1 is not newer than last.json",
    );
    done(at, &format!("keys rotate {ROOTS} --last last.json --file old.json"));
    assert_eq!(json(&fs::read(at.join("old.json")).unwrap())["keys_version"], 3);
}

#[test]
fn a_root_that_was_forgotten_stops_nobody() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    let before = fs::read(at.join("tree/keys.json")).unwrap();
    let one = "keys rotate --root r1.key --add next.pub --into tree";
    refused(at, one, 1, "the last key list is signed by ");
    // As many as before, but not the same.
    done(at, "keygen --out r3");
    done(at, "keys rotate --root r1.key --add next.pub --into tree --draft draft.json");
    done(at, "sign draft.json --key-list --key r3.key");
    refused(
        at,
        "sign draft.json --key-list --into tree --threshold 1 --public r1.pub",
        1,
        "give --trust DIR or --force",
    );
    fs::copy(at.join("tree/keys.json"), at.join("alone.json")).unwrap();
    refused(at, "keys rotate --root r1.key --file alone.json", 1, "sign with every --root");
    assert_eq!(fs::read(at.join("tree/keys.json")).unwrap(), before);
    trust(at, "any", &["r1.pub", "r2.pub"], "{}");
    done(at, &format!("{one} --trust any"));
    done(at, "keys rotate --root r1.key --into tree");
    done(at, "keygen --out r4");
    done(at, "keys rotate --root r1.key --root r4.key --add k.pub --file four.json");
    refused(at, "keys rotate --root r4.key --file four.json", 1, "give --trust DIR or --force");
    done(at, "keys rotate --root r4.key --file four.json --force");
}

#[test]
fn what_is_broken_in_the_tree_does_not_hold_up_a_revocation() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    done(at, &format!("sign {MANIFEST} --key next.key"));
    // One that is broken, one that nobody accepted before, and a key list that is none.
    for name in ["broken", "foreign"] {
        fs::create_dir_all(at.join("tree").join(name).join("x86_64")).unwrap();
    }
    fs::write(at.join("tree/broken/x86_64/manifest.signed.json"), "{").unwrap();
    fs::write(at.join("tree/broken/x86_64/keys.json"), "{").unwrap();
    done(at, "keygen --out stranger");
    let foreign = PUBLISH.replace("k.key", "stranger.key").replace("--into tree", "--into elsewhere");
    done(at, &format!("{foreign} --channel foreign"));
    fs::copy(
        at.join("elsewhere/foreign/x86_64/manifest.signed.json"),
        at.join("tree/foreign/x86_64/manifest.signed.json"),
    )
    .unwrap();
    let line = format!("keys revoke {ROOTS} k.pub --add next.pub --into tree");
    let output = phasectl(at, line.split_ascii_whitespace());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("passed over: manifest tree/broken/x86_64/manifest.signed.json is malformed"),
        "{said}"
    );
    for name in ["broken", "foreign"] {
        let copy = fs::read(at.join("tree").join(name).join("x86_64/keys.json")).unwrap();
        assert_eq!(copy, fs::read(at.join("tree/keys.json")).unwrap());
    }
}

#[test]
fn a_change_that_was_killed_is_done_again() {
    let folder = workshop();
    let at = folder.path();
    listed(at);
    fs::create_dir_all(at.join("tree/plain/x86_64")).unwrap();
    fs::write(at.join("tree/plain/x86_64/manifest.json"), "{}").unwrap();
    fs::create_dir_all(at.join("tree/empty/x86_64")).unwrap();
    // The root's list comes first: what a file cannot be put over stops it right after.
    let left = ["tree/.phasectl-abc", "tree/empty/x86_64/.phasectl-abc"].map(|name| at.join(name));
    left.iter().for_each(|path| fs::write(path, "half").unwrap());
    fs::remove_file(at.join(BESIDE)).unwrap();
    fs::create_dir_all(at.join(BESIDE).join("in the way")).unwrap();
    let rotate = format!("keys rotate {ROOTS} --add next.pub --into tree");
    let output = phasectl(at, rotate.split_ascii_whitespace());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(list(at)["keys_version"], 2, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(left.iter().all(|path| !path.exists()));
    fs::remove_dir_all(at.join(BESIDE)).unwrap();
    done(at, &rotate);
    let newest = fs::read(at.join("tree/keys.json")).unwrap();
    assert_eq!(fs::read(at.join(BESIDE)).unwrap(), newest);
    assert_eq!(fs::read(at.join("tree/plain/x86_64/keys.json")).unwrap(), newest, "beside an unsigned one");
    assert!(!at.join("tree/empty/x86_64/keys.json").exists());
}
