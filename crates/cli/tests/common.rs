//! Runs the real binary, and a control socket that answers as it is told.
//! Shared by the tests of this crate; `tests/common.rs` itself has no tests.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

#[path = "common/server.rs"]
pub(crate) mod server;

/// What one run of the binary gave.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Standard error as JSON.
    pub(crate) fn error(&self) -> Value {
        serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The binary with a clean environment.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hansa"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn hansa(args: &[&str]) -> Ran {
    ran(command(args).output().unwrap())
}

/// The same of a command that was changed.
pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `METHOD /path` to status and body.
type Answers = HashMap<String, (u16, Value)>;

/// A control socket with fixed answers, which remembers the questions.
pub(crate) struct Controller {
    dir: TempDir,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Controller {
    /// Serves until the test process ends.
    pub(crate) fn new(answers: impl IntoIterator<Item = (&'static str, u16, Value)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let answers: Answers =
            answers.into_iter().map(|(q, status, v)| (q.to_owned(), (status, v))).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &answers, &log);
            }
        });
        Self { dir, asked }
    }

    /// Its path.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// A folder for files of the test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the binary against it.
    pub(crate) fn hansa(&self, args: &[&str]) -> Ran {
        ran(command(args).arg("--socket").arg(self.socket()).output().unwrap())
    }

    /// Request lines and bodies so far.
    pub(crate) fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: UnixStream, answers: &Answers, log: &Mutex<Vec<(String, String)>>) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0; 4096];
        let Ok(n @ 1..) = stream.read(&mut chunk) else { return };
        bytes.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let line = head.lines().next().unwrap_or_default();
    let question = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
    let path = question.split('?').next().unwrap_or_default().to_owned();
    log.lock().unwrap().push((question, body));
    let (status, value) = answers.get(&path).cloned().unwrap_or((404, Value::Null));
    let body = if status == 204 { String::new() } else { value.to_string() };
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // The client may be gone already, by its own deadline.
    let _ = stream.write_all(answer.as_bytes());
}
