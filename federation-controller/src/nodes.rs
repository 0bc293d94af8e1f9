//! The own cluster's gateways and DNS servers, as they report themselves.
//!
//! Written by `serve` from Hello and Ack messages; read by `fuse` (who may be published), `peers`
//! (relays), `control` and `metrics`. What was known before a restart is remembered, so that nothing
//! is withdrawn before everybody had the time to come back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hansa_core::locality::Locality;
use hansa_core::name::NodeId;
use hansa_core::policy::Refusal;
use hansa_proto::convert::report::{GatewayReport, NodeInfo};
use hansa_proto::feed::Follower;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::{Batch, Store};

/// How long known servers have to come back after a restart of the controller.
pub const GRACE: Duration = Duration::from_secs(3);
const PREFIX: &str = "node/";

/// What kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A gateway: follows the routes.
    Gateway,
    /// A DNS server: follows the zone.
    Dns,
}

impl Kind {
    /// As in keys, tokens and messages.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::Dns => "dns",
        }
    }
}

/// What is remembered of a server across restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    relay: Option<SocketAddr>,
    addresses: Vec<String>,
    dial_only: bool,
    locality: Locality,
    draining: bool,
    /// It was connected when this was written.
    live: bool,
}

/// One server.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it says of itself.
    pub info: NodeInfo,
    /// Its session now; `None`: not connected.
    pub session: Option<u64>,
    /// It was connected before a restart and has not come back yet.
    pub assumed: bool,
    /// The version it applied.
    pub applied: Option<u64>,
    /// When it last said something.
    pub heard: Option<Instant>,
    /// Rows it refused.
    pub refusals: Vec<Refusal>,
    /// Its report (gateways).
    pub report: Option<GatewayReport>,
    /// To ask it something.
    pub follower: Option<Follower>,
    kept: Known,
}

impl Node {
    /// It may get traffic: connected, ready, not going away.
    pub fn usable(&self) -> bool {
        self.session.is_some() && self.info.ready && !self.info.draining
    }

    /// It counts as present: connected, or not yet missed.
    pub fn present(&self) -> bool {
        self.session.is_some() || self.assumed
    }

    /// The version whose addresses it has bound.
    pub fn bound(&self) -> u64 {
        self.report.as_ref().map_or(0, |r| r.bound_version)
    }

    /// Keys of rows it could not bind.
    pub fn unbound(&self) -> BTreeSet<&str> {
        self.report.iter().flat_map(|r| &r.unbound).map(|r| r.key.as_str()).collect()
    }

    fn known(&self) -> Known {
        Known {
            relay: self.info.relay,
            addresses: self.info.addresses.clone(),
            dial_only: self.info.dial_only,
            locality: self.info.locality.clone(),
            draining: self.info.draining,
            live: self.present(),
        }
    }
}

/// What an acknowledgement says.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// The version applied.
    pub applied: Option<u64>,
    /// Rows refused.
    pub refusals: Vec<Refusal>,
    /// About itself, where it said.
    pub info: Option<NodeInfo>,
    /// Gateways: listeners and peers.
    pub report: Option<GatewayReport>,
}

/// What a hello says.
#[derive(Debug, Clone, Default)]
pub struct Came {
    /// About itself.
    pub info: Option<NodeInfo>,
    /// To ask it something.
    pub follower: Option<Follower>,
}

/// What forgetting a server came to.
#[derive(Debug)]
pub enum Forgotten {
    /// It is gone; the rows to delete.
    Gone(Batch),
    /// Nobody knows it.
    Unknown,
    /// It is connected, and stays.
    Connected,
}

/// All servers. Clones share them.
#[derive(Debug, Clone)]
pub struct Nodes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<(Kind, NodeId), Node>,
    grace_ends: Instant,
    /// Gateways whose blocks of addresses are still to be freed.
    forgotten: BTreeSet<NodeId>,
}

impl Nodes {
    /// Reads what was known before.
    pub fn load(store: &Store) -> Self {
        Self::load_for(store, GRACE)
    }

