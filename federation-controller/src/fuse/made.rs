//! Mesh and routes with what they were made of: most runs only learn how far a follower has come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hansa_core::Millis;
use hansa_core::catalog::Catalog;
use hansa_core::merge::merge;
use hansa_core::mesh::Mesh;
use hansa_core::name::{NodeId, ServiceName};

use crate::project::{self, Addresses, Routes};
use crate::source::Own;
use crate::vips::Vips;

/// What mesh and routes are made of.
pub(super) struct Inputs {
    pub(super) own: Arc<Own>,
    pub(super) accepted: Vec<Arc<Catalog>>,
    pub(super) slots: BTreeMap<NodeId, u32>,
}

impl Inputs {
    /// The very same values, not equal ones: that is what makes the question cheap.
    pub(super) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.own, &other.own)
            && self.slots == other.slots
            && self.accepted.len() == other.accepted.len()
            && self.accepted.iter().zip(&other.accepted).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// What was made of them.
pub(super) struct Made {
    pub(super) inputs: Inputs,
    pub(super) mesh: Arc<Mesh>,
    pub(super) routes: Routes,
    pub(super) used: BTreeSet<String>,
    pub(super) exhausted: BTreeSet<ServiceName>,
}

impl Made {
    /// Merges, and finds an address for everything.
    pub(super) fn new(inputs: Inputs, catalog: &Catalog, vips: &mut Vips, now: Millis) -> Self {
        let mesh = merge(std::iter::once(catalog).chain(inputs.accepted.iter().map(AsRef::as_ref)));
        let (used, exhausted) = (BTreeSet::new(), BTreeSet::new());
        let mut allocator = Allocator { vips, slots: &inputs.slots, used, exhausted, now };
        let routes = project::routes(&mesh, &inputs.own, &mut allocator);
        let (used, exhausted) = (allocator.used, allocator.exhausted);
        Self { inputs, mesh: Arc::new(mesh), routes, used, exhausted }
    }
}

struct Allocator<'a> {
    vips: &'a mut Vips,
    slots: &'a BTreeMap<NodeId, u32>,
    used: BTreeSet<String>,
    exhausted: BTreeSet<ServiceName>,
    now: Millis,
}

impl Addresses for Allocator<'_> {
    fn of(&mut self, service: &ServiceName, key: &str) -> BTreeMap<NodeId, Vec<IpAddr>> {
        let Some(number) = self.vips.number(key, self.now) else {
            self.exhausted.insert(service.clone());
            return BTreeMap::new();
        };
        self.used.insert(key.to_owned());
        let by_gateway = self.slots.iter().map(|(id, slot)| (id.clone(), self.vips.addresses(*slot, number)));
        by_gateway.collect()
    }
}
