//! phasectl: keys, publishing, serving and packing, on the host.

use std::process::ExitCode;

fn main() -> ExitCode {
    phaseboot::host::main()
}
