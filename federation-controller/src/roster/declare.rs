//! Peers by declaration: how the roster follows the `ClusterPeer` objects.
//!
//! Called by `fuse` on each run. What cannot be read removes nobody and changes no rule; an object is
//! bootstrap only, and never takes a bundle back. Never touches a peer's catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use hansa_api::view::Error;
use hansa_core::Millis;
use hansa_core::catalog::GatewayInfo;
use hansa_core::code::trust;
use hansa_core::locality::Locality;
use hansa_core::mesh::Transport;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::policy::Accept;
use hansa_identity::bundle::{self, Bundle};
use tracing::info;

use super::{Entry, Origin, RECORD, RULES, Record, Roster};
use crate::source::{Hidden, PeerSpec, Problem};
use crate::store::Batch;

impl Roster {
    /// Brings the peers in line with the `ClusterPeer` objects; what is `hidden` stays as it is. What
    /// cannot be taken is returned.
    pub async fn sync(
        &self,
        specs: &BTreeMap<ClusterId, PeerSpec>,
        hidden: &Hidden,
        now: Millis,
    ) -> Vec<Problem> {
        let _writing = self.inner.writing.lock().await;
        let mut problems = Vec::new();
        let mut batches = vec![self.drop_undeclared(specs, hidden)];
        for (id, spec) in specs {
            match self.declare(id, spec, now) {
                Ok(batch) => batches.push(batch),
                Err(error) => problems.push(Problem {
                    object: format!("ClusterPeer {id}"),
                    code: error.code.trim_start_matches("HNS-").parse().unwrap_or(0),
                    message: error.cause,
                }),
            }
        }
        for batch in batches {
            self.inner.store.commit(batch).await;
        }
        problems
    }

    fn drop_undeclared(&self, specs: &BTreeMap<ClusterId, PeerSpec>, hidden: &Hidden) -> Batch {
        let mut gone = Vec::new();
        let mut all = Batch::default();
        for (id, entry) in &mut *self.entries() {
            if specs.contains_key(id) || hidden.hides(id) {
                continue;
            }
            if entry.record.origin == Origin::Object {
                gone.push(id.clone());
            } else if entry.rules(Accept::default(), Transport::default()) {
                all.delete(format!("{RULES}{id}"));
            }
        }
        if !all.is_empty() {
            self.touch();
        }
        for id in gone {
            all.append(self.drop_entry(&id));
        }
        all
    }

    fn declare(&self, id: &ClusterId, spec: &PeerSpec, now: Millis) -> Result<Batch, Error> {
        let known = self.admissible(id, &spec.trust_domain)?;
        let object = || format!("peer {id}");
        let offered = Bundle::from_json(&spec.trust_domain, spec.bundle.as_bytes());
        let offered = offered.map_err(|e| Error::new(trust::BUNDLE_REFUSED, object(), e.to_string()))?;
        if !known {
            let first = bundle::accept(None, &offered);
            first.map_err(|e| Error::new(trust::BUNDLE_REFUSED, object(), e.to_string()))?;
            self.not_older(id, &offered)?;
        }
        let mut batch = Batch::default();
        let mut changed = !known;
        {
            let mut entries = self.entries();
            if !known {
                let record = declared(id, spec, now);
                let offered = Arc::new(offered.clone());
                self.inner.authority.trust_peer(&offered);
                entries.insert(id.clone(), Entry::new(record, offered));
                info!(target: "audit", event = "peer_added", peer = %id);
            }
            let Some(entry) = entries.get_mut(id) else { return Ok(batch) };
            if entry.rules(spec.accept.clone(), spec.transport) {
                changed = true;
                batch.put_json(format!("{RULES}{id}"), &(&spec.accept, spec.transport));
            }
            let gateways = seeds(&spec.gateways);
            if entry.record.origin == Origin::Object && entry.record.gateways != gateways {
                entry.record.gateways = gateways;
                changed = true;
            }
            // The object is bootstrap only: an older bundle in it is no error.
            if offered.sequence > entry.bundle.sequence {
                changed |= entry.offer(offered, &self.inner.authority)?;
            }
            if changed {
                batch.put_json(format!("{RECORD}{id}"), &entry.record);
            }
        }
        if changed {
            self.touch();
        }
        Ok(batch)
    }

    /// An object, which may be old, does not bring back roots that its peer has given up.
    fn not_older(&self, id: &ClusterId, bundle: &Bundle) -> Result<(), Error> {
        let seen = self.seen(&bundle.trust_domain);
        if bundle.sequence >= seen {
            return Ok(());
        }
        let cause = format!(
            "its sequence is {}, {seen} was seen before this peer was removed; take its present bundle, or \
             join",
            bundle.sequence
        );
        Err(Error::new(trust::BUNDLE_REFUSED, format!("peer {id}"), cause))
    }
}

fn declared(id: &ClusterId, spec: &PeerSpec, now: Millis) -> Record {
    Record {
        cluster: id.clone(),
        trust_domain: spec.trust_domain.clone(),
        locality: Locality::default(),
        bundle: spec.bundle.as_str().into(),
        gateways: seeds(&spec.gateways),
        origin: Origin::Object,
        added: now,
    }
}

/// Gateways known by address only get names of their own until the catalog says theirs.
fn seeds(addresses: &[String]) -> BTreeMap<NodeId, GatewayInfo> {
    let named = addresses.iter().enumerate().filter_map(|(index, address)| {
        let id: NodeId = format!("seed-{index}").parse().ok()?;
        let (locality, addresses) = (Locality::default(), vec![address.clone()]);
        Some((id.clone(), GatewayInfo { id, locality, addresses, draining: false }))
    });
    named.collect()
}
