//! Owned tasks: the only place in the product that spawns. Every task has a name, ends with the
//! set's token, is joined by the set's owner, and a panic in it is logged, never swallowed.
//!
//! Called by each component's wiring. It never detaches a task and never restarts one.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info_span};

/// A set of named tasks with one token. Clones share the set.
///
/// ```
/// # use hansa_runtime::tasks::Tasks;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let tasks = Tasks::new();
/// let token = tasks.token();
/// tasks.spawn_critical("acceptor", async move {
///     token.cancelled().await;
///     Ok::<(), std::io::Error>(())
/// });
/// assert!(tasks.shutdown(std::time::Duration::from_secs(1)).await);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    token: CancellationToken,
    tracker: TaskTracker,
    failure: watch::Sender<Option<TaskFailure>>,
}

/// Why the process must not go on: a critical task panicked, failed or ended too early.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("task {task} {cause}")]
pub struct TaskFailure {
    /// The task's name as given to [`Tasks::spawn_critical`].
    pub task: String,
    /// What happened, for people.
    pub cause: String,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty set with a token of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::under(&CancellationToken::new())
    }

    /// An empty set whose token ends with `parent`.
    #[must_use]
    pub fn under(parent: &CancellationToken) -> Self {
        let (failure, _) = watch::channel(None);
        let inner = Inner { token: parent.child_token(), tracker: TaskTracker::new(), failure };
        Self { inner: Arc::new(inner) }
    }

    /// The token each task of this set watches; cancelled by [`Tasks::shutdown`].
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// How many tasks run now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.tracker.len()
    }

    /// Whether no task runs now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.tracker.is_empty()
    }

    /// Runs `work` until it ends by itself. A panic is logged and ends this task alone: use it
    /// for one connection or one request.
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.inner.tracker.spawn(caught(name, work));
    }

    /// Like [`Tasks::spawn`], on the runtime of `handle`.
    pub fn spawn_on<F>(&self, handle: &Handle, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.inner.tracker.spawn_on(caught(name, work), handle);
    }

    /// Like [`Tasks::spawn`], and cancelled at its next await when the set shuts down: for work
    /// that needs no goodbye.
    pub fn spawn_until_shutdown<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token();
        self.spawn(name, async move {
            token.run_until_cancelled(work).await;
        });
    }

    /// Runs `work`, without which the process is useless: an error, a panic, or an end before
    /// the token is cancelled is a [`TaskFailure`] that [`Tasks::failed`] reports, and cancels
    /// the whole set.
    pub fn spawn_critical<F, E>(&self, name: impl Into<String>, work: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let name = name.into();
        let inner = Arc::clone(&self.inner);
        let span = info_span!("task", name = %name);
        self.inner.tracker.spawn(
            async move {
                let cause = match AssertUnwindSafe(work).catch_unwind().await {
                    Ok(Ok(())) if inner.token.is_cancelled() => return,
                    Ok(Ok(())) => "ended although nobody asked it to".to_owned(),
                    Ok(Err(e)) => format!("failed: {e}"),
                    Err(panic) => format!("panicked: {}", panic_text(&*panic)),
                };
                error!(task = %name, %cause, "critical task ended");
                inner.fail(TaskFailure { task: name, cause });
            }
            .instrument(span),
        );
    }

    /// Waits for the first failure of a critical task; pending for ever when none fails.
    pub async fn failed(&self) -> TaskFailure {
        let mut seen = self.inner.failure.subscribe();
        loop {
            if let Some(failure) = seen.borrow_and_update().clone() {
                return failure;
            }
            if seen.changed().await.is_err() {
                // Unreachable while `self` holds the sender; pending is the truthful answer.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The first failure so far, if any.
    #[must_use]
    pub fn failure(&self) -> Option<TaskFailure> {
        self.inner.failure.borrow().clone()
    }

    /// Cancels the token and waits for all tasks, at most `limit`. `false` when some still ran:
    /// they are then left to the end of the process, which the caller should bring about.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.inner.token.cancel();
        self.join(limit).await
    }

    /// Waits until every task has ended by itself, at most `limit`, without cancelling.
    pub async fn join(&self, limit: Duration) -> bool {
        self.inner.tracker.close();
        let done = tokio::time::timeout(limit, self.inner.tracker.wait()).await.is_ok();
        self.inner.tracker.reopen();
        done
    }
}

impl Inner {
    fn fail(&self, failure: TaskFailure) {
        self.failure.send_if_modified(|slot| {
            let first = slot.is_none();
            slot.get_or_insert(failure);
            first
        });
        self.token.cancel();
    }
}

/// Logs a panic of `work` and lets it end that alone.
fn caught<F>(name: &'static str, work: F) -> impl Future<Output = ()> + Send + 'static
where
    F: Future<Output = ()> + Send + 'static,
{
    // Combinators, not an async block: a block keeps room for `work` twice, before and while
    // it runs, and there are as many of these as connections. No span either: it would be entered
    // and left at every turn of every connection.
    AssertUnwindSafe(work).catch_unwind().map(move |ended| {
        if let Err(panic) = ended {
            error!(task = name, cause = %panic_text(&*panic), "task panicked");
        }
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_panic_in_a_plain_task_ends_that_task_alone() {
        let tasks = Tasks::new();
        tasks.spawn("bad", async { panic!("boom") });
        let (done, seen) = oneshot::channel();
        tasks.spawn("good", async move { done.send(()).unwrap() });
        seen.await.unwrap();
        assert!(tasks.join(LONG).await);
        assert_eq!(tasks.failure(), None);
        assert!(!tasks.token().is_cancelled());
    }

    #[tokio::test]
    async fn a_critical_task_that_panics_fails_and_cancels_the_set() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("waits", async move { token.cancelled().await });
        tasks.spawn_critical("core", async {
            if true {
                panic!("lost {}", "it");
            }
            Ok::<(), std::io::Error>(())
        });
        let failure = tasks.failed().await;
        assert_eq!(failure.to_string(), "task core panicked: lost it");
        assert!(tasks.join(LONG).await);
    }

    #[tokio::test]
    async fn a_critical_task_that_errs_or_ends_early_is_a_failure() {
        let tasks = Tasks::new();
        tasks.spawn_critical("a", async { Err("no disk") });
        assert_eq!(tasks.failed().await.cause, "failed: no disk");
        let tasks = Tasks::new();
        tasks.spawn_critical("b", async { Ok::<(), String>(()) });
        assert_eq!(tasks.failed().await.cause, "ended although nobody asked it to");
    }

    #[tokio::test]
    async fn shutdown_ends_what_listens_and_reports_what_does_not() {
        let tasks = Tasks::new();
        tasks.spawn_until_shutdown("listens", std::future::pending());
        let token = tasks.token();
        tasks.spawn_critical("says goodbye", async move {
            token.cancelled().await;
            Ok::<(), String>(())
        });
        assert!(tasks.shutdown(LONG).await);
        assert_eq!(tasks.failure(), None);
        assert!(tasks.is_empty());

        let stubborn = Tasks::new();
        stubborn.spawn("stubborn", std::future::pending());
        assert!(!stubborn.shutdown(Duration::from_millis(10)).await);
        assert_eq!(stubborn.len(), 1);
    }

    #[tokio::test]
    async fn a_parent_token_ends_the_set() {
        let parent = CancellationToken::new();
        let tasks = Tasks::under(&parent);
        tasks.spawn_until_shutdown("child", std::future::pending());
        parent.cancel();
        assert!(tasks.join(LONG).await);
    }
}
