//! The receiving half of a request stream: frames in, heads, content and
//! trailers out. Content is handed over as it lies in the QUIC packets, without
//! copying. Judges the order and size of frames; never answers by itself.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::code::Code;
use crate::datagram::{self, DatagramReceiver, DatagramSender};
use crate::error::{StreamError, Violation};
use crate::frame::{Decoded, Decoder};
use crate::message::{self, RequestHead, ResponseHead};
use crate::qpack::{self, QpackError};
use crate::role::Role;
use crate::shared::Shared;

mod rules;

use rules::{Phase, Rules};

/// Informational answers taken before the final one.
const MAX_INFORMATIONAL: usize = 16;
/// Packets' worth of content taken in one turn by [`RecvStream::poll_batch`].
const BATCH: usize = 32;

/// The receiving half of a request stream.
#[derive(Debug)]
pub struct RecvStream {
    inner: quinn::RecvStream,
    shared: Arc<Shared>,
    /// What was received but not yet decoded; part of one packet.
    chunk: Bytes,
    decoder: Decoder,
    rules: Rules,
    request: Request,
    trailers: Option<HeaderMap>,
    datagrams: Option<(DatagramSender, DatagramReceiver)>,
    datagrams_given: bool,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The peer ended its side and all of it was read.
    Clean,
    /// Reset, stopped or broken.
    Broken,
}

/// What the request was, as far as it decides how to read the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Not known yet (responder).
    Unknown,
    /// A 2xx makes a tunnel.
    Connect,
    /// The answer has no content whatever its fields say.
    Head,
    /// Anything else.
    Other,
}

impl Request {
    pub(crate) fn of(method: &Method) -> Self {
        match *method {
            Method::CONNECT => Self::Connect,
            Method::HEAD => Self::Head,
            _ => Self::Other,
        }
    }
}

enum Event {
    Data(Bytes),
    Headers(Bytes),
}

impl RecvStream {
    pub(crate) fn new(inner: quinn::RecvStream, shared: Arc<Shared>, request: Request) -> Self {
        let rules = Rules::new(shared.role, &shared.config);
        Self {
            inner,
            shared,
            chunk: Bytes::new(),
            decoder: Decoder::default(),
            rules,
            request,
            trailers: None,
            datagrams: None,
            datagrams_given: false,
            end: End::Open,
        }
    }

    /// The QUIC stream id.
    pub fn id(&self) -> u64 {
        self.inner.id().into()
    }

    /// Waits for the final answer (requester). Informational ones are skipped.
    /// Says [`StreamError::Rejected`] when the peer's GOAWAY left this request
    /// out. Cancel-safe. To be called once, before [`Self::data`].
    pub async fn response(&mut self) -> Result<ResponseHead, StreamError> {
        if self.shared.role == Role::Responder || self.rules.phase != Phase::Head {
            return Err(StreamError::ClosedLocally);
        }
        let id = self.id();
        let mut goaway = self.shared.peer_goaway.subscribe();
        tokio::select! {
            biased;
            head = self.final_head() => head,
            _ = goaway.wait_for(|limit| limit.is_some_and(|limit| id >= limit)) => {
                self.stop(Code::H3_REQUEST_CANCELLED);
                Err(StreamError::Rejected)
            }
        }
    }

    async fn final_head(&mut self) -> Result<ResponseHead, StreamError> {
        for _ in 0..MAX_INFORMATIONAL {
            let head = self.section(ResponseHead::decode).await?;
            if head.status.is_informational() {
                continue;
            }
            self.rules.phase = match self.request {
                Request::Connect if head.status.is_success() => Phase::Tunnel,
                _ => Phase::Body,
            };
            let empty = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
            if self.request == Request::Other && !empty.contains(&head.status) {
                self.expect_content(&head.headers)?;
            }
            return Ok(head);
        }
        let code = Code::H3_EXCESSIVE_LOAD;
        Err(self.fail(Violation::stream(code, "too many informational answers")))
    }

