//! Sockets and QUIC settings of the tunnels.
//!
//! Used once, when the tunnels are bound, and by every TCP dial.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hansa_identity::tls::{ALPN_H2, ALPN_H3, ALPN_JOIN, ALPN_REV_H2, ALPN_REV_H3, Tls};
use hansa_identity::verify::{Admit, Domains, RoleKind};
use hansa_runtime::shards::{self, Shards};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AsyncUdpSocket, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime as _, TokioRuntime};
use quinn::{TransportConfig, VarInt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::batch::Batched;
use super::bounded::Bounded;
use super::budget::{LEAST_RECEIVE, LEAST_SEND, LEAST_STREAMS};
use super::cid::Generator;
use super::config::{Config, Congestion};
use super::error::BindError;
use super::offload::Offload;
use super::steer::{Steered, Strays};

/// Socket buffers: a burst of a whole window must fit between two turns of ours.
const SOCKET_BUFFER: usize = 4 << 20;
/// Datagrams that wait, in bytes; more are dropped, as a busy link does.
const DATAGRAMS: usize = 2 << 20;

/// The settings of HTTP/3 in every tunnel. Heads of requests between gateways are short; this bounds
/// what one tunnel may hold in unfinished ones to a megabyte.
pub(crate) fn http3() -> hansa_http3::Config {
    hansa_http3::Config { max_field_section: 16 << 10, accept_queue: 64, ..hansa_http3::Config::default() }
}

/// The settings of every QUIC tunnel.
pub(crate) fn quic(config: &Config) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let idle = VarInt::from_u64(u64::try_from(config.timing.idle.as_millis()).unwrap_or(10_000));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(LEAST_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(16))
        .stream_receive_window(VarInt::from_u32(config.stream_window))
        // The tunnel is lent more when it is known whose it is.
        .receive_window(VarInt::from_u32(LEAST_RECEIVE))
        .send_window(u64::from(LEAST_SEND))
        .keep_alive_interval(Some(config.timing.keep_alive))
        .max_idle_timeout(idle.ok().map(IdleTimeout::from))
        // The first packets of a handshake with a post-quantum key share must pass everywhere.
        .initial_mtu(1_200)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS)
        .enable_segmentation_offload(true);
    match config.congestion {
        Congestion::Bbr => transport.congestion_controller_factory(Arc::new(Bounded)),
        Congestion::Cubic => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
    };
    Arc::new(transport)
}

fn tls<E: std::fmt::Display>(error: E) -> BindError {
    BindError::Tls(error.to_string())
}

/// Gateways of peers, never our own domain.
pub(crate) fn peers(identity: &Tls) -> Admit {
    let own = identity.keys().id().trust_domain().clone();
    Admit::roles(Domains::AnyBut(own), [RoleKind::Gateway])
}

/// Accepting over QUIC.
pub(crate) fn quic_server(config: &Config, identity: &Tls) -> Result<quinn::ServerConfig, BindError> {
    let server = identity.server(peers(identity), &[ALPN_H3, ALPN_REV_H3]);
    let crypto = QuicServerConfig::try_from(server).map_err(tls)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(quic(config)).max_incoming(config.limits.handshakes);
    Ok(server)
}

/// Dialling over QUIC, towards one gateway.
pub(crate) fn quic_client(
    transport: Arc<TransportConfig>,
    client: rustls::ClientConfig,
) -> Result<quinn::ClientConfig, String> {
    let crypto = QuicClientConfig::try_from(client).map_err(|error| error.to_string())?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport);
    Ok(client)
}

/// Accepting over TCP: for tunnels, and for joining (which needs no certificate of the client).
pub(crate) fn tcp_servers(identity: &Tls) -> (Arc<rustls::ServerConfig>, Arc<rustls::ServerConfig>) {
    let tunnels = identity.server(peers(identity), &[ALPN_H2, ALPN_REV_H2]);
    (Arc::new(tunnels), Arc::new(identity.server_without_client_auth(&[ALPN_JOIN])))
}

fn udp(address: SocketAddr, shared: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The TCP socket of the same number, which is not shared, keeps other processes away.
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The system may grant less; then it is as it was.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// An endpoint and what is known of its socket.
type Bound = (quinn::Endpoint, Offload);

/// An endpoint on the shard that was entered.
fn endpoint(
    config: EndpointConfig,
    server: Option<quinn::ServerConfig>,
    socket: Arc<dyn AsyncUdpSocket>,
) -> io::Result<Bound> {
    let runtime = Arc::new(TokioRuntime);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(config, server, socket.clone(), runtime)?;
    Ok((endpoint, Offload::new(socket)))
}

fn batched(udp: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(Batched::new(TokioRuntime.wrap_udp_socket(udp)?)))
}

fn dialling(address: SocketAddr) -> io::Result<Bound> {
    endpoint(EndpointConfig::default(), None, batched(udp(address, false)?)?)
}

