//! What the tunnels can be told: addresses, windows, patience and limits.
//!
//! Filled by the gateway's configuration; the defaults suit gateways over the open internet.

use std::net::SocketAddr;
use std::time::Duration;

use hansa_runtime::shards::Shards;

use super::cid::ServerId;

/// Which congestion controller QUIC tunnels use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Bears random loss: one tunnel carries many flows, and cubic would starve them all together.
    #[default]
    Bbr,
    /// The usual one.
    Cubic,
}

/// Everything about tunnels that an operator may set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where peers reach us, UDP and TCP of the same number. Empty: nobody can dial us.
    pub listen: Vec<SocketAddr>,
    /// Peers cannot dial us, so we also open tunnels on which they make the requests.
    pub dial_only: bool,
    /// Carried in the connection ids of the listening endpoints.
    pub server_id: Option<ServerId>,
    /// Congestion controller of QUIC tunnels.
    pub congestion: Congestion,
    /// Tunnels wanted to each gateway of each peer.
    pub connections_per_gateway: u16,
    /// Flow control window of one stream in bytes.
    pub stream_window: u32,
    /// Flow control window of one tunnel in bytes.
    pub connection_window: u32,
    /// Greatest age of a tunnel before it is replaced by a fresh one.
    pub max_age: Duration,
    /// The threads that tunnels live on.
    pub shards: Shards,
    /// How patient we are.
    pub timing: Timing,
    /// What peers and strangers may use of us.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            dial_only: false,
            server_id: None,
            congestion: Congestion::Bbr,
            connections_per_gateway: 1,
            stream_window: 8 << 20,
            connection_window: 32 << 20,
            max_age: Duration::from_secs(6 * 3600),
            shards: Shards::inline(),
            timing: Timing::default(),
            limits: Limits::default(),
        }
    }
}

/// Deadlines and intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Longest handshake, from the first packet to the peer's settings.
    pub handshake: Duration,
    /// Longest wait of a new request for a place in a tunnel.
    pub open: Duration,
    /// A quiet tunnel is probed this often.
    pub keep_alive: Duration,
    /// QUIC's own limit on silence.
    pub idle: Duration,
    /// Silence after which a tunnel is suspect (three round trips where those are longer).
    pub suspect: Duration,
    /// Further silence after which it is closed.
    pub dead: Duration,
    /// The names of a gateway with a tunnel are looked up again this often.
    pub names: Duration,
    /// How much later than QUIC the HTTP/2 dial begins.
    pub http2_delay: Duration,
    /// On HTTP/2: time between two tries of QUIC.
    pub quic_probe: Duration,
    /// How long QUIC must prove itself before it takes over from HTTP/2.
    pub quic_trial: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            open: Duration::from_secs(1),
            keep_alive: Duration::from_millis(250),
            idle: Duration::from_secs(10),
            suspect: Duration::from_millis(600),
            dead: Duration::from_millis(2_000),
            names: Duration::from_secs(30),
            http2_delay: Duration::from_millis(300),
            quic_probe: Duration::from_secs(8),
            quic_trial: Duration::from_secs(3),
        }
    }
}

/// Upper bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Accepted tunnels per peer.
    pub tunnels_per_peer: usize,
    /// Bytes that one peer may make us hold beyond the least windows of its tunnels.
    pub bytes_per_peer: u64,
    /// Requests of one peer that run at once, over all its tunnels.
    pub streams_per_peer: usize,
    /// Requests that run at once in one tunnel.
    pub streams_per_tunnel: u32,
    /// Handshakes per second from one address, and tunnels per second of one peer.
    pub handshakes_per_second: u32,
    /// Handshakes under way at once, per listener and lane.
    pub handshakes: usize,
    /// Requests that wait to be taken by the gateway.
    pub incoming: usize,
    /// Joining connections that wait to be taken.
    pub joins: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tunnels_per_peer: 64,
            bytes_per_peer: 128 << 20,
            streams_per_peer: 16_384,
            streams_per_tunnel: 10_000,
            handshakes_per_second: 50,
            handshakes: 512,
            incoming: 1_024,
            joins: 16,
        }
    }
}
