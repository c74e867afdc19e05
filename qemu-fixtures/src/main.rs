//! The lab: `cargo lab setup|build|kernels|demo|test|bench`.

mod apt;
mod arch;
mod bench;
mod budgets;
mod build;
mod certificates;
mod debugger;
mod demo;
mod disk;
mod dracut;
mod e2e;
mod elf;
mod faulty;
mod folders;
mod judge;
mod kernels;
mod listener;
mod machine;
mod matrix;
mod network;
mod peer;
mod proxy;
mod publish;
mod qmp;
mod run;
mod scenarios;
mod serial;
mod setup;
mod stage;
mod test;
mod toolchain;
mod trust;
mod wire;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::arch::Arch;

/// The lab of phaseboot: payload builds, kernels, virtual machines, end-to-end tests.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the Debian packages that the lab needs
    Setup,
    /// Build the static payload and the target init
    Build {
        /// Only this architecture (x86_64, arm64); may be repeated
        #[arg(long)]
        arch: Vec<Arch>,
    },
    /// Fetch and build the kernels that are booted, into the cache
    Kernels {
        /// Only kernels for this architecture (x86_64, arm64); may be repeated
        #[arg(long)]
        arch: Vec<Arch>,
    },
    /// Boot once from a provider into the second kernel, and show it
    Demo(demo::Arguments),
    /// Measure, beside what else would do it; nothing fails for being slow
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run every test: the package's, then real boots of real machines
    Test(test::Arguments),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::install(&setup::Needs::everything())?,
        Command::Build { arch } => {
            for built in build::payloads(&all_if_none(arch))? {
                println!("{built}");
            }
        }
        Command::Kernels { arch } => {
            for id in kernels::Id::of(&all_if_none(arch)) {
                println!("{}", kernels::get(id)?);
            }
        }
        Command::Demo(arguments) => demo::run(&arguments)?,
        Command::Bench(bench) => bench::run(&bench)?,
        Command::Test(arguments) => {
            if !test::run(&arguments)? {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn all_if_none(chosen: Vec<Arch>) -> Vec<Arch> {
    if chosen.is_empty() { Arch::ALL.to_vec() } else { chosen }
}
