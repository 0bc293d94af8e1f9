//! The inside port: the own controller's way to peers, and what sibling gateways say to each other.
//!
//! Served to `/hansa/controller` and `/hansa/gateway/*` of the own domain alone. Between controllers
//! an inner TLS runs end to end: what passes here cannot be read here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::Role;
use hansa_identity::tls::{self, ALPN_H2, Tls};
use hansa_identity::verify::{Admit, Domains, RoleKind};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::outcome::Refusal;
use crate::plane::{Plane, Record};
use crate::splice::{H2Sink, H2Source, IoEnd, Moved, splice};
use crate::tunnel::Open;

mod join;

pub(crate) use join::fuzz as fuzz_bundle;

/// Connections at once.
const CONNECTIONS: usize = 128;
/// Streams of one connection at once.
const STREAMS: u32 = 256;
/// Both handshakes together.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// What siblings ask for.
pub(crate) const SIBLING: &str = "sibling.hansa.internal:443";

/// A sibling asks for its addresses back; the answer is that they are its own.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Who asks, by its certificate.
    pub(crate) sibling: NodeId,
    /// Answered once its addresses are free.
    pub(crate) released: oneshot::Sender<()>,
    /// Ends the connection it asks on: it then has to ask again.
    pub(crate) hangup: CancellationToken,
}

/// Opens the port.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the tasks shut down.
pub(crate) async fn run(plane: Arc<Plane>, tls: Tls, listener: TcpListener, asks: mpsc::Sender<Ask>) {
    let domain = tls.keys().id().trust_domain().clone();
    let admit = Admit::roles(Domains::one(domain), [RoleKind::Controller, RoleKind::Gateway]);
    let acceptor = TlsAcceptor::from(Arc::new(tls.server(admit, &[ALPN_H2])));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "relay accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (each, acceptor, asks) = (plane.clone(), acceptor.clone(), asks.clone());
        plane.tasks.spawn_until_shutdown("relay", async move {
            if let Err(error) = serve(each, acceptor, stream, asks).await {
                tracing::debug!(%error, "relay connection ended");
            }
            drop(place);
        });
    }
}

async fn serve(
    plane: Arc<Plane>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    asks: mpsc::Sender<Ask>,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let shake = async {
        let stream = acceptor.accept(stream).await.map_err(|e| e.to_string())?;
        let certs = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let id = tls::peer_id(certs).map_err(|e| e.to_string())?;
        let role = id.role().ok_or("not one of our servers")?;
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(STREAMS).max_header_list_size(512 << 10);
        builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20);
        let connection = builder.handshake::<_, Bytes>(stream).await.map_err(|e| e.to_string())?;
        Ok::<_, String>((role, connection))
    };
    let shaken = tokio::time::timeout(HANDSHAKE, shake).await;
    let (role, mut connection) = shaken.map_err(|_| "the handshake took too long")??;
    let hangup = CancellationToken::new();
    loop {
        let next = hangup.run_until_cancelled(connection.accept()).await;
        let Some(request) = next.flatten() else { return Ok(()) };
        let (request, respond) = request.map_err(|e| e.to_string())?;
        let (each, role, asks, hangup) = (plane.clone(), role.clone(), asks.clone(), hangup.clone());
        plane.tasks.spawn_until_shutdown("relay-request", async move {
            answer(&each, &role, (request, respond), (asks, hangup)).await;
        });
    }
}

async fn answer(
    plane: &Plane,
    role: &Role,
    (request, respond): (Request<h2::RecvStream>, SendResponse<Bytes>),
    (asks, hangup): (mpsc::Sender<Ask>, CancellationToken),
) {
    let authority = request.uri().authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
    let peer = authority.strip_prefix("controller.").and_then(|r| r.strip_suffix(".hansa.internal:443"));
    match (role, authority.as_str(), peer) {
        (Role::Gateway(id), SIBLING, _) => {
            let (released, wait) = oneshot::channel();
            let asked = asks.send(Ask { sibling: id.clone(), released, hangup }).await;
            match (asked, wait.await) {
                (Ok(()), Ok(())) => drop(reply(respond, StatusCode::OK, None)),
                _ => refuse(respond, &Refusal::no_endpoint("going away".to_owned())),
            }
        }
        (Role::Controller, "join.hansa.internal:443", _) => match join::dial(request.headers()).await {
            Ok(stream) => carry(plane, request, respond, stream).await,
            Err(cause) => refuse(respond, &Refusal::no_endpoint(cause)),
        },
        (Role::Controller, _, Some(peer)) => match peer.parse::<ClusterId>() {
            Ok(peer) => to_peer(plane, &peer, request, respond).await,
            Err(error) => refuse(respond, &Refusal::bad_request(error.to_string())),
        },
        _ => refuse(respond, &Refusal::denied("not for this certificate".to_owned())),
    }
}

/// The own controller to the controller of a peer, through a tunnel.
async fn to_peer(
    plane: &Plane,
    peer: &ClusterId,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let head = Open { authority: crate::inbound::CONTROLLER.to_owned(), ..Open::default() };
    let mut stream = match plane.tunnels.open(peer, head).await {
        Ok(stream) => stream,
        Err(error) => return refuse(respond, &Refusal::no_endpoint(error.to_string())),
    };
    let limit = plane.limits.answer_timeout.get();
    match tokio::time::timeout(limit, stream.recv.response()).await {
        Ok(Ok(response)) if response.status.is_success() => {}
        Ok(Ok(response)) => {
            let why = response.proxy_status().unwrap_or_default();
            let details = format!("{peer} answered {} {why}", response.status.as_u16());
            return refuse(respond, &Refusal::no_endpoint(details));
        }
        Ok(Err(error)) => return refuse(respond, &Refusal::no_endpoint(error.to_string())),
        Err(_) => return refuse(respond, &Refusal::dial_timeout(format!("{peer} does not answer"))),
    }
    let Some(sink) = reply(respond, StatusCode::OK, None) else { return };
    let mut record = Record::new("control", format!("controller of {peer}"), "controller".to_owned());
    record.peer = peer.to_string();
    let (mut source, mut sink) = (H2Source(request.into_body()), H2Sink(sink));
    let service = (&mut stream.recv, &mut stream.send);
    let outcome = splice((&mut source, &mut sink), service, &Moved::default(), &plane.bounds()).await;
    tracing::debug!(peer = %peer, outcome = outcome.label(), "controller link ended");
}

async fn carry<T>(plane: &Plane, request: Request<h2::RecvStream>, respond: SendResponse<Bytes>, stream: T)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send,
{
    let Some(sink) = reply(respond, StatusCode::OK, None) else { return };
    let mut service = IoEnd::new(stream);
    let (mut source, mut sink) = (H2Source(request.into_body()), H2Sink(sink));
    let ends = (&mut service.source, &mut service.sink);
    splice((&mut source, &mut sink), ends, &Moved::default(), &plane.bounds()).await;
}

fn refuse(respond: SendResponse<Bytes>, refusal: &Refusal) {
    let mut headers = HeaderMap::new();
    if let Ok(value) = refusal.proxy_status("relay").parse() {
        headers.insert("proxy-status", value);
    }
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if let Some(mut stream) = reply(respond, status, Some(headers)) {
        // Whoever asked may be gone.
        let _ = stream.send_data(Bytes::new(), true);
    }
}

fn reply(
    mut respond: SendResponse<Bytes>,
    status: StatusCode,
    headers: Option<HeaderMap>,
) -> Option<h2::SendStream<Bytes>> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers.unwrap_or_default();
    respond.send_response(response, false).ok()
}
