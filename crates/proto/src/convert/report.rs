//! What servers say of themselves in their acknowledgements: node, gateway report, conflicts.
//!
//! Sent by gateways and DNS servers (and conflicts by peers), read by the controller's status.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hansa_core::Millis;
use hansa_core::locality::Locality;
use hansa_core::merge::{Conflict, ConflictReason};
use hansa_core::name::{ClusterId, NodeId, ServiceName};
use hansa_core::policy::Refusal;
use hansa_core::reach::Reach;

use super::{Reason, bounded, optional, parse, parts, short};
use crate::wire::feed::v1 as pb;

/// Most entries of one list in a report; the rest is cut by the sender.
pub const MAX_ENTRIES: usize = 4_096;
/// Most refusals and conflicts sent in one acknowledgement; the rest is cut by the sender.
pub const MAX_REFUSALS: usize = 256;

/// A server about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Where siblings and the controller reach it.
    pub relay: Option<SocketAddr>,
    /// `host:port` for peers to dial.
    pub addresses: Vec<String>,
    /// It can only dial out.
    pub dial_only: bool,
    /// Where it is.
    pub locality: Locality,
    /// It is ready for traffic.
    pub ready: bool,
    /// It is going away.
    pub draining: bool,
}

/// A gateway about its listeners and its peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayReport {
    /// The table version whose listeners are all bound.
    pub bound_version: u64,
    /// Rows whose listener could not be bound.
    pub unbound: Vec<Refusal>,
    /// What it sees of each peer.
    pub peers: BTreeMap<ClusterId, PeerReport>,
}

/// What a gateway sees of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    /// Up or not.
    pub reach: Reach,
    /// Time since the last authenticated packet; `None`: none ever.
    pub packet_age_ms: Option<Millis>,
    /// Tunnels and streams by the peer's gateway.
    pub gateways: BTreeMap<NodeId, TunnelReport>,
    /// `quic`, `http2`, or empty.
    pub transport: String,
    /// Round trip in microseconds.
    pub rtt_us: Option<u64>,
}

/// Tunnels to one gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelReport {
    /// Open tunnels.
    pub tunnels: u32,
    /// Running streams.
    pub streams: u64,
}

/// Node information in wire form.
pub fn node_to(node: &NodeInfo) -> pb::NodeInfo {
    pb::NodeInfo {
        relay: node.relay.map(|relay| relay.to_string()).unwrap_or_default(),
        addresses: node.addresses.clone(),
        dial_only: node.dial_only,
        locality: node.locality.to_string(),
        ready: node.ready,
        draining: node.draining,
    }
}

/// Node information from its wire form.
pub fn node(wire: pb::NodeInfo) -> Result<NodeInfo, Reason> {
    parts::dial_addresses(&wire.addresses)?;
    Ok(NodeInfo {
        relay: optional(&wire.relay)?,
        addresses: wire.addresses,
        dial_only: wire.dial_only,
        locality: parse(&wire.locality)?,
        ready: wire.ready,
        draining: wire.draining,
    })
}

/// Refusals in wire form, texts shortened, at most [`MAX_REFUSALS`].
pub fn refusals_to(refusals: &[Refusal]) -> Vec<pb::Refusal> {
    let first = refusals.iter().take(MAX_REFUSALS);
    let cut = |r: &Refusal| pb::Refusal { key: short(&r.key), reason: Reason::new(&r.reason).to_string() };
    first.map(cut).collect()
}

/// Refusals from their wire form, texts shortened, at most [`MAX_REFUSALS`].
pub fn refusals(wire: Vec<pb::Refusal>) -> Vec<Refusal> {
    let first = wire.into_iter().take(MAX_REFUSALS);
    first.map(|r| Refusal { key: short(&r.key), reason: Reason::new(r.reason).to_string() }).collect()
}

fn reach_to(reach: Reach) -> &'static str {
    match reach {
        Reach::Reachable => "reachable",
        Reach::Suspect => "suspect",
        Reach::Unreachable => "unreachable",
        Reach::Unknown => "unknown",
    }
}

fn reach(wire: &str) -> Reach {
    match wire {
        "reachable" => Reach::Reachable,
        "suspect" => Reach::Suspect,
        "unreachable" => Reach::Unreachable,
        _ => Reach::Unknown,
    }
}

