//! One clock for all processes of a lab: `CLOCK_MONOTONIC`, the same for everybody on this machine.
//! Used by the load generator, the servers and the steps that join their records.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither field is negative on a monotonic clock.
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// Seconds from `from` to `to`, negative if `to` is earlier.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a lab lives minutes, far below 2^53 ns")]
pub fn seconds(from: u64, to: u64) -> f64 {
    if to >= from { (to - from) as f64 / 1e9 } else { -((from - to) as f64 / 1e9) }
}
