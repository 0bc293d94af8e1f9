//! How many bytes and streams one peer may make us hold, over all its tunnels and in both directions.
//!
//! Every tunnel begins with small windows, which cost nothing here, and is lent more from its
//! peer's purse when it needs more; what it was lent returns when it ends. So a peer with very many
//! tunnels, or with readers that never read, holds no more than its purse and the small windows.
//! It knows no tunnel and moves no window itself: `tend` does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hansa_core::name::ClusterId;

/// The receive window every tunnel has at its beginning.
pub(crate) const LEAST_RECEIVE: u32 = 512 << 10;
/// The send window every tunnel has at its beginning.
pub(crate) const LEAST_SEND: u32 = 256 << 10;
/// What a tunnel is lent at once when it is made, where the purse is full enough.
const FIRST_RECEIVE: u64 = 8 << 20;
const FIRST_SEND: u64 = 4 << 20;
/// Streams that the other side may open on every tunnel.
pub(crate) const LEAST_STREAMS: u32 = 128;
/// No tunnel is lent at its beginning more than this part of what is left.
const PART: u64 = 8;
const PART_OF_STREAMS: u64 = 4;

/// The purses of all peers.
#[derive(Debug)]
pub(crate) struct Budgets {
    bytes: u64,
    streams: u64,
    lent: Mutex<BTreeMap<ClusterId, Arc<Lent>>>,
}

/// What the tunnels of one peer were lent.
#[derive(Debug, Default)]
struct Lent {
    bytes: AtomicU64,
    streams: AtomicU64,
}

impl Budgets {
    pub(crate) fn new(bytes: u64, streams: u64) -> Self {
        Self { bytes, streams, lent: Mutex::default() }
    }

    /// A new tunnel's share.
    pub(crate) fn share(&self, peer: &ClusterId) -> Share {
        let mut all = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        // Peers come and go; a purse nobody borrowed from means nothing.
        all.retain(|_, lent| Arc::strong_count(lent) > 1);
        let lent = all.entry(peer.clone()).or_default().clone();
        let left = |limit: u64, lent: &AtomicU64| limit.saturating_sub(lent.load(Ordering::Relaxed));
        let part = left(self.bytes, &lent.bytes) / PART;
        let streams = left(self.streams, &lent.streams) / PART_OF_STREAMS;
        let limits = (self.bytes, self.streams);
        let share = Share { limits, lent, receive: 0.into(), send: 0.into(), streams: 0.into() };
        share.grow_receive(share.receive() + FIRST_RECEIVE.min(part));
        share.grow_send(share.send() + FIRST_SEND.min(part));
        share.grow_streams(share.streams() + streams);
        share
    }
}

/// What one tunnel was lent; it returns with it.
#[derive(Debug)]
pub(crate) struct Share {
    /// Most bytes and streams of the peer.
    limits: (u64, u64),
    lent: Arc<Lent>,
    receive: AtomicU64,
    send: AtomicU64,
    streams: AtomicU64,
}

/// Moves up to `wanted` from a purse with `limit` to `held`; true if it was anything.
fn borrow((lent, limit): (&AtomicU64, u64), held: &AtomicU64, wanted: u64) -> bool {
    let mut got = 0;
    // It never fails, because the closure always gives a value.
    let _ = lent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |lent| {
        got = wanted.min(limit.saturating_sub(lent));
        Some(lent + got)
    });
    held.fetch_add(got, Ordering::Relaxed);
    got > 0
}

impl Share {
    /// The receive window now.
    pub(crate) fn receive(&self) -> u64 {
        u64::from(LEAST_RECEIVE) + self.receive.load(Ordering::Relaxed)
    }

    /// The send window now.
    pub(crate) fn send(&self) -> u64 {
        u64::from(LEAST_SEND) + self.send.load(Ordering::Relaxed)
    }

    /// Asks for a receive window of `wanted`; true if it grew at all.
    pub(crate) fn grow_receive(&self, wanted: u64) -> bool {
        let purse = (&self.lent.bytes, self.limits.0);
        borrow(purse, &self.receive, wanted.saturating_sub(self.receive()))
    }

    /// Asks for a send window of `wanted`; true if it grew at all.
    pub(crate) fn grow_send(&self, wanted: u64) -> bool {
        let purse = (&self.lent.bytes, self.limits.0);
        borrow(purse, &self.send, wanted.saturating_sub(self.send()))
    }

    /// Streams that the other side may have open.
    pub(crate) fn streams(&self) -> u64 {
        u64::from(LEAST_STREAMS) + self.streams.load(Ordering::Relaxed)
    }

    /// Asks for room for so many streams; true if it grew at all.
    pub(crate) fn grow_streams(&self, wanted: u64) -> bool {
        let purse = (&self.lent.streams, self.limits.1);
        borrow(purse, &self.streams, wanted.saturating_sub(self.streams()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let lent = self.receive.load(Ordering::Relaxed) + self.send.load(Ordering::Relaxed);
        self.lent.bytes.fetch_sub(lent, Ordering::Relaxed);
        self.lent.streams.fetch_sub(self.streams.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 128 << 20;

    #[test]
    fn a_peer_with_many_tunnels_is_lent_no_more_than_its_purse() {
        let budgets = Budgets::new(LIMIT, 1 << 14);
        let peer: ClusterId = "b".parse().unwrap();
        let shares: Vec<Share> = (0..64).map(|_| budgets.share(&peer)).collect();
        let held = |shares: &[Share]| shares.iter().map(|s| s.receive() + s.send()).sum::<u64>();
        let least = 64 * u64::from(LEAST_RECEIVE + LEAST_SEND);
        assert!(held(&shares) <= LIMIT + least);
        // The first ones are not starved by the fear of others.
        assert_eq!(shares[3].receive(), u64::from(LEAST_RECEIVE) + FIRST_RECEIVE);
        for share in &shares {
            share.grow_receive(u64::MAX / 2);
            share.grow_send(u64::MAX / 2);
        }
        assert_eq!(held(&shares), LIMIT + least);
        assert!(!shares[0].grow_receive(u64::MAX / 2));
        let streams: u64 = shares.iter().map(Share::streams).sum();
        assert!(streams <= (1 << 14) + 64 * u64::from(LEAST_STREAMS));
        let other = budgets.share(&"c".parse().unwrap());
        assert_eq!(other.send(), u64::from(LEAST_SEND) + FIRST_SEND);
        drop(shares);
        assert!(budgets.share(&peer).grow_receive(LIMIT / 2));
    }
}
