//! The binary as a server: it starts, is ready, answers its operator, refuses what it must, drains.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};

use common::{Ran, command, ran};

/// A running controller; killed when the test ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ports nobody else has now.
fn ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn configure(dir: &Path, name: &str, ports: [u16; 3]) -> String {
    let file = dir.join(format!("{name}.yaml"));
    let home = dir.join(name);
    std::fs::create_dir_all(home.join("m")).unwrap();
    let [listen, admin, health] = ports.map(|port| format!("127.0.0.1:{port}"));
    let text = format!(
        "cluster: aws-eu\nlocality: aws/eu-central-1\nstateDir: {}\nsource: {{folder: {}}}\nlisten: ['{listen}']\n\
         admin: {{listen: '{admin}'}}\nhealth: {{listen: '{health}'}}\n",
        home.join("state").display(),
        home.join("m").display()
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Starts a controller and waits for its line that says that it serves.
fn start(file: &str) -> Server {
    let child = command(&["controller", "--config", file]).stderr(Stdio::piped()).spawn().unwrap();
    let mut server = Server(child);
    let lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines.map_while(Result::ok) {
        if line.contains("\"serving\"") {
            return server;
        }
        seen.push(line);
    }
    panic!("it ended: {seen:#?}");
}

fn ask(dir: &Path, args: &[&str]) -> Ran {
    let socket = dir.join("one/state/controller.sock");
    ran(command(args).arg("--socket").arg(socket).output().unwrap())
}

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
    let id = server.0.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
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
    assert!(ran.err.contains("enrol"), "{}", ran.err);
}
