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

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;

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

/// The whole command: arguments in, exit code out. A failure is one line on standard error, and with
/// --json an object on standard output too.
pub fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let command = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command;
    let is_verdict = matches!(command, Command::Verify(_));
    let result = match command {
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
            let failure = Failure::of(&error, is_verdict);
            if is_json(&matches) {
                // The line on standard error is there all the same.
                let _ = output::line(serde_json::to_string(&failure).unwrap_or_default());
            }
            match error.downcast_ref::<manifest::Error>() {
                Some(refused) => output::note(&format!("{refused}; {}", refused.hint())),
                None => output::note(&failure.error),
            }
            ExitCode::from(failure.exit_code)
        }
    }
}

/// Whether the innermost command was given --json.
fn is_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, matches)) => is_json(matches),
        None => matches!(matches.try_get_one("json"), Ok(Some(true))),
    }
}

/// What --json says of a command that failed.
#[derive(Debug, Serialize)]
struct Failure {
    error: String,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
}

impl Failure {
    /// The exit code of what phaseboot would refuse is phaseboot's own. `is_verdict` is whether a
    /// verdict was asked for; what went wrong otherwise is `error` then.
    fn of(error: &anyhow::Error, is_verdict: bool) -> Self {
        let refused = error
            .downcast_ref::<manifest::Error>()
            .map(|error| (error.exit(), Some(error.hint()), Some(error.verdict())));
        let mismatch = || {
            let error = error.downcast_ref::<place::Mismatch>()?;
            Some((error.exit(), Some("publish it again with phasectl publish"), Some("artifact-mismatch")))
        };
        let (exit, hint, verdict) = refused.or_else(mismatch).unwrap_or((Exit::Internal, None, None));
        let verdict = verdict.or(is_verdict.then_some("error"));
        Self { error: format!("{error:#}"), exit_code: exit.code(), hint, verdict }
    }
}
