//! What the command line prints with `-o json`, and what the controller's control socket answers.
//!
//! One struct per answer; their JSON Schemas are committed under `docs/schema`. Renaming a field is a
//! breaking change. Optional values are `null`, never left out.

use std::collections::BTreeMap;

use hansa_core::code::Code;
use hansa_core::reach::Reach;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An error: code, object, cause and the next command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{code}: {object}: {cause} (next: {next})")]
#[serde(rename_all = "camelCase")]
pub struct Error {
    /// `HNS-nnnn`.
    pub code: String,
    /// What it is about, such as `peer gcp-eu`.
    pub object: String,
    /// What happened.
    pub cause: String,
    /// What to run or do next.
    pub next: String,
}

impl Error {
    /// An error with the register's next step.
    pub fn new(code: Code, object: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            code: code.to_string(),
            object: object.into(),
            cause: cause.into(),
            next: code.next.to_owned(),
        }
    }
}

/// `hansa status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The cluster id.
    pub cluster: String,
    /// The controller.
    pub controller: ControllerStatus,
    /// Own gateways.
    pub gateways: Vec<NodeStatus>,
    /// Own DNS servers.
    pub dns: Vec<NodeStatus>,
    /// Peers.
    pub peers: Vec<PeerStatus>,
    /// Problems, worst first; empty when all is well.
    pub problems: Vec<Error>,
}

/// The controller in [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerStatus {
    /// Its version.
    pub version: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Cloud/region/zone.
    pub locality: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Feed epoch.
    pub epoch: u64,
    /// Version of the routes feed.
    pub routes_version: u64,
    /// Version of the zone feed.
    pub zone_version: u64,
    /// Own exports.
    pub exports: usize,
    /// Imports.
    pub imports: usize,
    /// State can be written.
    pub store_ok: bool,
}

/// A gateway or DNS server of the own cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its id.
    pub id: String,
    /// It follows the controller now.
    pub connected: bool,
    /// It says that it is ready.
    pub ready: bool,
    /// It is going away.
    pub draining: bool,
    /// The feed version it applied.
    pub applied_version: Option<u64>,
    /// The version whose addresses it has bound (gateways).
    pub bound_version: Option<u64>,
    /// Seconds since it last said something.
    pub age_seconds: Option<f64>,
    /// Rows it refused or could not bind, with reasons.
    pub refused_rows: Vec<String>,
}

/// A peer in [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its cluster id.
    pub id: String,
    /// The feed from it is open. Never judge by this: see `appliedAgeSeconds`.
    pub connected: bool,
    /// Version of its catalog that is applied.
    pub applied_version: Option<u64>,
    /// Seconds since the last heartbeat that confirmed that version.
    pub applied_age_seconds: Option<f64>,
    /// The digests agreed at that heartbeat.
    pub digest_ok: bool,
    /// `reachable`, `suspect`, `unreachable` or `unknown`: the best of our gateways.
    #[schemars(with = "String")]
    pub reach: Reach,
    /// Seconds since the last authenticated packet from it.
    pub reach_age_seconds: Option<f64>,
    /// Its gateways as ours see them; counts are sums over ours.
    pub gateways: Vec<PeerGatewayStatus>,
    /// `quic`, `http2`, or empty without a tunnel.
    pub transport: String,
    /// Round-trip time, the best of our gateways.
    pub rtt_ms: Option<f64>,
    /// When the last root of its bundle expires (RFC 3339).
    pub bundle_expires: Option<String>,
    /// Rows of it that are refused, with reasons.
    pub refused_rows: Vec<String>,
}

/// A gateway of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerGatewayStatus {
    /// Its id.
    pub id: String,
    /// Open tunnels to it.
    pub tunnels: u64,
    /// Streams on them now.
    pub streams: u64,
}

/// One row of `hansa services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// `namespace/name`.
    pub name: String,
    /// ClusterSetIP or Headless.
    pub kind: String,
    /// The clusters that export it.
    pub clusters: Vec<String>,
    /// Ports, as `name port/PROTOCOL`.
    pub ports: Vec<String>,
    /// Addresses that lead to it from here.
    pub vips: Vec<String>,
    /// Conditions that are not as they should be, or `Ready`.
    pub conditions: Vec<Condition>,
}

/// A condition as in Kubernetes (`metav1.Condition`), shortened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// CamelCase reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// `hansa explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explain {
    /// `namespace/name:port`.
    pub service: String,
    /// Where the question stands: the gateways' locality.
    pub from: String,
    /// The answer of every own gateway.
    pub gateways: Vec<GatewayExplain>,
}

