//! Finding out that an upstream leads back to this server.
//!
//! Called by the forwarder: it asks the upstreams for names that only this process can have made up,
//! and looks whether they are asked of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hansa_core::code::dns::FORWARD_LOOP;

/// The made-up zone of probes. Not `.invalid`, which resolvers answer without asking on.
const ZONE: &str = "hansa-loop-probe";

pub(super) struct Guard {
    /// What only this process knows.
    mark: String,
    /// Every probe has a name of its own, so that no cache on the way answers it.
    count: AtomicU64,
    /// The last probe came in.
    seen: AtomicBool,
    looping: AtomicBool,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            mark: format!("{:032x}", rand::random::<u128>()),
            count: AtomicU64::new(0),
            seen: AtomicBool::new(false),
            looping: AtomicBool::new(false),
        }
    }

    /// The name of the next probe.
    pub(super) fn next_probe(&self) -> String {
        self.seen.store(false, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{count}.{}.{ZONE}.", self.mark)
    }

    /// True if the question is one of our own probes; remembers it.
    pub(super) fn is_mine(&self, name: &str) -> bool {
        let rest = name.strip_suffix(ZONE).and_then(|rest| rest.strip_suffix('.'));
        let mine = rest.is_some_and(|rest| rest.ends_with(&self.mark));
        if mine && !self.seen.swap(true, Ordering::Relaxed) {
            self.judge();
        }
        mine
    }

    /// Draws the conclusion from the last probe, and says it when it changes.
    pub(super) fn judge(&self) {
        let seen = self.seen.load(Ordering::Relaxed);
        if seen == self.looping.swap(seen, Ordering::Relaxed) {
            return;
        }
        if seen {
            tracing::error!(code = %FORWARD_LOOP, next = FORWARD_LOOP.next, "an upstream leads back to this server; forwarding stops");
        } else {
            tracing::info!(code = %FORWARD_LOOP, "no upstream leads back any more; forwarding again");
        }
    }

    /// True while an upstream leads back here.
    pub(super) fn looping(&self) -> bool {
        self.looping.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_probes_count_and_the_way_back_is_seen() {
        let guard = Guard::new();
        let probe = guard.next_probe();
        let probe = probe.trim_end_matches('.');
        assert!(!Guard::new().is_mine(probe));
        assert!(!guard.is_mine("example.org") && !guard.looping());
        assert!(guard.is_mine(probe) && guard.looping());
        let _ = guard.next_probe();
        guard.judge();
        assert!(!guard.looping());
    }
}
