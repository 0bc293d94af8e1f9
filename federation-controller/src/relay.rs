//! The way out: streams to other members through our own gateways, which alone reach them.
//!
//! Called by `peers` and `join`. A gateway is asked over mutual TLS with an HTTP/2 CONNECT; what runs
//! inside is encrypted end to end and none of its business. Every step has a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::reach::Reach;
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::tls::{self, ALPN_H2};
use hansa_identity::verify;
use hansa_runtime::tasks::Tasks;
use http::{Method, Request};
use rand::seq::SliceRandom;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::authority::Authority;
use crate::nodes::{Kind, Nodes};

mod stream;

use stream::H2Stream;

/// For one gateway: connect, handshake, and its answer.
const ATTEMPT: Duration = Duration::from_secs(3);

/// A stream to another member.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream to another member, of any make.
pub type Io = Box<dyn Stream>;

/// Why no stream was had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Nobody to ask.
    #[error("no gateway of this cluster is connected to its controller")]
    NoGateway,
    /// Nobody asked could help.
    #[error("{0}")]
    Unreachable(String),
}

/// Opens streams to other members.
pub trait Relay: Send + Sync {
    /// To the controller of a peer.
    fn peer<'a>(&'a self, peer: &'a ClusterId) -> BoxFuture<'a, Result<Io, RelayError>>;

    /// To the controller behind a gateway that is known by address and bundle only.
    fn join<'a>(&'a self, address: &'a str, bundle: &'a str) -> BoxFuture<'a, Result<Io, RelayError>>;
}

/// Through the gateways that are connected now.
pub struct Gateways {
    authority: Authority,
    nodes: Nodes,
    tasks: Tasks,
}

struct Way {
    gateway: NodeId,
    relay: SocketAddr,
}

impl Gateways {
    /// Through the gateways in `nodes`.
    pub fn new(authority: Authority, nodes: Nodes, tasks: Tasks) -> Self {
        Self { authority, nodes, tasks }
    }

    /// Those that reach the peer first; within that in random order, so that no one carries all.
    fn ways(&self, peer: Option<&ClusterId>) -> Vec<Way> {
        let mut ways: Vec<(bool, Way)> = Vec::new();
        for (gateway, node) in self.nodes.all(Kind::Gateway) {
            let Some(relay) = node.info.relay.filter(|_| node.session.is_some()) else { continue };
            let seen = peer.and_then(|peer| node.report.as_ref()?.peers.get(peer));
            let reaches = seen.is_some_and(|peer| peer.reach == Reach::Reachable);
            ways.push((reaches && !node.info.draining, Way { gateway, relay }));
        }
        ways.shuffle(&mut rand::rng());
        ways.sort_by_key(|way| !way.0);
        ways.into_iter().map(|way| way.1).collect()
    }

    async fn any(&self, ways: Vec<Way>, request: Request<()>) -> Result<Io, RelayError> {
        if ways.is_empty() {
            return Err(RelayError::NoGateway);
        }
        let mut causes = Vec::new();
        for way in ways {
            let attempt = timeout(ATTEMPT, self.through(&way, request.clone())).await;
            let cause = match attempt {
                Ok(Ok(stream)) => return Ok(Box::new(stream)),
                Ok(Err(cause)) => cause,
                Err(_) => "no answer in time".to_owned(),
            };
            causes.push(format!("gateway {}: {cause}", way.gateway));
        }
        Err(RelayError::Unreachable(causes.join("; ")))
    }

    async fn through(&self, way: &Way, request: Request<()>) -> Result<H2Stream, String> {
        let tcp = TcpStream::connect(way.relay).await.map_err(|e| format!("{}: {e}", way.relay))?;
        let _ = tcp.set_nodelay(true);
        let id = SpiffeId::of(self.authority.domain(), &Role::Gateway(way.gateway.clone()));
        let config = Arc::new(self.authority.tls().client_to(id, &[ALPN_H2]));
        let tls = TlsConnector::from(config).connect(tls::server_name(), tcp).await;
        let tls =
            tls.map_err(|error| verify::reason(&error).map_or(error.to_string(), ToString::to_string))?;
        let (mut client, connection) = h2::client::handshake(tls).await.map_err(|e| e.to_string())?;
        self.tasks.spawn_until_shutdown("relay-connection", async move {
            // The stream on it ends with it and tells its owner.
            let _ = connection.await;
        });
        let (response, send) = client.send_request(request, false).map_err(|e| e.to_string())?;
        let response = response.await.map_err(|e| e.to_string())?;
        if !response.status().is_success() {
            let why = response.headers().get("proxy-status").and_then(|v| v.to_str().ok());
            return Err(format!("it answered {} {}", response.status(), why.unwrap_or_default()));
        }
        Ok(H2Stream::new(send, response.into_body()))
    }
}

fn connect(authority: &str) -> Result<http::request::Builder, RelayError> {
    let uri: http::Uri = authority.parse().map_err(|_| RelayError::Unreachable("no such name".to_owned()))?;
    Ok(Request::builder().method(Method::CONNECT).uri(uri))
}

impl Relay for Gateways {
    fn peer<'a>(&'a self, peer: &'a ClusterId) -> BoxFuture<'a, Result<Io, RelayError>> {
        Box::pin(async move {
            let request = connect(&format!("controller.{peer}.hansa.internal:443"))?.body(());
            let request = request.map_err(|e| RelayError::Unreachable(e.to_string()))?;
            self.any(self.ways(Some(peer)), request).await
        })
    }

    fn join<'a>(&'a self, address: &'a str, bundle: &'a str) -> BoxFuture<'a, Result<Io, RelayError>> {
        Box::pin(async move {
            let request = connect("join.hansa.internal:443")?
                .header("hansa-join-address", address)
                .header("hansa-join-bundle", URL_SAFE_NO_PAD.encode(bundle))
                .body(());
            let request = request.map_err(|e| RelayError::Unreachable(e.to_string()))?;
            self.any(self.ways(None), request).await
        })
    }
}
