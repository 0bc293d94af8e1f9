//! The DNS server's configuration: one strict YAML file, camelCase.
//!
//! Read by the command line through `hansa_runtime::config`. Never reads anything itself.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::TrustDomain;
use hansa_runtime::settings::{self, Inconsistent, Log};
use hansa_runtime::units::HumanDuration;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of one DNS server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Its id, unique among the cluster's DNS servers: one DNS label.
    #[schemars(with = "String")]
    pub id: NodeId,
    /// The cluster it belongs to.
    #[schemars(with = "String")]
    pub cluster: ClusterId,
    /// Folder for its key, certificate and the last zone; made with mode 0700.
    pub state_dir: PathBuf,
    /// `host:port` of the controllers. Default: those the enrolment token names.
    #[serde(default)]
    pub controller: Vec<String>,
    /// File with the one-use enrolment token. Needed until it is enrolled.
    #[serde(default)]
    pub enroll_token: Option<String>,
    /// Enrolment by a projected Kubernetes service account token instead.
    #[serde(default)]
    pub service_account: Option<ServiceAccount>,
    /// Addresses on which names are answered, over UDP and TCP.
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// Names outside the clusterset.
    #[serde(default)]
    pub forward: Forward,
    /// Limits of TCP clients.
    #[serde(default)]
    pub tcp: Tcp,
    /// Metrics, snapshot and probes.
    #[serde(default)]
    pub admin: Admin,
    /// Probes alone, for health checkers.
    #[serde(default)]
    pub health: Health,
    /// How long it still answers after it was told to stop.
    #[serde(default = "default_drain")]
    pub drain: HumanDuration,
    /// Logs.
    #[serde(default)]
    pub log: Log,
}

/// Enrolment on Kubernetes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccount {
    /// File with the projected token, whose audience is `hansa`.
    pub token_file: PathBuf,
    /// File with the SPIFFE bundle of the cluster.
    pub bundle_file: PathBuf,
    /// The cluster's trust domain.
    #[schemars(with = "String")]
    pub trust_domain: TrustDomain,
}

/// What happens to names outside the clusterset.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Forward {
    /// `address:port` of the resolvers asked. None: such names are refused.
    pub upstreams: Vec<SocketAddr>,
    /// Who may ask for such names.
    #[schemars(with = "Vec<String>")]
    pub allow_from: Vec<IpNet>,
    /// Answers kept.
    pub cache_size: u32,
    /// Questions per second and client (an IPv6 client is its /64).
    pub rate_limit: u32,
    /// How long one resolver may take.
    pub timeout: HumanDuration,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            allow_from: near(),
            cache_size: 10_000,
            rate_limit: 1_000,
            timeout: HumanDuration::from_secs(2),
        }
    }
}

/// Loopback, private, shared and link-local prefixes.
fn near() -> Vec<IpNet> {
    let prefix = |address: [u8; 4], bits| IpNet::new(IpAddr::from(address), bits);
    let wide = |first: u16, bits| IpNet::new(IpAddr::from([first, 0, 0, 0, 0, 0, 0, 0]), bits);
    let all = [
        prefix([127, 0, 0, 0], 8),
        prefix([10, 0, 0, 0], 8),
        prefix([172, 16, 0, 0], 12),
        prefix([192, 168, 0, 0], 16),
        prefix([169, 254, 0, 0], 16),
        prefix([100, 64, 0, 0], 10),
        IpNet::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 128),
        wide(0xfc00, 7),
        wide(0xfe80, 10),
    ];
    all.into_iter().flatten().collect()
}

/// Limits of TCP clients.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tcp {
    /// Connections at once; more are closed at once.
    pub connections: u32,
    /// A connection without questions is closed after this.
    pub idle: HumanDuration,
}

impl Default for Tcp {
    fn default() -> Self {
        Self { connections: 512, idle: HumanDuration::from_secs(10) }
    }
}

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0], 53))]
}

/// The admin endpoint. Not a gateway's port, because one host may run both.
pub type Admin = settings::Admin<15_022>;

/// The health endpoint; nowhere by default.
pub type Health = settings::Health<0>;

fn default_drain() -> HumanDuration {
    HumanDuration::from_secs(5)
}

impl Config {
    /// Checks the whole.
    ///
    /// # Errors
    /// The first key that does not fit.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let wrong = |key, cause: &str| Err(Inconsistent { key, cause: cause.to_owned() });
        if self.listen.is_empty() {
            return wrong("listen", "at least one address is needed");
        }
        if self.enroll_token.is_some() && self.service_account.is_some() {
            return wrong("enrollToken", "use either enrollToken or serviceAccount");
        }
        if self.forward.rate_limit == 0 {
            return wrong(
                "forward.rateLimit",
                "must be at least 1; to forward nothing, leave upstreams empty",
            );
        }
        if self.forward.upstreams.len() > 8 {
            return wrong("forward.upstreams", "at most 8 are asked");
        }
        if let Some(own) = self.forward.upstreams.iter().find(|up| self.listen.contains(up)) {
            return wrong("forward.upstreams", &format!("{own} is this server itself"));
        }
        if self.tcp.connections == 0 {
            return wrong("tcp.connections", "must be at least 1: truncated answers come again over TCP");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_runtime::config::{Sources, load};

    fn read(more: &str) -> Config {
        let text = format!("id: dns-0\ncluster: aws-eu\nstateDir: /tmp/x\n{more}");
        load::<Config>(&Sources::default().text("c.yaml", text)).unwrap().config
    }

    #[test]
    fn defaults() {
        let config = read("");
        assert!(config.check().is_ok());
        assert_eq!(config.listen[0].port(), 53);
        assert_eq!(config.forward.allow_from.len(), 9);
        assert!(config.forward.allow_from.iter().any(|net| net.contains(&IpAddr::from([172, 31, 0, 1]))));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (more, key) in [
            ("listen: []", "listen"),
            ("forward: {rateLimit: 0}", "forward.rateLimit"),
            ("listen: ['127.0.0.1:53']\nforward: {upstreams: ['127.0.0.1:53']}", "forward.upstreams"),
            ("tcp: {connections: 0}", "tcp.connections"),
        ] {
            assert_eq!(read(more).check().unwrap_err().key, key, "{more}");
        }
    }
}
