//! How many listeners and connections there are on the addresses of each gateway.
//!
//! Counted by the listeners; read before addresses are given back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hansa_core::name::NodeId;
use tokio::sync::Notify;

/// Counts by owner of the addresses. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tenants(Arc<Mutex<HashMap<NodeId, Arc<Counts>>>>);

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    listeners: AtomicUsize,
    changed: Notify,
}

/// One listener or connection.
#[derive(Debug)]
pub(crate) struct Tenant {
    counts: Arc<Counts>,
    listener: bool,
}

impl Tenants {
    fn of(&self, owner: &NodeId) -> Arc<Counts> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(owner.clone()).or_default().clone()
    }

    /// A listener on an address of `owner`.
    pub(crate) fn listener(&self, owner: &NodeId) -> Tenant {
        let counts = self.of(owner);
        counts.listeners.fetch_add(1, Ordering::SeqCst);
        Tenant { counts, listener: true }
    }

    /// Connections that run on addresses of `owner`.
    pub(crate) fn count(&self, owner: &NodeId) -> usize {
        self.of(owner).connections.load(Ordering::SeqCst)
    }

    /// Waits until no listener is left on addresses of `owner`.
    pub(crate) fn closed(&self, owner: &NodeId) -> impl Future<Output = ()> + Send + use<> {
        let counts = self.of(owner);
        async move {
            loop {
                let changed = counts.changed.notified();
                if counts.listeners.load(Ordering::SeqCst) == 0 {
                    return;
                }
                changed.await;
            }
        }
    }
}

impl Tenant {
    /// A connection accepted on this listener.
    pub(crate) fn connection(&self) -> Tenant {
        self.counts.connections.fetch_add(1, Ordering::SeqCst);
        Tenant { counts: self.counts.clone(), listener: false }
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let count = if self.listener { &self.counts.listeners } else { &self.counts.connections };
        count.fetch_sub(1, Ordering::SeqCst);
        self.counts.changed.notify_waiters();
    }
}
