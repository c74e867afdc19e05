//! The kernel log, where it is the only one to tell: Documentation/ABI/testing/dev-kmsg.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Shows the text of each of the kernel's own records to `look`, from the first that is left. Nothing where
/// there is no such log: then there is nothing to be known.
pub(super) fn each(kmsg: &Path, mut look: impl FnMut(&str)) {
    /// The log is read from its start, once, as long as it does not grow for ever.
    const RECORDS: usize = 100_000;
    /// No record is larger: CONSOLE_EXT_LOG_MAX of the kernel.
    const RECORD: usize = 8192;
    let flags = i32::from_ne_bytes(OFlags::NONBLOCK.bits().to_ne_bytes());
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(flags).open(kmsg) else { return };
    let mut buffer = [0; RECORD];
    for _ in 0..RECORDS {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                let record = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
                if let Some(text) = text(&record) {
                    look(text);
                }
            }
            // Records were overwritten while we read.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => {}
            Err(_) => break,
        }
    }
}

/// What a record, `prefix;text` and then lines of its own, says in the kernel's name.
fn text(record: &str) -> Option<&str> {
    let (prefix, text) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    // From 8 on it is somebody else's message than the kernel's: syslog(2), facilities.
    text.lines().next().filter(|_| priority < 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_kernel_is_listened_to() {
        assert_eq!(text("6,67,0,-;efi: a\n SUBSYSTEM=x"), Some("efi: a"));
        for other in ["14,67,0,-;efi: a\n", "6,67,0,-", "x,67;efi: a", "6;", "efi: a", ""] {
            assert_eq!(text(other), None, "{other}");
        }
    }

    #[test]
    fn without_a_log_nothing_is_known() {
        each(Path::new("/nonexistent"), |text| panic!("{text}"));
    }

    proptest! {
        #[test]
        fn no_record_panics(noise in any::<String>()) {
            let _ = text(&noise);
        }
    }
}
