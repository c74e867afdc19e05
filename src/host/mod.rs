//! phasectl: what the host does for machines that boot with phaseboot.
//!
//! | command | what it makes | room |
//! |---|---|---|
//! | `keygen` | a key pair | [`keygen`] |
//! | `publish` | a signed manifest and its artifacts, as a tree for any static HTTP server | [`publish`] |
//! | `serve` | that tree over HTTP | [`serve`] |
//! | `initramfs` | an archive with phaseboot, keys, policy and kernel modules | [`initramfs`] |
//! | `inspect` | a description of a manifest, a kernel or an archive | [`inspect`] |
//!
//! What several commands share: [`signing`] (private keys and signatures), [`passphrase`], [`files`] (reading with
//! limits, writing atomically), [`output`]. What a key, a policy, a kernel or a manifest has to be is
//! for the library to say: phasectl makes nothing that phaseboot would refuse.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Exit;
use crate::manifest;

pub mod document;
pub mod files;
pub mod initramfs;
pub mod inspect;
pub mod judge;
pub mod keygen;
pub mod options;
pub mod output;
pub mod passphrase;
pub mod place;
pub mod publish;
pub mod serve;
pub mod signing;

/// Keys, publishing, serving and packing for phaseboot.
#[derive(Debug, Parser)]
#[command(name = "phasectl", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an Ed25519 key pair
    Keygen(keygen::Arguments),
    /// Sign a kernel and an initramfs and lay them out for a static HTTP server
    Publish(publish::Arguments),
    /// Serve a published tree over HTTP
    Serve(serve::Arguments),
    /// Pack phaseboot, keys, policy and kernel modules into an initramfs
    Initramfs(initramfs::Arguments),
    /// Say what a manifest, a kernel or an initramfs is
    Inspect(inspect::Arguments),
}

/// The whole command: arguments in, exit code out. A failure is one line on standard error.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Keygen(arguments) => keygen::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Initramfs(arguments) => initramfs::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output went away: its choice, not a fault.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("{error:#}"));
            let exit = exit_of(&error);
            ExitCode::from(exit.code())
        }
    }
}

/// The exit code of what phaseboot would refuse is phaseboot's own.
fn exit_of(error: &anyhow::Error) -> Exit {
    let refused = error.downcast_ref::<manifest::Error>().map(manifest::Error::exit);
    let mismatch = error.downcast_ref::<place::Mismatch>().map(place::Mismatch::exit);
    refused.or(mismatch).unwrap_or(Exit::Internal)
}
