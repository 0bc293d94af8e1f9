//! The controller's configuration: one strict YAML file, camelCase.
//!
//! Read by the command line through `hansa_runtime::config`, which overlays variables and flags.
//! [`Config::check`] says what no single key can say. Never reads anything itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use hansa_core::locality::Locality;
use hansa_core::mesh::Failback;
use hansa_core::name::ClusterId;
use hansa_core::spiffe::TrustDomain;
use hansa_runtime::settings::{self, Inconsistent, Log};
use hansa_runtime::units::HumanDuration;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where gateways and DNS servers find the controller unless configured.
pub const DEFAULT_PORT: u16 = 15012;

/// Configuration of one controller.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The cluster id: one DNS label, or two (`name.context`).
    #[schemars(with = "String")]
    pub cluster: ClusterId,
    /// The SPIFFE trust domain; default `<cluster>.hansa.internal`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub trust_domain: Option<TrustDomain>,
    /// Where the cluster is: `cloud/region`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub locality: Locality,
    /// Folder for keys and state; made with mode 0700.
    pub state_dir: PathBuf,
    /// Where own objects come from.
    pub source: Source,
    /// Addresses on which gateways, DNS servers and peers' controllers are served.
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// `host:port` under which own servers find this controller, as written into enrolment tokens;
    /// default: the listen addresses.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// The admin endpoint: metrics, snapshot and probes.
    #[serde(default)]
    pub admin: Admin,
    /// The health endpoint: probes alone.
    #[serde(default)]
    pub health: Health,
    /// The SPIFFE bundle endpoint; not served by default.
    #[serde(default)]
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// Virtual addresses of imported services.
    #[serde(default)]
    pub vip: Vip,
    /// How slowly traffic returns to what had failed.
    #[serde(default)]
    pub failover: Failover,
    /// The embedded certificate authority.
    #[serde(default)]
    pub ca: CaConfig,
    /// The control socket; default `<stateDir>/controller.sock`.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Logs.
    #[serde(default)]
    pub log: Log,
}

/// Where own objects come from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// A folder of YAML files, watched.
    pub folder: PathBuf,
}

/// The SPIFFE bundle endpoint.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleEndpoint {
    /// Where the own bundle is served over HTTPS (SPIFFE profile `https_spiffe`).
    pub listen: SocketAddr,
}

/// Virtual addresses.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vip {
    /// Prefixes, at most one per address family. They must not overlap another member's.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub prefixes: Vec<IpNet>,
    /// Bits of a prefix that choose the gateway; the rest chooses the service.
    #[serde(default = "default_gateway_bits")]
    pub gateway_bits: u8,
}

impl Default for Vip {
    fn default() -> Self {
        Self { prefixes: Vec::new(), gateway_bits: default_gateway_bits() }
    }
}

/// Slow return.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failover {
    /// Wait after the first good probe.
    #[serde(default = "default_hold_down")]
    pub hold_down: HumanDuration,
    /// Time over which the share then grows.
    #[serde(default = "default_ramp")]
    pub ramp: HumanDuration,
}

impl Default for Failover {
    fn default() -> Self {
        Self { hold_down: default_hold_down(), ramp: default_ramp() }
    }
}

impl Failover {
    /// The core's value.
    pub fn failback(&self) -> Failback {
        let millis = |d: HumanDuration| u64::try_from(d.0.as_millis()).unwrap_or(u64::MAX);
        Failback { hold_down_ms: millis(self.hold_down), ramp_ms: millis(self.ramp) }
    }
}

/// The embedded certificate authority.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaConfig {
    /// Life of a leaf.
    #[serde(default = "default_leaf_ttl")]
    pub leaf_ttl: HumanDuration,
}

impl Default for CaConfig {
    fn default() -> Self {
        Self { leaf_ttl: default_leaf_ttl() }
    }
}

/// The admin endpoint. Not a gateway's port, because one host may run both.
pub type Admin = settings::Admin<15_023>;

/// The health endpoint. Not a gateway's port either.
pub type Health = settings::Health<15_024>;

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0; 16], DEFAULT_PORT))]
}

fn default_gateway_bits() -> u8 {
    4
}

fn default_hold_down() -> HumanDuration {
    HumanDuration::from_secs(30)
}

fn default_ramp() -> HumanDuration {
    HumanDuration::from_secs(60)
}

fn default_leaf_ttl() -> HumanDuration {
    HumanDuration::from_secs(86_400)
}

impl Config {
    /// The configuration as JSON, for `/debug/config`. It holds no secret.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }

    /// The trust domain in force.
    pub fn trust_domain(&self) -> TrustDomain {
        match &self.trust_domain {
            Some(domain) => domain.clone(),
            // A cluster id has only characters that a trust domain may have.
            None => format!("{}.hansa.internal", self.cluster)
                .parse()
                .expect("a cluster id of at most 127 characters makes a trust domain"),
        }
    }

    /// The path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.state_dir.join("controller.sock"))
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// The first key that does not fit.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let wrong = |key, cause: String| Err(Inconsistent { key, cause });
        if self.listen.is_empty() {
            return wrong("listen", "at least one address is needed".to_owned());
        }
        let bits = self.vip.gateway_bits;
        if !(1..=8).contains(&bits) {
            return wrong("vip.gatewayBits", format!("{bits} is not between 1 and 8"));
        }
        let mut families = [false; 2];
        for prefix in &self.vip.prefixes {
            let family = usize::from(prefix.network().is_ipv6());
            if std::mem::replace(&mut families[family], true) {
                return wrong("vip.prefixes", "at most one prefix per address family".to_owned());
            }
            let left = prefix.max_prefix_len() - prefix.prefix_len();
            if left < bits + 1 {
                return wrong("vip.prefixes", format!("{prefix} has no room for {bits} gateway bits"));
            }
        }
        let leaf = self.ca.leaf_ttl.0.as_secs();
        if !(60..=90 * 86_400).contains(&leaf) {
            return wrong("ca.leafTtl", "must be between 1m and 90d".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_runtime::config::{Sources, load};

    const TEXT: &str = "cluster: aws-eu\nstateDir: /tmp/x\nsource: {folder: /tmp/m}\n";

    fn read(more: &str) -> Config {
        load::<Config>(&Sources::default().text("c.yaml", format!("{TEXT}{more}"))).unwrap().config
    }

    #[test]
    fn defaults_and_derived_values() {
        let config = read("");
        assert_eq!(config.trust_domain().as_str(), "aws-eu.hansa.internal");
        assert_eq!(config.socket(), PathBuf::from("/tmp/x/controller.sock"));
        assert_eq!(config.failover.failback(), Failback::default());
        assert!(config.check().is_ok());
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        for (more, key) in [
            ("vip: {prefixes: [10.1.0.0/16, 10.2.0.0/16]}\n", "vip.prefixes"),
            ("vip: {prefixes: [10.1.0.0/29]}\n", "vip.prefixes"),
            ("vip: {gatewayBits: 0}\n", "vip.gatewayBits"),
            ("listen: []\n", "listen"),
            ("ca: {leafTtl: 1s}\n", "ca.leafTtl"),
        ] {
            assert_eq!(read(more).check().unwrap_err().key, key);
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = format!("{TEXT}lisen: []\n");
        assert!(load::<Config>(&Sources::default().text("c.yaml", text)).is_err());
    }
}
