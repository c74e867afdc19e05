//! phaseboot: PID 1, or a command.
fn main() {
    phaseboot::sys::early::keep();
    phaseboot::log::start();
}
