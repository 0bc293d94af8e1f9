//! The one place that makes the mesh: own catalog and accepted peer catalogs in, projections out.
//!
//! Runs whenever one of its inputs changed, bursts taken together. Publishes an address to DNS after
//! the gateways said that they listen, and takes a name out of DNS before they stop. Addresses are
//! written down before they are published. Nothing else writes a feed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hansa_api::view::Error;
use hansa_core::Millis;
use hansa_core::catalog::{Catalog, GatewayInfo};
use hansa_core::code::control;
use hansa_core::locality::Locality;
use hansa_core::mesh::{Failback, Mesh, Peer, RouteTable, Sibling};
use hansa_core::name::{ClusterId, NodeId, ServiceName};
use hansa_core::services::Services;
use hansa_core::zone::Zone;
use hansa_proto::convert;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::authority::Authority;
use crate::feeds::Feeds;
use crate::nodes::{Kind, Node, Nodes};
use crate::project::{self, Listening, Routes};
use crate::roster::{Entry, Roster};
use crate::source::Own;
use crate::store::Store;
use crate::vips::Vips;

mod made;
mod offer;
mod told;
mod view;

use made::{Inputs, Made};
use told::Told;
pub use view::{BundleAt, View};

/// A burst of changes is taken together for so long, or for as long as the last run took.
const COALESCE: Duration = Duration::from_millis(5);
const COALESCE_MOST: Duration = Duration::from_millis(500);
/// How long DNS servers have to confirm that a name is gone before its listeners go.
const WITHDRAWAL: Duration = Duration::from_secs(2);
/// Clocks that differ by less are no news.
const CLOCK_SLACK: Millis = 300_000;

/// What does not change while the controller runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The own cluster.
    pub cluster: ClusterId,
    /// Where it is.
    pub locality: Locality,
    /// How slowly traffic returns.
    pub failback: Failback,
}

/// A name that is out of DNS while its listeners still stand.
#[derive(Debug, Clone, Copy)]
struct Withdrawal {
    zone_version: u64,
    deadline: Instant,
}

/// What fuse works on.
pub struct Parts {
    /// What does not change.
    pub facts: Facts,
    /// Own objects.
    pub own: watch::Receiver<Arc<Own>>,
    /// Identity.
    pub authority: Authority,
    /// Peers.
    pub roster: Roster,
    /// Own servers.
    pub nodes: Nodes,
    /// Where it publishes.
    pub feeds: Feeds,
    /// Where addresses are written down.
    pub store: Store,
    /// Virtual addresses.
    pub vips: Vips,
    /// Counts manifest objects that were refused.
    pub rejected: Counter,
}

/// The state between runs.
pub struct Fuse {
    parts: Parts,
    made: Option<Made>,
    table: Arc<RouteTable>,
    zone: Arc<Zone>,
    zone_open: bool,
    /// The bundle in the zone, and the first version that carried it.
    zone_bundle: (Arc<str>, u64),
    /// The first routes version of this epoch; gateways must have come this far.
    first_routes: u64,
    introduced: BTreeMap<IpAddr, u64>,
    withdrawn: BTreeMap<ServiceName, Option<Withdrawal>>,
    /// Gateways published last: they stay when none is left.
    gateways: BTreeMap<NodeId, GatewayInfo>,
    declared: Option<Arc<Own>>,
    published: Option<(Arc<Own>, Arc<Catalog>, BTreeSet<ClusterId>)>,
    /// The bundle in the routes, and the first versions that carried it: routes, each peer's catalog.
    bundle: (Arc<str>, u64, BTreeMap<ClusterId, u64>),
    told: Told,
    problems: Vec<Error>,
    view: watch::Sender<Option<Arc<View>>>,
}

/// The table before the first run.
fn empty(parts: &Parts) -> RouteTable {
    RouteTable {
        cluster: parts.facts.cluster.clone(),
        trust_domain: parts.authority.domain().clone(),
        locality: parts.facts.locality.clone(),
        bundle: "".into(),
        deny: BTreeSet::new(),
        failback: parts.facts.failback,
        peers: BTreeMap::new(),
        siblings: BTreeMap::new(),
        services: Services::default(),
    }
}

