//! HTTP/2 tunnels: the h2 crate set up for long streams, driven, probed and drained.
//!
//! Made by `dial` and `accept`; [`Handle`] is the `link`'s side of it. Either end of the TLS
//! connection may be the one that asks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Ping, PingPong};
use hansa_http3::RequestHead;
use http::{Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::budget::LEAST_RECEIVE;
use super::config::Config;
use super::error::{Cut, OpenError, StreamError};
use super::link::{Missed, lost};
use super::stream::Shared;

/// Largest DATA frame taken.
const MAX_FRAME: u32 = 64 * 1024;
const MAX_HEADERS: u32 = 64 * 1024;
/// Bytes of one stream that wait for the socket: a peer that never reads costs so much with each.
const SEND_BUFFER: usize = 128 * 1024;

/// The link's side of an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Handle {
    ask: Option<h2::client::SendRequest<Bytes>>,
    shared: Arc<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    received: AtomicU64,
    rtt_us: AtomicU64,
    leaving: CancellationToken,
    closing: CancellationToken,
    window: AtomicU32,
    resized: Notify,
}

impl Handle {
    pub(crate) fn new(ask: Option<h2::client::SendRequest<Bytes>>, shared: Arc<State>) -> Self {
        Self { ask, shared }
    }

    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_micros(self.shared.rtt_us.load(Ordering::Relaxed))
    }

    pub(crate) fn goaway(&self) {
        self.shared.leaving.cancel();
    }

    pub(crate) fn close(&self) {
        self.shared.closing.cancel();
    }

    /// The connection's receive window from now on.
    pub(crate) fn set_window(&self, window: u32) {
        self.shared.window.store(window, Ordering::Relaxed);
        self.shared.resized.notify_one();
    }

    pub(crate) fn is_going_away(&self) -> bool {
        let Some(ask) = &self.ask else { return self.shared.leaving.is_cancelled() };
        // A clone has no request of its own pending, so this asks for the connection's state alone.
        let mut cx = Context::from_waker(Waker::noop());
        matches!(ask.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Opens a request; `first` is queued behind its head.
    pub(crate) async fn open(
        &self,
        head: &RequestHead,
        first: &Bytes,
        limit: Duration,
    ) -> Result<(h2::client::ResponseFuture, Shared), Missed> {
        let ask = self.ask.clone().ok_or(Missed::Nothing)?;
        let ready = tokio::time::timeout(limit, ask.ready()).await;
        let mut ask = ready.map_err(|_| Missed::Nothing)?.map_err(|_| Missed::Nothing)?;
        if head.protocol.is_some() && !ask.is_extended_connect_protocol_enabled() {
            return Err(Missed::Final(OpenError::Invalid("the peer does no extended CONNECT".into())));
        }
        let request = request(head).map_err(|why| Missed::Final(OpenError::Invalid(why)))?;
        let (answer, mut stream) =
            ask.send_request(request, false).map_err(|error| match error.is_go_away() || error.is_io() {
                true => Missed::Nothing,
                false => Missed::Final(StreamError::from(error).into()),
            })?;
        if !first.is_empty() {
            // Within h2's send buffer: waits for the window there, and never more than 64 KiB.
            stream.reserve_capacity(first.len());
            stream.send_data(first.clone(), false).map_err(|_| lost("closed while opening"))?;
        }
        Ok((answer, Shared::new(stream)))
    }
}

fn request(head: &RequestHead) -> Result<Request<()>, String> {
    let authority = head.authority.as_deref().unwrap_or_default();
    let mut uri = Uri::builder().authority(authority);
    if let Some(scheme) = &head.scheme {
        uri = uri.scheme(scheme.as_str());
    }
    if let Some(path) = &head.path {
        uri = uri.path_and_query(path.as_str());
    }
    let uri = uri.build().map_err(|error| error.to_string())?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.headers.clone();
    if let Some(protocol) = &head.protocol {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol.as_str()));
    }
    Ok(request)
}

fn budget(config: &Config) -> usize {
    // Every stream may hold its whole window in the smallest frames.
    let streams = config.limits.streams_per_tunnel as usize;
    streams.saturating_mul(config.stream_window as usize)
}

/// The asking side over `io`; resolves before the peer has said anything.
pub(crate) async fn client<T: AsyncRead + AsyncWrite + Unpin>(
    io: Heard<T>,
    config: &Config,
) -> Result<(h2::client::SendRequest<Bytes>, h2::client::Connection<Heard<T>>), h2::Error> {
    h2::client::Builder::new()
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(LEAST_RECEIVE)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .data_frame_budget(budget(config))
        .handshake(io)
        .await
}