/// A gateway's report in wire form.
pub fn report_to(report: &GatewayReport) -> pb::GatewayReport {
    let tunnel = |(id, t): (&NodeId, &TunnelReport)| pb::TunnelReport {
        id: id.to_string(),
        tunnels: t.tunnels,
        streams: t.streams,
    };
    let peers = report.peers.iter().take(MAX_ENTRIES).map(|(cluster, peer)| pb::PeerReport {
        cluster: cluster.to_string(),
        reach: reach_to(peer.reach).to_owned(),
        packet_age_ms: peer.packet_age_ms,
        gateways: peer.gateways.iter().take(MAX_ENTRIES).map(tunnel).collect(),
        transport: peer.transport.clone(),
        rtt_us: peer.rtt_us,
    });
    pb::GatewayReport {
        bound_version: report.bound_version,
        unbound: refusals_to(&report.unbound),
        peers: peers.collect(),
    }
}

/// A gateway's report from its wire form.
pub fn report(wire: pb::GatewayReport) -> Result<GatewayReport, Reason> {
    bounded("peers", &wire.peers, MAX_ENTRIES)?;
    let peers = wire.peers.into_iter().map(|wire| {
        let cluster = parse(&wire.cluster)?;
        Ok((cluster, peer(wire)?))
    });
    Ok(GatewayReport {
        bound_version: wire.bound_version,
        unbound: refusals(wire.unbound),
        peers: peers.collect::<Result<_, Reason>>()?,
    })
}

fn peer(wire: pb::PeerReport) -> Result<PeerReport, Reason> {
    bounded("gateways", &wire.gateways, MAX_ENTRIES)?;
    if !matches!(wire.transport.as_str(), "" | "quic" | "http2") {
        return Err(Reason::new(format!("transport \"{}\" is not known", short(&wire.transport))));
    }
    let tunnel =
        |t: &pb::TunnelReport| Ok((parse(&t.id)?, TunnelReport { tunnels: t.tunnels, streams: t.streams }));
    Ok(PeerReport {
        reach: reach(&wire.reach),
        packet_age_ms: wire.packet_age_ms,
        gateways: wire.gateways.iter().map(tunnel).collect::<Result<_, Reason>>()?,
        transport: wire.transport,
        rtt_us: wire.rtt_us,
    })
}

/// One service with a conflict.
pub type ServiceConflict = (ServiceName, Conflict);

/// Conflicts in wire form, texts shortened, at most [`MAX_REFUSALS`].
pub fn conflicts_to(conflicts: &[ServiceConflict]) -> Vec<pb::Conflict> {
    let first = conflicts.iter().take(MAX_REFUSALS);
    let wire = first.map(|(service, conflict)| pb::Conflict {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        reason: conflict.reason.to_string(),
        cluster: conflict.cluster.to_string(),
        winner: conflict.winner.to_string(),
        detail: Reason::new(&conflict.detail).to_string(),
    });
    wire.collect()
}

/// Conflicts from their wire form; kinds that are not known are left out.
pub fn conflicts(wire: Vec<pb::Conflict>) -> Vec<ServiceConflict> {
    wire.into_iter().take(MAX_REFUSALS).filter_map(conflict).collect()
}

fn conflict(wire: pb::Conflict) -> Option<ServiceConflict> {
    let reason = match wire.reason.as_str() {
        "PortConflict" => ConflictReason::PortConflict,
        "TypeConflict" => ConflictReason::TypeConflict,
        "SessionAffinityConflict" => ConflictReason::SessionAffinityConflict,
        "SessionAffinityConfigConflict" => ConflictReason::SessionAffinityConfigConflict,
        "LabelsConflict" => ConflictReason::LabelsConflict,
        "AnnotationsConflict" => ConflictReason::AnnotationsConflict,
        "InternalTrafficPolicyConflict" => ConflictReason::InternalTrafficPolicyConflict,
        "TrafficDistributionConflict" => ConflictReason::TrafficDistributionConflict,
        "IPFamilyConflict" => ConflictReason::IPFamilyConflict,
        _ => return None,
    };
    let service = ServiceName::new(&wire.namespace, &wire.name).ok()?;
    let cluster = wire.cluster.parse().ok()?;
    let winner = wire.winner.parse().ok()?;
    let detail = Reason::new(wire.detail).to_string();
    Some((service, Conflict { reason, cluster, winner, detail }))
}
