//! `cargo lab test`: the package's tests, then every scenario.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::scenarios::{self, Scenario};
use crate::setup::{self, Needs};
use crate::stage::Tools;
use crate::{budgets, e2e, folders, kernels};

/// What is tested.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only end-to-end tests whose name contains this: e2e/x86_64, no-dhcp, e2e/*/revoked-*
    filter: Option<String>,
    /// Print the names of the end-to-end tests
    #[arg(long)]
    list: bool,
    /// Without the package's own tests
    #[arg(long)]
    e2e_only: bool,
    /// Boot the binaries of this folder, which is laid out as `target/lab` is, and build none
    #[arg(long, value_name = "DIR")]
    payloads: Option<PathBuf>,
}

/// Whether everything passed.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let chosen: Vec<Scenario> =
        scenarios::all().into_iter().filter(|scenario| scenario.matches(filter)).collect();
    if chosen.is_empty() {
        bail!("no end-to-end test has {filter:?} in its name; cargo lab test --list prints all");
    }
    if arguments.list {
        let mut out = std::io::stdout().lock();
        for scenario in chosen {
            // A reader that has seen enough is no error.
            if writeln!(out, "{}", scenario.full_name()).is_err() {
                break;
            }
        }
        return Ok(true);
    }
    setup::install(&Needs::everything())?;
    let (mut passed, mut failed) = (0, 0);
    if !arguments.e2e_only && arguments.filter.is_none() {
        (passed, failed) = package_tests()?;
    }
    let ids: BTreeSet<kernels::Id> = chosen.iter().flat_map(Scenario::kernels).collect();
    let tools = Tools::prepare(&ids.into_iter().collect::<Vec<_>>(), arguments.payloads.as_deref())?;
    println!();
    let results = e2e::run(chosen, &tools)?;
    budgets::print(&results, tools.all_built());

    let broken: Vec<String> = results
        .outcomes
        .iter()
        .filter(|outcome| outcome.result.is_err())
        .map(|outcome| outcome.scenario.full_name())
        .collect();
    let skipped: Vec<&e2e::Outcome> =
        results.outcomes.iter().filter(|outcome| outcome.skipped.is_some()).collect();
    passed += results.outcomes.len() - broken.len() - skipped.len();
    failed += broken.len();
    if !broken.is_empty() {
        println!("\nfailed: {}", broken.join(", "));
    }
    if let Some(why) = skipped.first().and_then(|outcome| outcome.skipped) {
        println!("\n{} skipped: {why}", skipped.len());
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Runs the tests of every package; answers with how many passed and failed.
fn package_tests() -> Result<(usize, usize)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["test", "--locked", "--workspace", "--features", "host", "--no-fail-fast"])
        // Most of them wait for a server or a timer most of the time.
        .args(["--", "--test-threads", "6"])
        .current_dir(folders::workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if let Some((yes, no)) = summary(&line) {
            passed += yes;
            failed += no;
        }
    }
    if !child.wait()?.success() && failed == 0 {
        bail!("cargo test ended without running every test");
    }
    Ok((passed, failed))
}

/// `test result: ok. 12 passed; 0 failed; ...; 0 filtered out`. Nothing is filtered here: a line that says
/// so comes from a test that started itself again in a namespace, and is counted by its parent.
fn summary(line: &str) -> Option<(usize, usize)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut parts = counts.split("; ");
    if !counts.contains("; 0 filtered out") {
        return None;
    }
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(summary(line), Some((12, 3)));
        assert_eq!(summary("test a::b ... ok"), None);
        assert_eq!(
            summary("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 8 filtered out"),
            None
        );
    }
}
