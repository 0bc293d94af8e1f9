//! What is known about a path: up, down, coming back.
//!
//! Called by the gateway with events; `step(track, event, now)` returns the next value. Two things
//! have a [`Track`]: a peer's tunnels, and one service (or endpoint) behind a path. Probing is asked
//! for, never done, here.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::mesh::Failback;

/// What a gateway says of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Authenticated packets come in.
    Reachable,
    /// Silent for longer than the probe timeout.
    Suspect,
    /// No tunnel.
    Unreachable,
    /// Nothing is known (yet, or any more).
    Unknown,
}

/// The memory of one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Track {
    /// Nothing speaks against it.
    #[default]
    Up,
    /// It failed; only probes go there while another candidate is up.
    Down {
        /// When it failed first.
        since: Millis,
        /// Probes that failed since.
        failed_probes: u32,
    },
    /// A probe passed; waiting before traffic returns.
    HoldDown {
        /// When the probe passed.
        since: Millis,
    },
    /// Traffic grows.
    Ramp {
        /// When it began.
        since: Millis,
    },
}

/// What happened on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection was refused by the path or timed out (not: reset by the application).
    Failed,
    /// A connection succeeded.
    Succeeded,
    /// A probe passed.
    ProbePassed,
    /// A probe failed.
    ProbeFailed,
    /// Time passed.
    Tick,
}

/// The next value. [`Event::Succeeded`] on a path that is down counts as a passed probe: in panic
/// mode the connection is itself the probe.
pub fn step(track: Track, event: Event, failback: &Failback, now: Millis) -> Track {
    match (track, event) {
        (Track::Down { since, failed_probes }, Event::Failed | Event::ProbeFailed) => {
            Track::Down { since, failed_probes: failed_probes.saturating_add(1) }
        }
        (_, Event::Failed | Event::ProbeFailed) => Track::Down { since: now, failed_probes: 0 },
        (Track::Down { .. }, Event::ProbePassed | Event::Succeeded) => Track::HoldDown { since: now },
        (track, _) => age(track, failback, now),
    }
}

/// Lets time pass.
pub fn age(track: Track, failback: &Failback, now: Millis) -> Track {
    match track {
        Track::HoldDown { since } if now >= since.saturating_add(failback.hold_down_ms) => {
            age(Track::Ramp { since: since.saturating_add(failback.hold_down_ms) }, failback, now)
        }
        Track::Ramp { since } if now >= since.saturating_add(failback.ramp_ms) => Track::Up,
        other => other,
    }
}

/// The share of its normal traffic that a path may get, 0 to 1.
pub fn weight(track: Track, failback: &Failback, now: Millis) -> f64 {
    match age(track, failback, now) {
        Track::Up => 1.0,
        Track::Down { .. } | Track::HoldDown { .. } => 0.0,
        Track::Ramp { since } => {
            let gone = now.saturating_sub(since) as f64 / failback.ramp_ms.max(1) as f64;
            gone.clamp(0.02, 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const F: Failback = Failback { hold_down_ms: 100, ramp_ms: 200 };

    #[test]
    fn the_way_back_is_probe_hold_down_ramp() {
        let down = step(Track::Up, Event::Failed, &F, 0);
        assert_eq!(weight(down, &F, 1_000_000), 0.0);
        let hold = step(down, Event::ProbePassed, &F, 1_000);
        assert_eq!(weight(hold, &F, 1_099), 0.0);
        assert_eq!(weight(hold, &F, 1_200), 0.5);
        assert_eq!(weight(hold, &F, 1_300), 1.0);
        assert_eq!(step(hold, Event::Tick, &F, 5_000), Track::Up);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Failed),
            Just(Event::Succeeded),
            Just(Event::ProbePassed),
            Just(Event::ProbeFailed),
            Just(Event::Tick)
        ]
    }

    proptest! {
        #[test]
        fn no_traffic_before_a_probe_passed(events in proptest::collection::vec((event(), 0u64..150), 0..40)) {
            let (mut track, mut now, mut owed) = (Track::Up, 0, false);
            for (event, dt) in events {
                now += dt;
                track = step(track, event, &F, now);
                match event {
                    Event::Failed | Event::ProbeFailed => owed = true,
                    Event::ProbePassed | Event::Succeeded => owed = false,
                    Event::Tick => {}
                }
                prop_assert!((0.0..=1.0).contains(&weight(track, &F, now)));
                if owed { prop_assert_eq!(weight(track, &F, now + 1_000_000), 0.0); }
            }
        }
    }
}