/// The answering side over `io`; resolves once the peer's preface is here.
pub(crate) async fn server<T: AsyncRead + AsyncWrite + Unpin>(
    io: Heard<T>,
    config: &Config,
) -> Result<h2::server::Connection<Heard<T>, Bytes>, h2::Error> {
    h2::server::Builder::new()
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(LEAST_RECEIVE)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(config.limits.streams_per_tunnel)
        .enable_connect_protocol()
        .data_frame_budget(budget(config))
        .handshake(io)
        .await
}

/// Drives the asking side until the peer has said its first word: only then has it judged us.
pub(crate) async fn proof<T: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut h2::client::Connection<Heard<T>>,
    state: &State,
) -> Result<(), h2::Error> {
    std::future::poll_fn(|cx| {
        let ended = Pin::new(&mut *connection).poll(cx);
        match (state.received.load(Ordering::Relaxed), ended) {
            (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (1.., _) => Poll::Ready(Ok(())),
            (_, Poll::Ready(Ok(()))) => Poll::Ready(Err(h2::Reason::REFUSED_STREAM.into())),
            (0, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}

/// Drives the asking side to its end.
pub(crate) async fn run_client<T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: h2::client::Connection<Heard<T>>,
    state: Arc<State>,
    every: Duration,
) -> Cut {
    let ping = connection.ping_pong();
    let probing = probe(ping, &state, every);
    tokio::pin!(probing);
    loop {
        tokio::select! {
            biased;
            () = state.closing.cancelled() => return Cut::Path("closed by us".to_owned()),
            () = state.resized.notified() => {
                connection.set_target_window_size(state.window.load(Ordering::Relaxed));
            }
            () = &mut probing => return Cut::Path("probing failed".to_owned()),
            ended = &mut connection => {
                return ended.map_or_else(cut, |()| Cut::Path("closed by the peer".to_owned()));
            }
        }
    }
}

/// Drives the answering side to its end; each request goes to `take`.
pub(crate) async fn run_server<T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: h2::server::Connection<Heard<T>, Bytes>,
    state: Arc<State>,
    every: Duration,
    mut take: impl FnMut(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>),
) -> Cut {
    let ping = connection.ping_pong();
    let probing = probe(ping, &state, every);
    tokio::pin!(probing);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            () = state.closing.cancelled() => return Cut::Path("closed by us".to_owned()),
            () = state.leaving.cancelled(), if !told => {
                told = true;
                connection.graceful_shutdown();
            }
            () = state.resized.notified() => {
                connection.set_target_window_size(state.window.load(Ordering::Relaxed));
            }
            () = &mut probing => return Cut::Path("probing failed".to_owned()),
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => take(request, respond),
                Some(Err(error)) => return cut(error),
                None => return Cut::Path("closed by the peer".to_owned()),
            },
        }
    }
}

fn cut(error: h2::Error) -> Cut {
    match StreamError::from(error) {
        StreamError::Lost(cut) => cut,
        other => Cut::Path(other.to_string()),
    }
}

/// Sends a PING whenever nothing was heard for `every`, and measures the round trip; ends only when
/// the connection has.
async fn probe(ping: Option<PingPong>, state: &State, every: Duration) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    let (mut heard, mut measured) = (0, None::<Instant>);
    loop {
        let now = state.received.load(Ordering::Relaxed);
        let quiet = std::mem::replace(&mut heard, now) == now;
        if quiet || measured.is_none_or(|at| at.elapsed() > Duration::from_secs(2)) {
            let sent = Instant::now();
            if ping.ping(Ping::opaque()).await.is_err() {
                // The connection itself says why it ended.
                return std::future::pending().await;
            }
            measured = Some(Instant::now());
            let rtt = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            state.rtt_us.store(rtt, Ordering::Relaxed);
        }
        tokio::time::sleep(every).await;
    }
}

/// A stream that counts what it has read.
#[derive(Debug)]
pub(crate) struct Heard<T> {
    io: T,
    state: Arc<State>,
}

impl<T> Heard<T> {
    pub(crate) fn new(io: T) -> (Self, Arc<State>) {
        let state = Arc::<State>::default();
        (Self { io, state: state.clone() }, state)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            self.state.received.fetch_add(count as u64, Ordering::Relaxed);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
