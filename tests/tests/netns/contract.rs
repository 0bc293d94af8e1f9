//! What the demo leaves behind: whatever ends it, `hansa demo down` removes all of it; demos in two folders do
//! not know of each other; the host's firewall and name servers are never touched.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use hansa_lab::net;
use hansa_lab::process::{Proc, marked};
use hansa_lab::spec::{NetMode, Plan};
use hansa_lab::state::DemoState;

/// The host's packet filter and name servers.
fn host() -> (String, Vec<u8>) {
    // Without the state of counters, which other traffic moves.
    let rules = Command::new("nft").args(["-s", "list", "ruleset"]).output().unwrap();
    assert!(rules.status.success(), "nft list ruleset");
    (String::from_utf8(rules.stdout).unwrap(), std::fs::read("/etc/resolv.conf").unwrap())
}

/// A demo's folder, taken down and removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        crate::needs_root();
        Self(std::env::temp_dir().join(format!("hansa-{name}-{}", std::process::id())))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(crate::binary());
        command.arg("demo").args(words).arg("--dir").arg(&self.0).stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    fn demo(&self, words: &[&str]) -> ExitStatus {
        self.command(words).status().unwrap()
    }

    /// Starts a run and comes back when a line of its progress holds these words.
    fn until(&self, words: &[&str], progress: &str) -> Child {
        let mut child = self.command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let found = lines.any(|line| line.contains(progress));
        // Read to its end, or the demo would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        assert!(found, "the demo ended without {progress:?}");
        child
    }

    /// Namespaces and processes of this folder's demo.
    fn left(&self) -> (Vec<String>, Vec<Proc>) {
        let plan = Plan::new(&self.0, NetMode::Netns, 0);
        (net::existing(&plan).unwrap(), marked(&self.0))
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        let (namespaces, processes) = self.left();
        assert!(namespaces.is_empty() && processes.is_empty(), "left: {namespaces:?} {processes:?}");
        assert!(!DemoState::path(&self.0).exists(), "demo.json");
    }

    #[track_caller]
    fn something_is_left(&self) {
        let (namespaces, processes) = self.left();
        assert!(namespaces.len() > 20 && processes.len() > 12, "{namespaces:?} {processes:?}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let down = self.demo(&["down"]);
        if !std::thread::panicking() {
            assert!(down.success(), "down");
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }
}

#[test]
fn of_a_demo_killed_in_a_step_nothing_stays_after_down() {
    let (folder, before) = (Folder::new("killed"), host());
    let run = &["--only", "endpoint-kill", "--seed", "1"];
    let mut child = folder.until(run, "break endpoint");
    child.kill().unwrap();
    child.wait().unwrap();
    folder.something_is_left();
    assert_eq!(host(), before, "while it is up");
    assert!(folder.demo(&["down"]).success());
    folder.nothing_is_left();
    assert_eq!(host(), before);
}

#[test]
fn a_second_run_clears_what_a_killed_one_left_and_ctrl_c_leaves_nothing() {
    let (folder, before) = (Folder::new("second"), host());
    let run = &["--only", "http", "--seed", "1"];
    let mut child = folder.until(run, "step join");
    child.kill().unwrap();
    child.wait().unwrap();
    folder.something_is_left();
    let mut child = folder.until(run, "step http");
    folder.something_is_left();
    Proc::of(i32::try_from(child.id()).unwrap()).unwrap().interrupt();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    folder.nothing_is_left();
    assert_eq!(host(), before);
}

/// What a program prints as a client in rack-1 of this demo.
fn in_rack(folder: &Folder, program: &OsStr, args: &[&str]) -> String {
    let words = ["exec", "rack-1", "--dir"];
    let mut command = Command::new(crate::binary());
    command.arg("demo").args(words).arg(&folder.0).arg("--").arg(program).args(args);
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// What a client there gets from the shop.
fn shop(folder: &Folder) -> String {
    let url = "http://checkout.shop.svc.clusterset.local/";
    in_rack(folder, OsStr::new("curl"), &["-sS", "--max-time", "10", url])
}

#[test]
fn two_folders_are_two_demos_and_neither_touches_the_host() {
    let (one, two, before) = (Folder::new("one"), Folder::new("two"), host());
    for folder in [&one, &two] {
        assert!(folder.demo(&["up", "--net", "netns"]).success(), "{}", folder.0.display());
    }
    for folder in [&one, &two] {
        assert!(shop(folder).contains("\"member\""), "{}", folder.0.display());
        let status = in_rack(folder, crate::binary().as_os_str(), &["status", "-o", "json"]);
        assert!(status.contains("\"cluster\": \"rack-1\""), "hansa asks the controller there: {status}");
    }
    assert_eq!(host(), before, "while both are up");
    assert!(one.demo(&["down"]).success());
    one.nothing_is_left();
    assert!(two.demo(&["status"]).success(), "the other one is as it was");
    assert!(shop(&two).contains("\"member\""));
    assert!(two.demo(&["down"]).success());
    two.nothing_is_left();
    assert_eq!(host(), before);
}
