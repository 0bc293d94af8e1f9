//! All live tunnels, and those of each peer that take requests.
//!
//! Written when a tunnel comes, goes or changes; read by every `open` without a lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hansa_core::name::{ClusterId, NodeId};
use tokio::sync::{Notify, watch};

use super::link::{Condition, Link};
use super::peer::Lane;

type Pools = HashMap<ClusterId, Vec<Arc<Link>>>;

/// Which tunnels a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Only this gateway.
    pub(crate) via: Option<&'a NodeId>,
    /// Silent tunnels too, where there is no other.
    pub(crate) desperate: bool,
    /// Not these.
    pub(crate) tried: &'a [u64],
    /// Gateways that the table says are going away: only where there is no other.
    pub(crate) leaving: &'a [NodeId],
    /// Rather one of this shard.
    pub(crate) shard: usize,
    /// A random number.
    pub(crate) draw: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    links: Mutex<BTreeMap<u64, Arc<Link>>>,
    pools: ArcSwap<Pools>,
    inbound: Mutex<BTreeMap<ClusterId, Arc<AtomicUsize>>>,
    pub(crate) changed: Notify,
    /// Counts the changes of the pools.
    turns: watch::Sender<u64>,
}

impl Registry {
    fn links(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a tunnel; an accepted one only up to `limit` per peer.
    pub(crate) fn add(&self, link: &Arc<Link>, limit: usize) -> bool {
        let mut links = self.links();
        let cluster = &link.facts.peer.cluster;
        let same = |other: &&Arc<Link>| !other.facts.dialled && other.facts.peer.cluster == *cluster;
        if !link.facts.dialled && links.values().filter(same).count() >= limit {
            return false;
        }
        links.insert(link.id, link.clone());
        self.rebuild(&links);
        true
    }

    pub(crate) fn remove(&self, id: u64) {
        let mut links = self.links();
        links.remove(&id);
        self.rebuild(&links);
    }

    /// To be called after the condition of a tunnel changed or it was retired.
    pub(crate) fn refresh(&self) {
        self.rebuild(&self.links());
    }

    fn rebuild(&self, links: &BTreeMap<u64, Arc<Link>>) {
        let mut pools = Pools::new();
        for link in links.values().filter(|link| link.is_used()) {
            pools.entry(link.facts.peer.cluster.clone()).or_default().push(link.clone());
        }
        self.pools.store(Arc::new(pools));
        self.turns.send_modify(|turns| *turns += 1);
        self.changed.notify_one();
    }

    /// Completes with each change of what may be chosen.
    pub(crate) fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.links().contains_key(&id)
    }

    /// Every live tunnel.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        self.links().values().cloned().collect()
    }

    /// The counter of requests that this peer runs with us.
    pub(crate) fn inbound(&self, cluster: &ClusterId) -> Arc<AtomicUsize> {
        let mut inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        // Peers come and go: counters nobody holds are dropped before they pile up.
        if inbound.len() > 1_024 {
            inbound
                .retain(|_, counter| Arc::strong_count(counter) > 1 || counter.load(Ordering::Relaxed) > 0);
        }
        inbound.entry(cluster.clone()).or_default().clone()
    }

    /// The tunnel a request takes: the less busy of two drawn at random.
    pub(crate) fn choose(&self, cluster: &ClusterId, wish: &Wish<'_>) -> Option<Arc<Link>> {
        let pools = self.pools.load();
        let pool = pools.get(cluster)?;
        let fits = |link: &&Arc<Link>, condition| {
            let gateway = &link.facts.peer.gateway;
            link.condition() == condition
                && link.is_used()
                && !wish.tried.contains(&link.id)
                && wish.via.is_none_or(|via| via == gateway)
        };
        let stays = |link: &&Arc<Link>| !wish.leaving.contains(&link.facts.peer.gateway);
        let good = || pool.iter().filter(|link| fits(link, Condition::Good) && !link.told_to_leave());
        let proven = |link: &&Arc<Link>| link.is_proven();
        let near = |link: &&Arc<Link>| link.shard == wish.shard;
        // One slot may have lost its race to HTTP/2 on a busy machine where another is on QUIC.
        let quic = |link: &&Arc<Link>| link.lane() == Lane::Quic;
        let best = || good().filter(proven).filter(stays).filter(quic);
        // The last resorts are one that may still refuse us, and a silent one.
        less_busy(best().filter(near), wish.draw)
            .or_else(|| less_busy(best(), wish.draw))
            .or_else(|| less_busy(good().filter(proven).filter(stays).filter(near), wish.draw))
            .or_else(|| less_busy(good().filter(proven).filter(stays), wish.draw))
            .or_else(|| less_busy(good().filter(proven), wish.draw))
            .or_else(|| less_busy(good(), wish.draw))
            .or_else(|| {
                let suspect = pool.iter().filter(|link| wish.desperate && fits(link, Condition::Suspect));
                less_busy(suspect, wish.draw)
            })
    }
}

fn less_busy<'a>(links: impl Iterator<Item = &'a Arc<Link>>, draw: u64) -> Option<Arc<Link>> {
    let links: Vec<_> = links.collect();
    let count = u64::try_from(links.len()).ok().filter(|count| *count > 0)?;
    let first = draw % count;
    // Another one than the first, where there is another.
    let second = (first + 1 + (draw >> 32) % (count - 1).max(1)) % count;
    let (first, second) = (links[first as usize], links[second as usize]);
    Some(if second.streams() < first.streams() { second } else { first }.clone())
}