/// An endpoint on each shard, all on one port.
fn listening(address: SocketAddr, server: &quinn::ServerConfig, config: &Config) -> io::Result<Vec<Bound>> {
    let shards = &config.shards;
    let strays: Arc<[Strays]> = (0..shards.count()).map(|_| Strays::default()).collect();
    let mut bound = Vec::new();
    for number in 0..shards.count() {
        let _entered = shards.enter(number);
        let shard = u8::try_from(number).map_err(io::Error::other)?;
        let ids = Generator { server: config.server_id.clone(), shard };
        let mut endpoint_config = EndpointConfig::default();
        let generator = ids.clone();
        endpoint_config.cid_generator(move || Box::new(generator.clone()));
        let mut socket = batched(udp(address, shards.count() > 1)?)?;
        if shards.count() > 1 {
            socket = Arc::new(Steered { inner: socket, ids, strays: strays.clone() });
        }
        bound.push(endpoint(endpoint_config, Some(server.clone()), socket)?);
    }
    Ok(bound)
}

/// One address we listen on, UDP and TCP of the same number.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// One for each shard.
    bound: Vec<Bound>,
    pub(crate) tcp: TcpListener,
}

impl Listener {
    /// The endpoint of each shard, by number.
    pub(crate) fn quic(&self) -> impl Iterator<Item = &quinn::Endpoint> {
        self.bound.iter().map(|(endpoint, _)| endpoint)
    }
}

/// A process that was killed holds its ports until its last thread is gone; a new one waits so long.
const TAKEN_FOR: Duration = Duration::from_secs(1);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(25);

/// Binds both; port 0 takes a free number that is the same for both.
pub(crate) fn listen(
    address: SocketAddr,
    server: &quinn::ServerConfig,
    config: &Config,
) -> Result<Listener, BindError> {
    // A number that is free for TCP may be taken for UDP: then another one is drawn.
    let (tries, pause) = match address.port() {
        0 => (16, Duration::ZERO),
        _ => (TAKEN_FOR.as_millis() / AGAIN.as_millis(), AGAIN),
    };
    let mut bound = bind(address, server, config);
    for _ in 1..tries {
        match &bound {
            Err(BindError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
        // While the process starts: nothing else runs yet.
        std::thread::sleep(pause);
        bound = bind(address, server, config);
    }
    bound
}

fn bind(address: SocketAddr, server: &quinn::ServerConfig, config: &Config) -> Result<Listener, BindError> {
    let failed = |address, lane| move |source| BindError::Listen { address, lane, source };
    let tcp = tcp_listener(address).map_err(failed(address, "tcp"))?;
    let address = tcp.local_addr().map_err(failed(address, "tcp"))?;
    let bound = listening(address, server, config).map_err(failed(address, "udp"))?;
    Ok(Listener { address, bound, tcp })
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    TcpListener::from_std(socket.into())
}

/// The endpoints we dial from: on each shard one per address family.
#[derive(Debug)]
pub(crate) struct Diallers(Vec<(Option<Bound>, Option<Bound>)>);

impl Diallers {
    pub(crate) fn bind(shards: &Shards) -> Result<Self, BindError> {
        let each = (0..shards.count()).map(|number| {
            let _entered = shards.enter(number);
            let v4 = dialling((Ipv4Addr::UNSPECIFIED, 0).into());
            let v6 = dialling((Ipv6Addr::UNSPECIFIED, 0).into());
            match (v4, v6) {
                (Err(error), Err(_)) => Err(BindError::Dial(error)),
                (v4, v6) => Ok((v4.ok(), v6.ok())),
            }
        });
        each.collect::<Result<_, _>>().map(Self)
    }

    /// The endpoint of this shard that reaches `address`.
    pub(crate) fn towards(&self, address: SocketAddr) -> Option<&quinn::Endpoint> {
        let (v4, v6) = self.0.get(shards::here())?;
        let bound = if address.is_ipv4() { v4 } else { v6 };
        bound.as_ref().map(|(endpoint, _)| endpoint)
    }

    fn bound(&self) -> impl Iterator<Item = &Bound> {
        self.0.iter().flat_map(|(v4, v6)| v4.iter().chain(v6))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &quinn::Endpoint> {
        self.bound().map(|(endpoint, _)| endpoint)
    }
}

/// What is known of all our UDP sockets.
pub(crate) fn offloads<'a>(
    listeners: &'a [Listener],
    diallers: &'a Diallers,
) -> impl Iterator<Item = &'a Offload> {
    let listening = listeners.iter().flat_map(|listener| &listener.bound);
    listening.chain(diallers.bound()).map(|(_, offload)| offload)
}

/// Settings of a tunnel's TCP connection.
pub(crate) fn tune(tcp: &TcpStream, config: &Config) {
    let socket = SockRef::from(tcp);
    // Each is an improvement only; where one is refused, the probes above TCP still stand.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(10)));
    let _ = socket.set_tcp_user_timeout(Some(config.timing.suspect + config.timing.dead));
}
