//! The peers: who they are, what they offer, how their feed is doing. One table, many readers.
//!
//! Records come from joins (`join`), `ClusterPeer` objects (`Roster::sync`) and the store; catalogs
//! come from `peers`. Read by `fuse`, `serve`, `control`. A peer's bundle only moves forward, and a
//! row that speaks for another cluster is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hansa_api::view::Error;
use hansa_core::Millis;
use hansa_core::catalog::GatewayInfo;
use hansa_core::code::{cli, config, control, trust};
use hansa_core::locality::Locality;
use hansa_core::merge::Conflict;
use hansa_core::mesh::Transport;
use hansa_core::name::{ClusterId, NodeId, ServiceName};
use hansa_core::policy::{Accept, Refusal};
use hansa_core::spiffe::TrustDomain;
use hansa_identity::bundle::Bundle;
use hansa_proto::feed::follow::Applied;
use hansa_proto::feed::{Position, Saved, Status as LinkStatus};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::authority::Authority;
use crate::store::{Batch, Store};

mod declare;
mod view;

pub use view::Entry;

const RECORD: &str = "peer/";
const CATALOG: &str = "catalog/";
const POSITION: &str = "position/";
/// The rules of a peer's object: in force also while the object cannot be read.
const RULES: &str = "rules/";
/// The highest bundle sequence seen of a trust domain whose peer was removed.
const SEEN: &str = "seen/";

/// How a peer came to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// By a join.
    Token,
    /// By a `ClusterPeer` object.
    Object,
}

/// What is kept of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its cluster id.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where it is, until its catalog says so.
    pub locality: Locality,
    /// Its bundle as SPIFFE JSON, the highest sequence seen.
    pub bundle: Arc<str>,
    /// Its gateways, until its catalog says so.
    pub gateways: BTreeMap<NodeId, GatewayInfo>,
    /// How it came to be a peer.
    pub origin: Origin,
    /// Since when, Unix milliseconds.
    pub added: Millis,
}

/// What a peer says about following our catalog.
#[derive(Debug, Clone, Default)]
pub struct Following {
    /// The session in which it said so.
    pub session: u64,
    /// The version of our catalog it applied.
    pub applied: Option<u64>,
    /// When it last said so.
    pub heard: Option<Instant>,
    /// Rows of ours that it refuses.
    pub refusals: Vec<Refusal>,
    /// Conflicts it found in our exports.
    pub conflicts: Vec<(ServiceName, Conflict)>,
}

