//! What happens to the published tree before a boot: what its owner publishes with phasectl, and what
//! somebody does to it who has the mirror and no key.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::arch::Arch;
use crate::disk::checksum;
use crate::kernels::Id;
use crate::run;
use crate::stage::Stage;

/// The manifest and the key list beside it, as the machine asks for them. The owner has the list at
/// the root of the tree, too: a tree without a release has it nowhere else.
const MANIFEST: &str = "manifest.signed.json";
const KEYS: &str = "keys.json";
/// The channels of a chain of kernels, in its order; releases that are no chain go into the first.
const CHANNELS: [&str; 3] = ["stable", "second", "third"];

/// A step of the owner or of the attacker. Keys go by the names that the scenario gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A release with this version, signed by these keys.
    Release { version: u64, keys: &'static [&'static str] },
    /// A release for each kernel on the way, each in a channel of its own: the last is the scenario's.
    Chain { keys: &'static [&'static str] },
    /// One more signature under the manifest that is there, made by somebody else.
    Sign { key: &'static str },
    /// A key list signed by `root`: what the last one had, and these.
    Add { root: &'static str, keys: &'static [&'static str] },
    /// A key list signed by `root` that revokes this one.
    Revoke { root: &'static str, key: &'static str },
    /// What plasmd serves by itself: kernel, initramfs, and a manifest that nobody signed.
    Plasmd,
    /// The release of the other architecture, laid where this machine looks.
    OtherArch { key: &'static str },
    /// A manifest of this version that was there before takes its place again.
    ReplayManifest(u64),
    /// The same with the key list.
    ReplayKeys(u64),
    /// The key list is gone.
    WithholdKeys,
    /// One byte that was signed in the key list is another.
    TamperKeys,
}

/// The kernel and initramfs of a scenario's releases.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) kernel: Id,
    /// That kernel as it is published.
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) dtb: Option<PathBuf>,
    /// If it is empty, the kernel has one of its own.
    pub(crate) cmdline: String,
    /// What the kernels before the last one have of a chain: how many there are, the initramfs, and what
    /// their command lines have beside the channel.
    pub(crate) before: (usize, PathBuf, String),
    /// Where the tree can be had, if manifests have to say so: URLs, the first one first.
    pub(crate) mirrors: Vec<String>,
}

/// The parameter on the next kernel's command line that tells a release.
pub(crate) fn release_mark(version: u64) -> String {
    format!("lab.release={version}")
}

impl Change {
    /// Makes it, for a machine of `arch`.
    pub(crate) fn make(self, stage: &Stage<'_>, content: &Content, arch: Arch) -> Result<()> {
        let tree = Tree { stage, folder: stage.site().join(CHANNELS[0]).join(arch.manifest()) };
        match self {
            Self::Release { version, keys } => {
                tree.release(CHANNELS[0], content, Some(version), keys)?;
                tree.keep(&tree.folder.join(MANIFEST), "manifest_version")
            }
            Self::Chain { keys } => {
                let (hops, initramfs, cmdline) = &content.before;
                ensure!(
                    *hops <= CHANNELS.len(),
                    "a chain of {hops}: the lab has {} channels",
                    CHANNELS.len()
                );
                for (channel, next) in CHANNELS.iter().zip(&CHANNELS[1..]).take(hops - 1) {
                    let content = Content {
                        initramfs: initramfs.clone(),
                        cmdline: format!("{cmdline} phase.channel={next}"),
                        ..content.clone()
                    };
                    tree.release(channel, &content, Some(1), keys)?;
                }
                tree.release(CHANNELS[hops - 1], content, Some(1), keys)
            }
            Self::Sign { key } => {
                let mut sign = stage.phasectl("sign");
                sign.arg(tree.folder.join(MANIFEST)).arg("--key").arg(stage.key(key)?.private);
                run::quiet(&mut sign)?;
                tree.keep(&tree.folder.join(MANIFEST), "manifest_version")
            }
            Self::Add { root, keys } => {
                let mut rotate = tree.key_command("rotate", root)?;
                for key in keys {
                    rotate.arg("--add").arg(stage.key(key)?.public);
                }
                run::quiet(&mut rotate)?;
                tree.keep(&stage.site().join(KEYS), "keys_version")
            }
            Self::Revoke { root, key } => {
                let mut revoke = tree.key_command("revoke", root)?;
                revoke.arg(stage.key(key)?.public);
                run::quiet(&mut revoke)?;
                tree.keep(&stage.site().join(KEYS), "keys_version")
            }
            Self::Plasmd => tree.plasmd(content),
            Self::OtherArch { key } => {
                tree.release(CHANNELS[0], content, None, &[key])?;
                let theirs = stage.site().join(CHANNELS[0]).join(content.kernel.arch().manifest());
                fs::rename(theirs, &tree.folder).context("cannot lay out the other's release")
            }
            Self::ReplayManifest(version) => tree.replay(MANIFEST, version),
            Self::ReplayKeys(version) => tree.replay(KEYS, version),
            Self::WithholdKeys => {
                fs::remove_file(tree.folder.join(KEYS)).context("no key list to be withheld")
            }
            Self::TamperKeys => tree.tamper(KEYS),
        }
    }
}

/// The folder of the published tree that the machine sees.
struct Tree<'a> {
    stage: &'a Stage<'a>,
    folder: PathBuf,
}

