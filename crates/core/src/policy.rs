//! Who may see what: the exporter's list and the importer's rules.
//!
//! Called by the controller (projections, accept) and by the gateway's inbound (every request).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Export, LocalService};
use crate::locality::Locality;
use crate::name::{ClusterId, Namespace, ServiceName};

/// True if `peer` may see the service.
pub fn may_see(service: &LocalService, peer: &ClusterId) -> bool {
    service.export_to.as_ref().is_none_or(|list| list.contains(peer))
}

/// What a peer may bring (`ClusterPeer.spec.accept`). The default accepts everything up to limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Accept {
    /// Only these namespaces; `None` means all.
    pub namespaces: Option<BTreeSet<Namespace>>,
    /// Only these services; `None` means all.
    pub services: Option<BTreeSet<ServiceName>>,
    /// Its localities must lie within this prefix.
    pub locality_prefix: Locality,
    /// Most rows taken.
    pub max_rows: usize,
    /// Most endpoints counted per service and place (its weight).
    pub max_weight: u32,
}

impl Default for Accept {
    fn default() -> Self {
        Self {
            namespaces: None,
            services: None,
            locality_prefix: Locality::default(),
            max_rows: 20_000,
            max_weight: 100_000,
        }
    }
}

/// A row that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refusal {
    /// The feed key of the row.
    pub key: String,
    /// Why, for people.
    pub reason: String,
}

/// Applies the importer's rules to a peer's catalog, before the merge.
pub fn accept(rules: &Accept, mut catalog: Catalog) -> (Catalog, Vec<Refusal>) {
    let mut refusals = Vec::new();
    let mut taken = 0usize;
    let exports = std::mem::take(&mut catalog.exports);
    for (name, mut export) in exports {
        match judge(rules, &export, taken) {
            Ok(()) => {
                taken += 1;
                cap(rules, &mut export);
                catalog.exports.insert(name, export);
            }
            Err(reason) => refusals.push(Refusal { key: format!("export/{name}"), reason }),
        }
    }
    (catalog, refusals)
}

fn judge(rules: &Accept, export: &Export, taken: usize) -> Result<(), String> {
    let name = &export.service;
    if rules.namespaces.as_ref().is_some_and(|list| !list.contains(&name.namespace)) {
        return Err(format!("namespace {} is not in accept.namespaces", name.namespace));
    }
    if rules.services.as_ref().is_some_and(|list| !list.contains(name)) {
        return Err(format!("service {name} is not in accept.services"));
    }
    let outside = export.endpoints.iter().find(|e| !e.locality.within(&rules.locality_prefix));
    if let Some(outside) = outside {
        let prefix = &rules.locality_prefix;
        return Err(format!("locality {} is not within {prefix}", outside.locality));
    }
    if taken >= rules.max_rows {
        return Err(format!("more than accept.maxRows = {} rows", rules.max_rows));
    }
    Ok(())
}

fn cap(rules: &Accept, export: &mut Export) {
    for count in &mut export.endpoints {
        count.total = count.total.min(rules.max_weight);
        count.ready = count.ready.min(count.total);
    }
}
