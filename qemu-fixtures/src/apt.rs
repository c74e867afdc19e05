//! Debian packages: which version apt knows, with which checksum; and the download.
//! Asking apt takes a second or more, so its answers are kept for a day.
//!
//! A suite that this machine does not read is read with a configuration of our own, below the cache:
//! its own source list and lists, the mirror taken from the machine's sources.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::arch::Arch;
use crate::{folders, run};

/// How long an answer of apt's is believed, if its lists stay as they are.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long the lists of another suite serve: as long as it takes to look for several packages.
const FRESH: Duration = Duration::from_secs(600);

/// What is looked for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Package names, the best first.
    pub(crate) names: &'a [&'a str],
    /// How the version has to begin: `6.1.`
    pub(crate) version: &'a str,
    /// None: a package for all architectures.
    pub(crate) arch: Option<Arch>,
    /// The suite that has it where this machine's own do not.
    pub(crate) suite: &'static str,
}

/// A package in one version, as its archive describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deb {
    name: String,
    version: String,
    /// Of the .deb, in hexadecimal.
    sha256: String,
    depends: String,
    source: Source,
}

/// Whose apt configuration knows a package.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Source {
    /// The architecture to ask for, if it matters.
    arch: Option<Arch>,
    /// APT_CONFIG; None: the machine's own.
    config: Option<PathBuf>,
}

impl fmt::Display for Deb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl Source {
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8");
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        command
    }

    fn spec(&self, name: &str) -> String {
        match self.arch {
            Some(arch) => format!("{name}:{}", arch.debian()),
            None => name.to_owned(),
        }
    }

    /// Every version of the package that this source knows, the newest first.
    fn versions(&self, name: &str) -> Vec<Deb> {
        // apt-cache fails for a name that it does not know.
        let shown = run::text(self.apt("apt-cache").arg("show").arg(self.spec(name))).unwrap_or_default();
        shown.split("\n\n").filter_map(|stanza| self.parse(stanza)).collect()
    }

    fn parse(&self, stanza: &str) -> Option<Deb> {
        let field = |name: &str| {
            let value = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(|value| value.trim().to_owned())
        };
        Some(Deb {
            name: field("Package")?,
            version: field("Version")?,
            sha256: field("SHA256")?,
            depends: field("Depends").unwrap_or_default(),
            source: self.clone(),
        })
    }

    fn find(&self, wanted: &Wanted<'_>) -> Option<Deb> {
        let all = wanted.names.iter().flat_map(|name| self.versions(name));
        all.into_iter().find(|deb| deb.version.starts_with(wanted.version))
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arch = self.arch.map_or("all", Arch::debian);
        write!(f, "{}_{}_{arch}_{}", self.names.join("+"), self.version, self.suite)
    }
}

/// The newest package that fits, from this machine's suites, else from another.
pub(crate) fn resolve(wanted: &Wanted<'_>) -> Result<Deb> {
    remembered(&wanted.to_string(), || look(wanted))
}

/// The kernel image that the newest metapackage that fits depends on.
pub(crate) fn resolve_image(metapackage: &Wanted<'_>) -> Result<Deb> {
    remembered(&format!("{metapackage}_image"), || look(metapackage)?.image_of_metapackage())
}

/// An answer of apt's, and the state of its lists when it was given.
#[derive(Serialize, Deserialize)]
struct Answer {
    lists: Option<SystemTime>,
    deb: Deb,
}

/// The kept answer to `question`, else apt's own, which is kept.
fn remembered(question: &str, ask: impl FnOnce() -> Result<Deb>) -> Result<Deb> {
    let folder = folders::cache()?.join("apt/answers");
    let path = folder.join(format!("{question}.json"));
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let lists = changed(Path::new("/var/lib/apt/lists"));
    let young = changed(&path).and_then(|at| at.elapsed().ok()).is_some_and(|age| age < KEPT);
    let kept = fs::read(&path).ok().filter(|_| young);
    if let Some(answer) = kept.and_then(|text| serde_json::from_slice::<Answer>(&text).ok())
        && answer.lists == lists
        && answer.deb.source.config.as_ref().is_none_or(|config| config.exists())
    {
        return Ok(answer.deb);
    }
    let deb = ask()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let answer = serde_json::to_vec(&Answer { lists, deb: deb.clone() })?;
    fs::write(&path, answer).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(deb)
}

