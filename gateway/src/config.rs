//! The gateway's configuration file: typed, strict, with a generated schema.
//!
//! Read by the command line through `hansa_runtime::config`; values are checked where they are
//! used. It never reads the environment or a file itself.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use hansa_core::locality::Locality;
use hansa_core::name::{ClusterId, NodeId};
use hansa_runtime::settings;
use hansa_runtime::units::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tunnel::ServerId;

/// Everything a gateway is told.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The gateway's id, unique in its cluster.
    #[schemars(with = "String")]
    pub id: NodeId,
    /// The id of its cluster.
    #[schemars(with = "String")]
    pub cluster: ClusterId,
    /// The folder for key, certificates and the last tables.
    pub state_dir: PathBuf,
    /// Addresses (`host:port`) of the cluster's controllers.
    pub controller: Vec<String>,
    /// The file with a one-use enrolment token; read only while there is no identity.
    #[serde(default)]
    pub enroll_token: Option<PathBuf>,
    /// Where the gateway is; by default where its cluster is.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub locality: Option<Locality>,
    /// Threads that move bytes; by default one for each core.
    #[serde(default)]
    pub workers: Option<NonZeroUsize>,
    /// The tunnel port.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// The port for the own controller and sibling gateways, inside the cluster.
    #[serde(default)]
    pub relay: Relay,
    /// Virtual addresses.
    #[serde(default)]
    pub vip: Vip,
    /// The admin endpoint.
    #[serde(default)]
    pub admin: Admin,
    /// The health endpoint.
    #[serde(default)]
    pub health: Health,
    /// Health of the own cluster's endpoints.
    #[serde(default)]
    pub endpoint_health: EndpointHealth,
    /// Logs.
    #[serde(default)]
    pub log: Log,
    /// Going away.
    #[serde(default)]
    pub drain: Drain,
    /// Limits of the data path.
    #[serde(default)]
    pub limits: Limits,
}

/// The tunnel port.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tunnel {
    /// Where to listen, UDP and TCP of the same number.
    pub listen: Vec<SocketAddr>,
    /// What peers are told to dial (`host:port`).
    pub advertise: Vec<String>,
    /// The gateway cannot be dialled: it opens tunnels both ways itself.
    pub dial_only: bool,
    /// For load balancers that route QUIC by connection id.
    pub quic_lb: QuicLb,
    /// How QUIC adapts to the path.
    pub congestion: Congestion,
    /// Limits for each peer.
    pub limits: TunnelLimits,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 15_443))],
            advertise: Vec::new(),
            dial_only: false,
            quic_lb: QuicLb::default(),
            congestion: Congestion::default(),
            limits: TunnelLimits::default(),
        }
    }
}

/// For load balancers that route QUIC by connection id (QUIC-LB, plaintext).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct QuicLb {
    /// This gateway's server id, 1 to 15 octets in hexadecimal (AWS: 8); random ids without it.
    #[schemars(with = "Option<String>")]
    pub server_id: Option<ServerId>,
}

/// Congestion controllers of QUIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Model-based; bears loss.
    #[default]
    Bbr,
    /// Loss-based, as most TCP stacks.
    Cubic,
}

/// Limits for each peer's tunnels.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TunnelLimits {
    /// Tunnels open at once.
    pub tunnels: u32,
    /// Streams on one tunnel at once.
    pub streams: u32,
    /// Handshakes begun per second from one address, and tunnels made per second by one peer.
    pub handshakes_per_second: u32,
    /// Requests of one peer at once, over all its tunnels.
    pub streams_per_peer: u32,
    /// Bytes of one peer that we hold at once, over all its tunnels and both ways, beyond 768 KiB for each tunnel.
    pub bytes: ByteSize,
    /// Bytes in flight towards us on one tunnel, where the peer's bytes allow it.
    pub window: ByteSize,
    /// Bytes in flight towards us on one stream.
    pub stream_window: ByteSize,
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self {
            tunnels: 64,
            streams: 16_384,
            streams_per_peer: 16_384,
            bytes: ByteSize(128 << 20),
            handshakes_per_second: 200,
            window: ByteSize(48 << 20),
            stream_window: ByteSize(25 << 20),
        }
    }
}

