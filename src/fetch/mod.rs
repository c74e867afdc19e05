//! Fetch.

mod artifact;
pub mod operator;

pub use artifact::VerifiedArtifact;

use crate::error::Exit;

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match *self {}
    }

    /// What the person can do.
    pub fn hint(&self) -> &'static str {
        match *self {}
    }
}
