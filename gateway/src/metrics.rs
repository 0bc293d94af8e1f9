//! The gateway's metric families.
//!
//! Updated by outbound, inbound and the reports; read by the admin endpoint. Labels are bounded:
//! clusters and services of the table, never addresses or paths.

use hansa_runtime::metrics::{Families, Row};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Whose connection, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Ended {
    /// `outbound` or `inbound`.
    pub(crate) direction: &'static str,
    /// The other cluster, or the own one.
    pub(crate) peer: String,
    /// `namespace/name`.
    pub(crate) service: String,
    /// The outcome's label.
    pub(crate) outcome: &'static str,
}

/// Bytes of one direction with one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Flow {
    /// `outbound` or `inbound`.
    pub(crate) direction: &'static str,
    /// The other cluster, or the own one.
    pub(crate) peer: String,
}

/// Why a candidate was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Moved {
    /// The cluster passed over.
    pub(crate) peer: String,
    /// Why.
    pub(crate) reason: &'static str,
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Dropped {
    /// Why.
    pub(crate) reason: &'static str,
}

/// Where a new connection or flow was sent first, and why there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Decided {
    /// The cluster tried first.
    pub(crate) peer: String,
    /// How it stands; `panic` where nothing is healthy, `host` where only one can be meant.
    pub(crate) reason: &'static str,
}

/// Endpoints of the own cluster in one state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Endpoints {
    /// `ready`, `unready` by the table, or `down` as seen from here.
    pub(crate) state: &'static str,
}

/// The commit this was built from, where the build says it.
const COMMIT: &str = match option_env!("HANSA_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// All families of the data path. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Family<Ended, Counter>,
    pub(crate) open: Family<Flow, Gauge>,
    pub(crate) sent: Family<Flow, Counter>,
    pub(crate) received: Family<Flow, Counter>,
    pub(crate) failovers: Family<Moved, Counter>,
    pub(crate) panic: Counter,
    pub(crate) decisions: Family<Decided, Counter>,
    pub(crate) endpoints: Family<Endpoints, Gauge>,
    pub(crate) listeners: Gauge,
    pub(crate) unbound: Gauge,
    pub(crate) taken_over: Gauge,
    pub(crate) imports: Gauge,
    pub(crate) exhausted: Counter,
    pub(crate) datagrams_dropped: Family<Dropped, Counter>,
    pub(crate) udp_flows: Gauge,
}

/// Every family of a gateway, for the generated reference.
pub fn metric_rows() -> Vec<Row> {
    let mut families = Families::new();
    register_all(&mut families, &Metrics::default(), &crate::tunnel::Metrics::default());
    families.describe().to_vec()
}

/// Registers what a gateway's process shows: data path, tunnels, process and build.
pub(crate) fn register_all(families: &mut Families, metrics: &Metrics, tunnels: &crate::tunnel::Metrics) {
    metrics.register(families);
    tunnels.register(families);
    families.add_process();
    families.add_build_info("hansa", "gateway", env!("CARGO_PKG_VERSION"), COMMIT);
}

impl Metrics {
    /// Registers every family.
    pub(crate) fn register(&self, families: &mut Families) {
        families.add(
            "hansa_tcp_connections_total",
            "Connections, by how they ended",
            self.connections.clone(),
        );
        families.add("hansa_tcp_connections_open", "Connections that run now", self.open.clone());
        families.add("hansa_tcp_sent_bytes_total", "Bytes sent towards the service", self.sent.clone());
        families.add(
            "hansa_tcp_received_bytes_total",
            "Bytes received from the service",
            self.received.clone(),
        );
        families.add(
            "hansa_failovers_total",
            "Candidates passed over inside a connection",
            self.failovers.clone(),
        );
        families.add("hansa_panic_decisions_total", "Decisions with nothing healthy", self.panic.clone());
        let help = "New connections and flows by the cluster chosen first and why";
        families.add("hansa_route_decisions_total", help, self.decisions.clone());
        let help = "Addresses and ports of the own cluster's endpoints, by state";
        families.add("hansa_endpoints", help, self.endpoints.clone());
        families.add("hansa_listeners", "Virtual addresses and ports bound", self.listeners.clone());
        families.add(
            "hansa_listeners_unbound",
            "Virtual addresses and ports that cannot be bound",
            self.unbound.clone(),
        );
        families.add("hansa_vip_blocks_taken_over", "Blocks of dead siblings held", self.taken_over.clone());
        families.add("hansa_imports", "Services in the table", self.imports.clone());
        families.add(
            "hansa_accept_exhausted_total",
            "Accepts refused for lack of descriptors",
            self.exhausted.clone(),
        );
        families.add(
            "hansa_datagrams_dropped_total",
            "Datagrams dropped, by reason",
            self.datagrams_dropped.clone(),
        );
        families.add("hansa_udp_flows", "UDP flows that run now", self.udp_flows.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_register() {
        let mut families = Families::new();
        Metrics::default().register(&mut families);
        assert!(families.describe().iter().all(|row| row.name.starts_with("hansa_")));
    }
}
