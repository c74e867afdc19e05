//! keys/README.md as its readers use it: every command of the page, in order, in one folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{bzimage, done, json, private, workshop};

/// The indented blocks of a page that are commands.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks: Vec<String> = vec![String::new()];
    for line in page.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(command), Some(block)) => *block += &format!("{command}\n"),
            _ => blocks.push(String::new()),
        }
    }
    let is_command = |block: &String| block.starts_with("phasectl ") || block.starts_with("mkdir ");
    blocks.into_iter().filter(is_command).collect()
}

#[test]
fn the_page_about_keys_does_what_it_says() {
    let folder = workshop();
    let at = folder.path();
    fs::write(at.join("bzImage"), bzimage()).unwrap();
    fs::copy(at.join("initrd"), at.join("initrd.img")).unwrap();
    fs::copy(at.join("payload"), at.join("phaseboot")).unwrap();
    private(&at.join("words"), b"open sesame\n");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("keys/README.md");
    let blocks = blocks(&fs::read_to_string(page).unwrap());
    assert!(blocks.len() >= 8, "{blocks:?}");

    let program = Path::new(env!("CARGO_BIN_EXE_phasectl")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    for line in blocks.iter().flat_map(|block| block.lines()) {
        // Nobody is there to type what protects the roots.
        let line = line.replace(" --passphrase ", " --passphrase-file words ");
        let line = if line.contains("--root ") || line.contains("--key root") && line.contains(" sign ") {
            line.replacen(" --", " --passphrase-file words --", 1)
        } else if line.ends_with(" --passphrase") {
            format!("{line}-file words")
        } else {
            line
        };
        let output =
            Command::new("sh").args(["-c", &line]).current_dir(at).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    let list = json(done(at, "keys show www --json").as_bytes())["keys"].clone();
    let mut ids: Vec<&str> =
        list["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["ci-2027", "release-2028"]);
    assert_eq!(list["revoked"].as_array().unwrap().len(), 2);
    done(at, "verify www/stable/x86_64/manifest.signed.json --trust trust --artifacts");
}
