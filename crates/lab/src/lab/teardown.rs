//! Takes a lab down: processes, namespaces, nothing else. Works from `demo.json` and from what is found,
//! so it also cleans up behind a demo that was killed in the middle.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::Lab;
use crate::net;
use crate::process::{Proc, marked};
use crate::state::DemoState;

/// How long servers may take to end before they are killed.
const GRACE: Duration = Duration::from_millis(300);

impl Lab {
    /// Ends everything this lab started and removes its namespaces. Files stay, without `demo.json`.
    ///
    /// # Errors
    /// When something does not go.
    pub async fn down(self) -> Result<()> {
        let state = self.state().clone();
        take_down(&state).await
    }
}

/// Ends what a lab started and removes its namespaces.
///
/// # Errors
/// When something does not go.
pub async fn take_down(state: &DemoState) -> Result<()> {
    let mut procs: Vec<Proc> = state.processes().filter(Proc::alive).collect();
    procs.extend(marked(&state.dir));
    if state.mode.has_namespaces() {
        let found = net::pids(&state.plan).await.unwrap_or_default();
        procs.extend(found.into_iter().filter_map(|pid| Proc::of(pid).ok()));
    }
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    procs.sort_by_key(|p| p.pid);
    procs.dedup();
    procs.retain(|p| p.pid != own && Some(*p) != state.holder);
    for proc in &procs {
        proc.signal(Signal::INT);
    }
    for proc in &procs {
        // A gateway drains for half a minute; nobody waits for that here.
        if proc.gone(GRACE).await.is_err() {
            break;
        }
    }
    for proc in &procs {
        proc.kill().await?;
    }
    if state.mode.has_namespaces() {
        net::down(&state.plan).await.context("removing namespaces")?;
    }
    forget(&state.dir)
}

/// Removes `demo.json`, the sign that a lab is up.
fn forget(dir: &Path) -> Result<()> {
    match std::fs::remove_file(DemoState::path(dir)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("demo.json"),
        _ => Ok(()),
    }
}