/// One gateway's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayExplain {
    /// The gateway.
    pub id: String,
    /// Tiers, nearest first.
    pub tiers: Vec<TierExplain>,
    /// The cluster with the greatest share, `null` if the service has none.
    pub chosen: Option<String>,
    /// Nothing is healthy: everything is tried.
    pub panic: bool,
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierExplain {
    /// `zone`, `region`, `cloud` or `anywhere`.
    pub name: String,
    /// What it can carry of what reaches it, 0 to 1.
    pub capacity: f64,
    /// Share of all traffic, 0 to 1.
    pub share: f64,
    /// Its candidates.
    pub candidates: Vec<CandidateExplain>,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CandidateExplain {
    /// The cluster.
    pub cluster: String,
    /// Ready endpoints.
    pub endpoints: u32,
    /// How many of them count.
    pub healthy: f64,
    /// Share of all traffic, 0 to 1.
    pub share: f64,
    /// Why.
    pub reason: String,
    /// Seconds since that reason began; `null` if it always was so.
    pub age_seconds: Option<f64>,
}

/// `hansa check`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// All paths walked.
    pub paths: Vec<CheckPath>,
}

/// One path: own gateway, peer's gateway, endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckPath {
    /// `namespace/name:port`.
    pub service: String,
    /// Our gateway.
    pub gateway: String,
    /// The cluster of the endpoint.
    pub peer: String,
    /// Its gateway; `null` within the own cluster.
    pub peer_gateway: Option<String>,
    /// `name address gateway tunnel peer-gateway endpoint`, in this order.
    pub hops: Vec<Hop>,
}

/// One hop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// Which hop.
    pub id: String,
    /// `null` behind the first broken one.
    pub ok: Option<bool>,
    /// Message code of a broken hop.
    pub code: Option<String>,
    /// Time it took.
    pub seconds: Option<f64>,
    /// For people.
    pub detail: String,
}

/// `hansa peer list` and `describe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its cluster id.
    pub id: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Cloud/region/zone.
    pub locality: String,
    /// `token` or `object`: how it came to be a peer.
    pub origin: String,
    /// Its gateways: id and addresses.
    pub gateways: BTreeMap<String, Vec<String>>,
    /// Sequence of its bundle.
    pub bundle_sequence: u64,
    /// How it is doing.
    pub status: PeerStatus,
}

/// `hansa trust list|show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// The trust domain.
    pub trust_domain: String,
    /// `own`, or the peer's cluster id.
    pub owner: String,
    /// Bundle sequence.
    pub sequence: u64,
    /// Seconds between refreshes.
    pub refresh_hint_seconds: u64,
    /// Its roots.
    pub roots: Vec<Root>,
    /// The phase of a rotation: `none`, `published`, `active`.
    pub rotation: String,
    /// Entries of the own deny list: for the own domain all, for a peer those that name its domain.
    #[serde(default)]
    pub denied: Vec<String>,
    /// Entries of a peer's deny list, as it told us: its certificates that are refused here too.
    #[serde(default)]
    pub told: Vec<String>,
    /// The SPIFFE bundle (JWKS) itself.
    pub bundle: serde_json::Value,
}

/// One root certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// SHA-256 of its DER form, hex.
    pub fingerprint: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// It signs leaves now (own roots).
    pub active: bool,
}

/// `POST /v1/enroll`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollRequest {
    /// `gateway` or `dns`.
    pub role: String,
    /// The id within the cluster.
    pub id: String,
    /// Seconds for which the token may be used.
    pub ttl_seconds: Option<u64>,
}

/// `POST /v1/invite`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InviteRequest {
    /// The cluster id that may use it; `null` for any.
    pub name: Option<String>,
    /// Seconds for which the token may be used.
    pub ttl_seconds: Option<u64>,
}

/// A token made for an enrolment or an invitation. It is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// The token text.
    pub token: String,
    /// RFC 3339.
    pub expires: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// `POST /v1/join`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The token text.
    pub token: String,
}

/// Answer of `POST /v1/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// The peer's cluster id.
    pub id: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// How many gateways it has.
    pub gateways: usize,
}

/// `POST /v1/trust/deny` and `/v1/trust/allow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DenyRequest {
    /// An own server (`gateway-1`, `dns/dns-1`), a SPIFFE id, `sha256:HEX` or
    /// `serial:TRUST-DOMAIN:HEX`.
    pub what: String,
}

/// `POST /v1/trust/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotateRequest {
    /// `publish`, `activate` or `retire`.
    pub phase: String,
    /// Skip the wait for acknowledgements.
    pub force: bool,
}

/// Where the own cluster's servers listen, for `hansa check` and `dns query`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Addresses of the own DNS servers.
    pub dns: Vec<String>,
}
