//! The only printer: consoles, kernel log, `/run/phaseboot/log.jsonl` and the progress of transfers.
//!
//! Rooms write through the macros of the `log` crate. A record is one line for people,
//! `phaseboot[0.412] net: ...` (seconds since this process started, then the room), or one JSON
//! object with `t` (seconds), `level`, `step` and `message`. Control characters in messages are
//! replaced, so that nothing from outside can forge a line.

mod limits;

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::error::without_controls;
use crate::paths::Paths;
use crate::sys::tty;
use limits::{Entry, Repeats, cut};

/// How a record looks on the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Terminals get a progress line redrawn this often, anything else a line this often.
const REDRAW: Duration = Duration::from_millis(200);
const REPRINT: Duration = Duration::from_secs(5);

/// A console may keep a line waiting this long; after that it is passed over until it takes bytes again.
/// A serial line with flow control and nobody at the other end would stop the boot for ever.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long the last lines get to leave a serial line's buffer.
const DRAIN: Duration = Duration::from_millis(500);

/// /dev/kmsg refuses longer lines (EINVAL): LOG_LINE_MAX of kernel/printk is less than 1024 bytes.
const MOST_KMSG_BYTES: usize = 900;
/// `log.jsonl` lies in memory: it ends when it is this long.
const MOST_JSONL_BYTES: u64 = 1_000_000;

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    started: Instant,
    state: Mutex<State>,
}

struct State {
    format: Format,
    /// Where people look: the active consoles for PID 1, else standard error.
    screens: Vec<Screen>,
    kmsg: Option<File>,
    jsonl: Option<File>,
    repeats: Repeats,
    /// The progress line on the screens, if one is being drawn.
    progress: Option<String>,
}

#[derive(Debug)]
struct Screen {
    file: File,
    terminal: bool,
    /// It did not take bytes in time.
    stuck: bool,
}

impl Screen {
    fn new(file: File) -> Self {
        Self { terminal: file.is_terminal(), file, stuck: false }
    }

