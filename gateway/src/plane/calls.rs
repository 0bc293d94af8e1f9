//! How many links each peer holds to our controller: its controller needs one, a hostile one wants all.
//!
//! Asked by `inbound` for every such request. It holds no link itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hansa_core::name::ClusterId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Links of one peer at once: a few more than it needs, for those that are just ending.
const EACH: usize = 8;

/// Places by peer. Peers that hold none take no room.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<BTreeMap<ClusterId, Arc<Semaphore>>>);

impl Calls {
    /// A place for one more link of this peer; `None` where it holds too many.
    pub(crate) fn enter(&self, peer: &ClusterId) -> Option<OwnedSemaphorePermit> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, places| places.available_permits() < EACH);
        let places = all.entry(peer.clone()).or_insert_with(|| Arc::new(Semaphore::new(EACH)));
        places.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_takes_its_own_places_alone() {
        let (calls, a, b) = (Calls::default(), "a".parse().unwrap(), "b".parse().unwrap());
        let mut held: Vec<_> = (0..EACH).map(|_| calls.enter(&a).unwrap()).collect();
        assert!(calls.enter(&a).is_none());
        assert!(calls.enter(&b).is_some());
        held.pop();
        held.push(calls.enter(&a).unwrap());
        assert!(calls.enter(&a).is_none());
        held.clear();
        assert!(calls.enter(&a).is_some());
    }
}
