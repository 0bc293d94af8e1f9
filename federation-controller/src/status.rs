//! What the controller knows, as the command line shows it. Pure: state in, view types out.
//!
//! Called by `control` for every question. Judges from applied versions and their age and from what
//! gateways measured, never from an open connection.

use std::collections::BTreeMap;

use hansa_api::view::{
    Condition, ControllerStatus, Endpoints, Error, NodeStatus, Peer, PeerGatewayStatus, PeerStatus, Service,
    Status,
};
use hansa_core::catalog::ServiceType;
use hansa_core::code::{config, control, trust};
use hansa_core::mesh::Import;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::reach::Reach;
use tokio::time::{Duration, Instant};

use crate::control::State;
use crate::fuse::View;
use crate::nodes::{Kind, Node};
use crate::project;
use crate::roster::{Entry, Origin};

/// Without a report for so long, nothing is known of a peer's reach.
const REPORT_LIFE: Duration = Duration::from_secs(5);

fn seconds(duration: Duration) -> f64 {
    // Milliseconds are as exact as this gets.
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

fn time(at: std::time::SystemTime) -> Option<String> {
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(jiff::Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()?.to_string())
}

/// `hansa status`.
pub fn status(state: &State, now: Instant) -> Status {
    let view = state.view.borrow().clone();
    let gateways = state.nodes.all(Kind::Gateway);
    let dns = state.nodes.all(Kind::Dns);
    let peers = state.roster.all();
    let routes = state.feeds.routes().position().version;
    let zone = state.feeds.zone().position().version;
    let controller = ControllerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domain: state.authority.domain().to_string(),
        locality: state.facts.locality.to_string(),
        uptime_seconds: now.saturating_duration_since(state.started).as_secs(),
        epoch: state.feeds.epoch(),
        routes_version: routes,
        zone_version: zone,
        exports: view.as_ref().map_or(0, |v| v.own.exports.len()),
        imports: view.as_ref().map_or(0, |v| v.mesh.imports.len()),
        store_ok: state.store.healthy() && state.authority.written(),
    };
    Status {
        cluster: state.facts.cluster.to_string(),
        controller,
        peers: peers.iter().map(|(id, entry)| peer_status(id, entry, &gateways, now)).collect(),
        problems: problems(state, view.as_deref(), &gateways, &peers),
        gateways: gateways.iter().map(|(id, node)| node_status(id, node, now)).collect(),
        dns: dns.iter().map(|(id, node)| node_status(id, node, now)).collect(),
    }
}

fn problems(
    state: &State,
    view: Option<&View>,
    gateways: &BTreeMap<NodeId, Node>,
    peers: &BTreeMap<ClusterId, Entry>,
) -> Vec<Error> {
    let mut problems = Vec::new();
    if !state.store.healthy() || !state.authority.written() {
        problems.push(Error::new(config::STATE_UNWRITABLE, "state", "the disk is full or read-only"));
    }
    if gateways.values().all(|node| node.session.is_none()) {
        problems.push(Error::new(control::NO_GATEWAY, "gateways", "none follows this controller"));
    }
    for unread in state.authority.unread() {
        problems.push(Error::new(trust::DENY_ENTRY_UNREADABLE, "own deny list", unread.clone()));
    }
    for (id, entry) in peers {
        // Reach says whether it can be reached; here stands what no waiting mends.
        let error = entry.link.as_ref().and_then(|link| link.borrow().error.clone());
        if let Some((error, code)) = error.and_then(|error| error.code().map(|code| (error, code))) {
            problems.push(Error::new(code, format!("feed of peer {id}"), error.to_string()));
        }
        for refusal in entry.refused().iter().take(10) {
            let object = format!("peer {id} row {}", refusal.key);
            problems.push(Error::new(control::ROW_REFUSED, object, refusal.reason.clone()));
        }
    }
    if let Some(view) = view {
        problems.extend(view.problems.iter().cloned());
        problems.extend(view.own.problems.iter().map(|problem| Error {
            code: format!("HNS-{:04}", problem.code),
            object: problem.object.clone(),
            cause: problem.message.clone(),
            next: "mend the manifest named".to_owned(),
        }));
    }
    problems
}

fn node_status(id: &NodeId, node: &Node, now: Instant) -> NodeStatus {
    let text = |r: &hansa_core::policy::Refusal| format!("{}: {}", r.key, r.reason);
    let unbound = node.report.iter().flat_map(|report| &report.unbound);
    NodeStatus {
        id: id.to_string(),
        connected: node.session.is_some(),
        ready: node.session.is_some() && node.info.ready,
        draining: node.info.draining,
        applied_version: node.applied,
        bound_version: node.report.as_ref().map(|report| report.bound_version),
        age_seconds: node.heard.map(|at| seconds(now.saturating_duration_since(at))),
        refused_rows: node.refusals.iter().chain(unbound).map(text).collect(),
    }
}

/// What our gateways see of one peer.
struct Seen {
    reach: Reach,
    age: Option<f64>,
    gateways: BTreeMap<NodeId, (u64, u64)>,
    transport: String,
    rtt_ms: Option<f64>,
}

