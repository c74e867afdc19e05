//! `cargo lab bench fetch`: a large file over loopback, verified in memory, beside curl.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::build::megabytes;
use crate::{folders, run};

use super::median;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Megabytes of the file
    #[arg(long, default_value_t = 1000)]
    size: u64,
    /// How often each is measured, in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Seconds of one run.
#[derive(Clone, Copy, Debug)]
struct Run {
    wall: f64,
    cpu: f64,
    /// Until the last byte was verified, where the program says it.
    verified: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let at = folders::work("bench-fetch")?;
    folders::afresh(&at)?;
    let result = fetch_in(&at, arguments);
    fs::remove_dir_all(&at).with_context(|| format!("cannot remove {}", at.display()))?;
    result
}

fn fetch_in(at: &Path, arguments: &Arguments) -> Result<()> {
    let size = arguments.size * 1_000_000;
    // The file as it is made and as it is published, and what is fetched; in memory, what loading takes.
    for (what, needed, there) in
        [("disk", size * 5 / 2, free_disk(at)?), ("memory", size * 2 + 100_000_000, free_memory()?)]
    {
        if there < needed {
            println!(
                "skipped: {:.0} MB of {what} are free, {:.0} are needed",
                megabytes(there),
                megabytes(needed)
            );
            return Ok(());
        }
    }
    let native = Arch::native()?;
    let (phaseboot, phasectl) = release()?;
    publish(at, &phasectl, native, size)?;
    let server = Server::start(at, &phasectl)?;
    let base = format!("http://127.0.0.1:{}", server.port);
    let folder = format!("stable/{}", native.manifest());
    let names = fs::read_dir(at.join("www").join(&folder))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name =
        names.into_iter().find(|name| name.ends_with(".initramfs")).context("nothing was published")?;
    let file = format!("{base}/{folder}/{name}");
    println!(
        "{:.0} MB over loopback from {}, {} rounds, {} CPUs for server and client together",
        megabytes(size),
        server.name,
        arguments.rounds,
        thread::available_parallelism()?
    );

    let out = at.join("out");
    let boots = |binary: &Path| {
        let (binary, trust, out) = (binary.display(), at.join("trust"), out.display());
        format!("{binary} fetch --out {out} --provider {base} --trust {} --json", trust.display())
    };
    // A file in memory, as phaseboot has it too.
    let memory = PathBuf::from(format!("/dev/shm/phaseboot-bench-{}", std::process::id()));
    let curl = "curl --silent --fail --noproxy '*'";
    let mut lines = vec![
        (NOWHERE.to_owned(), format!("{curl} -o /dev/null {file}")),
        (IN_MEMORY.to_owned(), format!("{curl} -o {} {file}", memory.display())),
        ("curl | sha256sum".to_owned(), format!("{curl} {file} | sha256sum")),
        (
            "curl -o, sha256sum".to_owned(),
            format!("{curl} -o {0} {file} && sha256sum {0}", out.join("curl").display()),
        ),
        ("phaseboot fetch".to_owned(), boots(&phaseboot)),
    ];
    let payload = folders::payload_target().join(native.target()).join("payload/phaseboot");
    if payload.exists() {
        lines.push(("payload fetch".to_owned(), boots(&payload)));
    }
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); lines.len()];
    for _ in 0..arguments.rounds {
        for ((name, line), runs) in lines.iter().zip(&mut runs) {
            // Only the second of two in a row counts. The host of a virtual machine takes free memory
            // back and gives it again page by page; without the first, that would be what is measured.
            for counts in [false, true] {
                folders::afresh(&out)?;
                let run = measure(line).with_context(|| name.clone());
                let _ = fs::remove_file(&memory);
                let run = run?;
                if counts {
                    runs.push(run);
                }
            }
        }
    }
    print(&lines, &runs);
    Ok(())
}

/// The fair peer of the transfer itself, which ends in memory too.
const IN_MEMORY: &str = "curl -o TMPFS";
const NOWHERE: &str = "curl -o /dev/null";

