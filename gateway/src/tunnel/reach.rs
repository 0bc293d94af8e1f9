//! What this gateway knows of each peer, published for routing and for reports.
//!
//! Computed by the hub whenever a tunnel changes and at least every 200 ms.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hansa_core::Millis;
use hansa_core::mesh::RouteTable;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::reach::Reach;

use super::link::{Condition, Link};
use super::peer::Lane;

/// All peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReachView {
    /// By cluster, every peer of the table.
    pub peers: BTreeMap<ClusterId, PeerReach>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReach {
    /// Whether requests can be sent to it.
    pub reach: Reach,
    /// When the last authenticated packet came, since the Unix epoch; 0 for never.
    pub last_packet: Millis,
    /// Its gateways with a tunnel.
    pub gateways: BTreeMap<NodeId, GatewayReach>,
    /// What carries most of the usable tunnels.
    pub transport: Option<Lane>,
    /// The shortest round trip of its usable tunnels in milliseconds, rounded up.
    pub rtt_ms: Option<u32>,
}

/// One gateway of a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewayReach {
    /// Tunnels that take requests.
    pub tunnels: u32,
    /// Requests that run, of both sides.
    pub streams: u32,
}

/// The view over these tunnels. `tried` are the peers that a dial to has ended at least once; what
/// was heard before stays remembered in `before`.
pub(crate) fn view(
    table: &RouteTable,
    links: &[Arc<Link>],
    tried: &BTreeSet<ClusterId>,
    before: &ReachView,
) -> ReachView {
    let peers = table.peers.keys().map(|cluster| {
        let of = |link: &&Arc<Link>| link.facts.peer.cluster == *cluster;
        let links: Vec<_> = links.iter().filter(of).collect();
        let mut peer = peer(&links, tried.contains(cluster));
        let last = before.peers.get(cluster).map_or(0, |peer| peer.last_packet);
        peer.last_packet = peer.last_packet.max(last);
        (cluster.clone(), peer)
    });
    ReachView { peers: peers.collect() }
}

fn peer(links: &[&Arc<Link>], tried: bool) -> PeerReach {
    let mut gateways = BTreeMap::<NodeId, GatewayReach>::new();
    let (mut good, mut suspect) = (Vec::new(), false);
    for link in links {
        let gateway = gateways.entry(link.facts.peer.gateway.clone()).or_default();
        gateway.streams += u32::try_from(link.streams()).unwrap_or(u32::MAX);
        if !link.is_used() || !link.is_proven() {
            continue;
        }
        match link.condition() {
            Condition::Good => {
                gateway.tunnels += 1;
                good.push(link);
            }
            Condition::Suspect => suspect = true,
            _ => {}
        }
    }
    let reach = match (good.is_empty(), suspect, tried) {
        (false, ..) => Reach::Reachable,
        (_, true, _) => Reach::Suspect,
        (_, _, true) => Reach::Unreachable,
        _ => Reach::Unknown,
    };
    let quic = good.iter().filter(|link| link.lane() == Lane::Quic).count();
    let lane = if quic * 2 >= good.len() { Lane::Quic } else { Lane::Http2 };
    let rtt = good.iter().map(|link| link.rtt().as_micros().div_ceil(1_000)).min();
    PeerReach {
        reach,
        last_packet: links.iter().map(|link| link.last_heard()).max().unwrap_or(0),
        gateways,
        transport: (!good.is_empty()).then_some(lane),
        rtt_ms: rtt.map(|rtt| u32::try_from(rtt).unwrap_or(u32::MAX)),
    }
}
