//! The few things phaseboot does with URLs: RFC 3986, section 5.2, for http and https.

use percent_encoding::percent_decode_str;

/// Resolves `reference` against the absolute URL `base`. The result is absolute; `None` if the
/// reference has another scheme, or `base` is no http(s) URL. Spaces, which no URL has, become `%20`.
pub fn resolve(base: &str, reference: &str) -> Option<String> {
    let reference = &*reference.replace(' ', "%20");
    if is_http(reference) {
        return Some(reference.to_owned());
    }
    if has_scheme(reference) {
        return None;
    }
    let (scheme, after) = base.split_once("://").filter(|_| is_http(base))?;
    if reference.starts_with("//") {
        return Some(format!("{scheme}:{reference}")).filter(|url| is_http(url));
    }
    let after = after.split('#').next().unwrap_or(after);
    if reference.is_empty() || reference.starts_with('#') {
        return Some(format!("{scheme}://{after}{reference}"));
    }
    let after = after.split('?').next().unwrap_or(after);
    let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    let (reference_path, tail) = reference.split_at(reference.find(['?', '#']).unwrap_or(reference.len()));
    let path = if reference_path.is_empty() {
        path.to_owned()
    } else if reference_path.starts_with('/') {
        reference_path.to_owned()
    } else {
        let folder = path.rfind('/').and_then(|slash| path.get(..=slash)).unwrap_or("/");
        format!("{folder}{reference_path}")
    };
    Some(format!("{scheme}://{authority}{}{tail}", without_dots(&path)))
}

/// Where `location` leads from `url`: credentials stay, on the same host and scheme.
pub fn redirected(url: &str, location: &str) -> Option<String> {
    let next = resolve(url, location)?;
    let stays = host(&next).eq_ignore_ascii_case(host(url)) && is_https(&next) == is_https(url);
    match (authority(url).rsplit_once('@'), next.split_once("://")) {
        (Some((given, _)), Some((scheme, rest))) if stays && !authority(&next).contains('@') => {
            Some(format!("{scheme}://{given}@{rest}"))
        }
        _ => Some(next),
    }
}

/// The file `name` beside the one at `url`, asked for with the same query: who may have the one may have both.
pub fn beside(url: &str, name: &str) -> Option<String> {
    let query = url.split('#').next().and_then(|url| Some(url.split_once('?')?.1));
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    resolve(url, &format!("{name}{query}"))
}