fn look(wanted: &Wanted<'_>) -> Result<Deb> {
    if !run::have("apt-cache") {
        bail!("no apt-cache: Debian's packages come through apt");
    }
    let own = Source { arch: wanted.arch, config: None };
    if let Some(deb) = own.find(wanted) {
        return Ok(deb);
    }
    let other = Source { arch: wanted.arch, config: Some(other_suite(wanted.suite)?) };
    other
        .find(wanted)
        .with_context(|| format!("no suite has {} {}*", wanted.names.join(" or "), wanted.version))
}

impl Deb {
    /// Short, and changes with the package's contents.
    pub(crate) fn key(&self) -> &str {
        self.sha256.get(..16).unwrap_or(&self.sha256)
    }

    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The image that this metapackage depends on: `linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)`.
    fn image_of_metapackage(&self) -> Result<Self> {
        let image = self
            .depends
            .split([',', '|'])
            .filter_map(|part| part.split_whitespace().next())
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{self} depends on no linux-image ({})", self.depends))?;
        self.source
            .versions(image)
            .into_iter()
            .find(|deb| deb.version == self.version)
            .with_context(|| format!("apt knows no {image} {}", self.version))
    }

    /// This package, and those that it depends on in its own version and whose names begin so.
    pub(crate) fn with_parts(&self, prefixes: &[&str]) -> Result<Vec<Self>> {
        let mut all = vec![self.clone()];
        for name in self.dependencies().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
        {
            let mut versions = self.source.versions(name).into_iter();
            let part = versions.find(|deb| deb.version == self.version);
            all.push(part.with_context(|| format!("apt knows no {name} {}", self.version))?);
        }
        Ok(all)
    }

    /// The names of the packages that it depends on; of alternatives, the first.
    pub(crate) fn dependencies(&self) -> impl Iterator<Item = &str> {
        self.depends
            .split(',')
            .filter_map(|part| part.split('|').next()?.split_whitespace().next())
            .map(|name| name.split_once(':').map_or(name, |(name, _)| name))
    }

    /// Downloads the .deb into the cache; what is there has the archive's checksum.
    pub(crate) fn download(&self) -> Result<PathBuf> {
        let path = folders::cache()?.join("debs").join(format!("{}.deb", self.sha256));
        if path.exists() && sha256_of(&path)? == self.sha256 {
            return Ok(path);
        }
        println!("downloading {self}");
        let folder = folders::beside(&path, ".part");
        folders::afresh(&folder)?;
        self.fetch(&folder)?;
        let mut files = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
        let deb = files.find(|path| path.extension().is_some_and(|end| end == "deb"));
        let deb = deb.with_context(|| format!("apt-get download {self} left no .deb"))?;
        let sum = sha256_of(&deb)?;
        if sum != self.sha256 {
            bail!("{self}: the download has SHA-256 {sum}, the archive says {}", self.sha256);
        }
        fs::rename(&deb, &path)?;
        fs::remove_dir_all(&folder)?;
        Ok(path)
    }

    fn fetch(&self, folder: &Path) -> Result<()> {
        let mut command = self.source.apt("apt-get");
        command
            .args(["download", "--quiet=2", "-o", "APT::Sandbox::User=root"])
            .arg(format!("{}={}", self.source.spec(&self.name), self.version))
            .current_dir(folder);
        run::quiet(&mut command).with_context(|| {
            format!("{self}: if the mirror has dropped this version, apt-get update finds the new one")
        })
    }
}

