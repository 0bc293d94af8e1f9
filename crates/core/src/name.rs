//! Names, parsed once: cluster ids, service names, port names, gateway ids.
//!
//! Called by every door (YAML, protobuf, DNS, HTTP authority). Never trims, never changes case
//! silently: a name either is valid or is refused with the reason. Inputs that are case-insensitive
//! by their protocol (DNS) are lowered by the caller before parsing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The zone under which all mesh names live (KEP-1645, DNS specification 1.0.0).
pub const CLUSTERSET_ZONE: &str = "clusterset.local";

/// Longest DNS label in bytes (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// Why a name was refused. The message names the text, shortened, and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text was empty.
    #[error("{what} is empty")]
    Empty {
        /// What was being parsed.
        what: &'static str,
    },
    /// The text is longer than the rule allows.
    #[error("{what} \"{text}\" is longer than {limit} characters")]
    TooLong {
        /// What was being parsed.
        what: &'static str,
        /// The start of the text.
        text: String,
        /// The greatest length in bytes.
        limit: usize,
    },
    /// The text breaks the character rule.
    #[error("{what} \"{text}\" is not valid: {rule}")]
    Invalid {
        /// What was being parsed.
        what: &'static str,
        /// The start of the text.
        text: String,
        /// The rule in words.
        rule: &'static str,
    },
}

fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

const LABEL_RULE: &str =
    "use lower case letters, digits and '-', starting and ending with a letter or digit (RFC 1123)";

/// Checks one RFC 1123 label of at most `limit` bytes.
pub fn check_label(what: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > limit {
        return Err(NameError::TooLong { what, text: short(text), limit });
    }
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: u8| edge(b) || b == b'-';
    let bytes = text.as_bytes();
    let good = bytes.iter().all(|b| inner(*b))
        && bytes.first().is_some_and(|b| edge(*b))
        && bytes.last().is_some_and(|b| edge(*b));
    if good { Ok(()) } else { Err(NameError::Invalid { what, text: short(text), rule: LABEL_RULE }) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(smol_str::SmolStr);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&'static str, &str) -> Result<(), NameError> = $check;
                check($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// A cluster id: one RFC 1123 label, or two joined by a dot (KEP-2149: `name.context`); < 128 bytes.
    ClusterId, "cluster id", |what, text| {
        if text.len() > 127 {
            return Err(NameError::TooLong { what, text: short(text), limit: 127 });
        }
        let mut parts = 0;
        for label in text.split('.') {
            parts += 1;
            check_label(what, label, MAX_LABEL)?;
        }
        if parts > 2 {
            return Err(NameError::Invalid { what, text: short(text), rule: "at most two labels" });
        }
        Ok(())
    }
}

name_type! {
    /// A Kubernetes namespace: one RFC 1123 label.
    Namespace, "namespace", |what, text| check_label(what, text, MAX_LABEL)
}

name_type! {
    /// A label that names a gateway, a DNS server or a headless endpoint within its cluster.
    Label, "name", |what, text| check_label(what, text, MAX_LABEL)
}

name_type! {
    /// A port name: an RFC 1123 label of at most 63 bytes (IANA_SVC_NAME in Kubernetes services).
    PortName, "port name", |what, text| check_label(what, text, MAX_LABEL)
}

/// The id of a gateway or DNS server, unique in its cluster.
pub type NodeId = Label;

/// A service: `namespace/name`, the same thing in every member (namespace sameness, KEP-1645).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Namespace,
    /// The name within the namespace.
    pub name: Label,
}

impl ServiceName {
    /// Parses the two parts.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        check_label("namespace", namespace, MAX_LABEL)?;
        check_label("service name", name, MAX_LABEL)?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }

    /// `name.namespace.svc.clusterset.local`, without the closing dot.
    pub fn fqdn(&self) -> String {
        format!("{}.{}.svc.{CLUSTERSET_ZONE}", self.name, self.namespace)
    }

    /// Reads `name.namespace.svc.clusterset.local` (lower case, no closing dot).
    pub fn from_fqdn(text: &str) -> Result<Self, NameError> {
        let what = "mesh name";
        let invalid = || NameError::Invalid {
            what,
            text: short(text),
            rule: "use name.namespace.svc.clusterset.local",
        };
        let rest = text.strip_suffix(CLUSTERSET_ZONE).ok_or_else(invalid)?;
        let rest = rest.strip_suffix(".svc.").ok_or_else(invalid)?;
        let (name, namespace) = rest.split_once('.').ok_or_else(invalid)?;
        Self::new(namespace, name)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| NameError::Invalid {
            what: "service",
            text: short(text),
            rule: "use namespace/name",
        })?;
        Self::new(namespace, name)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> String {
        name.to_string()
    }
}

