//! The sending half of a request stream: DATA frames around the caller's
//! chunks, without copying them. Also the responder's side before it has
//! answered. A half that is dropped unfinished is reset, never cleanly ended.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::code::Code;
use crate::error::StreamError;
use crate::frame::{self, MAX_HEADER, kind};
use crate::message::{self, ResponseHead};
use crate::qpack::Encoder;
use crate::role::Role;
use crate::shared::Shared;

/// The sending half of a request stream.
#[derive(Debug)]
pub struct SendStream {
    inner: quinn::SendStream,
    shared: Arc<Shared>,
    /// A frame begun but not yet taken by the connection: header and payload.
    pending: [Bytes; 2],
    ended: bool,
}

impl SendStream {
    pub(crate) fn new(inner: quinn::SendStream, shared: Arc<Shared>) -> Self {
        Self { inner, shared, pending: [Bytes::new(), Bytes::new()], ended: false }
    }

    /// The QUIC stream id.
    pub fn id(&self) -> u64 {
        self.inner.id().into()
    }

    /// Sends one chunk as a DATA frame; waits until the connection took all of
    /// it. An empty chunk sends nothing.
    ///
    /// Dropping the future never breaks the framing: what it began is written
    /// before whatever comes next. Whether the chunk was taken is then unknown;
    /// who must know uses [`Self::ready`] and [`Self::start`].
    #[inline]
    pub async fn data(&mut self, chunk: Bytes) -> Result<(), StreamError> {
        self.ready().await?;
        self.start(chunk);
        self.ready().await
    }

    /// Waits until everything begun was taken by the connection. Cancel-safe.
    #[inline]
    pub async fn ready(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Like [`Self::ready`], for hand-written futures.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            let from = match &self.pending {
                [first, _] if !first.is_empty() => 0,
                [_, second] if !second.is_empty() => 1,
                _ => return Poll::Ready(Ok(())),
            };
            let chunks = &mut self.pending[from..];
            let written = pin!(self.inner.write_chunks(chunks)).poll(cx);
            if let Err(error) = ready!(written) {
                self.pending = [Bytes::new(), Bytes::new()];
                return Poll::Ready(Err(self.explain(error)));
            }
        }
    }

    /// Begins a DATA frame around `chunk`, to be written by [`Self::ready`].
    /// To be called only after `ready` has returned; never waits.
    #[inline]
    pub fn start(&mut self, chunk: Bytes) {
        debug_assert!(self.pending.iter().all(Bytes::is_empty), "ready() first");
        if !chunk.is_empty() {
            let mut header = BytesMut::with_capacity(MAX_HEADER);
            frame::encode_header(kind::DATA, chunk.len() as u64, &mut header);
            self.pending = [header.freeze(), chunk];
        }
    }

    /// Begins HEADERS and the DATA frame behind it, so that both leave in one
    /// packet when they fit.
    pub(crate) fn start_head(&mut self, encoder: Encoder, first: Bytes) {
        let block = encoder.finish();
        let mut out = BytesMut::with_capacity(2 * MAX_HEADER + block.len());
        frame::encode_header(kind::HEADERS, block.len() as u64, &mut out);
        out.extend_from_slice(&block);
        if !first.is_empty() {
            frame::encode_header(kind::DATA, first.len() as u64, &mut out);
        }
        self.pending = [out.freeze(), first];
    }

    /// Sends trailers. Only [`Self::finish`] may follow.
    pub async fn trailers(&mut self, trailers: &HeaderMap) -> Result<(), StreamError> {
        let encoder = message::encode_trailers(trailers).map_err(StreamError::Unsendable)?;
        self.ready().await?;
        self.start_head(encoder, Bytes::new());
        self.ready().await
    }

    /// Ends our side cleanly, after everything begun was taken. Cancel-safe:
    /// may be called again. Does not wait for the peer.
    pub async fn finish(&mut self) -> Result<(), StreamError> {
        self.ready().await?;
        self.ended = true;
        self.inner.finish().map_err(|_| StreamError::ClosedLocally)
    }

    /// Ends our side at once and tells why; what was not sent yet is dropped.
    /// May follow [`Self::finish`] to take it back. A second reset is ignored.
    pub fn reset(&mut self, code: Code) {
        self.ended = true;
        self.pending = [Bytes::new(), Bytes::new()];
        // An error says that the stream is already over, which is as wanted.
        let _ = self.inner.reset(code.quic());
    }

    /// Streams of a higher priority send first; 0 is where all begin.
    pub fn set_priority(&self, priority: i32) {
        // An error says that the stream is already over.
        let _ = self.inner.set_priority(priority);
    }

    /// Completes when the peer stops reading (`Some`) or has acknowledged all
    /// up to [`Self::finish`] (`None`). Independent of `self`'s borrow.
    pub fn stopped(&self) -> impl Future<Output = Result<Option<Code>, StreamError>> + Send + Sync + 'static {
        let stopped = self.inner.stopped();
        let shared = self.shared.clone();
        async move {
            match stopped.await {
                Ok(code) => Ok(code.map(Code::from)),
                Err(quinn::StoppedError::ConnectionLost(error)) => {
                    Err(StreamError::Connection(shared.explain(error)))
                }
                Err(quinn::StoppedError::ZeroRttRejected) => Err(StreamError::ClosedLocally),
            }
        }
    }

    fn explain(&self, error: quinn::WriteError) -> StreamError {
        match error {
            quinn::WriteError::ConnectionLost(error) => StreamError::Connection(self.shared.explain(error)),
            other => other.into(),
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(match self.shared.role {
                Role::Requester => Code::H3_REQUEST_CANCELLED,
                Role::Responder => Code::H3_INTERNAL_ERROR,
            });
        }
    }
}

