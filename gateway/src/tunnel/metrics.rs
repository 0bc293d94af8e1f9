//! What the tunnels count.
//!
//! Registered once by the gateway; written by the watch over each tunnel and by dialling.

use hansa_core::code::{self, Code};
use hansa_runtime::metrics::Families;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::atomic::AtomicU64;

use super::dial::DialError;
use super::link::{Link, Wire};
use super::offload::Offload;
use super::peer::Lane;
use super::transport::{self, Diallers, Listener};

/// Labels of one tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Tunnel {
    peer: String,
    gateway: String,
    transport: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handshake {
    side: &'static str,
    transport: &'static str,
    result: &'static str,
    /// The message code of a refusal; bounded by the register.
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fallback {
    from: &'static str,
    to: &'static str,
}

/// The families of this module. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    up: Family<Tunnel, Gauge>,
    rtt: Family<Tunnel, Gauge<f64, AtomicU64>>,
    mtu: Family<Tunnel, Gauge>,
    lost: Family<Tunnel, Counter>,
    handshakes: Family<Handshake, Counter>,
    fallbacks: Family<Fallback, Counter>,
    gso_lost: Gauge,
}

impl Metrics {
    /// Registers the families.
    pub fn register(&self, families: &mut Families) {
        families.add("hansa_tunnel_up", "Live tunnels", self.up.clone());
        families.add("hansa_tunnel_rtt_seconds", "Round trip of the tunnel's path", self.rtt.clone());
        families.add("hansa_tunnel_path_mtu_bytes", "Path MTU found, QUIC only", self.mtu.clone());
        let help = "Packets lost on the way, QUIC only";
        families.add("hansa_tunnel_lost_packets_total", help, self.lost.clone());
        let help = "Handshakes by side, result and message code";
        families.add("hansa_tunnel_handshakes_total", help, self.handshakes.clone());
        let help = "Moves of a wanted tunnel from one protocol to the other";
        families.add("hansa_tunnel_fallback_total", help, self.fallbacks.clone());
        let help = "UDP sockets that send without segmentation offload, at more CPU";
        families.add("hansa_tunnel_gso_lost", help, self.gso_lost.clone());
    }

    pub(crate) fn handshake(&self, side: &'static str, lane: Lane, result: &'static str) {
        self.shaken(side, lane, (result, String::new()));
    }

    /// One that we asked for, and why it failed.
    pub(crate) fn dialled(&self, lane: Lane, error: Option<&DialError>) {
        let code = error.map(|error| error.message().to_string());
        self.shaken("client", lane, (error.map_or("ok", DialError::label), code.unwrap_or_default()));
    }

    /// One that was refused; `why` begins with the message code, where there is one.
    pub(crate) fn refused(&self, lane: Lane, why: &str) {
        let known = |code: &Code| why.starts_with(&code.to_string());
        let code = code::all().iter().find(|code| known(code)).map(Code::to_string);
        self.shaken("server", lane, ("refused", code.unwrap_or_default()));
    }

    fn shaken(&self, side: &'static str, lane: Lane, (result, code): (&'static str, String)) {
        let labels = Handshake { side, transport: lane.as_str(), result, code };
        self.handshakes.get_or_create(&labels).inc();
    }

    pub(crate) fn fallback(&self, from: Lane, to: Lane) {
        let labels = Fallback { from: from.as_str(), to: to.as_str() };
        self.fallbacks.get_or_create(&labels).inc();
    }

    pub(crate) fn look_at_offload(&self, listeners: &[Listener], diallers: &Diallers) {
        let sockets = transport::offloads(listeners, diallers);
        self.gso_lost.set(Offload::lost(sockets, self.gso_lost.get()));
    }

    pub(crate) fn born(&self, link: &Link) {
        self.up.get_or_create(&labels(link)).inc();
    }

    /// Takes one tunnel's figures; `lost` is what was counted before and is brought up to date.
    pub(crate) fn sample(&self, link: &Link, lost: &mut u64) {
        let labels = labels(link);
        self.rtt.get_or_create(&labels).set(link.rtt().as_secs_f64());
        if let Wire::H3(connection) = &link.wire {
            let path = connection.quic().stats().path;
            self.mtu.get_or_create(&labels).set(i64::from(path.current_mtu));
            self.lost.get_or_create(&labels).inc_by(path.lost_packets.saturating_sub(*lost));
            *lost = path.lost_packets;
        }
    }

    /// A tunnel ended; `known` says whether the table names its gateway.
    pub(crate) fn gone(&self, link: &Link, known: bool) {
        let labels = labels(link);
        if self.up.get_or_create(&labels).dec() <= 1 {
            self.rtt.remove(&labels);
            self.mtu.remove(&labels);
            if !known {
                // Its id was its own choice: such series must not pile up.
                self.up.remove(&labels);
                self.lost.remove(&labels);
            }
        }
    }
}

fn labels(link: &Link) -> Tunnel {
    Tunnel {
        peer: link.facts.peer.cluster.to_string(),
        gateway: link.facts.peer.gateway.to_string(),
        transport: link.lane().as_str(),
        direction: if link.facts.asks { "out" } else { "in" },
    }
}
