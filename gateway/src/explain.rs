//! Answers the controller's questions about this gateway: why a request goes where it goes, and
//! whether a path works.
//!
//! Called by the feed's owner. `explain` uses the function that routes connections; `check` walks
//! tunnel, peer's gateway and endpoint live. Neither changes any state.

use std::collections::BTreeSet;
use std::time::Instant;

use futures::StreamExt as _;
use hansa_core::catalog::Protocol;
use hansa_core::code::{Code, gateway as codes};
use hansa_core::mesh::RouteTable;
use hansa_core::name::{ClusterId, NodeId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::plane::{Plane, What};
use crate::reach::{Path, dialable, now, prober};

/// What `explain` and `check` ask about.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    /// `namespace/name`; every import without it (check only).
    #[serde(default)]
    service: Option<ServiceName>,
    /// The service port; all TCP ports without it.
    #[serde(default)]
    port: Option<u16>,
    /// This cluster alone (check only).
    #[serde(default)]
    peer: Option<ClusterId>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explain {
    id: NodeId,
    tiers: Vec<TierExplain>,
    chosen: Option<String>,
    panic: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TierExplain {
    name: String,
    capacity: f64,
    share: f64,
    candidates: Vec<CandidateExplain>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CandidateExplain {
    cluster: String,
    endpoints: u32,
    healthy: f64,
    share: f64,
    reason: hansa_core::route::Reason,
    age_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Check {
    paths: Vec<CheckPath>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckPath {
    service: String,
    gateway: NodeId,
    peer: String,
    peer_gateway: Option<String>,
    hops: Vec<Hop>,
}

#[derive(Debug, Serialize)]
struct Hop {
    id: &'static str,
    ok: Option<bool>,
    code: Option<String>,
    seconds: Option<f64>,
    detail: String,
}

/// Answers one question, as JSON.
pub(crate) async fn answer(plane: &Plane, kind: &str, question: &[u8]) -> Result<Vec<u8>, String> {
    let about = || serde_json::from_slice::<About>(question).map_err(|e| format!("question: {e}"));
    let json = match kind {
        "explain" => serde_json::to_vec(&explain(plane, &about()?)?),
        "check" => serde_json::to_vec(&check(plane, &about()?).await),
        "snapshot" => return Ok(snapshot(plane).into_bytes()),
        other => return Err(format!("a gateway cannot answer \"{}\"", other.escape_debug())),
    };
    json.map_err(|e| e.to_string())
}

fn explain(plane: &Plane, about: &About) -> Result<Explain, String> {
    let table = plane.table();
    let name = about.service.as_ref().ok_or("which service?")?;
    let row = table.services.get(name).ok_or_else(|| format!("{name} is not in the table"))?;
    let port = about.port.or_else(|| row.ports.first().map(|p| p.port)).ok_or("the service has no port")?;
    let known = row.ports.iter().find(|p| p.port == port);
    let protocol = known.map(|p| p.protocol).ok_or_else(|| format!("{name} has no port {port}"))?;
    let spread = plane.spread(&table, row, (protocol, port));
    let view = plane.tracks.snapshot();
    let now = now();
    let chosen = spread.shares().into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(c, _)| c.to_string());
    let tiers = spread.tiers.iter().map(|tier| TierExplain {
        name: tier.name.to_string(),
        capacity: tier.capacity,
        share: tier.share,
        candidates: tier
            .candidates
            .iter()
            .map(|c| {
                let path = Path::Service(c.cluster.clone(), name.clone(), protocol, port);
                let since = view.since(&c.cluster, &path);
                let age = since.map(|since| now.saturating_sub(since) as f64 / 1_000.0);
                CandidateExplain {
                    cluster: c.cluster.to_string(),
                    endpoints: c.endpoints,
                    healthy: c.healthy,
                    share: c.share,
                    reason: c.reason,
                    age_seconds: age,
                }
            })
            .collect(),
    });
    Ok(Explain { id: plane.id.clone(), tiers: tiers.collect(), chosen, panic: spread.panic })
}

/// Paths walked at once.
const WALKERS: usize = 32;

async fn check(plane: &Plane, about: &About) -> Check {
    let table = plane.table();
    let mut walks = Vec::new();
    for row in table.services.values() {
        if about.service.as_ref().is_some_and(|wanted| *wanted != row.service) {
            continue;
        }
        let ports: BTreeSet<(Protocol, u16)> = row.ports.iter().map(|p| (p.protocol, p.port)).collect();
        for port in ports.into_iter().filter(|p| about.port.is_none_or(|wanted| wanted == p.1)) {
            let serving = row.clusters.iter().filter(|c| c.ports.contains(&port));
            for cluster in serving.map(|candidate| &candidate.cluster) {
                if about.peer.as_ref().is_some_and(|wanted| wanted != cluster) {
                    continue;
                }
                let host = row.hosts.iter().find(|h| h.cluster == *cluster && h.ready);
                let host = host.map(|h| (h.hostname.clone(), h.cluster.clone()));
                walks.push((
                    cluster.clone(),
                    port.0,
                    What { service: row.service.clone(), host, port: port.1 },
                ));
            }
        }
    }
    let walked = futures::stream::iter(walks).map(|(cluster, protocol, what)| {
        let table = table.clone();
        async move {
            match cluster == table.cluster {
                true => vec![walk_local(plane, &table, (protocol, &what)).await],
                false => walk_peer(plane, &table, &cluster, (protocol, &what)).await,
            }
        }
    });
    let paths: Vec<Vec<CheckPath>> = walked.buffer_unordered(WALKERS).collect().await;
    Check { paths: paths.into_iter().flatten().collect() }
}

fn hop(id: &'static str, begun: Instant, result: Result<String, (Code, String)>) -> Hop {
    let seconds = Some(begun.elapsed().as_secs_f64());
    match result {
        Ok(detail) => Hop { id, ok: Some(true), code: None, seconds, detail },
        Err((code, detail)) => Hop { id, ok: Some(false), code: Some(code.to_string()), seconds, detail },
    }
}

fn behind(id: &'static str) -> Hop {
    Hop { id, ok: None, code: None, seconds: None, detail: String::new() }
}

async fn walk_local(plane: &Plane, table: &RouteTable, (protocol, what): (Protocol, &What)) -> CheckPath {
    let begun = Instant::now();
    let local = table.services.get(&what.service).and_then(|row| row.local.as_ref());
    let addresses: Vec<_> = local.into_iter().flat_map(|l| dialable(l, (protocol, what.port))).collect();
    let mut result = Err((codes::NO_ENDPOINT, "no ready endpoint".to_owned()));
    for address in addresses {
        if protocol == Protocol::Udp {
            // Datagrams have no answer to a dial.
            result = Ok(format!("{address} is ready"));
            continue;
        }
        let connect = tokio::net::TcpStream::connect(address);
        result = match tokio::time::timeout(plane.limits.dial_timeout.get(), connect).await {
            Ok(Ok(_)) => Ok(address.to_string()),
            Ok(Err(error)) => Err((codes::NO_ENDPOINT, format!("{address}: {error}"))),
            Err(_) => Err((codes::DIAL_TIMEOUT, format!("{address} does not answer"))),
        };
        if result.is_err() {
            break;
        }
    }
    CheckPath {
        service: format!("{}:{}", what.service, what.port),
        gateway: plane.id.clone(),
        peer: table.cluster.to_string(),
        peer_gateway: None,
        hops: vec![hop("endpoint", begun, result)],
    }
}

/// One path through each gateway that the peer has.
async fn walk_peer(
    plane: &Plane,
    table: &RouteTable,
    cluster: &ClusterId,
    (protocol, what): (Protocol, &What),
) -> Vec<CheckPath> {
    let reach = plane.tunnels.reach().borrow().clone();
    let seen = reach.peers.get(cluster);
    let mut gateways: BTreeSet<NodeId> =
        table.peers.get(cluster).into_iter().flat_map(|p| p.gateways.keys().cloned()).collect();
    gateways.extend(seen.into_iter().flat_map(|s| s.gateways.keys().cloned()));
    let mut paths = Vec::new();
    for gateway in gateways {
        let begun = Instant::now();
        let tunnels = seen.and_then(|s| s.gateways.get(&gateway)).map_or(0, |g| g.tunnels);
        let tunnel = match tunnels {
            0 => Err((codes::PATH_LOST, format!("no tunnel to {gateway} of {cluster}"))),
            n => Ok(format!("{n} open")),
        };
        let broken = tunnel.is_err();
        let mut hops = vec![hop("tunnel", begun, tunnel)];
        if broken {
            hops.extend([behind("peer-gateway"), behind("endpoint")]);
        } else {
            hops.extend(walk_gateway(plane, cluster, what, (protocol, gateway.clone())).await);
        }
        paths.push(CheckPath {
            service: format!("{}:{}", what.service, what.port),
            gateway: plane.id.clone(),
            peer: cluster.to_string(),
            peer_gateway: Some(gateway.to_string()),
            hops,
        });
    }
    paths
}

async fn walk_gateway(
    plane: &Plane,
    cluster: &ClusterId,
    what: &What,
    (protocol, via): (Protocol, NodeId),
) -> [Hop; 2] {
    let begun = Instant::now();
    let answered = "it answered".to_owned();
    match prober::ask(plane, cluster, what, (protocol, Some(via))).await {
        Ok(()) => [hop("peer-gateway", begun, Ok(answered)), hop("endpoint", begun, Ok(String::new()))],
        Err((0, why)) => [hop("peer-gateway", begun, Err((codes::PATH_LOST, why))), behind("endpoint")],
        Err((403, why)) => [hop("peer-gateway", begun, Err((codes::DENIED, why))), behind("endpoint")],
        Err((404, why)) => {
            [hop("peer-gateway", begun, Err((codes::NO_SUCH_SERVICE, why))), behind("endpoint")]
        }
        Err((504, why)) => [
            hop("peer-gateway", begun, Ok(answered)),
            hop("endpoint", begun, Err((codes::DIAL_TIMEOUT, why))),
        ],
        Err((_, why)) => {
            [hop("peer-gateway", begun, Ok(answered)), hop("endpoint", begun, Err((codes::NO_ENDPOINT, why)))]
        }
    }
}

/// The debug page: table, reach and memories.
pub(crate) fn snapshot(plane: &Plane) -> String {
    let table = plane.table();
    let reach = plane.tunnels.reach().borrow().clone();
    let peers: serde_json::Map<String, serde_json::Value> = reach
        .peers
        .iter()
        .map(|(cluster, peer)| {
            let gateways: serde_json::Map<String, serde_json::Value> = peer
                .gateways
                .iter()
                .map(|(id, g)| {
                    (id.to_string(), serde_json::json!({"tunnels": g.tunnels, "streams": g.streams}))
                })
                .collect();
            let value = serde_json::json!({
                "reach": peer.reach,
                "lastPacket": peer.last_packet,
                "transport": peer.transport.map(|t| t.as_str()),
                "rttMs": peer.rtt_ms,
                "gateways": gateways,
            });
            (cluster.to_string(), value)
        })
        .collect();
    let view = plane.tracks.snapshot();
    let json = serde_json::json!({
        "id": plane.id,
        "table": *table,
        "reach": peers,
        "tracks": view.shown(),
        "draining": plane.drain.is_draining(),
    });
    serde_json::to_string_pretty(&json).unwrap_or_else(|e| e.to_string())
}