    /// Writes without waiting longer than [`PATIENCE`] (files opened with `O_NONBLOCK`). A console that
    /// cannot be written to leaves nobody to tell, so nothing is returned.
    fn write(&mut self, mut bytes: &[u8]) {
        if self.stuck && !self.takes_bytes(Duration::ZERO) {
            return;
        }
        self.stuck = false;
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return,
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.takes_bytes(PATIENCE) {
                        self.stuck = true;
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn takes_bytes(&self, within: Duration) -> bool {
        let mut descriptors = [PollFd::new(&self.file, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(within.subsec_nanos()) };
        poll(&mut descriptors, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }
}

/// Starts logging to standard error. Call once, first.
pub fn start() {
    let logger = LOGGER.get_or_init(|| Logger {
        started: Instant::now(),
        state: Mutex::new(State {
            format: Format::Text,
            screens: io::stderr()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from)
                .map(Screen::new)
                .into_iter()
                .collect(),
            kmsg: None,
            jsonl: None,
            repeats: Repeats::default(),
            progress: None,
        }),
    });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Seconds since [`start`].
pub fn elapsed() -> Duration {
    LOGGER.get().map_or(Duration::ZERO, |logger| logger.started.elapsed())
}

/// Chooses the console format and whether debug records are shown.
pub fn configure(format: Format, debug: bool) {
    log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    if let Some(mut state) = lock() {
        state.format = format;
    }
}

/// Keeps every record in `log.jsonl` too. A folder that cannot be written is not an error: the log
/// is a convenience, the boot is not.
pub fn keep_records(paths: &Paths) {
    let path = paths.log_jsonl();
    let folder = path.parent().unwrap_or(Path::new("/"));
    let file = std::fs::create_dir_all(folder)
        .and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
    if let (Some(mut state), Ok(file)) = (lock(), file) {
        state.jsonl = Some(file);
    }
}

/// For PID 1: writes to each of `consoles`, which do not block, instead of standard error, and to
/// the kernel log.
pub fn take_consoles(consoles: Vec<File>, kmsg: Option<File>) {
    let Some(mut state) = lock() else { return };
    if !consoles.is_empty() {
        state.screens = consoles.into_iter().map(Screen::new).collect();
    }
    state.kmsg = kmsg;
}

/// Says how often the last record was repeated, if it was. The next one is shown whatever it says.
/// To be called before a fork and before the process ends.
pub fn flush() {
    log::logger().flush();
}

/// Waits until what was written has left the terminals' buffers, half a second at most: a reboot or
/// a kexec drops what is still there.
pub fn drain() {
    flush();
    let until = Instant::now() + DRAIN;
    let Some(state) = lock() else { return };
    let terminals = || state.screens.iter().filter(|screen| screen.terminal && !screen.stuck);
    while terminals().any(|screen| tty::unsent(&screen.file) > 0) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lock() -> Option<MutexGuard<'static, State>> {
    // A thread that died while printing leaves nothing here that could be half-done.
    LOGGER.get().map(|logger| logger.state.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The room a record comes from: `phaseboot::net::dhcp4` is `net`.
fn step(target: &str) -> &str {
    match target.strip_prefix("phaseboot::") {
        Some(inner) => inner.split("::").next().unwrap_or(inner),
        None => target,
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("phaseboot") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let entry = Entry {
            level: record.level(),
            step: step(record.target()).to_owned(),
            message: without_controls(&record.args().to_string()),
        };
        let t = self.started.elapsed();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).record(entry, t);
    }

    fn flush(&self) {
        let t = self.started.elapsed();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).flush_repeats(t);
    }
}

impl State {
    fn record(&mut self, entry: Entry, t: Duration) {
        if self.repeats.admits(&entry, t) {
            self.flush_repeats(t);
            self.print(&entry, t);
            self.repeats.shown(entry, t);
        }
    }

    fn flush_repeats(&mut self, t: Duration) {
        if let Some(entry) = self.repeats.take() {
            self.print(&entry, t);
        }
    }

    fn print(&mut self, entry: &Entry, t: Duration) {
        let (text, object) = (as_text(entry, t), as_json(entry, t));
        let line = match self.format {
            Format::Text => &text,
            Format::Json => &object,
        };
        self.erase_progress();
        for screen in &mut self.screens {
            screen.write(format!("{line}\n").as_bytes());
        }
        if let Some(kmsg) = &mut self.kmsg {
            // Debug level: in the kernel's log, but not a second time on its consoles.
            let _ = kmsg.write_all(format!("<7>{}\n", cut(&text, MOST_KMSG_BYTES)).as_bytes());
        }
        if let Some(jsonl) = &mut self.jsonl {
            keep(jsonl, &object, entry, t);
        }
        self.draw_progress();
    }

    fn erase_progress(&mut self) {
        if self.progress.is_some() {
            self.each_terminal(b"\r\x1b[K");
        }
    }

    fn draw_progress(&mut self) {
        if let Some(line) = self.progress.clone() {
            self.each_terminal(format!("\r{line}\x1b[K").as_bytes());
        }
    }

    fn each_terminal(&mut self, bytes: &[u8]) {
        for screen in self.screens.iter_mut().filter(|screen| screen.terminal) {
            screen.write(bytes);
        }
    }
}

fn as_text(entry: &Entry, t: Duration) -> String {
    let mark = match entry.level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info | Level::Debug | Level::Trace => "",
    };
    format!("phaseboot[{:.3}] {}: {mark}{}", t.as_secs_f64(), entry.step, entry.message)
}

fn as_json(entry: &Entry, t: Duration) -> String {
    json!({
        "t": (t.as_secs_f64() * 1000.0).round() / 1000.0,
        "level": entry.level.as_str().to_ascii_lowercase(),
        "step": entry.step,
        "message": entry.message,
    })
    .to_string()
}

/// Appends to `log.jsonl`, which all processes of a boot share: its size tells whether it is full.
fn keep(jsonl: &mut File, object: &str, entry: &Entry, t: Duration) {
    let Ok(size) = jsonl.metadata().map(|metadata| metadata.len()) else { return };
    if size >= MOST_JSONL_BYTES {
        return;
    }
    let mut lines = format!("{object}\n");
    if size.saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX)) >= MOST_JSONL_BYTES {
        let message = "this file is full; the kernel log has what follows".to_owned();
        let last = Entry { level: Level::Warn, message, ..entry.clone() };
        lines.push_str(&as_json(&last, t));
        lines.push('\n');
    }
    let _ = jsonl.write_all(lines.as_bytes());
}

/// The progress of files that are fetched at the same time: one line for all of them, redrawn in
/// place on a terminal, printed now and then elsewhere.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    files: Mutex<Files>,
}

#[derive(Debug)]
struct Files {
    files: Vec<FileProgress>,
    drawn: Instant,
    printed: Instant,
}

#[derive(Clone, Debug)]
struct FileProgress {
    name: &'static str,
    size: u64,
    done: u64,
}

