//! A QEMU machine: what it is made of, and one run of it with everything its serial console says.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::debugger::{self, Debugger};
use crate::disk::{Disk, Format};
use crate::qmp::{self, Event, Script};
use crate::run;
use crate::serial::{FIRST_WORDS, HANDING_OVER, Line, Splitter, Transcript};
use crate::wire::{self, Port};

/// What the machine starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// SeaBIOS on x86_64; on aarch64 none: QEMU hands over a device tree.
    Default,
    /// UEFI with ACPI: OVMF.
    Uefi,
    /// The same with Secure Boot, and one key enrolled: the one whose private half comes with the firmware.
    SecureBoot,
}

/// A network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nic {
    /// QEMU's user network: DHCP, and the host's 127.0.0.1 as [`HOST`].
    User,
    /// Has carrier, and nobody behind it.
    Dead,
    /// As [`Self::User`], but the card is not there before an event inserts it. On x86_64.
    Later,
    /// A port of the lab's own network.
    Wire(Port),
}

/// The host's 127.0.0.1, seen from a machine with [`Nic::User`].
pub(crate) const HOST: &str = "10.0.2.2";

/// One thread for all CPUs of a machine: on a busy host a CPU that has none of its own host's would keep the
/// others waiting, and code that a kernel patches would be run by a CPU that has not seen the interrupt before it.
const ACCEL: &str = "tcg,thread=single";

/// A property of `/chosen` by which a published device tree is known.
pub(crate) const TREE_MARK: (&str, &str) = ("lab,tree", "published");

/// The file of its disk.
pub(crate) const DISK: &str = "disk.img";
/// The file of its firmware's variables.
pub(crate) const VARIABLES: &str = "variables.fd";

/// A machine that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) arch: Arch,
    pub(crate) memory_mb: u32,
    pub(crate) cpus: u32,
    pub(crate) cpu: &'static str,
    pub(crate) firmware: Firmware,
    /// The version of aarch64's interrupt controller, where it is not QEMU's choice.
    pub(crate) gic: Option<u8>,
    /// UEFI describes it by ACPI; without, on aarch64, by a device tree.
    pub(crate) acpi: bool,
    /// A screen that its firmware sets up.
    pub(crate) screen: bool,
    /// In the order in which the kernel finds them: eth0, eth1.
    pub(crate) nics: &'static [Nic],
    /// A virtio-rng device; without it a kernel has only what its CPU gives.
    pub(crate) rng: bool,
    /// A virtio-blk device with this on it.
    pub(crate) disk: Option<Disk>,
    /// A watchdog, an i6300esb, that switches the machine off. On x86_64.
    pub(crate) watchdog: bool,
    /// What its clock says when it is started, as QEMU takes it, where that is not the time.
    pub(crate) clock: Option<&'static str>,
    /// What happens to it while it runs.
    pub(crate) events: &'static [Event],
    /// At each jump it forgets the code that it has translated, as hardware has none. Without events.
    pub(crate) forgets: bool,
}

impl Machine {
    /// 1 GB, one CPU with everything QEMU can imitate, one working network card.
    pub(crate) const fn new(arch: Arch) -> Self {
        Self {
            arch,
            memory_mb: 1024,
            cpus: 1,
            cpu: match arch {
                Arch::X86_64 => "max",
                // Debian's kernels sign pointers; the architected cipher costs TCG four fifths of its time.
                Arch::Aarch64 => "max,pauth-impdef=on",
            },
            firmware: Firmware::Default,
            gic: None,
            acpi: true,
            screen: false,
            nics: &[Nic::User],
            rng: true,
            disk: None,
            watchdog: false,
            clock: None,
            events: &[],
            forgets: false,
        }
    }
}

impl Machine {
    /// The modules for what it has besides network card and random device.
    pub(crate) fn modules(&self) -> &'static [&'static str] {
        match (self.disk.map(|disk| disk.format), self.firmware) {
            (Some(Format::Fat), _) => &["virtio_blk", "vfat", "nls_cp437", "nls_ascii"],
            (Some(_), _) => &["virtio_blk"],
            (None, Firmware::Uefi | Firmware::SecureBoot) => &["efivarfs"],
            (None, Firmware::Default) => &[],
        }
    }
}

