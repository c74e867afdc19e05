//! Boot the next, verified kernel over the network.
//!
//! The modules follow the way of the data; each step has its own type and only the step before can
//! make it, so that what has not been verified cannot be loaded:
//!
//! | step | from | to | room |
//! |---|---|---|---|
//! | configure | kernel command line, `/etc/phaseboot` | [`config::Config`], [`manifest::Trust`] | [`config`], [`manifest`] |
//! | network | `Config` | [`net::Uplink`], as many as come up | [`net`] |
//! | recall | `Config`, policy | [`rollback::Memory`] | [`rollback`] |
//! | find | `Config`, each `Uplink` | [`provider::Candidates`] | [`provider`] |
//! | verify | `Candidates`, `Trust`, `Memory` | [`provider::Found`]: the first [`manifest::VerifiedManifest`] | [`provider`], [`manifest`] |
//! | fetch | `VerifiedManifest` | [`fetch::VerifiedArtifact`] | [`fetch`] |
//! | recognise | `VerifiedArtifact` | [`image::KernelImage`] | [`image`] |
//! | plan | `KernelImage` | [`kexec::Plan`] | [`kexec`], [`devicetree`] |
//! | load | `Plan` | [`kexec::Loaded`] | [`kexec`] |
//! | hand off | `Loaded` | the next kernel | [`kexec`] |
//!
//! [`boot::run`] is the whole chain. [`init`] is what surrounds it when this process is PID 1.
//! Pure logic does no I/O; system calls that `rustix` lacks live in [`sys`], the only home of `unsafe`.

pub mod arch;
pub mod boot;
pub mod cli;
pub mod commands;
pub mod config;
pub mod devicetree;
pub mod doctor;
pub mod error;
pub mod fetch;
#[cfg(feature = "host")]
pub mod host;
pub mod image;
pub mod init;
pub mod kexec;
pub mod log;
pub mod manifest;
pub mod meminfo;
pub mod net;
pub mod paths;
pub mod patience;
pub mod provider;
pub mod rollback;
pub mod sys;
pub mod threads;
pub mod time;
