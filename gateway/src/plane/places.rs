//! Places by whom they are for: one who is hostile wants all, and gets as many as anybody.
//!
//! Asked by `inbound` for links of peers to our controller, and for strangers who join. It holds nothing itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Links of one peer to our controller at once: a few more than it needs, for those that are just ending.
pub(crate) const CALLS: usize = 8;

/// So many places for each. Those that hold none take no room.
#[derive(Debug)]
pub(crate) struct Places<K> {
    each: usize,
    held: Mutex<BTreeMap<K, Arc<Semaphore>>>,
}

impl<K: Ord> Places<K> {
    /// `each` places for everybody.
    pub(crate) fn new(each: usize) -> Self {
        Self { each, held: Mutex::default() }
    }

    /// One more place; `None` where `whose` are all taken.
    pub(crate) fn enter(&self, whose: K) -> Option<OwnedSemaphorePermit> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, places| places.available_permits() < self.each);
        let places = held.entry(whose).or_insert_with(|| Arc::new(Semaphore::new(self.each)));
        places.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_takes_its_own_places_alone() {
        let places = Places::new(8);
        let mut held: Vec<_> = (0..8).map(|_| places.enter("a").unwrap()).collect();
        assert!(places.enter("a").is_none());
        assert!(places.enter("b").is_some());
        held.pop();
        held.push(places.enter("a").unwrap());
        assert!(places.enter("a").is_none());
        held.clear();
        assert!(places.enter("a").is_some());
    }
}
