//! The controller's one port: TCP, TLS chosen by the ALPN offered, gRPC inside.
//!
//! `h2`: mutual TLS for own gateways and DNS servers and for peers' controllers. `hansa-enroll` and
//! `hansa-join`: server authentication only. Every connection has a deadline for its handshake and a
//! place among a bounded number, of which strangers get a few; a live one ends at once when its
//! certificate is no longer trusted.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hansa_core::code::config;
use hansa_core::spiffe::SpiffeId;
use hansa_identity::tls::{self, ALPN_ENROLL, ALPN_H2, ALPN_JOIN};
use hansa_identity::token::channel_binding;
use hansa_identity::verify::{self, Admit, Domains, RoleKind, Side};
use hansa_runtime::tasks::Tasks;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::Service;
use tracing::{debug, info, warn};

use crate::authority::Authority;

const MOST_CONNECTIONS: usize = 4_096;
/// Most connections at once through each door that asks for no certificate: whoever knocks there is
/// anybody, and must not take the places of members.
pub const MOST_STRANGERS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Enrolling and joining are one question and one answer.
const SHORT_LIFE: Duration = Duration::from_secs(20);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PING: Duration = Duration::from_secs(5);
const MOST_STREAMS: u32 = 64;

/// How many connections there is room for at once.
#[derive(Debug, Clone, Copy)]
struct Places {
    all: usize,
    /// Of these, through each door that asks for no certificate.
    strangers: usize,
}

/// Which door a connection came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Mutual TLS.
    Members,
    /// Server authentication only, to enrol.
    Enroll,
    /// Server authentication only, to join.
    Join,
}

/// Who is on the other side; in the extensions of every request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The verified id; `None` where no certificate is asked for.
    pub id: Option<SpiffeId>,
    /// The door.
    pub door: Door,
    /// What is the same on both ends of this TLS connection and nowhere else.
    pub binding: [u8; 32],
}

/// Bound listeners that do not serve yet.
#[derive(Debug)]
pub struct Listen {
    listeners: Vec<TcpListener>,
    places: Places,
}

/// An address that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{addr}: {source}")]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// Why.
    pub source: io::Error,
}

impl Listen {
    /// Binds all addresses, or none.
    ///
    /// # Errors
    /// The first address that could not be had.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for addr in addresses {
            let bound = TcpListener::bind(addr).await;
            listeners.push(bound.map_err(|source| BindError { addr: *addr, source })?);
        }
        Ok(Self { listeners, places: Places { all: MOST_CONNECTIONS, strangers: MOST_STRANGERS } })
    }

    /// The addresses bound, with their real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// Serves `routes` until the end of `tasks`.
    pub async fn run(self, authority: Authority, routes: Routes, tasks: Tasks) -> Result<(), Infallible> {
        let server = Server {
            doors: Arc::new(Doors::new(&authority, self.places.strangers)),
            authority,
            routes: routes.prepare(),
            stop: tasks.token(),
            tasks,
        };
        let room = Arc::new(Semaphore::new(self.places.all));
        let loops =
            self.listeners.into_iter().map(|listener| accept(listener, server.clone(), Arc::clone(&room)));
        futures::future::join_all(loops).await;
        Ok(())
    }
}

struct Doors {
    members: Arc<rustls::ServerConfig>,
    enroll: Arc<rustls::ServerConfig>,
    join: Arc<rustls::ServerConfig>,
    admit: Admit,
    enrolling: Arc<Semaphore>,
    joining: Arc<Semaphore>,
}

impl Doors {
    fn new(authority: &Authority, strangers: usize) -> Self {
        let tls = authority.tls();
        let own = Domains::one(authority.domain().clone());
        let peers = Domains::AnyBut(authority.domain().clone());
        let admit = Admit::roles(own, [RoleKind::Gateway, RoleKind::Dns])
            .or(Admit::roles(peers, [RoleKind::Controller]));
        Self {
            members: Arc::new(tls.server(admit.clone(), &[ALPN_H2])),
            enroll: Arc::new(tls.server_without_client_auth(&[ALPN_ENROLL])),
            join: Arc::new(tls.server_without_client_auth(&[ALPN_JOIN])),
            admit,
            enrolling: Arc::new(Semaphore::new(strangers)),
            joining: Arc::new(Semaphore::new(strangers)),
        }
    }

    /// A place behind this door; members need none of their own.
    fn place(&self, door: Door) -> io::Result<Option<OwnedSemaphorePermit>> {
        let places = match door {
            Door::Members => return Ok(None),
            Door::Enroll => &self.enrolling,
            Door::Join => &self.joining,
        };
        let full = |_| io::Error::other("too many connect at once without a certificate");
        Arc::clone(places).try_acquire_owned().map(Some).map_err(full)
    }

    fn choose(&self, offered: &[&[u8]]) -> (Door, Arc<rustls::ServerConfig>) {
        if offered.contains(&ALPN_ENROLL) {
            (Door::Enroll, Arc::clone(&self.enroll))
        } else if offered.contains(&ALPN_JOIN) {
            (Door::Join, Arc::clone(&self.join))
        } else {
            // What offers none of ours fails here, with the proper alert.
            (Door::Members, Arc::clone(&self.members))
        }
    }
}

#[derive(Clone)]
struct Server {
    doors: Arc<Doors>,
    authority: Authority,
    routes: Routes,
    stop: CancellationToken,
    tasks: Tasks,
}

