//! What the headers of an answer say: ranges, validators, when to ask again. Pure.

use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, HeaderName, Response, Version, header};

use crate::time::UnixTime;

/// Longer than this nobody is waited for, whatever `Retry-After` says.
pub(super) const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// Longer entity tags are not kept: they would not fit into a request beside everything else.
const MOST_TAG_BYTES: usize = 512;

pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the body says itself where it ends: RFC 9112, section 6.1.
pub(super) fn is_chunked(response: &Response<Body>) -> bool {
    let coding = text(response.headers(), header::TRANSFER_ENCODING).unwrap_or_default();
    let last = coding.rsplit(',').next().unwrap_or_default();
    response.version() == Version::HTTP_11 && last.trim().eq_ignore_ascii_case("chunked")
}

/// The first byte, the one after the last, and the size of the whole if it is known.
pub(super) type Span = (u64, u64, Option<u64>);

/// `bytes FIRST-LAST/TOTAL`, with `*` for a total that is not known: RFC 9110, section 14.4.
pub(super) fn content_range(headers: &HeaderMap) -> Option<Span> {
    let (span, total) = text(headers, header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last.checked_add(1)?, total))
}

/// `bytes */TOTAL` of a 416: RFC 9110, section 15.5.17.
pub(super) fn unsatisfied_range(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_RANGE)?.strip_prefix("bytes */")?.parse().ok()
}

/// With what a transfer can be resumed: a strong entity tag (RFC 9110, section 8.8.3), else a date of
/// the last change that is older than the answer (section 8.8.2.2).
pub(super) fn validator(headers: &HeaderMap) -> Option<String> {
    if let Some(tag) = text(headers, header::ETAG) {
        return (tag.starts_with('"') && tag.len() <= MOST_TAG_BYTES).then(|| tag.to_owned());
    }
    let changed = text(headers, header::LAST_MODIFIED)?;
    let (at, now) = (http_date(changed)?, http_date(text(headers, header::DATE)?)?);
    (at.0 < now.0).then(|| changed.to_owned())
}

/// How long the server wants not to be asked. A date is held against the server's own clock.
pub(super) fn retry_after(headers: &HeaderMap, now: UnixTime) -> Option<Duration> {
    let value = text(headers, header::RETRY_AFTER)?.trim();
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let now = text(headers, header::DATE).and_then(http_date).unwrap_or(now);
            http_date(value)?.0.saturating_sub(now.0)
        }
    };
    Some(Duration::from_secs(seconds).min(MOST_PATIENCE))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` or `Sun Nov  6 08:49:37 1994`: RFC
/// 9110, section 5.6.7. Years of two digits are those from 1970 to 2069.
fn http_date(text: &str) -> Option<UnixTime> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = [""; 7];
    let given = text.split([' ', ',', '-']).filter(|word| !word.is_empty());
    words.iter_mut().zip(given).for_each(|(word, given)| *word = given);
    let (day, month, year, time) = match words {
        [_, day, month, year, time, "GMT", ""] => (day, month, year, time),
        [_, month, day, time, year, "", ""] => (day, month, year, time),
        _ => return None,
    };
    let century = match year.len() {
        2 if year < "70" => "20",
        2 => "19",
        _ => "",
    };
    let month = MONTHS.find(month).filter(|at| at % 3 == 0 && month.len() == 3)? / 3 + 1;
    UnixTime::parse_rfc3339(&format!("{century}{year}-{month:02}-{day:0>2}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ureq::http::HeaderValue;

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn content_ranges() {
        let range = |value| content_range(&headers(&[(header::CONTENT_RANGE, value)]));
        assert_eq!(range("bytes 5-9/10"), Some((5, 10, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, 10, None)));
        for value in
            ["", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "items 0-1/2", "bytes 1-/2", "bytes -1/2"]
        {
            assert_eq!(range(value), None, "{value}");
        }
        assert_eq!(range(&format!("bytes 0-{}/*", u64::MAX)), None);
        assert_eq!(unsatisfied_range(&headers(&[(header::CONTENT_RANGE, "bytes */10")])), Some(10));
    }

    #[test]
    fn validators_are_strong() {
        let date = (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        for (list, expected) in [
            (vec![(header::ETAG, "\"a\"")], Some("\"a\"")),
            (vec![(header::ETAG, "W/\"a\"")], None),
            (vec![(header::ETAG, &format!("\"{}\"", "a".repeat(600)))], None),
            (vec![(header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:36 GMT")], None),
            (
                vec![(header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:36 GMT"), date.clone()],
                Some("Sun, 06 Nov 1994 08:49:36 GMT"),
            ),
            (vec![(header::LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"), date.clone()], None),
            (vec![(header::LAST_MODIFIED, "yesterday"), date], None),
        ] {
            assert_eq!(validator(&headers(&list)).as_deref(), expected, "{list:?}");
        }
    }

    #[test]
    fn when_to_ask_again() {
        let after = |list: &[_]| retry_after(&headers(list), UnixTime(784_111_777));
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[(header::RETRY_AFTER, "7")]), Some(Duration::from_secs(7)));
        assert_eq!(after(&[(header::RETRY_AFTER, "86400")]), Some(MOST_PATIENCE));
        assert_eq!(after(&[(header::RETRY_AFTER, "soon")]), None);
        let date = (header::RETRY_AFTER, "Sun, 06 Nov 1994 08:49:41 GMT");
        assert_eq!(after(std::slice::from_ref(&date)), Some(Duration::from_secs(4)));
        for form in ["Sunday, 06-Nov-94 08:49:41 GMT", "Sun Nov  6 08:49:41 1994"] {
            assert_eq!(after(&[(header::RETRY_AFTER, form)]), Some(Duration::from_secs(4)), "{form}");
        }
        for wrong in ["Sun Nov  6 08:49:41 94 GMT x", "Sunday, 06-Nov-94 08:49:41", "06-ovD-94 08:49:41 GMT"]
        {
            assert_eq!(after(&[(header::RETRY_AFTER, wrong)]), None, "{wrong}");
        }
        let servers = (header::DATE, "Sun, 06 Nov 1994 08:49:39 GMT");
        assert_eq!(after(&[date, servers]), Some(Duration::from_secs(2)));
        assert_eq!(after(&[(header::RETRY_AFTER, "Sun, 06 Nov 1990 08:49:37 GMT")]), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn dates_never_panic(text in "\\PC{0,40}") {
            let _ = http_date(&text);
        }
    }
}
