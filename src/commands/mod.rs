//! The commands for people and scripts: each a short function over the rooms.

mod doctor;
mod inspect;
mod kexec;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use log::warn;
use rustix::fs::OFlags;

use crate::boot::{self, Ending};
use crate::cli::{self, Command, Source};
use crate::config::{self, Config, Policy};
use crate::devicetree;
use crate::error::{Error, Exit, printable};
use crate::fetch::{self, VerifiedArtifact, operator};
use crate::image::Demand;
use crate::log::Format;
use crate::manifest::{self, Expected, Trust, VerifiedManifest, keylist};
use crate::meminfo::Meminfo;
use crate::net::{self, Caller, Lease, Settings, Uplink};
use crate::paths::Paths;
use crate::provider::Found;
use crate::rollback::{Memory, Purpose};
use crate::sys::arch::NATIVE;
use crate::time::Deadline;

/// Firmware pads trees; none is larger than this.
const MOST_TREE_BYTES: usize = 2 * devicetree::LARGEST;
/// 4 GiB: a larger kernel or ramdisk is taken for a mistake.
const MOST_FILE_BYTES: u64 = 4 << 30;

/// A file or standard output that a command needs, and cannot use.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    /// A folder, a pipe, a socket or a device where a kernel or a ramdisk is wanted.
    #[error("{} is not a regular file", path.display())]
    NotRegular { path: PathBuf },
    /// No kernel and no ramdisk is so large, whatever memory there is.
    #[error("{} is larger than the limit of {MOST_FILE_BYTES} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// What `phaseboot doctor` found first.
    #[error("this machine cannot start another kernel: {check}")]
    Unfit { check: &'static str, exit: Exit },
}

impl CommandError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } | Self::NotRegular { .. } | Self::TooLarge { .. } | Self::Write { .. } => {
                Exit::Usage
            }
            Self::Output(_) => Exit::Internal,
            Self::Unfit { exit, .. } => *exit,
        }
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Write { .. } => "check the path and its permissions",
            Self::NotRegular { .. } => "its size has to be known before it is read: copy it into a file",
            Self::TooLarge { .. } => "check that this is the right file",
            Self::Output(_) => "",
            Self::Unfit { .. } => "its line above has the cure",
        }
    }
}

