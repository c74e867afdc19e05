//! What a boot needs around the machine: keys, a published tree, a server, two initramfs images.
//! Everything is made by phasectl, the way its users make it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::apt::hex;
use crate::arch::Arch;
use crate::build::{self, Built};
use crate::certificates::Certificates;
use crate::kernels::{self, Id, Kernel};
use crate::wire::Wire;
use crate::{folders, run};

/// What was built and fetched, once for all machines.
#[derive(Debug)]
pub(crate) struct Tools {
    phasectl: PathBuf,
    built: BTreeMap<Arch, Built>,
    kernels: BTreeMap<Id, Kernel>,
}

impl Tools {
    /// Builds phasectl, and takes what else is there.
    pub(crate) fn new(built: Vec<Built>, kernels: Vec<Kernel>) -> Result<Self> {
        Ok(Self {
            phasectl: phasectl()?,
            built: built.into_iter().map(|built| (built.arch, built)).collect(),
            kernels: kernels.into_iter().map(|kernel| (kernel.id, kernel)).collect(),
        })
    }

    /// Builds and fetches what these kernels need; payloads are taken from `payloads` if it is given.
    pub(crate) fn prepare(ids: &[Id], payloads: Option<&Path>) -> Result<Self> {
        let archs: Vec<Arch> =
            Arch::ALL.into_iter().filter(|arch| ids.iter().any(|id| id.arch() == *arch)).collect();
        let built = match payloads {
            Some(folder) => build::built(&archs, folder)?,
            None => build::payloads(&archs)?,
        };
        let kernels = ids.iter().map(|id| kernels::get(*id)).collect::<Result<Vec<_>>>()?;
        Self::new(built, kernels)
    }

    pub(crate) fn kernel(&self, id: Id) -> Result<&Kernel> {
        self.kernels.get(&id).with_context(|| format!("kernel {id} was not prepared"))
    }

    pub(crate) fn built(&self, arch: Arch) -> Result<&Built> {
        self.built.get(&arch).with_context(|| format!("nothing was built for {arch}"))
    }

    pub(crate) fn all_built(&self) -> impl Iterator<Item = &Built> {
        self.built.values()
    }

    fn phasectl(&self, command: &str) -> Command {
        let mut phasectl = Command::new(&self.phasectl);
        phasectl.arg(command);
        phasectl
    }
}

/// What the machines' devices need; phasectl's own choice has the drivers of real clouds, too.
pub(crate) const MODULES: [&str; 3] = ["virtio_net", "virtio_pci", "virtio_rng"];

/// The host's binary, built like any other of the workspace.
fn phasectl() -> Result<PathBuf> {
    println!("building phasectl");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--package", "phaseboot", "--features", "host"])
        .args(["--bin", "phasectl", "--message-format=json-render-diagnostics"])
        .current_dir(folders::workspace())
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("building phasectl failed ({})", output.status);
    }
    let path = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.context("cargo did not say where phasectl is")
}

/// A key pair's files.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
}

/// What goes into an initramfs with phaseboot in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packing {
    /// The trusted keys, if any.
    pub(crate) keys: Vec<Key>,
    /// policy.json, if there is one.
    pub(crate) policy: Option<String>,
    /// Modules besides [`MODULES`].
    pub(crate) modules: Vec<&'static str>,
    /// The authority that the policy names, if it names one.
    pub(crate) tls_root: Option<PathBuf>,
    /// When it was built, if not now.
    pub(crate) built: Option<SystemTime>,
    /// Without /dev/console.
    pub(crate) no_device_nodes: bool,
}

/// The folder of one machine, and what is made in it.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    tools: &'a Tools,
    folder: PathBuf,
}

impl<'a> Stage<'a> {
    /// Starts with an empty folder, and an empty tree in it.
    pub(crate) fn new(tools: &'a Tools, folder: PathBuf) -> Result<Self> {
        folders::afresh(&folder)?;
        let stage = Self { tools, folder };
        fs::create_dir(stage.site())?;
        Ok(stage)
    }

