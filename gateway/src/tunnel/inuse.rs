//! One request's place in its tunnel: counted while either half lives, and watched for a reader
//! that stalls.
//!
//! Held by both halves of a stream. It never ends a stream: who reads is told, and does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::error::{Cut, StreamError};
use super::link::Link;

/// A request whose reader does not ask for more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Full {
    /// Its number.
    pub(crate) id: u64,
    /// How often it was given something.
    pub(crate) given: u32,
    /// Bytes that wait for it; over HTTP/2, as HTTP/3 does not tell.
    pub(crate) held: u64,
}

/// Every request of one tunnel.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, Weak<InUse>>>,
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<InUse>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests whose reader was given something and did not ask for more.
    pub(crate) fn full(&self) -> Vec<Full> {
        // Whoever drops the last hand on a place takes this lock: none is dropped under it.
        let living: Vec<_> =
            self.lock().iter().filter_map(|(id, place)| Some((*id, place.upgrade()?))).collect();
        let full = living.iter().filter(|(_, place)| !place.hungry.load(Ordering::Relaxed));
        full.map(|(id, place)| Full {
            id: *id,
            given: place.given.load(Ordering::Relaxed),
            held: place.held(),
        })
        .collect()
    }

    /// Tells the reader of one request that it must end.
    pub(crate) fn evict(&self, id: u64) {
        let place = self.lock().get(&id).and_then(Weak::upgrade);
        if let Some(place) = place {
            place.evicted.store(true, Ordering::Release);
            place.waker.wake();
        }
    }
}

/// Held by both halves of a request; counts it for as long as one of them lives.
#[derive(Debug)]
pub(crate) struct InUse {
    link: Arc<Link>,
    id: u64,
    /// The peer's requests, over all its tunnels.
    peer: Option<Arc<AtomicUsize>>,
    given: AtomicU32,
    hungry: AtomicBool,
    evicted: AtomicBool,
    waker: AtomicWaker,
    /// Knows what waits to be read over HTTP/2.
    flow: OnceLock<h2::FlowControl>,
}

impl InUse {
    pub(crate) fn new(link: &Arc<Link>, peer: Option<Arc<AtomicUsize>>) -> Arc<Self> {
        link.streams.fetch_add(1, Ordering::Relaxed);
        let id = link.roster.next.fetch_add(1, Ordering::Relaxed);
        let place = Arc::new(Self {
            link: link.clone(),
            id,
            peer,
            given: AtomicU32::new(0),
            hungry: AtomicBool::new(true),
            evicted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            flow: OnceLock::new(),
        });
        link.roster.lock().insert(id, Arc::downgrade(&place));
        place
    }

    /// Our own reason for the end of a tunnel, where the stream itself saw only that it ended.
    pub(crate) fn explain(&self, error: StreamError) -> StreamError {
        match (error, self.link.cut()) {
            // Who refused our certificate never read what came behind it.
            (StreamError::Lost(Cut::Refused(_)), _) if !self.link.is_proven() => StreamError::Rejected,
            (StreamError::Lost(_), Some(cut)) => StreamError::Lost(cut.clone()),
            (error, _) => error,
        }
    }

    /// What it reads comes from this HTTP/2 stream.
    pub(crate) fn reads(&self, body: &mut h2::RecvStream) {
        // There is one body for each request.
        let _ = self.flow.set(body.flow_control().clone());
    }

    fn held(&self) -> u64 {
        self.flow.get().map_or(0, |flow| flow.used_capacity() as u64)
    }

    /// The reader asked, and was given something or not.
    pub(crate) fn read(&self, more: bool) {
        if more {
            self.given.fetch_add(1, Ordering::Relaxed);
        }
        if self.hungry.load(Ordering::Relaxed) == more {
            self.hungry.store(!more, Ordering::Relaxed);
        }
    }

    /// Ready when the reader held too much for too long and must end.
    pub(crate) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.evicted.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.link.roster.lock().remove(&self.id);
        self.link.streams.fetch_sub(1, Ordering::Relaxed);
        if let Some(peer) = &self.peer {
            peer.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
