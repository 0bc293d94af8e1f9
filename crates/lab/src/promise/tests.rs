//! Every promise broken with made-up observations: each judge must say so, and be content without the break.
//! Whole labs that are broken on purpose are in the netns ring.

mod calm;
mod faults;
mod returns;

use crate::judge::Records;
use crate::load::{ConnKind, Outcome};
use crate::report::Verdict;

use super::SECOND;

/// A load from 10 s to 40 s: each 20 ms one request on a connection of its own and one on a kept one that
/// began at the last full second. `change` makes of it what a test needs.
fn load(member: &str, mut change: impl FnMut(&mut Outcome)) -> Records {
    let mut outcomes = Vec::new();
    for n in 500..2000_u64 {
        let intended = n * SECOND / 50;
        for kind in [ConnKind::New, ConnKind::Kept] {
            let kept = kind == ConnKind::Kept;
            let mut outcome = Outcome {
                id: format!("{n}-{kept}"),
                intended_ns: intended,
                ended_ns: intended + SECOND / 500,
                kind,
                conn: if kept { intended / SECOND } else { 1000 + n },
                begun_ns: if kept { intended / SECOND * SECOND } else { intended },
                address: "10.97.0.1".into(),
                member: Some(member.into()),
                ok: true,
                error: None,
                latency_us: 2000,
            };
            change(&mut outcome);
            outcomes.push(outcome);
        }
    }
    Records { outcomes }
}

/// Makes an outcome a failure.
fn fail(outcome: &mut Outcome, error: &str) {
    outcome.ok = false;
    outcome.member = None;
    outcome.error = Some(error.into());
}

/// One new connection meant to begin at `seconds` or just after fails.
fn one_failure(member: &str, seconds: u64) -> Records {
    load(member, |o| {
        if o.kind == ConnKind::New && o.intended_ns == seconds * SECOND {
            fail(o, "answer: closed");
        }
    })
}

/// Judges, and gives back whether the promise was kept and what was seen.
fn judged(judge: impl FnOnce(&mut Verdict)) -> (bool, String) {
    let mut verdict = Verdict::default();
    judge(&mut verdict);
    (verdict.kept(), verdict.text())
}

#[track_caller]
fn kept(judge: impl FnOnce(&mut Verdict)) {
    let (ok, seen) = judged(judge);
    assert!(ok, "{seen}");
}

/// The judge says that the promise is broken, and names this.
#[track_caller]
fn broken(expected: &str, judge: impl FnOnce(&mut Verdict)) {
    let (ok, seen) = judged(judge);
    assert!(!ok, "kept in spite of the break: {seen}");
    let said = seen.split("; ").any(|part| part.starts_with("NOT KEPT") && part.contains(expected));
    assert!(said, "{expected:?} is not what is not kept in: {seen}");
}
