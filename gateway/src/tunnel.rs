//! Tunnels between gateways: HTTP/3 over QUIC first, HTTP/2 over TLS where UDP is blocked.
//!
//! [`Tunnels::bind`] opens the sockets; [`Tunnels::run`] keeps warm tunnels to every gateway of every
//! peer in the route table and accepts theirs. The outbound side opens requests with
//! [`Tunnels::open`], the inbound side takes those of peers from [`Incoming`]. Nothing here knows
//! services or policies, and nothing of one request is ever sent twice unless nobody got it.

mod batch;
mod bounded;
mod budget;
mod cid;
mod config;
mod error;
mod metrics;
mod offload;
mod peer;
mod pulse;
mod reach;
mod request;
mod stream;

mod accept;
mod dial;
mod h2link;
mod hub;
mod inuse;
mod link;
mod live;
mod names;
mod registry;
mod slot;
mod steer;
mod tend;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hansa_core::mesh::RouteTable;
use hansa_core::name::{ClusterId, NodeId};
use hansa_identity::tls::Tls;
use hansa_runtime::shards;
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) use hub::SETTLE;
use hub::{Hub, Inputs};
use link::Missed;
use registry::Wish;

pub use cid::ServerId;
pub use config::{Config, Congestion, Limits, Timing};
pub use error::{BindError, Cut, OpenError, StreamError};
pub use hansa_http3::Code;
pub use link::PeerId;
pub use metrics::Metrics;
pub use peer::Lane;
pub use reach::{GatewayReach, PeerReach, ReachView};
pub use request::{CONNECT_UDP, Request, Responder};
pub use stream::{RecvHalf, Response, SendHalf, Stream};

/// For [`crate::fuzzing`].
pub(crate) mod fuzzing {
    use http::Method;

    use super::cid::Generator;

    /// A packet as the steering of datagrams sees it, before anybody is known: any octets name a shard or none.
    pub(crate) fn datagram(data: &[u8]) {
        for server in [None, "a1".parse().ok(), "00112233445566778899aabbccddee".parse().ok()] {
            let shard = Generator { server, shard: 3 }.shard_of(data);
            assert!(shard.is_none_or(|shard| shard <= usize::from(u8::MAX)));
            assert!(shard.is_none() || data[0] & 0x80 == 0, "a long header names no shard");
        }
    }

    /// What a head asks for, if it is taken.
    pub(crate) fn target(
        method: &Method,
        protocol: Option<&str>,
        authority: Option<&str>,
        path: Option<&str>,
    ) -> Option<String> {
        super::request::target(method, protocol, authority, path).ok()
    }
}

/// Requests of peers, in a queue for each shard.
#[derive(Debug)]
pub struct Incoming(Vec<mpsc::Receiver<Request>>);

impl Incoming {
    /// The queue of each shard, by number: to be taken there, where the request's tunnel is.
    pub fn by_shard(self) -> Vec<mpsc::Receiver<Request>> {
        self.0
    }

