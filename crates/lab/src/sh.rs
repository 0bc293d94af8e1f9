//! Short-lived commands with a deadline and captured output, and threads inside a network namespace.
//! Used by topology, bring-up and steps; never keeps a process running.

use std::ffi::OsStr;
use std::future::Future;
use std::os::fd::AsFd;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The longest any helper command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Runs a command, gives it `stdin`, and returns its output whatever its exit code.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub async fn output(mut command: Command, stdin: Option<&str>, limit: Duration) -> Result<Output> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let pipe = child.stdin.take();
    let feed = async {
        if let (Some(mut pipe), Some(text)) = (pipe, stdin) {
            // A command that ends early closes its end: its exit code tells more than the broken pipe.
            let _ = pipe.write_all(text.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    tokio::time::timeout(limit, both)
        .await
        .map_err(|_| anyhow!("{name} did not end within {limit:?}"))?
        .with_context(|| format!("waiting for {name}"))
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Errors
/// When it fails; the message carries its standard error.
pub async fn run(command: Command, stdin: Option<&str>) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let out = output(command, stdin, COMMAND_LIMIT).await?;
    if !out.status.success() {
        bail!("{shown}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A command inside a network namespace, or as it is where there is none. The process id is kept.
pub fn command_in(ns: Option<&str>, program: impl AsRef<OsStr>) -> Command {
    match ns {
        None => Command::new(program),
        Some(ns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", ns]).arg(program);
            command
        }
    }
}

/// Runs a future on a thread of its own that lives in the namespace; sockets made there belong to it.
///
/// # Errors
/// When the namespace cannot be entered, or the future fails.
pub async fn inside<T, F, Fut>(ns: Option<String>, make: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<T>>,
{
    let (done, answer) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("lab-inside".into())
        .spawn(move || {
            // The receiver is gone only when the caller gave up.
            let _ = done.send(enter_and_run(ns.as_deref(), make));
        })
        .context("cannot start a thread")?;
    answer.await.map_err(|_| anyhow!("a thread of the lab ended without an answer"))?
}

fn enter_and_run<T, F, Fut>(ns: Option<&str>, make: F) -> Result<T>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    if let Some(ns) = ns {
        let path = format!("/run/netns/{ns}");
        let file = std::fs::File::open(&path).with_context(|| path.clone())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {path}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(make())
}
