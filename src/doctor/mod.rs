//! Can this machine start another kernel, and if not, what is the cure?
//!
//! [`Facts`] are read in one place, `linux.rs`; what each means is said by pure functions, `judge.rs`.

mod facts;
mod judge;
mod linux;

use std::fmt;

use serde_json::json;

use crate::error::{Error, Exit};
use crate::kexec::Plan;
use crate::log::wrapped;

pub use facts::{Facts, Image};
pub use judge::judge;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    /// It works, but somebody should know.
    Warning,
    /// It cannot be seen from here, and need not be in the way.
    Unknown,
    /// No other kernel starts; the attempt would end with this exit code.
    Blocker(Exit),
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Blocker(_) => "blocker",
        }
    }
}

/// Where the text of a check begins: state and name stand before it.
const INDENT: usize = 29;

/// One entry of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was found.
    pub saw: String,
    /// What the person can do; empty if there is nothing to be done.
    pub cure: &'static str,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.cure.is_empty() { "" } else { "; " };
        let text = [self.saw.as_str(), space, self.cure].concat();
        write!(f, "{:<8} {:<19} {}", self.state.word(), self.name, wrapped(&text, INDENT))
    }
}

/// Every check, in the order in which a boot would meet what they look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    fn add(&mut self, name: &'static str, state: State, saw: impl Into<String>, cure: &'static str) {
        self.checks.push(Check { name, state, saw: saw.into(), cure });
    }

    /// Adds what came of planning the load of a kernel: the calls that would be tried, or what stops it.
    pub fn add_plan(&mut self, plan: &Result<Plan, Error>) {
        match plan {
            Ok(plan) => {
                let calls: Vec<String> = plan.attempts().iter().map(|one| one.call().to_string()).collect();
                let preference = plan.preference().map_or(String::new(), |text| format!("; {text}"));
                self.add("plan", State::Ok, calls.join(", then ") + &preference, "");
            }
            Err(error) => self.add("plan", State::Blocker(error.exit()), error.to_string(), error.hint()),
        }
    }

    /// What stops a boot first, and its exit code.
    pub fn blocker(&self) -> Option<(&'static str, Exit)> {
        self.checks.iter().find_map(|check| match check.state {
            State::Blocker(exit) => Some((check.name, exit)),
            _ => None,
        })
    }

    /// One object: `ok`, `exit`, `checks`.
    pub fn as_json(&self) -> String {
        let check = |check: &Check| json!({ "name": check.name, "state": check.state.word(), "saw": check.saw, "cure": check.cure });
        let exit = self.blocker().map_or(Exit::Done, |(_, exit)| exit);
        let checks: Vec<_> = self.checks.iter().map(check).collect();
        json!({ "ok": exit == Exit::Done, "exit": exit.code(), "checks": checks }).to_string()
    }
}

/// A line for each check; long ones go on below.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checks.iter().try_for_each(|check| writeln!(f, "{check}"))
    }
}

#[cfg(test)]
mod tests;
