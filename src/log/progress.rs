//! The progress of files that are fetched at the same time: a line for each, redrawn in place on
//! terminals; a line now and then, or a JSON object, where there are none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Format, LOGGER, bytes, lock};

/// How often the lines are redrawn: a serial console at 9600 baud takes 960 bytes a second.
const REDRAW: Duration = Duration::from_millis(500);
/// How often a record is kept, and printed where nothing can be redrawn.
const REPRINT: Duration = Duration::from_secs(5);
/// The rate is that of this many redraws, so that it follows what happens without trembling.
const WINDOW: usize = 6;
/// In columns. Lines that a terminal wraps cannot be redrawn, and serial ones have 80 columns.
const BAR: usize = 16;

/// Transfers that are going on, until it is dropped.
#[derive(Debug)]
pub struct Progress {
    done: Arc<[AtomicU64]>,
    files: Vec<(&'static str, u64)>,
    /// Closed to end the thread.
    stop: Option<Sender<()>>,
    painter: Option<JoinHandle<()>>,
}

impl Progress {
    /// For files with these names and sizes in bytes. The lines come from a thread of their own, so
    /// that a transfer that stands still is seen to.
    pub fn new(files: &[(&'static str, u64)]) -> Self {
        let done: Arc<[AtomicU64]> = files.iter().map(|_| AtomicU64::new(0)).collect();
        let (stop, stopped) = mpsc::channel();
        let counters = Arc::clone(&done);
        let known = files.to_vec();
        let mut files: Vec<Line> = files.iter().map(|&(name, size)| Line::new(name, size)).collect();
        let painter = thread::Builder::new().name("progress".to_owned()).spawn(move || {
            let mut printed = Instant::now();
            while stopped.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                for (file, counter) in files.iter_mut().zip(counters.iter()) {
                    file.note(Instant::now(), counter.load(Ordering::Relaxed));
                }
                let print = printed.elapsed() >= REPRINT;
                if print {
                    printed = Instant::now();
                }
                paint(&files, print);
            }
        });
        // Without a thread there is no progress to be seen, and nothing else is lost.
        Self { done, files: known, stop: Some(stop), painter: painter.ok() }
    }

    /// Says how many bytes of the file at `index` are there by now.
    pub fn set(&self, index: usize, done: u64) {
        if let Some(counter) = self.done.get(index) {
            counter.store(done, Ordering::Relaxed);
        }
        // What is said of a whole file does not stand above a line that is behind.
        if let Some((name, _)) = self.files.get(index).filter(|(_, size)| *size == done)
            && let Some(mut state) = lock()
        {
            let (ours, others): (Vec<String>, Vec<String>) =
                state.progress.iter().cloned().partition(|line| is_of(line, name));
            if !ours.is_empty() {
                state.redraw(others);
            }
        }
    }
}

/// Whether the line is this file's.
fn is_of(line: &str, name: &str) -> bool {
    line.split_whitespace().next() == Some(name)
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(painter) = self.painter.take() {
            let _ = painter.join();
        }
        if let Some(mut state) = lock() {
            state.redraw(Vec::new());
        }
    }
}

/// Shows the files that are not done.
fn paint(files: &[Line], print: bool) {
    let t = LOGGER.get().map_or(Duration::ZERO, |logger| logger.started.elapsed());
    let Some(mut state) = lock() else { return };
    let open = || files.iter().filter(|file| file.done < file.size);
    if print {
        for file in open() {
            let text = format!("phaseboot[{:.3}] fetch: {}", t.as_secs_f64(), file.text());
            state.event(&text, &file.object(t), t);
        }
    }
    if state.format == Format::Text {
        state.redraw(open().map(Line::drawn).collect());
    }
}

/// One file.
#[derive(Debug)]
struct Line {
    name: &'static str,
    size: u64,
    done: u64,
    /// When how much was there, the oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Line {
    fn new(name: &'static str, size: u64) -> Self {
        Self { name, size, done: 0, samples: VecDeque::from([(Instant::now(), 0)]) }
    }