impl Arch {
    /// The serial port that a kernel's `console=` has to name.
    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }
}

/// What the machine starts.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) cmdline: String,
    /// Of its sockets: no other machine of this host has it.
    pub(crate) name: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine was switched off or reset, or QEMU gave up.
    Exited(ExitStatus),
    /// It was still running when its time was over.
    TimedOut(Duration),
}

/// What is left of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) transcript: Transcript,
    pub(crate) end: End,
    /// Events for which the machine gave no occasion.
    pub(crate) missed: Vec<Event>,
    /// When the firmware had the kernel in its hands, of a machine that has UEFI.
    pub(crate) kernel_taken: Option<Duration>,
}

/// Kills QEMU when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// Runs it until it is switched off, at most for `limit`. The serial console goes to `log` with the
    /// host's time before each line, and as it comes to standard output if `shown`. Beside the log is what
    /// the machine keeps: its disk, and the variables of its firmware.
    pub(crate) fn run(&self, boot: &Boot, log: &Path, limit: Duration, shown: bool) -> Result<Run> {
        let mut file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = self.command(boot, log)?;
        let control = match self.events {
            [] => None,
            _ => Some(wire::listen(&qmp::socket(&boot.name))?),
        };
        let debugger = self.forgets.then(|| wire::listen(&debugger::socket(&boot.name))).transpose()?;
        writeln!(file, "# {command:?}")?;
        let errors = File::create(log.with_extension("stderr"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let (started, clock) = (Instant::now(), SystemTime::now());
        let mut qemu = Running(command.spawn().context("cannot run QEMU; run: cargo lab setup")?);
        let serial = qemu.0.stdout.take().context("QEMU has no output")?;

        let mut script = match control {
            Some(listener) => Some(Script::begin(&listener, self.events).with_context(|| words_of(log))?),
            None => None,
        };
        let mut debugger =
            debugger.map(|listener| Debugger::begin(&listener)).transpose().with_context(|| words_of(log))?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || pump(serial, &sender));
        let mut splitter = Splitter::default();
        let mut transcript = Transcript::default();
        let mut has_jumped = false;
        let end = loop {
            let left = limit.saturating_sub(started.elapsed());
            let next = script.as_ref().and_then(Script::next).unwrap_or(left);
            match receiver.recv_timeout(left.min(next)) {
                Ok(bytes) => {
                    if shown {
                        let mut out = std::io::stdout().lock();
                        let _ = out.write_all(&bytes).and_then(|()| out.flush());
                    }
                    for text in splitter.push(&bytes) {
                        let line = Line { at: started.elapsed(), text };
                        writeln!(file, "[{:8.3}] {}", line.at.as_secs_f64(), line.text)?;
                        if let Some(script) = &mut script {
                            script.heard(&line.text)?;
                        }
                        let is_jump = line.text.contains(HANDING_OVER);
                        has_jumped |= is_jump;
                        // The last of the one kernel is translated after its last words.
                        let is_over = has_jumped && line.text.contains(FIRST_WORDS);
                        if let Some(debugger) = debugger.as_mut().filter(|_| is_jump || is_over) {
                            debugger.forget_translations()?;
                        }
                        transcript.lines.push(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) if started.elapsed() < limit => {
                    script.as_mut().map_or(Ok(()), Script::tick)?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    qemu.0.kill().context("cannot end QEMU")?;
                    writeln!(file, "# ended after {} s", limit.as_secs())?;
                    break End::TimedOut(limit);
                }
                Err(RecvTimeoutError::Disconnected) => break End::Exited(qemu.0.wait()?),
            }
        };
        if let Some(text) = splitter.rest() {
            writeln!(file, "[{:8.3}] {text}", started.elapsed().as_secs_f64())?;
            transcript.lines.push(Line { at: started.elapsed(), text });
        }
        if let End::Exited(status) = end
            && !status.success()
        {
            bail!("QEMU failed ({status}): {}", words_of(log));
        }
        let missed = script.map(|script| script.left().to_vec()).unwrap_or_default();
        let kernel_taken = kernel_taken(log, clock);
        Ok(Run { transcript, end, missed, kernel_taken })
    }

    /// Writes its device tree as a kernel's build would make it, without its memory, to `path`; on aarch64.
    pub(crate) fn tree(&self, path: &Path) -> Result<PathBuf> {
        let mut qemu = Command::new(format!("qemu-system-{}", self.arch));
        qemu.args(["-machine", &format!("{},dumpdtb={}", self.board(), path.display())]);
        qemu.args(["-cpu", self.cpu, "-smp", &self.cpus.to_string(), "-m", &self.memory_mb.to_string()]);
        run::quiet(qemu.args(["-nodefaults", "-display", "none"]))?;
        let fdtput = || Command::new("fdtput");
        run::quiet(fdtput().arg("-r").arg(path).arg("/memory@40000000"))?;
        let (name, value) = TREE_MARK;
        run::quiet(fdtput().args(["-t", "s"]).arg(path).args(["/chosen", name, value]))?;
        Ok(path.to_owned())
    }

    /// What QEMU calls it.
    fn board(&self) -> String {
        match (self.arch, self.gic) {
            // Only code in system management mode may write to the firmware's variables.
            (Arch::X86_64, _) if self.firmware == Firmware::SecureBoot => "q35,smm=on".to_owned(),
            (Arch::X86_64, _) => "q35".to_owned(),
            (Arch::Aarch64, version) => {
                let gic = version.map_or(String::new(), |version| format!(",gic-version={version}"));
                format!("virt{gic}{}", if self.acpi { "" } else { ",acpi=off" })
            }
        }
    }

    fn command(&self, boot: &Boot, log: &Path) -> Result<Command> {
        // QEMU must not outlive a lab that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", &format!("qemu-system-{}", self.arch)]);
        command.args(["-machine", &self.board(), "-accel", ACCEL, "-cpu", self.cpu]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mb.to_string()]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        if self.firmware != Firmware::Default {
            command.args(uefi(self.arch, self.firmware, log)?);
        }
        match (self.screen, self.arch) {
            (false, _) => {}
            (true, Arch::X86_64) => drop(command.args(["-device", "VGA"])),
            (true, Arch::Aarch64) => drop(command.args(["-device", "ramfb"])),
        }
        for (index, nic) in self.nics.iter().enumerate() {
            command.args(["-netdev", &nic.netdev(index, &boot.name), "-device", &nic.device(index)]);
        }
        if !self.events.is_empty() {
            let socket = qmp::socket(&boot.name);
            command.args(["-chardev", &format!("socket,id=control,path={socket},abstract=on")]);
            // Stopped until whoever is behind the socket has it run.
            command.args(["-mon", "chardev=control,mode=control", "-S"]);
        }
        if self.forgets {
            let socket = debugger::socket(&boot.name);
            command.args(["-chardev", &format!("socket,id=debugger,path={socket},abstract=on")]);
            command.args(["-gdb", "chardev:debugger", "-S"]);
        }
        if self.rng {
            command.args(["-device", "virtio-rng-pci"]);
        }
        if self.disk.is_some() {
            let image = log.with_file_name(DISK);
            command.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", image.display())]);
            command.args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        if self.watchdog {
            command.args(["-device", "i6300esb", "-action", "watchdog=poweroff"]);
        }
        if let Some(clock) = self.clock {
            command.args(["-rtc", &format!("base={clock}")]);
        }
        command.arg("-kernel").arg(&boot.kernel).arg("-initrd").arg(&boot.initramfs);
        command.args(["-append", &boot.cmdline]);
        Ok(command)
    }
}

/// What QEMU has complained of.
fn words_of(log: &Path) -> String {
    let words = std::fs::read_to_string(log.with_extension("stderr")).unwrap_or_default();
    words.trim().replace('\n', " / ")
}

impl Nic {
    fn netdev(self, index: usize, name: &str) -> String {
        match self {
            Self::User | Self::Later => format!("user,id=net{index}"),
            Self::Dead => format!("hubport,id=net{index},hubid={index}"),
            Self::Wire(_) => {
                let socket = wire::socket(name, index);
                format!("stream,id=net{index},server=off,addr.type=unix,addr.path={socket},addr.abstract=on")
            }
        }
    }

    fn device(self, index: usize) -> String {
        // No option ROM: the kernel comes from QEMU itself.
        let card = format!("virtio-net-pci,netdev=net{index},id=nic{index},romfile=");
        match self {
            Self::User | Self::Dead => card,
            // Without a speed no member of an aggregate is used.
            Self::Wire(_) => format!("{card},speed=1000,duplex=full"),
            Self::Later => format!("pcie-root-port,id=slot{index},chassis={}", index + 1),
        }
    }

    pub(crate) fn port(self) -> Option<Port> {
        match self {
            Self::Wire(port) => Some(port),
            Self::User | Self::Dead | Self::Later => None,
        }
    }
}

/// Firmware, and its variables beside the log: as they come, or as the machine has left them.
fn uefi(arch: Arch, firmware: Firmware, log: &Path) -> Result<Vec<String>> {
    let (code, vars) = match (arch, firmware == Firmware::SecureBoot) {
        (Arch::X86_64, false) => ("OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"),
        (Arch::X86_64, true) => ("OVMF/OVMF_CODE_4M.secboot.fd", "OVMF/OVMF_VARS_4M.snakeoil.fd"),
        (Arch::Aarch64, false) => ("AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd"),
        (Arch::Aarch64, true) => ("AAVMF/AAVMF_CODE.snakeoil.fd", "AAVMF/AAVMF_VARS.snakeoil.fd"),
    };
    let (code, vars) = (Path::new("/usr/share").join(code), Path::new("/usr/share").join(vars));
    let own = log.with_file_name(VARIABLES);
    if !own.exists() {
        std::fs::copy(&vars, &own)
            .with_context(|| format!("cannot copy {}; run: cargo lab setup", vars.display()))?;
    }
    let mut arguments = vec![
        "-drive".into(),
        format!("if=pflash,unit=0,format=raw,readonly=on,file={}", code.display()),
        "-drive".into(),
        format!("if=pflash,unit=1,format=raw,file={}", own.display()),
    ];
    let taken = format!("enable={TAKING},file={}", log.with_extension(TAKEN).display());
    arguments.extend(["-msg".into(), "timestamp=on".into(), "-trace".into(), taken]);
    if (arch, firmware) == (Arch::X86_64, Firmware::SecureBoot) {
        arguments.extend(["-global".into(), "driver=cfi.pflash01,property=secure,value=on".into()]);
    }
    Ok(arguments)
}

/// QEMU's word for the firmware taking one of the files that it boots: docs/specs/fw_cfg.txt.
const TAKING: &str = "fw_cfg_select";
/// Beside the log, what QEMU says of that.
const TAKEN: &str = "taken";

/// How long after `clock` the firmware has taken the last file: it starts the kernel then.
fn kernel_taken(log: &Path, clock: SystemTime) -> Option<Duration> {
    let said = std::fs::read_to_string(log.with_extension(TAKEN)).ok()?;
    let last = said.lines().filter(|line| line.contains(TAKING)).filter_map(trace_time).next_back()?;
    last.checked_sub(clock.duration_since(SystemTime::UNIX_EPOCH).ok()?)
}

/// Since the epoch, from `PROCESS@SECONDS.MICROSECONDS:EVENT`.
fn trace_time(line: &str) -> Option<Duration> {
    let (_, rest) = line.split_once('@')?;
    let (time, _) = rest.split_once(':')?;
    let (seconds, micros) = time.split_once('.')?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?))
}

fn pump(mut from: impl Read, to: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.send(buffer[..length].to_vec()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_have_the_hosts_time() {
        let line = "15164@1795285170.028860:fw_cfg_select 0x55ab key 0x0014 'cmdline_size', ret: 1";
        assert_eq!(trace_time(line), Some(Duration::new(1_795_285_170, 28_860_000)));
        for other in ["", "fw_cfg_select", "a@b.c:d", "1@2:3"] {
            assert_eq!(trace_time(other), None);
        }
    }
}