async fn accept(listener: TcpListener, server: Server, room: Arc<Semaphore>) {
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let Some((permit, accepted)) = server.stop.run_until_cancelled(next).await else { return };
        match accepted {
            Ok((stream, from)) => {
                let server_of_one = server.clone();
                server.tasks.spawn("controller-connection", async move {
                    let stop = server_of_one.stop.clone();
                    stop.run_until_cancelled(server_of_one.serve(stream, from)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(code = %config::FILES_EXHAUSTED, %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Server {
    async fn serve(self, stream: TcpStream, from: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let shaken = match timeout(HANDSHAKE, self.handshake(stream)).await {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(error)) => {
                let cause = describe(&error);
                info!(%from, cause, "handshake refused");
                return;
            }
            Err(_) => {
                debug!(%from, "handshake took too long");
                return;
            }
        };
        let (door, stream, _place) = shaken;
        let caller = match caller(door, &stream) {
            Ok(caller) => caller,
            Err(cause) => {
                info!(%from, cause, "connection refused");
                return;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let life = async {
            match door {
                Door::Members => self.distrusted(&chain).await,
                Door::Enroll | Door::Join => tokio::time::sleep(SHORT_LIFE).await,
            }
        };
        let id = caller.id.clone();
        tokio::select! {
            () = self.converse(stream, caller) => {}
            () = life => {
                if let Some(id) = id {
                    info!(%id, "connection ended: its certificate is no longer trusted");
                }
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
    ) -> io::Result<(Door, TlsStream<TcpStream>, Option<OwnedSemaphorePermit>)> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        let offered: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
        let (door, config) = self.doors.choose(&offered);
        let place = self.doors.place(door)?;
        Ok((door, start.into_stream(config).await?, place))
    }

    /// Waits until the certificate would be refused: the peer was removed, the leaf denied.
    async fn distrusted(&self, chain: &[CertificateDer<'static>]) {
        let mut changed = self.authority.trust_changed();
        loop {
            // Also at first: trust may have changed since the handshake.
            let snapshot = self.authority.tls().trust().current();
            let judged = verify::check(&snapshot, &self.doors.admit, chain, Side::Client, SystemTime::now());
            if judged.is_err() || changed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn converse(&self, stream: TlsStream<TcpStream>, caller: Caller) {
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(caller.clone());
            // Routes are always ready: they hold no state of their own.
            self.routes.clone().call(request.map(tonic::body::Body::new))
        });
        let result = http2::Builder::new(Executor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(PING))
            .keep_alive_timeout(PING)
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = result {
            debug!(%error, "connection ended");
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => verify::describe(tls),
        None => error.to_string(),
    }
}

fn caller(door: Door, stream: &TlsStream<TcpStream>) -> Result<Caller, String> {
    let connection = stream.get_ref().1;
    if connection.alpn_protocol().is_none() {
        return Err("no protocol was agreed".to_owned());
    }
    let id = match door {
        Door::Members => {
            let chain = connection.peer_certificates().unwrap_or_default();
            Some(tls::peer_id(chain).map_err(|e| e.to_string())?)
        }
        Door::Enroll | Door::Join => None,
    };
    let binding = channel_binding(connection).map_err(|e| e.to_string())?;
    Ok(Caller { id, door, binding })
}

/// Lets hyper's streams run as tasks of the owned set.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, work: F) {
        self.0.spawn("controller-stream", async move {
            work.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use hansa_core::spiffe::Role;
    use hansa_identity::store::{KeyRequest, Keys};
    use hansa_identity::tls::{Pin, Tls, pinned_client, server_name};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::store::Store;

    /// So many strangers as there is room for knock and stay. How many were let in, and whether an own
    /// server still is.
    async fn crowded(places: Places, door: &[u8]) -> (usize, bool) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let life = Duration::from_secs(3_600);
        let authority = Authority::open(dir.path(), &"a".parse().unwrap(), life, store).unwrap();
        let mut listen = Listen::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        listen.places = places;
        let address = listen.addresses()[0];
        tokio::spawn(listen.run(authority.clone(), Routes::default(), Tasks::new()));
        let knock = async |client: rustls::ClientConfig| {
            let stream = TcpStream::connect(address).await?;
            TlsConnector::from(Arc::new(client)).connect(server_name(), stream).await
        };
        let bundle = authority.bundle().borrow().as_ref().clone();
        let mut strangers = Vec::new();
        for _ in 0..places.all {
            let client = pinned_client(Pin::Bundle(bundle.clone()), &[RoleKind::Controller], &[door]);
            strangers.extend(knock(client).await.ok());
        }
        let (domain, role) = (authority.domain(), Role::Gateway("g-1".parse().unwrap()));
        let request = KeyRequest::new(SpiffeId::of(domain, &role)).unwrap();
        let leaf = authority.sign(&role, request.csr()).unwrap();
        let identity = request.complete(vec![leaf]).unwrap();
        let own = Tls::new(Keys::new(identity), authority.tls().trust().clone());
        let own = own.client_to_controller(domain, &[ALPN_H2]);
        let came = timeout(Duration::from_secs(2), knock(own)).await;
        (strangers.len(), came.is_ok_and(|came| came.is_ok()))
    }

    #[tokio::test]
    async fn strangers_at_either_door_leave_room_for_members() {
        for door in [ALPN_JOIN, ALPN_ENROLL] {
            assert_eq!(crowded(Places { all: 8, strangers: 3 }, door).await, (3, true));
            // Without the bound they would take every place.
            assert_eq!(crowded(Places { all: 8, strangers: 8 }, door).await, (8, false));
        }
    }
}
