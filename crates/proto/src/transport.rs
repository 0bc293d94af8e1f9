//! gRPC over streams that the caller has opened and secured.
//!
//! Called by the feed, the enrolment link and the controller. Never dials, never does TLS.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tower::service_fn;

/// An HTTP/2 PING after so long without traffic.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The connection is lost if the PING is not answered in time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// One channel over one stream; when the stream ends, so does the channel.
pub async fn client<T>(io: T) -> Result<Channel, tonic::transport::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // The name is never resolved: the stream is there already, and TLS was checked by its maker.
    let endpoint = Endpoint::from_static("http://hansa.internal")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let io = Arc::new(Mutex::new(Some(io)));
    let connector = service_fn(move |_| {
        let io = io.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || std::io::Error::new(std::io::ErrorKind::NotConnected, "the stream has ended");
        std::future::ready(io.map(TokioIo::new).ok_or_else(gone))
    });
    endpoint.connect_with_connector(connector).await
}

/// A gRPC server with hansa's limits, to be given services and `serve_with_incoming`.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(16)
        .http2_max_header_list_size(16 * 1024)
}

/// A stream with what is known of the other side; handlers find `I` in the request's extensions.
pub struct Known<T, I> {
    io: T,
    info: I,
}

impl<T, I> Known<T, I> {
    /// Joins a stream with what is known of it.
    pub fn new(io: T, info: I) -> Self {
        Self { io, info }
    }
}

impl<T, I: Clone + Send + Sync + 'static> Connected for Known<T, I> {
    type ConnectInfo = I;
    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<T: AsyncRead + Unpin, I: Unpin> AsyncRead for Known<T, I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin, I: Unpin> AsyncWrite for Known<T, I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
