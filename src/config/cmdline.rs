//! The kernel command line's syntax: `name=value` separated by white space, with double quotes.
//! Source: next_arg() of the kernel's lib/cmdline.c, Documentation/admin-guide/kernel-parameters.rst.

/// One parameter as it stands on the line, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    raw: &'a str,
}

impl<'a> Parameter<'a> {
    /// One of the [`words`] of a line.
    pub fn new(raw: &'a str) -> Self {
        Self { raw }
    }

    /// As it stands on the line, fit to be put on another.
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// The part before `=`; all of it for a flag.
    pub fn name(self) -> &'a str {
        self.split().0
    }

    /// The part after `=`, without the quotes around it.
    pub fn value(self) -> Option<&'a str> {
        self.split().1
    }

    /// Whether it has this name; the kernel takes `-` and `_` for the same.
    pub fn is(self, name: &str) -> bool {
        same_name(self.name(), name)
    }

    fn split(self) -> (&'a str, Option<&'a str>) {
        // `"name=a b"` is quoted as a whole, `name="a b"` in its value.
        let whole = self.raw.strip_prefix('"');
        let text = whole.map_or(self.raw, |inner| inner.strip_suffix('"').unwrap_or(inner));
        match text.split_once('=') {
            None => (text, None),
            Some((name, value)) => match value.strip_prefix('"') {
                Some(inner) if whole.is_none() => (name, Some(inner.strip_suffix('"').unwrap_or(inner))),
                _ => (name, Some(value)),
            },
        }
    }
}

/// Whether two parameter names are the same to the kernel.
pub fn same_name(a: &str, b: &str) -> bool {
    let fold = |byte: u8| if byte == b'-' { b'_' } else { byte };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// The parameters of `line`, up to `--`, after which everything is for init.
pub fn parameters(line: &str) -> impl Iterator<Item = Parameter<'_>> {
    words(line).take_while(|raw| *raw != "--").map(Parameter::new)
}

/// The words of `line`: white space separates them, except between quotes. The quotes stay.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && (c.is_ascii_whitespace() || matches!(c, '\u{b}' | '\0'))
    })
    .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(line: &str) -> Vec<(&str, Option<&str>)> {
        parameters(line).map(|p| (p.name(), p.value())).collect()
    }

    #[test]
    fn words_quotes_and_flags() {
        assert_eq!(
            pairs(" quiet  console=ttyS0,115200\tphase.append=\"a=b c\" \"x=y z\" empty= \n"),
            [
                ("quiet", None),
                ("console", Some("ttyS0,115200")),
                ("phase.append", Some("a=b c")),
                ("x", Some("y z")),
                ("empty", Some("")),
            ]
        );
    }

    #[test]
    fn quoted_words_stay_whole() {
        let found: Vec<_> = words("  a  b=\"c d\" \"e=f g\"\th \"\" ").collect();
        assert_eq!(found, ["a", "b=\"c d\"", "\"e=f g\"", "h", "\"\""]);
    }

    #[test]
    fn what_follows_the_double_dash_is_for_init() {
        assert_eq!(pairs("a=1 -- phase.provider=http://x"), [("a", Some("1"))]);
    }

    #[test]
    fn an_open_quote_runs_to_the_end() {
        assert_eq!(pairs("a=\"b c"), [("a", Some("b c"))]);
        assert_eq!(pairs("\"a b"), [("a b", None)]);
        assert_eq!(pairs("\""), [("", None)]);
    }

    #[test]
    fn dash_and_underscore_are_the_same() {
        assert!(same_name("a-b_c", "a_b-c"));
        assert!(!same_name("a", "ab"));
    }

    proptest! {
        #[test]
        fn raw_words_are_the_line(line in "[ a-z=\"\\t-]{0,60}") {
            let joined: String = parameters(&line).map(Parameter::raw).collect();
            let without_init = joined.len();
            prop_assert!(without_init <= line.len());
            for p in parameters(&line) {
                prop_assert!(line.contains(p.raw()));
                let _ = (p.name(), p.value());
            }
        }
    }
}
