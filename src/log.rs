//! The only printer: consoles, kernel log, `/run/phaseboot/log.jsonl` and the progress of transfers.
//!
//! Rooms write through the macros of the `log` crate. A record is one line for people,
//! `phaseboot[0.412] net: ...` (seconds since this process started, then the room), or one JSON
//! object with `t` (seconds), `level`, `step` and `message`. Control characters in messages are
//! replaced, so that nothing from outside can forge a line.

mod limits;
mod progress;
mod screen;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde_json::json;

use crate::error::without_controls;
use crate::paths::Paths;
use crate::sys::tty;
use limits::{Entry, Repeats, cut};
use screen::Screen;

pub use progress::Progress;

/// How a record looks on the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

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
    /// The lines of progress that stand last on the terminals.
    progress: Vec<String>,
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
            progress: Vec::new(),
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
            keep(jsonl, &object, t);
        }
        self.draw_progress();
    }

    /// Takes the lines of progress off the terminals.
    fn erase_progress(&mut self) {
        if !self.progress.is_empty() {
            let up = "\r\x1b[K\x1b[A".repeat(self.progress.len() - 1);
            self.each_terminal(format!("{up}\r\x1b[K").as_bytes());
        }
    }

    fn draw_progress(&mut self) {
        for screen in self.screens.iter_mut().filter(|screen| screen.terminal && !self.progress.is_empty()) {
            // A line that is wrapped could not be erased.
            let columns = screen.columns();
            let lines: Vec<String> =
                self.progress.iter().map(|line| line.chars().take(columns).collect()).collect();
            screen.write(lines.join("\n").as_bytes());
        }
    }

    /// Replaces the lines of progress on the terminals.
    fn redraw(&mut self, lines: Vec<String>) {
        self.erase_progress();
        self.progress = lines;
        self.draw_progress();
    }

    /// Keeps an event that terminals see as a line of progress, and shows it where there are none.
    fn event(&mut self, text: &str, object: &str, t: Duration) {
        let json = self.format == Format::Json;
        let line = if json { object } else { text };
        for screen in self.screens.iter_mut().filter(|screen| json || !screen.terminal) {
            screen.write(format!("{line}\n").as_bytes());
        }
        if let Some(jsonl) = &mut self.jsonl {
            keep(jsonl, object, t);
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
fn keep(jsonl: &mut File, object: &str, t: Duration) {
    let Ok(size) = jsonl.metadata().map(|metadata| metadata.len()) else { return };
    if size >= MOST_JSONL_BYTES {
        return;
    }
    let mut lines = format!("{object}\n");
    if size.saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX)) >= MOST_JSONL_BYTES {
        let message = "this file is full; the kernel log has what follows".to_owned();
        let last = Entry { level: Level::Warn, step: "log".to_owned(), message };
        lines.push_str(&as_json(&last, t));
        lines.push('\n');
    }
    let _ = jsonl.write_all(lines.as_bytes());
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

/// `text` in lines of at most 100 characters, as far as its words allow it, behind the first `indent`
/// columns, which are the caller's in the first line and blank in the others.
pub fn wrapped(text: &str, indent: usize) -> String {
    const COLUMNS: usize = 100;
    let (mut lines, mut column) = (String::new(), indent);
    for word in text.split_inclusive(' ') {
        let length = word.chars().count();
        if column > indent && column + word.trim_end().chars().count() > COLUMNS {
            lines.truncate(lines.trim_end().len());
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcsetwinsize};

    use super::*;

    #[test]
    fn rooms_and_sizes_read_well() {
        assert_eq!(step("phaseboot::net::dhcp4"), "net");
        assert_eq!(step("phaseboot"), "phaseboot");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(14_186_432), "14.1 MB");
        assert_eq!(bytes(u64::MAX), "18446744073.7 GB");
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrapped("a b", 98), "a\n".to_owned() + &" ".repeat(98) + "b");
        assert_eq!(wrapped("as  it is", 20), "as  it is");
        assert_eq!(wrapped("", 20), "");
        let long = "x".repeat(200);
        assert_eq!(wrapped(&long, 20), long);
        let text = "word \u{e9}\u{e9}\u{e9}\u{e9}\u{e9} ".repeat(50);
        let lines = format!("{:<20}{}", "label", wrapped(&text, 20));
        assert!(lines.lines().all(|line| line.trim_end().chars().count() <= 100), "{lines}");
        assert_eq!((lines.split_whitespace().count(), lines.lines().count()), (101, 8));
        assert!(lines.lines().skip(1).all(|line| line.starts_with(&" ".repeat(20))));
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
            progress: Vec::new(),
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
    fn a_record_goes_above_the_lines_of_progress() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = state(folder.path());
        state.screens[0].terminal = true;
        state.redraw(vec!["one".to_owned(), "two".to_owned()]);
        state.record(warning("carrier"), Duration::from_secs(1));
        state.redraw(Vec::new());
        let screen = std::fs::read_to_string(folder.path().join("screen")).unwrap();
        let erase = "\r\x1b[K\x1b[A\r\x1b[K";
        let record = "phaseboot[1.000] net: warning: carrier\n";
        assert_eq!(screen, format!("one\ntwo{erase}{record}one\ntwo{erase}"));
    }

    #[test]
    fn lines_of_progress_are_cut_to_a_narrow_terminal() {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut state = state(folder.path());
        let line = "0123456789".repeat(7);
        for (columns, shown) in [(40, 39), (81, 70), (0, 70)] {
            let size = Winsize { ws_row: 25, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&terminal, size).unwrap();
            state.screens = vec![Screen::new(terminal.try_clone().unwrap())];
            state.progress = vec![line.clone()];
            state.draw_progress();
            let mut drawn = [0; 200];
            let count = File::from(keyboard.try_clone().unwrap()).read(&mut drawn).unwrap();
            assert_eq!(count, shown, "{columns} columns");
        }
    }

    #[test]
    fn an_event_is_printed_where_no_line_is_drawn_and_kept_everywhere() {
        for (format, terminal, printed) in [
            (Format::Text, true, ""),
            (Format::Text, false, "text\n"),
            (Format::Json, true, "{}\n"),
            (Format::Json, false, "{}\n"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut state = state(folder.path());
            (state.format, state.screens[0].terminal) = (format, terminal);
            state.event("text", "{}", Duration::ZERO);
            let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!((read("screen").as_str(), read("jsonl").as_str()), (printed, "{}\n"));
            assert_eq!(read("kmsg"), "");
        }
    }
}
