//! The admin endpoint: `/livez /readyz /metrics /debug/snapshot /debug/config /debug/loglevel`
//! on one address, and optionally `/livez /readyz` alone on a second one for health checkers.
//!
//! Called by each server's wiring: bind first, then run. It reads state through the closures it
//! is given and changes nothing but the log level.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::tasks::Tasks;

mod pages;

pub use pages::{Page, Pages};

/// Connections served at once on each address; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// A client must have sent its header by then, so that idle ones cannot hold all connections.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// The longest life of one connection: a scraper comes back, a stalled reader is cut.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// Pause after a failed accept, which otherwise spins while descriptors are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound admin endpoint that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    main: TcpListener,
    health: Option<TcpListener>,
    pages: Arc<Pages>,
}

/// Why the endpoint could not open.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} for the admin endpoint: {source}")]
pub struct BindError {
    /// The address as configured.
    pub addr: SocketAddr,
    /// The cause.
    pub source: io::Error,
}

/// Which pages an address serves.
#[derive(Clone, Copy, Debug)]
enum Scope {
    All,
    Health,
}

impl Admin {
    /// Binds the admin address, and the health address if there is one.
    ///
    /// # Errors
    /// [`BindError`] with the address that could not be had.
    pub async fn bind(addr: SocketAddr, health: Option<SocketAddr>, pages: Pages) -> Result<Self, BindError> {
        let main = listen(addr).await?;
        let health = match health {
            Some(addr) => Some(listen(addr).await?),
            None => None,
        };
        Ok(Self { main, health, pages: Arc::new(pages) })
    }

    /// The address bound, with the real port.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.main.local_addr()
    }

    /// The health address bound, if one was wanted.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn health_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.health.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves on `tasks` until `stop`, which is normally the end of the process rather than the
    /// beginning of the drain: an operator wants to look while it drains.
    ///
    /// # Errors
    /// Never; the type fits [`Tasks::spawn_critical`].
    pub async fn run(self, tasks: Tasks, stop: CancellationToken) -> Result<(), Infallible> {
        let main = serve(self.main, Arc::clone(&self.pages), Scope::All, &tasks, &stop);
        let health = async {
            if let Some(listener) = self.health {
                serve(listener, self.pages, Scope::Health, &tasks, &stop).await;
            }
        };
        tokio::join!(main, health);
        Ok(())
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|source| BindError { addr, source })
}

async fn serve(
    listener: TcpListener,
    pages: Arc<Pages>,
    scope: Scope,
    tasks: &Tasks,
    stop: &CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let Some((permit, accepted)) = stop.run_until_cancelled(next).await else { return };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "admin accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (pages, stop) = (Arc::clone(&pages), stop.clone());
        tasks.spawn("admin-connection", async move {
            let connection = converse(stream, pages, scope);
            // Cut at the limit or at the end of the process; both leave nothing half done.
            let limited = tokio::time::timeout(CONNECTION_LIMIT, connection);
            stop.run_until_cancelled(limited).await;
            drop(permit);
        });
    }
}

async fn converse(stream: TcpStream, pages: Arc<Pages>, scope: Scope) {
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&pages, scope, request).await) }
    });
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = result {
        debug!(%error, "admin connection ended");
    }
}

async fn answer(pages: &Pages, scope: Scope, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match scope {
        Scope::All => pages.answer(request).await,
        Scope::Health => pages.health(&request).into_response(),
    }
}

#[cfg(test)]
mod tests;
