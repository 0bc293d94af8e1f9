//! Long-lived processes of a lab: start, signal, and proof that one is gone.
//! A process is known by its id *and* its start time, so a reused id is never signalled.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde::{Deserialize, Serialize};

/// The environment variable that marks every process of a lab with its folder, so that `down` finds
/// also those whose start could not be written down any more. No component reads it.
pub const MARK: &str = "LAB_MARK";

/// What to start and where.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The network namespace, if any.
    pub ns: Option<String>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Takes standard output and standard error.
    pub output: PathBuf,
    /// The lab's folder.
    pub mark: PathBuf,
}

/// A started process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proc {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, from `/proc/<pid>/stat`.
    pub start_time: u64,
}

impl Proc {
    /// Starts a process in a process group of its own, so that Ctrl-C in a terminal does not reach it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(launch: &Launch) -> Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&launch.output)
            .with_context(|| launch.output.display().to_string())?;
        let mut command = match &launch.ns {
            None => Command::new(&launch.program),
            Some(ns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", ns]).arg(&launch.program);
                command
            }
        };
        command
            .args(&launch.args)
            .env(MARK, &launch.mark)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", launch.program.display()))?;
        let pid = i32::try_from(child.id()).context("process id")?;
        Self::of(pid).with_context(|| format!("{} ended at once", launch.program.display()))
    }

    /// The process that has this id now.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: i32) -> Result<Self> {
        let (start_time, _) = stat(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self { pid, start_time })
    }

    /// Whether it still runs. A zombie is gone; children of ours are reaped here.
    #[must_use]
    pub fn alive(&self) -> bool {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // Not our child: ECHILD, and /proc tells.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        matches!(stat(self.pid), Some((start, state)) if start == self.start_time && state != 'Z' && state != 'X')
    }

    /// Sends a signal if the process is still the one we know.
    pub fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.alive(), Pid::from_raw(self.pid)) {
            // It may end between the check and the call; then there is nothing to signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// What Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Lets it do nothing, as on a machine that is much too busy, or go on.
    pub fn pause(&self, on: bool) {
        self.signal(if on { Signal::STOP } else { Signal::CONT });
    }

    /// Waits until the process is gone.
    ///
    /// # Errors
    /// When it is still there at the deadline.
    pub async fn gone(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= end {
                bail!("process {} is still running after {limit:?}", self.pid);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// SIGKILL, and proof that it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL);
        self.gone(Duration::from_secs(10)).await
    }
}

/// Start time and state letter of a process.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold anything, also blanks and brackets: fields count from the last bracket.
    let rest = text.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((start, state))
}

/// All running processes that carry the mark of the lab in `dir`, except the caller.
#[must_use]
pub fn marked(dir: &Path) -> Vec<Proc> {
    let wanted = [MARK.as_bytes(), b"=", dir.as_os_str().as_encoded_bytes()].concat();
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(own))
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split(|b| *b == 0).any(|var| var == wanted))
        })
        .filter_map(|pid| Proc::of(pid).ok())
        .filter(Proc::alive)
        .collect()
}

/// Takes the lock of a lab folder for as long as the file lives, or says that somebody has it.
///
/// # Errors
/// When the file cannot be made, or another process holds the lock.
pub fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another demo is at work on {}", path.display()))?;
    Ok(file)
}