fn seen(id: &ClusterId, gateways: &BTreeMap<NodeId, Node>, now: Instant) -> Seen {
    let mut seen = Seen {
        reach: Reach::Unknown,
        age: None,
        gateways: BTreeMap::new(),
        transport: String::new(),
        rtt_ms: None,
    };
    for node in gateways.values() {
        let Some(heard) = node.heard else { continue };
        let silent = now.saturating_duration_since(heard);
        let Some(peer) = node.report.as_ref().and_then(|report| report.peers.get(id)) else { continue };
        if let Some(packet) = peer.packet_age_ms {
            let age = seconds(Duration::from_millis(packet) + silent);
            seen.age = Some(seen.age.map_or(age, |best| best.min(age)));
        }
        if silent > REPORT_LIFE {
            continue;
        }
        // Reach is ordered best first. What one gateway does not know says nothing.
        if peer.reach < seen.reach {
            seen.reach = peer.reach;
        }
        for (gateway, tunnels) in &peer.gateways {
            let sum = seen.gateways.entry(gateway.clone()).or_default();
            sum.0 += u64::from(tunnels.tunnels);
            sum.1 += tunnels.streams;
        }
        if seen.transport.is_empty() || peer.transport == "quic" {
            seen.transport.clone_from(&peer.transport);
        }
        let rtt = peer.rtt_us.map(|us| us as f64 / 1e3);
        seen.rtt_ms = match (seen.rtt_ms, rtt) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    seen
}

fn peer_status(id: &ClusterId, entry: &Entry, gateways: &BTreeMap<NodeId, Node>, now: Instant) -> PeerStatus {
    let mut seen = seen(id, gateways, now);
    for gateway in entry.record.gateways.keys() {
        seen.gateways.entry(gateway.clone()).or_default();
    }
    let link = entry.link.as_ref().map(|link| link.borrow().clone()).unwrap_or_default();
    let digest_ok = match (link.applied, link.published) {
        (Some(a), Some(p)) if (a.epoch, a.version) == (p.epoch, p.version) => a.digest == p.digest,
        (applied, _) => applied.is_some(),
    };
    let counts = seen.gateways.into_iter();
    PeerStatus {
        id: id.to_string(),
        connected: link.connected,
        applied_version: link.applied.map(|p| p.version),
        applied_age_seconds: link.current.map(|at| seconds(now.saturating_duration_since(at))),
        digest_ok,
        reach: seen.reach,
        reach_age_seconds: seen.age,
        gateways: counts
            .map(|(id, (tunnels, streams))| PeerGatewayStatus { id: id.to_string(), tunnels, streams })
            .collect(),
        transport: seen.transport,
        rtt_ms: seen.rtt_ms,
        bundle_expires: entry.bundle.expires().and_then(time),
        refused_rows: entry.refused().iter().map(|r| format!("{}: {}", r.key, r.reason)).collect(),
    }
}

/// `hansa peer list`.
pub fn peers(state: &State, now: Instant) -> Vec<Peer> {
    let gateways = state.nodes.all(Kind::Gateway);
    state.roster.all().iter().map(|(id, entry)| peer(id, entry, &gateways, now)).collect()
}

fn peer(id: &ClusterId, entry: &Entry, gateways: &BTreeMap<NodeId, Node>, now: Instant) -> Peer {
    let record = &entry.record;
    let addresses = record.gateways.iter().map(|(id, gateway)| (id.to_string(), gateway.addresses.clone()));
    Peer {
        id: id.to_string(),
        trust_domain: record.trust_domain.to_string(),
        locality: record.locality.to_string(),
        origin: match record.origin {
            Origin::Token => "token",
            Origin::Object => "object",
        }
        .to_owned(),
        gateways: addresses.collect(),
        bundle_sequence: entry.bundle.sequence,
        status: peer_status(id, entry, gateways, now),
    }
}

/// `hansa services`.
pub fn services(view: &View) -> Vec<Service> {
    view.mesh.imports.values().map(|import| service(view, import)).collect()
}

fn service(view: &View, import: &Import) -> Service {
    let ports = import.ports.iter().map(|port| {
        let name = port.name.as_ref().map(|name| format!("{name} ")).unwrap_or_default();
        format!("{name}{}/{}", port.port, port.protocol)
    });
    let route = view.routes.services.get(&import.service);
    Service {
        name: import.service.to_string(),
        kind: match import.kind {
            ServiceType::ClusterSetIP => "ClusterSetIP",
            ServiceType::Headless => "Headless",
        }
        .to_owned(),
        clusters: import.clusters.keys().map(ToString::to_string).collect(),
        ports: ports.collect(),
        vips: route.iter().flat_map(|route| project::vips(route)).map(ToString::to_string).collect(),
        conditions: conditions(view, import),
    }
}

/// Whether an import can be used from here, and why not.
pub fn readiness(view: &View, import: &Import) -> (bool, &'static str, String) {
    if view.exhausted.contains(&import.service) {
        let message = format!("{} no virtual address is left", control::VIPS_EXHAUSTED);
        return (false, "Pending", message);
    }
    if view.zone.services.contains_key(&import.service) {
        return (true, "Ready", "names and addresses are published".to_owned());
    }
    (false, "Pending", "no ready gateway listens on its addresses yet".to_owned())
}

fn conditions(view: &View, import: &Import) -> Vec<Condition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
    };
    let (ready, reason, message) = readiness(view, import);
    let mut conditions = vec![condition("Ready", ready, reason, message)];
    if !import.conflicts.is_empty() {
        let (reason, message) = crate::plan::conflict_text(&import.conflicts);
        conditions.push(condition("Conflict", true, &reason, message));
    }
    conditions
}

/// For `hansa check` and `hansa dns query`.
pub fn endpoints(state: &State) -> Endpoints {
    let servers = state.nodes.all(Kind::Dns).into_values().filter(|node| node.session.is_some());
    Endpoints { dns: servers.flat_map(|node| node.info.addresses).collect() }
}
