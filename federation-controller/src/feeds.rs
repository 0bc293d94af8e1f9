//! What the controller publishes: routes, zone, and one catalog per peer.
//!
//! Written by `fuse` alone, read by `serve`. A projection is closed until its first content is
//! complete: a follower that came with an older state must never be told that there is nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hansa_core::name::ClusterId;
use hansa_proto::feed::Publisher;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::store::{Batch, Store};

const EPOCH: &str = "meta/epoch";
/// Versions of one epoch; an epoch is a second at least, so they never meet those of the next.
const VERSION_BITS: u32 = 20;
/// How long a follower waits for a projection that is not open yet. More than the grace after a
/// restart, so that nobody is sent away for it.
const OPENING: Duration = Duration::from_secs(4);

/// Which projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// For gateways.
    Routes,
    /// For DNS servers.
    Zone,
    /// For one peer.
    Catalog(ClusterId),
}

/// All publishers. Clones share them.
#[derive(Clone)]
pub struct Feeds {
    inner: Arc<Inner>,
}

struct Inner {
    epoch: u64,
    routes: Publisher,
    zone: Publisher,
    catalogs: Mutex<Catalogs>,
    /// Routes, zone.
    open: watch::Sender<(bool, bool)>,
}

/// The publishers for peers.
struct Catalogs {
    publishers: BTreeMap<ClusterId, Publisher>,
    /// Where a new publisher begins: behind all that went in this epoch. A peer that is removed and
    /// added again may still hold what the former publisher sent.
    floor: u64,
}

impl Feeds {
    /// Begins a new epoch: after every one that was ever used, also when the store was lost.
    pub fn begin(store: &Store) -> Self {
        let last: Option<u64> = store.get(EPOCH).and_then(|body| serde_json::from_slice(&body).ok());
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let epoch = last.map_or(1, |last| last.saturating_add(1)).max(clock);
        let mut batch = Batch::default();
        batch.put_json(EPOCH, &epoch);
        store.commit_now(&batch);
        let inner = Inner {
            epoch,
            routes: Publisher::new(epoch, epoch << VERSION_BITS),
            zone: Publisher::new(epoch, epoch << VERSION_BITS),
            catalogs: Mutex::new(Catalogs { publishers: BTreeMap::new(), floor: epoch << VERSION_BITS }),
            open: watch::channel((false, false)).0,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The epoch of everything published.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// For gateways.
    pub fn routes(&self) -> &Publisher {
        &self.inner.routes
    }

    /// For DNS servers.
    pub fn zone(&self) -> &Publisher {
        &self.inner.zone
    }

    fn catalogs(&self) -> MutexGuard<'_, Catalogs> {
        self.inner.catalogs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one peer; made if it is new.
    pub fn catalog(&self, peer: &ClusterId) -> Publisher {
        let mut catalogs = self.catalogs();
        let floor = catalogs.floor;
        let new = || Publisher::new(self.inner.epoch, floor);
        catalogs.publishers.entry(peer.clone()).or_insert_with(new).clone()
    }

    /// For one peer, if there is one.
    pub fn known_catalog(&self, peer: &ClusterId) -> Option<Publisher> {
        self.catalogs().publishers.get(peer).cloned()
    }

    /// Forgets the catalogs of peers that `keep` refuses.
    pub fn retain_catalogs(&self, keep: impl Fn(&ClusterId) -> bool) {
        let mut catalogs = self.catalogs();
        let Catalogs { publishers, floor } = &mut *catalogs;
        publishers.retain(|peer, publisher| {
            let kept = keep(peer);
            if !kept {
                *floor = (*floor).max(publisher.position().version.saturating_add(1));
            }
            kept
        });
    }

    /// The routes are complete.
    pub fn open_routes(&self) {
        self.inner.open.send_if_modified(|open| !std::mem::replace(&mut open.0, true));
    }

    /// The zone is complete.
    pub fn open_zone(&self) {
        self.inner.open.send_if_modified(|open| !std::mem::replace(&mut open.1, true));
    }

    /// Routes and zone are open.
    pub async fn all_open(&self) {
        // The sender lives as long as `self`.
        let _ = self.inner.open.subscribe().wait_for(|open| open.0 && open.1).await;
    }

    /// The publisher of a projection, once it is open. `None`: not in time, or no such peer.
    pub async fn serve(&self, projection: &Projection) -> Option<Publisher> {
        let mut open = self.inner.open.subscribe();
        let wanted = |open: &(bool, bool)| match projection {
            Projection::Zone => open.1,
            _ => open.0,
        };
        timeout(OPENING, open.wait_for(wanted)).await.ok()?.ok()?;
        match projection {
            Projection::Routes => Some(self.inner.routes.clone()),
            Projection::Zone => Some(self.inner.zone.clone()),
            Projection::Catalog(peer) => self.known_catalog(peer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_comes_again_is_ahead_of_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let feeds = Feeds::begin(&Store::open(dir.path()).unwrap());
        let peer: ClusterId = "b".parse().unwrap();
        for n in 0..5u8 {
            feeds.catalog(&peer).replace(BTreeMap::from([("k".to_owned(), vec![n].into())]));
        }
        let held = feeds.catalog(&peer).position();
        feeds.retain_catalogs(|_| false);
        assert!(feeds.known_catalog(&peer).is_none());
        let again = feeds.catalog(&peer).position();
        assert!(held.is_before(&again), "{held} and then {again}");
        // The others keep theirs.
        feeds.retain_catalogs(|_| true);
        assert_eq!(feeds.catalog(&peer).position(), again);
    }

    #[test]
    fn epochs_grow_across_restarts_and_lost_stores() {
        let dir = tempfile::tempdir().unwrap();
        let first = Feeds::begin(&Store::open(dir.path()).unwrap()).epoch();
        let second = Feeds::begin(&Store::open(dir.path()).unwrap()).epoch();
        assert!(second > first);
        std::fs::remove_file(dir.path().join(crate::store::FILE)).unwrap();
        let feeds = Feeds::begin(&Store::open(dir.path()).unwrap());
        assert!(feeds.epoch() >= first);
        // Exact in the JSON of every reader.
        assert!(feeds.routes().position().version < 1 << 53);
    }
}
