//! The SPIFFE bundle endpoint: the own bundle over HTTPS, for federations that are not hansa's.
//!
//! Run by `controller` where `bundleEndpoint` is configured. The server shows the controller's own
//! certificate (profile `https_spiffe` of SPIFFE Federation 5.2.2); clients need none, because a
//! bundle is public. It answers every path alike and never anything but the bundle.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_runtime::tasks::Tasks;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::authority::Authority;
use crate::listen::BindError;

const MOST_CONNECTIONS: usize = 64;
/// For the handshake and one answer.
const LIFE: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound endpoint that does not serve yet.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
}

impl Endpoint {
    /// Binds the address.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let listener = TcpListener::bind(addr).await;
        Ok(Self { listener: listener.map_err(|source| BindError { addr, source })? })
    }

    /// Serves until the end of `tasks`.
    ///
    /// # Errors
    /// Never; the type fits critical tasks.
    pub async fn run(self, authority: Authority, tasks: Tasks) -> Result<(), Infallible> {
        let config = authority.tls().server_without_client_auth(&[b"http/1.1"]);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let stop = tasks.token();
        loop {
            let next = async { (Arc::clone(&room).acquire_owned().await, self.listener.accept().await) };
            let Some((permit, accepted)) = stop.run_until_cancelled(next).await else { return Ok(()) };
            let Ok((stream, from)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (acceptor, authority, stop) = (acceptor.clone(), authority.clone(), stop.clone());
            tasks.spawn("bundle-endpoint", async move {
                let served = tokio::time::timeout(LIFE, serve(stream, acceptor, authority));
                if let Some(Ok(Err(error))) = stop.run_until_cancelled(served).await {
                    debug!(%from, error, "a question for the bundle ended");
                }
                drop(permit);
            });
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, authority: Authority) -> Result<(), String> {
    let stream = acceptor.accept(stream).await.map_err(|e| e.to_string())?;
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.method(), &authority);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    let server = server.timer(TokioTimer::new()).keep_alive(false);
    server.serve_connection(TokioIo::new(stream), service).await.map_err(|e| e.to_string())
}

fn answer(method: &Method, authority: &Authority) -> Response<Full<Bytes>> {
    let known = matches!(*method, Method::GET | Method::HEAD);
    let body = if known { authority.bundle().borrow().to_json() } else { String::new() };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    if !known {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    }
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
