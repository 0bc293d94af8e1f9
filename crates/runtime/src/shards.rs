//! Shards: threads that each run one single-threaded runtime. What belongs together (a connection,
//! its tunnel, its sockets) lives on one of them and never wakes another thread, and work that became
//! ready together is done before the socket is written, so that one call carries all of it.
//!
//! Made by the wiring of a server that moves bytes. It moves nothing between shards by itself.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// How much more than the least loaded shard one may carry before work is given away: a fixed part
/// and one in so many.
const SLACK: (usize, usize) = (8, 4);

/// The number of the shard whose thread this is; 0 on any other thread.
#[must_use]
pub fn here() -> usize {
    HERE.get()
}

/// A set of shards. Clones share it.
#[derive(Clone, Debug)]
pub struct Shards {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Empty: everything runs on the runtime of the caller.
    handles: Vec<Handle>,
    loads: Vec<Arc<AtomicUsize>>,
}

/// The threads of a set. They end, and with them all their tasks, when their owner drops this: tasks hold
/// the set themselves, so it cannot end by itself.
#[derive(Debug)]
#[must_use = "the threads end when this is dropped"]
pub struct Threads(CancellationToken);

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A unit of work counted on a shard for as long as this lives.
#[derive(Debug)]
pub struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Shards {
    fn default() -> Self {
        Self::inline()
    }
}

impl Shards {
    /// One shard that is the caller's own runtime.
    #[must_use]
    pub fn inline() -> Self {
        Self { inner: Arc::new(Inner { handles: Vec::new(), loads: vec![Arc::default()] }) }
    }

    /// Starts `count` threads named after `name`.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(name: &str, count: NonZeroUsize) -> io::Result<(Self, Threads)> {
        let threads = Threads(CancellationToken::new());
        let handles = (0..count.get()).map(|number| thread(name, number, threads.0.clone()));
        let handles = handles.collect::<io::Result<Vec<_>>>()?;
        let loads = handles.iter().map(|_| Arc::default()).collect();
        Ok((Self { inner: Arc::new(Inner { handles, loads }) }, threads))
    }

    /// How many there are, at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.loads.len()
    }

    /// Makes shard `number` the runtime in which sockets and tasks are made, until the guard is dropped.
    #[must_use]
    pub fn enter(&self, number: usize) -> Option<EnterGuard<'_>> {
        self.handle(number).map(Handle::enter)
    }

    /// Spawns a task of `tasks` on shard `number`.
    pub fn spawn<F>(&self, number: usize, tasks: &Tasks, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.handle(number) {
            Some(handle) => tasks.spawn_on(handle, name, work),
            None => tasks.spawn(name, work),
        }
    }

    /// Takes a place for new work that came up here: on this shard, unless it carries much more than another.
    #[must_use]
    pub fn place(&self) -> (usize, Load) {
        let loads = &self.inner.loads;
        let of = |number: usize| loads[number].load(Ordering::Relaxed);
        let here = here().min(loads.len() - 1);
        let least = (0..loads.len()).min_by_key(|number| of(*number)).unwrap_or(here);
        let most = of(least) + of(least) / SLACK.1 + SLACK.0;
        let number = if of(here) <= most { here } else { least };
        loads[number].fetch_add(1, Ordering::Relaxed);
        (number, Load(loads[number].clone()))
    }

    fn handle(&self, number: usize) -> Option<&Handle> {
        let handles = &self.inner.handles;
        handles.get(number % handles.len().max(1))
    }
}

/// Starts one thread and waits until its runtime is there.
fn thread(name: &str, number: usize, end: CancellationToken) -> io::Result<Handle> {
    let (ready, made) = mpsc::channel();
    let run = move || {
        HERE.set(number);
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        if ready.send(Ok(runtime.handle().clone())).is_ok() {
            runtime.block_on(end.cancelled());
        }
        // Threads that still wait for a name or a disk hold nothing anybody needs.
        runtime.shutdown_background();
    };
    thread::Builder::new().name(format!("{name}-{number}")).spawn(run)?;
    made.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended before it began")))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn two() -> (Shards, Threads) {
        Shards::start("test", NonZeroUsize::new(2).unwrap()).unwrap()
    }

    #[test]
    fn a_task_runs_on_the_shard_it_was_given_to() {
        let ((shards, _threads), tasks) = (two(), Tasks::new());
        for number in [0, 1, 1, 0] {
            let (say, heard) = oneshot::channel();
            shards.spawn(number, &tasks, "where", async move { say.send(here()).unwrap() });
            assert_eq!(heard.blocking_recv().unwrap(), number);
        }
    }

    #[test]
    fn work_stays_until_its_shard_carries_much_more() {
        let (shards, _threads) = two();
        let placed: Vec<_> = (0..100).map(|_| shards.place()).collect();
        let first = placed.iter().filter(|(number, _)| *number == 0).count();
        assert!((50..=65).contains(&first), "{first} of 100 stayed");
        drop(placed);
        assert_eq!(shards.place().0, 0);
    }

    #[tokio::test]
    async fn inline_work_runs_where_the_caller_is() {
        let (shards, tasks) = (Shards::inline(), Tasks::new());
        let (say, heard) = oneshot::channel();
        shards.spawn(7, &tasks, "here", async move { say.send(()).unwrap() });
        heard.await.unwrap();
        assert_eq!((shards.count(), shards.place().0), (1, 0));
    }

    #[tokio::test]
    async fn the_threads_end_with_their_owner_and_take_their_tasks_along() {
        let ((shards, threads), tasks) = (two(), Tasks::new());
        let (say, heard) = oneshot::channel::<()>();
        shards.spawn(1, &tasks, "held", async move {
            std::future::pending::<()>().await;
            drop(say);
        });
        drop(threads);
        assert!(heard.await.is_err());
    }
}
