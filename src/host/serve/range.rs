//! Which bytes of a file a request asks for: RFC 9110, sections 13 and 14.
//!
//! One range a request is served. Several at once are answered with the whole file, as section
//! 14.2 allows: no boot client asks for them, and they multiply a server's work.

/// The part of a file to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: status 200.
    Whole,
    /// `length` bytes, at least one, from `start`: status 206.
    Slice { start: u64, length: u64 },
    /// No byte of the file: status 416.
    Unsatisfiable,
}

/// Resolves a `Range` header against a file of `size` bytes. What cannot be parsed is ignored.
pub(super) fn resolve(header: &str, size: u64) -> Part {
    let Some((unit, set)) = header.split_once('=') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Part::Whole };
    let slice = match (number(first), number(last)) {
        // The last `count` bytes; more than there are means all of them.
        (None, Some(count)) if first.is_empty() => {
            let length = count.min(size);
            (size - length, length)
        }
        (Some(start), None) if last.is_empty() => (start, size.saturating_sub(start)),
        (Some(start), Some(last)) if start <= last => {
            (start, size.min(last.saturating_add(1)).saturating_sub(start))
        }
        _ => return Part::Whole,
    };
    match slice {
        (_, 0) => Part::Unsatisfiable,
        (start, length) => Part::Slice { start, length },
    }
}

/// A decimal number; one that is too large for a file is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Whether a list of entity tags (`If-None-Match`) names `etag`, by weak comparison.
pub(super) fn names(list: &str, etag: &str) -> bool {
    list.trim() == "*" || list.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slice(start: u64, length: u64) -> Part {
        Part::Slice { start, length }
    }

    #[test]
    fn edges() {
        for (header, size, part) in [
            ("bytes=0-0", 10, slice(0, 1)),
            ("bytes=0-9", 10, slice(0, 10)),
            ("bytes=0-10", 10, slice(0, 10)),
            ("bytes=9-", 10, slice(9, 1)),
            ("bytes=10-", 10, Part::Unsatisfiable),
            ("bytes=10-20", 10, Part::Unsatisfiable),
            ("bytes=-1", 10, slice(9, 1)),
            ("bytes=-10", 10, slice(0, 10)),
            ("bytes=-11", 10, slice(0, 10)),
            ("bytes=-0", 10, Part::Unsatisfiable),
            ("bytes=0-", 0, Part::Unsatisfiable),
            ("bytes=-5", 0, Part::Unsatisfiable),
            ("bytes=0-18446744073709551615", 10, slice(0, 10)),
            ("bytes=5-99999999999999999999999", 10, slice(5, 5)),
            ("bytes=18446744073709551615-", 10, Part::Unsatisfiable),
            ("Bytes = 2-3", 10, slice(2, 2)),
            ("bytes=3-2", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=", 10, Part::Whole),
            ("bytes=a-b", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("bytes=0-1,3-4", 10, Part::Whole),
            ("lines=0-1", 10, Part::Whole),
            ("", 10, Part::Whole),
        ] {
            assert_eq!(resolve(header, size), part, "{header} of {size}");
        }
    }

    #[test]
    fn entity_tags() {
        for list in ["*", "\"a\"", "W/\"a\"", "\"b\", \"a\"", "\"b\" ,W/\"a\""] {
            assert!(names(list, "\"a\""), "{list}");
        }
        for list in ["", "a", "\"b\"", "\"aa\""] {
            assert!(!names(list, "\"a\""), "{list}");
        }
    }

    proptest! {
        #[test]
        fn a_slice_lies_in_the_file(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Part::Slice { start, length } = resolve(&header, size) {
                prop_assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }

        #[test]
        fn any_text_is_survived(header in "\\PC{0,40}", size: u64) {
            let _ = resolve(&header, size);
        }
    }
}