/// Runs one command.
pub fn run(command: Command) -> Result<(), Error> {
    let paths = Paths::default();
    match command {
        Command::Help => print(cli::HELP),
        Command::Version => print(&format!("phaseboot {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Boot(arguments) => boot(&arguments, &paths),
        Command::Net { interface, json } => net(interface.as_deref(), json, &paths),
        Command::Fetch { out, source, json } => fetch(&out, &source, json, &paths),
        Command::Verify { manifest, source, json } => verify(&manifest, &source, json, &paths),
        Command::Kexec(arguments) => kexec::run(&arguments, &paths),
        Command::Inspect { file, json } => inspect::run(&file, json, &paths),
        Command::Doctor(arguments) => doctor::run(&arguments, &paths),
        Command::Fdt { input, output, print } => fdt(input, output, print, &paths),
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(written.map_err(CommandError::Output)?)
}

fn json_log(json: bool) {
    if json {
        crate::log::configure(Format::Json, false);
    }
}

/// Which network a command uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    None,
    /// The one that is there, else one of its own.
    Any,
    /// One of its own.
    Own,
}

/// What the kernel command line asks for. What it gives of the network may be meant for another init;
/// that it cannot be followed is an error only where it has to be.
fn read_config(paths: &Paths, policy: &Policy, way: Way) -> Result<Config, Error> {
    let line = config::kernel_cmdline(paths)?;
    let is_needed = match way {
        Way::None => false,
        Way::Any => !net::is_routed(paths),
        Way::Own => true,
    };
    match Config::from_kernel_cmdline(&line, policy) {
        Err(config::Error::Network(error)) if !is_needed => {
            warn!("{error}: passed over, since no network is brought up");
            Ok(Config::without_network(&line, policy)?)
        }
        other => Ok(other?),
    }
}

/// The trust folder, and what the kernel command line and the arguments ask for.
fn configure(source: &Source, json: bool, paths: &Paths, way: Way) -> Result<(Config, Trust), Error> {
    let folder = source.trust.clone().unwrap_or_else(|| paths.trust());
    boot::configure_log(paths, &folder, json);
    let trust = Trust::read(&folder)?;
    let mut config = read_config(paths, trust.policy(), way)?;
    if !source.providers.is_empty() {
        config.set("phase.provider", Some(&source.providers.join(",")))?;
    }
    if let Some(channel) = &source.channel {
        config.set("phase.channel", Some(channel))?;
    }
    config.record.clone_from(&source.record);
    config.no_expiry = source.no_expiry;
    Ok((config, trust))
}

fn boot(arguments: &cli::Boot, paths: &Paths) -> Result<(), Error> {
    crate::log::keep_records(paths);
    let (mut config, trust) = configure(&arguments.source, arguments.json, paths, Way::Any)?;
    if let Some(append) = &arguments.append {
        config.append.clone_from(append);
    }
    if let Some(method) = arguments.method {
        config.method = method;
    }
    let ending = match (arguments.load_only, arguments.dry_run) {
        (_, true) => Ending::DryRun,
        (true, false) => Ending::LoadOnly,
        (false, false) => Ending::Exec,
    };
    match boot::run(&config, &trust, paths, Caller::Command, ending, None)? {
        Some(plan) => print(&format!("{plan}\n")),
        None => Ok(()),
    }
}

fn net(interface: Option<&str>, json: bool, paths: &Paths) -> Result<(), Error> {
    crate::log::keep_records(paths);
    boot::configure_log(paths, &paths.trust(), json);
    // Policies have no say in how addresses are come by, but one that cannot be read says so elsewhere.
    let policy = Trust::read_policy(&paths.trust()).unwrap_or_default();
    let mut config = read_config(paths, &policy, Way::Own)?;
    if config.network.leaves_all() && interface.is_none() {
        warn!("ip=off is passed over: this command is to bring the network up");
        config.network.assignments.clear();
    }
    let settings = Settings {
        given: config.network,
        client_id: config.client_id,
        only: interface.map(str::to_owned),
        ..Settings::default()
    };
    let uplink =
        net::up_with(paths, settings, Caller::Command, Deadline::after(config.timeout.min(net::BUDGET)))?;
    if json {
        return print(&format!("{}\n", serde_json::json!(uplink)));
    }
    print(&describe_uplink(&uplink))
}

fn describe_uplink(uplink: &Uplink) -> String {
    fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
        let texts: Vec<String> = items.map(|item| item.to_string()).collect();
        if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
    }
    let (ipv4, ipv6) = (uplink.ipv4.as_ref(), uplink.ipv6.as_ref());
    let own = ipv4.map(|lease| format!("{}/{}", lease.address, lease.prefix));
    let own6 =
        ipv6.iter().flat_map(|side| &side.addresses).map(|own| format!("{}/{}", own.address, own.prefix));
    let routers = ipv4.iter().flat_map(|lease| &lease.routers).map(ToString::to_string);
    let router6 = ipv6.and_then(|side| side.router).map(|router| router.to_string());
    let mut line = format!(
        "{} {} routers {} dns {}",
        uplink.interface,
        list(own.into_iter().chain(own6)),
        list(routers.chain(router6)),
        list(uplink.dns.iter())
    );
    if !uplink.search.is_empty() {
        line.push_str(&format!(" search {}", list(uplink.search.iter())));
    }
    let boot_url = ipv4.and_then(Lease::boot_url).map(|(url, _)| url);
    if let Some(url) = boot_url.or_else(|| ipv6.and_then(|side| side.boot_url.clone())) {
        line.push_str(&format!(" boot {}", printable(&url)));
    }
    line.push('\n');
    line
}

fn fetch(out: &Path, source: &Source, json: bool, paths: &Paths) -> Result<(), Error> {
    crate::log::keep_records(paths);
    let (config, trust) = configure(source, json, paths, Way::Any)?;
    let deadline = Deadline::after(config.timeout);
    let (_, Found { manifest, client, .. }, _network) =
        boot::find(&config, &trust, paths, Caller::Command, Purpose::Look, deadline, None)?;
    let artifacts = fetch::artifacts(&manifest, &client, paths)?;
    create_folder(out)?;
    write_artifact(&out.join("kernel"), &artifacts.kernel)?;
    write_artifact(&out.join("initramfs"), &artifacts.initramfs)?;
    drop(artifacts);
    // One after the other, so that only one of them is in memory.
    let content = manifest.manifest();
    let dtbs = content.dtbs.iter().map(|(name, spec)| (out.join("dtbs").join(name), spec));
    for (path, spec) in content.rootfs.iter().map(|spec| (out.join("rootfs"), spec)).chain(dtbs) {
        let artifact = fetch::artifact(spec, &manifest, &client, paths)?;
        path.parent().map_or(Ok(()), create_folder)?;
        write_artifact(&path, &artifact)?;
    }
    write_whole(&out.join("manifest.signed.json"), manifest.bytes())?;
    print(&describe(&manifest, json))
}

fn verify(path: &Path, source: &Source, json: bool, paths: &Paths) -> Result<(), Error> {
    let (config, trust) = configure(source, json, paths, Way::None)?;
    let deadline = Deadline::after(config.timeout);
    let mut memory = Memory::open(&config, trust.policy(), paths, Purpose::Look, deadline)?;
    let seen = memory.sightings().all();
    let bytes = read_bounded(path, manifest::MOST_BYTES)?;
    let now = boot::now(&config, &trust);
    let list_path = path.with_file_name(keylist::FILE_NAME);
    let served = match read_bounded(&list_path, manifest::MOST_BYTES) {
        Ok(bytes) => Some(bytes),
        Err(CommandError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let authority = trust.authority(served.as_deref(), &list_path.display().to_string(), seen, now)?;
    let expected =
        Expected { arch: NATIVE, channel: &config.channel, now, seen: seen.lowest(&config.channel, NATIVE) };
    let url = path.display().to_string();
    let verified = manifest::verify(&bytes, &url, &authority.keyring, trust.policy(), expected)?;
    print(&describe(&verified, json))
}

fn describe(verified: &VerifiedManifest, json: bool) -> String {
    let manifest = verified.manifest();
    if json {
        let object = serde_json::json!({
            "manifest": verified.url(),
            "manifest_version": manifest.manifest_version,
            "channel": manifest.channel,
            "arch": manifest.arch,
            "signed_by": verified.signers(),
        });
        return format!("{object}\n");
    }
    format!(
        "{}: {} {} version {}, signed by {}\n",
        verified.url(),
        manifest.channel,
        manifest.arch,
        manifest.manifest_version,
        verified.signed_by()
    )
}

fn fdt(input: Option<PathBuf>, output: Option<PathBuf>, print_it: bool, paths: &Paths) -> Result<(), Error> {
    let tree = read_bounded(&input.unwrap_or_else(|| paths.devicetree()), MOST_TREE_BYTES)?;
    let copy = devicetree::zero_seeds(&tree)?;
    if let Some(path) = output {
        write_whole(&path, &copy)?;
    }
    if print_it {
        print(&devicetree::source(&copy)?)?;
    }
    Ok(())
}

/// Opens `path` for reading without waiting for somebody to write to it, as opening a FIFO would.
fn open_any(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

/// A file that the operator names, and its size in bytes. It ends somewhere, which a pipe or a device
/// need not, and soon.
fn open(path: &Path) -> Result<(File, u64), CommandError> {
    let unreadable = |error| CommandError::Read { path: path.to_owned(), error };
    let file = open_any(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(CommandError::NotRegular { path: path.to_owned() });
    }
    if about.len() > MOST_FILE_BYTES {
        return Err(CommandError::TooLarge { path: path.to_owned() });
    }
    Ok((file, about.len()))
}

/// A file that the operator names, in sealed memory. Nothing is copied that there is no room for.
fn vouched(name: &'static str, path: &Path, paths: &Paths) -> Result<VerifiedArtifact, Error> {
    let (mut file, size) = open(path)?;
    match room(paths) {
        Some(available) if size > available => Err(operator::Error::NoRoom { name, size, available }.into()),
        _ => Ok(operator::vouched(name, &mut file, MOST_FILE_BYTES)?),
    }
}

/// How much memory a command may fill that only looks at files, in bytes: an eighth of what is there
/// stays free.
fn room(paths: &Paths) -> Option<u64> {
    Meminfo::read(paths).map(|memory| memory.available - memory.available / 8)
}

/// How much of that may be unpacked, beside what the decoder keeps of it.
fn limit(paths: &Paths) -> impl Fn(Demand) -> Result<u64, String> {
    let room = room(paths).unwrap_or(u64::MAX);
    move |demand| Ok(room.saturating_sub(demand.buffer).max(room / 2))
}

/// A file, as far as one byte beyond `most`: whoever reads it sees that it is too large. A pipe is read
/// as long as somebody writes to it.
fn read_bounded(path: &Path, most: usize) -> Result<Vec<u8>, CommandError> {
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = open_any(path).and_then(|file| {
        rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        file.take(limit).read_to_end(&mut bytes)
    });
    read.map_err(|error| CommandError::Read { path: path.to_owned(), error })?;
    Ok(bytes)
}

fn create_folder(path: &Path) -> Result<(), CommandError> {
    fs::create_dir_all(path).map_err(|error| CommandError::Write { path: path.to_owned(), error })
}

fn write_artifact(path: &Path, artifact: &VerifiedArtifact) -> Result<(), CommandError> {
    write_with(path, |part| artifact.copy_to(&mut File::create(part)?))
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    write_with(path, |part| fs::write(part, bytes))
}

/// Makes a file that is there whole or not at all.
fn write_with(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), CommandError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let written = write(&part).and_then(|()| fs::rename(&part, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&part);
        CommandError::Write { path: path.to_owned(), error }
    })
}
