//! What a machine said on its serial console: lines, phaseboot's records, the second kernel's report.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

/// Before the report of the second kernel's init.
const TARGET: &str = "PHASEBOOT-TARGET ";
/// When that init started.
const STARTED: &str = "PHASEBOOT-TARGET-STARTED";
/// The last words before the jump, in the kernel's log.
pub(crate) const HANDING_OVER: &str = "phaseboot: handing over to the next kernel";
/// Of every kernel.
pub(crate) const FIRST_WORDS: &str = "] Linux version ";
/// Serial noise without an end is cut here (bytes).
const LONGEST_LINE: usize = 64 * 1024;

/// A line of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Since the machine was started, by the host's clock.
    pub(crate) at: Duration,
    pub(crate) text: String,
}

/// Bytes into lines, as a terminal would show them: without colours, and only the last state of a line
/// that was redrawn.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    /// The lines that these bytes complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' || self.pending.len() >= LONGEST_LINE {
                lines.push(shown(&self.pending));
                self.pending.clear();
            }
            if byte != b'\n' {
                self.pending.push(byte);
            }
        }
        lines
    }

    /// What came after the last line's end.
    pub(crate) fn rest(self) -> Option<String> {
        let text = shown(&self.pending);
        (!text.is_empty()).then_some(text)
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // ECMA-48: a control sequence ends in a letter or one of a few signs.
            '\u{1b}' if chars.clone().next() == Some('[') => {
                let _ = chars.by_ref().skip(1).find(|c| ('@'..='~').contains(c));
            }
            '\r' | '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.split('\r').rfind(|part| !part.is_empty()).unwrap_or_default().to_owned()
}

/// A record of phaseboot's log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record<'a> {
    /// Seconds since phaseboot started, by the machine's clock.
    pub(crate) t: f64,
    pub(crate) step: Cow<'a, str>,
    pub(crate) message: Cow<'a, str>,
    /// Since the machine was started, by the host's clock.
    pub(crate) at: Duration,
}

/// Everything a machine said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) lines: Vec<Line>,
}

impl Transcript {
    /// phaseboot's records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.lines.iter().filter_map(record)
    }

    /// The records that announce a jump into the next kernel.
    pub(crate) fn jumps(&self) -> impl Iterator<Item = Record<'_>> {
        let jumps = |record: &Record<'_>| {
            record.step == "kexec" && record.message.starts_with("starting the next kernel")
        };
        self.records().filter(jumps)
    }

    /// The first of them.
    pub(crate) fn exec(&self) -> Option<Record<'_>> {
        self.jumps().next()
    }

    /// Seconds from the last jump until the second kernel's init started.
    pub(crate) fn handover(&self) -> Option<f64> {
        let (from, to) = (self.jumps().last()?.at, self.target_started()?);
        Some(to.saturating_sub(from).as_secs_f64())
    }

    /// When the second kernel's init started.
    pub(crate) fn target_started(&self) -> Option<Duration> {
        self.lines.iter().find(|line| line.text == STARTED).map(|line| line.at)
    }

    /// The line with which phaseboot gave up, and its exit code. The last one: a retry may have come before.
    pub(crate) fn failure(&self) -> Option<(Record<'_>, u8)> {
        let coded = self.records().filter_map(|record| {
            let (_, code) = record.message.rsplit_once("(exit code ")?;
            let code = code.split(')').next()?.parse().ok()?;
            record.message.contains(" failed: ").then_some((record, code))
        });
        coded.last()
    }

    /// The reports of second kernels, with the host's time. More than one is as wrong as none.
    pub(crate) fn targets(&self) -> Vec<(Duration, Value)> {
        let report = |line: &Line| {
            let (_, json) = line.text.split_once(TARGET)?;
            Some((line.at, serde_json::from_str(json).ok()?))
        };
        self.lines.iter().filter_map(report).collect()
    }

    /// The last lines, for a person who wants to know why.
    pub(crate) fn tail(&self, count: usize) -> impl Iterator<Item = &str> {
        let from = self.lines.len().saturating_sub(count);
        self.lines.iter().skip(from).map(|line| line.text.as_str())
    }
}

fn record(line: &Line) -> Option<Record<'_>> {
    if let Some(start) = line.text.find("{\"") {
        return json(line.text.get(start..)?, line.at);
    }
    // Something else may be in front: not everybody ends their lines.
    let (_, text) = line.text.split_once("phaseboot[")?;
    let (t, text) = text.split_once("] ")?;
    let (step, message) = text.split_once(": ")?;
    Some(Record { t: t.parse().ok()?, step: step.into(), message: message.into(), at: line.at })
}

/// A record as `phase.log=json` has it.
fn json(text: &str, at: Duration) -> Option<Record<'static>> {
    let object: Value = serde_json::from_str(text).ok()?;
    let text = |name: &str| object[name].as_str().map(|text| Cow::Owned(text.to_owned()));
    Some(Record { t: object["t"].as_f64()?, step: text("step")?, message: text("message")?, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(text: &str) -> Transcript {
        let mut splitter = Splitter::default();
        let mut lines = splitter.push(text.as_bytes());
        lines.extend(splitter.rest());
        Transcript { lines: lines.into_iter().map(|text| Line { at: Duration::ZERO, text }).collect() }
    }

    #[test]
    fn lines_are_what_a_terminal_shows() {
        let said =
            transcript("a\r\n\x1b[1;31mred\x1b[0m\r\n\rkernel 1%\x1b[K\r\x1b[Kphaseboot[0.1] net: up\r\nend");
        let texts: Vec<&str> = said.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["a", "red", "phaseboot[0.1] net: up", "end"]);
    }

    #[test]
    fn the_way_of_a_boot_is_read() {
        let said = transcript(
            "noise\nphaseboot[0.412] net: eth0 has 10.0.2.15/24\n[ 1.0] x\n\
             phaseboot[1.500] kexec: starting the next kernel (6.1)\n\nPHASEBOOT-TARGET-STARTED\n\
             \nPHASEBOOT-TARGET {\"efi\":true}\n",
        );
        assert_eq!(said.records().count(), 2);
        assert_eq!((said.jumps().count(), said.handover()), (1, Some(0.0)));
        assert_eq!(said.exec().unwrap().t, 1.5);
        assert_eq!(said.targets()[0].1["efi"], true);
        assert!(said.failure().is_none());
        assert_eq!(said.tail(1).count(), 1);
    }

    #[test]
    fn records_are_read_from_json_as_well() {
        let said = transcript(
            "{\"level\":\"info\",\"message\":\"a \\\"b\\\"\",\"step\":\"net\",\"t\":0.5}\n{\"other\":1}",
        );
        let records: Vec<Record<'_>> = said.records().collect();
        assert_eq!((records.len(), &*records[0].message, &*records[0].step), (1, "a \"b\"", "net"));
    }

    #[test]
    fn a_failure_has_its_code() {
        let said = transcript(
            "phaseboot[2.1] net: error: net failed: no lease; check the cable (exit code 10)\nReboot",
        );
        let (record, code) = said.failure().unwrap();
        assert_eq!((record.t, code), (2.1, 10));
    }
}
