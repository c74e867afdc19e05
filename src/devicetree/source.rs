//! A tree as text, in the manner of dtc: DTSpec v0.4, chapter 6.

use std::fmt::Write;

use super::blob::{Blob, Token};

/// The nodes and properties of `blob`.
pub(super) fn print(blob: &Blob<'_>) -> String {
    let mut text = String::from("/dts-v1/;\n\n");
    let mut depth = 0usize;
    for token in &blob.tokens {
        match token {
            Token::Begin(name) => {
                let name = if name.is_empty() { "/".into() } else { String::from_utf8_lossy(name) };
                line(&mut text, depth, &format!("{name} {{"));
                depth += 1;
            }
            Token::End => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth, "};");
            }
            Token::Property(property) => {
                let name = String::from_utf8_lossy(property.name);
                match property.value.as_ref() {
                    [] => line(&mut text, depth, &format!("{name};")),
                    bytes => line(&mut text, depth, &format!("{name} = {};", value(bytes))),
                }
            }
        }
    }
    text
}

fn line(text: &mut String, depth: usize, content: &str) {
    text.extend(std::iter::repeat_n('\t', depth));
    text.push_str(content);
    text.push('\n');
}

/// Strings where every byte speaks for it, else 32-bit cells, else bytes.
fn value(bytes: &[u8]) -> String {
    if let Some(strings) = strings(bytes) {
        return strings;
    }
    let mut text = String::new();
    if bytes.len().is_multiple_of(4) {
        for cell in bytes.chunks_exact(4) {
            let cell = cell.iter().fold(0u32, |cell, &byte| cell << 8 | u32::from(byte));
            let _ = write!(text, "{}0x{cell:02x}", if text.is_empty() { "" } else { " " });
        }
        format!("<{text}>")
    } else {
        for byte in bytes {
            let _ = write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { " " });
        }
        format!("[{text}]")
    }
}

fn strings(bytes: &[u8]) -> Option<String> {
    let inner = std::str::from_utf8(bytes.strip_suffix(b"\0")?).ok()?;
    let readable = |part: &str| !part.is_empty() && part.bytes().all(|b| (b' '..=b'~').contains(&b));
    inner.split('\0').all(readable).then(|| {
        let quoted: Vec<String> = inner
            .split('\0')
            .map(|part| format!("\"{}\"", part.replace('\\', "\\\\").replace('"', "\\\"")))
            .collect();
        quoted.join(", ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_look_as_dtc_writes_them() {
        assert_eq!(value(b"arm,cortex-a57\0arm,armv8\0"), "\"arm,cortex-a57\", \"arm,armv8\"");
        assert_eq!(value(&[0, 0, 0, 2, 0xff, 0, 0, 0]), "<0x02 0xff000000>");
        assert_eq!(value(&[1, 2, 3]), "[01 02 03]");
        assert_eq!(value(b"\0"), "[00]");
        assert_eq!(value(b"say \"hi\"\0"), "\"say \\\"hi\\\"\"");
    }
}
