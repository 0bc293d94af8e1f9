//! The own catalog: exports, gateways that peers may dial, what the own domain denies.
//!
//! Part of `fuse`, which publishes it. It holds no address of an endpoint.

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::catalog::{Catalog, ClusterInfo, GatewayInfo};
use hansa_core::name::NodeId;
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_identity::deny::DenyEntry;
use hansa_proto::convert::catalog::MAX_DENIED_TEXT;

use super::Fuse;
use crate::nodes::Node;
use crate::source::Own;

impl Fuse {
    /// The catalog of this run. Without any gateway those published last stay, so that peers know
    /// where to come back to.
    pub(super) fn catalog(&mut self, own: &Own, gateways: &BTreeMap<NodeId, Node>) -> Catalog {
        let (domain, denied) = (self.parts.authority.domain().clone(), self.parts.authority.denied());
        let present: BTreeMap<NodeId, GatewayInfo> =
            gateways.iter().filter(|(_, node)| shown(node)).map(|(id, node)| info(id, node)).collect();
        if !present.is_empty() {
            self.gateways = present;
        }
        // Peers would refuse it anyway.
        let refused = |id: &NodeId| denied.contains(&holder(&domain, id));
        let gateways = self.gateways.iter().filter(|(id, _)| !refused(id));
        Catalog {
            cluster: ClusterInfo {
                id: self.parts.facts.cluster.clone(),
                trust_domain: domain.clone(),
                locality: self.parts.facts.locality.clone(),
                bundle: self.parts.authority.bundle().borrow().to_json().into(),
                properties: own.properties.clone(),
            },
            gateways: gateways.map(|(id, info)| (id.clone(), info.clone())).collect(),
            exports: own.exports.iter().map(|(name, (export, _))| (name.clone(), export.clone())).collect(),
            deny: told(&denied, &domain),
        }
    }
}

fn shown(node: &Node) -> bool {
    node.present() && (node.info.ready || node.info.draining || node.assumed)
}

fn info(id: &NodeId, node: &Node) -> (NodeId, GatewayInfo) {
    let addresses = if node.info.dial_only { Vec::new() } else { node.info.addresses.clone() };
    let locality = node.info.locality.clone();
    (id.clone(), GatewayInfo { id: id.clone(), locality, addresses, draining: node.info.draining })
}

fn holder(domain: &TrustDomain, gateway: &NodeId) -> DenyEntry {
    DenyEntry::Holder(SpiffeId::of(domain, &Role::Gateway(gateway.clone())))
}

/// What peers are told: entries of the own domain, and fingerprints, which name none.
fn told(denied: &[DenyEntry], domain: &TrustDomain) -> BTreeSet<String> {
    let own = denied.iter().filter(|entry| entry.trust_domain().is_none_or(|of| of == domain));
    own.map(ToString::to_string).filter(|text| text.len() <= MAX_DENIED_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_told_what_is_ours_alone() {
        let print = format!("sha256:{}", "ab".repeat(32));
        let all =
            ["spiffe://a/hansa/gateway/g-1", "serial:a:01", &print, "serial:b:01", "spiffe://b/hansa/dns/d"];
        let denied = all.map(|text| text.parse::<DenyEntry>().unwrap());
        let expected = ["spiffe://a/hansa/gateway/g-1", "serial:a:01", &print].map(String::from);
        assert_eq!(told(&denied, &"a".parse().unwrap()), BTreeSet::from(expected));
    }
}
