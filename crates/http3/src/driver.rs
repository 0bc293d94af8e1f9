//! Everything on a connection that no request asks for: our control stream, the
//! peer's unidirectional streams, accepting requests, dispatching datagrams.
//! The caller runs it; it spawns nothing and never touches content.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::code::Code;
use crate::error::{ConnectionError, Violation};
use crate::frame::{self, kind};
use crate::message::RequestHead;
use crate::recv::RecvStream;
use crate::requests;
use crate::send::RespondStream;
use crate::shared::Shared;
use crate::uni;
use crate::varint;

type Part = Pin<Box<dyn Future<Output = Result<Infallible, ConnectionError>> + Send>>;

/// Drives one connection. Dropping it closes the connection.
#[must_use = "nothing happens until the driver runs"]
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
    /// Moves into the accept side, whose end is then seen by `Requests`.
    queue: Option<mpsc::Sender<Item>>,
}

type Item = (RequestHead, RespondStream, RecvStream);

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, queue: mpsc::Sender<Item>) -> Self {
        let queue = Some(queue);
        Self { shared, queue }
    }

    /// Runs until the connection ends, and says why it did.
    pub async fn run(mut self) -> ConnectionError {
        let queue = self.queue.take();
        let shared = &self.shared;
        // Each part is woken by itself; the first to end, ends the connection.
        let mut parts: FuturesUnordered<Part> = FuturesUnordered::new();
        parts.push(Box::pin(own_control(shared.clone())));
        parts.push(Box::pin(uni::accept(shared.clone())));
        if let Some(queue) = queue {
            parts.push(Box::pin(requests::accept(shared.clone(), queue)));
        }
        if shared.config.datagrams {
            parts.push(Box::pin(datagrams(shared.clone())));
        }
        match parts.next().await {
            Some(Err(error)) => error,
            Some(Ok(never)) => match never {},
            None => shared.explain(shared.quic().closed().await),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.close(Code::H3_NO_ERROR, b"");
        self.shared.datagrams.close();
    }
}

/// Our control stream: SETTINGS now, GOAWAY when wanted, open until the end.
async fn own_control(shared: Arc<Shared>) -> Result<Infallible, ConnectionError> {
    let opened = shared.quic().open_uni().await;
    let mut stream = opened.map_err(|error| shared.explain(error))?;
    // Small, and ahead of every request: a peer that waits for it waits least.
    let _ = stream.set_priority(i32::MAX);
    let mut first = BytesMut::new();
    varint::encode(uni::CONTROL, &mut first);
    first.extend_from_slice(&shared.config.settings().encode());
    let written = stream.write_all(&first).await;
    written.map_err(|error| control_lost(&shared, error))?;
    let stopped = stream.stopped();
    tokio::pin!(stopped);
    tokio::select! {
        () = shared.gate_closed() => {}
        stopped = &mut stopped => return Err(control_stopped(&shared, stopped)),
    }
    let mut id = Vec::with_capacity(8);
    varint::encode(shared.own_goaway().unwrap_or_default(), &mut id);
    let goaway = frame::encode(kind::GOAWAY, &id);
    let written = stream.write_all(&goaway).await;
    written.map_err(|error| control_lost(&shared, error))?;
    let stopped = stopped.await;
    Err(control_stopped(&shared, stopped))
}

fn control_lost(shared: &Shared, error: quinn::WriteError) -> ConnectionError {
    match error {
        quinn::WriteError::ConnectionLost(error) => shared.explain(error),
        _ => shared.fail(CONTROL_STOPPED),
    }
}

fn control_stopped(
    shared: &Shared,
    stopped: Result<Option<quinn::VarInt>, quinn::StoppedError>,
) -> ConnectionError {
    match stopped {
        Err(quinn::StoppedError::ConnectionLost(error)) => shared.explain(error),
        _ => shared.fail(CONTROL_STOPPED),
    }
}

const CONTROL_STOPPED: Violation =
    Violation::connection(Code::H3_CLOSED_CRITICAL_STREAM, "control stream stopped");

const DATAGRAM_BURST: usize = 64;

async fn datagrams(shared: Arc<Shared>) -> Result<Infallible, ConnectionError> {
    for count in 1usize.. {
        // A flood must not keep the other parts from their turn.
        if count.is_multiple_of(DATAGRAM_BURST) {
            tokio::task::yield_now().await;
        }
        let received = shared.quic().read_datagram().await;
        let datagram = received.map_err(|error| shared.explain(error))?;
        if let Err(violation) = shared.datagrams.dispatch(datagram) {
            return Err(shared.fail(violation));
        }
    }
    Err(shared.explain(shared.quic().closed().await))
}
