//! Two byte streams joined: chunks both ways, half-closes and resets passed on faithfully.
//!
//! Called by outbound, inbound and relay once both sides are open. It holds no buffer while a
//! connection is idle, never opens or chooses anything, and never reads ahead of its writer.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::outcome::Outcome;

mod h2;
mod io;
mod kept;
mod tcp;
mod tunnel;

pub(crate) use h2::{H2Sink, H2Source};
pub(crate) use io::IoEnd;
pub(crate) use kept::{Kept, Release};
pub(crate) use tcp::{TcpSink, TcpSource, reset_on_drop};

/// Why a side ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Its owner reset it.
    Reset,
    /// The path under it is gone.
    Lost,
    /// The peer was removed.
    Removed,
    /// It held more than it may.
    Limit,
}

/// The reading half of one side.
pub(crate) trait Source: Send {
    /// The next chunk, never empty; none at the end. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Broken>> + Send;
    /// Adds all chunks that can be had at once, up to a bound, waiting for the first; `false` at the
    /// end, when it added none. Cancel-safe.
    fn next_batch(&mut self, batch: &mut Vec<Bytes>) -> impl Future<Output = Result<bool, Broken>> + Send {
        async {
            let chunk = self.next().await?;
            let any = chunk.is_some();
            batch.extend(chunk);
            Ok(any)
        }
    }
    /// Waits for a reset behind the end; pending for ever where that cannot be seen.
    fn broken(&mut self) -> impl Future<Output = Broken> + Send {
        std::future::pending()
    }
    /// Waits for the order to end, because what was read here is not taken on; pending for ever
    /// where there is none.
    fn evicted(&mut self) -> impl Future<Output = Broken> + Send {
        std::future::pending()
    }
    /// Tells the side that nothing more will be read, because the other one broke.
    fn stop(&mut self);
}

/// The writing half of one side.
pub(crate) trait Sink: Send {
    /// Writes a chunk, waiting for room.
    fn put(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), Broken>> + Send;
    /// Writes several chunks in order.
    fn put_batch(&mut self, batch: Vec<Bytes>) -> impl Future<Output = Result<(), Broken>> + Send {
        async {
            for chunk in batch {
                self.put(chunk).await?;
            }
            Ok(())
        }
    }
    /// The clean end.
    fn finish(&mut self) -> impl Future<Output = Result<(), Broken>> + Send;
    /// The end by a reset.
    fn reset(&mut self);
}

/// What was moved, readable while it runs.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// From the client to the service.
    pub(crate) up: AtomicU64,
    /// From the service to the client.
    pub(crate) down: AtomicU64,
}

impl Moved {
    /// Up and down, in bytes.
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// Which half of a pipe broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// Where it reads.
    Source,
    /// Where it writes.
    Sink,
}

/// Moves chunks until the end of `source`, then ends `sink`.
pub(crate) async fn pipe(
    source: &mut impl Source,
    sink: &mut impl Sink,
    moved: &AtomicU64,
) -> Result<(), (Half, Broken)> {
    loop {
        // Made anew each time: an idle connection holds none.
        let mut batch = Vec::new();
        if !source.next_batch(&mut batch).await.map_err(|b| (Half::Source, b))? {
            break;
        }
        let n = batch.iter().map(|chunk| chunk.len() as u64).sum();
        tokio::select! {
            biased;
            put = sink.put_batch(batch) => put.map_err(|b| (Half::Sink, b))?,
            broken = source.evicted() => return Err((Half::Sink, broken)),
        }
        moved.fetch_add(n, Ordering::Relaxed);
    }
    sink.finish().await.map_err(|b| (Half::Sink, b))
}

/// The limits of one spliced connection.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Closed after so long without a byte.
    pub(crate) idle: Duration,
    /// The closing phase of the drain.
    pub(crate) closing: CancellationToken,
}

/// Runs a whole splice between a client and a service. Whatever breaks, both sides learn it.
pub(crate) async fn splice<C, D, S, T>(
    client: (&mut C, &mut D),
    service: (&mut S, &mut T),
    moved: &Moved,
    bounds: &Bounds,
) -> Outcome
where
    C: Source,
    D: Sink,
    S: Source,
    T: Sink,
{
    let outcome = {
        let up = std::pin::pin!(pipe(client.0, service.1, &moved.up));
        let down = std::pin::pin!(pipe(service.0, client.1, &moved.down));
        both(up, false, down, moved, bounds).await
    };
    if outcome != Outcome::Done {
        client.1.reset();
        client.0.stop();
        service.1.reset();
        service.0.stop();
    }
    outcome
}

/// Drives both directions to their ends; `up_ended` says that the first already came to its own.
pub(crate) async fn both<U, D>(
    mut up: Pin<&mut U>,
    mut up_ended: bool,
    mut down: Pin<&mut D>,
    moved: &Moved,
    bounds: &Bounds,
) -> Outcome
where
    U: Future<Output = Result<(), (Half, Broken)>>,
    D: Future<Output = Result<(), (Half, Broken)>>,
{
    let mut down_ended = false;
    let mut idle = std::pin::pin!(idle(moved, bounds.idle));
    let mut closing = std::pin::pin!(bounds.closing.cancelled());
    loop {
        if up_ended && down_ended {
            return Outcome::Done;
        }
        let ended = tokio::select! {
            end = &mut up, if !up_ended => { up_ended = true; end.map_err(|e| (true, e)) }
            end = &mut down, if !down_ended => { down_ended = true; end.map_err(|e| (false, e)) }
            () = &mut idle => return Outcome::Idle,
            () = &mut closing => return Outcome::DrainDeadline,
        };
        if let Err((is_up, (half, broken))) = ended {
            // Reading upwards and writing downwards touch the client.
            return outcome(is_up == (half == Half::Source), broken);
        }
    }
}

/// How a break counts, by the side that broke.
pub(crate) fn outcome(client: bool, broken: Broken) -> Outcome {
    match (client, broken) {
        (_, Broken::Removed) => Outcome::PeerRemoved,
        (_, Broken::Limit) => Outcome::Limit,
        (true, Broken::Reset) => Outcome::ClientReset,
        (false, Broken::Reset) => Outcome::ServiceReset,
        (_, Broken::Lost) => Outcome::PathLost,
    }
}

async fn idle(moved: &Moved, limit: Duration) {
    let mut seen = moved.get();
    loop {
        tokio::time::sleep(limit).await;
        let now = moved.get();
        if now == seen {
            return;
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests;
