//! Probes what failed: a request through the tunnel for a service, a connect for an endpoint.
//!
//! Run once by the wiring. Only what is down is probed; the only path left every 300 ms, the rest
//! with backoff to 5 s. A probe never carries a byte.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use hansa_core::backoff::Backoff;
use hansa_core::catalog::Protocol;
use hansa_core::mesh::RouteTable;
use hansa_core::reach::{Event, Reach, Track};
use http::{HeaderMap, HeaderValue};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Path, Snapshot, now};
use crate::inbound::PROBE;
use crate::metrics::Endpoints;
use crate::plane::{Plane, What};
use crate::tunnel::{CONNECT_UDP, Open, ReachView};

/// How often due probes are looked for.
const TICK: Duration = Duration::from_millis(50);
/// Probes under way at once.
const AT_ONCE: usize = 64;
/// How often endpoints are counted.
const CENSUS: Duration = Duration::from_secs(1);
/// Below so many dead endpoints each is tried again every 300 ms: a connect costs nothing.
const FEW: usize = 64;

/// Follows the tunnels' reach, lets time pass and probes, until `stop`.
pub(crate) async fn run(
    plane: Arc<Plane>,
    mut reach: watch::Receiver<Arc<ReachView>>,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut census = tokio::time::interval(CENSUS);
    census.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = reach.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = reach.borrow_and_update().clone();
                for (peer, seen) in &view.peers {
                    plane.tracks.reached(peer, seen.reach);
                }
            }
            _ = tick.tick() => {
                if !plane.tracks.snapshot().paths.is_empty() {
                    plane.tracks.tick();
                    begin(&plane, &room);
                }
            }
            _ = census.tick() => {
                for (state, count) in plane.tracks.census(&plane.table()) {
                    plane.metrics.endpoints.get_or_create(&Endpoints { state }).set(count);
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Begins every probe that is due.
fn begin(plane: &Arc<Plane>, room: &Arc<Semaphore>) {
    let now = now();
    let view = plane.tracks.snapshot();
    let table = plane.table();
    let few = view.paths.keys().filter(|p| matches!(p, Path::Endpoint(_))).count() <= FEW;
    for (path, memory) in &view.paths {
        if !matches!(memory.track, Track::Down { .. }) || now < memory.due {
            continue;
        }
        let Ok(place) = room.clone().try_acquire_owned() else { return };
        let only = match path {
            // The tunnels dial by themselves; their reach is the probe.
            Path::Peer(_) => continue,
            Path::Endpoint(_) => few,
            Path::Service(cluster, ..) if view.reach(cluster) != Reach::Reachable => continue,
            Path::Service(..) => is_only(plane, &table, &view, path),
        };
        plane.tracks.probing(path, only, now);
        let (plane, path) = (plane.clone(), path.clone());
        let tasks = plane.tasks.clone();
        tasks.spawn_until_shutdown("probe", async move {
            let event = if probe(&plane, &path).await { Event::ProbePassed } else { Event::ProbeFailed };
            plane.tracks.record(&path, event);
            drop(place);
        });
    }
}

/// True if no other cluster can stand in for this path.
fn is_only(plane: &Plane, table: &RouteTable, view: &Snapshot, path: &Path) -> bool {
    let Path::Service(cluster, service, protocol, port) = path else { return true };
    let port = (*protocol, *port);
    let Some(row) = table.services.get(service) else { return false };
    !row.clusters.iter().any(|candidate| {
        let other = &candidate.cluster;
        let serves = other != cluster && candidate.ports.contains(&port);
        let stands = || match (other == &table.cluster, &row.local) {
            (true, Some(local)) => plane.tracks.local_standing(view, local, port),
            _ => {
                let path = Path::Service(other.clone(), service.clone(), port.0, port.1);
                plane.tracks.standing(view, other, &path)
            }
        };
        serves && candidate.endpoints.iter().any(|e| e.ready > 0) && stands().factor > 0.0
    })
}

async fn probe(plane: &Plane, path: &Path) -> bool {
    match path {
        Path::Peer(_) => false,
        Path::Endpoint(address) => connects(plane, *address).await,
        Path::Service(cluster, service, protocol, port) => {
            let what = What { service: service.clone(), host: None, port: *port };
            ask(plane, cluster, &what, (*protocol, None)).await.is_ok()
        }
    }
}

async fn connects(plane: &Plane, address: SocketAddr) -> bool {
    let connect = tokio::net::TcpStream::connect(address);
    matches!(tokio::time::timeout(plane.limits.dial_timeout.get(), connect).await, Ok(Ok(_)))
}

/// Connects to every ready TCP endpoint of the own cluster again and again, where that is asked
/// for: one that fails gets no traffic before a connection had to find out.
pub(crate) async fn look_after_endpoints(plane: Arc<Plane>, every: Duration) {
    let mut tick = tokio::time::interval(every.max(TICK));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (table, view) = (plane.table(), plane.tracks.snapshot());
        let local = table.services.values().filter_map(|row| row.local.as_ref());
        let ready = local.flat_map(|local| &local.endpoints).filter(|endpoint| endpoint.ready);
        let tcp = ready.flat_map(|endpoint| {
            let ports = endpoint.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
            ports.map(|port| SocketAddr::new(endpoint.address, port.target))
        });
        // What is down is probed anyway.
        let up = |address: &SocketAddr| !matches!(view.track(&Path::Endpoint(*address)), Track::Down { .. });
        let addresses: BTreeSet<SocketAddr> = tcp.filter(up).collect();
        let looks = futures::stream::iter(addresses).map(|address| {
            let plane = &plane;
            async move {
                let event = if connects(plane, address).await { Event::Succeeded } else { Event::Failed };
                plane.tracks.record(&Path::Endpoint(address), event);
            }
        });
        looks.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

/// Asks a peer to dial an endpoint and to close without a byte.
pub(crate) async fn ask(
    plane: &Plane,
    cluster: &hansa_core::name::ClusterId,
    what: &What,
    (protocol, via): (Protocol, Option<hansa_core::name::NodeId>),
) -> Result<(), (u16, String)> {
    let mut headers = HeaderMap::new();
    headers.insert(PROBE, HeaderValue::from_static("1"));
    let protocol = (protocol == Protocol::Udp).then_some(CONNECT_UDP);
    let head = Open { authority: what.authority(), protocol, headers, via, first: Bytes::new() };
    let mut stream = plane.tunnels.open(cluster, head).await.map_err(|e| (0, e.to_string()))?;
    let limit = plane.limits.answer_timeout.get();
    match tokio::time::timeout(limit, stream.recv.response()).await {
        Ok(Ok(response)) if response.status.is_success() => {
            // Nothing was sent and nothing will be: a clean end.
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.send.finish()).await;
            Ok(())
        }
        Ok(Ok(response)) => {
            let why = response.proxy_status().unwrap_or_default().chars().take(200).collect();
            Err((response.status.as_u16(), why))
        }
        Ok(Err(error)) => Err((0, error.to_string())),
        Err(_) => Err((0, "no answer in time".to_owned())),
    }
}

impl super::Tracks {
    /// A probe of this path begins; the next is due after the backoff.
    fn probing(&self, path: &Path, only: bool, now: hansa_core::Millis) {
        let backoff = if only { Backoff::ONLY_PATH } else { Backoff::PROBE };
        self.change(|state, _| {
            if let Some(memory) = state.paths.get_mut(path) {
                memory.due = now + backoff.wait(memory.attempt, rand::random());
                memory.attempt = memory.attempt.saturating_add(1);
            }
        });
    }
}
