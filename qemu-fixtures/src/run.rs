//! Running programs: each failure is one line that names the program and its last words.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

fn name(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let first = command.get_args().next().map(OsStr::to_string_lossy).unwrap_or_default();
    format!("{program} {first}").trim_end().to_owned()
}

/// Runs it to its end with the terminal's input and output.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let name = name(command);
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Runs it and answers with what it wrote to standard output.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = words[words.len().saturating_sub(3)..].join(" / ");
        bail!("{name} failed ({}): {last}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it without showing anything, unless it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    text(command).map(drop)
}

/// Whether PATH has a program of this name.
pub(crate) fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
