//! `cargo lab bench handover`: how long each row of the matrix takes from the jump to the next kernel's init,
//! beside a cold boot of the same kernel with the same initramfs on the same machine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::e2e::{self, Handover};
use crate::scenarios::{self, Scenario};
use crate::setup::{self, Needs};
use crate::stage::Tools;
use crate::{folders, kernels};

use super::median;

/// How long it may take from kernel to kernel, for each second of a cold boot.
const GOAL: f64 = 1.5;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only rows whose name contains this: e2e/aarch64, load-uefi, e2e/*/uki
    filter: Option<String>,
    /// How often each is measured, in turn with its cold boot
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave QEMU the code that it has translated of the kernel before: slower where the next one is written
    /// over that, which no hardware is
    #[arg(long)]
    translated: bool,
    /// Boot the binaries of this folder, which is laid out as `target/lab` is, and build none
    #[arg(long, value_name = "DIR")]
    payloads: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let is_row = |scenario: &Scenario| scenario.row && scenario.matches(filter);
    let rows: Vec<Scenario> = scenarios::all().into_iter().filter(is_row).collect();
    if rows.is_empty() || arguments.rounds == 0 {
        bail!("nothing to measure: no row of the matrix has {filter:?} in its name, or there are no rounds");
    }
    setup::install(&Needs::everything())?;
    let ids: BTreeSet<kernels::Id> = rows.iter().flat_map(Scenario::kernels).collect();
    let tools = Tools::prepare(&ids.into_iter().collect::<Vec<_>>(), arguments.payloads.as_deref())?;
    let folder = folders::work("bench-handover")?;
    println!(
        "\nseconds to the next kernel's init, medians of {} rounds, nothing else running",
        arguments.rounds
    );
    println!("{:<44} {:>8} {:>8} {:>6}", "", "jump", "cold", "ratio");
    let mut over = Vec::new();
    for mut row in rows {
        row.machine.forgets = !arguments.translated;
        let name = row.full_name();
        match e2e::handovers(&row, &tools, &folder.join(row.slug()), arguments.rounds) {
            Ok(times) => {
                let ratio = line(&name, &times);
                if ratio.is_none_or(|ratio| ratio > GOAL) {
                    over.push(name);
                }
            }
            Err(error) => {
                println!("{name:<44} no figure: {error:#}");
                over.push(name);
            }
        }
    }
    match over.len() {
        0 => println!("goal met: no row takes more than {GOAL} times its cold boot"),
        _ => println!("goal not met by {}", over.join(", ")),
    }
    Ok(())
}

/// Prints a row and answers with its ratio.
fn line(name: &str, times: &[Handover]) -> Option<f64> {
    let jump = median(times.iter().map(|times| times.jump))?;
    let cold = median(times.iter().map(|times| times.cold))?;
    let ratio = jump / cold;
    let verdict = if ratio <= GOAL { String::new() } else { format!("  OVER {GOAL}") };
    println!("{name:<44} {jump:>8.2} {cold:>8.2} {ratio:>6.2}{verdict}");
    Some(ratio)
}