/// The inside port for the own controller and siblings.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Relay {
    /// Where to listen; without it, controllers cannot reach peers through this gateway.
    pub listen: Option<SocketAddr>,
}

/// How virtual addresses are brought up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Vip {
    /// The network device of the clients' side, or `auto`: the one that holds the relay address.
    pub device: String,
    /// Whether to add local routes and announce addresses.
    pub manage: Manage,
}

impl Default for Vip {
    fn default() -> Self {
        Self { device: "auto".to_owned(), manage: Manage::Auto }
    }
}

/// Whether the gateway changes routes for its virtual addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Manage {
    /// Where the addresses are not loopback and the capability is granted.
    #[default]
    Auto,
    /// Never: whoever runs the gateway routes the prefix to it.
    Never,
}

/// The admin endpoint, on the port that scrapers of gateways know.
pub type Admin = settings::Admin<15_020>;

/// The health endpoint, on the port that load balancers of gateways know.
pub type Health = settings::Health<15_021>;

/// Logs: as every server's, and access lines.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// The file; standard error without one.
    pub file: Option<PathBuf>,
    /// A level or directives, such as `info,quinn=warn`.
    pub level: String,
    /// Whether each connection writes one line at its end.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { file: None, level: "info".to_owned(), access: true }
    }
}

/// Health of the own cluster's endpoints. What a connection finds dead is always left and probed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointHealth {
    /// How often every ready TCP endpoint is connected to beforehand; never without it.
    pub interval: Option<HumanDuration>,
}

/// Going away.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Drain {
    /// How long running connections may go on.
    pub deadline: HumanDuration,
    /// How long new ones are still accepted after the addresses were withdrawn (DNS TTL + 1 s).
    pub accept: HumanDuration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline: HumanDuration::from_secs(30), accept: HumanDuration::from_secs(6) }
    }
}

/// Limits of the data path.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections at once.
    pub connections: u32,
    /// UDP flows at once.
    pub udp_flows: u32,
    /// UDP flows at once from one client address.
    pub udp_flows_per_source: u32,
    /// How long an endpoint may take to answer the dial. TCP repeats a lost first packet after a second:
    /// the default leaves room for that, so that an endpoint whose queue was full for a moment is still had.
    /// All endpoints of one request together get twice as long: keep the callers' answerTimeout above that.
    pub dial_timeout: HumanDuration,
    /// How long a peer may take to answer a request.
    pub answer_timeout: HumanDuration,
    /// A connection without a byte for so long is closed.
    pub idle_timeout: HumanDuration,
    /// A UDP flow without a datagram for so long is closed.
    pub udp_idle_timeout: HumanDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            udp_flows: 20_000,
            udp_flows_per_source: 1_000,
            dial_timeout: HumanDuration::from_millis(1_500),
            answer_timeout: HumanDuration::from_secs(4),
            idle_timeout: HumanDuration::from_secs(3_600),
            udp_idle_timeout: HumanDuration::from_secs(60),
        }
    }
}

impl Config {
    /// The configuration as JSON, for `/debug/config`. It holds no secret: tokens are named by path.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_runtime::config::{Sources, load};

    const LEAST: &str =
        "id: g-1\ncluster: aws-eu\nstateDir: /var/lib/hansa\ncontroller: [\"10.0.0.1:15012\"]\n";

    #[test]
    fn the_least_file_has_sensible_defaults() {
        let config = load::<Config>(&Sources::default().text("g.yaml", LEAST)).unwrap().config;
        assert_eq!(config.tunnel.listen, ["0.0.0.0:15443".parse().unwrap()]);
        assert_eq!(config.drain.accept.get().as_secs(), 6);
        assert!(config.to_json().contains("\"stateDir\""));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = format!("{LEAST}tunel: {{}}\n");
        let error = load::<Config>(&Sources::default().text("g.yaml", text)).unwrap_err();
        assert!(error.to_string().contains("tunel"), "{error}");
    }
}
