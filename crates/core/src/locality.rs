//! Where something is: cloud / region / zone, and how near two places are.
//!
//! Called by route, merge and the doors. Never knows any cloud's names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::NameError;

/// A place. Parts from the right may be missing (`aws/eu-central-1`).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Locality {
    /// All of it, in place where it is short: a decision compares places of every candidate.
    text: smol_str::SmolStr,
    /// Where the first and the second part end in `text`; the length where there is no further part.
    ends: [u8; 2],
}

/// How near a candidate is. Lower is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Same zone.
    Zone,
    /// Same region.
    Region,
    /// Same cloud.
    Cloud,
    /// Anywhere.
    Anywhere,
}

impl Tier {
    /// All tiers, nearest first.
    pub const ALL: [Tier; 4] = [Tier::Zone, Tier::Region, Tier::Cloud, Tier::Anywhere];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Zone => "zone",
            Tier::Region => "region",
            Tier::Cloud => "cloud",
            Tier::Anywhere => "anywhere",
        })
    }
}

impl Locality {
    /// Cloud or provider, such as `aws` or `onprem`.
    pub fn cloud(&self) -> Option<&str> {
        self.part(0, self.ends[0])
    }

    /// Region within the cloud.
    pub fn region(&self) -> Option<&str> {
        self.part(usize::from(self.ends[0]) + 1, self.ends[1])
    }

    /// Zone within the region.
    pub fn zone(&self) -> Option<&str> {
        self.text.get(usize::from(self.ends[1]) + 1..)
    }

    /// The part from `start` to `end`; no part is empty.
    fn part(&self, start: usize, end: u8) -> Option<&str> {
        self.text.get(start..usize::from(end)).filter(|part| !part.is_empty())
    }

    /// This place with another zone, where cloud and region are known.
    pub fn with_zone(&self, zone: &str) -> Result<Locality, NameError> {
        match (self.cloud(), self.region()) {
            (Some(cloud), Some(region)) => format!("{cloud}/{region}/{zone}").parse(),
            _ => Ok(self.clone()),
        }
    }

    /// How near `there` is to `here`. A missing part never equals anything.
    pub fn tier(here: &Locality, there: &Locality) -> Tier {
        let same = |part: fn(&Locality) -> Option<&str>| part(here).is_some() && part(here) == part(there);
        match (same(Self::cloud), same(Self::region), same(Self::zone)) {
            (true, true, true) => Tier::Zone,
            (true, true, false) => Tier::Region,
            (true, false, _) => Tier::Cloud,
            (false, ..) => Tier::Anywhere,
        }
    }

    /// True if this place lies in `outer` (a prefix such as `aws` or `aws/eu-central-1`).
    pub fn within(&self, outer: &Locality) -> bool {
        let rest = self.text.strip_prefix(outer.text.as_str());
        outer.text.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Locality {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let what = "locality";
        let invalid = || NameError::Invalid {
            what,
            text: text.chars().take(80).flat_map(char::escape_debug).collect(),
            rule: "use cloud/region/zone, parts of a-z, A-Z, 0-9, '.', '-' and '_' of at most 63 characters",
        };
        if text.is_empty() {
            return Ok(Locality::default());
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        let (mut ends, mut end) = ([0; 2], 0);
        for (i, part) in text.split('/').enumerate() {
            if i > 2 || part.is_empty() || part.len() > 63 || !part.bytes().all(good) {
                return Err(invalid());
            }
            end += usize::from(i > 0) + part.len();
            // Three parts of 63 bytes and two slashes: 191 at most.
            ends[i..].fill(u8::try_from(end).map_err(|_| invalid())?);
        }
        Ok(Locality { text: text.into(), ends })
    }
}

impl TryFrom<String> for Locality {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Locality> for String {
    fn from(locality: Locality) -> String {
        locality.to_string()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers() {
        let at = |t: &str| t.parse::<Locality>().unwrap();
        let check = |a: &str, b: &str, tier| assert_eq!(Locality::tier(&at(a), &at(b)), tier, "{a} {b}");
        check("aws/eu/a", "aws/eu/a", Tier::Zone);
        check("aws/eu/a", "aws/eu/b", Tier::Region);
        check("aws/eu", "aws/eu", Tier::Region);
        check("aws/eu/a", "aws/us/a", Tier::Cloud);
        check("aws/eu/a", "gcp/eu/a", Tier::Anywhere);
        check("", "", Tier::Anywhere);
        assert!(at("aws/eu/a").within(&at("aws/eu")));
        assert!(!at("aws").within(&at("aws/eu")));
        assert!(!at("aws/eu-1").within(&at("aws/eu")), "a part is whole");
        assert!(at("aws").within(&Locality::default()));
    }

    #[test]
    fn parts() {
        let part = "a".repeat(63);
        let long = format!("{part}/{part}/{part}");
        for (text, parts) in [
            ("", [None; 3]),
            ("aws", [Some("aws"), None, None]),
            ("aws/eu-1", [Some("aws"), Some("eu-1"), None]),
            ("aws/eu-1/eu-1a", [Some("aws"), Some("eu-1"), Some("eu-1a")]),
            (long.as_str(), [Some(part.as_str()); 3]),
        ] {
            let place: Locality = text.parse().unwrap();
            assert_eq!([place.cloud(), place.region(), place.zone()], parts, "{text}");
            assert_eq!(place.to_string(), text);
        }
        for text in ["/", "aws/", "/eu", "aws//a", "a/b/c/d", "a b", &"a".repeat(64)] {
            assert!(text.parse::<Locality>().is_err(), "{text}");
        }
    }
}
