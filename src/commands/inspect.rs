//! `phaseboot inspect`: what a kernel, ramdisk, unified image or manifest is.

use std::path::Path;

use crate::error::Error;

/// Says what `file` is.
pub(super) fn run(_file: &Path, _json: bool) -> Result<(), Error> {
    Ok(())
}