/// Now, in Unix milliseconds.
pub fn now_millis() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Fuse {
    /// Ready to run. The view is `None` until the first run.
    pub fn new(parts: Parts) -> (Self, watch::Receiver<Option<Arc<View>>>) {
        let (view, reader) = watch::channel(None);
        let fuse = Self {
            table: Arc::new(empty(&parts)),
            parts,
            made: None,
            zone: Arc::default(),
            zone_open: false,
            zone_bundle: ("".into(), 0),
            first_routes: 0,
            introduced: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            gateways: BTreeMap::new(),
            declared: None,
            published: None,
            bundle: ("".into(), 0, BTreeMap::new()),
            told: Told::default(),
            problems: Vec::new(),
            view,
        };
        (fuse, reader)
    }

    /// What it works on.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Runs at every change until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut nodes = self.parts.nodes.changed();
        let mut roster = self.parts.roster.changed();
        let mut bundle = self.parts.authority.bundle();
        let mut trust = self.parts.authority.trust_changed();
        let mut own = self.parts.own.clone();
        loop {
            nodes.borrow_and_update();
            roster.borrow_and_update();
            bundle.borrow_and_update();
            trust.borrow_and_update();
            own.borrow_and_update();
            let began = Instant::now();
            let next = self.once().await;
            let took = began.elapsed();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // A sender that is gone ends its arm; the token ends the loop.
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = own.changed() => {}
                Ok(()) = nodes.changed() => {}
                Ok(()) = roster.changed() => {}
                Ok(()) = bundle.changed() => {}
                Ok(()) = trust.changed() => {}
                () = due => {}
            }
            let pause = tokio::time::sleep(took.clamp(COALESCE, COALESCE_MOST));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// One run. Returns when the next is due although nothing changed.
    async fn once(&mut self) -> Option<Instant> {
        let now = now_millis();
        let own = self.parts.own.borrow().clone();
        self.problems.clear();
        self.declare(&own, now).await;
        let peers = self.parts.roster.all();
        let gateways = self.parts.nodes.all(Kind::Gateway);
        let slots = self.slots(&gateways);
        let catalog = Arc::new(self.catalog(&own, &gateways));
        let accepted: Vec<Arc<Catalog>> = peers.values().filter_map(|entry| entry.catalog.clone()).collect();
        let inputs = Inputs { own: Arc::clone(&own), accepted, slots };
        let made = match self.made.take() {
            // With some left out, addresses may have come free.
            Some(made) if made.exhausted.is_empty() && made.inputs.same(&inputs) => made,
            _ => Made::new(inputs, &catalog, &mut self.parts.vips, now),
        };
        self.clocks(&made.mesh, now);
        let (mut routes, mut used) = (made.routes.clone(), made.used.clone());
        let (mesh, exhausted, slots) =
            (Arc::clone(&made.mesh), made.exhausted.clone(), made.inputs.slots.clone());
        self.made = Some(made);
        self.keep_withdrawn(&mut routes, &mut used);
        self.parts.vips.release_others(&used, now);
        self.exhausted(&exhausted);
        let mut batch = self.parts.vips.take_changes();
        batch.append(self.parts.nodes.take_changes());
        self.parts.store.commit(batch).await;

        let table = self.table(routes, &peers, &gateways, &slots);
        let table = self.publish_routes(table);
        let waits = self.publish_zone(&table, &gateways);
        self.publish_catalogs(&catalog, &own, &peers);
        let view = View {
            own,
            catalog,
            mesh,
            routes: table,
            zone: Arc::clone(&self.zone),
            exhausted,
            problems: self.problems.clone(),
            bundle_at: self.bundle_at(),
        };
        self.view.send_replace(Some(Arc::new(view)));
        let withdrawals = self.withdrawn.values().flatten().map(|w| w.deadline);
        withdrawals.chain(waits).chain(self.told.look(&peers, Instant::now())).min()
    }

    async fn declare(&mut self, own: &Arc<Own>, now: Millis) {
        // Also while an object could not be taken: what stood in its way may be gone.
        let problems = self.parts.roster.sync(&own.peers, &own.hidden, now).await;
        let new = self.declared.as_ref().is_none_or(|before| !Arc::ptr_eq(before, own));
        for problem in problems {
            let code = format!("HNS-{:04}", problem.code);
            if new {
                warn!(code, object = %problem.object, "{}", problem.message);
            }
            let next = "hansa peer list; mend the ClusterPeer object".to_owned();
            self.problems.push(Error { code, object: problem.object, cause: problem.message, next });
        }
        if new {
            let known = self.declared.as_ref().map(|own| own.problems.as_slice()).unwrap_or_default();
            let fresh = own.problems.iter().filter(|problem| !known.contains(problem)).count();
            self.parts.rejected.inc_by(fresh as u64);
        }
        self.declared = Some(Arc::clone(own));
    }

    fn slots(&mut self, gateways: &BTreeMap<NodeId, Node>) -> BTreeMap<NodeId, u32> {
        let mut slots = BTreeMap::new();
        for id in self.parts.nodes.take_forgotten() {
            // It may have come back under the same id.
            if !gateways.contains_key(&id) {
                self.parts.vips.release_slot(&id);
            }
        }
        for id in gateways.keys() {
            match self.parts.vips.slot(id) {
                Some(slot) => drop(slots.insert(id.clone(), slot)),
                None => {
                    let cause = "every block of the VIP prefix is taken; raise vip.gatewayBits";
                    let error = Error::new(control::VIPS_EXHAUSTED, format!("gateway {id}"), cause);
                    self.problems.push(error);
                }
            }
        }
        slots
    }

    fn clocks(&mut self, mesh: &Mesh, now: Millis) {
        for (name, import) in &mesh.imports {
            if import.created > now + CLOCK_SLACK {
                let ahead = (import.created - now) / 1000;
                let cause = format!("its creationTimestamp is {ahead} s in the future");
                self.problems.push(Error::new(control::CLOCK_AHEAD, format!("service {name}"), cause));
            }
        }
    }

    fn exhausted(&mut self, exhausted: &BTreeSet<ServiceName>) {
        if let Some(first) = exhausted.first() {
            let cause = format!("no virtual address is left for {} service(s)", exhausted.len());
            self.problems.push(Error::new(control::VIPS_EXHAUSTED, format!("service {first}"), cause));
        }
    }

    /// Services that are gone keep their routes until DNS confirmed that their names are.
    fn keep_withdrawn(&mut self, routes: &mut Routes, used: &mut BTreeSet<String>) {
        self.withdrawn.retain(|name, _| !routes.contains_key(name));
        let servers = self.parts.nodes.all(Kind::Dns);
        for (name, route) in self.table.services.iter() {
            if routes.contains_key(name) {
                continue;
            }
            if let Some(Some(withdrawal)) = self.withdrawn.get(name) {
                let behind = |node: &Node| node.applied.is_none_or(|v| v < withdrawal.zone_version);
                let late: Vec<&str> = servers
                    .iter()
                    .filter(|(_, node)| node.session.is_some() && behind(node))
                    .map(|(id, _)| id.as_str())
                    .collect();
                let over = Instant::now() >= withdrawal.deadline;
                if over && !late.is_empty() {
                    warn!(code = %control::WITHDRAW_UNCONFIRMED, service = %name, servers = ?late,
                        "a removed name was not confirmed in time; its listeners go now");
                }
                if over || late.is_empty() {
                    self.withdrawn.remove(name);
                    continue;
                }
            }
            self.withdrawn.entry(name.clone()).or_insert(None);
            used.insert(name.to_string());
            for host in &route.hosts {
                used.insert(project::host_key(name, &host.cluster, host.hostname.as_str()));
            }
            routes.insert(name.clone(), Arc::clone(route));
        }
    }

    fn table(
        &self,
        services: Routes,
        peers: &BTreeMap<ClusterId, Entry>,
        gateways: &BTreeMap<NodeId, Node>,
        slots: &BTreeMap<NodeId, u32>,
    ) -> RouteTable {
        let peers = peers.iter().map(|(id, entry)| {
            let record = &entry.record;
            let peer = Peer {
                cluster: id.clone(),
                trust_domain: record.trust_domain.clone(),
                locality: record.locality.clone(),
                bundle: Arc::clone(&record.bundle),
                gateways: record.gateways.clone(),
                transport: entry.transport,
                deny: entry.told.iter().map(ToString::to_string).collect(),
            };
            (id.clone(), peer)
        });
        let siblings = gateways.iter().map(|(id, node)| {
            let blocks = slots.get(id).map(|slot| self.parts.vips.blocks(*slot)).unwrap_or_default();
            let (relay, draining) = (node.info.relay, node.info.draining);
            (id.clone(), Sibling { id: id.clone(), relay, blocks, draining })
        });
        let trust = self.parts.authority.tls().trust().current();
        RouteTable {
            cluster: self.parts.facts.cluster.clone(),
            trust_domain: self.parts.authority.domain().clone(),
            locality: self.parts.facts.locality.clone(),
            bundle: self.parts.authority.bundle().borrow().to_json().into(),
            deny: trust.deny.iter().map(ToString::to_string).collect(),
            failback: self.parts.facts.failback,
            peers: peers.collect(),
            siblings: siblings.collect(),
            services: services.into_values().collect(),
        }
    }

    /// Publishes the routes. Returns the table in force.
    fn publish_routes(&mut self, table: RouteTable) -> Arc<RouteTable> {
        let publisher = self.parts.feeds.routes();
        if self.first_routes > 0 && *self.table == table {
            return Arc::clone(&self.table);
        }
        publisher.replace(convert::routes::rows(&table));
        let version = publisher.position().version;
        if self.first_routes == 0 {
            self.first_routes = version;
        }
        let before = std::mem::take(&mut self.introduced);
        let vips = table.services.values().flat_map(|route| project::vips(route));
        self.introduced = vips.map(|ip| (*ip, before.get(ip).copied().unwrap_or(version))).collect();
        self.table = Arc::new(table);
        // What the table says, whatever is in force by now.
        if self.bundle.0 != self.table.bundle {
            self.bundle = (Arc::clone(&self.table.bundle), version, BTreeMap::new());
        }
        self.parts.feeds.open_routes();
        Arc::clone(&self.table)
    }

    /// Publishes the zone, unless gateways known from before a restart are still waited for.
    fn publish_zone(&mut self, table: &RouteTable, gateways: &BTreeMap<NodeId, Node>) -> Option<Instant> {
        if !self.zone_open {
            if let Some(until) = self.parts.nodes.waits_until(self.first_routes) {
                return Some(until);
            }
            info!(gateways = gateways.len(), "the zone is open");
        }
        let listening = Listening { gateways, introduced: &self.introduced, before: &self.zone };
        let present = table.services.iter().filter(|(name, _)| !self.withdrawn.contains_key(*name));
        let zone = listening.zone(present.map(|(_, route)| route));
        let publisher = self.parts.feeds.zone();
        let told = self.zone_bundle.0 == table.bundle;
        let same = self.zone_open && *self.zone == zone && told;
        if !same {
            publisher.replace(convert::zone::rows(&self.parts.facts.cluster, &table.bundle, &zone));
            self.zone = Arc::new(zone);
            if !told {
                self.zone_bundle = (Arc::clone(&table.bundle), publisher.position().version);
            }
        }
        self.zone_open = true;
        self.parts.feeds.open_zone();
        let zone_version = publisher.position().version;
        let deadline = Instant::now() + WITHDRAWAL;
        for withdrawal in self.withdrawn.values_mut() {
            withdrawal.get_or_insert(Withdrawal { zone_version, deadline });
        }
        None
    }

    fn bundle_at(&self) -> BundleAt {
        let (bundle, zone) = &self.zone_bundle;
        BundleAt {
            routes: self.bundle.1,
            zone: (*bundle == self.table.bundle).then_some(*zone),
            catalogs: self.bundle.2.clone(),
        }
    }

    fn publish_catalogs(
        &mut self,
        catalog: &Arc<Catalog>,
        own: &Arc<Own>,
        peers: &BTreeMap<ClusterId, Entry>,
    ) {
        let to: BTreeSet<ClusterId> = peers.keys().cloned().collect();
        let new = (Arc::clone(own), catalog.clone(), to);
        if self
            .published
            .as_ref()
            .is_some_and(|old| Arc::ptr_eq(&old.0, own) && old.1 == new.1 && old.2 == new.2)
        {
            return;
        }
        let rows = convert::catalog::rows(catalog);
        let mut versions = BTreeMap::new();
        // A rotation may have come between the catalog and the routes; the next run brings its bundle.
        let same = catalog.cluster.bundle == self.bundle.0;
        for id in peers.keys() {
            let publisher = self.parts.feeds.catalog(id);
            publisher.replace(project::visible(&rows, own, id));
            versions.insert(id.clone(), publisher.position().version);
            if same {
                self.bundle.2.entry(id.clone()).or_insert_with(|| publisher.position().version);
            }
        }
        self.parts.feeds.retain_catalogs(|id| peers.contains_key(id));
        self.bundle.2.retain(|id, _| peers.contains_key(id));
        if let Some((_, old, _)) = &self.published {
            self.told.published(old, catalog, versions);
        }
        self.published = Some(new);
    }
}

#[cfg(test)]
mod tests;
