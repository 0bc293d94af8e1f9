//! Quantities as people write them: durations (`1h30m`, `250ms`) and byte sizes (`64KiB`, `1MB`).
//!
//! Used as field types of configuration structs. Both print what they parse.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: `90s`, `5m`, `1h30m`, `250ms`, `2d`, or `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

/// A number of bytes: `512`, `64KiB`, `10MiB`, `1GB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a quantity was refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{input:?} is not {wanted}")]
pub struct UnitError {
    input: String,
    wanted: &'static str,
}

const DURATION: &str = "a duration such as 250ms, 30s, 5m, 1h30m or 2d";
const BYTES: &str = "a size such as 512, 64KiB, 10MiB or 1GB";

/// Largest first, which is also the order in which parts must be written. Unit: nanoseconds.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Printed with the largest unit that divides the value; binary before decimal.
const BYTE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl HumanDuration {
    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The plain value.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for HumanDuration {
    fn from(d: Duration) -> Self {
        Self(d)
    }
}

impl From<HumanDuration> for Duration {
    fn from(d: HumanDuration) -> Self {
        d.0
    }
}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(input: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError { input: clip(input), wanted: DURATION };
        if input == "0" {
            return Ok(Self::default());
        }
        let (mut rest, mut nanos, mut units) = (input, 0u64, &DURATION_UNITS[..]);
        if rest.is_empty() {
            return Err(refuse());
        }
        while !rest.is_empty() {
            let (number, tail) = leading_number(rest).ok_or_else(refuse)?;
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let at = units.iter().position(|(name, _)| *name == unit).ok_or_else(refuse)?;
            let part = number.checked_mul(units[at].1).ok_or_else(refuse)?;
            nanos = nanos.checked_add(part).ok_or_else(refuse)?;
            // Each unit once, in falling order: `5m5m` and `5s1h` are typing mistakes.
            units = &units[at + 1..];
            rest = tail;
        }
        Ok(Self(Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0");
        }
        for (unit, size) in DURATION_UNITS {
            if left >= size {
                write!(f, "{}{unit}", left / size)?;
                left %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(input: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError { input: clip(input), wanted: BYTES };
        let (number, unit) = leading_number(input).ok_or_else(refuse)?;
        if unit.is_empty() {
            return Ok(Self(number));
        }
        let (_, size) = BYTE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
        number.checked_mul(*size).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, size): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*size);
        match BYTE_UNITS.iter().find(fits) {
            Some((unit, size)) if *size > 1 => write!(f, "{}{unit}", self.0 / size),
            _ => write!(f, "{}", self.0),
        }
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Error texts quote input; hostile input must not make them long.
fn clip(input: &str) -> String {
    input.chars().take(64).collect()
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // A bare number has no unit, so only 0 is taken.
        d.deserialize_any(Parse(DURATION, |n| n == 0, std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Parse(BYTES, |_| true, std::marker::PhantomData))
    }
}

/// Parses text through `FromStr`, and numbers as their text where the predicate allows them.
struct Parse<T>(&'static str, fn(u64) -> bool, std::marker::PhantomData<T>);

impl<T: FromStr<Err = UnitError>> Visitor<'_> for Parse<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        if !(self.1)(number) {
            let refused = UnitError { input: number.to_string(), wanted: self.0 };
            return Err(E::custom(refused));
        }
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let refused = UnitError { input: number.to_string(), wanted: self.0 };
        self.visit_u64(u64::try_from(number).map_err(|_| E::custom(refused))?)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time such as 250ms, 30s, 5m, 1h30m, 2d or 0.",
            "anyOf": [
                { "type": "string", "pattern": "^(0|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?([0-9]+ns)?)$" },
                { "const": 0 }
            ]
        })
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes, with or without a unit: 512, 64KiB, 10MiB, 1GB.",
            "anyOf": [
                { "type": "string", "pattern": "^[0-9]+(B|kB|KiB|MB|MiB|GB|GiB)?$" },
                { "type": "integer", "minimum": 0 }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_and_print() {
        let cases = [
            ("0", 0, "0"),
            ("30s", 30_000, "30s"),
            ("5m", 300_000, "5m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("250ms", 250, "250ms"),
            ("90s", 90_000, "1m30s"),
            ("2d", 172_800_000, "2d"),
        ];
        for (text, millis, printed) in cases {
            let parsed: HumanDuration = text.parse().unwrap();
            assert_eq!(parsed, HumanDuration::from_millis(millis), "{text}");
            assert_eq!(parsed.to_string(), printed);
            assert_eq!(printed.parse(), Ok(parsed), "prints what it parses");
        }
    }

    #[test]
    fn durations_refuse_what_is_unclear() {
        for text in ["", "5", "m", "-5s", "5 s", "5s1h", "5m5m", "1.5h", "9999999999d", "5é"] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
        let e = "soon".parse::<HumanDuration>().unwrap_err();
        assert_eq!(e.to_string(), format!("\"soon\" is not {DURATION}"));
    }

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes, printed) in [
            ("0", 0, "0"),
            ("512", 512, "512"),
            ("64KiB", 65_536, "64KiB"),
            ("1GB", 1_000_000_000, "1GB"),
            ("2048KiB", 2 << 20, "2MiB"),
            ("7B", 7, "7"),
        ] {
            let parsed: ByteSize = text.parse().unwrap();
            assert_eq!((parsed.0, parsed.to_string().as_str()), (bytes, printed), "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "1 MiB", "-1", "99999999999GiB", "1mb"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_a_size_but_no_duration() {
        let size: ByteSize = serde_saphyr::from_str("4096").unwrap();
        assert_eq!(size.0, 4096);
        let zero: HumanDuration = serde_saphyr::from_str("0").unwrap();
        assert_eq!(zero.0, Duration::ZERO);
        assert!(serde_saphyr::from_str::<HumanDuration>("30").is_err());
    }
}
