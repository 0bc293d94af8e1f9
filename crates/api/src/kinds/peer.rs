//! hansa.dev/v1alpha1 `ClusterPeer`: a peer by declaration, with its bundle inside.
//!
//! Read from folders and printed by `hansa peer export-yaml`. The bundle is bootstrap only: the
//! highest `spiffe_sequence` seen wins.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The group and version of hansa's own kinds.
pub const HANSA_VERSION: &str = "hansa.dev/v1alpha1";

/// A peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPeer {
    /// `hansa.dev/v1alpha1`.
    pub api_version: String,
    /// `ClusterPeer`.
    pub kind: String,
    /// The name is the peer's cluster id.
    pub metadata: ObjectMeta,
    /// What is known of the peer, and what it may bring.
    pub spec: ClusterPeerSpec,
}

/// `ClusterPeer.spec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterPeerSpec {
    /// The peer's trust domain.
    pub trust_domain: String,
    /// `host:port` of its gateways; empty if it can only dial out.
    #[serde(default)]
    pub gateways: Vec<String>,
    /// Its SPIFFE bundle (JWKS) as JSON text.
    pub bundle: String,
    /// `auto`, `quic` or `http2`.
    #[serde(default = "auto")]
    pub transport: String,
    /// What it may bring.
    #[serde(default)]
    pub accept: AcceptSpec,
}

fn auto() -> String {
    "auto".to_owned()
}

/// `ClusterPeer.spec.accept`: applied before the merge, shown in status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptSpec {
    /// Only these namespaces.
    pub namespaces: Option<BTreeSet<String>>,
    /// Only these services (`namespace/name`).
    pub services: Option<BTreeSet<String>>,
    /// Its localities must lie within this prefix.
    pub locality_prefix: Option<String>,
    /// Most rows taken.
    pub max_rows: Option<usize>,
    /// Most endpoints counted per service and place.
    pub max_weight: Option<u32>,
}
