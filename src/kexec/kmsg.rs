//! The kernel log, where it is the only one to tell: Documentation/ABI/testing/dev-kmsg.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Shows the text of each of the kernel's own records to `look`, from the first that is left, and None
/// wherever records before are not there: the log is a ring, and its oldest records are overwritten. None, too,
/// where there is no log.
pub(super) fn each(kmsg: &Path, look: &mut dyn FnMut(Option<&str>)) {
    /// The log is read from its start, once, as long as it does not grow for ever.
    const RECORDS: usize = 100_000;
    /// No record is larger: CONSOLE_EXT_LOG_MAX of the kernel.
    const RECORD: usize = 8192;
    let flags = i32::from_ne_bytes(OFlags::NONBLOCK.bits().to_ne_bytes());
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(flags).open(kmsg) else { return look(None) };
    let mut buffer = [0; RECORD];
    // The first record since the boot has the number 0.
    let mut next = 0;
    for _ in 0..RECORDS {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                let record = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
                let Some((number, text)) = parse(&record) else { continue };
                if number != next {
                    look(None);
                }
                next = number.saturating_add(1);
                if text.is_some() {
                    look(text);
                }
            }
            // Records were overwritten while we read: the number of the next one shows it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => {}
            Err(_) => break,
        }
    }
    if next == 0 {
        look(None);
    }
}

/// The number of a record, `priority,number,...;text` and then lines of its own, and what it says in the
/// kernel's name.
fn parse(record: &str) -> Option<(u64, Option<&str>)> {
    let (prefix, text) = record.split_once(';')?;
    let mut prefix = prefix.split(',');
    let priority: u32 = prefix.next()?.parse().ok()?;
    let number = prefix.next()?.parse().ok()?;
    // From 8 on it is somebody else's message than the kernel's: syslog(2), facilities.
    Some((number, text.lines().next().filter(|_| priority < 8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn only_the_kernel_is_listened_to() {
        assert_eq!(parse("6,67,0,-;efi: a\n SUBSYSTEM=x"), Some((67, Some("efi: a"))));
        assert_eq!(parse("6,0,0,-,caller=T1;efi: a"), Some((0, Some("efi: a"))));
        assert_eq!(parse("14,67,0,-;efi: a\n"), Some((67, None)));
        for other in ["6,67,0,-", "x,67;efi: a", "6,x;efi: a", "6;", "6,-1;", "efi: a", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    fn seen(log: &Path) -> Vec<Option<String>> {
        let mut all = Vec::new();
        each(log, &mut |text| all.push(text.map(str::to_owned)));
        all
    }

    #[test]
    fn what_is_lost_is_told() {
        assert_eq!(seen(Path::new("/nonexistent")), [None]);
        let said = Some("efi: a".to_owned());
        let log = tempfile::NamedTempFile::new().unwrap();
        for (record, expected) in [
            ("", vec![None]),
            ("no record", vec![None]),
            ("6,0,0,-;efi: a\n", vec![said.clone()]),
            ("6,1,0,-;efi: a\n", vec![None, said]),
            ("14,0,0,-;efi: a\n", vec![]),
            ("14,1,0,-;efi: a\n", vec![None]),
            ("6,18446744073709551615,0,-;\n", vec![None, Some(String::new())]),
        ] {
            std::fs::write(log.path(), record).unwrap();
            assert_eq!(seen(log.path()), expected, "{record}");
        }
    }

    /// A pipe gives one record for each write, as the kernel's log does for each read.
    #[test]
    fn a_gap_between_records_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let mut pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        rustix::fs::fcntl_setfl(&pipe, OFlags::DIRECT).unwrap();
        for (number, text) in [(0, "a"), (1, "b"), (4, "c"), (5, "d")] {
            pipe.write_all(format!("6,{number},0,-;{text}\n").as_bytes()).unwrap();
        }
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(seen(&path), [text("a"), text("b"), None, text("c"), text("d")]);
    }

    proptest! {
        #[test]
        fn no_record_panics(noise in any::<String>()) {
            let _ = parse(&noise);
        }
    }
}
