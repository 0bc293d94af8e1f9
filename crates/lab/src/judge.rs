//! Joins what the load generator saw with what the sample servers logged, and counts.
//! Used by the steps; an outcome is good only if it was answered rightly and served exactly once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::ledger::{self, Places};
use crate::load::{ConnKind, Outcome};

/// All outcomes of one run of the load generator, each already joined with the servers' logs.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// In the order in which they ended.
    pub outcomes: Vec<Outcome>,
}

impl Records {
    /// Joins outcomes with server logs, each below the folder of its member.
    ///
    /// # Errors
    /// When there is no log, or one cannot be read.
    pub fn join(outcomes: Vec<Outcome>, logs: &[PathBuf]) -> Result<Self> {
        Ok(Self::of(outcomes, &ledger::logged(logs)?))
    }

    /// Joins outcomes with what the servers say they served.
    #[must_use]
    pub fn of(mut outcomes: Vec<Outcome>, served: &Places) -> Self {
        for outcome in &mut outcomes {
            let places = served.get(&outcome.id).map_or(&[][..], Vec::as_slice);
            let times = places.len();
            if (outcome.ok && times != 1) || times > 1 {
                outcome.ok = false;
                outcome.error = Some(format!("served {times} times"));
            } else if let (true, Some(place)) = (outcome.ok, places.first())
                && outcome.member.as_ref() != Some(place)
            {
                outcome.ok = false;
                outcome.error = Some(format!("answered in the name of another member than {place}"));
            }
        }
        Self { outcomes }
    }

    /// Outcomes of one kind whose intended start is in `[from, to)`.
    pub fn window(&self, kind: ConnKind, from: u64, to: u64) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(move |o| o.kind == kind && o.intended_ns >= from && o.intended_ns < to)
    }

    /// Tally of new connections begun in `[from, to)`.
    #[must_use]
    pub fn new_between(&self, from: u64, to: u64) -> Tally {
        Tally::of(self.window(ConnKind::New, from, to))
    }

    /// Tally of requests on kept connections begun in `[from, to)`.
    #[must_use]
    pub fn kept_between(&self, from: u64, to: u64) -> Tally {
        Tally::of(self.window(ConnKind::Kept, from, to))
    }

    /// Tally of everything asked for at `from` or later, over connections begun at `from` or later.
    #[must_use]
    pub fn begun_after(&self, from: u64) -> Tally {
        let begun = |o: &&Outcome| match o.kind {
            ConnKind::New => o.intended_ns >= from,
            ConnKind::Kept => o.begun_ns >= from,
        };
        Tally::of(self.outcomes.iter().filter(begun))
    }

    /// Tally of everything asked for in `[from, to)`, on whatever connection.
    #[must_use]
    pub fn asked_between(&self, from: u64, to: u64) -> Tally {
        Tally::of(self.outcomes.iter().filter(|o| o.intended_ns >= from && o.intended_ns < to))
    }

    /// When the last request that was under way on a connection at `at` and failed was over.
    #[must_use]
    pub fn last_end_of_what_was_open(&self, at: u64) -> Option<u64> {
        let open = |o: &&Outcome| !o.ok && o.conn != 0 && o.begun_ns <= at && o.ended_ns > at;
        self.outcomes.iter().filter(open).map(|o| o.ended_ns).max()
    }

    /// The greatest number of failures on any one kept connection.
    #[must_use]
    pub fn most_failures_of_a_connection(&self) -> usize {
        let mut by_conn: HashMap<u64, usize> = HashMap::new();
        for outcome in self.outcomes.iter().filter(|o| !o.ok && o.kind == ConnKind::Kept && o.conn != 0) {
            *by_conn.entry(outcome.conn).or_default() += 1;
        }
        by_conn.into_values().max().unwrap_or_default()
    }

    /// Requests that a server saw more than once.
    #[must_use]
    pub fn repeated(&self) -> usize {
        let twice = |o: &&Outcome| {
            o.error.as_deref().is_some_and(|e| e.starts_with("served") && e != "served 0 times")
        };
        self.outcomes.iter().filter(twice).count()
    }

    /// Intended start of the last failed new connection, if any failed at or after `from`.
    #[must_use]
    pub fn last_new_failure(&self, from: u64) -> Option<u64> {
        self.window(ConnKind::New, from, u64::MAX).filter(|o| !o.ok).map(|o| o.intended_ns).max()
    }
}

