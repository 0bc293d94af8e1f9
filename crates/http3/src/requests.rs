//! The responder's accept side: takes request streams, reads their heads beside
//! each other under a deadline, queues them. One slow head holds up nobody; at
//! most `accept_queue` are being read or waiting.

use std::convert::Infallible;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::timeout;

use crate::code::Code;
use crate::error::{ConnectionError, StreamError, Violation};
use crate::message::RequestHead;
use crate::recv::{RecvStream, Request};
use crate::role::Role;
use crate::send::{RespondStream, SendStream};
use crate::shared::Shared;

type Item = (RequestHead, RespondStream, RecvStream);

/// Requests of the peer, in the order in which their heads were complete.
#[derive(Debug)]
pub struct Requests(mpsc::Receiver<Item>);

impl Requests {
    /// The next request; `None` once there will be no more: the connection has
    /// ended, or this side is the requester. Cancel-safe.
    pub async fn next(&mut self) -> Option<Item> {
        self.0.recv().await
    }
}

impl Drop for Requests {
    /// What nobody saw may be sent elsewhere.
    fn drop(&mut self) {
        self.0.close();
        while let Ok((_, respond, _)) = self.0.try_recv() {
            respond.reject();
        }
    }
}

pub(crate) fn channel(shared: &Shared) -> (mpsc::Sender<Item>, Requests) {
    let (sender, receiver) = mpsc::channel(shared.config.accept_queue.max(1));
    (sender, Requests(receiver))
}

/// Takes the peer's bidirectional streams for as long as the connection lives.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    queue: mpsc::Sender<Item>,
) -> Result<Infallible, ConnectionError> {
    if shared.role == Role::Requester {
        drop(queue);
        let accepted = shared.quic().accept_bi().await;
        accepted.map_err(|error| shared.explain(error))?;
        let code = Code::H3_STREAM_CREATION_ERROR;
        let violation = Violation::connection(code, "request stream to a requester");
        return Err(shared.fail(violation));
    }
    let mut heads = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = heads.next() => {}
            accepted = accept_one(&shared, &queue) => {
                let (permit, send, recv) = accepted?;
                let send = SendStream::new(send, shared.clone());
                let recv = RecvStream::new(recv, shared.clone(), Request::Unknown);
                match permit {
                    Some(permit) if shared.take(send.id()) => {
                        heads.push(read_head(&shared, &queue, permit, (send, recv)));
                    }
                    _ => reject(send, recv),
                }
            }
        }
    }
}

/// The next stream, with a place in the queue unless it is to be rejected.
async fn accept_one(
    shared: &Shared,
    queue: &mpsc::Sender<Item>,
) -> Result<(Option<OwnedPermit<Item>>, quinn::SendStream, quinn::RecvStream), ConnectionError> {
    let permit = tokio::select! {
        biased;
        () = shared.gate_closed() => None,
        permit = queue.clone().reserve_owned() => permit.ok(),
    };
    let accepted = shared.quic().accept_bi().await;
    let (send, recv) = accepted.map_err(|error| shared.explain(error))?;
    Ok((permit, send, recv))
}

async fn read_head(
    shared: &Shared,
    queue: &mpsc::Sender<Item>,
    place: OwnedPermit<Item>,
    (mut send, mut recv): (SendStream, RecvStream),
) {
    match timeout(shared.config.head_timeout, recv.request()).await {
        // A place reserved before the application went away is worth nothing.
        Ok(Ok(_)) if queue.is_closed() => reject(send, recv),
        Ok(Ok(head)) => {
            place.send((head, RespondStream(send), recv));
        }
        Ok(Err(StreamError::Violation(violation))) => send.reset(violation.code),
        Ok(Err(_)) => send.reset(Code::H3_REQUEST_CANCELLED),
        Err(_) => reject(send, recv),
    }
}

fn reject(mut send: SendStream, mut recv: RecvStream) {
    recv.stop(Code::H3_REQUEST_REJECTED);
    send.reset(Code::H3_REQUEST_REJECTED);
}