    fn load_for(store: &Store, grace: Duration) -> Self {
        let mut nodes = BTreeMap::new();
        for (key, kept) in store.scan_json::<Known>(PREFIX) {
            let kind = match key.split_once('/') {
                Some(("gateway", id)) => id.parse().ok().map(|id| (Kind::Gateway, id)),
                Some(("dns", id)) => id.parse().ok().map(|id| (Kind::Dns, id)),
                _ => None,
            };
            let Some(key) = kind else { continue };
            let info = NodeInfo {
                relay: kept.relay,
                addresses: kept.addresses.clone(),
                dial_only: kept.dial_only,
                locality: kept.locality.clone(),
                ready: false,
                draining: kept.draining,
            };
            let assumed = kept.live;
            nodes.insert(key, Node { info, assumed, kept, ..Node::new() });
        }
        let state = State { nodes, grace_ends: Instant::now() + grace, forgotten: BTreeSet::new() };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: watch::channel(0).0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever something that others publish or show has changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    fn touch(&self) {
        self.inner.changed.send_modify(|n| *n += 1);
    }

    /// A server connected. A new session takes the place of an older one.
    pub fn hello(&self, kind: Kind, id: &NodeId, session: u64, came: Came) {
        {
            let mut state = self.state();
            let node = state.nodes.entry((kind, id.clone())).or_insert_with(Node::new);
            node.session = Some(session);
            node.assumed = false;
            node.heard = Some(Instant::now());
            node.info = came.info.unwrap_or_else(|| node.info.clone());
            node.follower = came.follower;
            node.applied = None;
            node.report = None;
        }
        self.touch();
    }

    /// An acknowledgement; one of an older session is ignored.
    pub fn said(&self, kind: Kind, id: &NodeId, session: u64, said: Said) {
        let changed = {
            let mut state = self.state();
            let Some(node) = state.nodes.get_mut(&(kind, id.clone())) else { return };
            if node.session != Some(session) {
                return;
            }
            node.heard = Some(Instant::now());
            let info = said.info.unwrap_or_else(|| node.info.clone());
            let bound = |report: &Option<GatewayReport>| {
                report.as_ref().map(|r| (r.bound_version, r.unbound.clone()))
            };
            // Without a report the last one stands.
            let report = said.report.or_else(|| node.report.clone());
            let changed = node.info != info
                || node.applied != said.applied
                || bound(&node.report) != bound(&report)
                || node.refusals != said.refusals;
            node.info = info;
            node.applied = said.applied;
            node.refusals = said.refusals;
            node.report = report;
            changed
        };
        if changed {
            self.touch();
        }
    }

    /// The connection ended; that of an older session is ignored.
    pub fn gone(&self, kind: Kind, id: &NodeId, session: u64) {
        {
            let mut state = self.state();
            let Some(node) = state.nodes.get_mut(&(kind, id.clone())) else { return };
            if node.session != Some(session) {
                return;
            }
            node.session = None;
            node.follower = None;
        }
        self.touch();
    }

    /// Forgets a server that is gone for good, with what is kept of it.
    pub fn forget(&self, kind: Kind, id: &NodeId) -> Forgotten {
        {
            let mut state = self.state();
            let key = (kind, id.clone());
            match state.nodes.get(&key) {
                None => return Forgotten::Unknown,
                Some(node) if node.session.is_some() => return Forgotten::Connected,
                Some(_) => drop(state.nodes.remove(&key)),
            }
            if kind == Kind::Gateway {
                state.forgotten.insert(id.clone());
            }
        }
        self.touch();
        let mut batch = Batch::default();
        batch.delete(format!("{PREFIX}{}/{id}", kind.text()));
        Forgotten::Gone(batch)
    }

    /// Gateways forgotten since the last call.
    pub fn take_forgotten(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.state().forgotten)
    }

    /// All servers of one kind.
    pub fn all(&self, kind: Kind) -> BTreeMap<NodeId, Node> {
        let state = self.state();
        let of_kind = state.nodes.iter().filter(|((k, _), _)| *k == kind);
        of_kind.map(|((_, id), node)| (id.clone(), node.clone())).collect()
    }

    /// Until when the publication of names waits for gateways that have not come back, or have not
    /// bound `version` yet. `None`: all have, or the grace has passed; then nobody is assumed any more.
    pub fn waits_until(&self, version: u64) -> Option<Instant> {
        let mut state = self.state();
        let now = Instant::now();
        if now >= state.grace_ends {
            for node in state.nodes.values_mut() {
                node.assumed = false;
            }
            return None;
        }
        let ends = state.grace_ends;
        let mut gateways = state.nodes.iter().filter(|((kind, _), _)| *kind == Kind::Gateway);
        let behind = |node: &Node| !node.info.draining && node.bound() < version;
        let waits = gateways.any(|(_, node)| node.assumed || (node.session.is_some() && behind(node)));
        waits.then_some(ends)
    }

    /// What must be written so that it is remembered.
    pub fn take_changes(&self) -> Batch {
        let mut batch = Batch::default();
        for ((kind, id), node) in &mut self.state().nodes {
            let known = node.known();
            if known != node.kept {
                batch.put_json(format!("{PREFIX}{}/{id}", kind.text()), &known);
                node.kept = known;
            }
        }
        batch
    }
}

impl Node {
    fn new() -> Self {
        Self {
            info: NodeInfo::default(),
            session: None,
            assumed: false,
            applied: None,
            heard: None,
            refusals: Vec::new(),
            report: None,
            follower: None,
            kept: Known::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> NodeId {
        "gateway-1".parse().unwrap()
    }

    #[tokio::test]
    async fn known_gateways_are_waited_for_after_a_restart_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let nodes = Nodes::load(&store);
        assert_eq!(nodes.waits_until(5), None);
        let info = Some(NodeInfo { ready: true, ..Default::default() });
        nodes.hello(Kind::Gateway, &id(), 7, Came { info, follower: None });
        assert!(nodes.waits_until(5).is_some(), "its first report is waited for");
        let report = GatewayReport { bound_version: 5, ..Default::default() };
        nodes.said(Kind::Gateway, &id(), 7, Said { report: Some(report), ..Said::default() });
        assert_eq!(nodes.waits_until(5), None);
        store.commit_now(&nodes.take_changes());

        let again = Nodes::load(&store);
        assert!(again.waits_until(5).is_some());
        assert!(again.all(Kind::Gateway)[&id()].present());
        let late = Nodes::load_for(&store, Duration::ZERO);
        assert_eq!(late.waits_until(5), None);
        assert!(!late.all(Kind::Gateway)[&id()].present());
    }

    #[tokio::test]
    async fn an_old_session_neither_reports_nor_ends_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = Nodes::load(&Store::open(dir.path()).unwrap());
        let (old, new) = (1, 2);
        nodes.hello(Kind::Gateway, &id(), old, Came::default());
        nodes.hello(Kind::Gateway, &id(), new, Came::default());
        nodes.said(Kind::Gateway, &id(), old, Said { applied: Some(9), ..Said::default() });
        nodes.gone(Kind::Gateway, &id(), old);
        let node = &nodes.all(Kind::Gateway)[&id()];
        assert_eq!((node.session, node.applied), (Some(new), None));
    }
}