/// All peers. Clones share them.
#[derive(Debug, Clone)]
pub struct Roster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    own: ClusterId,
    authority: Authority,
    store: Store,
    entries: Mutex<BTreeMap<ClusterId, Entry>>,
    /// Held from a change in memory until it is written, so that the rows say what memory says. No
    /// reader ever waits for it, nor [`Roster::sync`] where it has nothing to change.
    writing: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Roster {
    /// Reads all peers with their last catalogs, and trusts their bundles.
    pub fn load(own: ClusterId, authority: Authority, store: Store) -> Self {
        let mut entries = BTreeMap::new();
        let mut rules: BTreeMap<String, (Accept, Transport)> = store.scan_json(RULES).into_iter().collect();
        for (key, record) in store.scan_json::<Record>(RECORD) {
            let bundle = Bundle::from_json(&record.trust_domain, record.bundle.as_bytes());
            let Ok(bundle) = bundle.map(Arc::new) else {
                warn!(code = %trust::BUNDLE_REFUSED, peer = %key, "the kept bundle cannot be read; peer left out");
                continue;
            };
            authority.trust_peer(&bundle);
            let mut entry = Entry::new(record, bundle);
            let rows: Vec<_> = store.scan(&format!("{CATALOG}{}/", entry.record.cluster));
            let rows: Vec<_> = rows.into_iter().map(|(key, body)| (key, Bytes::from(body))).collect();
            entry.take(&rows, &[], true);
            // What was refused before is refused again.
            entry.learn(&authority);
            let (accept, transport) = rules.remove(entry.record.cluster.as_str()).unwrap_or_default();
            entry.rules(accept, transport);
            entry.rebuild();
            authority.told(&entry.record.trust_domain, &entry.told);
            entries.insert(entry.record.cluster.clone(), entry);
        }
        let (entries, changed) = (Mutex::new(entries), watch::channel(0).0);
        let writing = tokio::sync::Mutex::default();
        Self { inner: Arc::new(Inner { own, authority, store, entries, writing, changed }) }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Entry>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        self.inner.changed.send_modify(|n| *n += 1);
    }

    /// Changes whenever a record, a catalog or a rule has changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// All peers now.
    pub fn all(&self) -> BTreeMap<ClusterId, Entry> {
        self.entries().clone()
    }

    /// The ids of all peers now.
    pub fn ids(&self) -> BTreeSet<ClusterId> {
        self.entries().keys().cloned().collect()
    }

    /// One peer now.
    pub fn get(&self, id: &ClusterId) -> Option<Entry> {
        self.entries().get(id).cloned()
    }

    /// The peer of a trust domain.
    pub fn by_domain(&self, domain: &TrustDomain) -> Option<ClusterId> {
        self.entries().values().find(|e| e.record.trust_domain == *domain).map(|e| e.record.cluster.clone())
    }

    /// Whether these two names may become a peer. `Ok(true)`: that very peer is known already.
    ///
    /// # Errors
    /// HNS-4001 the own cluster, HNS-4008 a name that somebody else has.
    pub fn admissible(&self, id: &ClusterId, domain: &TrustDomain) -> Result<bool, Error> {
        let object = format!("peer {id}");
        if *id == self.inner.own {
            return Err(Error::new(control::JOIN_SELF, object, "it has our own cluster id"));
        }
        if domain == self.inner.authority.domain() {
            let cause = format!("it has our own trust domain {domain}");
            return Err(Error::new(control::IDENTITY_CLASH, object, cause));
        }
        let entries = self.entries();
        let known = entries.values().find(|e| e.record.cluster == *id || e.record.trust_domain == *domain);
        match known.map(|e| &e.record) {
            None => Ok(false),
            Some(r) if r.cluster == *id && r.trust_domain == *domain => Ok(true),
            Some(r) => {
                let cause = format!("peer {} with trust domain {} is known", r.cluster, r.trust_domain);
                Err(Error::new(control::IDENTITY_CLASH, object, cause))
            }
        }
    }

    /// Adds a peer that joined, or refreshes the addresses of the very same peer.
    ///
    /// # Errors
    /// As [`Roster::admissible`]; HNS-3010 if another bundle is held for it. What was seen of one that was
    /// removed does not count: a join is the operator's word of today.
    pub async fn add(&self, record: Record, bundle: Bundle) -> Result<(), Error> {
        let _writing = self.inner.writing.lock().await;
        let known = self.admissible(&record.cluster, &record.trust_domain)?;
        let id = record.cluster.clone();
        let mut batch = Batch::default();
        {
            let mut entries = self.entries();
            match entries.get_mut(&id).filter(|_| known) {
                Some(entry) => {
                    entry.record.gateways.clone_from(&record.gateways);
                    entry.offer(bundle, &self.inner.authority)?;
                    batch.put_json(format!("{RECORD}{id}"), &entry.record);
                }
                None => {
                    let bundle = Arc::new(bundle);
                    self.inner.authority.trust_peer(&bundle);
                    batch.put_json(format!("{RECORD}{id}"), &record);
                    entries.insert(id.clone(), Entry::new(record, bundle));
                }
            }
        }
        self.touch();
        self.inner.store.commit(batch).await;
        info!(target: "audit", event = "peer_added", peer = %id);
        Ok(())
    }

    /// Removes a peer: its certificates are refused and its connections end at once. One by an object
    /// goes with its object, or here while only what cannot be read may hold that.
    ///
    /// # Errors
    /// It is not known, or it stands in a `ClusterPeer` object. HNS-1005: it is removed, which could
    /// not be written down.
    pub async fn remove(&self, id: &ClusterId) -> Result<(), Error> {
        let _writing = self.inner.writing.lock().await;
        let object = format!("peer {id}");
        let found = self.entries().get(id).map(|e| e.record.origin == Origin::Object && !e.undeclared);
        match found {
            None => return Err(Error::new(cli::NOT_FOUND, object, "no such peer")),
            Some(true) => {
                let cause = "it is declared by a ClusterPeer object; remove that";
                return Err(Error::new(control::JOIN_KNOWN, object, cause));
            }
            Some(false) => {}
        }
        let batch = self.drop_entry(id);
        if self.inner.store.commit(batch).await {
            return Ok(());
        }
        let cause = "it is removed and cut off now, but that could not be written to disk: after a restart it \
                     is trusted again, unless the disk can be written before";
        Err(Error::new(config::STATE_UNWRITABLE, object, cause))
    }

    /// The highest sequence seen of a trust domain whose peer was removed; 0: none was.
    fn seen(&self, domain: &TrustDomain) -> u64 {
        let body = self.inner.store.get(&format!("{SEEN}{domain}"));
        body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or(0)
    }

    fn drop_entry(&self, id: &ClusterId) -> Batch {
        let mut batch = Batch::default();
        let Some(entry) = self.entries().remove(id) else { return batch };
        self.inner.authority.distrust(&entry.record.trust_domain);
        batch
            .delete(format!("{RECORD}{id}"))
            .delete(format!("{POSITION}{id}"))
            .delete(format!("{RULES}{id}"));
        batch.delete_all(format!("{CATALOG}{id}/"));
        let domain = &entry.record.trust_domain;
        batch.put_json(format!("{SEEN}{domain}"), &self.seen(domain).max(entry.bundle.sequence));
        self.touch();
        info!(target: "audit", event = "peer_removed", peer = %id);
        batch
    }

    /// The last catalog on disk with its position, to resume the feed from. `None` also where something
    /// of it is refused: the peer is to hear that again.
    pub fn resume(&self, id: &ClusterId) -> Option<Saved> {
        if self.get(id).is_some_and(|entry| !entry.refused().is_empty()) {
            return None;
        }
        let (epoch, version, digest): (u64, u64, String) =
            serde_json::from_slice(&self.inner.store.get(&format!("{POSITION}{id}"))?).ok()?;
        let position = Position { epoch, version, digest: u128::from_str_radix(&digest, 16).ok()? };
        let rows = self.inner.store.scan(&format!("{CATALOG}{id}/")).into_iter();
        Some(Saved { position, rows: rows.map(|(key, body)| (key, Bytes::from(body))).collect() })
    }

    /// What a peer said about following us; that of an older session is ignored.
    pub fn followed(&self, id: &ClusterId, said: Following) {
        let news = {
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(id) else { return };
            if said.session < entry.following.session {
                return;
            }
            let before = std::mem::replace(&mut entry.following, said);
            before.conflicts != entry.following.conflicts
        };
        if news {
            self.touch();
        }
    }

    /// Takes a change of a peer's catalog, and writes it down; a row that cannot be read leaves the
    /// former one. Returns the rows refused.
    pub async fn apply(&self, id: &ClusterId, change: &Applied) -> Vec<Refusal> {
        let _writing = self.inner.writing.lock().await;
        let mut batch = Batch::default();
        let (refusals, kept, whole) = {
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(id) else { return Vec::new() };
            let kept = entry.take(&change.changed, &change.removed, change.snapshot);
            if entry.learn(&self.inner.authority) {
                batch.put_json(format!("{RECORD}{id}"), &entry.record);
            }
            entry.rebuild();
            self.inner.authority.told(&entry.record.trust_domain, &entry.told);
            (entry.refused(), kept, entry.whole())
        };
        self.touch();
        if change.snapshot {
            let named: BTreeSet<&str> = change.changed.iter().map(|row| row.0.as_str()).collect();
            for (key, _) in self.inner.store.scan(&format!("{CATALOG}{id}/")) {
                if !named.contains(key.as_str()) {
                    batch.delete(format!("{CATALOG}{id}/{key}"));
                }
            }
        }
        for key in &change.removed {
            batch.delete(format!("{CATALOG}{id}/{key}"));
        }
        for (key, body) in change.changed.iter().filter(|(key, _)| !kept.contains(key)) {
            batch.put(format!("{CATALOG}{id}/{key}"), body.to_vec());
        }
        if whole {
            let at = change.position;
            batch.put_json(format!("{POSITION}{id}"), &(at.epoch, at.version, format!("{:x}", at.digest)));
        } else {
            // What is on disk is not what the peer has there: a restart asks for a snapshot.
            batch.delete(format!("{POSITION}{id}"));
        }
        self.inner.store.commit(batch).await;
        refusals
    }

    /// Gives a peer the link whose status is shown.
    pub fn linked(&self, id: &ClusterId, link: watch::Receiver<LinkStatus>) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.link = Some(link);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
