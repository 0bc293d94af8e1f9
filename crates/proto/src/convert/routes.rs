//! Route table rows: `self`, `peer/<cluster>`, `sibling/<id>`, `service/<namespace>/<name>`.
//!
//! Encoded by the controller, decoded by its gateways.

use std::collections::BTreeMap;
use std::sync::Arc;

use hansa_core::mesh::{Failback, Peer, RouteTable, ServiceRoute, Sibling, Transport};
use hansa_core::name::{ClusterId, NodeId, ServiceName};
use hansa_core::services::Services;

use super::{Apply, Reason, Rows, bounded, decode, encode, optional, parse, parts, same_key};
use crate::wire::routes::v1 as pb;

mod service;

/// Most gateways of one peer, blocks of one gateway and entries of the deny list.
const MAX_LIST: usize = 10_000;

/// All rows of a route table.
pub fn rows(table: &RouteTable) -> Rows {
    let mut rows = Rows::from([("self".to_owned(), encode(&own_to(table)))]);
    for (id, peer) in &table.peers {
        rows.insert(format!("peer/{id}"), encode(&peer_to(peer)));
    }
    for (id, sibling) in &table.siblings {
        rows.insert(format!("sibling/{id}"), encode(&sibling_to(sibling)));
    }
    for (name, route) in table.services.iter() {
        rows.insert(format!("service/{name}"), encode(&service::to(route)));
    }
    rows
}

fn own_to(table: &RouteTable) -> pb::SelfRow {
    pb::SelfRow {
        cluster: table.cluster.to_string(),
        trust_domain: table.trust_domain.to_string(),
        locality: table.locality.to_string(),
        bundle: table.bundle.to_string(),
        deny: table.deny.iter().cloned().collect(),
        hold_down_ms: table.failback.hold_down_ms,
        ramp_ms: table.failback.ramp_ms,
    }
}

fn peer_to(peer: &Peer) -> pb::PeerRow {
    let transport = match peer.transport {
        Transport::Auto => pb::Transport::Auto,
        Transport::Quic => pb::Transport::Quic,
        Transport::Http2 => pb::Transport::Http2,
    };
    pb::PeerRow {
        cluster: peer.cluster.to_string(),
        trust_domain: peer.trust_domain.to_string(),
        locality: peer.locality.to_string(),
        bundle: peer.bundle.to_string(),
        gateways: peer.gateways.values().map(parts::gateway_to).collect(),
        transport: transport.into(),
        deny: peer.deny.iter().cloned().collect(),
    }
}

fn peer(row: pb::PeerRow) -> Result<Peer, Reason> {
    bounded("gateways", &row.gateways, MAX_LIST)?;
    let gateways = row.gateways.into_iter().map(|wire| {
        let gateway = parts::gateway(wire)?;
        Ok((gateway.id.clone(), gateway))
    });
    Ok(Peer {
        cluster: parse(&row.cluster)?,
        trust_domain: parse(&row.trust_domain)?,
        locality: parse(&row.locality)?,
        bundle: parts::bundle(row.bundle)?,
        gateways: gateways.collect::<Result<_, Reason>>()?,
        // A lane a newer controller knows is taken as "auto": any lane leads there.
        transport: match pb::Transport::try_from(row.transport) {
            Ok(pb::Transport::Quic) => Transport::Quic,
            Ok(pb::Transport::Http2) => Transport::Http2,
            _ => Transport::Auto,
        },
        deny: super::catalog::denied(row.deny)?,
    })
}

fn sibling_to(sibling: &Sibling) -> pb::SiblingRow {
    pb::SiblingRow {
        id: sibling.id.to_string(),
        relay: sibling.relay.map(|relay| relay.to_string()).unwrap_or_default(),
        blocks: sibling.blocks.iter().map(ToString::to_string).collect(),
        draining: sibling.draining,
    }
}

fn sibling(row: &pb::SiblingRow) -> Result<Sibling, Reason> {
    bounded("blocks", &row.blocks, MAX_LIST)?;
    Ok(Sibling {
        id: parse(&row.id)?,
        relay: optional(&row.relay)?,
        blocks: row.blocks.iter().map(|block| parse(block)).collect::<Result<_, Reason>>()?,
        draining: row.draining,
    })
}

#[derive(Debug, Clone)]
struct Own(RouteTable);

fn own(row: pb::SelfRow) -> Result<Own, Reason> {
    bounded("denied leaves", &row.deny, MAX_LIST)?;
    Ok(Own(RouteTable {
        cluster: parse(&row.cluster)?,
        trust_domain: parse(&row.trust_domain)?,
        locality: parse(&row.locality)?,
        bundle: parts::bundle(row.bundle)?,
        deny: row.deny.into_iter().collect(),
        failback: Failback { hold_down_ms: row.hold_down_ms, ramp_ms: row.ramp_ms },
        peers: BTreeMap::new(),
        siblings: BTreeMap::new(),
        services: Services::default(),
    }))
}

/// A route table as its rows come in.
#[derive(Debug, Clone, Default)]
pub struct RouteRows {
    own: Option<Own>,
    peers: BTreeMap<ClusterId, Peer>,
    siblings: BTreeMap<NodeId, Sibling>,
    services: BTreeMap<ServiceName, Arc<ServiceRoute>>,
}

impl RouteRows {
    /// The table, once the `self` row is there. Services that did not change keep their `Arc`.
    pub fn table(&self) -> Option<RouteTable> {
        let own = self.own.clone()?.0;
        Some(RouteTable {
            peers: self.peers.clone(),
            siblings: self.siblings.clone(),
            services: self.services.values().cloned().collect(),
            ..own
        })
    }
}

impl Apply for RouteRows {
    fn set(&mut self, key: &str, body: &[u8]) -> Result<(), Reason> {
        match key.split_once('/') {
            None if key == "self" => self.own = Some(own(decode(body)?)?),
            Some(("peer", id)) => {
                let peer = peer(decode(body)?)?;
                same_key(id, peer.cluster.as_str())?;
                self.peers.insert(peer.cluster.clone(), peer);
            }
            Some(("sibling", id)) => {
                let sibling = sibling(&decode(body)?)?;
                same_key(id, sibling.id.as_str())?;
                self.siblings.insert(sibling.id.clone(), sibling);
            }
            Some(("service", name)) => {
                let route = service::from(decode(body)?)?;
                same_key(name, &route.service.to_string())?;
                // A snapshot repeats what has not changed: its readers see no change either.
                if self.services.get(&route.service).is_none_or(|old| **old != route) {
                    self.services.insert(route.service.clone(), Arc::new(route));
                }
            }
            _ => return Err(Reason::new("the kind of row is not known")),
        }
        Ok(())
    }

    fn unset(&mut self, key: &str) {
        match key.split_once('/') {
            None if key == "self" => self.own = None,
            Some(("peer", id)) => self.peers.retain(|known, _| known.as_str() != id),
            Some(("sibling", id)) => self.siblings.retain(|known, _| known.as_str() != id),
            Some(("service", name)) => {
                if let Ok(name) = name.parse::<ServiceName>() {
                    self.services.remove(&name);
                }
            }
            _ => {}
        }
    }

    fn keys(&self) -> Vec<String> {
        let own = self.own.iter().map(|_| "self".to_owned());
        let peers = self.peers.keys().map(|id| format!("peer/{id}"));
        let siblings = self.siblings.keys().map(|id| format!("sibling/{id}"));
        let services = self.services.keys().map(|name| format!("service/{name}"));
        own.chain(peers).chain(siblings).chain(services).collect()
    }
}
