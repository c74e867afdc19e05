//! JSON as a trust decision needs it: what two readers could take for two things is an error. No
//! duplicate keys, no numbers that some round, no depth that some refuse. Source: proto/MANIFEST.md.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Objects and arrays within each other.
const MOST_LEVELS: u32 = 32;
/// 2^53 - 1: the largest integer that every reader of JSON keeps (RFC 8259, section 6).
pub(super) const MOST: u64 = (1 << 53) - 1;

/// Parses one JSON value that fills all of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { levels: MOST_LEVELS }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// A value with at most so many levels.
#[derive(Clone, Copy)]
struct Strict {
    levels: u32,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1);
        Ok(Self { levels: levels.ok_or_else(|| E::custom(format!("more than {MOST_LEVELS} levels")))? })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        if value > MOST { Err(number()) } else { Ok(Value::Number(value.into())) }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MOST { Err(number()) } else { Ok(Value::Number(value.into())) }
    }

    /// Fractions, exponents, -0, and integers that 64 bits cannot hold.
    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Err(number())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                let key = crate::error::printable(&key);
                return Err(A::Error::custom(format!("key \"{key}\" stands twice in one object")));
            }
            map.insert(key, access.next_value_seed(inner)?);
        }
        Ok(Value::Object(map))
    }
}

fn number<E: Error>() -> E {
    E::custom("a number that is no integer from -(2^53-1) to 2^53-1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duplicate_keys_and_trailing_data_are_errors() {
        for text in ["{\"a\":1,\"a\":1}", "{\"b\":[{\"a\":1,\"\\u0061\":2}]}", "{} {}", "{}x", "", "[1,]"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_integers_that_every_reader_keeps() {
        for text in ["1.0", "1e3", "0.5", "-0", "01", "9007199254740992", "-9007199254740992", "1e999"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["0", "-1", "9007199254740991", "-9007199254740991"] {
            assert_eq!(parse(text.as_bytes()).unwrap().to_string(), text);
        }
    }

    /// Signers write keys in order; a crate that switches serde_json's `preserve_order` on would
    /// make them write another text.
    #[test]
    fn keys_are_written_in_order() {
        let value = parse(br#"{"b":1,"a":{"d":2,"c":3}}"#).unwrap();
        assert_eq!(value.to_string(), r#"{"a":{"c":3,"d":2},"b":1}"#);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(deep(32).as_bytes()).is_ok());
        assert!(parse(deep(33).as_bytes()).unwrap_err().to_string().contains("32 levels"));
        assert!(parse("{\"a\":".repeat(33).as_bytes()).is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_what_it_accepts(text in "[\\[\\]{}\":,a-c0-9.e\\-]{0,40}") {
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(Some(value), serde_json::from_str(&text).ok());
            }
        }
    }
}
