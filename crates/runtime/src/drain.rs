//! One drain for the whole process: a signal begins it, components do their steps in order, a
//! deadline or the last finished piece of work closes it, a second signal exits at once.
//!
//! Called by wiring (`listen`), by whoever drains (`begun`, `closing`) and by each piece of work
//! that drain should wait for (`hold`). It closes nothing itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use crate::ready::Ready;
use crate::tasks::Tasks;

/// Exit code of a process told a second time to stop, as a shell reports an interrupt.
pub const EXIT_FORCED: i32 = 130;

/// The drain of one process. Clones share it.
///
/// The phases, in order: *running*; *draining* ([`Drain::begun`]: unready, accept nothing new,
/// tell peers, let running work finish); *closing* ([`Drain::closing`]: the work is done or the
/// deadline passed, close what is left with a code and return).
#[derive(Clone, Debug)]
pub struct Drain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    begun: CancellationToken,
    closing: CancellationToken,
    work: TaskTracker,
    reason: watch::Sender<Option<String>>,
}

/// Held by a piece of work (a spliced connection, a request) that drain waits for.
#[derive(Debug)]
pub struct Hold {
    _token: TaskTrackerToken,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner {
            begun: CancellationToken::new(),
            closing: CancellationToken::new(),
            work: TaskTracker::new(),
            reason: watch::channel(None).0,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Begins the drain; the first reason stays.
    pub fn begin(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.inner.reason.send_if_modified(|slot| {
            let first = slot.is_none();
            slot.get_or_insert(reason);
            first
        });
        self.inner.begun.cancel();
    }

    /// Why the drain began, once it has.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.inner.reason.borrow().clone()
    }

    /// Token of the draining phase: stop accepting, let running work finish.
    #[must_use]
    pub fn begun(&self) -> CancellationToken {
        self.inner.begun.clone()
    }

    /// Token of the closing phase: end what still runs, with a code.
    #[must_use]
    pub fn closing(&self) -> CancellationToken {
        self.inner.closing.clone()
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.begun.is_cancelled()
    }

    /// Registers a piece of work; drain waits until the returned guard is dropped.
    #[must_use]
    pub fn hold(&self) -> Hold {
        Hold { _token: self.inner.work.token() }
    }

    /// How many pieces of work run now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inner.work.len()
    }

    /// Waits until no work is held or `limit` has passed, then enters the closing phase. `true`
    /// when all work finished in time. Call it after the component's own drain steps.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.inner.work.close();
        let finished = tokio::time::timeout(limit, self.inner.work.wait()).await.is_ok();
        if !finished {
            warn!(left = self.held(), ?limit, "drain deadline passed, closing what is left");
        }
        self.inner.closing.cancel();
        finished
    }

    /// Enters the closing phase at once: when a critical task failed and grace makes no sense.
    pub fn close_now(&self, reason: impl Into<String>) {
        self.begin(reason);
        self.inner.closing.cancel();
    }

    /// Listens for SIGTERM and SIGINT on a task of `tasks`: the first withdraws `ready` and
    /// begins the drain, the second runs `last_words` (flush the logs) and exits with
    /// [`EXIT_FORCED`].
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn listen<F>(&self, tasks: &Tasks, ready: &Ready, last_words: F) -> std::io::Result<()>
    where
        F: FnOnce() + Send + 'static,
    {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let (drain, ready) = (self.clone(), ready.clone());
        tasks.spawn_until_shutdown("signals", async move {
            let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
            info!(signal = name, "draining; a second signal exits at once");
            ready.withdraw("draining");
            drain.begin(name);
            let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
            warn!(signal = name, "second signal, exiting at once");
            last_words();
            std::process::exit(EXIT_FORCED);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn finish_waits_for_held_work_and_then_closes() {
        let drain = Drain::new();
        let hold = drain.hold();
        assert_eq!(drain.held(), 1);
        drain.begin("test");
        drain.begin("later");
        let finish = drain.finish(LONG);
        tokio::pin!(finish);
        assert!(futures::poll!(&mut finish).is_pending());
        assert!(!drain.closing().is_cancelled());
        drop(hold);
        assert!(finish.await);
        assert!(drain.closing().is_cancelled());
        assert_eq!(drain.reason().as_deref(), Some("test"));
    }

    #[tokio::test]
    async fn a_passed_deadline_closes_with_work_left() {
        let drain = Drain::new();
        let _hold = drain.hold();
        drain.begin("test");
        assert!(!drain.finish(Duration::from_millis(5)).await);
        assert!(drain.closing().is_cancelled());
        assert_eq!(drain.held(), 1);
    }

    #[tokio::test]
    async fn the_first_signal_withdraws_readiness_and_begins() {
        let (drain, tasks, ready) = (Drain::new(), Tasks::new(), Ready::new());
        drain.listen(&tasks, &ready, || {}).unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        drain.begun().cancelled().await;
        assert!(!ready.is_ready());
        assert_eq!(drain.reason().as_deref(), Some("SIGTERM"));
        assert!(tasks.shutdown(LONG).await);
    }

    #[test]
    fn close_now_skips_the_grace() {
        let drain = Drain::new();
        drain.close_now("task failed");
        assert!(drain.is_draining() && drain.closing().is_cancelled());
    }
}
