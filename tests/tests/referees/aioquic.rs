//! Runs the Python scripts of `tests/referees`, which are aioquic as client and as server, and
//! reads the lines of JSON they print.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::ours::Certificate;

/// Above the scripts' own limit, so that they can say what they waited for.
const LIMIT: Duration = Duration::from_secs(40);

/// The interpreter of the environment that `scripts/deps.sh` makes.
pub(crate) fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let python = cache.unwrap_or_default().join("hansa/referees/bin/python");
    assert!(python.exists(), "no aioquic at {}: run `scripts/deps.sh test`", python.display());
    python
}

/// Where a script lies.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("referees").join(name)
}

fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    // -B: the clone stays as it is.
    command.arg("-B").arg(path(name)).kill_on_drop(true).stdout(Stdio::piped());
    command
}

/// One line of a script; that it broke off is a failure.
pub(crate) fn parse(line: &str) -> Value {
    let seen: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(seen.get("failed").is_none(), "the referee broke off: {}", seen["failed"]);
    seen
}

/// Lets aioquic play one case against our server on `port`; gives what it saw.
pub(crate) async fn client(port: u16, certificate: &Certificate, case: &str, args: &[&str]) -> Value {
    let mut command = script("client.py");
    command.arg(port.to_string()).arg(certificate.chain()).arg(case).args(args).stdin(Stdio::null());
    let out = tokio::time::timeout(LIMIT, command.output()).await.expect("the referee hangs");
    let out = out.expect("cannot run the referee");
    let text = String::from_utf8(out.stdout).unwrap();
    parse(text.lines().last().expect("the referee said nothing"))
}

/// aioquic as a server. Ends when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Server {
    pub(crate) async fn start(certificate: &Certificate) -> Self {
        let mut command = script("server.py");
        command.arg(certificate.chain()).arg(certificate.key()).stdin(Stdio::piped());
        let mut child = command.spawn().expect("cannot run the referee");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut server = Self { port: 0, lines, _child: child };
        let first = server.says().await;
        server.port = u16::try_from(first["port"].as_u64().unwrap()).unwrap();
        server
    }

    /// The next thing it saw.
    pub(crate) async fn says(&mut self) -> Value {
        let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await.expect("the referee hangs");
        parse(&line.unwrap().expect("the referee is gone"))
    }
}
