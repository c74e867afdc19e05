//! phaseboot: PID 1, or a command.

use std::process::ExitCode;

use log::error;
use phaseboot::{cli, commands, init, log as screen, sys};

fn main() -> ExitCode {
    sys::early::keep();
    screen::start();
    // The kernel hands PID 1 the words of its command line that it does not know; they are not ours.
    if std::process::id() == 1 {
        init::run();
    }
    match cli::parse(std::env::args_os().skip(1)).map_err(Into::into).and_then(commands::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", error.line());
            ExitCode::from(error.exit().code())
        }
    }
}