impl Progress {
    /// For files with these names and sizes in bytes.
    pub fn new(files: &[(&'static str, u64)]) -> Self {
        let now = Instant::now();
        let files = files.iter().map(|&(name, size)| FileProgress { name, size, done: 0 }).collect();
        Self { started: now, files: Mutex::new(Files { files, drawn: now, printed: now }) }
    }

    /// Says how many bytes of the file at `index` are there by now.
    pub fn set(&self, index: usize, done: u64) {
        let now = Instant::now();
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.files.get_mut(index) {
            file.done = done;
        }
        if files.files.iter().all(|file| file.done >= file.size) {
            drop(files);
            end_progress();
            return;
        }
        if now.duration_since(files.drawn) < REDRAW {
            return;
        }
        files.drawn = now;
        let line = describe(&files.files, now.duration_since(self.started));
        let print = now.duration_since(files.printed) >= REPRINT;
        if print {
            files.printed = now;
        }
        drop(files);
        let Some(mut state) = lock() else { return };
        if state.format == Format::Text && state.screens.iter().any(|screen| screen.terminal) {
            state.progress = Some(line);
            state.draw_progress();
        } else if print {
            drop(state);
            log::info!(target: "phaseboot::fetch", "{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        end_progress();
    }
}

fn end_progress() {
    if let Some(mut state) = lock() {
        state.erase_progress();
        state.progress = None;
    }
}

fn describe(files: &[FileProgress], elapsed: Duration) -> String {
    let done: u64 = files.iter().map(|file| file.done).sum();
    let left: u64 = files.iter().map(|file| file.size.saturating_sub(file.done)).sum();
    let mut line = String::new();
    for file in files {
        let percent = (file.done * 100).checked_div(file.size).unwrap_or(100);
        line.push_str(&format!("{} {percent}% of {}, ", file.name, bytes(file.size)));
    }
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / millis;
    line.push_str(&format!("{}/s", bytes(rate)));
    if let Some(seconds) = left.checked_div(rate) {
        line.push_str(&format!(", {seconds} s left"));
    }
    line
}

/// A number of bytes for people: `14.2 MB` (powers of ten).
pub fn bytes(count: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", count / unit, count % unit * 10 / unit);
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{} kB", tenths(1_000)),
        1_000_000..1_000_000_000 => format!("{} MB", tenths(1_000_000)),
        _ => format!("{} GB", tenths(1_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_and_sizes_read_well() {
        assert_eq!(step("phaseboot::net::dhcp4"), "net");
        assert_eq!(step("phaseboot"), "phaseboot");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(14_186_432), "14.1 MB");
        assert_eq!(bytes(u64::MAX), "18446744073.7 GB");
    }

    fn state(folder: &Path) -> State {
        let open = |name| {
            let path = folder.join(name);
            OpenOptions::new().create(true).append(true).open(path).unwrap()
        };
        State {
            format: Format::Text,
            screens: vec![Screen::new(open("screen"))],
            kmsg: Some(open("kmsg")),
            jsonl: Some(open("jsonl")),
            repeats: Repeats::default(),
            progress: None,
        }
    }

    fn warning(message: &str) -> Entry {
        Entry { level: Level::Warn, step: "net".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn a_message_from_outside_stays_on_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let state = Mutex::new(state(folder.path()));
        let logger = Logger { started: Instant::now(), state };
        log::set_max_level(LevelFilter::Info);
        logger.log(
            &Record::builder()
                .target("phaseboot::net")
                .level(Level::Info)
                .args(format_args!("a\r\nphaseboot[1.000] net: b\x1b[2J\u{9b}1m"))
                .build(),
        );
        for name in ["screen", "kmsg", "jsonl"] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(text.chars().filter(|c| c.is_control()).count(), 1, "{name}: {text:?}");
            assert!(text.ends_with('\n'));
        }
    }

    #[test]
    fn the_kernel_log_gets_lines_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        state(folder.path()).record(warning(&"\u{e4}".repeat(2000)), Duration::ZERO);
        let kmsg = std::fs::read_to_string(folder.path().join("kmsg")).unwrap();
        assert!(kmsg.len() < 910 && kmsg.ends_with("\u{e4}...\n"), "{kmsg}");
        let screen = std::fs::read_to_string(folder.path().join("screen")).unwrap();
        assert!(screen.len() > 4000);
    }

    #[test]
    fn a_flood_of_one_record_is_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = state(folder.path());
        for _ in 0..1000 {
            state.record(warning("no carrier"), Duration::from_secs(1));
        }
        state.record(warning("carrier"), Duration::from_secs(2));
        let screen = std::fs::read_to_string(folder.path().join("screen")).unwrap();
        assert_eq!(
            screen,
            "phaseboot[1.000] net: warning: no carrier\n\
             phaseboot[2.000] net: warning: last message repeated 999 times\n\
             phaseboot[2.000] net: warning: carrier\n"
        );
    }

    #[test]
    fn the_kept_log_ends_and_says_so_once() {
        let folder = tempfile::tempdir().unwrap();
        // PID 1 and a boot attempt, each with a descriptor of its own.
        let mut states = [state(folder.path()), state(folder.path())];
        for i in 0..1200 {
            for state in &mut states {
                state.record(warning(&format!("{i} {}", "x".repeat(500))), Duration::ZERO);
            }
        }
        let text = std::fs::read_to_string(folder.path().join("jsonl")).unwrap();
        assert!((1_000_000..1_001_000).contains(&text.len()), "{}", text.len());
        assert_eq!(text.matches("full").count(), 1);
        assert!(text.lines().last().unwrap().contains("full"));
    }

    #[test]
    fn progress_names_files_rate_and_remaining_time() {
        let files = [
            FileProgress { name: "kernel", size: 10_000_000, done: 5_000_000 },
            FileProgress { name: "initramfs", size: 0, done: 0 },
        ];
        assert_eq!(
            describe(&files, Duration::from_secs(1)),
            "kernel 50% of 10.0 MB, initramfs 100% of 0 B, 5.0 MB/s, 1 s left"
        );
        assert_eq!(describe(&files[..1], Duration::ZERO), "kernel 50% of 10.0 MB, 5.0 GB/s, 0 s left");
    }
}
