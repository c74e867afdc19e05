//! phasectl: what the host does for machines that boot with phaseboot.
//!
//! | command | what it makes | room |
//! |---|---|---|
//! | `keygen` | a key pair | [`keygen`] |
//! | `publish` | signed manifests and their artifacts, as a tree for any static HTTP server | [`publish`] |
//! | `sign` | one more signature on a manifest or a key list | [`sign`] |
//! | `verify` | a machine's verdict on one of these | [`verify`] |
//! | `keys` | a key list: which keys may sign manifests | [`keys`] |
//! | `policy` | a verdict on a trust policy | [`policy`] |
//! | `serve` | that tree over HTTP | [`serve`] |
//! | `initramfs` | an archive with phaseboot, keys, policy and kernel modules | [`initramfs`] |
//! | `inspect` | a description of a manifest, a kernel or an archive | [`inspect`] |
//!
//! What several commands share: [`options`], [`signing`] (keys), [`passphrase`], [`document`] (what is
//! signed), [`judge`] (what machines would say to it), [`place`] (where it lives), [`files`] (reading
//! with limits, writing atomically), [`output`]. What a key, a policy, a kernel or a manifest has to be
//! is for the library to say: phasectl makes nothing that phaseboot would refuse.

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
pub mod keys;
pub mod options;
pub mod output;
pub mod passphrase;
pub mod place;
pub mod policy;
pub mod publish;
pub mod serve;
pub mod sign;
pub mod signing;
pub mod verify;

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
    /// Add a signature to a manifest or a key list, and put it into its place
    Sign(sign::Arguments),
    /// Say what a machine would say to a manifest or a key list
    Verify(verify::Arguments),
    /// Replace or withdraw the keys that sign manifests
    #[command(subcommand)]
    Keys(keys::Command),
    /// Check a trust policy
    #[command(subcommand)]
    Policy(policy::Command),
    /// Serve a published tree over HTTP
    Serve(serve::Arguments),
    /// Pack phaseboot, keys, policy and kernel modules into an initramfs
    Initramfs(initramfs::Arguments),
    /// Say what a manifest, a key list, a kernel or an initramfs is
    Inspect(inspect::Arguments),
}

/// The whole command: arguments in, exit code out. A failure is one line on standard error.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Keygen(arguments) => keygen::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Sign(arguments) => sign::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Keys(command) => keys::run(&command),
        Command::Policy(command) => policy::run(&command),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Initramfs(arguments) => initramfs::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output went away: its choice, not a fault.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<manifest::Error>() {
                Some(refused) => output::note(&format!("{refused}; {}", refused.hint())),
                None => output::note(&format!("{error:#}")),
            }
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