/// The responder's sending half before its final answer.
#[derive(Debug)]
pub struct RespondStream(pub(crate) SendStream);

impl RespondStream {
    /// The QUIC stream id.
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    /// Sends the answer; content may follow.
    pub async fn respond(self, head: &ResponseHead) -> Result<SendStream, StreamError> {
        self.respond_with(head, Bytes::new()).await
    }

    /// Sends the answer and the first content in one write.
    pub async fn respond_with(
        mut self,
        head: &ResponseHead,
        first: Bytes,
    ) -> Result<SendStream, StreamError> {
        if head.status.is_informational() {
            return Err(StreamError::Unsendable("informational status as answer"));
        }
        self.head(head, first).await?;
        Ok(self.0)
    }

    /// Sends an informational answer (1xx); the final one follows.
    pub async fn inform(&mut self, head: &ResponseHead) -> Result<(), StreamError> {
        if !head.status.is_informational() {
            return Err(StreamError::Unsendable("final status as information"));
        }
        self.head(head, Bytes::new()).await
    }

    async fn head(&mut self, head: &ResponseHead, first: Bytes) -> Result<(), StreamError> {
        let encoder = head.encode().map_err(StreamError::Unsendable)?;
        let settings = *self.0.shared.peer_settings.borrow();
        let limit = settings.and_then(|settings| settings.max_field_section);
        if limit.is_some_and(|limit| encoder.section_size() > limit) {
            return Err(StreamError::Unsendable("head exceeds the peer's limit"));
        }
        self.0.ready().await?;
        self.0.start_head(encoder, first);
        self.0.ready().await
    }

    /// Vouches that nothing of the request was processed, so that the peer may
    /// send it elsewhere.
    pub fn reject(mut self) {
        self.0.reset(Code::H3_REQUEST_REJECTED);
    }

    /// Ends the stream without an answer.
    pub fn reset(mut self, code: Code) {
        self.0.reset(code);
    }

    /// Completes when the peer no longer wants the answer; see
    /// [`SendStream::stopped`].
    pub fn stopped(&self) -> impl Future<Output = Result<Option<Code>, StreamError>> + Send + Sync + 'static {
        self.0.stopped()
    }
}
