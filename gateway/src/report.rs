//! What the gateway tells its controller every second, and at once when something changes.
//!
//! Run by the wiring beside the feed. It only reads.

use std::sync::Arc;
use std::time::Duration;

use hansa_core::locality::Locality;
use hansa_core::policy::Refusal;
use hansa_core::reach::Reach;
use hansa_proto::convert::report::{GatewayReport, NodeInfo, PeerReport, TunnelReport};
use hansa_proto::feed::Handle;
use hansa_runtime::ready::Ready;
use tokio::sync::watch;

use crate::listen::Bound;
use crate::plane::Plane;
use crate::reach::now;
use crate::tunnel::ReachView;

/// The same sorts of row are told only so often.
const MOST_UNBOUND: usize = 200;

/// What the node says of itself besides its state.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// The fixed part.
    pub(crate) node: NodeInfo,
    /// Readiness.
    pub(crate) ready: Ready,
}

/// Reports until the feed's owner is gone.
pub(crate) async fn run(
    plane: Arc<Plane>,
    about: About,
    handle: Handle,
    mut bound: watch::Receiver<Bound>,
    mut held: watch::Receiver<Option<String>>,
) {
    let mut reach = plane.tunnels.reach();
    let begun = plane.drain.begun();
    let mut told = false;
    loop {
        let now_bound = bound.borrow_and_update().clone();
        let view = reach.borrow_and_update().clone();
        let waiting = held.borrow_and_update().clone();
        handle.report(report(&now_bound, &view, waiting));
        handle.node(node(&plane, &about));
        tokio::select! {
            changed = bound.changed() => if changed.is_err() { return },
            changed = held.changed() => if changed.is_err() { return },
            changed = reach_changed(&mut reach, &view) => if changed.is_err() { return },
            () = begun.cancelled(), if !told => told = true,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Waits for a change that matters at once: a peer came or went, not a figure.
async fn reach_changed(
    reach: &mut watch::Receiver<Arc<ReachView>>,
    before: &ReachView,
) -> Result<(), watch::error::RecvError> {
    let states = |view: &ReachView| -> Vec<Reach> { view.peers.values().map(|p| p.reach).collect() };
    loop {
        reach.changed().await?;
        if states(&reach.borrow_and_update()) != states(before) {
            return Ok(());
        }
    }
}

fn node(plane: &Plane, about: &About) -> NodeInfo {
    let table = plane.table();
    let locality: Locality = plane.locality.clone().unwrap_or_else(|| table.locality.clone());
    NodeInfo {
        locality,
        ready: about.ready.is_ready(),
        draining: plane.drain.is_draining(),
        ..about.node.clone()
    }
}

fn report(bound: &Bound, view: &ReachView, waiting: Option<String>) -> GatewayReport {
    let now = now();
    let peers = view.peers.iter().map(|(cluster, peer)| {
        let gateways = peer
            .gateways
            .iter()
            .map(|(id, g)| (id.clone(), TunnelReport { tunnels: g.tunnels, streams: u64::from(g.streams) }));
        let age = (peer.last_packet > 0).then(|| now.saturating_sub(peer.last_packet));
        let report = PeerReport {
            reach: peer.reach,
            packet_age_ms: age,
            gateways: gateways.collect(),
            transport: peer.transport.map_or("", |lane| lane.as_str()).to_owned(),
            rtt_us: peer.rtt_ms.map(|ms| u64::from(ms) * 1_000),
        };
        (cluster.clone(), report)
    });
    let waiting = waiting.map(|reason| Refusal { key: "self".to_owned(), reason });
    let unbound = waiting.into_iter().chain(bound.unbound.iter().take(MOST_UNBOUND).cloned());
    GatewayReport { bound_version: bound.version, unbound: unbound.collect(), peers: peers.collect() }
}
