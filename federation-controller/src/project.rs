//! Projections of the mesh: what gateways get, what DNS gets, what one peer gets. Pure.
//!
//! Called by `fuse` alone. A zone lists an address only when a gateway that may get traffic said
//! that it listens there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hansa_core::catalog::ServiceType;
use hansa_core::mesh::{Candidate, HostRoute, Import, Mesh, ServiceRoute};
use hansa_core::name::{ClusterId, NodeId, ServiceName};
use hansa_core::policy;
use hansa_core::zone::{Zone, ZoneHost, ZonePort, ZoneService};
use hansa_proto::convert::Rows;

use crate::nodes::Node;
use crate::source::Own;

/// Services by name, rows shared.
pub type Routes = BTreeMap<ServiceName, Arc<ServiceRoute>>;

/// Gives addresses by gateway to a key; nothing where none is left.
pub trait Addresses {
    /// The addresses of `key` on every gateway.
    fn of(&mut self, service: &ServiceName, key: &str) -> BTreeMap<NodeId, Vec<IpAddr>>;
}

/// The address key of a headless host.
pub fn host_key(service: &ServiceName, cluster: &ClusterId, hostname: &str) -> String {
    format!("{service}/{hostname}.{cluster}")
}

/// The route of every service.
pub fn routes(mesh: &Mesh, own: &Own, addresses: &mut impl Addresses) -> Routes {
    let services = mesh.imports.iter().map(|(name, import)| {
        let local = own.exports.get(name).map(|(_, local)| local.clone());
        let vips = match import.kind {
            ServiceType::ClusterSetIP => addresses.of(name, &name.to_string()),
            ServiceType::Headless => BTreeMap::new(),
        };
        let clusters = import
            .clusters
            .iter()
            .map(|(id, share)| Candidate::new(id.clone(), &share.ports, share.endpoints.iter().cloned()));
        let route = ServiceRoute {
            service: name.clone(),
            kind: import.kind,
            ports: import.ports.clone(),
            affinity: import.affinity,
            vips,
            clusters: clusters.collect(),
            hosts: hosts(import, addresses),
            local,
        };
        (name.clone(), Arc::new(route))
    });
    services.collect()
}

fn hosts(import: &Import, addresses: &mut impl Addresses) -> Vec<HostRoute> {
    let mut hosts = Vec::new();
    if import.kind != ServiceType::Headless {
        return hosts;
    }
    for (cluster, share) in &import.clusters {
        for host in &share.hosts {
            let key = host_key(&import.service, cluster, host.hostname.as_str());
            hosts.push(HostRoute {
                cluster: cluster.clone(),
                hostname: host.hostname.clone(),
                ready: host.ready,
                vips: addresses.of(&import.service, &key),
            });
        }
    }
    hosts
}

/// All virtual addresses of a route.
pub fn vips(route: &ServiceRoute) -> impl Iterator<Item = &IpAddr> {
    let hosts = route.hosts.iter().flat_map(|host| host.vips.values());
    route.vips.values().chain(hosts).flatten()
}

/// Which addresses are listened on, as far as the gateways have said.
pub struct Listening<'a> {
    /// Own gateways.
    pub gateways: &'a BTreeMap<NodeId, Node>,
    /// The routes version that brought an address.
    pub introduced: &'a BTreeMap<IpAddr, u64>,
    /// What was published last.
    pub before: &'a Zone,
}

impl Listening<'_> {
    fn any_usable(&self) -> bool {
        self.gateways.values().any(Node::usable)
    }

    /// The addresses a gateway that may get traffic listens on. Where nobody does yet, or nobody is
    /// left, what was published stays: an answer that may work beats none.
    fn published(
        &self,
        service: &ServiceName,
        vips: &BTreeMap<NodeId, Vec<IpAddr>>,
        before: &[IpAddr],
    ) -> Vec<IpAddr> {
        let key = format!("service/{service}");
        let mut refused = false;
        let mut ips = Vec::new();
        for (gateway, addresses) in vips {
            let Some(node) = self.gateways.get(gateway).filter(|node| node.usable()) else { continue };
            if node.unbound().contains(key.as_str()) {
                refused = true;
                continue;
            }
            let bound = node.bound();
            let listens = |ip: &&IpAddr| self.introduced.get(*ip).is_some_and(|version| bound >= *version);
            ips.extend(addresses.iter().filter(listens));
        }
        if ips.is_empty() && !(refused && self.any_usable()) {
            let still = vips.values().flatten().filter(|ip| before.contains(ip));
            ips.extend(still);
        }
        ips.sort();
        ips
    }

    /// The zone of these routes.
    pub fn zone<'r>(&self, routes: impl IntoIterator<Item = &'r Arc<ServiceRoute>>) -> Zone {
        let mut zone = Zone::default();
        for route in routes {
            if let Some(service) = self.service(route) {
                zone.insert(service);
            }
        }
        zone
    }

    fn service(&self, route: &ServiceRoute) -> Option<ZoneService> {
        let before = self.before.services.get(&route.service);
        let ips = self.published(&route.service, &route.vips, before.map_or(&[], |s| &s.ips));
        let hosts: Vec<ZoneHost> = route
            .hosts
            .iter()
            .map(|host| {
                let same = |h: &&ZoneHost| h.hostname == host.hostname && h.cluster == host.cluster;
                let before = before.and_then(|s| s.hosts.iter().find(same));
                ZoneHost {
                    hostname: host.hostname.clone(),
                    cluster: host.cluster.clone(),
                    ready: host.ready,
                    ips: self.published(&route.service, &host.vips, before.map_or(&[], |h| &h.ips)),
                }
            })
            .collect();
        let reachable = match route.kind {
            ServiceType::ClusterSetIP => !ips.is_empty(),
            ServiceType::Headless => before.is_some() || hosts.iter().any(|h| !h.ips.is_empty()),
        };
        let ports = route.ports.iter();
        let ports = ports.map(|p| ZonePort { name: p.name.clone(), protocol: p.protocol, port: p.port });
        reachable.then(|| ZoneService {
            service: route.service.clone(),
            kind: route.kind,
            ports: ports.collect(),
            ips,
            hosts,
        })
    }
}

/// The rows of our catalog that `peer` may see.
pub fn visible(rows: &Rows, own: &Own, peer: &ClusterId) -> Rows {
    let hidden: BTreeSet<String> = own
        .exports
        .iter()
        .filter(|(_, (_, local))| !policy::may_see(local, peer))
        .map(|(name, _)| format!("export/{name}"))
        .collect();
    rows.iter().filter(|(key, _)| !hidden.contains(*key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests;
