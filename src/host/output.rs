//! What people and scripts see: results on standard output, notes and progress on standard error.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Work that ends sooner than this shows no progress bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints one line, or several, on standard output.
pub fn line(text: impl Display) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Prints `value` as JSON on standard output.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints one line on standard error. There is nobody to tell when that fails.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "phasectl: {text}");
}

/// Whether an error only says that whoever read our output has stopped reading.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..1_000 => return format!("{count} B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    let tenths = u128::from(count) * 10 / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// A progress bar over a number of bytes that appears only when the work takes its time, and only
/// on a terminal.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// For `size` bytes of what `label` names.
    pub fn new(label: &str, size: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::hidden());
        let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        Self { bar, started: Instant::now() }
    }

    /// Says that `count` more bytes are done.
    pub fn add(&self, count: u64) {
        if self.bar.is_hidden() && self.started.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(count);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Says on a terminal that `what` takes its time, while `work` does it.
pub fn patiently<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(PATIENCE / 5);
    let result = work();
    spinner.finish_and_clear();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_one_decimal() {
        for (count, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_299_999, "1.2 MB"),
            (14_000_000_000, "14.0 GB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }
}
