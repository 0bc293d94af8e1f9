//! Backoff arithmetic, with the random draw as an argument.
//!
//! Called by every loop that tries again. Never waits itself.

use crate::Millis;

/// Exponential backoff with a floor, a ceiling and jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub floor: Millis,
    /// The longest wait, before jitter.
    pub ceiling: Millis,
    /// Share of the wait that is random: 0.2 means ± 20 %.
    pub jitter: f64,
}

impl Backoff {
    /// Reconnecting to a controller or a peer.
    pub const CONTROL: Backoff = Backoff { floor: 100, ceiling: 1_000, jitter: 0.25 };
    /// Probing the only path left, and dialling from an outbound-only member (design: 300 ms ± jitter).
    pub const ONLY_PATH: Backoff = Backoff { floor: 300, ceiling: 300, jitter: 0.2 };
    /// Probing what others can stand in for.
    pub const PROBE: Backoff = Backoff { floor: 300, ceiling: 5_000, jitter: 0.2 };

    /// The wait before try number `attempt` (0 for the first repetition); `draw` is in [0, 1).
    pub fn wait(&self, attempt: u32, draw: f64) -> Millis {
        let base = self.floor.saturating_mul(1u64 << attempt.min(32)).min(self.ceiling);
        let spread = base as f64 * self.jitter * (2.0 * draw - 1.0);
        (base as f64 + spread).max(1.0) as Millis
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;

    #[test]
    fn waits_grow_to_the_ceiling_within_jitter() {
        let b = Backoff { floor: 100, ceiling: 1_000, jitter: 0.5 };
        assert_eq!(b.wait(0, 0.5), 100);
        assert_eq!(b.wait(3, 0.5), 800);
        assert_eq!(b.wait(60, 0.5), 1_000);
        assert_eq!(b.wait(60, 0.0), 500);
        assert!(b.wait(60, 0.999_999) < 1_501);
    }
}
