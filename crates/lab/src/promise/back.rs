//! Judges how each killed or cut thing came back; the step `heal` sums these up.

use serde::Serialize;

use super::SECOND;
use crate::clock;
use crate::judge::Records;
use crate::report::Verdict;

/// How soon an only path answers after the fault is gone, seconds.
const ONLY: f64 = 1.0;

/// While another candidate is up: what reached the returned one, by its own log.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The configured hold-down.
    pub hold_down: u64,
    /// When each request of the load reached the returned one, in order.
    pub served: Vec<u64>,
}

/// One thing that came back under load.
#[derive(Debug, Clone)]
pub struct Back {
    /// What.
    pub what: String,
    /// When the fault was removed or the process started, never later than it really was.
    pub removed: u64,
    /// When the fault was surely gone, or the restarted process was ready.
    pub ready: u64,
    /// When the first good answer over the returned thing had come.
    pub first_good: Option<u64>,
    /// Whether there is no other way.
    pub only_path: bool,
    /// Where another candidate is up meanwhile.
    pub reserve: Option<Reserve>,
    /// Loads that went on.
    pub loads: Vec<Records>,
}

/// The judgement on one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Healed {
    /// What.
    pub what: String,
    /// Whether as promised.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
}

impl Back {
    /// Says what was kept.
    #[must_use]
    pub fn judge(&self) -> Healed {
        let mut verdict = Verdict::default();
        self.check(&mut verdict);
        Healed { what: self.what.clone(), ok: verdict.kept(), seen: verdict.text() }
    }

    fn check(&self, verdict: &mut Verdict) {
        let Some(first) = self.first_good else {
            verdict.check(false, "no traffic again");
            return;
        };
        let took = clock::seconds(self.ready, first);
        let fast = !self.only_path || took < ONLY;
        verdict.check(fast, format!("first good answer after {took:.2} s"));
        for records in &self.loads {
            let after = records.begun_after(first);
            verdict.check(after.clean(), format!("begun after it {}", after.text()));
            if !self.only_path {
                let waiting = records.asked_between(self.removed, first);
                verdict.check(waiting.failed == 0, format!("begun before it {}", waiting.text()));
            }
        }
        if let Some(reserve) = &self.reserve {
            reserve.check(verdict, self.removed);
        }
    }
}

impl Reserve {
    fn check(&self, verdict: &mut Verdict, removed: u64) {
        let over = removed + self.hold_down;
        let early = self.served.iter().filter(|t| **t >= removed && **t < over).count();
        let first = self.served.iter().find(|t| **t >= removed);
        let seen = first.map_or_else(
            || "it served nothing".into(),
            |t| format!("it served its first request after {:.2} s", clock::seconds(removed, *t)),
        );
        verdict.check(
            early == 0 && first.is_some(),
            format!("{seen}, {early} within the hold-down of {} s", self.hold_down / SECOND),
        );
    }
}

/// Sums up how everything came back.
pub fn sum(healed: &[Healed], verdict: &mut Verdict) {
    if healed.is_empty() {
        verdict.check(false, "nothing was broken, so nothing came back");
    }
    for Healed { what, ok, seen } in healed {
        verdict.check(*ok, format!("{what}: {seen}"));
    }
}
