//! Trust policies, as machines read them.

use std::fs;

use crate::{done, json, refused};

#[test]
fn a_policy_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let pin = format!("sha256//{}=", "A".repeat(43));
    let policy = format!(
        r#"{{"threshold":2,"allow_unsigned":true,"cache":"LABEL=x","tls_roots":["ca.pem"],"tls_pins":["{pin}"]}}"#
    );
    fs::write(at.join("policy.json"), &policy).unwrap();
    let text = done(at, "policy check policy.json");
    for part in [
        "threshold              2\n",
        "on_fail                \"retry\"\n",
        "leases                 \"keep\"\n",
        "warning: allow_unsigned: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = json(done(at, "policy check policy.json --json").as_bytes());
    assert_eq!(
        (&said["policy"]["threshold"], &said["policy"]["channels"]),
        (&2.into(), &serde_json::json!([]))
    );
    assert_eq!((&said["policy"]["cache"], &said["policy"]["tls_pins"][0]), (&"LABEL=x".into(), &pin.into()));
    let warnings = said["warnings"].as_array().unwrap();
    assert!(
        warnings.iter().any(|warning| warning.as_str().unwrap().starts_with("settable has phase.onfail"))
    );
    // What is printed is a policy again.
    fs::write(at.join("again.json"), said["policy"].to_string()).unwrap();
    assert_eq!(json(done(at, "policy check again.json --json").as_bytes()), said);
}

#[test]
fn a_broken_policy_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (text, why) in [
        (r#"{"treshold":2}"#, "policy policy.json: unknown field `treshold`"),
        (r#"{"threshold":0}"#, "threshold is 0"),
        (r#"{"threshold":2,"root_threshold":1}"#, "root_threshold is lower than threshold"),
        (r#"{"settable":["phase.trust"]}"#, "phase.trust"),
        ("[]", "no JSON object"),
        ("", "no JSON object"),
        ("\u{1b}[31m", "no JSON object"),
    ] {
        fs::write(at.join("policy.json"), text).unwrap();
        refused(at, "policy check policy.json", 1, why);
    }
    fs::write(at.join("policy.json"), [0xff, 0xfe]).unwrap();
    refused(at, "policy check policy.json", 1, "policy policy.json: invalid utf-8");
    refused(at, "policy check none", 1, "cannot open none");
    refused(at, "policy check .", 1, ". is a directory");
    refused(at, "policy check /dev/zero", 1, "has more than 1048576 bytes");
}
