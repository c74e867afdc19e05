//! URLs from outside, before they are believed to lead to a provider. Pure.

use crate::provider::url;

/// In bytes.
const MOST: usize = 2048;
/// What firmware and boot loaders load. None of it is a manifest, or a folder of them.
const OTHER_FILES: [&str; 14] =
    ["0", "bin", "cfg", "efi", "gz", "img", "ipxe", "iso", "kkpxe", "kpxe", "lkrn", "pxe", "vhd", "wim"];

/// Whether it is an http(s) URL of a length and characters that such a URL has, and names no file for
/// somebody else.
pub(super) fn is_usable(text: &str) -> bool {
    text.len() <= MOST
        && url::is_http(text)
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\'))
        && other_file(text).is_none()
}

/// The ending of a file that is for a boot loader.
fn other_file(text: &str) -> Option<&'static str> {
    let path = text.split(['?', '#']).next().unwrap_or(text);
    let file = path.split_once("://")?.1.split_once('/')?.1.rsplit('/').next()?;
    let (stem, ending) = file.rsplit_once('.')?;
    // v1.0 is no pxelinux.0.
    let is_version = ending == "0" && stem.ends_with(|last: char| last.is_ascii_digit());
    OTHER_FILES.into_iter().filter(|_| !is_version).find(|other| ending.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn providers_and_what_is_none() {
        for text in [
            "http://10.0.2.2",
            "http://10.0.2.2:8080/boot/",
            "https://[2001:db8::1]/a/manifest.json?token=1",
            "http://host.img",
            "http://host/v1.0",
        ] {
            assert!(is_usable(text), "{text}");
        }
        for text in [
            "",
            "pxelinux.0",
            "tftp://10.0.2.2/a",
            "http://",
            "http:///x",
            "http://a/b c",
            "http://a/\u{7f}",
            "http://a/\u{e9}",
            "http://a/\n",
            "http://a/boot/BOOTX64.EFI",
            "http://a/undionly.kpxe?x=1",
            "https://a/pxelinux.0",
            &format!("http://a/{}", "x".repeat(MOST)),
        ] {
            assert!(!is_usable(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(https?://)?[\\PC./]{0,30}") {
            let _ = is_usable(&text);
        }
    }
}