/// How many, how many failed, and the first reasons.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    /// Requests.
    pub all: usize,
    /// Failed ones.
    pub failed: usize,
    /// Reasons, with how often.
    pub reasons: Vec<(String, usize)>,
    /// Who answered, with how often.
    pub members: Vec<(String, usize)>,
    /// 99 % were faster, microseconds.
    pub p99_us: u64,
    /// The slowest answer, good or late, microseconds from the intended start.
    pub slowest_us: u64,
}

impl Tally {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut tally = Self::default();
        let mut latencies = Vec::new();
        for outcome in outcomes {
            tally.all += 1;
            if outcome.member.is_some() {
                tally.slowest_us = tally.slowest_us.max(outcome.latency_us);
            }
            if outcome.ok {
                latencies.push(outcome.latency_us);
                count(&mut tally.members, outcome.member.as_deref().unwrap_or("?"));
            } else {
                tally.failed += 1;
                count(&mut tally.reasons, outcome.error.as_deref().unwrap_or("?"));
            }
        }
        latencies.sort_unstable();
        tally.p99_us = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        tally
    }

    /// Whether requests were made and none failed.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.all > 0 && self.failed == 0
    }

    /// Whether exactly these members answered.
    #[must_use]
    pub fn only(&self, members: &[&str]) -> bool {
        self.members.iter().all(|(m, _)| members.contains(&m.as_str()))
    }

    /// `3 of 250 failed`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{} of {} failed", self.failed, self.all)
    }

    /// `3 of 250 failed (answer: closed ×3), slowest 0.41 s`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.short();
        if self.failed > 0 {
            let reasons: Vec<String> =
                self.reasons.iter().take(4).map(|(r, n)| format!("{r} ×{n}")).collect();
            text.push_str(&format!(" ({})", reasons.join(", ")));
        }
        if self.slowest_us > 0 {
            let slowest = Duration::from_micros(self.slowest_us).as_secs_f64();
            text.push_str(&format!(", slowest {slowest:.2} s"));
        }
        text
    }
}

fn count(list: &mut Vec<(String, usize)>, key: &str) {
    match list.iter_mut().find(|(k, _)| k == key) {
        Some((_, n)) => *n += 1,
        None => list.push((key.to_owned(), 1)),
    }
}

/// Reads a file of JSON lines; a last line that is not whole is left out.
///
/// # Errors
/// When the file cannot be read.
pub fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: &str, conn: u64, ok: bool, kind: ConnKind) -> Outcome {
        Outcome {
            id: id.into(),
            intended_ns: conn,
            ended_ns: conn,
            kind,
            conn,
            begun_ns: conn,
            address: String::new(),
            member: ok.then(|| "aws-eu".into()),
            ok,
            error: (!ok).then(|| "answer: closed".into()),
            latency_us: 1,
        }
    }

    #[test]
    fn good_means_answered_and_served_exactly_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("aws-eu/log");
        std::fs::create_dir(dir.path().join("aws-eu")).unwrap();
        std::fs::write(
            &log,
            "{\"id\":\"a\",\"at\":1}\n{\"id\":\"b\",\"at\":1}\n{\"id\":\"b\",\"at\":2}\n{\"id\":\"c\"",
        )
        .unwrap();
        let all = ["a", "b", "c"].map(|id| outcome(id, 1, true, ConnKind::New)).to_vec();
        let records = Records::join(all, &[log]).unwrap();
        let ok: Vec<bool> = records.outcomes.iter().map(|o| o.ok).collect();
        assert_eq!(ok, [true, false, false]);
        assert_eq!(records.repeated(), 1);
        let tally = records.new_between(0, 9);
        assert_eq!((tally.all, tally.failed), (3, 2));
        assert!(tally.only(&["aws-eu"]) && !tally.clean());
    }

    #[test]
    fn an_answer_in_the_name_of_another_member_is_not_good() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("gcp-eu/log");
        std::fs::create_dir(dir.path().join("gcp-eu")).unwrap();
        std::fs::write(&log, "{\"id\":\"a\",\"at\":1}\n").unwrap();
        let records = Records::join(vec![outcome("a", 1, true, ConnKind::New)], &[log]).unwrap();
        assert!(records.outcomes.iter().all(|o| !o.ok));
    }

    #[test]
    fn failures_are_counted_by_connection() {
        let kept = |id: &str, conn, ok| outcome(id, conn, ok, ConnKind::Kept);
        let all = vec![kept("a", 1, false), kept("b", 1, false), kept("c", 2, false), kept("d", 0, false)];
        let records = Records { outcomes: all };
        assert_eq!(records.most_failures_of_a_connection(), 2);
        assert_eq!(records.kept_between(2, 3).failed, 1);
        assert_eq!(records.last_new_failure(0), None);
    }
}