    /// The next request of any shard; `None` once there will be no more. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Request> {
        std::future::poll_fn(|cx| {
            let mut ended = true;
            for queue in &mut self.0 {
                match queue.poll_recv(cx) {
                    Poll::Ready(Some(request)) => return Poll::Ready(Some(request)),
                    Poll::Ready(None) => {}
                    Poll::Pending => ended = false,
                }
            }
            if ended { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

/// Connections of those who want to join, to be handed to the controller as they are.
pub type JoinStreams = mpsc::Receiver<JoinStream>;

/// A connection with ALPN `hansa-join`: we showed our certificate, they showed none.
#[derive(Debug)]
pub struct JoinStream {
    /// The stream inside TLS.
    pub stream: TlsStream<TcpStream>,
    /// Where it comes from.
    pub from: SocketAddr,
}

/// A request to be opened.
#[derive(Debug, Clone, Default)]
pub struct Open<'a> {
    /// What is asked for: `name.namespace.svc.clusterset.local:port`.
    pub authority: String,
    /// `:protocol` of an extended CONNECT, for instance [`CONNECT_UDP`].
    pub protocol: Option<&'a str>,
    /// The other fields.
    pub headers: HeaderMap,
    /// Only by this gateway of the peer.
    pub via: Option<NodeId>,
    /// The first bytes, which leave together with the head; at most 64 KiB. Without them a silent
    /// tunnel is taken too where there is no other: nothing is lost if it stays silent.
    pub first: Bytes,
}

/// The tunnels of this gateway. Clones share them.
#[derive(Debug, Clone)]
pub struct Tunnels {
    hub: Arc<Hub>,
}

/// Most tunnels tried for one request.
const TRIES: usize = 6;

impl Tunnels {
    /// Opens all sockets. Nothing is accepted or dialled before [`Tunnels::run`].
    pub fn bind(
        config: Config,
        identity: Tls,
        table: watch::Receiver<Arc<RouteTable>>,
        metrics: Metrics,
    ) -> Result<(Self, Incoming, JoinStreams), BindError> {
        let server = transport::quic_server(&config, &identity)?;
        let listeners = config.listen.iter().map(|address| transport::listen(*address, &server, &config));
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        let diallers = transport::Diallers::bind(&config.shards)?;
        let queues = (0..config.shards.count()).map(|_| mpsc::channel(config.limits.incoming.max(1)));
        let (incoming, requests) = queues.unzip();
        let (joins, join_streams) = mpsc::channel(config.limits.joins.max(1));
        let inputs = Inputs { config, identity, table, metrics };
        let hub = Hub::new(inputs, (listeners, diallers), (incoming, joins));
        Ok((Self { hub }, Incoming(requests), join_streams))
    }

    /// The addresses listened on, with their real port numbers.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.hub.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Runs everything until `cancel`, then ends all tunnels at once. [`Tunnels::drain`] comes before
    /// that where running requests matter.
    pub async fn run(&self, cancel: CancellationToken) {
        let (hub, tasks) = (&self.hub, &self.hub.tasks);
        tasks.spawn_until_shutdown("follow the table", hub.clone().follow());
        tasks.spawn_until_shutdown("publish reach", hub.clone().publish());
        for (index, listener) in hub.listeners.iter().enumerate() {
            let gate = accept::Gate::new(hub);
            for (shard, endpoint) in listener.quic().enumerate() {
                let quic = accept::quic(hub.clone(), endpoint.clone(), gate.clone());
                hub.spawn_on(shard, "accept QUIC", quic);
            }
            tasks.spawn_until_shutdown("accept TCP", accept::tcp(hub.clone(), index));
        }
        cancel.cancelled().await;
        hub.draining.cancel();
        for link in hub.registry.all() {
            link.close(Cut::Drain);
        }
        hub.flush().await;
        tasks.shutdown(Duration::from_secs(2)).await;
    }

    /// Opens a request at `peer`. Returns as soon as its head is on its way: the answer is awaited at
    /// [`RecvHalf::response`]. A tunnel that turns out to be gone is passed over for the next.
    pub async fn open(&self, peer: &ClusterId, open: Open<'_>) -> Result<Stream, OpenError> {
        let leaving = self.leaving(peer);
        let head = request::head(open.authority, open.protocol, open.headers);
        let (mut tried, mut rejected) = (Vec::new(), false);
        for _ in 0..TRIES {
            let wish = Wish {
                via: open.via.as_ref(),
                desperate: open.first.is_empty(),
                tried: &tried,
                leaving: &leaving,
                shard: shards::here(),
                draw: rand::random(),
            };
            let Some(link) = self.hub.registry.choose(peer, &wish) else { break };
            match link.open(&head, &open.first, self.hub.config.timing.open).await {
                Ok(stream) => return Ok(stream),
                Err(Missed::Final(error)) => return Err(error),
                Err(Missed::Nothing) => {
                    tried.push(link.id);
                    rejected = true;
                }
            }
        }
        match rejected {
            true => Err(OpenError::Rejected),
            false => Err(OpenError::NotConnected(peer.clone())),
        }
    }

    /// Whether a request to this peer would find a tunnel now.
    pub fn leads_to(&self, peer: &ClusterId) -> bool {
        let wish =
            Wish { via: None, desperate: false, tried: &[], leaving: &[], shard: shards::here(), draw: 0 };
        self.hub.registry.choose(peer, &wish).is_some()
    }

    /// Changes whenever [`Tunnels::leads_to`] may have changed.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.hub.registry.turns()
    }

    /// Gateways of this peer that the table says are going away.
    fn leaving(&self, peer: &ClusterId) -> Vec<NodeId> {
        let table = self.hub.table.borrow();
        let gateways = table.peers.get(peer).into_iter().flat_map(|peer| peer.gateways.values());
        gateways.filter(|gateway| gateway.draining).map(|gateway| gateway.id.clone()).collect()
    }

    /// What is known of every peer: published at once when a tunnel changes, and every 200 ms.
    pub fn reach(&self) -> watch::Receiver<Arc<ReachView>> {
        self.hub.reach.subscribe()
    }

    /// Says GOAWAY on every tunnel that peers ask on, accepts nothing new, waits for what runs on them at least a
    /// second and at most `limit`, and closes them with [`Cut::Drain`]. True if nothing had to be cut. The
    /// tunnels we ask on stay, and are dialled anew where they end.
    pub async fn drain(&self, limit: Duration) -> bool {
        let clean = self.hub.drain(limit).await;
        self.hub.flush().await;
        clean
    }

    /// Cuts all tunnels with this peer at once. Peers that leave the table are cut without it.
    pub fn close_peer(&self, peer: &ClusterId, why: &str) {
        self.hub.close_peer(peer, why);
    }
}
