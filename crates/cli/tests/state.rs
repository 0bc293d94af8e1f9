//! State on disk under faults: a disk that is full, a controller killed at any moment, leftovers.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::command;
use common::server::{ask, configure, ports, start, started};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(20);

/// Unfinished files, as the CA and the others name them; the first would hold a key.
const LEFTOVERS: [&str; 2] = [".ca.json.4711.new", ".first-seen.json.tmp-4711"];

fn own_trust(dir: &Path) -> Value {
    ask(dir, &["trust", "show", "-o", "json"]).json()
}

fn denied(dir: &Path) -> BTreeSet<String> {
    let trust = own_trust(dir);
    trust["denied"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned()).collect()
}

fn entry(n: usize) -> String {
    format!("serial:aws-eu.hansa.internal:ab{n:04x}")
}

#[test]
fn a_full_disk_costs_nothing_that_was_known_and_heals_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let file = configure(dir.path(), "one", ports());
    let mut server = start(&file);
    let root = own_trust(dir.path())["roots"].clone();
    let first = ask(dir.path(), &["trust", "deny", "sha256:aa", "-o", "json"]);
    assert_eq!(first.code, 64, "too short for a fingerprint: {}", first.err);
    assert_eq!(ask(dir.path(), &["trust", "deny", &entry(1)]).code, 0);
    server.kill();

    // No file may grow beyond one block: what a full disk answers, without a disk of its own.
    let mut full = Command::new("sh");
    let script = format!(
        "trap '' XFSZ; ulimit -S -f 1; exec {} controller --config {file}",
        env!("CARGO_BIN_EXE_hansa")
    );
    full.env_clear().args(["-c", &script]);
    let mut server = started(full);
    let status = ask(dir.path(), &["status", "-o", "json"]).json();
    assert_eq!(status["controller"]["storeOk"], false, "{status}");
    assert!(status["problems"].as_array().unwrap().iter().any(|p| p["code"] == "HNS-1005"), "{status}");
    assert!(server.log().contains("HNS-1005"), "{}", server.log());
    assert_eq!(own_trust(dir.path())["roots"], root);
    assert_eq!(denied(dir.path()), [entry(1)].into(), "what is on the disk is known");
    let told = ask(dir.path(), &["trust", "deny", &entry(2)]);
    assert!(
        told.code != 0 && told.err.contains("HNS-1005"),
        "not on disk yet, and that is said: {}",
        told.err
    );
    assert_eq!(denied(dir.path()), [entry(1), entry(2)].into(), "it goes on from memory");

    let id = server.child.id().to_string();
    let more = Command::new("prlimit").args(["--pid", &id, "--fsize=unlimited:unlimited"]).status().unwrap();
    assert!(more.success());
    let begun = Instant::now();
    while ask(dir.path(), &["status", "-o", "json"]).json()["controller"]["storeOk"] == false {
        assert!(begun.elapsed() < LONG, "never well again: {}", server.log());
    }
    server.kill();
    let _server = start(&file);
    assert_eq!(denied(dir.path()), [entry(1), entry(2)].into(), "what came meanwhile was written down");
}

#[test]
fn a_controller_killed_at_any_moment_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let file = configure(dir.path(), "one", ports());
    let mut acknowledged = BTreeSet::new();
    let mut root = Value::Null;
    for round in 0..6 {
        let mut server = start(&file);
        let state = dir.path().join("one/state");
        let left: Vec<_> = LEFTOVERS.into_iter().filter(|name| state.join(name).exists()).collect();
        assert!(left.is_empty(), "round {round}: {left:?} outlived the start");
        let kept = denied(dir.path());
        assert!(kept.is_superset(&acknowledged), "round {round}: {kept:?} lacks some of {acknowledged:?}");
        let roots = own_trust(dir.path())["roots"].clone();
        assert!(round == 0 || roots == root, "round {round}: another root");
        root = roots;
        for n in 0..2 {
            let entry = entry(round * 10 + n);
            assert_eq!(ask(dir.path(), &["trust", "deny", &entry]).code, 0);
            acknowledged.insert(entry);
        }
        // Killed while this one is on its way.
        let last = entry(round * 10 + 9);
        let socket = dir.path().join("one/state/controller.sock");
        let mut asking = command(&["trust", "deny", &last]).arg("--socket").arg(socket).spawn().unwrap();
        server.kill();
        if asking.wait().unwrap().success() {
            acknowledged.insert(last);
        }
        // What a kill between write and rename leaves behind.
        for name in LEFTOVERS {
            std::fs::write(state.join(name), "{\"half\":").unwrap();
        }
    }
}