fn print(lines: &[(String, String)], runs: &[Vec<Run>]) {
    let median = |runs: &[Run], of: fn(&Run) -> Option<f64>| median(runs.iter().filter_map(of));
    let wall = |wanted: &str| {
        let mut named = lines.iter().zip(runs).filter(|((name, _), _)| name == wanted);
        named.next().and_then(|(_, runs)| median(runs, |run| Some(run.wall))).unwrap_or(f64::NAN)
    };
    let in_memory = wall(IN_MEMORY);
    println!("\n{:<20} {:>8} {:>8} {:>16}", "medians", "wall", "CPU", "verified");
    for ((name, _), runs) in lines.iter().zip(runs) {
        let cpu = median(runs, |run| Some(run.cpu)).unwrap_or(f64::NAN);
        let verified = median(runs, |run| run.verified)
            .map_or_else(|| "-".to_owned(), |at| format!("{at:.2} s, {:.2}", at / in_memory));
        println!("{name:<20} {:>6.2} s {cpu:>6.2} s {verified:>16}", wall(name));
    }
    println!(
        "\"verified\": seconds from the start until the file was in memory with the right hash, and their ratio"
    );
    println!(
        "to {IN_MEMORY}, which hashes nothing. After that fetch writes it into a folder: beside \"curl -o,"
    );
    println!("sha256sum\". A boot writes nothing.\n");
    for ((name, _), runs) in lines.iter().zip(runs) {
        if let Some(verified) = median(runs, |run| run.verified) {
            println!("{name}: {}", verdict(verified / in_memory));
        }
    }
    let nowhere = wall(NOWHERE);
    println!(
        "{NOWHERE} ({nowhere:.2} s) keeps nothing and hashes nothing: it shows how fast the bytes come."
    );
}

/// What a ratio to the fair peer says about the goal: no slower than curl alone, hashing included.
fn verdict(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    if ratio.is_nan() {
        "no times to compare".to_owned()
    } else if ratio <= 1.0 {
        format!(
            "goal met, the verified file is in memory {:.0} % sooner than curl's unverified one",
            -percent
        )
    } else {
        format!(
            "goal not met, the verified file is in memory {percent:.0} % later than curl's unverified one"
        )
    }
}

/// Runs a line of bash, and times all of it.
fn measure(line: &str) -> Result<Run> {
    let script = format!("TIMEFORMAT='%R %U %S'; time {{ {line}; }}");
    let output = Command::new("bash")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .output()
        .context("cannot run bash")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{line} failed ({}): {said}", output.status);
    }
    let times: Vec<f64> =
        said.lines().last().unwrap_or_default().split(' ').filter_map(|time| time.parse().ok()).collect();
    let [wall, user, system] = times[..] else { bail!("no times from bash: {said}") };
    let arrived = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let verified = arrived
        .filter(|record| record["message"].as_str().is_some_and(|message| message.starts_with("initramfs: ")))
        .filter_map(|record| record["t"].as_f64())
        .next_back();
    Ok(Run { wall, cpu: user + system, verified })
}

/// phaseboot and phasectl as they are released, for this machine.
pub(super) fn release() -> Result<(PathBuf, PathBuf)> {
    println!("building phaseboot and phasectl");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(folders::workspace()).stdin(Stdio::null()).stderr(Stdio::inherit());
    command.args(["build", "--locked", "--quiet", "--release", "--package", "phaseboot"]).args([
        "--features",
        "host",
        "--message-format=json-render-diagnostics",
    ]);
    let output = command.args(["--bin", "phaseboot", "--bin", "phasectl"]).output().context("cargo")?;
    if !output.status.success() {
        bail!("building phaseboot and phasectl failed ({})", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = |name: &str| {
        let paths = messages.lines().filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(PathBuf::from(message["executable"].as_str()?))
        });
        let mut paths = paths.filter(|path| path.file_name().is_some_and(|file| file == name));
        paths.next().with_context(|| format!("cargo did not say where {name} is"))
    };
    Ok((path("phaseboot")?, path("phasectl")?))
}

