//! Each promise of the demo broken on purpose: the step must say so. Several breaks share a run where each
//! concerns steps of its own; a step that no break of the run concerns must be kept.

use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use hansa_identity::ca::{Ca, CaOptions};
use hansa_lab::report::{Report, StepReport};

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("hansa-{name}-{}", std::process::id()))
}

/// Runs the demo in a folder of its own and takes it down, whatever comes of it.
fn demo(name: &str, only: &str, sabotage: &str) -> Run {
    crate::needs_root();
    let dir = folder(name);
    let report = dir.with_extension("json");
    let run = |words: &[&str]| {
        let mut command = Command::new(crate::binary());
        command.arg("demo").args(words).arg("--dir").arg(&dir).status().expect("hansa starts")
    };
    let path = report.to_string_lossy().into_owned();
    let status = run(&["--seed", "1", "--only", only, "--sabotage", sabotage, "--report", &path]);
    assert!(run(&["down"]).success(), "down");
    let text = std::fs::read_to_string(&report).expect("a report");
    let read: Report = serde_json::from_str(&text).expect("a report as promised");
    assert_eq!(status.success(), read.ok, "the exit code and the report agree");
    assert!(!read.ok && read.partial, "a broken step makes the whole not ok");
    Run { report: read, files: [dir, report] }
}

/// A run's report; its files stay where a test fails, to be looked at.
struct Run {
    report: Report,
    files: [PathBuf; 2],
}

impl Drop for Run {
    fn drop(&mut self) {
        let [dir, report] = &self.files;
        if std::thread::panicking() {
            eprintln!("what was seen is in {}", dir.display());
        } else {
            std::fs::remove_dir_all(dir).expect("the folder goes");
            std::fs::remove_file(report).expect("the report goes");
        }
    }
}

fn step<'a>(run: &'a Run, id: &str) -> &'a StepReport {
    run.report.steps.iter().find(|s| s.id == id).unwrap_or_else(|| panic!("no step {id}"))
}

#[track_caller]
fn kept(run: &Run, id: &str) {
    let step = step(run, id);
    assert!(step.ok, "{id}: {}", step.seen);
}

/// The step is not kept, and one thing that was not kept is this.
#[track_caller]
fn broken(run: &Run, id: &str, expected: &str) {
    let step = step(run, id);
    assert!(!step.ok, "{id} was kept in spite of the break: {}", step.seen);
    let said = step.seen.split("; ").any(|part| part.starts_with("NOT KEPT") && part.contains(expected));
    assert!(said, "{id}: {expected:?} is not what was not kept in {}", step.seen);
}

#[test]
fn without_a_second_gateway_a_killed_one_is_missed() {
    let run = demo("lone", "gateway-kill", "no-second-gateway");
    broken(&run, "up", "9 of 12 servers started");
    kept(&run, "join");
    broken(&run, "gateway-kill", "local (rack-1/gateway-1): new from 1 s on");
}

#[test]
fn an_invitation_with_a_foreign_bundle_joins_nobody() {
    // A sound root of the very trust domain, but not the one that the inviting member has.
    let domain = "aws-eu.demo.hansa.dev".parse().unwrap();
    let ca = Ca::create(domain, CaOptions::default(), SystemTime::now()).unwrap();
    std::fs::create_dir_all(folder("altered")).unwrap();
    std::fs::write(folder("altered").join("foreign-bundle.json"), ca.bundle().to_json()).unwrap();
    let run = demo("altered", "http", "wrong-bundle");
    kept(&run, "up");
    broken(&run, "join", "HNS-3003 spiffe://aws-eu.demo.hansa.dev/hansa/gateway/");
    broken(&run, "http", "not judged: the members are not joined");
}

#[test]
fn a_wrong_target_port_is_seen_by_every_client() {
    let run = demo("port", "names,http,tcp,udp,headless,explain", "wrong-port");
    kept(&run, "up");
    kept(&run, "join");
    broken(&run, "names", "one export serves in gcp-eu never");
    broken(&run, "http", "aws-eu: new");
    broken(&run, "tcp", "rack-1: INCR");
    broken(&run, "udp", "no echo");
    broken(&run, "headless", "0 of 3 pods by name");
    broken(&run, "explain", "then nobody answered");
}

#[test]
fn a_fault_that_is_none_is_judged_by_nobody() {
    let steps =
        "endpoint-kill,gateway-kill,gateway-drain,controller-kill,member-cut,udp-block,udp-return,heal";
    let run = demo("faultless", steps, "no-fault");
    for (id, fault) in [
        ("endpoint-kill", "endpoint:aws-eu/checkout-1 was not confirmed"),
        ("gateway-kill", "was not confirmed"),
        ("gateway-drain", "was not confirmed"),
        ("controller-kill", "was not confirmed"),
        ("member-cut", "member:aws-eu was not confirmed: the counter cut1 did not move"),
        ("udp-block", "udp was not confirmed: the counter blocked did not move"),
        ("udp-return", "udp was not confirmed"),
        ("heal", "was not confirmed"),
    ] {
        broken(&run, id, fault);
    }
}

#[test]
fn what_is_never_healed_does_not_come_back() {
    let run = demo("unhealed", "endpoint-kill,udp-return,controller-kill,heal", "no-heal");
    kept(&run, "endpoint-kill");
    broken(&run, "udp-return", "on QUIC again never");
    broken(&run, "controller-kill", "an export made meanwhile serves elsewhere not while watched");
    broken(&run, "heal", "no traffic again");
}

#[test]
fn without_a_second_copy_nobody_takes_over() {
    let run = demo("single", "endpoint-kill,member-cut", "no-second-copy");
    broken(&run, "endpoint-kill", "after the kill of aws-eu");
    broken(&run, "member-cut", "rack-1 without aws-eu: new from 2 s on");
}

#[test]
fn haste_and_a_blocked_fallback_are_seen() {
    let steps = "endpoint-kill,gateway-drain,udp-block,heal";
    let run = demo("hasty", steps, "short-drain,no-fallback,no-hold-down");
    kept(&run, "endpoint-kill");
    broken(&run, "gateway-drain", "long connections went through it");
    broken(&run, "udp-block", "UDP blocked: new from 1 s on");
    broken(&run, "heal", "within the hold-down of 2 s");
}
