//! One request's two halves, the same over HTTP/3 and HTTP/2.
//!
//! Given out by [`super::Tunnels::open`] and inside [`super::Request`]. Content passes through as
//! `Bytes` without copying. A half dropped before its end is reset, never cleanly ended.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hansa_core::name::NodeId;
use hansa_http3::{Code, DatagramReceiver, DatagramSender};
use http::{HeaderMap, StatusCode};

use super::error::{StreamError, to_h2};
use super::inuse::InUse;
use super::peer::Lane;

/// Most pieces handed over in one batch.
const MOST_PIECES: usize = 32;

/// A request that was opened.
#[derive(Debug)]
pub struct Stream {
    /// What we send.
    pub send: SendHalf,
    /// What comes back.
    pub recv: RecvHalf,
    /// The peer's gateway at the other end.
    pub gateway: NodeId,
    /// What carries it.
    pub transport: Lane,
}

/// The answer's head.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
}

impl Response {
    /// `Proxy-Status` (RFC 9209): why the peer's gateway refused.
    pub fn proxy_status(&self) -> Option<&str> {
        self.headers.get("proxy-status")?.to_str().ok()
    }
}

/// An HTTP/2 stream's sending side, shared so that the reading half can reset it. Locked for the
/// length of a call into h2, never across an await.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<h2::SendStream<Bytes>>>);

impl Shared {
    pub(crate) fn new(stream: h2::SendStream<Bytes>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    fn lock(&self) -> MutexGuard<'_, h2::SendStream<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self, code: Code) {
        self.lock().send_reset(to_h2(code));
    }
}

#[derive(Debug)]
enum Sender {
    H3(hansa_http3::SendStream),
    H2 { stream: Shared, pending: Bytes, ended: bool },
}

/// The sending half.
#[derive(Debug)]
pub struct SendHalf {
    inner: Sender,
    in_use: Arc<InUse>,
}

impl SendHalf {
    pub(crate) fn h3(stream: hansa_http3::SendStream, in_use: Arc<InUse>) -> Self {
        Self { inner: Sender::H3(stream), in_use }
    }

    pub(crate) fn h2(stream: Shared, in_use: Arc<InUse>, ended: bool) -> Self {
        let inner = Sender::H2 { stream, pending: Bytes::new(), ended };
        Self { inner, in_use }
    }

    /// Sends one chunk; waits until the tunnel took all of it. A dropped future leaves the framing
    /// whole, but whether the chunk was taken is then unknown: who must know uses [`Self::start`]
    /// and [`Self::ready`].
    pub async fn data(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        self.ready().await?;
        self.start(chunk);
        self.ready().await
    }

    /// Begins a chunk, to be written by [`Self::ready`]. Only after `ready` has returned.
    pub fn start(&mut self, chunk: Bytes) {
        match &mut self.inner {
            Sender::H3(stream) => stream.start(chunk),
            Sender::H2 { pending, .. } => *pending = chunk,
        }
    }

    /// Waits until the tunnel took everything begun. Cancel-safe.
    pub async fn ready(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Like [`Self::ready`], for hand-written futures.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match &mut self.inner {
            Sender::H3(stream) => stream.poll_ready(cx).map_err(StreamError::from),
            Sender::H2 { stream, pending, .. } => poll_h2(&mut stream.lock(), pending, cx),
        }
        .map_err(|error| self.in_use.explain(error))
    }

    /// Ends our side cleanly after all that was begun. Cancel-safe.
    pub async fn finish(&mut self) -> Result<(), StreamError> {
        self.ready().await?;
        match &mut self.inner {
            Sender::H3(stream) => Ok(stream.finish().await?),
            Sender::H2 { stream, ended, .. } => {
                if std::mem::replace(ended, true) {
                    return Ok(());
                }
                let mut stream = stream.lock();
                if stream.send_data(Bytes::new(), true).is_err() {
                    // It is over already; the waker is not needed to learn why.
                    let mut cx = Context::from_waker(std::task::Waker::noop());
                    return Err(why_closed(&mut stream, &mut cx));
                }
                Ok(())
            }
        }
    }

