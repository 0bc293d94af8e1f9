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
    parts: [Option<std::sync::Arc<str>>; 3],
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
        self.parts[0].as_deref()
    }

    /// Region within the cloud.
    pub fn region(&self) -> Option<&str> {
        self.parts[1].as_deref()
    }

    /// Zone within the region.
    pub fn zone(&self) -> Option<&str> {
        self.parts[2].as_deref()
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
        let same = |i: usize| here.parts[i].is_some() && here.parts[i] == there.parts[i];
        match (same(0), same(1), same(2)) {
            (true, true, true) => Tier::Zone,
            (true, true, false) => Tier::Region,
            (true, false, _) => Tier::Cloud,
            (false, ..) => Tier::Anywhere,
        }
    }

    /// True if this place lies in `outer` (a prefix such as `aws` or `aws/eu-central-1`).
    pub fn within(&self, outer: &Locality) -> bool {
        outer.parts.iter().zip(&self.parts).all(|(o, s)| o.is_none() || o == s)
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
        let mut locality = Locality::default();
        if text.is_empty() {
            return Ok(locality);
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        for (i, part) in text.split('/').enumerate() {
            if i > 2 || part.is_empty() || part.len() > 63 || !part.bytes().all(good) {
                return Err(invalid());
            }
            locality.parts[i] = Some(part.into());
        }
        Ok(locality)
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
        let parts: Vec<&str> = self.parts.iter().flatten().map(AsRef::as_ref).collect();
        f.write_str(&parts.join("/"))
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
    }
}
