//! `cargo lab bench`: how long things take, beside what else would do them. Never a test.

mod fetch;
mod handover;
mod links;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// A large file over loopback: curl, curl with sha256sum, phaseboot fetch
    Fetch(fetch::Arguments),
    /// From one kernel to the next one's init, beside that kernel's cold boot: one machine at a time
    Handover(handover::Arguments),
    /// From the start to the lease, on one link and on sixteen of which one works: phaseboot, udhcpc
    Links(links::Arguments),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Fetch(arguments) => fetch::run(arguments),
        Bench::Handover(arguments) => handover::run(arguments),
        Bench::Links(arguments) => links::run(arguments),
    }
}

/// The one in the middle; of an even number the upper one of two.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
