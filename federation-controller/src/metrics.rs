//! The controller's metrics, computed from its state at each scrape.
//!
//! Registered by `controller`. Labels are cluster ids, trust domains and fixed words: bounded by the
//! number of peers.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use hansa_runtime::metrics::{Families, Row};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::control::State;
use crate::fuse::View;
use crate::nodes::Kind;
use crate::status;

/// Name, help, label name (empty: none).
const GAUGES: [(&str, &str, &str); 13] = [
    ("hansa_exports", "Services this cluster exports", ""),
    ("hansa_imports", "Services known in the clusterset", ""),
    ("hansa_export_conflicts", "Own exports that conflict with another member's", ""),
    ("hansa_vips_exhausted", "Services that found no virtual address", ""),
    ("hansa_problems", "Problems shown by hansa status", ""),
    ("hansa_state_writable", "1 while the state file can be written", ""),
    ("hansa_nodes_connected", "Own servers that follow this controller", "kind"),
    ("hansa_feed_version", "Version published", "feed"),
    ("hansa_sync_lag_seconds", "Age of the last confirmation of a peer's catalog", "peer"),
    ("hansa_peer_rows_refused", "Rows of a peer that are refused", "peer"),
    ("hansa_trust_bundle_sequence", "Sequence of the bundle in force", "trust_domain"),
    ("hansa_trust_bundle_expiry_timestamp_seconds", "When the last root of a bundle expires", "trust_domain"),
    ("hansa_leaf_expiry_timestamp_seconds", "When the controller's own certificate expires", ""),
];

struct Gauges(State);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

/// Registers the controller's families.
pub fn register(families: &mut Families, state: State) {
    plain(families, state.rejected.clone());
    families.add_collector(Box::new(Gauges(state)), gauge_rows());
}

/// Every family, for the generated reference.
pub fn rows() -> Vec<Row> {
    let mut families = Families::new();
    plain(&mut families, Counter::default());
    families.describe().iter().cloned().chain(gauge_rows()).collect()
}

fn plain(families: &mut Families, rejected: Counter) {
    families.add_process();
    families.add_build_info("hansa", "controller", env!("CARGO_PKG_VERSION"), "unknown");
    families.add("hansa_config_rejected_total", "Manifest objects refused", rejected);
}

fn gauge_rows() -> [Row; GAUGES.len()] {
    GAUGES.map(|(name, help, _)| Row { name: name.to_owned(), kind: "gauge", help: help.to_owned() })
}

fn unix(at: std::time::SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Gauges {
    fn values(&self, name: &str) -> Vec<(String, f64)> {
        let state = &self.0;
        let view: Option<Arc<View>> = state.view.borrow().clone();
        let one = |value: f64| vec![(String::new(), value)];
        let of_view = |f: &dyn Fn(&View) -> usize| one(view.as_deref().map_or(0, f) as f64);
        match name {
            "hansa_exports" => of_view(&|v| v.own.exports.len()),
            "hansa_imports" => of_view(&|v| v.mesh.imports.len()),
            "hansa_export_conflicts" => of_view(&|v| {
                let conflicts = |name| v.mesh.imports.get(name).is_some_and(|i| !i.conflicts.is_empty());
                v.own.exports.keys().filter(|name| conflicts(*name)).count()
            }),
            "hansa_vips_exhausted" => of_view(&|v| v.exhausted.len()),
            "hansa_problems" => one(status::status(state, Instant::now()).problems.len() as f64),
            "hansa_state_writable" => one(f64::from(u8::from(state.store.healthy()))),
            "hansa_nodes_connected" => [Kind::Gateway, Kind::Dns]
                .map(|kind| {
                    let connected = state.nodes.all(kind).values().filter(|n| n.session.is_some()).count();
                    (kind.text().to_owned(), connected as f64)
                })
                .to_vec(),
            "hansa_feed_version" => vec![
                ("routes".to_owned(), state.feeds.routes().position().version as f64),
                ("zone".to_owned(), state.feeds.zone().position().version as f64),
            ],
            "hansa_leaf_expiry_timestamp_seconds" => one(unix(state.authority.tls().keys().expires())),
            _ => self.of_peers(name),
        }
    }

    fn of_peers(&self, name: &str) -> Vec<(String, f64)> {
        let state = &self.0;
        let own = state.authority.bundle().borrow().clone();
        let peers = state.roster.all();
        let bundles = || std::iter::once(&own).chain(peers.values().map(|entry| &entry.bundle));
        match name {
            "hansa_trust_bundle_sequence" => {
                bundles().map(|b| (b.trust_domain.to_string(), b.sequence as f64)).collect()
            }
            "hansa_trust_bundle_expiry_timestamp_seconds" => {
                bundles().filter_map(|b| Some((b.trust_domain.to_string(), unix(b.expires()?)))).collect()
            }
            "hansa_peer_rows_refused" => {
                peers.iter().map(|(id, entry)| (id.to_string(), entry.refused().len() as f64)).collect()
            }
            "hansa_sync_lag_seconds" => {
                let lag = peers.iter().filter_map(|(id, entry)| {
                    let current = entry.link.as_ref()?.borrow().current?;
                    Some((id.to_string(), current.elapsed().as_secs_f64()))
                });
                lag.collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, label) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (value_of, value) in self.values(name) {
                if label.is_empty() {
                    family.encode_gauge(&value)?;
                } else {
                    let labels = vec![(label.to_owned(), value_of)];
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }
}