impl Tree<'_> {
    fn release(&self, channel: &str, content: &Content, version: Option<u64>, keys: &[&str]) -> Result<()> {
        let keys = keys.iter().map(|name| self.stage.key(name)).collect::<Result<Vec<_>>>()?;
        let mark = version.map(|version| format!(" {}", release_mark(version))).unwrap_or_default();
        let arch = content.kernel.arch();
        let mut publish = self.stage.publish(channel, arch, &content.image, &content.initramfs);
        for mirror in &content.mirrors {
            publish.args(["--url-base", mirror]);
        }
        if let Some(dtb) = &content.dtb {
            publish.arg("--dtb").arg(dtb);
        }
        for key in &keys {
            publish.arg("--key").arg(&key.private);
        }
        if let Some(version) = version {
            publish.args(["--manifest-version", &version.to_string()]);
        }
        if !content.cmdline.is_empty() {
            // With "=": a command line may begin with a dash.
            publish.arg(format!("--cmdline={}{mark}", content.cmdline));
        }
        run::quiet(&mut publish)
    }

    fn key_command(&self, command: &str, root: &str) -> Result<Command> {
        let mut keys = self.stage.phasectl("keys");
        keys.arg(command).arg("--root").arg(self.stage.key(root)?.private);
        // Whatever is published may become worthless: what machines say to that is what is tested.
        keys.arg("--force");
        keys.arg("--into").arg(self.stage.site());
        Ok(keys)
    }

    /// Remembers what is served now, as anybody can who is served.
    fn keep(&self, document: &Path, version: &str) -> Result<()> {
        let text = fs::read(document).with_context(|| format!("cannot read {}", document.display()))?;
        let content: Value = serde_json::from_slice(&text)?;
        let version = content[version].as_u64().with_context(|| format!("no {version}"))?;
        let name = document.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let kept = self.kept(name, version);
        fs::write(&kept, text).with_context(|| format!("cannot write {}", kept.display()))
    }

    fn replay(&self, document: &str, version: u64) -> Result<()> {
        let kept = self.kept(document, version);
        fs::copy(&kept, self.folder.join(document))
            .map(drop)
            .with_context(|| format!("{document} of version {version} was never published"))
    }

    fn kept(&self, document: &str, version: u64) -> PathBuf {
        self.stage.path(&format!("kept-{version}-{document}"))
    }

    /// Replaces a character in the middle of `signed.data`, which stays base64, and what is outside
    /// stays as it was.
    fn tamper(&self, document: &str) -> Result<()> {
        let path = self.folder.join(document);
        let mut content: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let data = content["signed"]["data"].as_str().context("signed.data is missing")?;
        let (before, after) = data.split_at(data.len() / 2);
        let other = if after.starts_with('A') { 'B' } else { 'A' };
        let tampered = format!("{before}{other}{}", after.get(1..).unwrap_or_default());
        content["signed"]["data"] = tampered.into();
        Ok(fs::write(&path, content.to_string())?)
    }

    fn plasmd(&self, content: &Content) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let arch = content.kernel.arch().manifest();
        let mut artifacts = serde_json::Map::new();
        for (name, source) in [("kernel", &content.image), ("initramfs", &content.initramfs)] {
            artifacts.insert(name.to_owned(), self.plasmd_artifact(arch, name, source)?);
        }
        let manifest = json!({
            "arch": arch,
            "artifacts": artifacts,
            "channel": "stable",
            "created_at": "2026-01-01T00:00:00Z",
            "expires_at": "2099-01-01T00:00:00Z",
            "manifest_version": 1,
            "signatures": [],
            "version": "0.1.0",
        });
        Ok(fs::write(self.folder.join("manifest.json"), manifest.to_string())?)
    }

    fn plasmd_artifact(&self, arch: &str, name: &str, source: &Path) -> Result<Value> {
        let copy = self.folder.join(name);
        let size = fs::copy(source, &copy).with_context(|| format!("cannot copy {}", source.display()))?;
        Ok(json!({
            "download_url": format!("/stable/{arch}/{name}"),
            "filename": name,
            "hash": format!("sha256:{}", checksum(&copy)?),
            "size_bytes": size,
        }))
    }
}
