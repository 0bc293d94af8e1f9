//! The deny list: single leaf certificates that are refused although their chain verifies.
//!
//! Edited by `hansa trust`, carried in the feed, asked by `verify` in every handshake and by the
//! check of live tunnels. The own list counts for every certificate, that of a peer for its own trust
//! domain alone. Never used to remove a whole member: that is its bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hansa_core::spiffe::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::cert::{Fingerprint, Leaf, hex, unhex};

/// Most entries of a list; leaves live a day, so a longer list means that the root must go.
pub const MAX_ENTRIES: usize = 10_000;

/// One refused leaf, or all of one holder. As text `sha256:HEX`, `serial:TRUST-DOMAIN:HEX` or the
/// holder's SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DenyEntry {
    /// By SHA-256 of the certificate.
    Fingerprint(Fingerprint),
    /// By serial number within a trust domain, big endian without leading zeros.
    Serial(TrustDomain, Vec<u8>),
    /// Whatever leaf this holder shows, also one signed later.
    Holder(SpiffeId),
}

impl DenyEntry {
    /// The trust domain it speaks of, where it tells.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::Fingerprint(_) => None,
            Self::Serial(domain, _) => Some(domain),
            Self::Holder(id) => Some(id.trust_domain()),
        }
    }
}

/// The text is no deny list entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no SPIFFE id, sha256:HEX or serial:TRUST-DOMAIN:HEX")]
pub struct DenyEntryError(String);

impl FromStr for DenyEntry {
    type Err = DenyEntryError;
    fn from_str(text: &str) -> Result<Self, DenyEntryError> {
        let bad = || DenyEntryError(text.chars().take(120).flat_map(char::escape_debug).collect());
        if let Some(hex) = text.strip_prefix("sha256:") {
            return hex.parse().map(Self::Fingerprint).map_err(|_| bad());
        }
        if text.starts_with("spiffe://") {
            return text.parse().map(Self::Holder).map_err(|_| bad());
        }
        let rest = text.strip_prefix("serial:").ok_or_else(bad)?;
        let (domain, serial) = rest.split_once(':').ok_or_else(bad)?;
        let serial = unhex(serial).map_err(|_| bad())?;
        let first = serial.iter().position(|byte| *byte != 0).ok_or_else(bad)?;
        Ok(Self::Serial(domain.parse().map_err(|_| bad())?, serial[first..].to_vec()))
    }
}

impl fmt::Display for DenyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fingerprint(print) => write!(f, "sha256:{print}"),
            Self::Serial(domain, serial) => write!(f, "serial:{domain}:{}", hex(serial)),
            Self::Holder(id) => id.fmt(f),
        }
    }
}

impl TryFrom<String> for DenyEntry {
    type Error = DenyEntryError;
    fn try_from(text: String) -> Result<Self, DenyEntryError> {
        text.parse()
    }
}

impl From<DenyEntry> for String {
    fn from(entry: DenyEntry) -> Self {
        entry.to_string()
    }
}

/// All refused leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DenyList(BTreeSet<DenyEntry>);

impl DenyList {
    /// Adds an entry; false if the list is full.
    pub fn insert(&mut self, entry: DenyEntry) -> bool {
        if self.0.len() >= MAX_ENTRIES {
            return self.0.contains(&entry);
        }
        self.0.insert(entry);
        true
    }

    /// Takes an entry back; false if it was not there.
    pub fn remove(&mut self, entry: &DenyEntry) -> bool {
        self.0.remove(entry)
    }

    /// Whether this leaf is refused.
    pub fn denies(&self, leaf: &Leaf) -> bool {
        if self.0.is_empty() {
            return false;
        }
        self.0.contains(&DenyEntry::Fingerprint(leaf.fingerprint))
            || self.0.contains(&DenyEntry::Serial(leaf.trust_domain().clone(), leaf.serial.clone()))
            || self.0.contains(&DenyEntry::Holder(leaf.id.clone()))
    }

    /// The entries in a stable order.
    pub fn iter(&self) -> impl Iterator<Item = &DenyEntry> {
        self.0.iter()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What trust domains say of their own certificates. A list is asked only about certificates of its
/// domain, whatever its entries name: nobody can deny anybody else's, not even by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told(BTreeMap<TrustDomain, Arc<DenyList>>);

impl Told {
    /// Puts the list of a domain in the place of the former one; an empty one takes it out.
    pub fn set(&mut self, domain: &TrustDomain, list: Arc<DenyList>) {
        if list.is_empty() {
            self.0.remove(domain);
        } else {
            self.0.insert(domain.clone(), list);
        }
    }

    /// The list of a domain.
    pub fn of(&self, domain: &TrustDomain) -> Option<&Arc<DenyList>> {
        self.0.get(domain)
    }

    /// Whether this leaf is refused by its own domain.
    pub fn denies(&self, leaf: &Leaf) -> bool {
        self.0.get(leaf.trust_domain()).is_some_and(|list| list.denies(leaf))
    }
}

impl FromIterator<DenyEntry> for DenyList {
    fn from_iter<I: IntoIterator<Item = DenyEntry>>(entries: I) -> Self {
        let mut list = Self::default();
        for entry in entries {
            list.insert(entry);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let print = "ab".repeat(32);
        for text in [
            format!("sha256:{print}"),
            "serial:aws-eu:0102ff".to_owned(),
            "spiffe://a/hansa/dns/d-1".to_owned(),
        ] {
            assert_eq!(text.parse::<DenyEntry>().unwrap().to_string(), text);
        }
        for bad in ["", "sha256:00", "serial:x", "serial:A:01", "serial:a:", "serial:a:0", "serial:a:00"] {
            assert!(bad.parse::<DenyEntry>().is_err(), "{bad}");
        }
    }

    #[test]
    fn leading_zeros_do_not_hide_a_serial() {
        assert_eq!("serial:a:0001".parse::<DenyEntry>(), "serial:a:01".parse::<DenyEntry>());
    }
}