    fn note(&mut self, now: Instant, done: u64) {
        if done < self.done {
            // It starts over.
            self.samples.clear();
        }
        self.done = done;
        self.samples.push_back((now, done));
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
    }

    /// Bytes a second.
    fn rate(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let millis = to.saturating_duration_since(*from).as_millis().max(1);
        after.saturating_sub(*before).saturating_mul(1000) / u64::try_from(millis).unwrap_or(u64::MAX)
    }

    /// Seconds; none while nothing arrives.
    fn left(&self) -> Option<u64> {
        self.size.saturating_sub(self.done).checked_div(self.rate())
    }

    fn percent(&self) -> u64 {
        (u128::from(self.done) * 100)
            .checked_div(u128::from(self.size))
            .map_or(100, |percent| u64::try_from(percent).unwrap_or(100).min(100))
    }

    /// `43%, 6.1 MB of 14.1 MB, 5.4 MB/s, 2 s left`
    fn figures(&self) -> String {
        let left = match self.left() {
            Some(seconds @ ..=5999) => format!("{seconds} s left"),
            Some(seconds) => format!("{} min left", seconds.min(5_999_999) / 60),
            None => "stalled".to_owned(),
        };
        let (done, size, rate) = (bytes(self.done), bytes(self.size), bytes(self.rate()));
        format!("{:>3}%, {done} of {size}, {rate}/s, {left}", self.percent())
    }

    fn text(&self) -> String {
        format!("{} {}", self.name, self.figures().trim_start())
    }

    /// With a bar, in less than 80 columns.
    fn drawn(&self) -> String {
        let full = usize::try_from(self.percent()).unwrap_or(0) * BAR / 100;
        let bar = "#".repeat(full);
        format!("{:<9} [{bar:.<BAR$}] {}", self.name, self.figures())
    }

    fn object(&self, t: Duration) -> String {
        json!({
            "t": (t.as_secs_f64() * 1000.0).round() / 1000.0,
            "level": "info",
            "step": "fetch",
            "message": self.text(),
            "event": "progress",
            "file": self.name,
            "done": self.done,
            "size": self.size,
            "rate": self.rate(),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_names_file_rate_and_remaining_time() {
        let mut line = Line::new("kernel", 10_000_000);
        let start = line.samples[0].0;
        line.note(start + Duration::from_secs(2), 5_000_000);
        assert_eq!(line.drawn(), "kernel    [########........]  50%, 5.0 MB of 10.0 MB, 2.5 MB/s, 2 s left");
        assert!(is_of(&line.drawn(), "kernel") && !is_of(&line.drawn(), "ker"));
        assert_eq!(line.text(), "kernel 50%, 5.0 MB of 10.0 MB, 2.5 MB/s, 2 s left");
        let object: serde_json::Value = serde_json::from_str(&line.object(Duration::from_secs(1))).unwrap();
        assert_eq!((&object["event"], &object["done"]), (&json!("progress"), &json!(5_000_000)));
        assert_eq!((&object["rate"], &object["size"]), (&json!(2_500_000), &json!(10_000_000)));
    }

    #[test]
    fn what_stands_still_is_said_to() {
        let mut line = Line::new("kernel", 10_000_000);
        let start = line.samples[0].0;
        for second in 1..10 {
            line.note(start + Duration::from_secs(second), 5_000_000);
        }
        assert!(line.drawn().ends_with("0 B/s, stalled"), "{}", line.drawn());
        line.note(start + Duration::from_secs(11), 0);
        assert_eq!((line.done, line.rate()), (0, 0));
    }

    proptest! {
        #[test]
        fn every_line_fits_a_serial_console(
            size in 0u64..100_000_000_000, done: u64, millis in 0u64..100_000,
        ) {
            let mut line = Line::new("initramfs", size);
            let start = line.samples[0].0;
            line.note(start + Duration::from_millis(millis), done.min(size));
            prop_assert!(line.drawn().len() < 80, "{}", line.drawn());
        }
    }
}
