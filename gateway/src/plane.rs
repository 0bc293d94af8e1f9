//! What every connection needs, shared: the table, the tunnels, the tracks, the limits.
//!
//! Made by the wiring, read by outbound, inbound, probes and explain. It holds no connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_core::catalog::{Affinity, Protocol};
use hansa_core::locality::Locality;
use hansa_core::mesh::{RouteTable, ServiceRoute};
use hansa_core::name::{ClusterId, Label, NodeId, ServiceName, Target};
use hansa_core::route::{self, Reason, Spread, Standing};
use hansa_runtime::drain::Drain;
use hansa_runtime::logs::ACCESS;
use hansa_runtime::shards::Shards;
use hansa_runtime::tasks::Tasks;
use rand::RngExt;
use tokio::sync::{Semaphore, watch};

use crate::config::Limits;
use crate::dial::Dialer;
use crate::metrics::{Decided, Ended, Flow, Metrics};
use crate::outcome::Outcome;
use crate::reach::{Path, Tracks};
use crate::splice::{Bounds, Moved};
use crate::tunnel::Tunnels;

mod places;
mod tenants;

pub(crate) use places::{CALLS, Places};
pub(crate) use tenants::{Tenant, Tenants};

/// The shared parts of the data path.
#[derive(Debug)]
pub(crate) struct Plane {
    /// Our id.
    pub(crate) id: NodeId,
    /// Where we are, where that is configured.
    pub(crate) locality: Option<Locality>,
    /// The last table.
    pub(crate) table: watch::Receiver<Arc<RouteTable>>,
    /// The tunnels.
    pub(crate) tunnels: Tunnels,
    /// What failed.
    pub(crate) tracks: Tracks,
    /// Dials our own endpoints.
    pub(crate) dialer: Dialer,
    /// The figures.
    pub(crate) metrics: Metrics,
    /// The limits.
    pub(crate) limits: Limits,
    /// Places for client connections.
    pub(crate) places: Arc<Semaphore>,
    /// Who is on whose addresses.
    pub(crate) tenants: Tenants,
    /// The drain.
    pub(crate) drain: Drain,
    /// Where connections run.
    pub(crate) tasks: Tasks,
    /// The threads that connections run on.
    pub(crate) shards: Shards,
    /// The controllers of the own cluster.
    pub(crate) controllers: Vec<String>,
    /// Links of peers to them.
    pub(crate) calls: Places<ClusterId>,
}

/// What one virtual address and port lead to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct What {
    /// The service.
    pub(crate) service: ServiceName,
    /// One host of a headless service.
    pub(crate) host: Option<(Label, ClusterId)>,
    /// The service port.
    pub(crate) port: u16,
}

impl What {
    /// The authority asked of a peer.
    pub(crate) fn authority(&self) -> String {
        Target { service: self.service.clone(), host: self.host.clone(), port: self.port }.to_string()
    }

    /// The path whose failures are remembered.
    pub(crate) fn path(&self, cluster: &ClusterId, protocol: Protocol) -> Path {
        Path::Service(cluster.clone(), self.service.clone(), protocol, self.port)
    }
}

/// The order in which to try, for one connection.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// Best first.
    pub(crate) order: Vec<ClusterId>,
    /// Nothing is healthy: first bytes wait for the answer.
    pub(crate) panic: bool,
}

impl Plane {
    /// The table now.
    pub(crate) fn table(&self) -> Arc<RouteTable> {
        self.table.borrow().clone()
    }

    /// The limits of one spliced connection.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { idle: self.limits.idle_timeout.get(), closing: self.drain.closing() }
    }

    /// The shares of all clusters for one port, as they are now.
    pub(crate) fn spread(&self, table: &RouteTable, row: &ServiceRoute, port: (Protocol, u16)) -> Spread {
        let view = self.tracks.snapshot();
        let here = self.locality.as_ref().unwrap_or(&table.locality);
        route::spread(row, port, here, |cluster| {
            if *cluster != table.cluster {
                let path = Path::Service(cluster.clone(), row.service.clone(), port.0, port.1);
                return self.tracks.standing(&view, cluster, &path);
            }
            match &row.local {
                Some(local) => self.tracks.local_standing(&view, local, port),
                None => Standing { factor: 0.0, reason: Reason::NoEndpoints, proven: false },
            }
        })
    }

    /// Where a new connection or flow goes.
    pub(crate) fn choose(
        &self,
        table: &RouteTable,
        what: &What,
        protocol: Protocol,
        client: IpAddr,
    ) -> Option<Choice> {
        let row = table.services.get(&what.service)?;
        if let Some((_, cluster)) = &what.host {
            self.decided(cluster, "host");
            return Some(Choice { order: vec![cluster.clone()], panic: false });
        }
        let spread = self.spread(table, row, (protocol, what.port));
        let draw = match row.affinity {
            Affinity::None => rand::rng().random::<f64>(),
            Affinity::ClientIp { .. } => route::affine_draw(key(&what.service, client)),
        };
        if spread.panic {
            self.metrics.panic.inc();
        }
        let order = spread.order(draw);
        if let Some(first) = order.first() {
            self.decided(first, reason(&spread, first));
        }
        Some(Choice { order, panic: spread.panic })
    }

    fn decided(&self, cluster: &ClusterId, reason: &'static str) {
        let decided = Decided { peer: cluster.to_string(), reason };
        self.metrics.decisions.get_or_create(&decided).inc();
    }
}