/// A tree `www` with a release whose initramfs is large, and the folder `trust` that believes it.
fn publish(at: &Path, phasectl: &Path, arch: Arch, size: u64) -> Result<()> {
    println!("publishing");
    let (large, kernel) = (at.join("large"), at.join("kernel"));
    fill(&large, size)?;
    fs::write(&kernel, small_kernel(arch)).with_context(|| format!("cannot write {}", kernel.display()))?;
    fs::create_dir_all(at.join("trust/keys"))?;
    run::quiet(Command::new(phasectl).arg("keygen").arg("--out").arg(at.join("key")))?;
    fs::rename(at.join("key.pub"), at.join("trust/keys/key.pub"))?;
    let mut publish = Command::new(phasectl);
    publish.arg("publish").arg("--key").arg(at.join("key.key")).arg("--into").arg(at.join("www"));
    publish.args(["--channel", "stable", "--arch", arch.manifest(), "--kernel"]).arg(&kernel);
    run::quiet(publish.arg("--initramfs").arg(&large))?;
    fs::remove_file(&large).context("cannot remove the file")
}

/// 70 000 bytes with the header of a kernel of this architecture.
fn small_kernel(arch: Arch) -> Vec<u8> {
    const SIZE: u32 = 70_000;
    let head: &[u8] = match arch {
        Arch::X86_64 => include_bytes!("../../../src/image/testdata/debian-6.1-amd64.head"),
        Arch::Aarch64 => include_bytes!("../../../src/image/testdata/debian-6.1-arm64.head"),
    };
    let mut bytes = head.to_vec();
    bytes.resize(SIZE as usize, 0);
    // The header promises no more than these bytes.
    match arch {
        Arch::X86_64 => {
            // `syssize`, in paragraphs: Documentation/arch/x86/boot.rst.
            let setup = (u32::from(bytes[0x1f1]) + 1) * 512;
            bytes[0x1f4..0x1f8].copy_from_slice(&((SIZE - setup) / 16).to_le_bytes());
        }
        Arch::Aarch64 => {
            // SizeOfRawData of `.text`, which begins at 64 KiB, and of `.data`.
            bytes[0x108..0x10c].copy_from_slice(&(SIZE - 0x1_0000).to_le_bytes());
            bytes[0x130..0x134].fill(0);
        }
    }
    bytes
}

/// Bytes that do not repeat.
fn fill(path: &Path, size: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut state = 1u64;
    for _ in 0..size / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_ne_bytes())?;
    }
    file.flush().with_context(|| format!("cannot write {}", path.display()))
}

fn free_disk(at: &Path) -> Result<u64> {
    let text = run::text(Command::new("df").args(["--output=avail", "-B1"]).arg(at))?;
    text.lines().last().and_then(|line| line.trim().parse().ok()).context("df says nothing")
}

fn free_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kilobytes.context("no MemAvailable in /proc/meminfo")? * 1024)
}

/// nginx if it is installed, else phasectl, on 127.0.0.1.
struct Server {
    child: Child,
    port: u16,
    name: &'static str,
}

impl Server {
    fn start(at: &Path, phasectl: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let nginx = Path::new("/usr/sbin/nginx");
        let (mut command, name) = if nginx.exists() {
            let mut command = Command::new(nginx);
            command.arg("-e").arg(at.join("error.log")).arg("-c").arg(configuration(at, port)?);
            (command, "nginx")
        } else {
            let mut command = Command::new(phasectl);
            command.arg("serve").arg(at.join("www")).args(["--listen", &format!("127.0.0.1:{port}")]);
            (command, "phasectl serve")
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        let server = Self { child, port, name };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("{name} does not answer on port {port}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration that keeps everything in this folder.
fn configuration(at: &Path, port: u16) -> Result<PathBuf> {
    let path = at.join("nginx.conf");
    let at = at.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/{name};\n"))
        .concat();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nevents {{ worker_connections 64; }}\n\
         http {{ access_log off;\nsendfile on;\n{temporary}\
         server {{ listen 127.0.0.1:{port};\nroot {at}/www; }} }}\n"
    );
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_said_in_words() {
        assert_eq!(
            verdict(0.8),
            "goal met, the verified file is in memory 20 % sooner than curl's unverified one"
        );
        assert!(verdict(1.0).starts_with("goal met"));
        assert!(verdict(1.004).starts_with("goal not met"));
        assert_eq!(
            verdict(1.35),
            "goal not met, the verified file is in memory 35 % later than curl's unverified one"
        );
        assert_eq!(verdict(f64::NAN), "no times to compare");
    }
}
