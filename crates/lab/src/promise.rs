//! The judges of the demo: pure functions from what a step observed to what is said about its promise.
//! Called by the steps, which observe and judge nothing; no IO, no clock, so every judge is tested with
//! observations made up to break its promise.

pub mod back;
pub mod calm;
pub mod drain;
pub mod kills;
pub mod links;
pub mod start;
#[cfg(test)]
mod tests;

use crate::clock;
use crate::judge::Records;
use crate::report::Verdict;

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A time in seconds, or that there was none.
pub(crate) fn shown(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "never while watched".into(), |s| format!("after {s:.2} s"))
}

/// Every new connection meant to begin in `[at + limit, until)` is good.
pub(crate) fn good_from(
    verdict: &mut Verdict,
    who: &str,
    records: &Records,
    (at, limit, until): (u64, u64, u64),
) {
    let late = records.new_between(at + limit, until);
    let early = records.new_between(at, at + limit);
    let last = records.last_new_failure(at).filter(|t| *t < until);
    let last = last.map_or_else(|| "none".into(), |t| format!("at {:.2} s", clock::seconds(at, t)));
    verdict.check(
        late.clean(),
        format!(
            "{who}: new from {} s on {}; before {}; last failure {last}",
            limit / SECOND,
            late.text(),
            early.text()
        ),
    );
}

/// A kept connection fails once at most and is replaced at once: among requests meant to start within `late`
/// none fails. Nothing is delivered twice.
pub(crate) fn once(verdict: &mut Verdict, records: &Records, late: (u64, u64)) {
    let most = records.most_failures_of_a_connection();
    let repeated = records.repeated();
    let kept = records.kept_between(late.0, late.1);
    verdict.check(
        most <= 1 && kept.clean(),
        format!("kept connections failed {most} time(s) at most, later {}", kept.text()),
    );
    verdict.check(repeated == 0, format!("{repeated} requests served twice"));
}
