//! BBR that never has more than a megabyte in flight beyond what the path was seen to carry.
//!
//! Made by `transport` for every QUIC tunnel with `congestion: bbr`. Start-up doubles what is in flight
//! until the path shows its end, and a short queue then drops every other packet. quinn ends the whole
//! connection where one stream's buffer has more than 1,024 gaps (quinn-proto, assembler); a megabyte
//! is fewer packets than that, and more than any start needs.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics};

/// Bytes in flight beyond what the path carries.
const BEYOND: u64 = 1 << 20;
/// For so long the best round counts.
const KEEP: Duration = Duration::from_secs(10);

/// Makes the controllers.
#[derive(Debug, Default)]
pub(crate) struct Bounded;

impl ControllerFactory for Bounded {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(BbrConfig::default()).build(now, mtu);
        Box::new(Within { inner, path: Path::default() })
    }
}

/// What the path was seen to carry in one round trip without queues.
#[derive(Debug, Clone, Default)]
struct Path {
    begun: Option<Instant>,
    bytes: u64,
    best: u64,
    seen: Option<Instant>,
}

impl Path {
    /// `bytes` arrived; `rtt` is the round trip now, `least` the shortest.
    fn acked(&mut self, now: Instant, bytes: u64, (rtt, least): (Duration, Duration), idle: bool) {
        let Some(begun) = self.begun else {
            self.begun = Some(now);
            return;
        };
        self.bytes += bytes;
        let took = now.saturating_duration_since(begun);
        if took < rtt || took.is_zero() {
            return;
        }
        let carried = (self.bytes as f64 * least.as_secs_f64() / took.as_secs_f64()) as u64;
        (self.begun, self.bytes) = (Some(now), 0);
        // A round in which there was little to send says nothing about the path.
        let old = !idle && self.seen.is_some_and(|seen| now.saturating_duration_since(seen) > KEEP);
        if carried >= self.best || old {
            (self.best, self.seen) = (carried, Some(now));
        }
    }

    fn limit(&self) -> u64 {
        self.best.saturating_add(BEYOND)
    }
}

struct Within {
    inner: Box<dyn Controller>,
    path: Path,
}

impl Controller for Within {
    fn on_sent(&mut self, now: Instant, bytes: u64, last: u64) {
        self.inner.on_sent(now, bytes, last);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &quinn_proto::RttEstimator,
    ) {
        self.path.acked(now, bytes, (rtt.get(), rtt.min()), app_limited);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.inner.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().min(self.path.limit())
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Within { inner: self.inner.clone_box(), path: self.path.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    /// `count` acknowledgements of `bytes` each, a millisecond apart.
    fn acks(path: &mut Path, from: Instant, count: u64, bytes: u64, idle: bool) -> Instant {
        for i in 1..=count {
            path.acked(from + Duration::from_millis(i), bytes, (RTT, RTT), idle);
        }
        from + Duration::from_millis(count)
    }

    #[test]
    fn the_limit_is_a_megabyte_beyond_what_passes() {
        let mut path = Path::default();
        assert_eq!(path.limit(), BEYOND);
        acks(&mut path, Instant::now(), 500, 25_000, false);
        let carried = path.limit() - BEYOND;
        assert!((950_000..=1_050_000).contains(&carried), "25 MB/s for 40 ms, not {carried}");
    }

    #[test]
    fn a_queue_does_not_count_as_path() {
        let mut path = Path::default();
        let start = Instant::now();
        for i in 1..=500 {
            path.acked(start + Duration::from_millis(i), 25_000, (RTT * 3, RTT), false);
        }
        assert!(path.limit() - BEYOND <= 1_050_000);
    }

    #[test]
    fn a_slower_path_is_believed_after_a_while_and_a_pause_is_not() {
        let mut path = Path::default();
        let now = acks(&mut path, Instant::now(), 500, 25_000, false);
        let fast = path.limit();
        let now = acks(&mut path, now, 12_000, 250, true);
        assert_eq!(path.limit(), fast, "little to send");
        acks(&mut path, now, 100, 2_500, false);
        assert!(path.limit() < BEYOND + 120_000, "a tenth is what passes now");
    }
}
