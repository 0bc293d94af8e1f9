//! What one run made, for those who read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hansa_api::view::Error;
use hansa_core::catalog::Catalog;
use hansa_core::mesh::{Mesh, RouteTable};
use hansa_core::name::{ClusterId, ServiceName};
use hansa_core::zone::Zone;

use crate::source::Own;

/// Everything made by one run, for `control`, `plan`, `peers` and `metrics`.
#[derive(Debug, Clone)]
pub struct View {
    /// The objects it was made of.
    pub own: Arc<Own>,
    /// Our catalog.
    pub catalog: Arc<Catalog>,
    /// All catalogs merged.
    pub mesh: Arc<Mesh>,
    /// What gateways get.
    pub routes: Arc<RouteTable>,
    /// What DNS gets.
    pub zone: Arc<Zone>,
    /// Services that found no virtual address.
    pub exhausted: BTreeSet<ServiceName>,
    /// What is wrong now.
    pub problems: Vec<Error>,
    /// Which versions carry the own bundle in force.
    pub bundle_at: BundleAt,
}

/// The versions that carry the bundle of the routes in this view.
#[derive(Debug, Clone, Default)]
pub struct BundleAt {
    /// Of the routes.
    pub routes: u64,
    /// Of the zone; `None` while it carries an older one.
    pub zone: Option<u64>,
    /// Of each peer's catalog.
    pub catalogs: BTreeMap<ClusterId, u64>,
}

impl View {
    /// For `/debug/snapshot`.
    pub fn to_json(&self) -> String {
        let value = serde_json::json!({
            "catalog": *self.catalog,
            "routes": *self.routes,
            "zone": *self.zone,
            "imports": self.mesh.imports.values().collect::<Vec<_>>(),
            "exhausted": self.exhausted.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "problems": self.problems,
        });
        value.to_string()
    }
}
