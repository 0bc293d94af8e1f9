//! The binary as a server: it starts, is ready, answers its operator, refuses what it must, drains.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::net::{Ipv4Addr, TcpListener};

use common::server::{ask, configure, ports, start};
use common::{command, ran};

#[test]
fn a_controller_serves_its_operator_and_ends_well_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(&configure(dir.path(), "one", ports()));
    let status = ask(dir.path(), &["status", "-o", "json"]);
    assert_eq!((status.code, status.json()["cluster"].as_str()), (0, Some("aws-eu")), "{}", status.err);
    let token = ask(dir.path(), &["enroll", "--role", "gateway", "--id", "g-1", "-o", "json"]);
    assert!(token.json()["token"].as_str().is_some_and(|t| t.starts_with("hansa1.")), "{}", token.err);
    assert_eq!(ask(dir.path(), &["trust", "show", "-o", "json"]).json()["owner"], "own");
    let explain = ask(dir.path(), &["explain", "nobody.shop"]);
    assert_eq!(explain.code, 1);
    assert!(explain.err.contains("HNS-7005"), "{}", explain.err);
    assert_eq!(ask(dir.path(), &["peer", "invite"]).code, 3, "no gateway is connected");
    let id = server.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!(ask(dir.path(), &["status"]).code, 3);
}

#[test]
fn a_taken_port_is_named_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let [admin, health] = ports();
    let file = configure(dir.path(), "one", [taken.local_addr().unwrap().port(), admin, health]);
    let ran = ran(command(&["controller", "--config", &file]).output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("HNS-1003"), "{}", ran.err);
    assert!(ran.err.contains(&taken.local_addr().unwrap().to_string()), "{}", ran.err);
    let [listen, health] = ports();
    let file = configure(dir.path(), "two", [listen, taken.local_addr().unwrap().port(), health]);
    let ran = common::ran(command(&["controller", "--config", &file]).output().unwrap());
    assert!(ran.err.contains("HNS-1003") && ran.err.contains("admin endpoint"), "{}", ran.err);
    assert!(ran.err.contains(&taken.local_addr().unwrap().to_string()), "{}", ran.err);
}

#[test]
fn an_address_of_another_host_is_named_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = configure(dir.path(), "one", ports());
    let text = std::fs::read_to_string(&file).unwrap();
    let other = text.replacen("listen: ['127.0.0.1:", "listen: ['198.51.100.1:", 1);
    assert_ne!(text, other);
    std::fs::write(&file, other).unwrap();
    let ran = ran(command(&["controller", "--config", &file]).output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("HNS-7013") && ran.err.contains("198.51.100.1:"), "{}", ran.err);
}

#[test]
fn a_state_folder_in_use_is_named_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let _first = start(&configure(dir.path(), "one", ports()));
    let second = configure(dir.path(), "one", ports());
    let ran = ran(command(&["controller", "--config", &second]).output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("HNS-1007") && ran.err.contains("one/state"), "{}", ran.err);
    assert_eq!(ask(dir.path(), &["status"]).code, 0, "the first serves on");
}

#[test]
fn a_gateway_without_a_token_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("g.yaml");
    let state = dir.path().join("g");
    let text =
        format!("id: g-1\ncluster: aws-eu\nstateDir: {}\ncontroller: ['127.0.0.1:1']\n", state.display());
    std::fs::write(&file, text).unwrap();
    let ran = ran(command(&["gateway", "--config", file.to_str().unwrap()]).output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (5, ""));
    assert!(ran.err.contains("HNS-3011") && ran.err.contains("hansa enroll"), "{}", ran.err);
}
