//! Entry points for fuzzers: configuration text and the quantities in it. Each takes any bytes,
//! must not panic, and states the law of its parser. Never called in production.

use std::fmt::{Debug, Display};
use std::net::SocketAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{self, Sources};
use crate::units::{ByteSize, HumanDuration};

/// A target: its name and what it does with the input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[("config", config_law), ("units", units_law)];

#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Config {
    id: String,
    keep_for: HumanDuration,
    most: ByteSize,
    inner: Option<Box<Config>>,
    list: Vec<Config>,
    listen: Option<SocketAddr>,
}

/// A file is read or refused on one line; the same text as a variable, too.
fn config_law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = || [("HANSA_LIST", text), ("HANSA_INNER__KEEP_FOR", text)];
    for sources in [Sources::default().text("fuzz.yaml", text), Sources::default().env(env())] {
        if let Err(error) = config::load::<Config>(&sources) {
            let said = error.to_string();
            assert!(!said.is_empty() && said.lines().count() <= 1, "{said:?}");
        }
    }
}

/// What is taken prints as a text that reads to the same value.
fn units_law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    round_trip::<HumanDuration>(text);
    round_trip::<ByteSize>(text);
}

fn round_trip<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string().parse::<T>().ok();
        assert_eq!(again.as_ref(), Some(&value), "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: &[&str] = &[
        "id: a\nkeepFor: 1h30m\nmost: 64KiB\nlisten: '[::]:53'\n",
        "inner: &x {id: b, keepFor: 5m}\nlist: [*x, {most: 7}]\n",
        "list:\n- id: \"a\\tb\"\n- {inner: {inner: {id: c}}}\n# end\n",
        "1h30m250ms",
        "18446744073709551615",
    ];

    /// Bounded and repeatable: the same inputs on every machine.
    #[test]
    fn altered_seeds_hold_the_laws() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below.max(1) as u64).unwrap()
        };
        let marks = b"{}[]:,-&*!|>'\"#%@\n\t ~0aA\\?<";
        for round in 0..3_000 {
            let mut data = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
            for _ in 0..=draw(6) {
                let at = draw(data.len());
                match draw(3) {
                    0 => data[at] = marks[draw(marks.len())],
                    1 => data.insert(at, marks[draw(marks.len())]),
                    _ => data.truncate(at.max(1)),
                }
            }
            TARGETS.iter().for_each(|(_, law)| law(&data));
        }
    }
}