    /// Ends our side at once and says why. Over HTTP/2 this ends both sides.
    pub fn reset(&mut self, code: Code) {
        match &mut self.inner {
            Sender::H3(stream) => stream.reset(code),
            Sender::H2 { stream, ended, .. } => {
                *ended = true;
                stream.reset(code);
            }
        }
    }

    /// Completes when the peer reads no more (with its code) or the stream is lost. Needs no further
    /// call on `self`; over HTTP/2 it must not be awaited while [`Self::ready`] is.
    pub async fn stopped(&mut self) -> StreamError {
        match &mut self.inner {
            Sender::H3(stream) => match stream.stopped().await {
                Ok(Some(Code::H3_REQUEST_REJECTED)) => StreamError::Rejected,
                Ok(Some(code)) => StreamError::Reset(code),
                // All of it was acknowledged: nothing can go wrong with it any more.
                Ok(None) => std::future::pending().await,
                Err(error) => error.into(),
            },
            Sender::H2 { stream, .. } => match poll_fn(|cx| stream.lock().poll_reset(cx)).await {
                Ok(h2::Reason::REFUSED_STREAM) => StreamError::Rejected,
                Ok(reason) => StreamError::Reset(super::error::from_h2(reason)),
                Err(error) => self.in_use.explain(error.into()),
            },
        }
    }
}

fn poll_h2(
    stream: &mut h2::SendStream<Bytes>,
    pending: &mut Bytes,
    cx: &mut Context<'_>,
) -> Poll<Result<(), StreamError>> {
    while !pending.is_empty() {
        stream.reserve_capacity(pending.len());
        // Capacity already granted is not announced again by poll_capacity.
        let granted = match stream.capacity() {
            0 => match ready!(stream.poll_capacity(cx)) {
                Some(Ok(granted)) => granted,
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(why_closed(stream, cx))),
            },
            granted => granted,
        };
        let piece = pending.split_to(granted.min(pending.len()));
        if !piece.is_empty() && stream.send_data(piece, false).is_err() {
            *pending = Bytes::new();
            return Poll::Ready(Err(why_closed(stream, cx)));
        }
    }
    Poll::Ready(Ok(()))
}

fn why_closed(stream: &mut h2::SendStream<Bytes>, cx: &mut Context<'_>) -> StreamError {
    match stream.poll_reset(cx) {
        Poll::Ready(Ok(h2::Reason::REFUSED_STREAM)) => StreamError::Rejected,
        Poll::Ready(Ok(reason)) => StreamError::Reset(super::error::from_h2(reason)),
        Poll::Ready(Err(error)) => error.into(),
        Poll::Pending => StreamError::Reset(Code::H3_REQUEST_CANCELLED),
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        // The HTTP/3 half resets itself.
        if let Sender::H2 { stream, ended: false, .. } = &self.inner {
            stream.reset(Code::H3_REQUEST_CANCELLED);
        }
    }
}

#[derive(Debug)]
enum Receiver {
    H3(Box<hansa_http3::RecvStream>),
    H2 { head: Option<h2::client::ResponseFuture>, body: Option<h2::RecvStream>, stream: Option<Shared> },
}

/// The receiving half.
#[derive(Debug)]
pub struct RecvHalf {
    inner: Receiver,
    in_use: Arc<InUse>,
}

impl RecvHalf {
    pub(crate) fn h3(stream: hansa_http3::RecvStream, in_use: Arc<InUse>) -> Self {
        Self { inner: Receiver::H3(Box::new(stream)), in_use }
    }

    pub(crate) fn h2_answer(head: h2::client::ResponseFuture, stream: Shared, in_use: Arc<InUse>) -> Self {
        let inner = Receiver::H2 { head: Some(head), body: None, stream: Some(stream) };
        Self { inner, in_use }
    }

    pub(crate) fn h2_request(mut body: h2::RecvStream, in_use: Arc<InUse>) -> Self {
        in_use.reads(&mut body);
        Self { inner: Receiver::H2 { head: None, body: Some(body), stream: None }, in_use }
    }

