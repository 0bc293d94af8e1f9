//! Settings that every server has: where metrics, probes and logs go.
//!
//! Fields of each server's configuration struct, so that the keys, defaults and meanings are the same
//! everywhere; the ports differ, because servers of different kinds share hosts. Reads nothing itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The admin endpoint: metrics, snapshot and probes. By default on loopback alone.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Admin")]
pub struct Admin<const PORT: u16> {
    /// Where to listen.
    #[serde(default = "loopback::<PORT>")]
    pub listen: SocketAddr,
}

impl<const PORT: u16> Default for Admin<PORT> {
    fn default() -> Self {
        Self { listen: loopback::<PORT>() }
    }
}

/// The health endpoint: probes alone. By default on every address; with port 0, nowhere.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Health")]
pub struct Health<const PORT: u16> {
    /// Where to listen; nowhere if null.
    #[serde(default = "everywhere::<PORT>")]
    pub listen: Option<SocketAddr>,
}

impl<const PORT: u16> Default for Health<PORT> {
    fn default() -> Self {
        Self { listen: everywhere::<PORT>() }
    }
}

// Defaults stand with the fields: serde does not take one of a whole generic struct.
fn loopback<const PORT: u16>() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
}

fn everywhere<const PORT: u16>() -> Option<SocketAddr> {
    (PORT != 0).then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))
}

/// Logs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// A level or directives, such as `info,quinn=warn`.
    pub level: String,
    /// The file to append to; standard error without one.
    pub file: Option<PathBuf>,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), file: None }
    }
}

/// What no single key can say: two settings that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {cause}")]
pub struct Inconsistent {
    /// The key.
    pub key: &'static str,
    /// What is wrong.
    pub cause: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_port() {
        assert_eq!(Admin::<15_020>::default().listen.to_string(), "127.0.0.1:15020");
        assert_eq!(
            Health::<15_021>::default().listen.map(|a| a.to_string()).as_deref(),
            Some("0.0.0.0:15021")
        );
        assert_eq!(Health::<0>::default().listen, None);
    }
}
