//! Whether a tunnel is alive, from what was heard on it: a pure rule.
//!
//! Asked by the watch over each live tunnel, many times a second. Both sides probe a quiet tunnel
//! every 250 ms, so a healthy one is never silent for long. Never looks at a clock or a socket.

use hansa_core::Millis;

/// When silence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Silence after which a tunnel is suspect, at least three round trips.
    pub(crate) suspect: Millis,
    /// Further silence after which it is dead.
    pub(crate) dead: Millis,
    /// Time between two looks; a much longer pause is our own stall and blames nobody.
    pub(crate) look: Millis,
}

/// How a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Good,
    Suspect,
    Dead,
}

/// The memory of one tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulse {
    heard: u64,
    quiet_since: Millis,
    looked: Millis,
}

impl Pulse {
    /// Begins with a tunnel that was just heard.
    pub(crate) fn new(heard: u64, now: Millis) -> Self {
        Self { heard, quiet_since: now, looked: now }
    }

    /// When something was heard last.
    pub(crate) fn last(&self) -> Millis {
        self.quiet_since
    }

    /// Looks again: `heard` counts what came in so far, `rtt` is the path's round trip.
    pub(crate) fn look(&mut self, heard: u64, rtt: Millis, patience: &Patience, now: Millis) -> Health {
        let pause = now.saturating_sub(self.looked);
        self.looked = now;
        if heard != self.heard {
            self.heard = heard;
            self.quiet_since = now;
            return Health::Good;
        }
        // We were not running: what the other side sent meanwhile may not have been read yet.
        let stalled = pause.saturating_sub(2 * patience.look);
        self.quiet_since = (self.quiet_since + stalled).min(now);
        let silence = now - self.quiet_since;
        let suspect = patience.suspect.max(3 * rtt);
        match silence {
            quiet if quiet < suspect => Health::Good,
            quiet if quiet < suspect + patience.dead => Health::Suspect,
            _ => Health::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Patience = Patience { suspect: 600, dead: 2_000, look: 100 };

    #[test]
    fn silence_is_first_suspect_then_dead_and_a_packet_mends_it() {
        let mut pulse = Pulse::new(1, 0);
        let at = |pulse: &mut Pulse, heard, from: Millis, to: Millis| {
            let looks = (from..=to).step_by(100).map(|now| pulse.look(heard, 10, &P, now));
            looks.last().unwrap()
        };
        assert_eq!(at(&mut pulse, 1, 100, 500), Health::Good);
        assert_eq!(at(&mut pulse, 1, 600, 600), Health::Suspect);
        assert_eq!(at(&mut pulse, 2, 700, 700), Health::Good);
        assert_eq!(at(&mut pulse, 2, 800, 3_200), Health::Suspect);
        assert_eq!(at(&mut pulse, 2, 3_300, 3_300), Health::Dead);
    }

    #[test]
    fn a_long_round_trip_is_not_silence() {
        let mut pulse = Pulse::new(0, 0);
        for now in (100..=800).step_by(100) {
            assert_eq!(pulse.look(0, 300, &P, now), Health::Good);
        }
        assert_eq!(pulse.look(0, 300, &P, 900), Health::Suspect);
    }

    #[test]
    fn our_own_stall_blames_nobody() {
        let mut pulse = Pulse::new(0, 0);
        assert_eq!(pulse.look(0, 10, &P, 60_000), Health::Good);
    }
}
