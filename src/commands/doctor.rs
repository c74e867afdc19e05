//! `phaseboot doctor`: can this machine start another kernel?

use crate::cli;
use crate::error::Error;
use crate::paths::Paths;

/// Examines the machine.
pub(super) fn run(_arguments: &cli::Doctor, _paths: &Paths) -> Result<(), Error> {
    Ok(())
}
