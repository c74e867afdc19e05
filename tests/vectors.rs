//! The protocol's test vectors (proto/vectors), its example and its schemas, held against the code
//! that boots.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test may fail in any way")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use phaseboot::config::Policy;
use phaseboot::error::Exit;
use phaseboot::manifest::{self, Error, Expected, MOST_BYTES, Seen, Trust};
use phaseboot::time::UnixTime;
use serde::Deserialize;
use serde_json::Value;

const URL: &str = "http://127.0.0.1/manifest.json";
const LIST_URL: &str = "http://127.0.0.1/keys.json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    format: u32,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    shows: String,
    document: Document,
    keys_json: Option<Document>,
    trust: Packed,
    arch: String,
    channel: String,
    clock: String,
    record: Option<Record>,
    verdict: String,
    exit: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    file: String,
    #[serde(default)]
    pad_to: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Packed {
    keys: Vec<KeyFile>,
    policy: Option<Value>,
    keys_json: Option<Document>,
    build_time: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    file: String,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    pad_to: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    manifests: BTreeMap<String, u64>,
    keys_version: u64,
    revoked: BTreeSet<String>,
}

fn proto() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")
}

fn index() -> Vec<Vector> {
    let text = fs::read_to_string(proto().join("vectors/index.json")).unwrap();
    let index: Index = serde_json::from_str(&text).unwrap();
    assert_eq!(index.format, 1);
    index.vectors
}

fn pad(bytes: &mut Vec<u8>, length: usize) {
    bytes.resize(bytes.len().max(length), b' ');
}

impl Document {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = fs::read(proto().join("vectors").join(&self.file)).unwrap();
        pad(&mut bytes, self.pad_to);
        bytes
    }
}

impl Packed {
    /// The trust folder of an initramfs.
    fn write(&self, folder: &Path) {
        fs::create_dir(folder.join("keys")).unwrap();
        for key in &self.keys {
            let mut content = match (&key.text, &key.base64) {
                (Some(text), None) => text.clone().into_bytes(),
                (None, Some(base64)) => BASE64_STANDARD.decode(base64).unwrap(),
                _ => panic!("{} has no content, or two", key.file),
            };
            pad(&mut content, key.pad_to);
            fs::write(folder.join("keys").join(&key.file), content).unwrap();
        }
        let optional = [
            ("policy.json", self.policy.as_ref().map(|policy| policy.to_string().into_bytes())),
            ("keys.json", self.keys_json.as_ref().map(Document::bytes)),
            ("build-time", self.build_time.clone().map(String::into_bytes)),
        ];
        for (name, content) in optional {
            if let Some(content) = content {
                fs::write(folder.join(name), content).unwrap();
            }
        }
    }
}

impl Vector {
    /// What phaseboot says, from files and bytes on.
    fn run(&self) -> Result<(), Error> {
        let folder = tempfile::tempdir().unwrap();
        self.trust.write(folder.path());
        let seen = self.record.as_ref().map_or_else(Seen::default, |record| Seen {
            manifests: record.manifests.clone(),
            keys_version: record.keys_version,
            revoked: record.revoked.clone(),
        });
        let trust = Trust::read(folder.path())?;
        let now = Some(trust.now(UnixTime::parse_rfc3339(&self.clock).unwrap()));
        let document = self.document.bytes();
        // The download ends at the limit, before a key list is asked for.
        if document.len() > MOST_BYTES {
            return Err(Error::TooLarge { url: URL.to_owned() });
        }
        let served = self.keys_json.as_ref().map(Document::bytes);
        let authority = trust.authority(served.as_deref(), LIST_URL, &seen, now)?;
        let arch = self.arch.parse().unwrap();
        let channel = self.channel.as_str();
        let expected = Expected { arch, channel, now, seen: seen.lowest(channel, arch) };
        manifest::verify(&document, URL, &authority.keyring, trust.policy(), expected).map(drop)
    }
}