/// Whether it is an absolute http or https URL with a host.
pub fn is_http(url: &str) -> bool {
    let rest = after_scheme(url, "http://").or_else(|| after_scheme(url, "https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

/// Whether it is https.
pub fn is_https(url: &str) -> bool {
    after_scheme(url, "https://").is_some()
}

/// Schemes are the same in both cases: RFC 3986, section 3.1.
fn after_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = url.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// The host and port of an absolute URL; nothing of what is none.
pub fn host(url: &str) -> &str {
    let authority = authority(url);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// `USER:PASSWORD` of an absolute URL, decoded: sections 2.1 and 3.2.1.
pub fn credentials(url: &str) -> Option<Vec<u8>> {
    let (given, _) = authority(url).rsplit_once('@')?;
    let colon = if given.contains(':') { "" } else { ":" };
    Some(percent_decode_str(&format!("{given}{colon}")).collect())
}

fn authority(url: &str) -> &str {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    authority.split(['/', '?', '#']).next().unwrap_or(authority)
}

fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?', '#']).unwrap_or(reference.len());
    reference.get(end..).is_some_and(|rest| rest.starts_with(':'))
}

/// Takes `.` and `..` out of a path: RFC 3986, section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path.split('/').skip(1) {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let slash = if ends_in_folder && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_resolve_as_in_rfc_3986_section_5_4() {
        let base = "http://a/b/c/d;p?q";
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g"),
            ("?y", "http://a/b/c/d;p?y"),
            ("", "http://a/b/c/d;p?q"),
            ("#s", "http://a/b/c/d;p?q#s"),
            ("g?y", "http://a/b/c/g?y"),
            ("g#s", "http://a/b/c/g#s"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("https://h/x", "https://h/x"),
            ("HTTP://h/x", "HTTP://h/x"),
            ("/g h?i j", "http://a/g%20h?i%20j"),
            ("http://h/x y", "http://h/x%20y"),
        ] {
            assert_eq!(resolve(base, reference).as_deref(), Some(expected), "{reference}");
        }
        assert_eq!(resolve("http://a", "g").as_deref(), Some("http://a/g"));
        assert_eq!(resolve("http://a", "?y").as_deref(), Some("http://a/?y"));
        assert_eq!(resolve("http://[::1]:8080/s/m.json", "k").as_deref(), Some("http://[::1]:8080/s/k"));
    }

    #[test]
    fn other_schemes_do_not_resolve() {
        for reference in ["ftp://a/b", "file:///etc/shadow", "mailto:x", "http:g", "http://", "//", "///a"] {
            assert_eq!(resolve("http://a/b", reference), None, "{reference}");
        }
        assert_eq!(resolve("ftp://a/b", "g"), None);
    }

    #[test]
    fn hosts() {
        for (url, expected) in [
            ("http://a", "a"),
            ("https://u:p@a:1/b@c", "a:1"),
            ("http://[::1]:8080/x", "[::1]:8080"),
            ("a", ""),
        ] {
            assert_eq!(host(url), expected, "{url}");
        }
    }

    #[test]
    fn credentials_stay_on_their_host() {
        for (url, location, expected) in [
            ("http://u:p@a/b", "/c", "http://u:p@a/c"),
            ("http://u:p@a/b", "http://a/c", "http://u:p@a/c"),
            ("http://u:p@a/b", "http://v:q@a/c", "http://v:q@a/c"),
            ("http://u:p@A/b", "http://a/c", "http://u:p@a/c"),
            ("http://u:p@a/b", "http://b/c", "http://b/c"),
            ("http://u:p@a/b", "http://a:8080/c", "http://a:8080/c"),
            ("http://u:p@a/b", "https://a/c", "https://a/c"),
            ("http://a/b", "http://a/@c", "http://a/@c"),
            ("https://u@a/b", "https://a/@c", "https://u@a/@c"),
        ] {
            assert_eq!(redirected(url, location).as_deref(), Some(expected), "{url} to {location}");
        }
        assert_eq!(redirected("http://u:p@a/b", "ftp://a/c"), None);
    }

    #[test]
    fn a_file_beside_another_has_its_query() {
        for (url, expected) in [
            ("http://a/b/m.json", "http://a/b/k"),
            ("http://u:p@a/m.json?t=1&u=a/b#x", "http://u:p@a/k?t=1&u=a/b"),
            ("http://a/m.json#?", "http://a/k"),
        ] {
            assert_eq!(beside(url, "k").as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn credentials_are_decoded() {
        for (url, expected) in [
            ("http://a/@b", None),
            ("http://u@a/", Some("u:")),
            ("https://us%40er:p%2Fs%3as%@a:1/b@c", Some("us@er:p/s:s%")),
            ("http://:p@[::1]/", Some(":p")),
        ] {
            assert_eq!(credentials(url).as_deref(), expected.map(str::as_bytes), "{url}");
        }
    }

    proptest! {
        #[test]
        fn what_resolves_is_http(base in "https?://[a-z./?]{1,20}", reference in "[a-z:/.?#]{0,20}") {
            if let Some(url) = resolve(&base, &reference) {
                prop_assert!(url.starts_with("http://") || url.starts_with("https://"));
            }
        }

        #[test]
        fn schemes_have_no_case(url in "\\PC{0,12}", upper in "[hH][tT]{2}[pP][sS]?://a") {
            prop_assert_eq!(is_https(&upper), upper.len() == 9);
            prop_assert!(is_http(&upper));
            prop_assert!(!is_https(&url) || url.to_lowercase().starts_with("https://"));
        }
    }
}