    pub(crate) fn kernel(&self, id: Id) -> Result<&'a Kernel> {
        self.tools.kernel(id)
    }

    pub(crate) fn payload(&self, arch: Arch) -> Result<&'a Path> {
        Ok(&self.tools.built(arch)?.payload)
    }

    /// phasectl with this command.
    pub(crate) fn phasectl(&self, command: &str) -> Command {
        self.tools.phasectl(command)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The root of the published tree.
    pub(crate) fn site(&self) -> PathBuf {
        self.path("site")
    }

    /// The key of this name, made when it is asked for the first time.
    pub(crate) fn key(&self, name: &str) -> Result<Key> {
        let key =
            Key { private: self.path(&format!("{name}.key")), public: self.path(&format!("{name}.pub")) };
        if !key.private.exists() {
            run::quiet(self.phasectl("keygen").arg("--out").arg(self.path(name)))?;
        }
        Ok(key)
    }

    /// The published initramfs: the target init, modules of `kernel`, and a file that is nowhere else, of
    /// `ballast` bytes more than it needs. Answers with the SHA-256 of that file, too.
    pub(crate) fn target_initramfs(
        &self,
        kernel: Id,
        ballast: usize,
        modules: &[&str],
    ) -> Result<(PathBuf, String)> {
        let mut secret = vec![0; ballast + 32];
        File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret))?;
        let file = self.path("target-secret");
        fs::write(&file, &secret)?;
        let mut command = self.target_command(kernel.arch(), "target.img")?;
        command.args(["--file", &format!("{}:/target-secret", file.display())]);
        if let (Some(folder), false) = (&self.kernel(kernel)?.modules, modules.is_empty()) {
            command.arg("--modules").arg(folder);
            for module in modules {
                command.args(["--module", module]);
            }
        }
        if ballast > 0 {
            // It is random: nothing makes it smaller.
            command.args(["--compress", "none"]);
        }
        run::quiet(&mut command)?;
        Ok((self.path("target.img"), hex(&Sha256::digest(secret))))
    }

    /// An initramfs that leaves its name in the report of the target init.
    pub(crate) fn target_part(&self, arch: Arch, name: &str) -> Result<PathBuf> {
        let (file, out) = (self.path(name), format!("{name}.img"));
        fs::write(&file, name)?;
        let mut command = self.target_command(arch, &out)?;
        run::quiet(command.args(["--file", &format!("{}:/target-parts/{name}", file.display())]))?;
        Ok(self.path(&out))
    }

    fn target_command(&self, arch: Arch, out: &str) -> Result<Command> {
        let mut command = self.phasectl("initramfs");
        command.arg("--out").arg(self.path(out)).arg("--no-keys");
        command.arg("--payload").arg(&self.tools.built(arch)?.target_init);
        Ok(command)
    }

    /// `phasectl publish` of this kernel and initramfs, without keys, version and command line.
    pub(crate) fn publish(&self, channel: &str, arch: Arch, image: &Path, initramfs: &Path) -> Command {
        let mut command = self.phasectl("publish");
        command.arg("--into").arg(self.site());
        command.args(["--channel", channel, "--arch", arch.manifest()]);
        command.arg("--kernel").arg(image).arg("--initramfs").arg(initramfs);
        command
    }

    /// The initramfs that the machine starts with: phaseboot and the modules of its kernel.
    pub(crate) fn initramfs(&self, kernel: Id, packing: &Packing) -> Result<PathBuf> {
        let out = self.path("phaseboot.img");
        let mut command = self.phasectl("initramfs");
        command.arg("--out").arg(&out);
        command.arg("--payload").arg(&self.tools.built(kernel.arch())?.payload);
        if let Some(modules) = &self.kernel(kernel)?.modules {
            command.arg("--modules").arg(modules);
            for module in MODULES.iter().chain(&packing.modules) {
                command.args(["--module", module]);
            }
        }
        if packing.keys.is_empty() {
            command.arg("--no-keys");
        }
        for key in &packing.keys {
            command.arg("--key").arg(&key.public);
        }
        if let Some(policy) = &packing.policy {
            let path = self.path("policy.json");
            fs::write(&path, policy)?;
            command.arg("--policy").arg(path);
        }
        if let Some(authority) = &packing.tls_root {
            command.arg("--tls-root").arg(authority);
        }
        if let Some(built) = packing.built {
            let since_1970 = built.duration_since(SystemTime::UNIX_EPOCH)?;
            command.args(["--mtime", &since_1970.as_secs().to_string()]);
        }
        if packing.no_device_nodes {
            command.arg("--no-device-nodes");
        }
        run::quiet(&mut command)?;
        Ok(out)
    }

    /// Serves the published tree with `phasectl serve`, over TLS if there are certificates: on every address
    /// of `wire` if there is one, else on 127.0.0.1.
    pub(crate) fn serve(&self, tls: Option<&Certificates>, wire: Option<&Wire>) -> Result<Served> {
        let log = File::create(self.path("serve.log"))?;
        let phasectl = &self.tools.phasectl;
        let (mut command, listen) = match wire {
            Some(wire) => (wire.command(phasectl), "[::]:0"),
            None => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--"]).arg(phasectl);
                (command, "127.0.0.1:0")
            }
        };
        command.arg("serve").arg(self.site()).args(["--listen", listen]);
        if let Some(tls) = tls {
            command.arg("--tls-cert").arg(&tls.chain).arg("--tls-key").arg(&tls.key);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut server = Served { child: command.spawn().context("cannot run phasectl serve")?, port: 0 };
        let mut output = BufReader::new(server.child.stdout.take().context("phasectl serve has no output")?);
        let mut greeting = String::new();
        output.read_line(&mut greeting)?;
        let port =
            greeting.trim().trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        server.port =
            port.with_context(|| format!("phasectl serve said {:?} and no port", greeting.trim()))?;
        let requests = self.path("requests.log");
        std::thread::spawn(move || {
            // The pipe has to be read, or the server would wait.
            if let Ok(mut file) = File::create(requests) {
                let _ = std::io::copy(&mut output, &mut file);
            }
        });
        Ok(server)
    }
}

/// A running `phasectl serve`, until it is dropped.
#[derive(Debug)]
pub(crate) struct Served {
    child: Child,
    port: u16,
}

impl Served {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
