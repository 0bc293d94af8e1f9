//! SPIFFE ids and trust domains (SPIFFE-ID 2, X.509-SVID).
//!
//! Called by identity (verification), policy and every place that names a caller. Never accepts
//! percent-encoding, empty path segments, a trailing slash or an id over 2,048 bytes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::NodeId;

/// Why an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a SPIFFE id: {rule}")]
pub struct SpiffeError {
    text: String,
    rule: &'static str,
}

fn refuse(text: &str, rule: &'static str) -> SpiffeError {
    SpiffeError { text: text.chars().take(120).flat_map(char::escape_debug).collect(), rule }
}

/// A trust domain: `[a-z0-9.-_]`, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() || text.len() > 255 {
            return Err(refuse(text, "a trust domain has 1 to 255 characters"));
        }
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if !text.bytes().all(good) {
            return Err(refuse(text, "a trust domain has only a-z, 0-9, '.', '-' and '_'"));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeError;
    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> String {
        domain.0.to_string()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://trust-domain/path`, path with a leading slash, never the root path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    domain: TrustDomain,
    path: Arc<str>,
}

/// What an id of hansa's own servers stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `/hansa/gateway/<id>`: may open and accept tunnels.
    Gateway(NodeId),
    /// `/hansa/controller`: may open control links.
    Controller,
    /// `/hansa/dns/<id>`: may follow the zone.
    Dns(NodeId),
}

impl SpiffeId {
    /// The id of one of hansa's servers in `domain`.
    pub fn of(domain: &TrustDomain, role: &Role) -> Self {
        let path = match role {
            Role::Gateway(id) => format!("/hansa/gateway/{id}"),
            Role::Controller => "/hansa/controller".to_owned(),
            Role::Dns(id) => format!("/hansa/dns/{id}"),
        };
        Self { domain: domain.clone(), path: path.into() }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The role, where the id is one of hansa's own servers.
    pub fn role(&self) -> Option<Role> {
        let rest = self.path.strip_prefix("/hansa/")?;
        match rest.split_once('/') {
            None if rest == "controller" => Some(Role::Controller),
            Some(("gateway", id)) => Some(Role::Gateway(id.parse().ok()?)),
            Some(("dns", id)) => Some(Role::Dns(id.parse().ok()?)),
            _ => None,
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;
    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > 2048 {
            return Err(refuse(text, "longer than 2048 bytes"));
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| refuse(text, "must begin with spiffe://"))?;
        let slash = rest.find('/').ok_or_else(|| refuse(text, "the path is missing"))?;
        let (domain, path) = rest.split_at(slash);
        let good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        for segment in path.split('/').skip(1) {
            if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(good) {
                return Err(refuse(text, "a path segment is empty or has a forbidden character"));
            }
        }
        Ok(Self { domain: domain.parse().map_err(|_| refuse(text, "bad trust domain"))?, path: path.into() })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeError;
    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.domain, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_round_trip() {
        let domain: TrustDomain = "aws-eu.example.org".parse().unwrap();
        for role in [Role::Controller, Role::Gateway("g-1".parse().unwrap()), Role::Dns("d".parse().unwrap())]
        {
            let id = SpiffeId::of(&domain, &role);
            assert_eq!(id.to_string().parse::<SpiffeId>().unwrap().role(), Some(role));
        }
    }

    #[test]
    fn bad_ids_are_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://A/x",
            "spiffe://a/x/",
            "spiffe://a//x",
            "spiffe://a/%41",
            "https://a/x",
            "spiffe://a:1/x",
            "spiffe://u@a/x",
            "spiffe://a/x?y",
            "spiffe://a/../x",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        assert_eq!("spiffe://a/hansa/controller/x".parse::<SpiffeId>().unwrap().role(), None);
    }
}