    /// Reads the head of a request (responder).
    pub(crate) async fn request(&mut self) -> Result<RequestHead, StreamError> {
        let head = self.section(RequestHead::decode).await?;
        if head.protocol.is_some() && !self.shared.config.extended_connect {
            let code = Code::H3_MESSAGE_ERROR;
            return Err(self.fail(Violation::stream(code, "extended CONNECT is off")));
        }
        self.request = Request::of(&head.method);
        self.rules.phase = match head.is_connect() {
            true => Phase::Tunnel,
            false => Phase::Body,
        };
        if !head.is_connect() {
            self.expect_content(&head.headers)?;
        }
        if head.protocol.is_some() {
            // At once, or the datagrams right behind the head would be lost.
            self.datagrams = Some(datagram::open(&self.shared, self.id() >> 2));
        }
        Ok(head)
    }

    fn expect_content(&mut self, headers: &HeaderMap) -> Result<(), StreamError> {
        match message::content_length(headers) {
            Ok(length) => self.rules.content = length,
            Err(reason) => return Err(self.malformed(reason)),
        }
        Ok(())
    }

    /// Waits for one head and decodes it.
    async fn section<T>(
        &mut self,
        decode: fn(&[qpack::Field<'_>]) -> Result<T, message::Malformed>,
    ) -> Result<T, StreamError> {
        match poll_fn(|cx| self.poll_event(cx)).await? {
            Some(Event::Headers(block)) => self.decode(&block, decode),
            // `Rules` lets no DATA through before the head.
            Some(Event::Data(_)) => Err(StreamError::ClosedLocally),
            None => Err(self.fail(match self.shared.role {
                Role::Requester => {
                    Violation::stream(Code::H3_MESSAGE_ERROR, "stream ended without an answer")
                }
                Role::Responder => {
                    Violation::stream(Code::H3_REQUEST_INCOMPLETE, "stream ended without a request")
                }
            })),
        }
    }

    fn decode<T>(
        &mut self,
        block: &[u8],
        decode: fn(&[qpack::Field<'_>]) -> Result<T, message::Malformed>,
    ) -> Result<T, StreamError> {
        let limits = self.shared.field_limits();
        let fields = qpack::decode(block, limits).map_err(|error| match error {
            QpackError::Invalid => {
                let code = Code::QPACK_DECOMPRESSION_FAILED;
                self.fail(Violation::connection(code, "bad field section"))
            }
            QpackError::TooLarge => self.fail(rules::HEAD_TOO_LARGE),
        })?;
        decode(&fields).map_err(|reason| self.malformed(reason))
    }

    fn malformed(&mut self, reason: &'static str) -> StreamError {
        self.fail(Violation::stream(Code::H3_MESSAGE_ERROR, reason))
    }

    /// The next piece of content, never empty; `None` at the clean end (or when
    /// trailers came). Cancel-safe.
    #[inline]
    pub async fn data(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Like [`Self::data`], for hand-written futures.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        loop {
            match ready!(self.poll_event(cx))? {
                Some(Event::Data(piece)) => return Poll::Ready(Ok(Some(piece))),
                None => return Poll::Ready(Ok(None)),
                Some(Event::Headers(block)) => {
                    self.rules.phase = Phase::Tail;
                    self.trailers = Some(self.decode(&block, message::decode_trailers)?);
                }
            }
        }
    }

    /// Takes all content that has already arrived, at most 32 packets of it, in one turn: what is
    /// written on in one go costs a fraction of what single pieces do. `false` at the clean end.
    /// Inside a tunnel only; elsewhere one piece at a time.
    pub fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, StreamError>> {
        if self.rules.phase != Phase::Tunnel || self.end != End::Open || !self.chunk.is_empty() {
            let piece = ready!(self.poll_data(cx))?;
            batch.extend(piece.clone());
            return Poll::Ready(Ok(piece.is_some()));
        }
        while batch.is_empty() {
            let mut chunks = [const { Bytes::new() }; BATCH];
            let read = pin!(self.inner.read_chunks(&mut chunks)).poll(cx);
            match ready!(read) {
                Ok(Some(read)) => {
                    for chunk in &mut chunks[..read] {
                        self.unpack(chunk, batch)?;
                    }
                }
                Ok(None) => {
                    self.clean_end()?;
                    return Poll::Ready(Ok(false));
                }
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Takes the content out of a chunk of the tunnel, to its last byte.
    fn unpack(&mut self, chunk: &mut Bytes, batch: &mut Vec<Bytes>) -> Result<(), StreamError> {
        loop {
            let rules = &mut self.rules;
            match self.decoder.decode(chunk, |kind, length| rules.judge(kind, length)) {
                Ok(Decoded::Data(piece)) => {
                    self.rules.earn(piece.len());
                    batch.push(piece);
                }
                // The rules let no other frame through inside a tunnel.
                Ok(Decoded::Frame(..) | Decoded::NeedMore) => return Ok(()),
                Err(violation) => return Err(self.fail(violation)),
            }
        }
    }

    /// The trailers, if any came. To be asked after [`Self::data`] gave `None`.
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Both halves of this stream's datagrams (RFC 9297); given out once.
    pub fn datagrams(&mut self) -> Option<(DatagramSender, DatagramReceiver)> {
        if std::mem::replace(&mut self.datagrams_given, true) {
            return None;
        }
        let given = self.datagrams.take();
        Some(given.unwrap_or_else(|| datagram::open(&self.shared, self.id() >> 2)))
    }

    /// Reads no more and tells the peer why. A second stop is ignored.
    pub fn stop(&mut self, code: Code) {
        self.end = End::Broken;
        self.chunk = Bytes::new();
        // An error says that the stream is already over, which is as wanted.
        let _ = self.inner.stop(code.quic());
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, StreamError>> {
        loop {
            match self.end {
                End::Open => {}
                End::Clean => return Poll::Ready(Ok(None)),
                End::Broken => return Poll::Ready(Err(StreamError::ClosedLocally)),
            }
            let rules = &mut self.rules;
            let rule = |kind, length| rules.judge(kind, length);
            match self.decoder.decode(&mut self.chunk, rule) {
                Ok(Decoded::Data(piece)) => {
                    self.rules.earn(piece.len());
                    return Poll::Ready(Ok(Some(Event::Data(piece))));
                }
                Ok(Decoded::Frame(_, block)) => return Poll::Ready(Ok(Some(Event::Headers(block)))),
                Ok(Decoded::NeedMore) => {}
                Err(violation) => return Poll::Ready(Err(self.fail(violation))),
            }
            let max = self.shared.config.max_chunk;
            let read = pin!(self.inner.read_chunk(max, true)).poll(cx);
            match ready!(read) {
                Ok(Some(chunk)) => self.chunk = chunk.bytes,
                Ok(None) => return Poll::Ready(self.clean_end()),
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
    }

    /// The peer ended its side cleanly; that must fit what it announced.
    fn clean_end(&mut self) -> Result<Option<Event>, StreamError> {
        if !self.decoder.at_boundary() {
            let code = Code::H3_FRAME_ERROR;
            return Err(self.fail(Violation::connection(code, "stream ended inside a frame")));
        }
        if self.rules.content.is_some_and(|left| left > 0) {
            return Err(self.malformed("less content than announced"));
        }
        self.end = End::Clean;
        Ok(None)
    }

    fn lost(&mut self, error: quinn::ReadError) -> StreamError {
        self.end = End::Broken;
        match error {
            quinn::ReadError::ConnectionLost(error) => StreamError::Connection(self.shared.explain(error)),
            other => other.into(),
        }
    }

    fn fail(&mut self, violation: Violation) -> StreamError {
        self.stop(violation.code);
        self.shared.judge(violation)
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if self.end == End::Open {
            self.stop(match (self.shared.role, self.rules.phase) {
                // An answer may well be complete before all of the request
                // was read (RFC 9114 4.1).
                (Role::Responder, Phase::Body) => Code::H3_NO_ERROR,
                _ => Code::H3_REQUEST_CANCELLED,
            });
        }
    }
}