/// Downloads the newest of these packages of this machine's suites, and all that they depend on, into `folder`:
/// as for a system that has none yet. apt holds them against the archive's checksums.
pub(crate) fn with_dependencies(names: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder.join("partial"))?;
    let status = folder.join("status");
    fs::write(&status, "")?;
    let mut command = Source { arch: None, config: None }.apt("apt-get");
    command.args(["install", "--download-only", "--no-install-recommends", "--yes", "--quiet=2"]);
    command.args(["-o", &format!("Dir::State::status={}", status.display())]);
    command.args(["-o", &format!("Dir::Cache::archives={}", folder.display())]);
    command.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
    command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
    run::quiet(command.args(names))
        .context("if the mirror has dropped a version, apt-get update finds the new one")?;
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(files.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect())
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut Hasher(&mut hash))?;
    Ok(hex(&hash.finalize()))
}

struct Hasher<'a>(&'a mut Sha256);

impl std::io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads `suite` and its security updates without touching the system. Answers with the APT_CONFIG.
fn other_suite(suite: &str) -> Result<PathBuf> {
    let (main, security) = mirrors()?;
    let folder = folders::cache()?.join("apt").join(suite);
    let config = folder.join("apt.conf");
    for name in ["lists/partial", "cache/archives/partial", "parts"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let mut sources = format!("deb {key} {main} {suite} main\n");
    // The newest suite has no security updates of its own.
    if let Some(security) = security.filter(|_| suite != "sid") {
        sources.push_str(&format!("deb {key} {security} {suite}-security main\n"));
    }
    fs::write(folder.join("sources.list"), sources)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"{}\";\nDir::State::Lists \"{}\";\n\
         Dir::State::status \"/dev/null\";\nDir::Cache \"{}\";\nAPT::Architectures {{ \"amd64\"; \"arm64\"; }};\n\
         APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n",
        at("sources.list"),
        at("parts"),
        at("lists"),
        at("cache"),
    );
    fs::write(&config, text)?;
    let read = folder.join("read");
    let when = fs::metadata(&read).and_then(|meta| meta.modified()).ok();
    if when.and_then(|at| at.elapsed().ok()).is_some_and(|age| age < FRESH) {
        return Ok(config);
    }
    println!("reading the lists of Debian {suite}");
    let source = Source { arch: None, config: Some(config.clone()) };
    run::quiet(source.apt("apt-get").args(["update", "--quiet=2"]))?;
    fs::write(read, "")?;
    Ok(config)
}

/// This machine's Debian mirror, and its mirror of security updates.
fn mirrors() -> Result<(String, Option<String>)> {
    let targets = run::text(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let uri = |label: &str| {
        targets.lines().find_map(|line| Some(line.strip_prefix("Debian|")?.strip_prefix(label)?.to_owned()))
    };
    let main = uri("Debian|").context("this machine's apt sources name no Debian mirror")?;
    Ok((main, uri("Debian-Security|")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metapackage_names_its_image() {
        let source = Source { arch: Some(Arch::X86_64), config: None };
        let stanza = "Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\n\
            Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nSHA256: 00be21c0c17f08ddf26e82d3";
        let deb = source.parse(stanza).unwrap();
        assert_eq!(deb.to_string(), "linux-image-cloud-amd64 6.1.192-2");
        assert_eq!(deb.depends, "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)");
        assert_eq!(deb.key(), "00be21c0c17f08dd");
        assert_eq!(source.spec("x"), "x:amd64");
        let deb = Deb { depends: "libc6 (>= 2.34), a:any | b, debconf".into(), ..deb };
        assert_eq!(deb.dependencies().collect::<Vec<_>>(), ["libc6", "a", "debconf"]);
        assert!(
            source.parse("Package: x\nVersion: 1").is_none(),
            "a stanza of dpkg's status has no checksum"
        );
    }
}
