//! Runs the tests ring by ring and writes `target/test-report.json`: for each ring how many ran,
//! failed and were skipped, and the seconds it took.
//!
//! Called by `xtask test`. A ring that ran nothing fails, and so does one that skipped a test:
//! what did not run proved nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

mod command;
mod demo;
mod milestones;

use milestones::Milestones;
pub use milestones::Ring;

/// Where the report lies, from the workspace's root.
pub const REPORT: &str = "target/test-report.json";

/// What one ring did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Tests, or demo steps, that ran.
    pub ran: u64,
    /// Of these, those that failed; a ring that broke off or ran nothing counts one more.
    pub failed: u64,
    /// Tests that were ignored or steps that were not judged.
    pub skipped: u64,
    /// Wall time without the build.
    pub seconds: f64,
}

impl Outcome {
    /// Whether the ring proved what it should.
    #[must_use]
    pub fn good(&self) -> bool {
        self.ran > 0 && self.failed == 0 && self.skipped == 0
    }

    fn add(&mut self, other: Self) {
        self.ran += other.ran;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs `rings`, or those of the finished milestones if none is named; `true` when all are good.
///
/// # Errors
/// When a command cannot be started or the report cannot be written.
pub fn run(root: &Path, rings: &[Ring]) -> anyhow::Result<bool> {
    let milestones = Milestones::read(root)?;
    let chosen = if rings.is_empty() { milestones.rings() } else { rings.to_vec() };
    let mut report = BTreeMap::new();
    for ring in chosen {
        println!("\n=== ring {ring}");
        let mut outcome = run_one(root, ring, &milestones)?;
        if outcome.ran == 0 && outcome.failed == 0 {
            eprintln!("ring {ring} is empty: nothing ran, so nothing is proved");
            outcome.failed = 1;
        }
        report.insert(ring.to_string(), outcome);
        // After each ring, so that a run that is broken off leaves what it knows.
        write(root, &report)?;
    }
    Ok(tell(&report))
}

fn run_one(root: &Path, ring: Ring, milestones: &Milestones) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    if ring.needs_binary() && !command::cargo(root, &["build", "--package=hansa-cli"])? {
        outcome.failed += 1;
        return Ok(outcome);
    }
    if ring.needs_tool() && !command::cargo(root, &["build", "--workspace", "--example=labtool"])? {
        outcome.failed += 1;
        return Ok(outcome);
    }
    if ring == Ring::Demo {
        let start = Instant::now();
        outcome.add(demo::run(root, milestones.steps())?);
        outcome.seconds = start.elapsed().as_secs_f64();
        return Ok(outcome);
    }
    let selections = ring.selections(root)?;
    for selection in &selections {
        // Only doc tests are built as they run; all else is built first, so that seconds mean
        // the tests.
        let build: Vec<_> = ["test", "--no-run"].into_iter().chain(selection.build()).collect();
        if !selection.is_doc() && !command::cargo(root, &build)? {
            outcome.failed += 1;
        }
    }
    let start = Instant::now();
    for selection in &selections {
        let args: Vec<_> = ["test", "--no-fail-fast"].into_iter().chain(selection.run()).collect();
        outcome.add(command::cargo_test(root, &args)?);
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

fn write(root: &Path, report: &BTreeMap<String, Outcome>) -> anyhow::Result<()> {
    let path = root.join(REPORT);
    let folder = path.parent().context("the report has no folder")?;
    std::fs::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(&path, text).with_context(|| format!("cannot write {REPORT}"))
}

fn tell(report: &BTreeMap<String, Outcome>) -> bool {
    println!("\n{:<10} {:>6} {:>7} {:>8} {:>9}", "ring", "ran", "failed", "skipped", "seconds");
    let mut total = Outcome::default();
    for (ring, o) in report {
        println!("{ring:<10} {:>6} {:>7} {:>8} {:>9.1}", o.ran, o.failed, o.skipped, o.seconds);
        total.add(*o);
    }
    let good = !report.is_empty() && report.values().all(Outcome::good);
    println!("report: {REPORT}");
    if total.skipped > 0 {
        println!("{} skipped, which counts as failed", total.skipped);
    }
    let failed = total.failed + total.skipped;
    println!("{} passed, {failed} failed", total.ran.saturating_sub(total.failed));
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_failed_and_skipped_rings_are_not_good() {
        let fine = Outcome { ran: 1, ..Outcome::default() };
        assert!(fine.good());
        for bad in [Outcome::default(), Outcome { failed: 1, ..fine }, Outcome { skipped: 1, ..fine }] {
            assert!(!bad.good(), "{bad:?}");
        }
    }

    #[test]
    fn the_report_is_one_object_per_ring() {
        let dir = std::env::temp_dir().join(format!("hansa-rings-{}", std::process::id()));
        let outcome = Outcome { ran: 3, failed: 1, skipped: 0, seconds: 0.5 };
        write(&dir, &BTreeMap::from([("value".to_owned(), outcome)])).unwrap();
        let text = std::fs::read_to_string(dir.join(REPORT)).unwrap();
        let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
        let wanted = serde_json::json!({"value": {"ran": 3, "failed": 1, "skipped": 0, "seconds": 0.5}});
        assert_eq!(seen, wanted);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
