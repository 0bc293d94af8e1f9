//! All catalogs merged, and what each consumer gets of it.
//!
//! Made by the controller ([`Mesh`] by [`crate::merge::merge`], the projections from it); read by
//! gateways ([`RouteTable`]) and, through [`crate::zone`], by DNS servers. Values only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::Millis;
use crate::catalog::{
    Affinity, EndpointCount, GatewayInfo, Host, LocalService, Port, Protocol, ServiceType, Traffic,
};
use crate::locality::Locality;
use crate::merge::Conflict;
use crate::name::{ClusterId, Label, NodeId, ServiceName};
use crate::services::Services;
use crate::spiffe::TrustDomain;

/// All catalogs merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mesh {
    /// Imported services, own exports included.
    pub imports: BTreeMap<ServiceName, Import>,
}

/// One service of the clusterset (a ServiceImport).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Import {
    /// Its name.
    pub service: ServiceName,
    /// From the oldest export.
    pub kind: ServiceType,
    /// The union of ports after conflicts.
    pub ports: Vec<Port>,
    /// From the oldest export.
    pub affinity: Affinity,
    /// From the oldest export, each by itself.
    pub traffic: Traffic,
    /// Labels of the oldest export.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the oldest export.
    pub annotations: BTreeMap<String, String>,
    /// Creation time of the oldest export.
    pub created: Millis,
    /// Who exports it, and with what.
    pub clusters: BTreeMap<ClusterId, Share>,
    /// Conflicts found, shown on every export.
    pub conflicts: Vec<Conflict>,
}

/// What one cluster brings to an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The import's ports that this cluster serves.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Endpoint counts by place.
    pub endpoints: Vec<EndpointCount>,
    /// Hosts of a headless service.
    pub hosts: Vec<Host>,
}

/// Which lane a peer's tunnels prefer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC first, HTTP/2 where UDP is blocked.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// HTTP/2 over TLS only.
    Http2,
}

/// A peer as a gateway needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its cluster id.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where it is.
    pub locality: Locality,
    /// Its SPIFFE bundle (JWKS) as JSON text.
    pub bundle: Arc<str>,
    /// Its gateways.
    pub gateways: BTreeMap<NodeId, GatewayInfo>,
    /// The lane preferred.
    pub transport: Transport,
    /// What it says of its own certificates: entries of a deny list that count in its domain alone.
    pub deny: BTreeSet<String>,
}

/// A gateway of the own cluster, the reader itself included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sibling {
    /// Its id.
    pub id: NodeId,
    /// Where siblings and the controller reach it inside the cluster.
    pub relay: Option<SocketAddr>,
    /// The virtual addresses that are its own (CIDR texts), one block per address family.
    pub blocks: Vec<ipnet::IpNet>,
    /// It is going away.
    pub draining: bool,
}

/// A headless host with the virtual addresses that lead to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRoute {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its host name.
    pub hostname: Label,
    /// Whether it is ready.
    pub ready: bool,
    /// Virtual addresses by gateway of the own cluster.
    pub vips: BTreeMap<NodeId, Vec<IpAddr>>,
}

/// How to reach one service from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRoute {
    /// Its name.
    pub service: ServiceName,
    /// ClusterSetIP or Headless.
    pub kind: ServiceType,
    /// Its ports. Empty if the service is only local (not exported by anyone we see).
    pub ports: Vec<Port>,
    /// Session affinity.
    pub affinity: Affinity,
    /// Virtual addresses by gateway of the own cluster.
    pub vips: BTreeMap<NodeId, Vec<IpAddr>>,
    /// Who has it: peers, and the own cluster where it exports the service. By cluster, each once.
    pub clusters: Vec<Candidate>,
    /// Hosts, for headless services.
    pub hosts: Vec<HostRoute>,
    /// Our own endpoints, where we export the service.
    pub local: Option<LocalService>,
}

/// One cluster that has the service. Every connection looks at each of them, so the usual few ports
/// and the one place lie in it and not behind pointers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The cluster.
    pub cluster: ClusterId,
    /// The ports it serves, sorted.
    pub ports: SmallVec<[(Protocol, u16); 4]>,
    /// Endpoint counts by place.
    pub endpoints: SmallVec<[EndpointCount; 1]>,
}

impl Candidate {
    /// A cluster with its ports and endpoint counts.
    pub fn new(
        cluster: ClusterId,
        ports: &BTreeSet<(Protocol, u16)>,
        endpoints: impl IntoIterator<Item = EndpointCount>,
    ) -> Self {
        Self { cluster, ports: ports.iter().copied().collect(), endpoints: endpoints.into_iter().collect() }
    }
}

impl ServiceRoute {
    /// What `cluster` has of the service.
    pub fn candidate(&self, cluster: &ClusterId) -> Option<&Candidate> {
        self.clusters.iter().find(|candidate| candidate.cluster == *cluster)
    }
}

/// How slowly something that failed gets traffic back while another candidate is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failback {
    /// Wait after the first good probe.
    pub hold_down_ms: Millis,
    /// Time over which the share then grows to its full size.
    pub ramp_ms: Millis,
}

impl Default for Failback {
    fn default() -> Self {
        Self { hold_down_ms: 30_000, ramp_ms: 60_000 }
    }
}

/// What a gateway needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTable {
    /// The own cluster.
    pub cluster: ClusterId,
    /// The own trust domain.
    pub trust_domain: TrustDomain,
    /// Where it is.
    pub locality: Locality,
    /// Own trust bundle (JWKS) as JSON text.
    pub bundle: Arc<str>,
    /// The own deny list: what is refused whoever signed it. That of a peer stands in [`Peer`].
    pub deny: BTreeSet<String>,
    /// Slow return.
    pub failback: Failback,
    /// Peers.
    pub peers: BTreeMap<ClusterId, Peer>,
    /// Gateways of the own cluster.
    pub siblings: BTreeMap<NodeId, Sibling>,
    /// Services.
    pub services: Services,
}