#[test]
fn phaseboot_reaches_every_verdict() {
    let mut wrong = Vec::new();
    let vectors = index();
    for vector in &vectors {
        let (verdict, exit, reason) = match vector.run() {
            Ok(()) => ("accepted", Exit::Done, String::new()),
            Err(error) => (error.verdict(), error.exit(), error.to_string()),
        };
        if (verdict, exit.code()) != (&vector.verdict, vector.exit) {
            wrong.push(format!(
                "{}: {verdict} (exit {}) instead of {} (exit {}): {} {reason}",
                vector.name,
                exit.code(),
                vector.verdict,
                vector.exit,
                vector.shows
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} vectors:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

/// The limit of the download is also the code's own.
#[test]
fn a_document_above_the_limit_is_refused_unread() {
    let vectors = index();
    let large: Vec<&Vector> = vectors.iter().filter(|vector| vector.verdict == "too-large").collect();
    assert!(!large.is_empty());
    for vector in large {
        let error = manifest::Envelope::parse(&vector.document.bytes()).unwrap_err();
        assert_eq!(error, manifest::envelope::Fault::TooLarge, "{}", vector.name);
    }
}

/// Runs one of the folder's scripts; `None` if there is no Python.
fn python(script: &str, arguments: &[&str]) -> Option<(bool, String)> {
    let script = proto().join("vectors").join(script);
    match Command::new("python3").arg("-B").arg(script).args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => {
            eprintln!("skipped: python3 cannot be run: {error}");
            None
        }
    }
}

#[test]
fn the_vectors_are_what_make_py_makes() {
    let Some((success, text)) = python("make.py", &["--check"]) else { return };
    assert!(success, "{text}");
}

#[test]
fn an_independent_verifier_agrees() {
    let Some((success, text)) = python("check.py", &[]) else { return };
    assert!(success, "{text}");
    assert!(text.ends_with(&format!("{} passed, 0 failed\n", index().len())), "{text}");
}

/// The commands of MANIFEST.md's worked example, in a copy of its folder.
#[test]
fn the_worked_example_works() {
    let tools = ["jq", "openssl", "basenc", "sha256sum"];
    if let Some(tool) = tools.iter().find(|tool| Command::new(tool).arg("--help").output().is_err()) {
        eprintln!("skipped: {tool} cannot be run");
        return;
    }
    let text = fs::read_to_string(proto().join("MANIFEST.md")).unwrap();
    let (_, after) = text.split_once("```sh\n").unwrap();
    let (script, _) = after.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(proto().join("example")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let output = Command::new("sh").args(["-euc", script]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The worked example, as a machine with its root packed reads it.
#[test]
fn the_worked_example_is_accepted() {
    let example = proto().join("example");
    let read = |name: &str| fs::read(example.join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("keys")).unwrap();
    fs::write(folder.path().join("keys/root.pub"), read("root.pub")).unwrap();
    let trust = Trust::read(folder.path()).unwrap();
    let verdict = |time: &str| {
        let now = UnixTime::parse_rfc3339(time);
        let authority = trust.authority(Some(&read("keys.json")), LIST_URL, &Seen::default(), now).unwrap();
        let arch = "x86_64".parse().unwrap();
        let expected = Expected { arch, channel: "stable", now, seen: 0 };
        let document = read("manifest.signed.json");
        manifest::verify(&document, URL, &authority.keyring, trust.policy(), expected)
            .map_or_else(|error| error.verdict(), |_| "accepted")
    };
    assert_eq!(verdict("2026-11-15T00:00:00Z"), "accepted");
    assert_eq!(verdict("2026-12-01T00:01:00Z"), "expired");
}

fn schema(name: &str) -> jsonschema::Validator {
    let text = fs::read_to_string(proto().join(name)).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

fn json(path: impl AsRef<Path>) -> Option<Value> {
    serde_json::from_slice(&fs::read(proto().join(path)).unwrap()).ok()
}

/// What signers write: the documents of accepted vectors, but for those that show what readers
/// tolerate beyond that.
#[test]
fn the_schemas_take_what_signers_write() {
    let tolerated = [
        "accepted-null",
        "keyid-missing",
        "expired-no-expiry-null",
        "signed-with-plasmds-artifacts",
        "keys-null-times",
    ];
    let (manifests, keys) = (schema("manifest.schema.json"), schema("keys.schema.json"));
    assert!(manifests.is_valid(&json("example/manifest.signed.json").unwrap()));
    assert!(keys.is_valid(&json("example/keys.json").unwrap()));
    let vectors = index();
    let accepted =
        |vector: &&Vector| vector.verdict == "accepted" && !tolerated.contains(&vector.name.as_str());
    for vector in vectors.iter().filter(accepted) {
        let valid = |schema: &jsonschema::Validator, document: &Value| {
            if let Err(error) = schema.validate(document) {
                panic!("{}: {error} at {}", vector.name, error.instance_path());
            }
        };
        let document = json(Path::new("vectors").join(&vector.document.file)).unwrap();
        if document.get("signed").is_some() {
            valid(&manifests, &document);
        }
        if let Some(list) = &vector.keys_json {
            valid(&keys, &json(Path::new("vectors").join(&list.file)).unwrap());
        }
    }
}

/// Vectors whose fields are out of bounds, which a schema can say too.
#[test]
fn the_schemas_refuse_what_is_out_of_bounds() {
    // Bounds in bytes, a calendar, and the relation of two fields are beyond a schema.
    let beyond = [
        "content-cmdline-long",
        "content-expires-no-day",
        "keys-bad-threshold-above-keys",
        "content-expires-hour-24",
        "content-expires-offset-24",
        "content-expires-offset-minute-60",
        "content-expires-before-1970",
        "content-expires-before-1970-by-offset",
        "keys-bad-id-twice",
        "keys-bad-entry-twice",
        "keys-bad-key-twice",
        "keys-bad-key-small-order",
        "keys-bad-key-no-point",
        "keys-bad-revoked-and-named",
    ];
    let (manifests, keys) = (schema("manifest.schema.json"), schema("keys.schema.json"));
    let vectors = index();
    let mut refused = 0;
    for vector in vectors.iter().filter(|vector| !beyond.contains(&vector.name.as_str())) {
        let name = &vector.name;
        let (schema, document) = if name.starts_with("content-") && vector.verdict == "malformed" {
            (&manifests, &vector.document)
        } else if name.starts_with("keys-bad-") {
            (&keys, vector.keys_json.as_ref().unwrap())
        } else {
            continue;
        };
        assert!(!schema.is_valid(&json(Path::new("vectors").join(&document.file)).unwrap()), "{name}");
        refused += 1;
    }
    assert!(refused > 50, "{refused}");
    // No document of one kind passes for the other.
    assert!(!keys.is_valid(&json("example/manifest.signed.json").unwrap()));
    assert!(!manifests.is_valid(&json("example/keys.json").unwrap()));
}

#[test]
fn the_policy_schema_agrees_with_the_code() {
    let schema = schema("policy.schema.json");
    for vector in index() {
        let Some(policy) = &vector.trust.policy else { continue };
        // A schema cannot hold one number against another.
        if vector.name == "policy-bad-root-threshold-lower" {
            continue;
        }
        assert_eq!(schema.is_valid(policy), !vector.name.starts_with("policy-bad-"), "{}", vector.name);
    }
}

#[test]
fn the_schema_and_the_code_agree_on_names_of_records() {
    let schema = schema("policy.schema.json");
    for (name, is_good) in [
        ("acme-2", true),
        (&"a".repeat(32), true),
        (&"a".repeat(33), false),
        ("", false),
        ("A", false),
        ("a.b", false),
    ] {
        let policy = serde_json::json!({ "record_name": name });
        assert_eq!(schema.is_valid(&policy), is_good, "{name}");
        assert_eq!(Policy::parse(&policy.to_string()).is_ok(), is_good, "{name}");
    }
}
