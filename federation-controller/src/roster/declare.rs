//! Peers by declaration: how the roster follows the `ClusterPeer` objects.
//!
//! Called by `fuse` on each run, which must not wait for a disk where nothing changes. What cannot be read
//! removes nobody and changes no rule; an object is bootstrap only, and never takes a bundle back. Never
//! touches a peer's catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use hansa_api::view::Error;
use hansa_core::Millis;
use hansa_core::catalog::GatewayInfo;
use hansa_core::code::{manifest, trust};
use hansa_core::locality::Locality;
use hansa_core::mesh::Transport;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::policy::Accept;
use hansa_identity::bundle::{self, Accepted, Bundle};
use tracing::info;

use super::{Entry, Origin, RECORD, RULES, Record, Roster};
use crate::source::{Hidden, PeerSpec, Problem};
use crate::store::Batch;

impl Roster {
    /// Brings the peers in line with the `ClusterPeer` objects; what is `hidden` stays as it is. What
    /// cannot be taken is returned, and what stays for being hidden alone. Where nothing changes it waits
    /// for nobody's write.
    pub async fn sync(
        &self,
        specs: &BTreeMap<ClusterId, PeerSpec>,
        hidden: &Hidden,
        now: Millis,
    ) -> Vec<Problem> {
        let mut problems = self.undeclared(specs, hidden);
        if let Some(refused) = self.settled(specs, hidden) {
            problems.extend(refused);
            return problems;
        }
        let _writing = self.inner.writing.lock().await;
        let mut batch = self.drop_undeclared(specs, hidden);
        for (id, spec) in specs {
            if let Err(error) = self.declare(id, spec, now, &mut batch) {
                problems.push(problem(id, error));
            }
        }
        self.inner.store.commit(batch).await;
        problems
    }

    /// Marks, and tells of, the peers that no object names any more as far as can be read.
    fn undeclared(&self, specs: &BTreeMap<ClusterId, PeerSpec>, hidden: &Hidden) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (id, entry) in &mut *self.entries() {
            let declared = entry.record.origin == Origin::Object;
            entry.undeclared = declared && !specs.contains_key(id) && hidden.hides(id);
            if entry.undeclared {
                let message = format!(
                    "not declared any more as far as can be read; it stays trusted until what cannot be read is \
                     mended, or hansa peer remove {id}"
                );
                let object = format!("ClusterPeer {id}");
                problems.push(Problem { object, code: manifest::YAML_INVALID.number, message });
            }
        }
        problems
    }

    /// What cannot be taken, if that is all there is to say; `None`: something changes.
    fn settled(&self, specs: &BTreeMap<ClusterId, PeerSpec>, hidden: &Hidden) -> Option<Vec<Problem>> {
        let drops = |id: &ClusterId, entry: &Entry| {
            !specs.contains_key(id)
                && !hidden.hides(id)
                && (entry.record.origin == Origin::Object
                    || entry.ruled(&Accept::default(), Transport::default()))
        };
        if self.entries().iter().any(|(id, entry)| drops(id, entry)) {
            return None;
        }
        let mut problems = Vec::new();
        for (id, spec) in specs {
            match self.changes(id, spec) {
                Ok(true) => return None,
                Ok(false) => {}
                Err(error) => problems.push(problem(id, error)),
            }
        }
        Some(problems)
    }

    /// Whether [`Roster::declare`] would change anything.
    fn changes(&self, id: &ClusterId, spec: &PeerSpec) -> Result<bool, Error> {
        let (known, offered) = self.offered(id, spec)?;
        let entries = self.entries();
        let Some(entry) = entries.get(id).filter(|_| known) else { return Ok(true) };
        if entry.ruled(&spec.accept, spec.transport) || entry.moved(spec) {
            return Ok(true);
        }
        Ok(offered.sequence > entry.bundle.sequence && entry.judge(&offered)? != Accepted::Unchanged)
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

    /// The bundle that an object offers, and whether its peer is known.
    fn offered(&self, id: &ClusterId, spec: &PeerSpec) -> Result<(bool, Bundle), Error> {
        let known = self.admissible(id, &spec.trust_domain)?;
        let refused = |cause: String| Error::new(trust::BUNDLE_REFUSED, format!("peer {id}"), cause);
        let offered = Bundle::from_json(&spec.trust_domain, spec.bundle.as_bytes());
        let offered = offered.map_err(|error| refused(error.to_string()))?;
        if !known {
            bundle::accept(None, &offered).map_err(|refusal| refused(refusal.to_string()))?;
            self.not_older(id, &offered)?;
        }
        Ok((known, offered))
    }

    /// Takes an object. Its rules count also where its bundle is refused.
    fn declare(&self, id: &ClusterId, spec: &PeerSpec, now: Millis, batch: &mut Batch) -> Result<(), Error> {
        let (known, offered) = self.offered(id, spec)?;
        let mut changed = !known;
        let taken = {
            let mut entries = self.entries();
            if !known {
                let record = declared(id, spec, now);
                let offered = Arc::new(offered.clone());
                self.inner.authority.trust_peer(&offered);
                entries.insert(id.clone(), Entry::new(record, offered));
                info!(target: "audit", event = "peer_added", peer = %id);
            }
            let Some(entry) = entries.get_mut(id) else { return Ok(()) };
            if entry.rules(spec.accept.clone(), spec.transport) {
                changed = true;
                batch.put_json(format!("{RULES}{id}"), &(&spec.accept, spec.transport));
            }
            if entry.moved(spec) {
                entry.record.gateways = seeds(&spec.gateways);
                changed = true;
            }
            // The object is bootstrap only: an older bundle in it is no error.
            let newer = offered.sequence > entry.bundle.sequence;
            let taken = if newer { entry.offer(offered, &self.inner.authority) } else { Ok(false) };
            changed |= matches!(taken, Ok(true));
            if changed {
                batch.put_json(format!("{RECORD}{id}"), &entry.record);
            }
            taken
        };
        if changed {
            self.touch();
        }
        taken.map(drop)
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

impl Entry {
    /// Whether these rules differ from those in force.
    fn ruled(&self, accept: &Accept, transport: Transport) -> bool {
        self.accept != *accept || self.transport != transport
    }

    /// Whether its object says other addresses than those in use.
    fn moved(&self, spec: &PeerSpec) -> bool {
        self.record.origin == Origin::Object && self.record.gateways != seeds(&spec.gateways)
    }
}

fn problem(id: &ClusterId, error: Error) -> Problem {
    Problem {
        object: format!("ClusterPeer {id}"),
        code: error.code.trim_start_matches("HNS-").parse().unwrap_or(0),
        message: error.cause,
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

/// Gateways known by address only get names of their own.
fn seeds(addresses: &[String]) -> BTreeMap<NodeId, GatewayInfo> {
    let named = addresses.iter().enumerate().filter_map(|(index, address)| {
        let id: NodeId = format!("seed-{index}").parse().ok()?;
        let (locality, addresses) = (Locality::default(), vec![address.clone()]);
        Some((id.clone(), GatewayInfo { id, locality, addresses, draining: false }))
    });
    named.collect()
}
