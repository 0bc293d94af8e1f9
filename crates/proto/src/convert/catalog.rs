//! Catalog rows: `cluster`, `gateway/<id>`, `export/<namespace>/<name>`, `deny`.
//!
//! Encoded by the controller for its peers, decoded by theirs.

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::catalog::{self, Catalog, ClusterInfo, Export, GatewayInfo, InternalTraffic, Traffic};
use hansa_core::name::{NodeId, ServiceName};

use super::{Apply, Reason, Rows, bounded, decode, encode, parse, parts, same_key};
use crate::wire::catalog::v1 as pb;

pub use super::parts::{gateway as gateway_info, gateway_to};

/// Most entries of a deny list that travels.
pub const MAX_DENIED: usize = 128;
/// Longest entry of a deny list that travels, in bytes.
pub const MAX_DENIED_TEXT: usize = 1_024;

/// All rows of a catalog. Without denied certificates there is no row `deny`.
pub fn rows(catalog: &Catalog) -> Rows {
    let mut rows = Rows::from([("cluster".to_owned(), encode(&cluster_to(&catalog.cluster)))]);
    for (id, gateway) in &catalog.gateways {
        let row = pb::GatewayRow { gateway: Some(gateway_to(gateway)) };
        rows.insert(format!("gateway/{id}"), encode(&row));
    }
    for (name, export) in &catalog.exports {
        rows.insert(format!("export/{name}"), encode(&export_to(export)));
    }
    if !catalog.deny.is_empty() {
        let row = pb::DenyRow { entries: catalog.deny.iter().cloned().collect() };
        rows.insert("deny".to_owned(), encode(&row));
    }
    rows
}

fn cluster_to(info: &ClusterInfo) -> pb::ClusterRow {
    pb::ClusterRow {
        id: info.id.to_string(),
        trust_domain: info.trust_domain.to_string(),
        locality: info.locality.to_string(),
        bundle: info.bundle.to_string(),
        properties: info.properties.clone(),
    }
}

fn cluster(row: pb::ClusterRow) -> Result<ClusterInfo, Reason> {
    Ok(ClusterInfo {
        id: parse(&row.id)?,
        trust_domain: parse(&row.trust_domain)?,
        locality: parse(&row.locality)?,
        bundle: parts::bundle(row.bundle)?,
        properties: parts::texts(row.properties)?,
    })
}

fn export_to(export: &Export) -> pb::ExportRow {
    pb::ExportRow {
        namespace: export.service.namespace.to_string(),
        name: export.service.name.to_string(),
        created_ms: export.created,
        kind: parts::kind_to(export.kind),
        ports: parts::ports_to(&export.ports),
        client_ip_seconds: parts::affinity_to(export.affinity),
        labels: export.labels.clone(),
        annotations: export.annotations.clone(),
        endpoints: parts::counts_to(&export.endpoints),
        hosts: parts::hosts_to(&export.hosts),
        internal_traffic_local: export.traffic.internal == InternalTraffic::Local,
        traffic_distribution: export.traffic.distribution.clone().unwrap_or_default(),
    }
}

fn export(row: pb::ExportRow) -> Result<Export, Reason> {
    Ok(Export {
        service: parts::service(&row.namespace, &row.name)?,
        created: row.created_ms,
        kind: parts::kind(row.kind)?,
        ports: parts::ports(row.ports)?,
        affinity: parts::affinity(row.client_ip_seconds),
        traffic: traffic(row.internal_traffic_local, row.traffic_distribution)?,
        labels: parts::texts(row.labels)?,
        annotations: parts::texts(row.annotations)?,
        endpoints: parts::counts(&row.endpoints)?,
        hosts: parts::hosts(&row.hosts)?,
    })
}

fn traffic(local: bool, distribution: String) -> Result<Traffic, Reason> {
    if !catalog::is_distribution(&distribution) {
        return Err(Reason::new("trafficDistribution is no short word"));
    }
    let internal = if local { InternalTraffic::Local } else { InternalTraffic::Cluster };
    Ok(Traffic { internal, distribution: (!distribution.is_empty()).then_some(distribution) })
}

/// Entries of a deny list as texts: what they mean is judged by who uses them.
pub(super) fn denied(entries: Vec<String>) -> Result<BTreeSet<String>, Reason> {
    bounded("denied certificates", &entries, MAX_DENIED)?;
    if entries.iter().any(|entry| entry.len() > MAX_DENIED_TEXT) {
        return Err(Reason::new(format!("an entry is longer than {MAX_DENIED_TEXT} bytes")));
    }
    Ok(entries.into_iter().collect())
}

/// A catalog as its rows come in.
#[derive(Debug, Clone, Default)]
pub struct CatalogRows {
    cluster: Option<ClusterInfo>,
    gateways: BTreeMap<NodeId, GatewayInfo>,
    exports: BTreeMap<ServiceName, Export>,
    deny: Option<BTreeSet<String>>,
}

impl CatalogRows {
    /// The catalog, once the row of the cluster itself is there.
    pub fn catalog(&self) -> Option<Catalog> {
        let cluster = self.cluster.clone()?;
        let deny = self.deny.clone().unwrap_or_default();
        Some(Catalog { cluster, gateways: self.gateways.clone(), exports: self.exports.clone(), deny })
    }

    /// What is denied, also while the row of the cluster itself is missing.
    pub fn denied(&self) -> impl Iterator<Item = &str> {
        self.deny.iter().flatten().map(String::as_str)
    }
}

impl Apply for CatalogRows {
    fn set(&mut self, key: &str, body: &[u8]) -> Result<(), Reason> {
        match key.split_once('/') {
            None if key == "cluster" => self.cluster = Some(cluster(decode(body)?)?),
            None if key == "deny" => self.deny = Some(denied(decode::<pb::DenyRow>(body)?.entries)?),
            Some(("gateway", id)) => {
                let row: pb::GatewayRow = decode(body)?;
                let gateway = parts::gateway(row.gateway.unwrap_or_default())?;
                same_key(id, gateway.id.as_str())?;
                self.gateways.insert(gateway.id.clone(), gateway);
            }
            Some(("export", name)) => {
                let export = export(decode(body)?)?;
                same_key(name, &export.service.to_string())?;
                self.exports.insert(export.service.clone(), export);
            }
            _ => return Err(Reason::new("the kind of row is not known")),
        }
        Ok(())
    }

    fn unset(&mut self, key: &str) {
        match key.split_once('/') {
            None if key == "cluster" => self.cluster = None,
            None if key == "deny" => self.deny = None,
            Some(("gateway", id)) => self.gateways.retain(|known, _| known.as_str() != id),
            Some(("export", name)) => {
                if let Ok(name) = name.parse::<ServiceName>() {
                    self.exports.remove(&name);
                }
            }
            _ => {}
        }
    }

    fn keys(&self) -> Vec<String> {
        let cluster = self.cluster.iter().map(|_| "cluster".to_owned());
        let deny = self.deny.iter().map(|_| "deny".to_owned());
        let gateways = self.gateways.keys().map(|id| format!("gateway/{id}"));
        let exports = self.exports.keys().map(|name| format!("export/{name}"));
        cluster.chain(deny).chain(gateways).chain(exports).collect()
    }
}
