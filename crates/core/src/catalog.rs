//! What one cluster offers: exports, gateways, trust bundle.
//!
//! Made by that cluster's controller from its source; read by its own and its peers' controllers.
//! Holds names, identities, counts, localities and gateway addresses: never a pod address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::locality::Locality;
use crate::name::{ClusterId, Label, NodeId, PortName, ServiceName};
use crate::spiffe::TrustDomain;

/// Transport protocol of a service port. SCTP is refused at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "TCP" => Ok(Protocol::Tcp),
            "UDP" => Ok(Protocol::Udp),
            other => {
                // It may come from anywhere: shown short and harmless.
                let other: String = other.chars().take(40).flat_map(char::escape_debug).collect();
                Err(format!("protocol \"{other}\" is not supported: use TCP or UDP"))
            }
        }
    }
}

/// A service port as exported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The name; only a service with a single port may lack it.
    pub name: Option<PortName>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What the port speaks (`http`, `kubernetes.io/h2c`…); a hint.
    pub app_protocol: Option<String>,
    /// The service port.
    pub port: u16,
}

/// `spec.type` of a ServiceImport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached by a clusterset IP.
    ClusterSetIP,
    /// No IP of its own; its hosts are reached one by one.
    Headless,
}

/// Session affinity (core/v1 `ServiceSpec`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Affinity {
    /// None.
    None,
    /// By client address, for so many seconds.
    #[serde(rename = "ClientIP")]
    ClientIp {
        /// `sessionAffinityConfig.clientIP.timeoutSeconds`.
        timeout_seconds: u32,
    },
}

/// Where traffic from inside a cluster may go (core/v1 `internalTrafficPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InternalTraffic {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints of the caller's own node.
    Local,
}

/// What a Service says of its traffic. Carried, merged and shown; routes are chosen by locality alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Traffic {
    /// `internalTrafficPolicy`.
    pub internal: InternalTraffic,
    /// `trafficDistribution`, as `PreferSameZone`.
    pub distribution: Option<String>,
}

/// Whether a text can be a `trafficDistribution`, or none: the API knows words like `PreferClose`.
pub fn is_distribution(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// How many endpoints there are at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointCount {
    /// The place.
    pub locality: Locality,
    /// Endpoints that are ready.
    pub ready: u32,
    /// All endpoints, ready or not.
    pub total: u32,
}

/// One host of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Host {
    /// The endpoint's host name, or one made by the system.
    pub hostname: Label,
    /// Whether it is ready.
    pub ready: bool,
}

/// One exported service of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// Its name.
    pub service: ServiceName,
    /// `creationTimestamp` of the ServiceExport; orders conflicts.
    pub created: Millis,
    /// ClusterSetIP or Headless.
    pub kind: ServiceType,
    /// Ports, in the order of the Service.
    pub ports: Vec<Port>,
    /// Session affinity.
    pub affinity: Affinity,
    /// Its traffic policy and distribution.
    pub traffic: Traffic,
    /// Labels the export asks to publish (`spec.exportedLabels`).
    pub labels: BTreeMap<String, String>,
    /// Annotations the export asks to publish (`spec.exportedAnnotations`).
    pub annotations: BTreeMap<String, String>,
    /// Endpoint counts by place, sorted.
    pub endpoints: Vec<EndpointCount>,
    /// Hosts, sorted, for headless services only.
    pub hosts: Vec<Host>,
}

impl Export {
    /// Ready endpoints over all places.
    pub fn ready(&self) -> u32 {
        self.endpoints.iter().map(|e| e.ready).sum()
    }
}

/// A gateway as its peers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayInfo {
    /// Its id.
    pub id: NodeId,
    /// Where it is.
    pub locality: Locality,
    /// `host:port` to dial, address or host name. Empty: it can only dial out.
    pub addresses: Vec<String>,
    /// It is going away: keep what runs, begin nothing.
    pub draining: bool,
}

/// The cluster itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInfo {
    /// `cluster.clusterset.k8s.io`.
    pub id: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where it is.
    pub locality: Locality,
    /// SPIFFE bundle (JWKS) as JSON text.
    pub bundle: Arc<str>,
    /// Other `ClusterProperty` values.
    pub properties: BTreeMap<String, String>,
}

/// What one cluster offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Who it is.
    pub cluster: ClusterInfo,
    /// Its gateways.
    pub gateways: BTreeMap<NodeId, GatewayInfo>,
    /// Its exports.
    pub exports: BTreeMap<ServiceName, Export>,
    /// Its own certificates that it refuses, as its deny list writes them: its peers refuse them too.
    pub deny: BTreeSet<String>,
}

/// One endpoint inside this cluster. Never leaves it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalEndpoint {
    /// Where to dial.
    pub address: IpAddr,
    /// Its host name within the service, where it has one.
    pub hostname: Option<Label>,
    /// Whether it is ready.
    pub ready: bool,
    /// Its place (the cluster's locality with the endpoint's zone).
    pub locality: Locality,
    /// Target port by (protocol, service port).
    pub ports: Vec<TargetPort>,
}

/// Which port of an endpoint serves a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The service port.
    pub service: u16,
    /// The endpoint's port.
    pub target: u16,
}

/// The local side of a service: what inbound and same-cluster callers need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalService {
    /// Which peers may see it; `None` means all.
    pub export_to: Option<BTreeSet<ClusterId>>,
    /// Its endpoints, sorted.
    pub endpoints: Vec<LocalEndpoint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_that_is_not_known_is_told_short_and_harmless() {
        let error = format!("S\x1b[2J{}", "C".repeat(5_000)).parse::<Protocol>().unwrap_err();
        assert!(error.len() < 200 && !error.contains('\x1b'), "{error}");
    }
}
