//! Each promise of the demo broken on purpose: the step must say so, and must be kept without the break.
//! Run one at a time by `make test RING=netns`; uses the `hansa` binary of this build through its command line.

use std::path::PathBuf;
use std::process::Command;

use hansa_lab::report::{Report, StepReport};

/// The binary beside this test, as `cargo build -p hansa-cli` leaves it.
fn binary() -> PathBuf {
    let mut path = std::env::current_exe().expect("own path");
    path.pop();
    path.pop();
    path.push("hansa");
    assert!(path.is_file(), "{} is not there: cargo build -p hansa-cli", path.display());
    path
}

/// Runs the demo in a folder of its own and takes it down, whatever comes of it.
fn demo(name: &str, args: &[&str]) -> Report {
    let dir = std::env::temp_dir().join(format!("hansa-{name}-{}", std::process::id()));
    let report = dir.with_extension("json");
    let run = |words: &[&str]| {
        Command::new(binary()).arg("demo").args(words).arg("--dir").arg(&dir).status().expect("hansa starts")
    };
    let mut words = args.to_vec();
    let path = report.to_string_lossy().into_owned();
    words.extend(["--report", &path]);
    let status = run(&words);
    assert!(run(&["down"]).success(), "down");
    let text = std::fs::read_to_string(&report).expect("a report");
    let read: Report = serde_json::from_str(&text).expect("a report as promised");
    assert_eq!(status.success(), read.ok, "the exit code and the report agree");
    std::fs::remove_dir_all(&dir).expect("the folder goes");
    std::fs::remove_file(&report).expect("the report goes");
    read
}

fn step<'a>(report: &'a Report, id: &str) -> &'a StepReport {
    report.steps.iter().find(|s| s.id == id).unwrap_or_else(|| panic!("no step {id}"))
}

fn kept(report: &Report, id: &str) {
    let step = step(report, id);
    assert!(step.ok, "{id}: {}", step.seen);
}

fn broken(report: &Report, id: &str, expected: &str) {
    let step = step(report, id);
    assert!(!step.ok, "{id} was kept in spite of the break: {}", step.seen);
    assert!(step.seen.contains(expected), "{id}: {:?} is not in {}", expected, step.seen);
}

#[test]
fn without_a_break_the_promises_are_kept() {
    let report = demo("sound", &["--only", "endpoint-kill,gateway-kill,heal"]);
    for id in ["up", "join", "endpoint-kill", "gateway-kill", "heal"] {
        kept(&report, id);
    }
    assert!(report.ok && report.partial);
}

#[test]
fn without_a_second_gateway_a_killed_one_is_missed() {
    let report = demo("lone", &["--only", "gateway-kill", "--sabotage", "no-second-gateway"]);
    broken(&report, "up", "9 of 12 servers started");
    broken(&report, "gateway-kill", "NOT KEPT: local (rack-1)");
    assert!(!report.ok);
}

#[test]
fn an_altered_invitation_joins_nobody() {
    let report = demo("altered", &["--only", "http", "--sabotage", "wrong-bundle"]);
    kept(&report, "up");
    broken(&report, "join", "peer");
    broken(&report, "http", "not judged");
}

#[test]
fn what_is_never_healed_does_not_come_back() {
    let report = demo("unhealed", &["--only", "endpoint-kill,heal", "--sabotage", "no-heal"]);
    kept(&report, "endpoint-kill");
    broken(&report, "heal", "no traffic again");
}
