//! Three members brought up by the public command line, for referees that judge the whole product.
//! Knows nothing of how the members work.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A demo that is up; taken down when dropped.
pub(crate) struct Fabric {
    dir: tempfile::TempDir,
    state: Value,
}

/// The binary beside this test, as `cargo build -p hansa-cli` leaves it.
fn binary() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("hansa");
    assert!(path.is_file(), "{} is not there: cargo build -p hansa-cli", path.display());
    path
}

fn root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.starts_with(b"0\n")
}

/// What a command printed; it must succeed.
pub(crate) fn text(out: Output) -> String {
    let said = [&out.stdout, &out.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(out.status.success(), "{}: {}", out.status, said.join("\n"));
    String::from_utf8(out.stdout).unwrap()
}

/// A tool that has to be there; `package` is where Debian has it.
pub(crate) fn tool(name: &str, package: &str) {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", name]).stdout(Stdio::null()).status();
    assert!(found.unwrap().success(), "no {name}: apt-get install {package}, or scripts/deps.sh test");
}

impl Fabric {
    pub(crate) fn up() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut fabric = Self { dir, state: Value::Null };
        // In the gateways' place only root can stand; else all is on loopback.
        let mode = if root() { "netns" } else { "loopback" };
        text(fabric.demo(&["up", "--net", mode]).output().unwrap());
        let state = std::fs::read(fabric.path("demo.json")).unwrap();
        fabric.state = serde_json::from_slice(&state).unwrap();
        fabric
    }

    fn demo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(["demo", "--dir"]).arg(self.path("")).args(args);
        command
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("lab").join(below)
    }

    /// A program as a client in a member; what it printed.
    pub(crate) fn exec(&self, member: &str, program: &[&str]) -> String {
        let args = [&["exec", member, "--"], program].concat();
        text(self.demo(&args).output().unwrap())
    }

    /// Asks again until `holds`; the last answer. A new name takes a moment to arrive.
    pub(crate) fn exec_until(&self, member: &str, program: &[&str], holds: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let said = self.exec(member, program);
            if holds(&said) || begun.elapsed() > Duration::from_secs(10) {
                return said;
            }
        }
    }

    fn process(&self, member: &str, name: &str) -> &Value {
        &self.state["members"][member]["processes"][name]
    }

    /// Address and port where a gateway listens for its peers.
    pub(crate) fn link(&self, member: &str, gateway: &str) -> (String, u16) {
        let link = self.process(member, gateway)["link"].as_str().unwrap();
        let (host, port) = link.rsplit_once(':').unwrap();
        (host.to_owned(), port.parse().unwrap())
    }

    /// Puts a command in the network place of a server.
    pub(crate) fn in_place(&self, member: &str, name: &str, program: &Path) -> Command {
        match self.process(member, name)["net"].as_str() {
            None => Command::new(program),
            Some(net) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", net]).arg(program);
                command
            }
        }
    }

    /// Chain and key of a server as two files.
    pub(crate) fn identity(&self, member: &str, name: &str) -> (PathBuf, PathBuf) {
        let pem = std::fs::read_to_string(self.path(&format!("{member}/{name}/state/identity.pem"))).unwrap();
        let end = "-----END PRIVATE KEY-----\n";
        let (key, chain) = pem.split_once(end).unwrap();
        let file = |what: &str| self.path(&format!("{member}-{name}-{what}.pem"));
        std::fs::write(file("key"), format!("{key}{end}")).unwrap();
        std::fs::write(file("chain"), chain).unwrap();
        (file("chain"), file("key"))
    }

    /// The certificates of a member's trust bundle, as PEM.
    pub(crate) fn roots(&self, member: &str) -> PathBuf {
        let bundle = std::fs::read(self.path(&format!("{member}/gateway-1/state/bundle.json"))).unwrap();
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        let mut pem = String::new();
        for key in bundle["keys"].as_array().unwrap() {
            let der = key["x5c"][0].as_str().unwrap();
            pem += &format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n");
        }
        let path = self.path(&format!("{member}-roots.pem"));
        std::fs::write(&path, pem).unwrap();
        path
    }

    /// The most memory a server has used so far, in KiB.
    pub(crate) fn peak(&self, member: &str, name: &str) -> u64 {
        let pid = &self.process(member, name)["pid"];
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends a signal to a server.
    pub(crate) fn signal(&self, member: &str, name: &str, signal: &str) {
        let pid = self.process(member, name)["pid"].to_string();
        text(Command::new("kill").args([signal, &pid]).output().unwrap());
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        // What did not come up was taken down by the command itself.
        if self.state.is_null() {
            return;
        }
        // Whatever the test came to, nothing stays; a failure here hides none there.
        let down = self.demo(&["down"]).stdout(Stdio::null()).status();
        if !std::thread::panicking() {
            assert!(down.unwrap().success(), "demo down");
        }
    }
}