/// How the cluster chosen stands, as a label.
fn reason(spread: &Spread, cluster: &ClusterId) -> &'static str {
    if spread.panic {
        return "panic";
    }
    let mut candidates = spread.tiers.iter().flat_map(|tier| &tier.candidates);
    let of = candidates.find(|candidate| candidate.cluster == *cluster && candidate.share > 0.0);
    match of.map_or(Reason::NoEndpoints, |candidate| candidate.reason) {
        Reason::Healthy => "healthy",
        Reason::Ramp => "ramp",
        Reason::HoldDown => "hold_down",
        Reason::Down => "down",
        Reason::Suspect => "suspect",
        Reason::Unreachable => "unreachable",
        Reason::NoEndpoints => "no_endpoints",
    }
}

/// The same for one client of one service on every gateway.
fn key(service: &ServiceName, client: IpAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (service, client).hash(&mut hasher);
    hasher.finish()
}

/// One connection's line in the access log and its counts, written once, at its end.
#[derive(Debug)]
pub(crate) struct Record {
    /// `outbound` or `inbound`.
    pub(crate) direction: &'static str,
    /// What was asked for.
    pub(crate) target: String,
    /// `namespace/name`, for the label; empty if there is none in the table.
    pub(crate) service: String,
    /// The client, inside our cluster; for inbound the peer's gateway.
    pub(crate) client: String,
    /// The other cluster.
    pub(crate) peer: String,
    /// The peer's gateway, for outbound.
    pub(crate) gateway: String,
    /// The endpoint, inside our cluster.
    pub(crate) endpoint: Option<SocketAddr>,
    /// `quic`, `http2`, or empty.
    pub(crate) transport: &'static str,
    /// Candidates tried.
    pub(crate) attempts: u32,
    /// Why the last refusal was.
    pub(crate) detail: String,
    /// Bytes.
    pub(crate) moved: Arc<Moved>,
    started: Instant,
}

impl Record {
    /// Begins a record.
    pub(crate) fn new(direction: &'static str, target: String, client: String) -> Self {
        Self {
            direction,
            target,
            service: String::new(),
            client,
            peer: String::new(),
            gateway: String::new(),
            endpoint: None,
            transport: "",
            attempts: 0,
            detail: String::new(),
            moved: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Counts and writes it.
    pub(crate) fn finish(self, metrics: &Metrics, outcome: Outcome) {
        let (up, down) = self.moved.get();
        let flow = Flow { direction: self.direction, peer: self.peer.clone() };
        metrics.sent.get_or_create(&flow).inc_by(up);
        metrics.received.get_or_create(&flow).inc_by(down);
        let ended = Ended {
            direction: self.direction,
            peer: self.peer.clone(),
            service: self.service,
            outcome: outcome.label(),
        };
        metrics.connections.get_or_create(&ended).inc();
        let code = outcome.code().map(|code| code.to_string());
        let endpoint = self.endpoint.map(|e| e.to_string());
        let seconds = Duration::as_secs_f64(&self.started.elapsed());
        tracing::info!(
            target: ACCESS,
            direction = self.direction,
            authority = %self.target,
            client = %self.client,
            peer = %self.peer,
            gateway = %self.gateway,
            endpoint = endpoint.as_deref(),
            transport = self.transport,
            outcome = outcome.label(),
            code = code.as_deref(),
            detail = %self.detail,
            attempts = self.attempts,
            sent = up,
            received = down,
            seconds,
            "connection"
        );
    }
}