/// What a tunnel request asks for: a service's port, or one host of a headless service.
///
/// Written as an HTTP authority: `name.ns.svc.clusterset.local:port`, or
/// `host.cluster.name.ns.svc.clusterset.local:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Target {
    /// The service.
    pub service: ServiceName,
    /// One host of one cluster, for headless services.
    pub host: Option<(Label, ClusterId)>,
    /// The service port (the host's target port for headless hosts).
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((host, cluster)) = &self.host {
            write!(f, "{host}.{cluster}.")?;
        }
        write!(f, "{}:{}", self.service.fqdn(), self.port)
    }
}

impl FromStr for Target {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let what = "authority";
        let invalid = |rule| NameError::Invalid { what, text: short(text), rule };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid("use name:port"))?;
        if host.len() > 253 {
            return Err(NameError::TooLong { what, text: short(text), limit: 253 });
        }
        if port.starts_with('+') || port.starts_with('0') {
            return Err(invalid("the port is a number from 1 to 65535"));
        }
        let port: u16 = port.parse().map_err(|_| invalid("the port is a number from 1 to 65535"))?;
        let zone = host.strip_suffix(CLUSTERSET_ZONE).and_then(|r| r.strip_suffix(".svc."));
        let labels: Vec<&str> = zone.ok_or_else(|| invalid("not a mesh name"))?.split('.').collect();
        let (service, host) = match labels.as_slice() {
            [name, namespace] => (ServiceName::new(namespace, name)?, None),
            [host, cluster @ .., name, namespace] if !cluster.is_empty() => {
                let cluster: ClusterId = cluster.join(".").parse()?;
                (ServiceName::new(namespace, name)?, Some((host.parse()?, cluster)))
            }
            _ => return Err(invalid("use name.namespace.svc.clusterset.local:port")),
        };
        Ok(Self { service, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_of_labels() {
        assert!("a".repeat(63).parse::<Label>().is_ok());
        assert!("a".repeat(64).parse::<Label>().is_err());
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä"] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
        assert!("east.aws".parse::<ClusterId>().is_ok());
        assert!("a.b.c".parse::<ClusterId>().is_err());
    }

    #[test]
    fn targets_round_trip() {
        for text in [
            "web.shop.svc.clusterset.local:80",
            "kafka-0.aws-eu.kafka.data.svc.clusterset.local:9092",
            "kafka-0.east.aws.kafka.data.svc.clusterset.local:9092",
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
        for bad in [
            "web.shop.svc.clusterset.local",
            "web.shop.svc.cluster.local:80",
            "aws-eu.web.shop.svc.clusterset.local:80",
            "web.shop.svc.clusterset.local:0",
            "web.shop.svc.clusterset.local:65536",
            ":80",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "[a-z0-9.:/-]{0,80}|.{0,40}") {
            if let Ok(t) = text.parse::<Target>() { prop_assert_eq!(t.to_string(), text.clone()); }
            if let Ok(c) = text.parse::<ClusterId>() { prop_assert_eq!(c.to_string(), text.clone()); }
            if let Ok(s) = text.parse::<ServiceName>() {
                prop_assert_eq!(ServiceName::from_fqdn(&s.fqdn()).unwrap(), s);
            }
        }
    }
}