    /// Waits for the answer's head: once, by the side that asked, before [`Self::data`].
    pub async fn response(&mut self) -> Result<Response, StreamError> {
        let answer = self.head().await;
        answer.map_err(|error| self.in_use.explain(error))
    }

    async fn head(&mut self) -> Result<Response, StreamError> {
        match &mut self.inner {
            Receiver::H3(stream) => {
                let head = stream.response().await?;
                Ok(Response { status: head.status, headers: head.headers })
            }
            Receiver::H2 { head, body, .. } => {
                let answer = head.as_mut().ok_or_else(twice)?;
                let answer = answer.await;
                *head = None;
                let (parts, mut stream) = answer?.into_parts();
                self.in_use.reads(&mut stream);
                *body = Some(stream);
                Ok(Response { status: parts.status, headers: parts.headers })
            }
        }
    }

    /// The next piece, never empty; `None` at the clean end. Cancel-safe.
    pub async fn data(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Like [`Self::data`], for hand-written futures.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        let came = self.poll_piece(cx).map_err(|error| self.in_use.explain(error));
        self.in_use.read(matches!(came, Poll::Ready(Ok(Some(_)))));
        came
    }

    /// All pieces that have already arrived, up to a bound; `false` at the clean end. Cancel-safe.
    pub async fn batch(&mut self, batch: &mut Vec<Bytes>) -> Result<bool, StreamError> {
        let in_use = self.in_use.clone();
        let came = poll_fn(|cx| {
            let came = match &mut self.inner {
                Receiver::H3(stream) => stream.poll_batch(cx, batch).map_err(StreamError::from),
                Receiver::H2 { .. } => self.poll_pieces(cx, batch),
            };
            if came.is_pending() {
                in_use.read(false);
            }
            came
        });
        let came = came.await.map_err(|error| in_use.explain(error));
        in_use.read(matches!(came, Ok(true)));
        came
    }

    /// Completes when this side held too much for too long and must end. Cancel-safe.
    pub async fn evicted(&self) {
        poll_fn(|cx| self.in_use.poll_evicted(cx)).await;
    }

    fn poll_pieces(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, StreamError>> {
        while batch.len() < MOST_PIECES {
            match self.poll_piece(cx) {
                Poll::Ready(Ok(Some(piece))) => batch.push(piece),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // The end is told again to who asks again.
                Poll::Pending | Poll::Ready(Ok(None)) if !batch.is_empty() => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        match &mut self.inner {
            Receiver::H3(stream) => stream.poll_data(cx).map_err(StreamError::from),
            Receiver::H2 { body, .. } => {
                let Some(stream) = body else { return Poll::Ready(Err(twice())) };
                loop {
                    let Some(piece) = ready!(stream.poll_data(cx)) else { return Poll::Ready(Ok(None)) };
                    let piece = piece?;
                    // Handed over now: who does not ask for more gets no more than a window.
                    stream.flow_control().release_capacity(piece.len())?;
                    if !piece.is_empty() {
                        return Poll::Ready(Ok(Some(piece)));
                    }
                }
            }
        }
    }

    /// Reads no more and says why. Over HTTP/2 this ends both sides where we asked.
    pub fn stop(&mut self, code: Code) {
        match &mut self.inner {
            Receiver::H3(stream) => stream.stop(code),
            Receiver::H2 { stream, body, head } => {
                if let Some(stream) = stream {
                    stream.reset(code);
                }
                (*body, *head) = (None, None);
            }
        }
    }

    /// HTTP datagrams of this stream (RFC 9297), given out once. `None` over HTTP/2, where capsules
    /// in the stream carry them.
    pub fn datagrams(&mut self) -> Option<(DatagramSender, DatagramReceiver)> {
        match &mut self.inner {
            Receiver::H3(stream) => stream.datagrams(),
            Receiver::H2 { .. } => None,
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        // What was not read is gone with it.
        self.in_use.read(false);
    }
}

fn twice() -> StreamError {
    StreamError::Protocol("the answer's head is read once, before its content".to_owned())
}
