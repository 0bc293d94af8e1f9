//! The demo as a ring: runs `hansa demo --report` and counts each judged step as a test.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use super::{Outcome, command};

/// Where the demo's own report lies, from the workspace's root.
const REPORT: &str = "target/demo-report.json";

/// All steps the demo has. Where these are wanted it is asked for no step alone, and its report is not partial.
const ALL: [&str; 16] = [
    "up",
    "join",
    "names",
    "http",
    "tcp",
    "udp",
    "headless",
    "explain",
    "endpoint-kill",
    "gateway-kill",
    "gateway-drain",
    "controller-kill",
    "member-cut",
    "udp-block",
    "udp-return",
    "heal",
];

#[derive(Debug, Deserialize)]
struct Report {
    mode: String,
    ok: bool,
    partial: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    id: String,
    ok: bool,
}

/// Runs the demo. With `steps` those alone are judged, and each of them must be in the report;
/// without, all the demo has.
pub(super) fn run(root: &Path, steps: &[String]) -> anyhow::Result<Outcome> {
    let report = root.join(REPORT);
    let folder = report.parent().context("the report has no folder")?;
    std::fs::create_dir_all(folder)?;
    // A report of an earlier run must not speak for this one.
    if report.exists() {
        std::fs::remove_file(&report)?;
    }
    let only = steps.join(",");
    let whole = is_whole(steps);
    let mut args = vec!["demo", "--report", REPORT];
    if !whole {
        args.extend(["--only", &only]);
    }
    let status = command::limited(root, binary(root), &args).status().context("cannot run the demo")?;
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let Ok(report) = serde_json::from_str::<Report>(&text) else {
        eprintln!("the demo left no readable report in {REPORT} ({status})");
        return Ok(Outcome { failed: 1, ..Outcome::default() });
    };
    let mut outcome = judge(&report, steps);
    if whole && report.partial {
        eprintln!("the whole demo was asked for, and its report is of a part");
        outcome.failed += 1;
    }
    println!("demo ran in mode {}", report.mode);
    if !(status.success() && report.ok) && outcome.failed == 0 {
        eprintln!("the demo reports every step as kept and yet ended with {status}");
        outcome.failed = 1;
    }
    Ok(outcome)
}

/// Whether these steps, or none named, are all there are.
fn is_whole(steps: &[String]) -> bool {
    steps.is_empty() || ALL.iter().all(|id| steps.iter().any(|step| step == id))
}

fn judge(report: &Report, wanted: &[String]) -> Outcome {
    let mut outcome = Outcome { ran: report.steps.len() as u64, ..Outcome::default() };
    for step in report.steps.iter().filter(|s| !s.ok) {
        eprintln!("demo step {} did not keep its promise", step.id);
        outcome.failed += 1;
    }
    for id in wanted.iter().filter(|id| !report.steps.iter().any(|s| s.id == **id)) {
        eprintln!("demo step {id} is missing from the report");
        outcome.skipped += 1;
    }
    outcome
}

/// The binary cargo just built.
fn binary(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("debug/hansa")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_those_of_the_demo_and_all_of_them_are_the_whole() {
        let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/lab/src/steps/table.rs");
        let text = std::fs::read_to_string(table).unwrap();
        let ids: Vec<&str> = text.split("id: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(ids, ALL);
        assert!(is_whole(&ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()));
        assert!(is_whole(&[]) && !is_whole(&["up".to_owned()]));
    }

    #[test]
    fn broken_and_missing_steps_count() {
        let text = r#"{"mode":"netns","seed":1,"ok":false,"partial":true,"steps":[
            {"id":"up","promise":"p","limit":"1s","seen":"2s","ok":true,"evidence":[]},
            {"id":"join","promise":"p","limit":"1s","seen":"2s","ok":false,"evidence":[]}]}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        let wanted = ["up", "join", "http"].map(str::to_owned);
        let seen = judge(&report, &wanted);
        assert_eq!((seen.ran, seen.failed, seen.skipped), (2, 1, 1));
    }
}
