//! Kept connections of the load generator: each slot sends its requests one after the other.
//! A connection ends after its time or at its first failure; the next request opens another.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use super::record::{ConnKind, Outcome};
use super::{Conn, Job, Shared, exchange};
use crate::clock;

/// Requests that may wait for one connection; more are failures called `overload`.
const QUEUE: usize = 256;
/// How long requests may still wait for their connection after the load has ended.
const PATIENCE: Duration = Duration::from_secs(3);

/// All kept connections.
pub(crate) struct Slots {
    queues: Vec<Sender<Job>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Slots {
    /// Starts `count` slots, none of them connected yet. Their first lives differ in length, so that they
    /// do not all reconnect at one moment.
    pub(crate) fn start(shared: &Arc<Shared>, count: u64) -> Self {
        let (mut queues, mut tasks) = (Vec::new(), Vec::new());
        for slot in 0..count {
            let (queue, jobs) = mpsc::channel(QUEUE);
            let life = shared.args.keep.mul_f64((slot + 1) as f64 / count as f64);
            tasks.push(tokio::spawn(serve(Arc::clone(shared), jobs, life)));
            queues.push(queue);
        }
        Self { queues, tasks }
    }

    /// Hands the request to a slot; one that cannot take it fails the request.
    pub(crate) fn give(&self, number: u64, job: Job, shared: &Shared) {
        let Some(queue) = self.queues.get(usize::try_from(number).unwrap_or(0) % self.queues.len().max(1))
        else {
            return;
        };
        if let Err(refused) = queue.try_send(job) {
            let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) = refused;
            shared.writer.put(Outcome::failed(&job, ConnKind::Kept, 0, "overload"));
        }
    }

    /// Lets every slot finish what it has, within the limit. What waits behind a request that hangs is given
    /// up after a while, and recorded as that.
    pub(crate) async fn finish(self, limit: Duration, shared: &Shared) {
        drop(self.queues);
        let mut all = std::pin::pin!(futures::future::join_all(self.tasks));
        if tokio::time::timeout(PATIENCE, &mut all).await.is_err() {
            shared.over.store(true, Ordering::Relaxed);
            // A slot over the limit has its request on a dead connection; its end is recorded by then.
            let _ = tokio::time::timeout(limit, all).await;
        }
    }
}

async fn serve(shared: Arc<Shared>, mut jobs: Receiver<Job>, first_life: Duration) {
    let mut life = first_life;
    let mut current: Option<Conn> = None;
    while let Some(job) = jobs.recv().await {
        if shared.over.load(Ordering::Relaxed) {
            shared.writer.put(Outcome::failed(&job, ConnKind::Kept, 0, "never begun"));
            continue;
        }
        if current.as_ref().is_some_and(|conn| conn.opened.elapsed() >= life) {
            current = None;
            life = shared.args.keep;
        }
        let mut conn = match current.take() {
            Some(conn) => conn,
            None => {
                let begun = clock::now();
                match shared.connect().await {
                    Ok(conn) => conn,
                    Err(error) => {
                        shared.writer.put(Outcome::unconnected(&job, ConnKind::Kept, begun, &error));
                        continue;
                    }
                }
            }
        };
        let result = exchange::once(&shared, &mut conn, &job.id, false).await;
        let good = result.is_ok();
        shared.writer.put(Outcome::of(&job, ConnKind::Kept, &conn, result));
        if good {
            current = Some(conn);
        }
    }
}
